import math

import checks
import numpy as np
import pytest
from golden import check_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import Candidate, Question
from svip_search.strategies.uct import UCT
from svip_search.testing import HashPolicy, HashReward, TableReward, play

QUESTION = Question("Which?", options=["red", "green", "blue"])
CONFIGS = [
    UCT(iterations=8),
    UCT(iterations=12, rollout=False, parallel=4, widening_k=1.5, widening_alpha=0.3, select="max"),
    UCT(iterations=6, parallel=3),
]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=["serial", "parallel", "rollouts"])
quick = settings(max_examples=25, deadline=None)


class Cycling:
    """Gives "0", "1", ... after each prefix, one after another, and begins again after ``branching``."""

    def __init__(self, branching, depth):
        self.branching = branching
        self.depth = depth
        self.given = {}

    def propose(self, requests):
        return [[(self._next(r.prefix),)] for r in requests]

    def _next(self, prefix):
        count = self.given[prefix] = self.given.get(prefix, -1) + 1
        reason = "stop" if len(prefix) + 1 == self.depth else "step"
        return Candidate(str(count % self.branching), finish_reason=reason)


def reference(config, policy, score, depth):
    """The algorithm on a dictionary: path -> [visits, sum of values, candidates tried, children]."""
    nodes = {(): [0, 0.0, 0, []]}

    def child_of(path):
        open_ = [c for c in nodes[path][3] if len(c) < depth]
        t = nodes[path][0] + 1
        return max(
            open_,
            key=lambda c: nodes[c][1] / nodes[c][0] + config.c * math.sqrt(math.log(t) / nodes[c][0]),
            default=None,
        )

    for _ in range(config.iterations):
        path, new = (), None
        while new is None:
            node = nodes[path]
            below = child_of(path)
            if node[2] < config.widening_k * (node[0] + 1) ** config.widening_alpha or below is None:
                node[2] += 1
                drawn = (*path, policy._next(path).text)
                if drawn not in nodes:
                    nodes[drawn] = [0, 0.0, 0, []]
                    node[3].append(drawn)
                    new = drawn
                elif below is None:
                    new = drawn
            path = path if below is None else below
        for length in range(len(new) + 1):
            nodes[new[:length]][0] += 1
            nodes[new[:length]][1] += score(new)
    return {path: node[0] for path, node in nodes.items()}


@quick
@given(st.integers(1, 40), st.floats(0, 3), st.floats(0.3, 3), st.floats(0, 1), st.integers(1, 5), st.integers(1, 4))
def test_is_the_algorithm_of_the_docstring(iterations, c, k, alpha, branching, depth):
    config = UCT(iterations=iterations, c=c, widening_k=k, widening_alpha=alpha, rollout=False)
    search = play(config.start(QUESTION), Cycling(branching, depth), HashReward())
    reward = HashReward()

    def score(path):
        return config.scored_by(None).scoring.score(reward._path(path))

    expected = reference(config, Cycling(branching, depth), score, depth)
    found = {search.tree.texts(n): int(search.tree.arena.visits[n]) for n in range(len(search.tree))}
    if search._completed:  # the steps of the completion are no part of the algorithm
        found = {path: visits for path, visits in found.items() if path in expected}
    if search.result().stopped_by != "stalled":  # 64 repeats in a row end a search
        assert found == expected


@quick
@given(st.integers(1, 40), st.floats(0.2, 3), st.floats(0, 1))
def test_width_follows_the_visits(iterations, k, alpha):
    config = UCT(iterations=iterations, widening_k=k, widening_alpha=alpha, rollout=False)
    search = play(config.start(QUESTION), HashPolicy(10**6, depth=30), HashReward())
    width = 0
    for visit in range(1, iterations + 1):
        width += width < k * visit**alpha
    assert len(search.tree.children(0)) == width


def test_the_ends_of_widening():
    flat = play(UCT(iterations=9, widening_alpha=1).start(QUESTION), HashPolicy(10**6), HashReward())
    assert len(flat.tree.children(0)) == 9
    chain = UCT(iterations=9, widening_alpha=0, rollout=False)
    chain = play(chain.start(QUESTION), HashPolicy(10**6, depth=9), HashReward())
    assert chain.tree.arena.depth.tolist() == list(range(10))


class Steps(TableReward):
    """One step in six is good."""

    def _step(self, prefix):
        branch = int(prefix[-1].split(".")[0].rsplit(" ", 1)[-1])
        return np.full(3, 0.9 if branch % 6 == 1 else 0.2, np.float32)


@pytest.mark.parametrize("rollout", [False, True])
def test_finds_a_planted_path_better_than_a_flat_search(rollout):
    def best(alpha, seed):
        config = UCT(iterations=200, c=0.05, widening_alpha=alpha, rollout=rollout)
        search = play(config.start(QUESTION, seed), HashPolicy(10**6, 10), Steps({}))
        return max(t.score for t in search.result().trajectories)

    deep = [best(0.5, seed) for seed in range(3)]
    flat = [best(1.0, seed) for seed in range(3)]
    assert np.mean(deep) > np.mean(flat) + 0.1


@pytest.mark.parametrize("best", [0, 3])
def test_finds_the_best_arm(best):
    class Reward(TableReward):
        def _step(self, prefix):
            return np.full(3, 0.9 if f"branch {best}" in prefix[0] else 0.3, np.float32)

    config = UCT(iterations=80, c=0.3, widening_k=4, widening_alpha=0.3)
    search = play(config.start(QUESTION), HashPolicy(4, 8), Reward({}))
    children = search.tree.children(0)
    visits = search.tree.arena.visits[children]
    assert f"branch {best}" in search.tree.text[children[visits.argmax()]]
    assert visits.max() > 0.5 * visits.sum()


@quick
@given(st.integers(1, 25), st.integers(1, 6), st.integers(0, 9), st.booleans())
def test_bookkeeping(iterations, parallel, seed, rollout):
    config = UCT(iterations=iterations, parallel=parallel, rollout=rollout)
    search = play(config.start(QUESTION, seed), HashPolicy(10**6), HashReward())
    arena, completed = search.tree.arena, search._completed
    assert not any(search._pending.values())
    assert arena.visits[0] == iterations == search.usage.reward_calls - completed
    assert search.finished >= (iterations if rollout else 1)
    trajectories = search.result().trajectories
    assert all(0 <= t.score <= 1 for t in trajectories)


def test_pending_turns_spread():
    config = UCT(iterations=40, parallel=8, widening_k=2, widening_alpha=0.2, rollout=False, c=0.1)
    search = config.start(QUESTION)
    policy, most = HashPolicy(10**6, depth=30), 0
    while not search.done:
        requests = search.ask(64)
        most = max(most, len({node for r in requests for node in r.nodes}))
        for request in requests:
            search.tell(request.id, checks.answer_request(search, request, policy, HashReward()))
    assert most > 3


def test_a_policy_that_repeats_itself_does_not_hold_the_search_up():
    search = play(UCT(iterations=200).start(QUESTION), HashPolicy(branching=1, depth=5), HashReward())
    assert len(search.tree) == 6
    assert search.usage.policy_calls < 2000


def test_a_saved_tree_is_searched_further():
    first = play(UCT(iterations=20).start(QUESTION), HashPolicy(10**6, depth=2), HashReward())
    again = UCT(iterations=5).start(QUESTION, seed=1, tree=first.tree)
    assert not first._tried - again._tried
    assert (again._tried - first._tried).total() == 1  # its first request
    play(again, HashPolicy(10**6, depth=2), HashReward())
    assert again.tree.arena.visits[0] == 25


@every_config
def test_protocol(config):
    checks.check_protocol(config)


@pytest.mark.parametrize("rollout", [False, True])
def test_tree_is_the_golden_one(rollout):
    config = UCT(iterations=10, rollout=rollout, parallel=1 if rollout else 3)
    check_golden("uct_rollout" if rollout else "uct", config)


def test_bad_settings():
    settings = {"c": -1, "widening_k": 0, "widening_alpha": 1.5, "select": "last", "parallel": 0, "iterations": 0}
    for name, value in settings.items():
        with pytest.raises(ValueError, match=f"`{name}`"):
            UCT(**{name: value})
    with pytest.raises(TypeError, match="`rollout`"):
        UCT(rollout=1)

import checks
import pytest
from golden import check_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import Beam, Candidate, Evaluate, Question, Scoring
from svip_search.strategies.dvts import DVTS
from svip_search.testing import HashPolicy, HashReward, TableReward, answer_request, play

QUESTION = Question("Which?", options=["red", "green", "blue"])
CONFIGS = [DVTS(trees=3, expand=2), DVTS(trees=2, expand=3, select="weighted"), DVTS(trees=1, expand=1)]
quick = settings(max_examples=20, deadline=None)
every_config = pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))


def step(depth, branch):
    return f"step {depth}, branch {branch}"


class Scripted:
    """Returns these texts for the root, one list a draw, and an answer after every step."""

    def __init__(self, *draws):
        self.draws = list(draws)

    def propose(self, requests):
        return [self._one(r) for r in requests]

    def _one(self, request):
        if request.prefix:
            return [(Candidate("Answer: red", finish_reason="stop"),)] * request.n
        return [(Candidate(text),) for text in self.draws.pop(0)[: request.n]]


def test_every_sub_beam_follows_its_own_best_child():
    table = {(step(1, 0), step(2, 2)): 0.9, (step(1, 1), step(2, 1)): 0.1}
    search = play(DVTS(trees=2, expand=3).start(QUESTION), HashPolicy(3, 3, distinct=True), TableReward(table))
    paths = {search.tree.texts(n)[:2] for n in range(len(search.tree)) if search.tree.arena.depth[n] == 3}
    assert paths == set(table)
    assert len(search.tree) == 1 + 2 + 2 * 3 + 2 * 3


def test_finds_what_a_greedy_beam_misses_behind_a_weak_first_step():
    weak = (step(1, 1), step(2, 0), f"{step(3, 0)}. Answer: ")
    policy = HashPolicy(2, 4, distinct=True)
    table = {(step(1, 0),): 0.9, weak[:1]: 0.3, weak[:2]: 1.0, (*weak[:2], step(3, 0)): 1.0}
    found = [
        play(config.start(QUESTION), policy, TableReward(table)).result().trajectory.steps[0].text
        for config in (Beam(width=1, expand=2), DVTS(trees=2, expand=2))
    ]
    assert found == [step(1, 0), step(1, 1)]


@quick
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 30))
def test_a_sub_beam_does_not_depend_on_the_others(trees, expand, seed):
    policy = HashPolicy(6, 4, distinct=True)

    def paths(trees):
        search = play(DVTS(trees=trees, expand=expand).start(QUESTION, seed), policy, HashReward(seed))
        return {search.tree.texts(n) for n in range(len(search.tree))}

    assert paths(trees) < paths(trees + 1)


@quick
@given(st.integers(0, 30))
def test_one_tree_of_one_candidate_is_the_narrowest_beam(seed):
    trees = [
        play(config.start(QUESTION, seed), HashPolicy(), HashReward()).tree.to_json()
        for config in (DVTS(trees=1, expand=1), Beam(width=1, expand=1))
    ]
    assert trees[0] == trees[1]


@pytest.mark.parametrize(
    ("draws", "first_steps", "calls"),
    [((["a", "b", "c"],), 3, 1), ((["a", "a", "b"], ["c"]), 3, 2), ((["a"] * 3, ["b", "a"], ["b"]), 2, 3)],
)
def test_first_steps_that_are_alike_are_drawn_again_until_nothing_new_comes(draws, first_steps, calls):
    policy = Scripted(*draws)
    search = play(DVTS(trees=3, expand=1).start(QUESTION), policy, HashReward())
    assert len(search.tree.children(0)) == first_steps == search.finished
    assert search.usage.policy_calls == calls + first_steps
    assert not policy.draws


class LookFirst:
    """Always begins with one and the same step."""

    def propose(self, requests):
        return [[(c,) for c in self._steps(r)] for r in requests]

    def _steps(self, request):
        if not request.prefix:
            return [Candidate("look")] * request.n
        if len(request.prefix) == 1:
            return [Candidate(f"way {i}") for i in range(request.n)]
        return [Candidate("Answer: red", finish_reason="stop")] * request.n


def test_sub_beams_part_at_the_first_step_that_differs():
    """Chains that state what a picture shows before they move would leave one sub-beam of all."""
    search = play(DVTS(trees=3, expand=1).start(QUESTION), LookFirst(), HashReward())
    (look,) = search.tree.children(0)
    assert len(search.tree.children(look)) == 3 == search.finished
    assert search.usage.policy_calls == 2 + 1 + 3  # the first step is drawn again once


def test_steps_that_never_differ_end():
    search = play(DVTS(trees=3, expand=2).start(QUESTION), HashPolicy(depth=4, branching=1), HashReward())
    assert search.finished == 1


def test_sub_beams_do_not_wait_for_each_other():
    policy = HashPolicy(4, 4, distinct=True)
    search = DVTS(trees=4, expand=2).start(QUESTION)
    for _ in range(2):  # the root's expansion and the evaluation of the first steps
        (request,) = search.ask()
        search.tell(request.id, answer_request(search, request, policy, HashReward()))
    first, *others = search.ask()
    assert len(others) == 3
    search.tell(first.id, answer_request(search, first, policy, HashReward()))
    (request,) = search.ask()
    assert isinstance(request, Evaluate)


def test_scoring_decides_within_a_sub_beam():
    table = {(step(1, 0), step(2, 0)): [1.0, 0.0, 0.0], (step(1, 0), step(2, 1)): [0.0, 0.5, 0.0]}
    config = DVTS(trees=1, expand=2, scoring=Scoring(weights=(0, 1, 0)))
    search = play(config.start(QUESTION), HashPolicy(2, 3, distinct=True), TableReward(table))
    assert search.tree.texts(len(search.tree) - 1)[1] == step(2, 1)


@every_config
def test_cost_is_bounded(config):
    search = play(config.start(QUESTION), HashPolicy(depth=5), HashReward())
    assert search.usage.policy_calls <= config.trees * (1 + 4)
    assert search.usage.reward_calls <= config.trees * (1 + 4 * config.expand)


@every_config
@pytest.mark.parametrize("check", [getattr(checks, c) for c in dir(checks) if c.startswith("check_")])
def test_protocol(check, config):
    check(config)


def test_golden_tree():
    check_golden("dvts", DVTS(trees=3, expand=3))


def test_bad_settings():
    for setting in ({"trees": 0}, {"expand": 0}, {"select": "last"}):
        with pytest.raises(ValueError, match=f"`{next(iter(setting))}`"):
            DVTS(**setting)

import checks
import numpy as np
import pytest
from golden import check_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import Beam, Evaluate, Question, Status
from svip_search.strategies.lookahead import Lookahead
from svip_search.testing import HashPolicy, HashReward, TableReward, answer_request, hash_int, play

QUESTION = Question("Which?", options=["red", "green", "blue"])
CONFIGS = [
    Lookahead(width=2, expand=2),
    Lookahead(width=2, expand=3, steps=2, select="weighted"),
    Lookahead(width=1, expand=2, steps=9),
    Lookahead(width=2, expand=2, steps=0),
]
quick = settings(max_examples=20, deadline=None)
every_config = pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))


def step(depth, branch):
    return f"step {depth}, branch {branch}"


class Uneven(HashPolicy):
    """Trajectories end at different depths."""

    def _step(self, request, prefix, i):
        depth, self.depth = self.depth, 2 + hash_int(prefix) % 3
        try:
            return super()._step(request, prefix, i)
        finally:
            self.depth = depth


def test_a_child_is_scored_by_where_it_leads():
    # The first step that looks worse is followed by the better one.
    table = {(step(1, 0),): 0.6, (step(1, 1),): 0.5, (step(1, 1), step(2, 0)): 1.0}
    policy = HashPolicy(2, 4, distinct=True)
    found = {}
    for steps in (0, 1, 2):
        search = play(Lookahead(width=1, expand=2, steps=steps).start(QUESTION), policy, TableReward(table))
        found[steps] = search.tree.texts(len(search.tree) - 1)[0]
        expected = {0: [0.6, 0.5], 1: [0.6 / 2, 1.5 / 2], 2: [0.6 / 3, 1.5 / 3]}[steps]
        assert search.scores_of([1, 2]).tolist() == pytest.approx(expected)
        assert search.tree.arena.reward[[1, 2], 0].tolist() == pytest.approx([0.6, 0.5])  # their own
    assert found == {0: step(1, 0), 1: step(1, 1), 2: step(1, 1)}


def test_finds_the_best_path_where_a_beam_of_the_same_width_does_not():
    best = (step(1, 2), step(2, 0), step(3, 0))
    table = {(step(1, 0),): 0.5, (step(1, 1),): 0.4, **{best[: d + 1]: d / 2 for d in range(3)}}
    policy = HashPolicy(3, 4, distinct=True)
    beam, ahead = (
        play(config.start(QUESTION), policy, TableReward(table)).result().trajectory
        for config in (Beam(width=1, expand=3), Lookahead(width=1, expand=3, steps=2))
    )
    assert tuple(s.text for s in ahead.steps[:3]) == best
    assert ahead.score > beam.score


@quick
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 50))
def test_no_steps_ahead_is_a_beam_search(width, expand, seed):
    trees = []
    for config in (Beam(width=width, expand=expand), Lookahead(width=width, expand=expand, steps=0)):
        search = play(config.start(QUESTION, seed), Uneven(), HashReward(seed))
        trees.append((search.tree.to_json(), search.result().votes, search.usage))
    assert trees[0] == trees[1]


def test_no_steps_ahead_asks_for_no_tails():
    search = Lookahead(steps=0).start(QUESTION)
    (request,) = search.ask()
    search.tell(request.id, answer_request(search, request, HashPolicy(), None))
    assert search.ask()[0].tails == ()


def test_steps_ahead_are_greedy_and_chained_behind_each_other():
    search = Lookahead(width=1, expand=2, steps=2).start(QUESTION)
    policy = HashPolicy(3, 5, distinct=True)
    asked = []
    while not isinstance(request := search.ask()[0], Evaluate):
        asked.append(search.requests_for(request))
        search.tell(request.id, answer_request(search, request, policy, None))
    temperatures = [[r.temperature for r in requests] for requests in asked]
    assert temperatures == [[1.0], [0.0, 0.0], [0.0, 0.0]]
    assert [r.n for r in asked[1] + asked[2]] == [1] * 4
    assert [r.prefix for r in asked[2]] == [(step(1, 0), step(2, 0)), (step(1, 1), step(2, 0))]
    assert len(search.tree) == 3
    assert search.paths(request) == [(step(1, b), step(2, 0), step(3, 0)) for b in (0, 1)]


def test_a_lookahead_that_ends_stops_there_and_counts_for_the_answer():
    search = play(Lookahead(width=1, expand=2, steps=9).start(QUESTION), HashPolicy(2, 3, distinct=True), HashReward())
    # Depths 1 and 2 look ahead with two children each, to depth 3; depth 3 ends by itself.
    assert search.finished == 2 + 2 + 2
    assert search.usage.policy_calls == 3 + 2 * 2 + 2 * 1
    for t in search.result().trajectories:
        assert t.score == pytest.approx(np.mean([s.reward for s in t.steps]), rel=1e-5)
        assert len(t.steps) == 3


def test_a_child_from_which_the_policy_cannot_go_on_is_dropped():
    class Stuck(HashPolicy):
        def _one(self, request):
            return [] if request.prefix[:1] == (step(1, 0),) else super()._one(request)

    search = play(Lookahead(width=2, expand=2).start(QUESTION), Stuck(2, 3, distinct=True), HashReward())
    assert search.tree.arena.status[1] == Status.FAILED
    assert np.isnan(search.scores_of([1])).all()
    assert all(t.steps[0].text == step(1, 1) for t in search.result().trajectories)


def test_goes_on_from_a_tree():
    first = play(Beam(width=1, expand=3).start(QUESTION), HashPolicy(depth=6), HashReward())
    search = play(Lookahead(width=2, expand=2).start(QUESTION, 1, tree=first.tree), HashPolicy(depth=6), HashReward())
    assert len(search.tree) > len(first.tree)
    assert search.finished > first.finished


@every_config
@pytest.mark.parametrize("check", [getattr(checks, c) for c in dir(checks) if c.startswith("check_")])
def test_protocol(check, config):
    check(config)


def test_golden_tree():
    check_golden("lookahead", Lookahead(width=2, expand=3, steps=2))


@pytest.mark.parametrize("steps", [-1, 1.0, True, "1"])
def test_bad_steps(steps):
    with pytest.raises((TypeError, ValueError), match="`steps`"):
        Lookahead(steps=steps)


def test_bad_settings():
    for setting in ({"width": 0}, {"expand": 0}, {"select": "last"}):
        with pytest.raises(ValueError, match=f"`{next(iter(setting))}`"):
            Lookahead(**setting)

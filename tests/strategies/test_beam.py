import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import Beam, Question, make, solve
from svip_search.testing import HashPolicy, HashReward, TableReward, play

QUESTION = Question("Which?", options=["red", "green", "blue"])
quick = settings(max_examples=25, deadline=None)


@quick
@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 50))
def test_a_wide_beam_is_exhaustive(branching, depth, seed):
    policy = HashPolicy(branching, depth, distinct=True, seed=seed)
    paths = branching**depth
    result = solve(QUESTION, policy, HashReward(seed), Beam(width=paths, expand=branching), seed=seed)
    assert len(result.trajectories) == paths
    every = [tuple(s.text for s in t.steps) for t in result.trajectories]
    scores = [float(r.mean()) for r in HashReward(seed).evaluate(QUESTION, every)]
    assert result.trajectory.score == pytest.approx(max(scores), rel=1e-6)


def test_narrow_beam_follows_the_best_child():
    texts = [[f"step {d}, branch {b}" for b in range(3)] for d in (1, 2)]
    table = {(texts[0][1],): 1.0, (texts[0][1], texts[1][2]): 1.0}
    policy = HashPolicy(3, 3, distinct=True)
    search = play(Beam(width=1, expand=3).start(QUESTION), policy, TableReward(table))
    steps = search.result().trajectory.steps
    assert [s.text for s in steps[:2]] == [texts[0][1], texts[1][2]]
    assert len(search.tree) == 1 + 3 * 3


@quick
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 20))
def test_cost_is_bounded_by_width_and_expand(width, expand, seed):
    result = solve(QUESTION, HashPolicy(depth=4), HashReward(), Beam(width=width, expand=expand), seed=seed)
    assert result.usage.policy_calls <= 1 + 3 * width
    assert result.usage.reward_calls <= expand * result.usage.policy_calls


def test_the_beam_narrows_as_trajectories_finish():
    class Uneven(HashPolicy):
        def _one(self, request):
            self.depth = 1 if not request.prefix and request.temperature else 3
            first = [self._continuation(request, 0)]
            self.depth = 3
            return first + [self._continuation(request, i) for i in range(1, request.n)]

    uneven = Uneven(branching=4, distinct=True)
    search = play(Beam(width=2, expand=2).start(QUESTION), uneven, TableReward({}, default=0.5))
    by_depth = list(itertools.accumulate(search.tree.arena.depth == d for d in range(4)))
    assert len(by_depth) == 4
    assert int((search.tree.arena.depth == 2).sum()) == 2  # one of the two kept has finished


def test_select_weighted_lets_all_finished_trajectories_vote():
    result = solve(QUESTION, HashPolicy(), HashReward(), Beam(select="weighted"))
    sums = {}
    for t in result.trajectories:
        sums[t.answer] = sums.get(t.answer, 0) + t.score
    assert result.answer == max(sums, key=sums.get)


def test_bad_settings():
    with pytest.raises(ValueError, match="`width`"):
        Beam(width=0)
    with pytest.raises(ValueError, match="`select`"):
        Beam(select="majority")
    assert make("beam", n=16) == Beam(width=4, expand=4)

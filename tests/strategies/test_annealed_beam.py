import checks
import pytest
from golden import check_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import Beam, Question
from svip_search.strategies.annealed_beam import AnnealedBeam
from svip_search.testing import HashPolicy, HashReward, TableReward, hash_int, play

QUESTION = Question("Which?", options=["red", "green", "blue"])
CONFIGS = [
    AnnealedBeam(width=4, expand=3),
    AnnealedBeam(width=4, expand=2, decay=0.8, least=2, select="weighted"),
    AnnealedBeam(width=2, expand=2, decay=1),
]
quick = settings(max_examples=25, deadline=None)
every_config = pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))


class Uneven(HashPolicy):
    """Trajectories end at different depths."""

    def _step(self, request, prefix, i):
        depth, self.depth = self.depth, 2 + hash_int(prefix) % 4
        try:
            return super()._step(request, prefix, i)
        finally:
            self.depth = depth


def grown(config, policy, reward, seed=0):
    return play(config.start(QUESTION, seed), policy, reward)


def expanded_by_depth(search):
    """How many nodes of each depth have children."""
    arena = search.tree.arena
    parents = {int(p) for p in arena.parent[1:]}
    return [sum(arena.depth[p] == d for p in parents) for d in range(int(arena.depth.max()))]


@pytest.mark.parametrize(
    ("settings", "widths"),
    [
        ({}, [1, 8, 4, 2, 1, 1]),
        ({"decay": 0.75}, [1, 8, 6, 4, 3, 3]),  # 4.5 to the even 4, 3.375, 2.53
        ({"decay": 0.5, "least": 3}, [1, 8, 4, 3, 3, 3]),
        ({"decay": 0.01}, [1, 8, 1, 1, 1, 1]),
    ],
)
def test_width_follows_the_schedule(settings, widths):
    config = AnnealedBeam(width=8, expand=8, **settings)
    search = grown(config, HashPolicy(8, 6, distinct=True), HashReward())
    assert expanded_by_depth(search) == widths


def test_keeps_the_best():
    texts = [[f"step {d}, branch {b}" for b in range(3)] for d in (1, 2)]
    table = {(texts[0][1],): 0.5, (texts[0][2],): 0.6, (texts[0][1], texts[1][2]): 1.0}
    search = grown(AnnealedBeam(width=2, expand=3), HashPolicy(3, 3, distinct=True), TableReward(table))
    parents = {search.tree.texts(int(p)) for p in search.tree.arena.parent[1:]}
    assert parents == {(), (texts[0][2],), (texts[0][1],), (texts[0][1], texts[1][2])}


def test_finished_trajectories_take_their_share_of_the_width_with_them():
    class Early(HashPolicy):
        """The first four of eight first steps are answers."""

        def _step(self, request, prefix, i):
            self.depth = 1 if not prefix and i < 4 else 4
            return super()._step(request, prefix, i)

    search = grown(AnnealedBeam(width=8, expand=8), Early(8, distinct=True), TableReward({}, 0.5))
    assert expanded_by_depth(search) == [1, 4, 2, 1]


@quick
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 100), st.data())
def test_a_beam_that_does_not_narrow_is_a_beam(width, expand, seed, data):
    least = data.draw(st.integers(1, width))
    beam = grown(Beam(width=width, expand=expand), Uneven(4), HashReward(seed), seed)
    for constant in ({"decay": 1, "least": least}, {"decay": 0.3, "least": width}):
        annealed = grown(AnnealedBeam(width=width, expand=expand, **constant), Uneven(4), HashReward(seed), seed)
        assert annealed.tree.to_json() == beam.tree.to_json()
        assert annealed.result().votes == beam.result().votes


def test_finds_behind_a_weak_beginning_what_its_final_width_misses_and_costs_less_than_its_first():
    best = ("step 1, branch 5", "step 2, branch 0", "step 3, branch 0")
    table = {(f"step 1, branch {b}",): 0.5 for b in range(5)} | {best[:1]: 0.1, best[:2]: 1.0, best: 1.0}
    policy = HashPolicy(6, 4, distinct=True)
    narrow, annealed, wide = (
        grown(config, policy, TableReward(table))
        for config in (Beam(width=1, expand=6), AnnealedBeam(width=6, expand=6, decay=0.2), Beam(width=6, expand=6))
    )
    scores = [search.result().trajectory.score for search in (narrow, annealed, wide)]
    assert scores[0] < scores[1] == scores[2]
    assert annealed.usage.reward_calls < wide.usage.reward_calls


def test_goes_on_from_a_tree():
    first = play(Beam(width=1, expand=3).start(QUESTION), HashPolicy(depth=6), HashReward())
    search = AnnealedBeam(width=2, expand=2).start(QUESTION, 1, tree=first.tree)
    assert play(search, HashPolicy(depth=6), HashReward()).finished > first.finished


@every_config
@pytest.mark.parametrize("check", [getattr(checks, c) for c in dir(checks) if c.startswith("check_")])
def test_protocol(check, config):
    check(config)


def test_golden_tree():
    check_golden("annealed_beam", AnnealedBeam(width=4, expand=3))


def test_bad_settings():
    for setting in ({"width": 0}, {"decay": 0}, {"decay": 1.5}, {"least": 0}, {"least": 9}, {"select": "last"}):
        with pytest.raises(ValueError, match=f"`{next(iter(setting))}`"):
            AnnealedBeam(**setting)

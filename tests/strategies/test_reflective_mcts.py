import dataclasses

import checks
import numpy as np
import pytest
from golden import check_golden

from svip_search import MCTS, Budget, Candidate, Question, Tree, solve
from svip_search.strategies.reflective_mcts import ACTIONS, Action, ReflectiveMCTS
from svip_search.testing import HashPolicy, HashReward, TableReward, play

QUESTION = Question("Which?", options=["red", "green", "blue"])
CUE = "Wait."
TWO = (Action("continue", ""), Action("reflect", CUE))
CONFIGS = [
    ReflectiveMCTS(iterations=8, expand=2, reflect_below=0.6),
    ReflectiveMCTS(iterations=8, expand=2, reflect_below=1.0, reflect=2, parallel=4, wave=2, prior="policy"),
    ReflectiveMCTS(iterations=5, expand=2, actions=TWO, reflect_below=1.0, rollout=True, parallel=2),
]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=["serial", "parallel", "rollouts"])


def test_a_leaf_of_low_value_gets_a_node_for_each_cue():
    low, high = ("step 1, branch 0",), ("step 1, branch 1",)
    table = {low: 0.4, high: 0.9, (*high, CUE): 0.3}
    config = ReflectiveMCTS(iterations=2, expand=2, c=0.0, actions=TWO)
    policy = HashPolicy(2, 9, distinct=True)
    plain = play(config.start(QUESTION), policy, TableReward(table))
    assert plain.tree.arena.parent[1:5].tolist() == [0, 0, 2, 2]  # the root has no value, branch 1 has .9
    assert CUE not in plain.tree.text
    config = dataclasses.replace(config, reflect_below=0.95)
    search = play(config.start(QUESTION), policy, TableReward(table))
    tree, arena = search.tree, search.tree.arena
    cue, *others = tree.children(2)
    assert [tree.text[n] for n in (cue, *others)] == [CUE, "step 2, branch 0", "step 2, branch 1"]
    assert [tree.text[n] for n in tree.children(cue)] == ["step 3, branch 0"]
    assert arena.prior[[cue, *others]].tolist() == [0.5, 0.5, 0.5]
    assert arena.reward[cue].tolist() == pytest.approx([0.3] * 3)
    assert arena.visits[[2, cue]].tolist() == [4, 1]
    assert tree.value(cue) == pytest.approx((0.9 + 0.3 + 0) / 3)
    assert search.usage.policy_calls == plain.usage.policy_calls + 1


@pytest.mark.parametrize("rollout", [False, True])
@pytest.mark.parametrize("without", [{"reflect_below": 0.0}, {"actions": ACTIONS[:1]}])
def test_without_reflection_it_is_mcts(rollout, without):
    shared = {"iterations": 10, "expand": 3, "parallel": 3, "rollout": rollout}
    plain = play(MCTS(**shared).start(QUESTION, 2), HashPolicy(), HashReward())
    same = play(ReflectiveMCTS(**shared, **without).start(QUESTION, 2), HashPolicy(), HashReward())
    assert same.tree.to_json() == plain.tree.to_json()
    assert same.usage == plain.usage


def test_good_prefixes_cost_nothing_extra():
    good = TableReward({}, default=0.5)
    plain = play(MCTS(iterations=10).start(QUESTION), HashPolicy(), good)
    same = play(ReflectiveMCTS(iterations=10, reflect_below=0.5).start(QUESTION), HashPolicy(), good)
    assert same.tree.to_json() == plain.tree.to_json()


class Careless:
    """Is wrong unless it has been told to wait."""

    def propose(self, requests):
        return [[(self._step(r.prefix, i),) for i in range(r.n)] for r in requests]

    def _step(self, prefix, i):
        if len(prefix) < 3:
            return Candidate(f"step {len(prefix)}, {i}")
        return Candidate(f"Answer: {'blue' if CUE in prefix else 'red'}", finish_reason="stop")


class Knows(TableReward):
    def _step(self, prefix):
        return np.full(3, 0.9 if CUE in prefix else 0.3, np.float32)


def test_finds_what_only_reflection_leads_to():
    config = ReflectiveMCTS(iterations=20, expand=2, actions=TWO)
    assert play(config.start(QUESTION), Careless(), Knows({})).result().answer == "blue"
    assert play(MCTS(iterations=20, expand=2).start(QUESTION), Careless(), Knows({})).result().answer == "red"


def test_a_cue_is_put_only_where_a_step_has_room_after_it():
    config = ReflectiveMCTS(iterations=30, reflect_below=1.0, actions=TWO, max_depth=3)
    search = play(config.start(QUESTION), HashPolicy(depth=9), HashReward())
    depths = search.tree.arena.depth[[n for n, text in enumerate(search.tree.text) if text == CUE]]
    assert set(depths.tolist()) == {2}
    assert search.tree.arena.depth.max() == 3


@pytest.mark.parametrize("rollout", [False, True])
def test_cues_have_rewards_and_a_saved_tree_has_the_same_scores(rollout):
    config = ReflectiveMCTS(iterations=12, expand=2, reflect_below=1.0, rollout=rollout)
    search = play(config.start(QUESTION), HashPolicy(), HashReward())
    cues = [n for n, text in enumerate(search.tree.text) if text in {a.cue for a in ACTIONS if a.cue}]
    assert cues
    reward = HashReward()
    for cue in cues:
        found = search.tree.arena.reward[cue]
        assert np.isnan(found).all() or found == pytest.approx(reward._path(search.tree.texts(cue))[-1])
    again = config.start(QUESTION, tree=Tree.from_json(search.tree.to_json()))
    if not rollout:
        scored = [n for n in range(1, len(search.tree)) if n not in cues]
        assert again.scores_of(scored) == pytest.approx(search.scores_of(scored), nan_ok=True)


def test_outcome_models_are_taken_as_well():
    search = play(CONFIGS[0].start(QUESTION), HashPolicy(), HashReward(kind="orm"))
    assert not search.degraded
    assert search.result().answer in QUESTION.options


@pytest.mark.parametrize("calls", [1, 2, 3, 5, 9])
def test_a_budget_of_calls_holds(calls):
    config = ReflectiveMCTS(iterations=20, expand=2, reflect_below=1.0)
    result = solve(QUESTION, HashPolicy(), HashReward(), config, Budget(policy_calls=calls))
    assert result.usage.policy_calls <= calls
    assert (result.tree.arena.virtual_visits == 0).all()


@every_config
def test_protocol(config):
    checks.check_protocol(config)


def test_tree_is_the_golden_one():
    check_golden("reflective_mcts", ReflectiveMCTS(iterations=8, expand=2))


@pytest.mark.parametrize(
    "actions",
    [(), (Action("reflect", CUE),), (*TWO, Action("again", CUE)), (Action("continue", ""), Action("blank", " "))],
)
def test_bad_actions(actions):
    with pytest.raises(ValueError, match="`actions` must"):
        ReflectiveMCTS(actions=actions)


def test_bad_settings():
    for name, value in {"reflect_below": 1.5, "reflect": 0, "rule": "ucb"}.items():
        with pytest.raises(ValueError, match=f"`{name}`"):
            ReflectiveMCTS(**{name: value})
    with pytest.raises(TypeError, match="`actions`"):
        ReflectiveMCTS(actions=("", "Wait."))

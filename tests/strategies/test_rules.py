"""Rules for plans: what is merged, what is closed, what is said of it, and that nothing changes without them."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from checks import check_order_independence
from golden import record
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_walker import puzzles, walker

from svip_search import (
    ABMCTS,
    DVTS,
    MCTS,
    UCT,
    Beam,
    BestOfN,
    Budget,
    CallablePolicy,
    CallableReward,
    Candidate,
    GuidedGreedy,
    Lookahead,
    ParticleFiltering,
    PlanRules,
    Question,
    Rebase,
    Scoring,
    SelfConsistency,
    Standing,
    Status,
    solve,
)
from svip_search.datasets.planning import PlanOracle, state_of
from svip_search.testing import FaultyPolicy, HashPolicy, HashReward, answer_request, play

PLANS = puzzles()
ORACLE = PlanOracle({p.question.id: p for p in PLANS})
LOGIC = Scoring(aggregate="last", weights=(0, 1, 0))
RULES = PlanRules(state_of=state_of)
STEPWISE = {
    "beam": Beam(width=4, expand=4),
    "dvts": DVTS(trees=3, expand=3),
    "guided": GuidedGreedy(expand=3),
    "lookahead": Lookahead(width=2, expand=3),
    "rebase": Rebase(n=8),
    "particles": ParticleFiltering(particles=6),
    "mcts": MCTS(iterations=24, expand=3),
    "mcts rollout": MCTS(iterations=8, expand=3, rollout=True, parallel=4),
    "uct": UCT(iterations=20),
    "ab-mcts": ABMCTS(iterations=60),
}


def last_word(question, steps):
    return steps[-1] if steps else None


def nothing(question, steps):
    return None


def raising(question, steps):
    raise ZeroDivisionError("no")


def unhashable(question, steps):
    return [steps]


def looping(question, steps):
    return Standing(loop=True)


def run(config, plan, policy=None, reward=ORACLE, **settings):
    policy = policy or walker(PLANS, back=0.15)
    return solve(plan.question, policy, reward, replace(config, scoring=LOGIC), **settings)


def alive(tree):
    return [n for n in range(1, len(tree)) if tree.arena.status[n] != Status.FAILED]


@pytest.mark.parametrize("name", STEPWISE)
@pytest.mark.parametrize("back", ["keep", "drop"])
def test_what_the_rules_close_is_closed(name, back):
    config = replace(STEPWISE[name], rules=replace(RULES, backtracking=back), max_depth=16, scoring=LOGIC)
    checked = 0
    for seed in range(5):
        plan = PLANS[seed % 3]
        budget = Budget(policy_calls=50, completion=False)
        search = play(config.start(plan.question, seed, budget=budget), walker(PLANS, 0.7, 0.1), ORACLE)
        if search._completed:
            continue  # a path that was written as a whole is judged by where it ends
        checked += 1
        expanded = {}
        for node in alive(search.tree):
            standing = state_of(plan.question, search.tree.texts(node))
            assert not standing.loop
            assert not standing.fault
            assert not (standing.back and back == "drop")
            if search.tree.arena.first_child[node] >= 0 and standing.key is not None:
                assert expanded.setdefault(standing.key, node) == node
    assert checked


@pytest.mark.parametrize("seed", range(3))
def test_a_beam_never_holds_two_nodes_of_one_state(seed):
    for plan in PLANS:
        search = Beam(width=4, expand=4, rules=RULES, scoring=LOGIC).start(plan.question, seed)
        policy = walker(PLANS, skill=0.1, back=0.2)
        while not search.done:
            play_one(search, policy)
            held = [state_of(plan.question, search.tree.texts(n)).key for n in frontier(search)]
            assert len(set(held)) == len(held)


def play_one(search, policy):
    for request in search.ask(64):
        search.tell(request.id, answer_request(search, request, policy, ORACLE))


def frontier(search):
    return [n for r in search._rounds if r.kind.__name__ == "Expand" for n in r.nodes if n]


def test_the_best_of_those_that_arrive_together_is_kept():
    def both(question, prefix, n, seed):
        return ["a", "b"] if not prefix else [Candidate("Answer: 1", finish_reason="stop")]

    def score(question, path):
        return {"a": 0.2, "b": 0.8}.get(path[-1], 0.5)

    def one_state(question, steps):
        return len(steps)

    result = solve(
        Question("?"),
        CallablePolicy(both),
        CallableReward(score),
        Beam(width=2, expand=2, rules=PlanRules(state_of=one_state)),
    )
    assert [result.tree.text[n] for n in alive(result.tree)] == ["b", "Answer: 1"]
    assert result.degraded == ()


@pytest.mark.parametrize("name", STEPWISE)
def test_rules_that_know_nothing_change_nothing(name):
    config = STEPWISE[name]
    assert record(config) == record(replace(config, rules=PlanRules(state_of=nothing)))
    for plan in PLANS[:1]:
        off = replace(RULES, transpositions=False, loops=False, adaptive_depth=False)
        found = [run(replace(config, rules=rules, max_depth=12), plan) for rules in (None, off)]
        assert found[0].tree.to_json() == found[1].tree.to_json()
        assert found[0].trajectories == found[1].trajectories


@pytest.mark.parametrize("name", STEPWISE)
def test_any_order_gives_the_same_tree(name):
    check_order_independence(replace(STEPWISE[name], rules=PlanRules(state_of=last_word)), orders=2)


@pytest.mark.parametrize("name", STEPWISE)
@pytest.mark.parametrize("reads", [raising, unhashable])
def test_a_reader_that_fails_ends_nothing(name, reads):
    config = replace(STEPWISE[name], rules=PlanRules(state_of=reads))
    result = solve(Question("Which?", options=["red", "green"]), HashPolicy(), HashReward(), config)
    plain = solve(Question("Which?", options=["red", "green"]), HashPolicy(), HashReward(), STEPWISE[name])
    assert result.tree.to_json() == plain.tree.to_json()
    assert sum("`state_of` failed" in d for d in result.degraded) == 1


@pytest.mark.parametrize("name", [*STEPWISE, "best-of-n", "self-consistency"])
def test_where_all_is_closed_there_is_an_answer_and_a_remark(name):
    more = {"best-of-n": BestOfN(n=3), "self-consistency": SelfConsistency(n=3)}
    config = replace((STEPWISE | more)[name], rules=PlanRules(state_of=looping))
    result = solve(Question("Which?", options=["red", "green"]), HashPolicy(), HashReward(), config)
    assert result.answer in ("red", "green")
    assert any("every path was closed: a loop" in d for d in result.degraded)
    assert len(result.trajectory.steps) == 4
    assert np.isnan(result.trajectory.score) or name in STEPWISE


@pytest.mark.parametrize("name", STEPWISE)
def test_a_question_of_another_family_is_said_to_be_one(name):
    config = replace(STEPWISE[name], rules=RULES)
    result = solve(Question("Which?", options=["red", "green"]), HashPolicy(), HashReward(), config)
    assert any("no state is known" in d for d in result.degraded)
    assert result.answer is not None


def test_an_answer_outside_of_the_options_does_not_count():
    plan = PLANS[0]

    class Stubborn:
        def propose(self, requests):
            step = (Candidate(f"start : {plan.steps[0][8:]}"), Candidate("answer : 999", finish_reason="stop"))
            return [[step[len(r.prefix) :] if r.whole else step[len(r.prefix) :][:1]] for r in requests]

    for config in (Beam(width=2, expand=2, rules=RULES), BestOfN(n=2, rules=RULES)):
        result = run(config, plan, Stubborn())
        assert result.answer is None
        assert any("none of the options" in d for d in result.degraded)


def test_a_malformed_state_is_a_doubt():
    plan = PLANS[0]
    chain = ["start : nowhere", f"answer : {plan.answer}"]

    class Dreamer:
        def propose(self, requests):
            steps = tuple(Candidate(s, finish_reason="stop" if s.startswith("answer") else "step") for s in chain)
            return [[steps[len(r.prefix) :] if r.whole else steps[len(r.prefix) :][:1]] for r in requests]

    result = run(Beam(width=1, expand=1, rules=RULES), plan, Dreamer())
    assert result.answer == plan.answer
    assert "rules: the answer rests on a start that is none" in result.degraded


@pytest.mark.parametrize("name", ["beam", "mcts", "uct", "rebase"])
def test_budgets_faults_and_pickling(name):
    config = replace(STEPWISE[name], rules=RULES, max_depth=12, scoring=LOGIC)
    plan = PLANS[0]
    policy = FaultyPolicy(walker(PLANS, back=0.3), "empty", 0.3)
    plain = play(config.start(plan.question, 1), policy, ORACLE)
    copied = play(config.start(plan.question, 1), policy, ORACLE, copy=True)
    assert plain.tree.to_json() == copied.tree.to_json()
    for calls in range(1, 8):
        result = run(config, plan, budget=Budget(policy_calls=calls))
        assert result.usage.policy_calls <= calls + 1


@pytest.mark.parametrize("config", [Beam(width=4, expand=4), MCTS(iterations=12), UCT(iterations=12)])
def test_a_search_goes_on_from_a_tree(config):
    plan = PLANS[0]
    config = replace(config, rules=RULES, scoring=LOGIC, max_depth=16)
    first = config.start(plan.question, 0)
    for _ in range(12):
        play_one(first, walker(PLANS))
    first.stop("interrupted")
    second = play(config.start(plan.question, 1, tree=first.tree), walker(PLANS), ORACLE)
    expanded = [n for n in alive(second.tree) if second.tree.arena.first_child[n] >= 0]
    keys = [state_of(plan.question, second.tree.texts(n)).key for n in expanded]
    known = [k for k in keys if k is not None]
    assert len(set(known)) == len(known)


def test_ablations_change_one_switch_each():
    ablations = RULES.ablations()
    assert ablations["rules"] is RULES
    assert ablations["no rules"] is None
    for name, rules in ablations.items():
        if rules is not None:
            changed = [s for s in vars(RULES) if getattr(rules, s) != getattr(RULES, s)]
            assert len(changed) == (name != "rules")
        assert run(Beam(width=2, expand=3, rules=rules, max_depth=16), PLANS[0]).tree is not None


def test_a_beam_with_rules_sees_more_states():
    plan = puzzles(("tower_of_hanoi",), (6, 6), 1)[0]
    oracle, policy = PlanOracle({plan.question.id: plan}), walker([plan], skill=0.0)
    seen = []
    for rules in (None, RULES):
        tree = run(Beam(width=30, expand=6, rules=rules, max_depth=8), plan, policy, oracle).tree
        seen.append(len({state_of(plan.question, tree.texts(n)).key for n in alive(tree)}) / len(alive(tree)))
    assert seen[1] > 1.5 * seen[0]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"state_of": 3}, TypeError), ({"loops": 1}, TypeError), ({"backtracking": "maybe"}, ValueError)],
)
def test_wrong_settings_are_refused(wrong, error):
    with pytest.raises(error, match=f"`{next(iter(wrong))}` must be"):
        PlanRules(**{"state_of": state_of} | wrong)


def test_rules_must_be_rules_and_can_be_pickled():
    with pytest.raises(TypeError, match="`rules` must be PlanRules"):
        Beam(rules=state_of)
    assert pickle.loads(pickle.dumps(RULES)) == RULES


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(STEPWISE)), st.data())
def test_never_endless_whatever_the_policy_says(seed, name, data):
    plan = PLANS[seed % len(PLANS)]
    words = ["start : ", "goal : ", "back to 0 : ", "1 : x : ", "2 : 1 > 2 : ", "answer : ", "999 : : "]
    texts = [plan.steps[0][8:], plan.steps[-1][9:], "| . |", ":", "9" * 50, "\x00\ud800", ""]
    said = data.draw(st.lists(st.tuples(st.sampled_from(words), st.sampled_from(texts)), min_size=1, max_size=6))

    class Babbler:
        def propose(self, requests):
            return [[(Candidate(w + t),) for w, t in said[: r.n]] for r in requests]

    config = replace(STEPWISE[name], rules=RULES, max_depth=6, scoring=LOGIC)
    search = config.start(plan.question, seed)
    search = play(search, Babbler(), ORACLE)
    assert search.done
    assert isinstance(search.result().degraded, tuple)

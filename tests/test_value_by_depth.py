"""The value of prefixes: a model that knows the truth tells all apart, one that knows nothing none."""

from __future__ import annotations

import numpy as np
import pytest

from svip_search._aggregate import Scoring
from svip_search.datasets.planning import corrupt, generate_plan, label_steps, trace
from svip_search.datasets.puzzles import generate_puzzle
from svip_search.datasets.svip import record_of_chain
from svip_search.evaluation.value_by_depth import LEAST, LOGIC, chains_of, prefix_values, reaching, value_by_depth

FAMILIES = ("tower_of_hanoi", "water_jugs", "move_box")


class Knowing:
    kind = "prm"

    def __init__(self, plans, blind=False):
        self.plans, self.blind = {p.question.id: p for p in plans}, blind

    def evaluate(self, question, paths):
        plan = self.plans[question.id]
        labels = [np.nan_to_num(label_steps(plan, p), nan=1.0) for p in paths]
        return [np.full_like(rows, 0.5) if self.blind else rows for rows in labels]


@pytest.fixture(scope="module")
def chains():
    rng = np.random.default_rng(0)
    plans = [generate_plan(31, i, families=FAMILIES, moves=(4, 6), pixels=32, plain=True) for i in range(12)]
    return [(p, [p.steps, trace(p, rng, 0.4), *(corrupt(p, rng) for _ in range(4))]) for p in plans]


def test_a_right_chain_reaches_the_answer_all_the_way(chains):
    for plan, (right, *_) in chains:
        hopeful, depths = reaching(plan, right)
        assert hopeful.all()
        assert depths[-1] == plan.length


def test_what_is_wrong_once_reaches_nothing_any_more(chains):
    for plan, own in chains:
        for steps in own:
            hopeful, _ = reaching(plan, steps)
            assert not hopeful[-1] or label_steps(plan, steps)[-1, 1] == 1


def test_the_truth_tells_prefixes_apart_and_nothing_else_does(chains):
    plans = [plan for plan, _ in chains]
    least, logic = (value_by_depth(Knowing(plans), chains, how) for how in (LEAST, LOGIC))
    assert mean_auroc(least) > 0.8
    assert mean_auroc(logic) > 0.7
    assert [row.depth for row in logic] == sorted({row.depth for row in logic})
    blind = value_by_depth(Knowing(plans, blind=True), chains)
    assert all(row.auroc == 0.5 for row in blind if not np.isnan(row.auroc))


def test_intervals_hold_the_area_and_know_their_puzzles(chains):
    """The same chains again are no more evidence where they are of the same puzzles."""
    model = Knowing([plan for plan, _ in chains])
    relevance = Scoring(aggregate="last", weights=(1, 0, 0))  # which is no sure sign
    rows = [row for row in value_by_depth(model, chains, relevance) if not np.isnan(row.auroc)]
    assert all(row.low <= row.auroc <= row.high for row in rows)
    assert any(row.high - row.low > 0.05 for row in rows)
    (plan, own), *_ = chains
    assert all(np.isnan(row.low) or row.low == row.high for row in value_by_depth(model, [(plan, own)]))
    assert all(np.isnan(row.low) for row in value_by_depth(model, chains, resamples=0))
    with pytest.raises(ValueError, match="`resamples` must be >= 0; got -1"):
        value_by_depth(model, chains, resamples=-1)


def mean_auroc(rows):
    known = [row for row in rows if not np.isnan(row.auroc)]
    return np.average([row.auroc for row in known], weights=[row.prefixes for row in known])


def test_records_give_puzzles_and_chains(chains):
    records = [record_of_chain(plan, steps) for plan, own in chains[:2] for steps in own]
    puzzle = generate_puzzle(1, 0)
    found = chains_of([*records, record_of_chain(puzzle, puzzle.steps)])
    assert [len(own) for _, own in found] == [6, 6]
    assert [plan.cells for plan, _ in found] == [plan.cells for plan, _ in chains[:2]]


def test_shared_prefixes_count_once(chains):
    plan, own = chains[0]
    once, twice = (value_by_depth(Knowing([plan]), [(plan, k * [own[0]])]) for k in (1, 2))
    assert [row.prefixes for row in once] == [row.prefixes for row in twice]
    assert sum(row.prefixes for row in once) == len(own[0]) - 1


def test_values_are_of_prefixes():
    rewards = np.random.default_rng(0).random((4, 3))
    np.testing.assert_allclose(prefix_values(rewards), rewards[:, 1])
    least = prefix_values(rewards, Scoring(aggregate="min", weights=(0, 1, 0)))
    np.testing.assert_allclose(least, np.minimum.accumulate(rewards[:, 1]))
    assert prefix_values(np.zeros((0, 3))).shape == (0,)


def test_a_model_of_whole_chains_is_refused(chains):
    model = Knowing([])
    model.kind = "orm"
    with pytest.raises(ValueError, match=r"`reward` must score steps"):
        value_by_depth(model, chains)

"""Domain weights: always positive with mean one, and lower where labels are wrong."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from any_backbone import puzzle_trees, tiny

from svip_search.training.domain_weights import DomainWeights
from svip_search.training.frozen_scorer import FrozenScorer
from svip_search.training.step_scorer import StepScorer

NAMES = ["a", "b", "c", "d"]
agreements = st.dictionaries(st.sampled_from(NAMES), st.floats(-1e6, 1e6), min_size=1)


@given(st.lists(agreements, max_size=20), st.floats(1e-4, 10.0))
@settings(max_examples=50, deadline=None)
def test_weights_are_positive_and_have_mean_one(steps, rate):
    weights = DomainWeights(NAMES, rate)
    for step in steps:
        weights.update(step)
    found = weights().detach()
    assert bool((found > 0).all())
    assert float(found.mean()) == pytest.approx(1.0, abs=1e-5)
    assert weights.weights_of(["c", "c", "a"]).detach().tolist() == [found[2], found[2], found[0]]


def test_a_checkpoint_goes_on_where_it_was():
    first, second = DomainWeights(NAMES), DomainWeights(NAMES)
    first.update({"a": 2.0, "b": -1.0})
    second.load_state_dict(first.state_dict())
    for weights in (first, second):
        weights.update({"c": 1.0})
    assert first.as_dict() == second.as_dict()
    with pytest.raises(ValueError, match="must be of the domains"):
        DomainWeights(["a", "x", "y", "z"]).load_state_dict(first.state_dict())


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match=r"`domains` must hold names, each once; got \['a', 'a'\]"):
        DomainWeights(["a", "a"])
    with pytest.raises(ValueError, match=r"`domains` must be among \['a'\]; got 'b'"):
        DomainWeights(["a"]).weights_of(["a", "b"])


class Linear(StepScorer):
    """One weight for every node: gradients that can be written down."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.weight = torch.nn.Parameter(torch.tensor([1.0]))

    def forward(self, trees):
        logits = torch.cat([torch.full((len(t), 3), 1.0) for t in trees]) * self.weight
        return logits, logits.new_zeros(())

    def make_optimizers(self, learning_rate, head_learning_rate):
        return [torch.optim.SGD(self.parameters(), learning_rate)]


def test_the_step_is_the_inner_product_of_gradients(monkeypatch):
    trees = puzzle_trees(3)
    named = [replace(t, record=replace(t.record, extra={"domain": d})) for t, d in zip(trees, "aab", strict=True)]
    weights, seen = DomainWeights(["a", "b"]), []
    monkeypatch.setattr(weights, "update", seen.append)
    goal = {"a": 3.0, "b": -2.0}

    def loss(logits, own):  # of slope 2 for trusted trees, and the goal of its domain for others
        slope = 2.0 if own is trees else goal[own[0].domain]
        return slope * logits.mean()

    scorer = Linear()
    scorer.weight.grad = torch.tensor([7.0])
    weights.step(scorer, named, trees, loss)
    assert seen[0]["a"].item() == pytest.approx(3.0 * 2.0)
    assert seen[0]["b"].item() == pytest.approx(-2.0 * 2.0)
    assert scorer.weight.grad.item() == 7.0


def test_a_domain_with_flipped_labels_loses_its_weight(tmp_path):
    """Only the noisy domain has wrong labels; the families are the same everywhere."""
    torch.manual_seed(0)
    clean, noisy, trusted = (puzzle_trees(8, seed, families=["venn"]) for seed in (1, 2, 3))
    training = [
        *(replace(t, record=replace(t.record, extra={"domain": "clean"})) for t in clean),
        *(replace(t, record=replace(t.record, extra={"domain": "noisy"}), labels=1 - t.labels) for t in noisy),
    ]
    scorer = FrozenScorer(*tiny("puzzle", surprise=True), cache=tmp_path)
    scorer.prepare([*training, *trusted])
    weights, (optimizer,) = DomainWeights(["clean", "noisy"], 0.1), scorer.make_optimizers(3e-3, 3e-3)

    def loss(logits, trees, factors=None):
        targets = torch.from_numpy(np.concatenate([t.labels for t in trees]))
        each = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, targets.nan_to_num(), reduction="none"
        ) * ~torch.isnan(targets)
        if factors is not None:
            each = each * factors.repeat_interleave(torch.tensor([len(t) for t in trees]))[:, None]
        return each.mean()

    for i in range(30):
        batch = training[i % 2 :: 2]
        weights.step(scorer, batch, trusted, loss)
        total = loss(scorer(batch)[0], batch, weights.weights_of([t.domain for t in batch]).detach())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert weights.as_dict()["noisy"] < 0.5

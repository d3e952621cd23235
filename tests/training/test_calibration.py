"""Temperatures make rewards mean what they say, whatever they were; the scoring is the one that chooses best."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from svip_data import records

from svip_search import Scoring
from svip_search.evaluation.metrics import calibration_error
from svip_search.rewards._triatt_cot import TriAttCoT
from svip_search.training.calibration import contests, fit_scoring, fit_temperatures, share_right
from svip_search.training.step_trees import step_trees


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_a_temperature_undoes_what_was_multiplied(factor):
    rng = np.random.default_rng(0)
    true = torch.from_numpy(rng.normal(0, 2, (4000, 3)))
    labels = torch.from_numpy((rng.random((4000, 3)) < true.sigmoid().numpy()).astype(np.float64))
    found = fit_temperatures(true * factor, labels)
    np.testing.assert_allclose(found.numpy(), factor, rtol=0.12)
    rewards = (true * factor / found).sigmoid().numpy()
    assert calibration_error(rewards[:, 0], labels[:, 0].numpy()) < 0.03


def test_tempering_divides_the_logits():
    torch.manual_seed(0)
    for kind in ("linear", "mlp"):
        head = TriAttCoT(8, 4, head=kind)
        arguments = (torch.randn(1, 4, 8), torch.tensor([[0, 1, 2, 2]]), torch.tensor([[-1, -1, 0, 1]]),
                     torch.tensor([[2, 3]]))  # fmt: skip
        before = head(*arguments)
        head.temper(torch.tensor([0.5, 1.0, 4.0]))
        torch.testing.assert_close(head(*arguments) * torch.tensor([0.5, 1.0, 4.0]), before)


def judged(which):
    """Trees of policies' chains, with rewards in which one dimension tells right from wrong."""
    trees = step_trees(replace(r, source="policy:x") for r in records(40, chains=4))
    rng = np.random.default_rng(1)
    rewards = []
    for tree in trees:
        own = rng.uniform(0.2, 0.8, (len(tree), 3)).astype(np.float32)
        for chain, right in zip(tree.chains, tree.right, strict=True):
            own[chain[-1], which] = 0.9 if right else 0.1
        rewards.append(own)
    return trees, rewards


@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_dimension_that_tells_gets_the_weight(which):
    trees, rewards = judged(which)
    found = fit_scoring(trees, rewards)
    assert found.weights[which] == max(found.weights)
    assert share_right(found, contests(trees, rewards)) == 1.0
    assert fit_scoring(trees, rewards, [which]).weights[which] == 1.0


def test_without_a_choice_the_scoring_is_the_default():
    trees = step_trees(r for r in records(3, chains=1))
    assert fit_scoring(trees, [np.zeros((len(t), 3), np.float32) for t in trees]) == Scoring()

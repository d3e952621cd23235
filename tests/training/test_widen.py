"""A larger model that begins as a smaller one says what that one says, and everything new in it can learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from svip_search.models.embedded import new_model
from svip_search.training.domains import domain_of
from svip_search.training.widen import widen

DOMAIN = domain_of("plan-nano", [], 0.5, (), 0)
PUZZLES = DOMAIN.draw(0, range(6))


def loss(model):
    torch.manual_seed(0)
    return sum(DOMAIN.losses(model, PUZZLES, np.arange(6)))


@pytest.fixture
def small():
    torch.manual_seed(1)
    model = new_model("plan-nano", DOMAIN.processor).eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():  # norms that are not all one, as after training
            if "norm" in name:
                weights.mul_(torch.rand_like(weights) + 0.5)
    return model


@pytest.fixture
def large():
    torch.manual_seed(2)
    return new_model("plan-small", DOMAIN.processor).eval()


def test_the_larger_model_computes_the_same(small, large):
    apart = loss(large).item()
    widen(small, large)
    assert abs(loss(large) - loss(small)).item() < 1e-3 < abs(apart - loss(small).item())


def test_one_step_reaches_what_was_added(small, large):
    widen(small, large)
    loss(large).backward()
    for name, weights in large.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):  # zeros in a new layer
            assert weights.grad.abs().sum() > 0, name


def test_what_does_not_fit_is_refused(small, large):
    with pytest.raises(ValueError, match="`small` must fit into `large`"):
        widen(large, small)
    pattern = new_model("puzzle-nano", domain_of("puzzle-nano", [], 0.5, (), 0).processor)
    with pytest.raises(ValueError, match="kind, vocabulary and head width"):
        widen(pattern, large)

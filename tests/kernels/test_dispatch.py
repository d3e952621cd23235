"""Choosing, refusing, explaining and counting backends."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

from svip_search import kernels
from svip_search._errors import BackendUnavailable
from svip_search.kernels import _dispatch
from svip_search.kernels.triatt import Head, KVTree, triatt

TREE = KVTree([-1], [0, 1], [0], np.ones((1, 1, 4)), np.ones((1, 1, 4)))
HEAD = Head(np.ones((3, 4)), np.zeros(3))


@pytest.fixture
def table(monkeypatch):
    refusing = ModuleType("refusing_backend")
    refusing.supports = lambda facts: f"no {facts.dtype} here"
    monkeypatch.setitem(sys.modules, "refusing_backend", refusing)
    rows = {"broken": "svip_search.kernels.no_such_backend", "refusing": "refusing_backend"}
    monkeypatch.setitem(kernels.TABLE, "triatt", {**rows, **kernels.TABLE["triatt"]})
    kernels.reset_counts()
    yield
    kernels.reset_counts()
    _dispatch._import_failures.clear()


def score(backend):
    return triatt(TREE, [0], np.ones((3, 4)), HEAD, backend=backend).scores


@pytest.mark.usefixtures("table")
def test_auto_falls_back_explains_and_counts():
    assert np.array_equal(score("auto"), score("reference"))
    assert kernels.counts() == {"triatt": {"reference": 2}}
    lines = kernels.explain("triatt").splitlines()
    assert lines[0].startswith("broken: ModuleNotFoundError: No module named")
    assert lines[1] == "refusing: no float32 here"
    assert lines[-1] == "reference: chosen"


@pytest.mark.usefixtures("table")
def test_a_named_backend_says_why_it_cannot_run():
    with pytest.raises(BackendUnavailable, match="`backend` 'broken' cannot run triatt: Module") as info:
        score("broken")
    assert isinstance(info.value.__cause__, ModuleNotFoundError)
    with pytest.raises(BackendUnavailable, match="`backend` 'refusing' cannot run triatt: no float64 here"):
        score("refusing")
    assert kernels.counts() == {}


def test_unknown_operation():
    with pytest.raises(ValueError, match="`operation` must be one of triatt; got 'flash'"):
        kernels.explain("flash")

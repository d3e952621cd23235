"""Choosing, refusing, explaining and counting backends."""

from __future__ import annotations

import subprocess
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
    lines = kernels.explain("triatt", kernels.Facts(dtype="float64", precision="float64")).splitlines()
    assert lines[0].startswith("broken: ModuleNotFoundError: No module named")
    assert lines[1] == "refusing: no float64 here"
    assert lines[-1] == "reference: chosen"


def test_a_call_on_the_cpu_never_imports_the_backends_of_a_gpu():
    code = """if True:
        import sys, numpy as np
        from svip_search.kernels.triatt import Head, KVTree, triatt
        for dtype in (np.float32, np.float64):
            kv = np.ones((1, 1, 4), dtype)
            triatt(KVTree([-1], [0, 1], [0], kv, kv), [0], np.ones((3, 4), dtype),
                   Head(np.ones((3, 4), dtype), np.zeros(3, dtype)))
        print({"torch", "triton"} & set(sys.modules))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_which_names_the_backend_of_a_call():
    assert kernels.which("triatt") == "cpu"
    assert kernels.which("triatt", dtype="float64", precision="float64") == "reference"
    with pytest.raises(BackendUnavailable, match="float64 is computed by the reference alone"):
        kernels.which("triatt", "cpu", dtype="float64")


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

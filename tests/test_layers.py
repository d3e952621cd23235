"""A lower layer never imports a higher one, and importing the library needs numpy alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [
    {"_errors", "_core"},
    {"kernels"},
    {"_types", "_tree", "_budget", "_aggregate", "_vote", "_rules"},
    {"_images", "_question_key", "_http", "_video"},
    {"datasets"},  # the puzzles know nothing of searching; models share their vocabulary
    {"strategies", "policies", "rewards", "models"},
    {"_solve", "_schedule", "_scheduler", "_calls", "_drive", "_live", "_journal"},
    {"programs"},
    {"training", "evaluation", "runs", "serving"},
    {"testing", "simulation"},  # fakes for tests, benchmarks and embedders
    {"cli", "viewer"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
PARTS = {"strategies", "policies", "rewards"}  # know each other only through protocols
NUMPY_ONLY = LAYERS[0] | LAYERS[2] | {"strategies", "_solve", "_schedule", "_scheduler", "_calls", "_drive", "_live"}

SOURCES = {path: ("svip_search", *path.relative_to(ROOT / "svip_search").with_suffix("").parts)
           for path in (ROOT / "svip_search").rglob("*.py")}  # fmt: skip
SOURCES |= {path: ("svip_search", *path.relative_to(ROOT).with_suffix("").parts)
            for path in (ROOT / "kernels").rglob("*.py")}  # fmt: skip


def imports(path, nodes):
    """The dotted names that these statements import, relative ones made absolute."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(SOURCES[path][: -node.level]) if node.level else []
            base += node.module.split(".") if node.module else []
            yield from ([*base, alias.name] for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downward(path):
    source, tree = SOURCES[path], ast.parse(path.read_text(encoding="utf-8"))
    assert len(source) == 2 or source[1] in RANK, f"give {source[1]} a layer"
    if source[1] == "__init__":
        return
    for name in imports(path, ast.walk(tree)):
        if name[0] == "svip_search" and len(name) > 1 and name[1] in RANK:
            assert RANK[name[1]] <= RANK[source[1]], f"imports {'.'.join(name)}"
            assert not {source[1], name[1]} <= PARTS or name[1] == source[1], f"imports {'.'.join(name)}"


@pytest.mark.parametrize(
    "path",
    [p for p, source in SOURCES.items() if source[1] in NUMPY_ONLY],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_core_needs_numpy_alone(path):
    allowed = sys.stdlib_module_names | {"numpy", "svip_search"}
    assert {name[0] for name in imports(path, ast.parse(path.read_text(encoding="utf-8")).body)} <= allowed


def test_import_is_light():
    heavy = {"torch", "transformers", "networkx", "rich", "PIL", "triton", "aiohttp", "apsw", "ray", "asyncio"}
    code = f"import sys, svip_search; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

"""Every example runs: those of the docstrings, of the README, of the pages and the demo."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import json
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import svip_search as ss
from svip_search.models import zoo
from svip_search.testing import HashPolicy, HashReward

ROOT = Path(__file__).parent.parent
FOUND = (m.name for m in pkgutil.walk_packages(ss.__path__, "svip_search."))
MODULES = sorted(name for name in FOUND if not name.endswith("__main__"))
HAVE_MODELS = {"puzzle-tiny", "svip-tiny"} <= {m.name for m in zoo.list_models()}
NO_MODELS = "the embedded weights are not there"
# Examples that use the embedded weights.
NEED_MODELS = re.compile(r"load_policy\(|load_reward\(|list_models\(")


@pytest.mark.parametrize("name", ["svip_search", *MODULES])
def test_docstring_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec(name) is None or name.endswith(("._core", "._triatt_cuda")):
        pytest.skip("compiled")
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"needs {error.name}")
    monkeypatch.chdir(tmp_path)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=options, verbose=False)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module):
        if not HAVE_MODELS and any(NEED_MODELS.search(example.source) for example in test.examples):
            continue
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def python_blocks(path: Path) -> list[tuple[str, bool]]:
    """Return the Python blocks of a Markdown file, and whether each is marked as needing the models."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"(<!-- needs: models -->\n)?```python\n(.*?)```", text, re.DOTALL)
    return [(code, bool(mark)) for mark, code in found]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize(("code", "needs_models"), [block for page in PAGES for block in python_blocks(page)])
def test_examples_of_the_pages_run(
    code: str, needs_models: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if needs_models and not HAVE_MODELS:
        pytest.skip(NO_MODELS)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "example", "exec"), {"__name__": "example"})


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_example_puzzles_come_from_the_generator() -> None:
    folder = ROOT / "examples" / "puzzles"
    entries = json.loads((folder / "puzzles.json").read_text(encoding="utf-8"))
    puzzles = example("make_puzzles").puzzles()
    assert [e["image"] for e in entries] == [f"{p.family}.png" for p in puzzles]
    for entry, puzzle in zip(entries, puzzles, strict=True):
        assert (entry["question"], entry["answer"]) == (puzzle.question.text, puzzle.answer)
        assert tuple(entry["options"]) == puzzle.question.options
        assert puzzle.image.size == (512, 512)
    assert sorted(entries[0]["options"]) == ["1", "4", "8", "9"]


def test_demo_with_fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(ss, "load_policy", lambda name: HashPolicy(depth=3), raising=False)
    monkeypatch.setattr(ss, "load_reward", lambda name: HashReward(), raising=False)
    assert example("demo").main(tmp_path) in (0, 1)
    answers = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("Answer", "No an"))]
    assert len(answers) == 2
    assert (tmp_path / "tree.html").stat().st_size > 10_000


@pytest.mark.skipif(not HAVE_MODELS, reason=NO_MODELS)
def test_demo_is_right(tmp_path: Path) -> None:
    assert example("demo").main(tmp_path) == 0

"""Results as files: complete or not at all, in the order of the questions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("apsw")

from run_cases import STRATEGY, new_journal, records

from svip_search import Tree, make, solve
from svip_search._journal import Journal
from svip_search.runs.export import export, tree_file
from svip_search.runs.runner import item_seed, run
from svip_search.testing import HashPolicy, HashReward

POLICY = HashPolicy(branching=3, depth=3)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with new_journal(tmp_path, 7) as journal:
        run(journal, POLICY, HashReward(), STRATEGY, keep_trees=True)
        journal.add([("bad", "hash", {"question": "?", "images": ["gone.png"]})])
        run(journal, POLICY, HashReward(), STRATEGY, keep_trees=True, folder=tmp_path)
        yield journal


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_json_lines_in_the_order_that_is_asked_for(journal: Journal, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert export(journal, out) == 8
    assert [row["id"] for row in rows_of(out)] == [*(f"q{i}" for i in range(7)), "bad"]
    assert "gone.png" in rows_of(out)[-1]["error"]
    assert "tree" not in rows_of(out)[0]
    order = ["q3", "bad", "nobody", "q0"]
    assert export(journal, out, order) == 3
    assert [row["id"] for row in rows_of(out)] == ["q3", "bad", "q0"]
    assert rows_of(out)[0]["answer"] in ("red", "green", "blue")
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_parquet_says_the_same(journal: Journal, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    export(journal, tmp_path / "out.jsonl", trees=True)
    assert export(journal, tmp_path / "out.parquet", trees=True) == 8
    lines, rows = rows_of(tmp_path / "out.jsonl"), pq.read_table(tmp_path / "out.parquet").to_pylist()
    for line, row in zip(lines, rows, strict=True):
        for name in ("id", "question", "answer", "true_answer", "stopped_by", "strategy", "error", "seed", "options"):
            assert row[name] == line.get(name)
        if "error" not in line:
            assert row["policy_tokens"] == line["usage"]["policy_tokens"]
            assert row["score"] == line["trajectory"]["score"]
            for name in ("trajectory", "trajectories", "votes", "tree"):
                assert json.loads(row[name]) == line[name]


def test_trees_in_a_folder(journal: Journal, tmp_path: Path) -> None:
    folder = tmp_path / "trees"
    export(journal, tmp_path / "out.jsonl", trees=folder)
    assert sorted(path.name for path in folder.iterdir()) == [f"q{i}.json" for i in range(7)]
    assert "tree" not in rows_of(tmp_path / "out.jsonl")[0]
    tree = Tree.from_json(tree_file(folder, "q2").read_text())
    question = new_question(2)
    assert tree.to_dict() == solve(question, POLICY, HashReward(), STRATEGY, seed=item_seed(0, "q2")).tree.to_dict()


def new_question(index: int) -> Any:
    from svip_search.runs.questions import as_question

    return as_question(records(index + 1)[index])


def test_names_of_tree_files_are_names_of_files(tmp_path: Path) -> None:
    ids = ["a", "a/b", "../x", ".", "..", "x" * 1000, "x" * 999 + "y", "été ?", 'a"\\<>|*:', "%2F", "A"]
    paths = [tree_file(tmp_path, id) for id in ids]
    assert len(set(paths)) == len(ids)
    for path in paths:
        assert path.parent == tmp_path
        path.write_text("{}")


def test_texts_that_utf8_cannot_hold(tmp_path: Path) -> None:
    class Store:
        def results(self, ids: Any = None) -> Iterator[tuple[str, Any]]:
            yield "a", {"id": "a", "answer": "half \ud83d", "options": ["\ud83d"], "degraded": []}

        def failures(self) -> Iterator[tuple[str, str]]:
            return iter(())

    assert export(Store(), tmp_path / "out.jsonl") == 1
    assert rows_of(tmp_path / "out.jsonl")[0]["answer"] == "half ?"
    pq = pytest.importorskip("pyarrow.parquet")
    export(Store(), tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["answer"].to_pylist() == ["half ?"]


def test_a_failed_export_leaves_the_old_file(tmp_path: Path) -> None:
    class Broken:
        def results(self, ids: Any = None) -> Iterator[tuple[str, Any]]:
            yield "a", {"id": "a"}
            raise OSError(28, "No space left on device")

        def failures(self) -> Iterator[tuple[str, str]]:
            return iter(())

    for name in ("out.jsonl", "out.parquet"):
        out = tmp_path / name
        out.write_text("old")
        with pytest.raises(OSError, match="No space left"):
            export(Broken(), out)
        assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.parquet"]


def test_a_saved_tree_is_searched_further(journal: Journal, tmp_path: Path) -> None:
    """What `--warm-from` does, through the journal and by hand."""
    trees = {id: Tree.from_dict(result["tree"]) for id, result in journal.results()}
    more = make("mcts", n=10)
    with new_journal(tmp_path, 7, "warm.db") as warm:
        run(warm, POLICY, HashReward(), more, keep_trees=True, trees=trees.get)
        for index, (id, result) in enumerate(warm.results()):
            old, new = trees[id], Tree.from_dict(result["tree"])
            assert new.text[: len(old)] == old.text
            assert new.arena.visits[0] > old.arena.visits[0]
            alone = solve(new_question(index), POLICY, HashReward(), more, seed=item_seed(0, id), tree=old)
            assert result["tree"] == alone.tree.to_dict()
            assert result["usage"]["nodes"] == len(new) - len(old)
    with new_journal(tmp_path, 2, "cold.db") as cold, pytest.raises(ValueError, match="cannot go on from a tree"):
        run(cold, POLICY, HashReward(), "particle-filtering", trees=trees.get)

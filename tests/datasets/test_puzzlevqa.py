"""The loader keeps what a solver may see, drops the rest and names the line that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from svip_search._types import Question
from svip_search.datasets.puzzlevqa import family_of, load_puzzlevqa, spread

GOOD: dict[str, Any] = {"question": "?!", "image": "a.png", "options": ["4", 8, 1.0], "answer": 4}


def write(folder: Path, *records: Any, name: str = "venn") -> Path:
    (folder / "a.png").touch()
    lines = (r if isinstance(r, str) else json.dumps(r) for r in records)
    (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_fields_become_a_question(tmp_path: Path) -> None:
    record = GOOD | {"caption": "secret", "explanation": "secret"}
    (question,) = load_puzzlevqa(write(tmp_path, record))
    assert question == Question("?!", [str(tmp_path / "a.png")], ["4", "8", "1"], "4", "venn/0")
    assert question.answer == "4"
    assert "secret" not in repr(question)


def test_order_blank_lines_own_ids_and_several_images(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "", GOOD | {"id": "mine/7"}, GOOD, name="b")
    several = {k: v for k, v in GOOD.items() if k != "image"} | {"images": ["a.png", "a.png"]}
    write(tmp_path, several, name="a")
    questions = load_puzzlevqa(tmp_path)
    assert [q.id for q in questions] == ["a/0", "b/0", "mine/7", "b/2"]
    assert len(questions[0].images) == 2
    assert [q.id for q in load_puzzlevqa(tmp_path, families=["a"])] == ["a/0"]
    assert [q.id for q in load_puzzlevqa(tmp_path / "a.jsonl")] == ["a/0"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not valid JSON"),
        ("[1]", "must hold a JSON object; got list"),
        ("[" * 100_000, "line 2"),
        ({k: v for k, v in GOOD.items() if k != "answer"}, "`answer` is missing"),
        ({k: v for k, v in GOOD.items() if k != "question"}, "`question` is missing"),
        ({k: v for k, v in GOOD.items() if k != "image"}, "`image` and `images`"),
        (GOOD | {"image": "gone.png"}, "'gone.png' does not exist"),
        (GOOD | {"image": 3}, "must be a path"),
        (GOOD | {"answer": 5}, "must be one of the options"),
        (GOOD | {"answer": True}, "texts or numbers"),
        (GOOD | {"options": "48"}, "must be a list"),
        (GOOD | {"options": [4, "4"]}, "must be distinct"),
        (GOOD | {"question": " "}, "non-empty question"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        load_puzzlevqa(write(tmp_path, GOOD, line))
    assert "venn.jsonl, line 2:" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no"):
        load_puzzlevqa(tmp_path / "gone")
    with pytest.raises(ValueError, match="has none"):
        load_puzzlevqa(tmp_path)
    with pytest.raises(ValueError, match="got 'chess'"):
        load_puzzlevqa(write(tmp_path, GOOD), families=["chess"])


def test_spread_takes_families_in_turn() -> None:
    questions = [Question("?", id=i) for i in ("a/0", "a/1", "a/2", "b/0", "c/0", "c/1")]
    assert [q.id for q in spread(questions, 4)] == ["a/0", "a/1", "b/0", "c/0"]
    assert spread(questions, 100) == questions
    with pytest.raises(ValueError, match="`limit` must be at least 1"):
        spread(questions, 0)
    assert family_of(Question("?")) == "all"

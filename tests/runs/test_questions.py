"""Files of questions: what is read, and one line for whatever cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svip_search import Budget, HybridReward, JudgeReward, OpenAIPolicy, Scoring, make
from svip_search.policies import CallablePolicy
from svip_search.runs import questions as module
from svip_search.runs.questions import as_question, missing_files, read_questions
from svip_search.runs.settings import digest, fingerprint, folder_identity, model_identity
from svip_search.testing import HashPolicy, HashReward


def write(folder: Path, content: bytes | str) -> Path:
    path = folder / "q.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_fields_become_a_question(tmp_path: Path) -> None:
    record = {"id": 7, "question": "Which?", "images": ["a.png"], "options": [3, 4.0, " x "], "answer": 4, "seed": 5}
    (entry,) = read_questions(write(tmp_path, json.dumps(record) + "\n"))
    assert (entry.id, entry.line, entry.payload["seed"]) == ("7", 1, 5)
    question = as_question(entry.payload, tmp_path, entry.id)
    assert question.images == (str(tmp_path / "a.png"),)
    assert (question.options, question.answer, question.id) == (("3", "4", "x"), "4", "7")
    assert missing_files(entry.payload, tmp_path) == ["a.png"]


def test_other_names_of_fields_and_videos(tmp_path: Path) -> None:
    (entry,) = read_questions(write(tmp_path, '{"text": "What happens?", "image": "a.png", "video": "b.mp4"}'))
    question = as_question(entry.payload, tmp_path)
    assert len(question.images) == 2
    assert type(question.images[1]).__name__ == "Video"
    assert len(entry.id) == 32  # a digest of the line
    assert missing_files(entry.payload, tmp_path) == ["a.png", "b.mp4"]


def test_what_does_not_matter_does_not_change_the_hash(tmp_path: Path) -> None:
    lines = ['{"question": "a", "options": ["x", "y"], "id": 1}', '{"id":2,"options":["x","y"],"extra":0,"text":"a"}']
    one, two = read_questions(write(tmp_path, "\n".join(lines)))
    assert one.hash == two.hash
    (other,) = read_questions(write(tmp_path, '{"question": "a", "options": ["y", "x"]}'))
    assert other.hash != one.hash


def test_bom_blank_lines_and_missing_last_end(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf\n  \r\n" + b'{"question": "a"}\r\n\n{"question": "b"}'
    assert [entry.line for entry in read_questions(write(tmp_path, content))] == [3, 5]
    assert list(read_questions(write(tmp_path, b""))) == []


BAD: list[tuple[bytes, str]] = [
    (b'{"question": "a"', "line 1: must be JSON; .*; the file ends in the middle of a line"),
    (b'{"question": "a"\n', "line 1: must be JSON; .* at character 18.$"),
    (b'{"question": "a"}\n{"question": "\xff"}\n', "line 2: must be UTF-8; byte 15 of the line is not"),
    (b'\xff\xfe{\x00"\x00', "must be UTF-8; the file begins like UTF-16"),
    (b'{"question": "a", "answer": NaN}', "must hold numbers JSON knows; got NaN"),
    (b'{"question": "a", "answer": -Infinity}', "got -Infinity"),
    (b'{"question": "a", "answer": 1e999}', "`answer` must hold numbers JSON knows; got inf"),
    (b"[1]", "must hold a JSON object; got list"),
    (b'{"questions": "a"}', "`question` must be a non-empty text; got None"),
    (b'{"question": " "}', "`question` must be a non-empty text"),
    (b'{"question": "a", "text": "b"}', "only one of `question` and `text`"),
    (b'{"question": "a", "images": [1]}', "`images` must be a list of paths"),
    (b'{"question": "a", "images": ["http://x/y.png"]}', "must be paths of files, not addresses"),
    (b'{"question": "a", "image": "data:image/png;base64,AA"}', "must be paths of files, not addresses"),
    (b'{"question": "a", "options": "xy"}', "`options` must be a list; got 'xy'"),
    (b'{"question": "a", "options": ["x", "x"]}', "`options` must be distinct"),
    (b'{"question": "a", "options": [true]}', "`options` must hold texts or numbers; got True"),
    (b'{"question": "a", "answer": {}}', "`answer` must hold texts or numbers"),
    (b'{"question": "a", "seed": 1.5}', "`seed` must be a whole number"),
    (b'{"question": "a", "seed": ' + b"9" * 30 + b"}", "`seed` must be a whole number of 64 bits"),
    (b'{"question": "a", "answer": ' + b"9" * 5000 + b"}", "line 1: "),
    (b'{"question": "a", "id": ""}', "`id` must be a non-empty text"),
    (b'{"question": "a", "id": "a\\nb"}', "`id` must be at most 1,000 printable"),
    (b'{"question": "a\\ud800"}', "half of a surrogate pair"),
    (b"[" * 100_000, "line 1: must not be nested so deeply"),
    (b'{"question": "a", "id": 1}\n\n{"question": "b", "id": "1"}', "line 3: `id` must differ .* line 1 has '1' too"),
    (b'{"question": "a"}\n{"question": "b"}\n{"question": "a"}', "line 3: `id` must differ .* line 1 has"),
]


@pytest.mark.parametrize(("content", "reason"), BAD, ids=[reason[:40] for _, reason in BAD])
def test_bad_lines_are_named(content: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        list(read_questions(write(tmp_path, content)))
    assert "\n" not in str(caught.value)
    assert "q.jsonl" in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_a_line_of_ten_megabytes(tmp_path: Path) -> None:
    path = write(tmp_path, '{"question": "a"}\n{"question": "' + "x" * 10_000_000 + '"}\n')
    with pytest.raises(ValueError, match="line 2: must not be longer than 4 MiB"):
        list(read_questions(path))


def test_check_looks_for_files(tmp_path: Path) -> None:
    path = write(tmp_path, '{"question": "a"}\n{"question": "b", "images": ["gone.png"]}')
    assert len(list(read_questions(path))) == 2
    with pytest.raises(ValueError, match=r"line 2: `images` must be files that exist; there is no '.*gone\.png'"):
        list(read_questions(path, check=True))
    (tmp_path / "gone.png").touch()
    assert len(list(read_questions(path, check=True))) == 2


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        next(read_questions(tmp_path / "gone.jsonl"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
)
fields = st.sampled_from(["id", "question", "text", "image", "images", "videos", "options", "answer", "seed", "x"])


@given(st.lists(st.dictionaries(fields, json_values) | json_values, max_size=4), st.binary(max_size=20))
def test_whatever_a_file_holds_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], junk: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes("\n".join(json.dumps(row) for row in rows).encode() + junk)
    complaint = "any.jsonl"
    try:
        for entry in read_questions(path):
            json.dumps(entry.payload).encode()
            as_question(entry.payload, id=entry.id)
    except ValueError as error:
        complaint = str(error)
    assert "\n" not in complaint
    assert "any.jsonl" in complaint


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "q.jsonl"
    with path.open("w") as stream:
        stream.writelines(f'{{"id": {i}, "question": "{"x" * 500}"}}\n' for i in range(20_000))
    tracemalloc.start()
    assert sum(1 for _ in read_questions(path)) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000  # the file has more than ten million bytes


# ---- settings -----------------------------------------------------------------------------------


def test_every_setting_that_could_change_results_is_in_the_fingerprint() -> None:
    base: dict[str, Any] = {"strategy": make("mcts"), "budget": Budget(tokens=9), "seed": 0, "policy": {"a": 1}}
    known = fingerprint(**base, reward=None)
    assert known == json.loads(json.dumps(known))
    for name, other in (
        ("strategy", make("mcts", c=2.0)), ("strategy", make("beam")), ("strategy", make("mcts", scoring=Scoring())),
        ("strategy", make("mcts", patience=3)), ("budget", Budget(tokens=8)), ("budget", None), ("seed", 1),
        ("policy", {"a": 2}),
    ):  # fmt: skip
        assert fingerprint(**{**base, name: other}, reward=None) != known
    assert fingerprint(**base, reward={"b": 1}) != known
    assert fingerprint(**base, reward=None, warm_from="x.db") != known
    assert len(digest(known)) == 32


def test_a_model_is_what_it_answers_not_where_it_is() -> None:
    class Remote:
        kind = "orm"

        def __init__(self, url: str, model: str, temperature: float = 1.0) -> None:
            self.base_url, self.model, self.temperature = url, model, temperature
            self.api_key, self.timeout, self._session = "secret", 3.0, object()

    one, two = model_identity(Remote("http://a/v1", "m")), model_identity(Remote("http://b/v1", "m"))
    assert one == two
    assert "secret" not in json.dumps(one)
    assert model_identity(Remote("http://a/v1", "other")) != one
    assert model_identity(Remote("http://a/v1", "m", 0.5)) != one
    assert model_identity(HashPolicy(depth=3)) != model_identity(HashPolicy(depth=4))
    assert model_identity(CallablePolicy(len))["class"].endswith("CallablePolicy")  # type: ignore[index,arg-type]
    assert model_identity(None) is None

    class Named:
        def __init__(self) -> None:
            self.identity = {"name": "mine", "revision": 3}

    assert model_identity(Named()) == {"name": "mine", "revision": 3}


def test_a_folder_is_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "part").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "part" / "weights").write_bytes(bytes(range(256)) * 40)
    assert folder_identity(tmp_path / "a") == folder_identity(tmp_path / "b")
    before = folder_identity(tmp_path / "a")
    (tmp_path / "a" / "part" / "weights").write_bytes(bytes(range(256)) * 39 + bytes(256))
    assert folder_identity(tmp_path / "a") != before
    monkeypatch.setattr("svip_search.runs.settings._WHOLE", 100)
    monkeypatch.setattr("svip_search.runs.settings._END", 50)
    ends = folder_identity(tmp_path / "b")
    (tmp_path / "b" / "part" / "weights").write_bytes(bytes(range(256)) * 39 + bytes(256))
    assert folder_identity(tmp_path / "b") != ends


def test_the_table_of_the_module_names_all_fields() -> None:
    for name in ("question", "images", "videos", "options", "answer", "id", "seed"):
        assert f"\n{name}" in (module.__doc__ or "")


def test_models_behind_servers_are_told_apart_by_all_that_changes_their_answers() -> None:
    pytest.importorskip("aiohttp")
    judges = [JudgeReward("http://a/v1", "m", instructions=words, secret="s3cret") for words in ("strict", "kind")]
    assert model_identity(judges[0]) != model_identity(judges[1])
    assert model_identity(judges[0]) == model_identity(JudgeReward("http://b/v1", "m", instructions="strict"))
    assert "s3cret" not in str(model_identity(judges[0]))
    assert model_identity(OpenAIPolicy("http://a", "m")) != model_identity(OpenAIPolicy("http://a", "m", step_tokens=9))
    pairs = [HybridReward(HashReward(), judge) for judge in judges]
    assert digest(model_identity(pairs[0]) or {}) != digest(model_identity(pairs[1]) or {})

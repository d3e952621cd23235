"""``svip-search run``: from a file of questions to a file of results, with all that may come between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("apsw")

import run_cases
from run_cases import comparable, environment, finish, records, start_command, write_questions

from svip_search import make, solve
from svip_search._journal import Journal
from svip_search.cli import main
from svip_search.models import zoo
from svip_search.runs import runner as runner_module
from svip_search.runs.models import look_at_server
from svip_search.runs.questions import as_question
from svip_search.runs.runner import item_seed
from svip_search.testing import FaultyPolicy, HashPolicy, HashReward

Call = Callable[..., tuple[int, str, str]]
MODELS = ["--policy", "run_cases:SlowPolicy", "--reward", "run_cases:rewarding"]
SEARCH = ["--strategy", "mcts", "--n", "6"]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SVIP_TEST_PAUSE", "0.001")

    def command(*words: object) -> tuple[int, str, str]:
        code = main(["run", *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return write_questions(tmp_path / "q.jsonl", 12)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def expected(count: int, **settings: Any) -> list[dict[str, Any]]:
    """The rows of a run that nobody disturbs."""
    rows = []
    for record in records(count):
        question = as_question(record, id=record["id"])
        seed = item_seed(settings.get("seed", 0), record["id"])
        result = solve(question, HashPolicy(branching=3, depth=3), HashReward(), make("mcts", n=6), seed=seed)
        row = result.to_dict()
        del row["tree"]
        rows.append(comparable({"id": record["id"], **row}))
    return rows


def test_questions_in_results_out(call: Call, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    code, printed, err = call(questions, "--out", out, *MODELS, *SEARCH)
    assert (code, printed) == (0, "")
    assert err.splitlines()[-1] == "12 of 12 done"
    assert "questions 12/12" in err
    assert [comparable(row) for row in rows_of(out)] == expected(12)
    assert (tmp_path / "results.db").is_file()
    out.unlink()
    code, _, err = call(questions, "--out", out, *MODELS, *SEARCH, "--quiet")  # everything is there
    assert (code, err) == (0, "")
    assert [comparable(row) for row in rows_of(out)] == expected(12)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_goes_on(processes: int, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    words = [questions, "--out", out, *MODELS, *SEARCH, "--lease", 1, "--searches", 2, "--processes", processes]
    process = start_command(*words, pause=0.05)
    try:
        wait_until(lambda: done_in(tmp_path / "results.db") >= 2, process)
    finally:
        process.kill()
        process.communicate()
    assert not out.exists()
    code, _ = finish(start_command(*words, pause=0.001))
    assert code == 0
    assert [comparable(row) for row in rows_of(out)] == expected(12)


def done_in(path: Path) -> int:
    return peek(path, "done")


def leased_in(path: Path) -> int:
    return peek(path, "leased")


def peek(path: Path, column: str) -> int:
    """Read a count without making the journal, which is the command's to make."""
    import apsw

    try:
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    except apsw.CantOpenError:
        return 0
    try:
        return int(db.execute(f"SELECT {column} FROM counts").get)
    except apsw.Error:  # it is not there yet
        return 0
    finally:
        db.close()


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_once_finishes_what_is_open(
    number: signal.Signals, processes: int, questions: Path, tmp_path: Path
) -> None:
    out, path = tmp_path / "results.jsonl", tmp_path / "results.db"
    words = [questions, "--out", out, *MODELS, *SEARCH, "--searches", 1, "--processes", processes]
    process = start_command(*words, pause=0.05)
    try:
        wait_until(lambda: done_in(path) >= 1, process)
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        code, err = finish(process)
    finally:
        process.kill()
    assert code == 130
    with Journal.open(path) as journal:
        counts = journal.counts()
    assert (counts.leased, counts.failed) == (0, 0)
    assert 1 <= counts.done < 12
    assert len(rows_of(out)) == counts.done
    line = f"svip-search: interrupted: {counts.done} of 12 done; the same command does the other {counts.waiting}"
    assert err.splitlines()[-1] == line
    assert finish(start_command(*words, pause=0.001))[0] == 0
    assert [comparable(row) for row in rows_of(out)] == expected(12)


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_twice_ends_at_once(processes: int, questions: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "results.jsonl", tmp_path / "results.db"
    words = [questions, "--out", out, *MODELS, *SEARCH, "--searches", 4, "--processes", processes]
    process = start_command(*words, pause=1.0)  # a search takes six seconds
    try:
        wait_until(lambda: leased_in(path) == 4 * processes, process)
        time.sleep(0.5)  # what is claimed is opened
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        begin = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        code, err = finish(process)
        assert time.monotonic() - begin < 4
    finally:
        process.kill()
    assert code == 130
    assert err.splitlines()[-1].startswith("svip-search: interrupted: 0 of 12 done")
    assert leased_in(path) == 0
    assert finish(start_command(*words, pause=0.001))[0] == 0
    assert [comparable(row) for row in rows_of(out)] == expected(12)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds children in /proc")
def test_a_worker_that_is_killed_is_replaced(questions: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "results.jsonl", tmp_path / "results.db"
    words = [questions, "--out", out, *MODELS, *SEARCH, "--searches", 2, "--processes", 2, "--lease", 1]
    process = start_command(*words, pause=0.05)
    try:
        wait_until(lambda: done_in(path) >= 2, process)
        victims = workers_of(process.pid)
        assert len(victims) == 2
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        code, err = finish(process)
    finally:
        process.kill()
    assert (code, err.splitlines()[-1]) == (0, "12 of 12 done")
    assert [comparable(row) for row in rows_of(out)] == expected(12)


def workers_of(pid: int) -> list[int]:
    """Return the worker processes of a process: its children but for the one that tracks resources."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds children in /proc")
def test_workers_end_with_their_parent(questions: Path, tmp_path: Path) -> None:
    path = tmp_path / "results.db"
    words = [questions, "--out", tmp_path / "results.jsonl", *MODELS, *SEARCH, "--processes", 2]
    process = start_command(*words, pause=1.0)
    try:
        wait_until(lambda: leased_in(path) >= 12, process)
        victims = workers_of(process.pid)
        process.kill()
        process.communicate()
        end = time.monotonic() + 30
        while any(Path(f"/proc/{victim}").is_dir() for victim in victims) and time.monotonic() < end:
            time.sleep(0.05)
        assert not any(Path(f"/proc/{victim}").is_dir() for victim in victims)
    finally:
        process.kill()
    assert leased_in(path) == 0


def test_workers_that_cannot_load_their_models_say_so_once_each(questions: Path, tmp_path: Path) -> None:
    words = [questions, "--out", tmp_path / "r.jsonl", "--policy", "run_cases:nobody", "--reward", "none"]
    process = start_command(*words, "--strategy", "greedy", "--processes", 2, pause=0.0)
    code, err = finish(process)
    assert code == 2
    assert err.count("`policy` must name an object of a module; 'run_cases:nobody' does not") in (1, 2)
    assert "Traceback" not in err


# ---- settings, failures, output ------------------------------------------------------------------


def test_changed_settings_are_refused(call: Call, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    assert call(questions, "--out", out, *MODELS, *SEARCH)[0] == 0
    for words in (["--n", 7], ["--seed", 1], ["--temperature", 0.5], ["--budget-calls", 99], ["--reward", "none"],
                  ["--policy", "run_cases:SleepingPolicy"]):  # fmt: skip
        more = ["--strategy", "self-consistency"] if "none" in words else []
        code, _, err = call(questions, "--out", out, *MODELS, *SEARCH, *words, *more)
        assert code == 2
        assert err.startswith("svip-search: error: ")
        assert err.count("\n") == 1
    code, _, err = call(questions, "--out", out, *MODELS, *SEARCH, "--seed", 1)
    assert "seed" in err
    for words in (["--searches", 3], ["--lease", 5], ["--attempts", 1], ["--trees"], ["--no-call-cache"]):
        assert call(questions, "--out", out, *MODELS, *SEARCH, *words)[0] == 0


def test_changed_questions_are_refused_and_new_ones_added(call: Call, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    assert call(questions, "--out", out, *MODELS, *SEARCH)[0] == 0
    write_questions(questions, 14)
    assert call(questions, "--out", out, *MODELS, *SEARCH)[0] == 0
    assert [comparable(row) for row in rows_of(out)] == expected(14)
    questions.write_text(questions.read_text().replace("Which is 3?", "Which is three?"))
    code, _, err = call(questions, "--out", out, *MODELS, *SEARCH)
    assert code == 2
    assert "q3" in err
    assert err.count("\n") == 1


def test_failures_are_listed_and_can_be_tried_again(call: Call, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    lines = questions.read_text().splitlines()
    lines.insert(2, '{"id": "picture", "question": "Which?", "images": ["gone.png"]}')
    questions.write_text("\n".join(lines))
    code, _, err = call(questions, "--out", out, *MODELS, *SEARCH, "--check")
    assert code == 2
    assert "line 3: `images` must be files that exist" in err
    code, _, err = call(questions, "--out", out, *MODELS, *SEARCH)
    assert (code, err.splitlines()[-1]) == (1, "12 of 13 done, 1 failed")
    rows = rows_of(out)
    assert [row["id"] for row in rows] == ["q0", "q1", "picture", *(f"q{i}" for i in range(2, 12))]
    assert rows[2] == {"id": "picture", "error": f"there is no '{tmp_path / 'gone.png'}'"}
    assert call(questions, "--out", out, *MODELS, *SEARCH)[0] == 1  # it stays so
    (tmp_path / "gone.png").touch()
    code, _, err = call(questions, "--out", out, *MODELS, *SEARCH, "--retry-failed")
    assert (code, err.splitlines()[-1]) == (0, "13 of 13 done")


def test_models_that_fail(call: Call, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_cases, "broken", lambda: FaultyPolicy(HashPolicy(), "raises"), raising=False)
    words = [questions, "--out", tmp_path / "r.jsonl", "--policy", "run_cases:broken", "--reward", "none"]
    code, _, err = call(*words, "--strategy", "greedy", "--attempts", 1)
    assert (code, err.splitlines()[-1]) == (1, "0 of 12 done, 12 failed")
    monkeypatch.setattr(runner_module._Runner, "_sleep", lambda self, seconds: None)
    words[2] = tmp_path / "s.jsonl"
    code, _, err = call(*words, "--strategy", "greedy", "--attempts", 99, "--searches", 8)
    assert code == 1
    assert "all searches fail; nothing is lost" in err
    assert err.splitlines()[-1] == "0 of 12 done; the same command does the other 12"


def test_trees_parquet_export_only_and_warm_start(call: Call, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    assert call(questions, "--out", out, *MODELS, *SEARCH, "--trees")[0] == 0
    assert all(row["tree"]["text"] for row in rows_of(out))
    parquet = tmp_path / "r.parquet"
    code, _, err = call(questions, "--out", parquet, "--export-only", "--trees", tmp_path / "trees", "--quiet")
    assert (code, err) == (0, "")
    assert len(list((tmp_path / "trees").iterdir())) == 12
    pq = pytest.importorskip("pyarrow.parquet")
    assert pq.read_table(parquet)["id"].to_pylist() == [f"q{i}" for i in range(12)]
    warm = tmp_path / "warm.jsonl"
    words = [questions, "--out", warm, *MODELS, "--n", 12, "--trees", "--warm-from", tmp_path / "r.db"]
    assert call(*words)[0] == 0
    pairs = list(zip(rows_of(out), rows_of(warm), strict=True))
    for before, after in pairs:  # where everything is explored, a search ends
        assert after["tree"]["text"][: len(before["tree"]["text"])] == before["tree"]["text"]
    assert sum(after["tree"]["visits"][0] > before["tree"]["visits"][0] for before, after in pairs) > 6
    assert call(*words[:-2])[0] == 2  # begun from trees or not: not the same run


# ---- bad input -----------------------------------------------------------------------------------


def test_bad_input_is_one_line_and_code_2(call: Call, questions: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    (tmp_path / "bad.jsonl").write_text('{"question": "a"}\n{"question": 3}\n')
    (tmp_path / "text.db").write_text("this is no database" * 100)
    cases: list[tuple[list[object], str]] = [
        (["gone.jsonl", "--out", out], "there is no 'gone.jsonl'"),
        ([questions], "required: --out"),
        ([questions, "--out", "gone/r.jsonl"], "its folder must exist"),
        ([questions, "--out", questions], "must be three files"),
        ([questions, "--out", tmp_path / "r.db"], "must be three files"),
        ([questions, "--out", out, "--strategy", "guess"], "--strategy: must be one of"),
        ([questions, "--out", out, "--strategy", "retrieval-mcts"], "needs worked examples"),
        ([questions, "--out", out, "--reward", "none"], "--reward: this strategy needs a reward model"),
        ([questions, "--out", out, "--policy", "nobody"], "`policy` must be"),
        ([questions, "--out", out, "--policy", "run_cases:nobody"], "must name an object of a module"),
        ([questions, "--out", out, *MODELS, "--lease", 0.01], "`lease` must be a number of at least 0.1"),
        ([questions, "--out", out, "--policy", "http://127.0.0.1:1/v1", "--reward", "none", "--strategy", "greedy"],
         "argument --model"),
        ([questions, "--out", out, "--export-only"], "there is no journal"),
        ([questions, "--out", out, *MODELS, "--journal", tmp_path / "text.db"], "text.db is no journal"),
        ([questions, "--out", out, *MODELS, "--warm-from", "gone.db"], "there is no 'gone.db'"),
        (["bad.jsonl", "--out", out, *MODELS], "'bad.jsonl', line 2: `question` must be"),
    ]  # fmt: skip
    for words, reason in cases:
        for file in tmp_path.glob("r.db*"):
            file.unlink()
        code, printed, err = call(*words)
        assert (code, printed) == (2, ""), words
        assert err.startswith("svip-search: error: ")
        assert err.count("\n") == 1
        assert reason in err
    assert not out.exists()


def test_a_locked_journal(call: Call, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import apsw

    out = tmp_path / "r.jsonl"
    assert call(questions, "--out", out, *MODELS, *SEARCH)[0] == 0
    write_questions(questions, 14)
    opened = Journal.open
    monkeypatch.setattr(Journal, "open", lambda *names, **more: opened(*names, wait=0.2, **more))
    other = apsw.Connection(str(tmp_path / "r.db"))
    other.execute("BEGIN EXCLUSIVE")
    try:
        code, _, err = call(questions, "--out", out, *MODELS, *SEARCH)
    finally:
        other.close()
    assert code == 2
    assert "is locked by another process" in err
    assert err.count("\n") == 1
    assert call(questions, "--out", out, *MODELS, *SEARCH)[0] == 0
    assert [comparable(row) for row in rows_of(out)] == expected(14)


def test_a_full_disk(questions: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    out = tmp_path / "r.jsonl"
    write_questions(questions, 300)
    words = [sys.executable, "-m", "svip_search.cli", "run", questions, "--out", out, *MODELS, *SEARCH, "--lease", 2]
    limit = 600_000

    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = subprocess.run(
        list(map(str, words)), env=environment(SVIP_TEST_PAUSE="0"), capture_output=True, text=True,
        preexec_fn=no_large_files, timeout=60, check=False,
    )  # fmt: skip
    assert process.returncode == 2
    last = process.stderr.splitlines()[-1]
    assert last.startswith("svip-search: error: the journal")
    assert "Traceback" not in process.stderr
    code, _ = finish(start_command(*words[4:], pause=0.0))  # there is room again
    assert code == 0
    assert [comparable(row) for row in rows_of(out)] == expected(300)


# ---- real models ---------------------------------------------------------------------------------


def write_puzzles(folder: Path, count: int) -> Path:
    pytest.importorskip("torch")
    from svip_search import generate_puzzle

    lines = []
    for index in range(count):
        puzzle = generate_puzzle(seed=77, index=index)
        puzzle.image.save(folder / f"{index}.png")
        question = puzzle.question
        lines.append({"id": f"p{index}", "question": question.text, "images": [f"{index}.png"],
                      "options": question.options, "answer": question.answer})  # fmt: skip
    path = folder / "puzzles.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.mark.skipif(not zoo.list_models(), reason="the embedded weights are not there")
def test_puzzles_with_the_embedded_models(call: Call, tmp_path: Path) -> None:
    puzzles = write_puzzles(tmp_path, 4)
    models = ["--policy", "puzzle-nano", "--reward", "svip-tiny", "--n", 4]
    code, _, err = call(puzzles, "--out", tmp_path / "a.jsonl", *models, "--searches", 1)
    assert (code, err.splitlines()[-1]) == (0, "4 of 4 done")
    code, _, _ = call(puzzles, "--out", tmp_path / "b.jsonl", *models, "--searches", 4)
    one, four = rows_of(tmp_path / "a.jsonl"), rows_of(tmp_path / "b.jsonl")
    assert [row["id"] for row in one] == ["p0", "p1", "p2", "p3"]
    for a, b in zip(one, four, strict=True):
        assert a["answer"] in a["options"]
        assert a["answer"] == b["answer"]
        assert [s["text"] for s in a["trajectory"]["steps"]] == [s["text"] for s in b["trajectory"]["steps"]]


def test_models_behind_addresses(call: Call, questions: Path, tmp_path: Path) -> None:
    """A server of the policy and one of the reward model; where they stand is no part of the run."""
    pytest.importorskip("uvicorn")
    from svip_search.serving import policy_app, reward_app, running

    out = tmp_path / "r.jsonl"
    search = ["--model", "policy", "--strategy", "best-of-n", "--n", 3]
    policy, reward = HashPolicy(branching=3, depth=3), HashReward()
    with running(policy_app(policy)) as first, running(reward_app(reward)) as second:
        words = [questions, "--out", out, "--policy", first, "--reward", second, *search]
        code, _, err = call(*words)
        assert (code, err.splitlines()[-1]) == (0, "12 of 12 done")
    before = rows_of(out)
    assert all(row["answer"] in row["options"] and not row["degraded"] for row in before)
    write_questions(questions, 14)
    with running(policy_app(policy)) as first, running(reward_app(reward)) as second:
        words[4], words[6] = first, second
        assert call(*words)[0] == 0
    assert rows_of(out)[:12] == before
    with running(policy_app(policy)) as first, running(reward_app(reward, name="another")) as second:
        words[4], words[6] = first, second
        code, _, err = call(*words)
        assert code == 2
        assert "another" in err  # not the reward model that the run began with
    words[8] = "another"
    assert call(*words)[0] == 2


def test_a_server_is_looked_at_before_the_run(call: Call, questions: Path, tmp_path: Path) -> None:
    """A wrong key ends the run at once; a model that is not listed is said, since some servers answer to any name."""
    pytest.importorskip("uvicorn")
    from svip_search.serving import policy_app, running

    words = [questions, "--out", tmp_path / "r.jsonl", "--reward", "none", "--strategy", "greedy"]
    policy = HashPolicy(branching=3, depth=3)
    with running(policy_app(policy, token="secret")) as url:
        code, _, err = call(*words, "--policy", url, "--model", "policy")
    assert code == 2
    assert err.splitlines()[-1].startswith("svip-search: error: argument --api-key-env: ")
    assert "401" in err
    with running(policy_app(policy, name="mine")) as url:
        assert look_at_server(url, "mine") is None
        assert look_at_server(url, "yours") == "the policy server lists 'mine', and not 'yours'"
    assert look_at_server(url, "mine", seconds=1.0) is None  # it is away: a run waits for it
    assert look_at_server("puzzle-nano", None) is None


def test_workers_that_die_one_after_another(questions: Path, tmp_path: Path) -> None:
    """Not even one question is answered: a question, or a model, that kills whoever touches it."""
    words = [questions, "--out", tmp_path / "r.jsonl", "--policy", "run_cases:DeadlyPolicy", "--reward", "none"]
    process = start_command(*words, "--strategy", "greedy", "--processes", 2, "--lease", 1, pause=0.0)
    code, err = finish(process)
    assert code == 1
    assert "one process after another has died (signal 9)" in err
    assert err.splitlines()[-1] == "0 of 12 done; the same command does the other 12"

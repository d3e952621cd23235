"""``svip-search run`` and what it does not control: its output, its terminal, its journal's place, early signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("apsw")

from run_cases import SlowPolicy, comparable, environment, finish, start_command, undisturbed, write_questions

from svip_search._journal import Journal
from svip_search.cli import main

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals, links and devices of Unix")
MODELS = ["--policy", "run_cases:SlowPolicy", "--reward", "run_cases:rewarding", "--strategy", "mcts", "--n", "6"]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return write_questions(tmp_path / "q.jsonl", 12)


def loads_slowly() -> SlowPolicy:
    """A policy of which one sees when it is loaded, and that takes its time for it."""
    Path(os.environ["SVIP_TEST_MARK"]).touch()
    time.sleep(10)
    return SlowPolicy()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def has_done(path: Path, count: int) -> bool:
    if not path.is_file() or not path.stat().st_size:
        return False
    import apsw

    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return int(db.execute("SELECT done FROM counts").get) >= count
    except apsw.Error:  # not there yet
        return False
    finally:
        db.close()


def failure(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Return the one line that a command in vain prints."""
    assert main(["run", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("svip-search: error: ")
    assert err.count("\n") == 1
    return err


# ---- output --------------------------------------------------------------------------------------


def test_devices_and_pipes_are_not_replaced(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of results is renamed into place: as root, even /dev/null would be one then."""
    (tmp_path / "null.jsonl").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name in ("null.jsonl", "pipe.jsonl"):
        assert "--out: must be a file" in failure(capsys, questions, "--out", tmp_path / name, *MODELS)
    assert (tmp_path / "null.jsonl").is_char_device()
    assert (tmp_path / "pipe.jsonl").is_fifo()
    assert not list(tmp_path.glob("*.db"))


def test_a_link_stays_a_link(questions: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    out = tmp_path / "r.jsonl"
    out.symlink_to(tmp_path / "elsewhere" / "r.jsonl")
    assert main(["run", str(questions), "--out", str(out), *MODELS, "--quiet"]) == 0
    assert out.is_symlink()
    assert len((tmp_path / "elsewhere" / "r.jsonl").read_text().splitlines()) == 12


def test_what_cannot_be_written_is_said_before_the_search(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r.jsonl"
    (tmp_path / "file").touch()
    trees = failure(capsys, questions, "--out", out, *MODELS, "--trees", tmp_path / "file")
    assert "--trees: must be a folder that can be made; File exists" in trees
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everything
    assert "--out: its folder must be one that can be written" in failure(capsys, questions, "--out", out, *MODELS)
    assert not list(tmp_path.glob("*.db"))


def test_a_full_disk_at_the_end(questions: Path, tmp_path: Path) -> None:
    """The results are larger than a file may be; the journal is there already, and small enough."""
    resource = pytest.importorskip("resource")
    out, journal = tmp_path / "r.jsonl", tmp_path / "r.db"
    write_questions(questions, 60)
    first = start_command(questions, "--out", tmp_path / "first.jsonl", "--journal", journal, *MODELS, pause=0.0)
    assert finish(first)[0] == 0
    out.write_text("the results of before\n")
    limit = (tmp_path / "first.jsonl").stat().st_size // 2
    words = [sys.executable, "-m", "svip_search.cli", "run", questions, "--out", out, "--export-only"]
    process = subprocess.run(
        [*map(str, words)], env=environment(), capture_output=True, text=True, timeout=60, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert process.returncode == 2
    assert f"the results cannot be written to '{out}': File too large" in process.stderr
    assert f"they are in {journal}, and --export-only writes them again" in process.stderr
    assert process.stderr.count("\n") == 1
    assert out.read_text() == "the results of before\n"
    assert not list(tmp_path.glob(".*.part"))
    assert finish(start_command(*words[4:], pause=0.0))[0] == 0
    assert out.read_text() == (tmp_path / "first.jsonl").read_text()


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full", "2> >(true)", "<&- >&- 2>&-"])
def test_nobody_needs_to_listen(processes: int, stderr: str, questions: Path, tmp_path: Path) -> None:
    if shutil.which("bash") is None or not Path("/dev/full").exists():
        pytest.skip("needs bash and /dev/full")
    words = [sys.executable, "-W", "error", "-m", "svip_search.cli", "run", str(questions), "--out", "r.jsonl", *MODELS]
    command = ["bash", "-c", f'"$@" --processes {processes} {stderr}', "bash", *words]
    process = subprocess.run(
        command, cwd=tmp_path, env=environment(SVIP_TEST_PAUSE="0"), capture_output=True, timeout=120, check=False
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, b"", b"")
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 12


# ---- the journal's place -------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_journal_that_disappears_is_saved(processes: int, how: str, questions: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    write_questions(questions, 60)
    words = [questions, "--out", tmp_path / "r.jsonl", *MODELS, "--searches", 2, "--processes", processes, "--lease", 1]
    process = start_command(*words, pause=0.02)
    try:
        wait_until(lambda: has_done(path, 5), process)
        if how == "deleted":
            for name in ("r.db", "r.db-wal", "r.db-shm"):
                (tmp_path / name).unlink()
        else:
            (tmp_path / "other").write_bytes(b"something else" * 1000)
            (tmp_path / "other").replace(path)
        code, err = finish(process)
    finally:
        process.kill()
    assert code == 2
    last = f"the journal {path} was deleted, moved or replaced during the run; everything that was in it is in"
    assert err.splitlines()[-1] == f"svip-search: error: {last} {path}.saved"
    assert "Traceback" not in err
    for left in tmp_path.glob("r.db*"):
        if not left.name.endswith(".saved"):
            left.unlink()
    Path(f"{path}.saved").rename(path)
    with Journal.open(path) as journal:
        journal.verify()
        assert 5 <= journal.counts().done < 60
    assert finish(start_command(*words, pause=0.0))[0] == 0
    rows = {row["id"]: comparable(row) for row in map(json.loads, (tmp_path / "r.jsonl").read_text().splitlines())}
    assert rows == undisturbed(tmp_path / "ref", 60)


def test_an_empty_file_is_no_journal_to_export(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would become one without settings, which no run could use then."""
    (tmp_path / "r.db").touch()
    words = [questions, "--out", tmp_path / "r.jsonl", *MODELS]
    assert "there is no journal" in failure(capsys, *words, "--export-only")
    assert main(["run", *map(str, words), "--quiet"]) == 0


# ---- early signals -------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_while_models_are_loaded(
    processes: int, number: int, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    words = [questions, "--out", tmp_path / "r.jsonl", *MODELS, "--policy", f"{Path(__file__).stem}:loads_slowly"]
    monkeypatch.setenv("SVIP_TEST_MARK", str(mark))
    process = start_command(*words, "--processes", processes, pause=0.0)
    try:
        wait_until(mark.exists, process)
        begin = time.monotonic()
        for _ in range(1 + (processes > 1)):  # one process has nothing to end yet
            os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
            time.sleep(0.3)
        code, err = finish(process)
        assert time.monotonic() - begin < 8
    finally:
        process.kill()
    assert code == 130
    assert err.splitlines()[-1].startswith("svip-search: interrupted")
    assert "Traceback" not in err


def test_sigterm_while_questions_are_read(questions: Path, tmp_path: Path) -> None:
    write_questions(questions, 400_000)
    process = start_command(questions, "--out", tmp_path / "r.jsonl", *MODELS, pause=0.0)
    try:
        wait_until((tmp_path / "r.db").exists, process)
        time.sleep(0.5)
        process.terminate()
        assert finish(process) == (130, "svip-search: interrupted\n")
    finally:
        process.kill()


def test_a_second_request_just_before_the_search(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from svip_search.runs import workers

    def interrupted(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(workers, "take_part_here", interrupted)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    assert main(["run", str(questions), "--out", str(tmp_path / "r.jsonl"), *MODELS]) == 130
    assert capsys.readouterr().err.endswith("interrupted: 0 of 12 done; the same command does the other 12\n")

"""The command on a Ray cluster that it starts itself, interrupted, killed, and gone on with elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_cases import OPTIONS, finish, start_command, write_questions

from svip_search._journal import Journal

pytest.importorskip("ray", reason="needs Ray")
SEARCH = ["--strategy", "mcts", "--n", "6"]
MODELS = ["--policy", "run_cases:SlowPolicy", "--reward", "run_cases:rewarding"]


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def done_in(path: Path) -> int:
    if not path.exists():
        return 0
    with Journal.open(path) as journal:
        return journal.counts().done


def results_in(path: Path) -> dict[str, Any]:
    with Journal.open(path) as journal:
        journal.verify()
        return {id: {k: v for k, v in row.items() if k != "usage"} for id, row in journal.results()}


def test_interrupted_killed_and_continued_without_ray(tmp_path):
    questions = write_questions(tmp_path / "q.jsonl", 60)
    words = [questions, "--out", tmp_path / "r.jsonl", *MODELS, *SEARCH, "--lease", 1.5, "--searches", 2]
    cluster = ["--ray", "--processes", 2]
    path = tmp_path / "r.db"

    process = start_command(*words, *cluster, pause=0.05)
    try:
        wait_until(lambda: done_in(path) >= 1, process)
        os.killpg(process.pid, signal.SIGINT)
        code, err = finish(process)
    finally:
        process.kill()
    first = done_in(path)
    assert code == 130 and 1 <= first < 60, err
    assert err.splitlines()[-1].startswith(f"svip-search: interrupted: {first} of 60 done; the same command does")

    process = start_command(*words, *cluster, pause=0.05)
    try:
        wait_until(lambda: done_in(path) > first, process)
    finally:
        process.kill()  # the driver; its cluster goes with it
        process.communicate()
    assert first < done_in(path) < 60

    code, err = finish(start_command(*words, pause=0.001))
    assert code == 0, err
    assert finish(start_command(*words[:2], tmp_path / "local.jsonl", *words[3:], pause=0.001))[0] == 0
    assert results_in(path) == results_in(tmp_path / "local.db")
    assert all(row["answer"] in OPTIONS for row in results_in(path).values())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ray", "127.0.0.1:9"], "`address` must be that of a Ray cluster; '127.0.0.1:9' is not"),
        (["--ray", "ray://head:10001"], "`address` must be host:port or 'auto'"),
        (["--policy-replicas", "2"], "need --ray"),
    ],
)
def test_a_wrong_cluster_is_one_line_and_code_2(tmp_path, more, message):
    questions = write_questions(tmp_path / "q.jsonl", 2)
    code, err = finish(start_command(questions, "--out", tmp_path / "r.jsonl", *MODELS, *SEARCH, *more, pause=0.001))
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1, err


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds children in /proc")
def test_sigterm_is_a_request_too_and_an_early_ctrl_c_is_not_lost(tmp_path):
    """Ray takes SIGTERM for itself; and workers are started long after the command."""
    questions = write_questions(tmp_path / "q.jsonl", 300)
    path = tmp_path / "r.db"
    words = [questions, "--out", tmp_path / "r.jsonl", *MODELS, *SEARCH, "--lease", 1.5, "--searches", 2, "--ray"]
    process = start_command(*words, pause=0.05)
    try:
        wait_until(lambda: done_in(path) >= 1, process)
        process.terminate()
        code, err = finish(process)
    finally:
        process.kill()
    first = done_in(path)
    assert code == 130 and 1 <= first < 300, err
    assert (
        err.strip() == f"svip-search: interrupted: {first} of 300 done; the same command does the other {300 - first}"
    )

    process = start_command(*words, pause=0.05)
    try:
        wait_until(lambda: cluster_of(process.pid), process)
        os.killpg(process.pid, signal.SIGINT)
        code, err = finish(process)
    finally:
        process.kill()
    assert code == 130 and done_in(path) < 300, err


def cluster_of(pid: int) -> bool:
    """Whether a command has begun to start a cluster."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return any(b"gcs_server" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)

"""Two processes share a run and are killed at random moments: nothing is lost, nothing is there twice.

``SVIP_RUN_KILLS=200 pytest tests/runs/test_run_kill.py`` kills that many; 30 by default.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("apsw")

from run_cases import new_journal, results_of, start_process, undisturbed

KILLS = int(os.environ.get("SVIP_RUN_KILLS", "30"))
ITEMS = 16 * KILLS
PAUSE, LEASE = 0.02, 1.0


def test_nothing_is_lost_or_doubled_by_kills(tmp_path: Path) -> None:
    expected = undisturbed(tmp_path / "undisturbed", ITEMS)
    rng = Random(7)
    path = tmp_path / "run.db"
    processes: list[subprocess.Popen[bytes]] = []
    kills = 0
    with new_journal(tmp_path, ITEMS) as journal:
        try:
            processes += [start_process(path, PAUSE, LEASE) for _ in range(2)]
            while kills < KILLS:
                time.sleep(rng.uniform(0.1, 1.1))
                victim = rng.randrange(2)
                if processes[victim].poll() is None:
                    processes[victim].kill()
                    kills += 1
                processes[victim].wait()
                counts = journal.counts()
                if counts.done == counts.total:
                    break
                processes[victim] = start_process(path, PAUSE, LEASE)
            assert [process.wait(120) for process in processes if process.poll() is None] in ([0], [0, 0], [])
            processes.append(start_process(path, PAUSE, LEASE))  # where the last to be killed was the last at all
            assert processes[-1].wait(120) == 0
        finally:
            for process in processes:
                process.kill()
                process.wait()
        journal.verify()
        counts = journal.counts()
        assert (counts.done, counts.waiting, counts.leased, counts.failed) == (ITEMS, 0, 0, 0)
        found = list(journal.results())
        assert len(found) == len({id for id, _ in found}) == ITEMS
        assert results_of(journal) == expected
    assert kills >= KILLS // 2  # a fast machine may be done before
    print(f"{kills} kills, {ITEMS} questions")

"""Nothing finished is lost and nothing is done twice, however often the workers are killed."""

from __future__ import annotations

import os

import pytest
from journal_worker import kill_many

#: `benchmarks/runs/bench_journal.py` does 200.
KILLS = int(os.environ.get("SVIP_JOURNAL_KILLS", "30"))


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is a signal")
def test_kill_9(tmp_path):
    found = kill_many(tmp_path, KILLS)
    assert found["kills"] >= KILLS
    assert (found["lost"], found["doubled"], found["wrong"]) == (0, 0, 0)
    # A worker may be killed between writing a result and telling so.
    assert found["items"] - found["kills"] <= found["reported"] <= found["items"]

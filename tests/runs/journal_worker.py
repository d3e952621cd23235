"""What only processes of their own can do: be killed in the middle, hold a lock while others wait, fill a disk.

``kill_many`` drives workers that claim and finish items and are killed at random; ``python journal_worker.py hold
JOURNAL SQL`` and ``python journal_worker.py fill JOURNAL`` are for the tests of locks and of disks.
"""

from __future__ import annotations

import multiprocessing
import random
import sys
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from svip_search._journal import Journal

#: Workers start from a process that has imported everything: in milliseconds, not in half a second.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["journal_worker"])


def work(path: Path, log: Path, owner: str, lease: float, ready: Connection) -> None:
    """Claim, sometimes renew, release or fail, and finish, until nothing is left.

    The id of every item is appended to ``log`` after `finish` said that it wrote the result.
    """
    chance = random.Random(owner)
    with Journal.open(path, wait=60) as journal, open(log, "ab", buffering=0) as told:
        ready.send("ready")
        while (counts := journal.counts()).done < counts.total:
            for item in journal.claim(owner, chance.randint(1, 8), lease):
                turn = chance.random()
                if turn < 0.05:
                    journal.release(owner, [item.id])
                elif turn < 0.1:
                    journal.fail(owner, item.id, "by chance", attempts=1_000_000)
                else:
                    if turn < 0.2:
                        journal.renew(owner, [item.id], lease)
                    journal.cache({f"call of {item.id}": item.id.encode() * 50})
                    if journal.finish(owner, item.id, {"id": item.id, "text": "x" * chance.randint(0, 9000)}):
                        told.write(f"{item.id}\n".encode())


class Worker:
    """A process that works; it is ready once its journal is open."""

    def __init__(self, path: Path, log: Path, owner: str, lease: float) -> None:
        self._ready, ready = PROCESSES.Pipe(duplex=False)
        self.process: Any = PROCESSES.Process(target=work, args=(path, log, owner, lease, ready))
        self.process.start()
        ready.close()

    def wait_until_ready(self) -> None:
        assert self._ready.recv() == "ready"

    def end(self, *, kill: bool) -> int:
        """Kill it, or wait for it; return its exit code."""
        if kill:
            self.process.kill()
        self.process.join(300)
        code: int = self.process.exitcode
        self._ready.close()
        self.process.close()
        return code


def kill_many(folder: Path, kills: int, *, lease: float = 0.2, seed: int = 0) -> dict[str, float]:
    """Kill one of two workers ``kills`` times at random moments, let the others end the work, and return what was lost.

    Returns:
        kills, items, reported (results that a worker said it wrote), lost (of those, not in the journal),
        doubled (reported more than once), wrong (with another item's contents) and seconds.
    """
    chance, path, log = random.Random(seed), folder / "kill.journal", folder / "finished.log"
    begin, killed, number, total = time.perf_counter(), 0, 0, 0
    workers: list[Worker] = []
    with Journal.open(path, wait=60) as journal:
        try:
            while killed < kills:
                if (counts := journal.counts()).done > counts.total - 100:  # there is always something to do
                    journal.add((f"item {i}", "hash", None) for i in range(total, total + 300))
                    total += 300
                while len(workers) < 2:
                    workers.append(Worker(path, log, f"owner {number}", lease))
                    number += 1
                workers[0].wait_until_ready()
                time.sleep(chance.expovariate(1 / 0.03))
                killed += workers.pop(0).end(kill=True) < 0
            workers.append(Worker(path, log, "the last owner", lease))
            while workers:
                assert workers[-1].end(kill=False) == 0
                workers.pop()
        finally:
            for worker in workers:
                worker.end(kill=True)
        journal.verify()
        results = dict(journal.results())
        assert journal.counts().done == total
    reported = Counter(log.read_text(encoding="utf-8").split("\n")[:-1])
    return {
        "kills": killed,
        "items": total,
        "reported": sum(reported.values()),
        "lost": sum(id not in results for id in reported) + total - len(results),
        "doubled": sum(times > 1 for times in reported.values()),
        "wrong": sum(result["id"] != id for id, result in results.items()),
        "seconds": round(time.perf_counter() - begin, 1),
    }


def hold(path: str, sql: str) -> None:
    """Hold a lock until standard input ends."""
    import apsw

    db = apsw.Connection(path)
    for statement in sql.split(";"):
        db.execute(statement).fetchall()
    print("ready", flush=True)
    sys.stdin.read()


def fill(path: str) -> None:
    """Finish items with large results until there is no more room; print how many were reported, and the error."""
    from svip_search._errors import JournalError

    reported = 0
    with Journal.open(path) as journal:
        try:
            journal.add((str(i), "hash", None) for i in range(10_000))
            for item in journal.claim("me", 10_000, 600):
                reported += journal.finish("me", item.id, "x" * 20_000)
        except JournalError as error:
            print(reported, error, sep="\n")
            return
    print("no error")


if __name__ == "__main__":
    {"hold": hold, "fill": fill}[sys.argv[1]](*sys.argv[2:])

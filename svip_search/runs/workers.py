"""Processes of one machine that share a journal, and who looks after them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .._budget import Budget
from .._errors import PolicyError, SvipSearchError
from .._schedule import RunStats, Schedule
from .._tree import Tree
from ..strategies import Strategy
from . import models
from .protocols import Counts, Store
from .runner import Abandoned, RunReport, Show, run
from .stop import Stop, without_keyboard

#: Workers that may die one after another without anything being finished meanwhile.
DEATHS = 5
#: Seconds between two looks at the workers and the journal.
LOOK = 0.5


@dataclass(frozen=True)
class Plan:
    """Everything a process needs to take part in a run; it can be pickled.

    Args:
        journal: path of the journal.
        folder: where relative paths of pictures begin.
        policy: see `svip_search.runs.models.load_policy`.
        model: the name a server knows the policy by.
        reward: a name, or ``"none"``.
        strategy: of all searches.
        budget: of each search.
        seed: of the run.
        searches: open at a time.
        lease: seconds.
        attempts: how often an item is tried.
        keep_trees: write trees too.
        warm_from: path of a journal whose trees are searched further.
        cache: keep calls of the models.
        api_key_name: of the environment variable with the key of the servers.
    """

    journal: str
    folder: str
    policy: str
    reward: str
    strategy: Strategy
    budget: Budget
    model: str | None = None
    seed: int = 0
    searches: int = 16
    lease: float = 60.0
    attempts: int = 3
    keep_trees: bool = False
    warm_from: str | None = None
    cache: bool = True
    api_key_name: str = "SVIP_API_KEY"

    def load(self) -> tuple[Any, Any]:
        """Return the models."""
        key = os.environ.get(self.api_key_name)
        return models.load_policy(self.policy, self.model, key), models.load_reward(self.reward, key)


def take_part(
    plan: Plan,
    loaded: tuple[Any, Any],
    store: Store,
    trees: Callable[[str], Tree | None] | None,
    interrupt: Callable[[], int],
    progress: Show | None = None,
) -> RunReport:
    """Do a share of a run in this process.

    Args:
        plan: what is to be done.
        loaded: policy and reward model.
        store: the journal, or what stands in for it.
        trees: finds the tree that a search begins with; asked only if the plan says that there are some.
        interrupt: see `run`.
        progress: see `run`.
    """
    return run(
        store, *loaded, plan.strategy, plan.budget, seed=plan.seed, schedule=Schedule(searches=plan.searches),
        folder=plan.folder, lease=plan.lease, attempts=plan.attempts, keep_trees=plan.keep_trees,
        trees=None if plan.warm_from is None else trees, cache=plan.cache, interrupt=interrupt, progress=progress,
    )  # fmt: skip


def take_part_here(
    plan: Plan, loaded: tuple[Any, Any], interrupt: Callable[[], int], progress: Show | None = None
) -> RunReport:
    """Do the same with the journal opened by its path."""
    from .._journal import Journal

    with contextlib.ExitStack() as stack:
        trees = None if plan.warm_from is None else stack.enter_context(saved_trees(plan.warm_from))
        journal = stack.enter_context(Journal.open(plan.journal, create=False))
        return take_part(plan, loaded, journal, trees, interrupt, progress)


class SavedTrees:
    """Finds the tree of an id in the journal of a run that has kept its trees; to be closed."""

    def __init__(self, path: str) -> None:
        from .._journal import Journal

        if not os.path.isfile(path):
            raise ValueError(f"`warm_from` must be the journal of a run; there is no '{path}'.")
        self._journal = Journal.open(path, create=False)

    def __call__(self, id: str) -> Tree | None:
        for _, result in self._journal.results([id]):
            return Tree.from_dict(result["tree"]) if result.get("tree") else None
        return None

    def __enter__(self) -> SavedTrees:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()


def saved_trees(path: str) -> SavedTrees:
    """Return the trees in a journal; raises ValueError where there is none."""
    return SavedTrees(path)


class Deaths:
    """Counts workers that die without anything being finished meanwhile."""

    def __init__(self) -> None:
        self.count = 0
        self._done = -1

    def tolerates(self, counts: Counts) -> bool:
        """Take note of a death; return whether another worker may be started."""
        done = counts.done + counts.failed
        self.count = self.count + 1 if done == self._done else 1
        self._done = done
        return self.count < DEATHS


class Workers:
    """Processes that take part in a run, each with models of its own.

    Args:
        plan: what they do.
        count: how many.
        store: their journal, to see how the run stands.

    Notes:
        A process that was killed is replaced.  Ctrl-C reaches the parent alone, which passes it on; where
        the parent is gone, its workers end at once.
    """

    def __init__(self, plan: Plan, count: int, store: Store) -> None:
        self.plan, self.count, self.store = plan, count, store
        self._context = multiprocessing.get_context("spawn")
        self._spent = self._context.Value("q", 0)
        self._alive: list[Any] = []
        self._deaths = Deaths()
        self._gave_up = False

    def pids(self) -> list[int]:
        """Return the numbers of the processes that run."""
        return [worker.pid for worker in self._alive]

    def run(self, stop: Stop, progress: Show) -> int:
        """Start the processes and wait for them; return 0, or the code with which one of them gave up."""
        stop.told = lambda level: self._pass_on()
        code = 0
        start = time.monotonic()
        try:
            for _ in range(self.count):
                if not stop.level:
                    self._start()
            while self._alive:
                self._alive[0].join(LOOK)
                code = self._look(stop) or code
                counts = self.store.counts()
                progress(counts, self._stats(time.monotonic() - start))
        finally:
            for worker in self._alive:
                worker.kill()
                worker.join()
        return code

    def _start(self) -> None:
        worker = self._context.Process(target=_work, args=(self.plan, self._spent, os.getpid()), daemon=True)
        with without_keyboard():
            worker.start()
            self._alive.append(worker)

    def _look(self, stop: Stop) -> int:
        """Take leave of the processes that have ended; replace those that were killed."""
        code = 0
        for worker in [worker for worker in self._alive if worker.exitcode is not None]:
            self._alive.remove(worker)
            if worker.exitcode < 0 and not stop.level and not self._gave_up:
                if not self._deaths.tolerates(self.store.counts()):
                    raise PolicyError(f"one process after another has died (signal {-worker.exitcode})")
                self._start()
            elif worker.exitcode in (1, 2):
                code, self._gave_up = worker.exitcode, True
                self._pass_on()  # what stops one, stops the others
        return code

    def _pass_on(self) -> None:
        for worker in self._alive:
            worker.terminate()

    def _stats(self, seconds: float) -> RunStats:
        stats = RunStats(seconds=seconds)
        stats.usage.policy_tokens = self._spent.value
        return stats


def _work(plan: Plan, spent: Any, parent: int) -> None:
    """Take part in a run, in a process of its own."""
    told = 0

    def show(_: Counts, stats: RunStats) -> None:
        nonlocal told
        with spent.get_lock():
            spent.value += max(0, stats.usage.tokens - told)
        told = stats.usage.tokens

    stop = Stop()
    with stop.listening(keyboard=False):
        try:
            take_part_here(plan, plan.load(), lambda: stop.level if os.getppid() == parent else 2, show)
        except Abandoned:
            pass  # while models were loaded, say
        except (SvipSearchError, ValueError, TypeError, OSError, ImportError) as error:
            with contextlib.suppress(OSError):  # nobody reads it
                print(f"svip-search: error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(1 if isinstance(error, PolicyError) else 2)
    sys.exit(130 if stop.level else 0)

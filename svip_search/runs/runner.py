"""Runs that survive anything: many searches, whose results go into a journal one by one.

::

    while items are waiting, or leased to others:
        claim some, only as searches are opened       their leases are renewed while they are searched
        solve_many(...)                               the search of an item depends on (question, settings, seed)
        finish each as its result comes               once: the first result of an item counts
        wait for what others have leased              and take over what they have left behind

Several processes, and machines, may run on one journal; whichever of them dies, at whatever moment, the
others and the next run do what is missing, and nothing twice.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

from .._budget import Budget, Usage
from .._drive import Run
from .._schedule import RunStats, Schedule, Task
from .._solve import solve_many
from .._tree import Tree
from .._types import Policy, Result, RewardModel
from ..strategies import MCTS, Strategy, make
from .cached import CachedPolicy, CachedReward, CallCache
from .health import Health
from .leases import Leases
from .protocols import Counts, Item, Store
from .questions import as_question, missing_files
from .settings import digest, model_identity

#: Seconds between two looks at the store while others work, at most.
POLL = 1.0
#: Seconds between two calls of ``progress``.
SHOW = 0.5


class Abandoned(BaseException):
    """A run is to end at once; no Exception, so that no handler of a model's faults takes it for one."""


Show = Callable[[Counts, RunStats], None]
Solve = Callable[[Iterator[Task], Callable[[], bool], Callable[[RunStats], None]], Run]


@dataclass
class RunReport:
    """What one process has done of a run.

    Attributes:
        done: results written.
        failed: items given up.
        retried: searches that failed and will be made again.
        duplicates: results of items that somebody else had finished first; they are dropped.
        released: items given back unfinished.
        interrupted: how often the run was asked to end.
        usage: what the searches were charged.
        served: the part of it that came out of the journal, so that it was not paid.
        seconds: how long it took.
    """

    done: int = 0
    failed: int = 0
    retried: int = 0
    duplicates: int = 0
    released: int = 0
    interrupted: int = 0
    usage: Usage = field(default_factory=Usage)
    served: Usage = field(default_factory=Usage)
    seconds: float = 0.0


def run(
    store: Store,
    policy: Policy,
    reward: RewardModel | None = None,
    strategy: Strategy | str | None = None,
    budget: Budget | None = None,
    *,
    seed: int = 0,
    schedule: Schedule | None = None,
    folder: str | os.PathLike[str] = "",
    owner: str | None = None,
    lease: float = 60.0,
    attempts: int = 3,
    keep_trees: bool = False,
    trees: Callable[[str], Tree | None] | None = None,
    cache: bool = True,
    interrupt: Callable[[], int] | None = None,
    progress: Show | None = None,
) -> RunReport:
    """Search everything that waits in a journal, and return what this process has done of it.

    Args:
        store: a journal whose items are the payloads of `read_questions`.
        policy: see `solve_many`.
        reward: see `solve_many`.
        strategy: of all searches; None is `MCTS()`.
        budget: of each search.
        seed: of the run; that of an item is made from this and its id, unless it brings its own.
        schedule: open searches, batches, waits; None is `Schedule()`.
        folder: where relative paths of pictures begin.
        owner: name of this process, unlike all others; None makes one.
        lease: seconds after which others take over what this process has claimed, should it die.
        attempts: how often an item is searched whose models fail; see the notes.
        keep_trees: write trees too.
        trees: the tree that the search of an item begins with, by its id; None where it begins anew.
        cache: keep calls of the models, so that they are not made again after a kill.
        interrupt: asked often; 1 (or true) ends the run once the open searches have ended, 2 at once.
        progress: called with the counts of the store and the statistics of this process, now and then.

    Returns:
        The `RunReport`.  Results and failures are in the store.

    Raises:
        PolicyError: all searches have failed for minutes.
        JournalError: the store cannot be used any more.
        ValueError, TypeError: as `solve_many`.

    Notes:
        A result is that of `solve` with the same settings and `item_seed`, whoever makes it and however often it
        was begun.  A search during which a call of a model failed is made again, with what did not fail
        taken from the journal; the last time its answer counts, if it has one, and is a failure otherwise.
        A picture that cannot be read is a failure at once.  Where one search after another fails, the run
        pauses, tries single ones, and after about ten minutes gives up.
        On Ctrl-C open searches are released, and ``KeyboardInterrupt`` is raised; see `Stop` for gentler ways.

    Example:
        >>> from svip_search._journal import Journal
        >>> from svip_search.testing import HashPolicy
        >>> import tempfile
        >>> journal = Journal.open(f"{tempfile.mkdtemp()}/run.db")
        >>> journal.add([("sum", "hash of the line", {"question": "2 + 2 = ?", "options": ["3", "4"]})])
        1
        >>> run(journal, HashPolicy(), strategy="greedy").done
        1
        >>> [(id, result["answer"] in ("3", "4")) for id, result in journal.results()]
        [('sum', True)]
        >>> journal.close()
    """
    chosen = make(strategy) if isinstance(strategy, str) else MCTS() if strategy is None else strategy
    if trees is not None and isinstance(chosen, Strategy) and not chosen.search.resumes:
        raise ValueError(f"`trees` must be None for {chosen.name!r}, which cannot go on from a tree.")
    for name, value, least in (("lease", lease, 0.1), ("attempts", attempts, 1)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= least:
            raise ValueError(f"`{name}` must be a number of at least {least:g}; got {value!r}.")
    leases = Leases(store, owner or own_name(), lease)
    runner = _Runner(store, leases, attempts, seed, str(folder), keep_trees, trees, interrupt, progress)
    runner.schedule = schedule or Schedule()
    runner.health = Health(runner.schedule.searches)
    asked: tuple[Any, Any] = policy, reward
    if cache:
        runner.cache = leases.cache = CallCache(store)
        asked = _cached(policy, reward, runner.cache)

    def solve(tasks: Iterator[Task], ask: Callable[[], bool], watch: Callable[[RunStats], None]) -> Run:
        shown = watch if progress is not None else False  # statistics have their cost
        return solve_many(
            tasks, *asked, strategy=chosen, budget=budget, schedule=runner.schedule, interrupt=ask, progress=shown
        )

    return runner.run(solve)


def item_seed(seed: int, id: str) -> int:
    """Return the seed of an item's search: draws of its own, whatever its place in the file.

    Example:
        >>> item_seed(0, "a") == item_seed(0, "a"), item_seed(0, "a") == item_seed(0, "b")
        (True, False)
    """
    found = blake2b(f"{seed}/{id}".encode("utf-8", "surrogatepass"), digest_size=7).digest()
    return int.from_bytes(found, "little")


def own_name() -> str:
    """Return a name for this process that no other has."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def _cached(policy: Any, reward: Any, cache: CallCache) -> tuple[Any, Any]:
    kept = CachedPolicy(policy, cache, f"policy/{digest(model_identity(policy) or {})}")
    if reward is None:
        return kept, None
    return kept, CachedReward(reward, cache, f"reward/{digest(model_identity(reward) or {})}")


class _Runner:
    """One process's part of a run."""

    schedule: Schedule
    health: Health
    cache: CallCache | None = None

    def __init__(
        self,
        store: Store,
        leases: Leases,
        attempts: int,
        seed: int,
        folder: str,
        keep_trees: bool,
        trees: Callable[[str], Tree | None] | None,
        interrupt: Callable[[], int] | None,
        progress: Show | None,
    ) -> None:
        self.store, self.leases, self.attempts, self.seed, self.folder = store, leases, attempts, seed, folder
        self.keep_trees, self.trees, self.progress = keep_trees, trees, progress
        self.level = interrupt or (lambda: 0)
        self.report = RunReport()
        self.ready: deque[Item] = deque()  # claimed, not opened
        self.opened: dict[int, Item] = {}
        self.index = 0
        self._shown = 0.0
        self._stats = RunStats()

    def run(self, solve: Solve) -> RunReport:
        """Take part until everything is done, or the run is asked to end."""
        start = time.monotonic()
        wait = 0.0
        try:
            with self.leases:
                while not self.level():
                    before = self.report.done + self.report.failed
                    self._pass(solve)
                    if self._all_done():
                        break
                    wait = 0.02 if before != self.report.done + self.report.failed else min(2 * wait + 0.02, POLL)
                    self._sleep(self.health.pause() or wait)
        except Abandoned:
            pass
        finally:
            self.report.seconds = time.monotonic() - start
            self._give_back()
        if self.progress is not None:
            self.progress(self.store.counts(), self._stats)
        return self.report

    def _all_done(self) -> bool:
        counts = self.store.counts()
        return not counts.waiting and not counts.leased

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.level():
            time.sleep(min(left, 0.1))

    def _give_back(self) -> None:
        """Release what is not finished; where even that fails, the leases end by themselves."""
        held = self.leases.held()
        self.report.released += len(held)
        self.report.interrupted = int(self.level())
        if self.cache is not None:
            self.report.served = self.cache.served
        if held:
            with contextlib.suppress(Exception):
                self.store.release(self.leases.owner, held)

    # One pass: as long as there is something to claim.

    def _pass(self, solve: Solve) -> None:
        self.opened, self.index = {}, 0
        self._claim()
        if not self.ready:
            return
        searches = solve(self._tasks(), self._ask, self._watch)
        try:
            for index, result in searches:
                self._take(self.opened.pop(index), result)
        finally:
            self.report.usage += searches.stats().usage
            searches.close()
        self._give_back_unopened()

    def _tasks(self) -> Iterator[Task]:
        """Yield what to search, claimed only when it is asked for."""
        while not self.level() and self.health.allows(len(self.opened)):
            if not self.ready:
                self._claim()
            if not self.ready:
                return
            item = self.ready.popleft()
            if (task := self._open(item)) is not None:
                self.opened[self.index] = item
                self.index += 1
                yield task

    def _claim(self) -> None:
        room = self.schedule.searches - len(self.opened)
        most = 1 if self.health.probing else max(1, min(room, 64))
        items = self.store.claim(self.leases.owner, most, self.leases.seconds)
        self.leases.add([item.id for item in items])
        self.ready.extend(items)
        if items and self.cache is not None:
            self.cache.open([item.id for item in items])

    def _give_back_unopened(self) -> None:
        ids = [item.id for item in self.ready]
        self.ready.clear()
        if ids:
            self.store.release(self.leases.owner, ids)
            self.leases.remove(ids)
            self.report.released += len(ids)

    def _open(self, item: Item) -> Task | None:
        """Return the search of an item; None where it cannot be one, which is then its failure."""
        try:
            gone = missing_files(item.payload, self.folder)
            if gone:
                raise ValueError(f"there is no '{os.path.join(self.folder, gone[0])}'")
            question = as_question(item.payload, self.folder, item.id)
        except (ValueError, TypeError, OSError, KeyError, AttributeError) as error:
            self._failed(item, str(error) or type(error).__name__, attempts=1)
            return None
        seed = item.payload.get("seed")
        seed = item_seed(self.seed, item.id) if seed is None else seed
        return Task(question, seed=seed, tree=None if self.trees is None else self.trees(item.id))

    def _ask(self) -> bool:
        """End everything where it must end at once; open searches may otherwise go on."""
        self.leases.check()
        if self.level() >= 2:
            raise Abandoned
        return False

    def _watch(self, stats: RunStats) -> None:
        self._stats = stats
        now = time.monotonic()
        if self.progress is not None and now - self._shown >= SHOW:
            self._shown = now
            self.progress(self.store.counts(), stats)

    # Results.

    def _take(self, item: Item, result: Result) -> None:
        """Write down what a search has come to."""
        if result.stopped_by in ("interrupted", "cancelled"):
            self.store.release(self.leases.owner, [item.id])
            self.leases.remove([item.id])
            self.report.released += 1
            return
        fault = _fault(result)
        own = fault is not None and "failed: ImageError" in fault  # it will not get better
        self.health.note(fault is None or own or bool(result.trajectories), fault)
        if fault is not None and not (result.trajectories and (own or item.attempt >= self.attempts)):
            self._failed(item, fault, 1 if own else self.attempts)
            return
        written = self.store.finish(self.leases.owner, item.id, self._payload(item, result))
        self.report.done += written
        self.report.duplicates += not written
        self.leases.remove([item.id])
        if self.cache is not None:
            self.cache.drop(item.id)

    def _failed(self, item: Item, reason: str, attempts: int) -> None:
        if self.cache is not None:
            self.cache.flush()  # whoever tries again finds what did not fail
        state = self.store.fail(self.leases.owner, item.id, " ".join(reason.split())[:500], attempts=attempts)
        self.leases.remove([item.id])
        if state == "failed":
            self.report.failed += 1
        else:
            self.report.retried += 1

    def _payload(self, item: Item, result: Result) -> dict[str, Any]:
        plain = replace(result, tree=Tree()).to_dict()  # without the cost of a tree nobody wants
        del plain["tree"]
        if self.keep_trees:
            plain["tree"] = result.tree.to_dict()
        return {"id": item.id, **plain}


def _fault(result: Result) -> str | None:
    """Return what a model said instead of an answer, if it ever did."""
    for line in result.degraded:
        if "policy failed: " in line or "reward model failed: " in line:
            return line.partition(": ")[2] if line.startswith("node ") else line
    return None

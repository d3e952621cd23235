"""The workers of a run on a Ray cluster, and who looks after them."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..._budget import Usage
from ..._errors import PolicyError
from ..._schedule import RunStats
from .. import models
from ..protocols import Counts, Store
from ..runner import RunReport, Show
from ..stop import Stop
from ..workers import LOOK, Deaths, Plan, take_part
from ._ray import connect, load_ray, one_line, unwrapped
from .replicas import RayPolicy, RayReward, Replica
from .store import Files, JournalActor, RayStore

#: Calls that a worker answers while it searches: told to stop, asked what it has spent.
_ASIDE = 4
#: Seconds that workers have to give back what they hold when the run is to end at once.
_GRACE = 5.0


@dataclass(frozen=True)
class Cluster:
    """What a run takes of a Ray cluster.

    Args:
        address: ``host:port`` of the cluster, or ``"auto"`` for that of this machine; None starts one here.
        workers: how many processes search.
        worker_cpus: processors that Ray sets aside for each of them; GPUs go to replicas.
        policy_replicas: processes with the policy, which all workers ask; 0: every worker has its own.
        reward_replicas: the same for the reward model.
        replica_gpus: GPUs of each replica; parts of one are allowed.

    Raises:
        ValueError: a number is out of range.
    """

    address: str | None = None
    workers: int = 2
    worker_cpus: float = 1.0
    policy_replicas: int = 0
    reward_replicas: int = 0
    replica_gpus: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("policy_replicas", 0), ("reward_replicas", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}; got {getattr(self, name)}.")
        for name in ("worker_cpus", "replica_gpus"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` must be a number of at least 0; got {getattr(self, name)}.")


class Worker:
    """Takes part in a run, in an actor of its own.

    Args:
        plan: what is to be done.
        journal: name of the `JournalActor`.
        root: folder for files that are brought from there.
        replicas: handles of the replicas of policy and reward model; where there are none, the worker loads its own.
        api_key: for the servers of the models.
    """

    def __init__(
        self, plan: Plan, journal: str, root: str, replicas: tuple[Sequence[Any], Sequence[Any]], api_key: str | None
    ) -> None:
        _set_key(plan, api_key)
        self._plan, self._replicas = plan, replicas
        self._store = RayStore(journal, Files(journal, root), plan.folder)
        self._level = 0
        self._spent = Usage()

    def work(self) -> RunReport:
        """Take part until everything is done, or the run is asked to end."""
        return take_part(self._plan, self._models(), self._store, self._store.tree, lambda: self._level, self._show)

    def stop(self, level: int) -> None:
        """Ask to end; see `Stop`."""
        self._level = max(level, self._level)

    def spent(self) -> int:
        """Return the tokens of this worker's searches until now."""
        return self._spent.tokens

    def pid(self) -> int:
        """Return the number of the process."""
        return os.getpid()

    def _show(self, _: Counts, stats: RunStats) -> None:
        self._spent = stats.usage

    def _models(self) -> tuple[Any, Any]:
        key = os.environ.get(self._plan.api_key_name)
        policies, rewards = self._replicas
        policy = RayPolicy(policies) if policies else models.load_policy(self._plan.policy, self._plan.model, key)
        return policy, RayReward(rewards) if rewards else models.load_reward(self._plan.reward, key)


def _set_key(plan: Plan, api_key: str | None) -> None:
    if api_key is not None:
        os.environ[plan.api_key_name] = api_key


def _load(plan: Plan, kind: str, api_key: str | None) -> Any:
    _set_key(plan, api_key)
    key = os.environ.get(plan.api_key_name)
    if kind == "policy":
        return models.load_policy(plan.policy, plan.model, key)
    return models.load_reward(plan.reward, key)


class RayWorkers:
    """Workers of a run on a Ray cluster.

    Args:
        plan: what they do.
        cluster: where, and how many.
        store: their journal, to see how the run stands; its file is on this machine.

    Notes:
        A worker that dies is replaced; what it had leased is searched again once its lease has ended.  Replicas and
        the actor of the journal are started again by Ray.
    """

    def __init__(self, plan: Plan, cluster: Cluster, store: Store) -> None:
        self.plan, self.cluster, self.store = plan, cluster, store
        self._deaths = Deaths()
        self._working: dict[Any, Any] = {}  # what a worker will report -> its handle
        self._spent: dict[Any, int] = {}

    def run(self, stop: Stop, progress: Show) -> int:
        """Start the workers and wait for them; return 0.

        Raises:
            ConnectionError: there is no such cluster.
            PolicyError: one worker after another dies.
        """
        ray = load_ray()
        here = self.cluster
        ours = connect(here.address, here.workers + here.policy_replicas + here.reward_replicas + 1)
        stop.listen_again()  # Ray ends the process on SIGTERM
        stop.told = self._pass_on
        try:
            return self._run(stop, progress)
        finally:
            stop.told = None
            for worker in self._working.values():
                ray.kill(worker)
            if ours:
                ray.shutdown()

    def _run(self, stop: Stop, progress: Show) -> int:
        ray = load_ray()
        self._prepare()
        for _ in range(self.cluster.workers if not stop.level else 0):
            self._start()
        if stop.level:  # since then
            self._pass_on(stop.level)
        start, ending = time.monotonic(), float("inf")
        while self._working and time.monotonic() < ending:
            ended, _ = ray.wait(list(self._working), timeout=LOOK)
            for report in ended:
                self._take_leave(report, self._working.pop(report), stop)
            stats = RunStats(seconds=time.monotonic() - start)
            stats.usage.policy_tokens = self._tokens()
            progress(self.store.counts(), stats)
            if stop.level >= 2:
                ending = min(ending, time.monotonic() + _GRACE)
        return 0

    def pids(self) -> list[int]:
        """Return the numbers of the workers' processes, on their machines."""
        found: list[int] = load_ray().get([worker.pid.remote() for worker in self._working.values()])
        return found

    def _prepare(self) -> None:
        """Start the actor of the journal and the replicas."""
        ray = load_ray()
        plan, here = self.plan, self.cluster
        self._key = os.environ.get(plan.api_key_name)
        self._root = os.path.join(tempfile.gettempdir(), f"svip-search-{ray.get_runtime_context().get_job_id()}")
        self._journal, self._actor = JournalActor.start(plan.journal, plan.warm_from)
        actor = ray.remote(Replica).options(
            max_restarts=-1, max_concurrency=1024, num_cpus=0 if here.replica_gpus else 1, num_gpus=here.replica_gpus
        )
        counts = {"policy": here.policy_replicas, "reward": here.reward_replicas if plan.reward != "none" else 0}
        found = {
            kind: [
                actor.remote(kind, partial(_load, plan, kind, self._key), self._journal, self._root)
                for _ in range(count)
            ]
            for kind, count in counts.items()
        }
        self._replicas = found["policy"], found["reward"]

    def _start(self) -> None:
        actor = load_ray().remote(Worker).options(num_cpus=self.cluster.worker_cpus, max_concurrency=_ASIDE)
        worker = actor.remote(self.plan, self._journal, self._root, self._replicas, self._key)
        self._working[worker.work.remote()] = worker

    def _take_leave(self, report: Any, worker: Any, stop: Stop) -> None:
        """Take note of how a worker has ended; replace one that died."""
        ray = load_ray()
        try:
            self._spent[worker] = ray.get(report).usage.tokens
        except ray.exceptions.RayActorError as error:
            if stop.level:
                return
            if not self._deaths.tolerates(self.store.counts()):
                raise PolicyError(f"one worker after another has died: {one_line(error)}") from None
            self._start()
        except ray.exceptions.RayTaskError as error:
            self._pass_on(1)  # what stops one, stops the others
            raise unwrapped(error) from None

    def _tokens(self) -> int:
        """Return what all workers have spent, as far as they have said."""
        ray = load_ray()
        asked = {worker.spent.remote(): worker for worker in self._working.values()}
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=LOOK) if asked else ([], [])
        for answer in ready:
            with contextlib.suppress(ray.exceptions.RayError):  # it has died meanwhile
                self._spent[asked[answer]] = ray.get(answer)
        return sum(self._spent.values())

    def _pass_on(self, level: int) -> None:
        for worker in self._working.values():
            worker.stop.remote(level)

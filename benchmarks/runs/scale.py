"""How a run grows with its servers: in virtual time, through the real scheduler and the client's choice of server.

``python benchmarks/runs/scale.py`` writes a record and a figure for docs/scaling.md.  A server is a model of continuous
batching: every sequence in flight slows all others down a little, a question's prompt is read once a server while it
is remembered, and more sequences than there is room for wait.  Its constants are assumptions, of the size that an
8B vision-language model has on a current data-centre GPU; your own are options.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "search")]  # benchmarks are no package

import numpy as np  # noqa: E402
from timing import write_record  # noqa: E402

from svip_search import MCTS, Beam, BestOfN, ProposeRequest, Question, Schedule, Strategy, solve_many  # noqa: E402
from svip_search._http._protocol import Address  # noqa: E402
from svip_search._http._servers import Gate, Place, Slot  # noqa: E402
from svip_search._question_key import question_key  # noqa: E402
from svip_search.simulation import SlowReward, run_virtual  # noqa: E402
from svip_search.testing import HashPolicy, HashReward  # noqa: E402

DEPTH = 8
STRATEGIES: dict[str, Strategy] = {
    "best-of-16": BestOfN(n=16),
    "beam 4 x 4": Beam(width=4, expand=4),
    "mcts, 4 leaves": MCTS(iterations=16, expand=4, parallel=4),
}
SERVERS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Model:
    """What a server is taken to be.

    Args:
        room: sequences in flight; more wait.
        token: seconds a token takes where a sequence is alone.
        crowd: sequences in flight with which it takes twice as long.
        step: tokens of a step, on average, log-normally distributed.
        sigma: of their logarithm.
        prompt: tokens of a prompt, its picture included.
        prefill: tokens of prompts that are read a second.
        remembered: questions whose prompts are kept.
        reward_call, reward_path: seconds that a call of the reward model takes, and each path adds.
    """

    room: int = 128
    token: float = 0.012
    crowd: float = 96.0
    step: float = 40.0
    sigma: float = 0.5
    prompt: int = 1500
    prefill: float = 12_000.0
    remembered: int = 96
    reward_call: float = 0.03
    reward_path: float = 0.004


class Machine:
    """One server."""

    def __init__(self, model: Model, seed: int) -> None:
        self.model, self.random = model, Random(seed)
        self.location = math.log(model.step) - model.sigma**2 / 2
        self.running = self.prompts = 0
        self.worked = 0.0
        self.dead_until = -math.inf
        self._room, self._reading = asyncio.Semaphore(model.room), asyncio.Lock()
        self._known: OrderedDict[str, None] = OrderedDict()

    async def generate(self, key: str, request: ProposeRequest) -> None:
        """Take as long as the server does for the candidates of a request."""
        if asyncio.get_running_loop().time() < self.dead_until:
            raise ConnectionError("refused")
        await self._read(key)
        steps = DEPTH if request.whole else 1
        await asyncio.gather(*(self._candidate(steps) for _ in range(request.n)))
        if asyncio.get_running_loop().time() < self.dead_until:
            raise ConnectionError("reset")

    async def _read(self, key: str) -> None:
        async with self._reading:
            if key not in self._known:
                self.prompts += 1
                self._known[key] = None
                await asyncio.sleep(self.model.prompt / self.model.prefill)
            self._known.move_to_end(key)
            if len(self._known) > self.model.remembered:
                self._known.popitem(last=False)

    async def _candidate(self, steps: int) -> None:
        model = self.model
        async with self._room:
            self.running += 1
            for _ in range(steps):
                tokens = self.random.lognormvariate(self.location, model.sigma)
                await asyncio.sleep(tokens * model.token * (1 + self.running / model.crowd))
            self.running -= 1
            self.worked += steps


class Farm:
    """A policy on several servers, chosen as `OpenAIPolicy` chooses them."""

    def __init__(self, model: Model, servers: int, *, affine: bool, seed: int) -> None:
        self.policy = HashPolicy(branching=1 << 16, depth=DEPTH)
        self.machines = [Machine(model, seed * 1000 + i) for i in range(servers)]
        self.gate = Gate([Address.parse(f"http://server-{i}/v1") for i in range(servers)], model.room)
        self.slots = 2 * model.room * servers
        self.affine = affine
        self.faults = 0

    async def apropose(self, requests: Sequence[ProposeRequest]) -> list[Any]:
        for request in requests:
            await self._one(request)
        return list(self.policy.propose(requests))

    async def _one(self, request: ProposeRequest) -> None:
        loop = asyncio.get_running_loop()
        key = question_key(request.question)
        place = self.gate.admit(key if self.affine else None)
        while True:
            slot = await self._enter(place)
            machine = self.machines[self.gate.servers.index(slot.server)]
            try:
                await machine.generate(key, request)
            except ConnectionError:
                self.faults += 1
                place.tried.add(slot.server)
                place.slot = None
                self.gate.leave(slot, loop.time(), healthy=False)
                continue
            self.gate.leave(slot, loop.time(), healthy=True)
            return

    async def _enter(self, place: Place) -> Slot:
        loop = asyncio.get_running_loop()
        while (slot := self.gate.enter(place, loop.time())) is None:
            assert place.signal is not None
            left = self.gate.next_opening(loop.time()) - loop.time()
            await asyncio.wait({place.signal}, timeout=None if left == math.inf else left + 1e-3)
            if place.slot is not None:
                return place.slot
        return slot


def run(
    strategy: Strategy, servers: int, questions: int, model: Model, *, affine: bool = True, searches: int = 0,
    death: float = 0.0, seed: int = 0,
) -> dict[str, float]:  # fmt: skip
    """Return what a simulated run comes to; with ``death`` one server is away from then on for two minutes."""
    found: dict[str, float] = {}

    async def main() -> None:
        farm = Farm(model, servers, affine=affine, seed=seed)
        # One replica of the reward model for every two servers, as calls in flight.
        rewards = Replicas([SlowReward(HashReward(), call=model.reward_call, path=model.reward_path, seed=i)
                            for i in range(math.ceil(servers / 2))])  # fmt: skip
        asked = [Question(f"Which of {i}?") for i in range(questions)]
        loop = asyncio.get_running_loop()
        if death:
            loop.call_later(death, lambda: setattr(farm.machines[0], "dead_until", loop.time() + 120.0))
        start = loop.time()
        schedule = Schedule(searches=searches or 32 * servers)
        ends = [loop.time() - start async for _ in solve_many(asked, farm, rewards, strategy, seed=seed,
                                                              schedule=schedule)]  # fmt: skip
        seconds = max(ends)
        steps = sum(machine.worked for machine in farm.machines)
        found.update(
            seconds=seconds, steps=steps, steps_per_second=steps / seconds,
            prompts_per_question=sum(m.prompts for m in farm.machines) / questions,
            server_seconds_per_question=servers * seconds / questions, half_done=float(np.median(ends)),
            faults=farm.faults,
        )  # fmt: skip

    run_virtual(main())
    return found


class Replicas:
    """Several copies of a reward model, the idlest of which is asked."""

    kind = "prm"

    def __init__(self, models: Sequence[SlowReward]) -> None:
        self.models = list(models)
        self.concurrent_calls = len(self.models)
        self._busy = [0] * len(self.models)

    async def aevaluate_many(self, items: Sequence[Any]) -> list[Any]:
        place = self._busy.index(min(self._busy))
        self._busy[place] += 1
        try:
            return await self.models[place].aevaluate_many(items)
        finally:
            self._busy[place] -= 1


def growth(model: Model, questions: int) -> dict[str, Any]:
    """Return runs of the same questions on more and more servers."""
    table: dict[str, Any] = {}
    for name, strategy in STRATEGIES.items():
        rows = {count: run(strategy, count, questions, model) for count in SERVERS}
        alone = rows[1]["seconds"]
        for count, row in rows.items():
            row["speedup"] = alone / row["seconds"]
            print(f"{name:16} {count:3} servers {row['seconds']:8.1f} s  {row['speedup']:5.2f}x  "
                  f"{row['server_seconds_per_question']:6.2f} server-s a question", flush=True)  # fmt: skip
        table[name] = {str(count): row for count, row in rows.items()}
    return table


def choices(model: Model, questions: int, servers: int = 8) -> dict[str, Any]:
    """Return what one choice or mishap changes, on eight servers with the beam."""
    beam = STRATEGIES["beam 4 x 4"]
    cases = {
        "as above": {},
        "any server": {"affine": False},
        "8 searches a server": {"searches": 8 * servers},
        "16 searches a server": {"searches": 16 * servers},
        "64 searches a server": {"searches": 64 * servers},
        "a server away for two minutes": {"death": 30.0},
    }
    table = {}
    for name, more in cases.items():
        table[name] = row = run(beam, servers, questions, model, **more)  # type: ignore[arg-type]
        print(
            f"{name:32} {row['seconds']:8.1f} s  {row['prompts_per_question']:5.2f} prompts read a question", flush=True
        )
    return table


def draw(table: dict[str, Any], path: Path) -> None:
    """Draw speed against servers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    axes.plot(SERVERS, SERVERS, color="#bbbbbb", linestyle="--", label="proportional")
    for (name, rows), color in zip(table.items(), ("#6fa8dc", "#f6b26b", "#8e7cc3"), strict=True):
        axes.plot(SERVERS, [rows[str(s)]["speedup"] for s in SERVERS], marker="o", color=color, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(SERVERS, [str(s) for s in SERVERS])
    axes.set(xlabel="policy servers", ylabel="times as fast as one", title="Simulated")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=1024)
    for name, value in asdict(Model()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--figure", type=Path, default=HERE.parents[1] / "docs/images/scaling.png")
    options = parser.parse_args()
    model = replace(Model(), **{name: getattr(options, name) for name in asdict(Model())})
    table = growth(model, options.questions)
    changes = choices(model, options.questions)
    draw(table, options.figure)
    write_record(
        "run_scale", {"questions": options.questions, "model": asdict(model), "growth": table, "choices": changes}
    )


if __name__ == "__main__":
    main()

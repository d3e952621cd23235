"""The searches: every strategy, size and reward model on the questions of the core, at a budget in policy tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import svip_search as ss
from svip_search import Budget, PlanRules, Schedule, Scoring, Task
from svip_search.datasets.planning.states import state_of
from svip_search.evaluation._run import _seed_of, is_right

from .models import Model
from .pool import SEED
from .questions import Item, Questions
from .store import Store

#: Searched side by side; seconds are those of a batch divided by its questions.
SEARCHES = 16
MAX_DEPTH = 64
NS = (16, 4, 64)
MAIN = ("beam", "dvts", "mcts")
REST = ("rebase", "particle-filtering", "guided-greedy", "annealed-beam", "lookahead", "refined-best-of-n", "uct",
        "ab-mcts", "mcts, value")  # fmt: skip
#: Ablations of the rules are made at this size.
ABLATED_N = 16
ABLATED = ("beam", "mcts")
#: Which scores a prefix goes by, learned rewards only.
FOLDS: dict[str, Scoring] = {
    "logic, last": Scoring(aggregate="last", weights=(0, 1, 0)),
    "logic, product": Scoring(aggregate="product", weights=(0, 1, 0)),
    "logic, min": Scoring(aggregate="min", weights=(0, 1, 0)),
}
_ROLLOUT: dict[str, Any] = {"rollout": True, "c": 0.4, "select": "max"}


@dataclass(frozen=True)
class Cell:
    """One strategy at one size with one reward model."""

    strategy: str
    n: int
    reward: str

    @property
    def name(self) -> str:
        return f"{self.strategy}|{self.n}|{self.reward}"


def ablations() -> dict[str, PlanRules | None]:
    """Return the rules of planning puzzles, each without one of them."""
    rules = PlanRules(state_of=state_of).ablations()
    return {name: rule for name, rule in rules.items() if name != "no rules"}  # that is the strategy itself


def strategy_of(name: str, n: int) -> ss.Strategy:
    """Return a strategy that can spend the tokens of ``n`` samples; its budget is what stops it.

    A name may end in `` + NAME`` of a variant: of the rules (`ablations`), or of the scoring (`FOLDS`).
    """
    base, _, variant = name.partition(" + ")
    settings: dict[str, Any] = {"max_depth": MAX_DEPTH}
    if variant in FOLDS:
        settings["scoring"] = FOLDS[variant]
    elif variant:
        settings["rules"] = ablations()[variant]
    if base in ("mcts", "mcts, value"):
        settings |= {"iterations": 16 * n, "expand": max(2, n // 4)}
        settings |= _ROLLOUT if base == "mcts" else {"c": 0.4, "select": "max"}
        base = "mcts"
    elif base == "uct":
        settings |= {"iterations": 4 * n, "c": 0.4, "select": "max"}
    return ss.make(base, n, **settings)


def planned(rewards: Sequence[str], ns: Sequence[int], strategies: Sequence[str] | None = None) -> list[Cell]:
    """Return the cells, those first without which there is no answer."""
    learned = [r for r in rewards if r != "shuffled"]
    first, *others = ns
    cells = [Cell(s, first, r) for r in rewards for s in MAIN]
    cells += [Cell(s, n, r) for n in others for r in learned for s in MAIN]
    at = ABLATED_N if ABLATED_N in ns else first
    cells += [Cell(f"{s} + {v}", at, r) for r in learned[:2] for s in ABLATED for v in ablations()]
    cells += [Cell(s, first, r) for r in learned[:1] for s in REST]
    cells += [Cell(f"{s} + {v}", at, r) for r in learned[:1] for s in ABLATED for v in FOLDS if r == "learned"]
    cells += [Cell(s, first, r) for r in learned[1:2] for s in REST]
    cells += [Cell(s, n, r) for n in others for r in learned[:1] for s in REST]
    return [c for c in cells if strategies is None or c.strategy in strategies]


def run_cell(cell: Cell, policy: Model, reward: Model, questions: Questions, items: Sequence[Item], pool: Store,
             store: Store, over: Callable[[], bool]) -> int:  # fmt: skip
    """Search what is missing and return how many questions the cell covers now."""
    keys = {item.id: f"{cell.name}|{item.id}" for item in items}
    ready = [item for item in items if pool.known.get(item.id, {}).get("samples")]
    missing = [item for item in ready if keys[item.id] not in store.known]
    strategy = strategy_of(cell.strategy, cell.n)
    for at in range(0, len(missing), SEARCHES):
        if over():
            break
        group = missing[at : at + SEARCHES]
        for model in (policy.model, reward.model):
            if callable(clear := getattr(model, "clear", None)):
                clear()  # every cell pays for its own work
        asked = [questions.question(item) for item in group]
        tasks = [Task(q, budget=Budget(policy_tokens=budget_of(pool.known[item.id], cell.n)), seed=_seed_of(SEED, q))
                 for q, item in zip(asked, group, strict=True)]  # fmt: skip
        start = time.perf_counter()
        run = ss.solve_many(tasks, policy.model, reward.model, strategy, schedule=Schedule(searches=len(tasks)))
        results = dict(run)
        seconds = (time.perf_counter() - start) / len(group)
        for i, item in enumerate(group):
            store.add(keys[item.id], outcome(asked[i], results[i], seconds))
    return sum(key in store.known for key in keys.values())


def budget_of(pool: dict[str, Any], n: int) -> int:
    """Return the policy tokens that ``n`` samples of a question take on the average."""
    return max(1, round(n * float(np.mean([pool["tokens"][c] for c in pool["samples"]]))))


def outcome(question: Any, result: Any, seconds: float) -> dict[str, Any]:
    """Return what is kept of one search."""
    return {
        "right": int(is_right(question, result.answer)),
        "answer": result.answer,
        "pass": int(any(is_right(question, t.answer) for t in result.trajectories)),
        "trajectories": len(result.trajectories),
        "answers": len({t.answer for t in result.trajectories} - {None}),
        "policy_tokens": result.usage.policy_tokens,
        "reward_tokens": result.usage.reward_tokens,
        "nodes": result.usage.nodes,
        "seconds": round(seconds, 4),
        "stopped_by": result.stopped_by,
        "degraded": len(result.degraded),
    }

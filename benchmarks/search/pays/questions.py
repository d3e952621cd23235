"""The questions of the study: generated plans of many lengths, and the real puzzles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from svip_search import Question
from svip_search.datasets.algopuzzlevqa import load_true_plans
from svip_search.datasets.planning import FAMILIES, Plan, generate_plan

from .store import Store

SEED = 91_003  # of no training, validation or tuning
LONG = (8, 14)
#: Moves of the shortest plan, first and last of each bin.
BINS = ((1, 3), (4, 7), (8, 11), (12, 99))
BIN_NAMES = ("1-3", "4-7", "8-11", "12+")


@dataclass(frozen=True)
class Item:
    """A question without its picture, which is drawn when it is needed."""

    id: str
    family: str
    length: int
    index: int
    long: bool = False

    @property
    def bin(self) -> int:
        return bin_of(self.length)


@dataclass(frozen=True)
class Sizes:
    """How many questions; ``core`` are those of the searches, a number a bin."""

    usual: int = 1400
    long: int = 800
    core: tuple[int, ...] = (60, 80, 110, 110)


QUICK = Sizes(40, 24, (3, 5, 5, 5))


def bin_of(length: int) -> int:
    """Return the bin of a plan of ``length`` moves."""
    return next(i for i, (low, high) in enumerate(BINS) if low <= max(1, length) <= high)


class Questions:
    """Items in the order in which they are worked on, and the plan behind each."""

    def __init__(self, items: Sequence[Item], real: dict[str, Plan] | None = None) -> None:
        self.items = list(items)
        self.real = real or {}

    def plan(self, item: Item) -> Plan:
        """Return the puzzle with its picture."""
        return self.real[item.id] if self.real else _generate(item.index, item.long)

    def question(self, item: Item) -> Question:
        """Return what policy and reward model may see."""
        return self.plan(item).question


def generated(folder: Path, sizes: Sizes, part: str = "0-1") -> tuple[Questions, list[Item]]:
    """Return the generated questions, those of the core first, and the core."""
    store = Store(folder, "questions", {"seed": SEED, "sizes": asdict(sizes), "long": LONG}, part)
    wanted = [(i, False) for i in range(sizes.usual)] + [(i, True) for i in range(sizes.long)]
    items = []
    for index, long in wanted:
        key = f"{index}-{int(long)}"
        if key not in store.known:
            plan = _generate(index, long)
            item = Item(plan.question.id, plan.family, plan.length, index, long)
            store.add(key, asdict(item))
        items.append(Item(**store.known[key]))
    core = chosen(items, sizes.core)
    names = {item.id for item in core}
    return Questions([*core, *mixed(item for item in items if item.id not in names)]), core


def real(folder: Path) -> Questions:
    """Return the published puzzles."""
    plans = load_true_plans(folder)
    items = [Item(name, plan.family, plan.length, plan.index) for name, plan in plans.items()]
    return Questions(mixed(items), plans)


def chosen(items: Sequence[Item], counts: Sequence[int]) -> list[Item]:
    """Return so many items of every bin, all families alike as far as they go."""
    picked = [mixed(i for i in items if i.bin == bin)[:count] for bin, count in enumerate(counts)]
    return mixed(item for group in picked for item in group)


def mixed(items: Iterable[Item]) -> list[Item]:
    """Return the items in turn from every bin and family, so that any beginning of the list has some of each."""
    groups: dict[tuple[int, str], list[Item]] = {}
    for item in items:
        groups.setdefault((item.bin, item.family), []).append(item)
    turns = zip_longest(*(groups[key] for key in sorted(groups)))
    return [item for turn in turns for item in turn if item is not None]


@lru_cache(maxsize=512)  # the core, some 40 ms and half a megabyte each
def _generate(index: int, long: bool) -> Plan:
    if not long:
        return generate_plan(SEED, index)
    families = [name for name, family in FAMILIES.items() if family.longest >= LONG[0]]
    return generate_plan(SEED, index, families=families, moves=LONG)


def described(items: Sequence[Item]) -> dict[str, Any]:
    """Return how many questions there are, by bin and family."""
    families = sorted({item.family for item in items})
    bins = {name: sum(item.bin == b for item in items) for b, name in enumerate(BIN_NAMES)}
    return {"questions": len(items), "bins": bins, "families": {f: sum(i.family == f for i in items) for f in families}}

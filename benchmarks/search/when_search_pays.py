"""When does search pay?  Accuracy of strategies on planning puzzles against tokens and seconds, by length of the plan.

    python benchmarks/search/when_search_pays.py --out runs/pays --policies plan-nano,plan-small --reward FOLDER \
        --real ALGOPUZZLEVQA --minutes 20                          # as often as it takes; goes on where it was killed
    python benchmarks/search/when_search_pays.py --out runs/pays --report                  # record, tables, figures
    python benchmarks/search/when_search_pays.py --out /tmp/pays --policies slips:0.15 --reward oracle:0.2 --quick

What is done, in this order, for each policy:

1. a pool of samples a question: 256 for the core, 32 for the others; from it greedy, self-consistency, best-of-n,
   weighted vote and pass@n at every n up to the size of the pool (means over subsets, so unbiased);
2. the pool is scored once with each kind of reward: ``learned``; ``shuffled``, the same permuted among the candidates;
   ``oracle``, the truth; ``oracle:E``, the truth but for a share E of the steps;
3. searches on the core, each with a budget of as many policy tokens as n samples of that question take, n = 16, 4, 64;
   then ablations of the rules for plans and of the scoring, then the other strategies.

A search is compared with best-of-n at the tokens that it *took*, question by question.  ``--minutes`` caps each cell;
tables say how many questions a cell covers, and comparisons are made on those.  ``--part 0/2`` takes every second
question, so that several processes can share the work.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent)]

from pays import cells, models, pool  # noqa: E402
from pays.questions import QUICK, Item, Questions, Sizes, generated, real  # noqa: E402
from pays.store import Store  # noqa: E402

REWARDS = ("learned", "oracle", "shuffled")
#: Samples of a question of the core, of any other, and of a real one.
POOLS, QUICK_POOLS = (256, 32, 64), (16, 4, 8)
RECORD = "when_search_pays"


@dataclass(frozen=True)
class Set:
    """A set of questions with the pool and the searches that it gets."""

    name: str
    questions: Questions
    core: Sequence[Item]
    size: Callable[[Item], int]
    ns: Sequence[int]
    strategies: Sequence[str] | None


def sets_of(arguments: argparse.Namespace) -> list[Set]:
    """Return the generated questions, and the real ones where there are any."""
    wide, narrow, few = QUICK_POOLS if arguments.quick else arguments.pools
    sizes = QUICK if arguments.quick else Sizes(core=tuple(arguments.core))
    questions, core = generated(arguments.out, sizes, arguments.part.replace("/", "-"))
    names = {item.id for item in core}
    ns = (4,) if arguments.quick else arguments.ns
    chosen = [Set("plans", questions, core, lambda i: wide if i.id in names else narrow, ns, arguments.strategies)]
    if arguments.real:
        puzzles = real(arguments.real)
        if arguments.quick:
            puzzles = Questions(puzzles.items[:24], puzzles.real)
        chosen.append(Set("real", puzzles, puzzles.items, lambda _: few, ns[:1], arguments.strategies or cells.MAIN))
    return chosen


def pool_store(folder: Path, one: Set, policy: models.Model, part: str) -> Store:
    sizes = [one.size(item) for item in (one.questions.items[0], one.questions.items[-1])]
    settings = {"policy": policy.identity, "sizes": sizes, "seed": pool.SEED, "max_tokens": models.MAX_TOKENS}
    return Store(folder, f"{one.name}-pool-{clean(policy.label)}", settings, part)


def score_store(folder: Path, one: Set, policy: models.Model, reward: models.Model, part: str) -> Store:
    settings = {"policy": policy.identity, "reward": reward.identity}
    return Store(folder, f"{one.name}-scores-{clean(policy.label)}-{clean(reward.label)}", settings, part)


def search_store(folder: Path, one: Set, policy: models.Model, reward: models.Model, part: str) -> Store:
    settings = {"policy": policy.identity, "reward": reward.identity, "seed": pool.SEED}
    return Store(folder, f"{one.name}-searches-{clean(policy.label)}-{clean(reward.label)}", settings, part)


def clean(label: str) -> str:
    return label.replace(":", "_").replace(".", "p")


def run(arguments: argparse.Namespace) -> None:
    """Do what is missing, set by set and policy by policy."""
    import torch

    torch.set_num_threads(arguments.threads)
    index, parts = map(int, arguments.part.split("/"))
    part = f"{index}-{parts}"
    for one in sets_of(arguments):
        truth = models.Truth(one.questions)
        mine, core = one.questions.items[index::parts], one.core[index::parts]
        for name in arguments.policies:
            policy = models.policy(name, truth, arguments.device)
            drawn = pool_store(arguments.out, one, policy, part)
            over = told(f"{one.name}, {policy.label}: pool", arguments.pool_minutes)
            pool.draw(policy, one.questions, mine, drawn, one.size, over)
            print(f"  {sum(i.id in drawn.known for i in mine)} of {len(mine)} questions sampled", flush=True)
            rewards = [models.reward(kind, arguments.reward, truth, arguments.device) for kind in arguments.rewards]
            for reward in rewards:
                if reward.label == "shuffled":
                    continue  # of a pool: the learned ones, permuted when they are looked at
                scores = score_store(arguments.out, one, policy, reward, part)
                over = told(f"{one.name}, {policy.label}: scores of {reward.label}", arguments.pool_minutes)
                pool.score(reward, one.questions, mine, drawn, scores, over)
                print(f"  {sum(i.id in scores.known for i in mine)} of {len(mine)} questions scored", flush=True)
            stores = {r.label: search_store(arguments.out, one, policy, r, part) for r in rewards}
            for cell in cells.planned(arguments.rewards, one.ns, one.strategies):
                reward = next(r for r in rewards if r.label == cell.reward)
                over = told(f"{one.name}, {policy.label}: {cell.name}", arguments.minutes)
                covered = cells.run_cell(cell, policy, reward, one.questions, core, drawn, stores[cell.reward], over)
                print(f"  {covered} of {len(core)} questions", flush=True)


def told(what: str, minutes: float) -> Callable[[], bool]:
    """Say what begins and return whether its time is over."""
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)
    end = time.monotonic() + 60 * minutes if minutes else float("inf")
    return lambda: time.monotonic() >= end


def report(arguments: argparse.Namespace) -> None:
    """Write the record and the figures, print the tables."""
    from pays import analysis, show
    from timing import write_record

    figures: dict[str, Any] = {"sets": {}}
    for one in sets_of(arguments):
        truth = models.Truth(one.questions)
        figures["sets"][one.name] = {
            name: analysis.study(one, read(arguments, one, name), truth) for name in map(label_of, arguments.policies)
        }
    if arguments.record:
        print("record:", write_record(arguments.record, analysis.rounded(figures)))
    print(show.tables(figures))
    show.plot(figures, arguments.plots)


def label_of(name: str) -> str:
    return name if name.startswith(models.SLIPS) else Path(name).name


def read(arguments: argparse.Namespace, one: Set, label: str) -> dict[str, Any]:
    """Return the records of a policy as they are on disk, whatever models they were made with."""
    from pays.analysis import rows

    folder, name = arguments.out, clean(label)
    return {
        "pool": rows(folder, f"{one.name}-pool-{name}"),
        "scores": {r: rows(folder, f"{one.name}-scores-{name}-{clean(r)}") for r in arguments.rewards},
        "searches": {r: rows(folder, f"{one.name}-searches-{name}-{clean(r)}") for r in arguments.rewards},
    }


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    listed: Callable[[str], list[str]] = lambda text: text.split(",")  # noqa: E731
    counts: Callable[[str], list[int]] = lambda text: [int(n) for n in text.split(",")]  # noqa: E731
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    parser.add_argument("--policies", type=listed, default=["plan-nano", "plan-small"], help="names or folders")
    parser.add_argument("--reward", help="learned reward model: name or folder; oracle:E as a stand-in")
    parser.add_argument("--rewards", type=listed, default=list(REWARDS), help="kinds, see above")
    parser.add_argument("--strategies", type=lambda text: text.split(";"), help="only these searches, separated by ;")
    parser.add_argument("--ns", type=counts, default=list(cells.NS), help="samples that budgets are worth")
    parser.add_argument("--core", type=counts, default=list(Sizes().core), help="questions of the core, a number a bin")
    parser.add_argument("--pools", type=counts, default=list(POOLS), help="samples: core, other, real questions")
    parser.add_argument("--real", type=Path, help="folder of AlgoPuzzleVQA")
    parser.add_argument("--minutes", type=float, default=0, help="most minutes a cell of searches; 0 is no limit")
    parser.add_argument("--pool-minutes", type=float, default=0, help="the same for sampling and scoring pools")
    parser.add_argument("--part", default="0/1", help="this process of how many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device")
    parser.add_argument("--quick", action="store_true", help="a few questions, to see that all works")
    parser.add_argument("--report", action="store_true", help="write record, tables and figures of what is there")
    parser.add_argument("--record", default=RECORD, help="name of the record; empty writes none")
    parser.add_argument("--plots", type=Path, default=ROOT / "docs" / "images", help="folder of the figures")
    arguments = parser.parse_args(words)
    (report if arguments.report else run)(arguments)


if __name__ == "__main__":
    main()

"""Accuracy of every strategy against what it costs, in tokens and in seconds, on the same questions.

    python benchmarks/search/curves.py run PUZZLEVQA --limit 300 --records runs/curves   # as often as it takes
    python benchmarks/search/curves.py report --records runs/curves                      # record, table, plot

Every strategy is run at the sizes that `make(name, n)` gives it for n = 1, 2, 4 ... 64 (1, 4 ... 256 where width
and expansion are square roots of n), without a budget, and its real cost is counted: tokens that the policy
generated and the reward model computed, and processor seconds of a run of all questions on one thread divided by
their number (the wall-clock of a machine that does nothing else).  The table then compares at equal cost: for the
tokens that best-of-n took, the largest size of each strategy that cost no more (chosen by its cost, not by its
accuracy).  Every strategy and size pays for its own work: models forget in between.

``--part 0/2`` does every second question, so that several processes can share the work.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

import svip_search as ss
from svip_search import Question, Schedule, Strategy, Task
from svip_search.datasets.puzzlevqa import spread
from svip_search.evaluation._bootstrap import interval, resampled_means
from svip_search.evaluation._run import is_right

ROOT = Path(__file__).resolve().parents[2]
SIZES = (1, 2, 4, 8, 16, 32, 64)
#: Width and expansion are square roots of n.
SQUARES = dict.fromkeys(("beam", "annealed-beam", "lookahead", "dvts"), (1, 4, 16, 64, 256))
#: Searched side by side; a run of this many is what seconds are measured on.
SEARCHES = 32
GENERATED_SEED = 50_002  # ``generated`` in place of a folder
EXAMPLES_SEED = 70_001  # of the generated puzzles whose solutions retrieval may look at
#: Not the defaults: rollouts, because a path without an answer says little in this domain (chosen on generated
#: puzzles, as are those of `svip_search.evaluate`), and the critic that needs no words the policy does not know.
SETTINGS: dict[str, dict[str, Any]] = {
    "mcts": {"rollout": True, "c": 0.4, "select": "max"},
    "uct": {"c": 0.4, "select": "max"},
    "ab-mcts": {"select": "max"},
    "reflective-mcts": {"rollout": True, "c": 0.4, "select": "max"},
    "retrieval-mcts": {"rollout": True, "c": 0.4, "select": "max", "k": 1},
    "critique-rewrite": {"critic": ss.reward_critic},
}


#: Settings that are shown as strategies of their own: early stops, and an MCTS that also grows wider with n.
STOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "self-consistency, beta stop": ("self-consistency", {"stop": "beta"}),
    "best-of-n, patience 4": ("best-of-n", {"chunk": 1, "patience": 4}),
}
WIDER = "mcts, wider"
VARIANTS = (*STOPS, WIDER)


def strategy_of(name: str, n: int) -> Strategy:
    """Return a strategy at the size that ``n`` stands for."""
    if name in STOPS:
        name, settings = STOPS[name]
        return ss.make(name, n, **settings)
    if name == WIDER:  # as `svip_search.evaluate` has it
        return ss.make("mcts", 16 * n, expand=max(2, n // 2), **SETTINGS["mcts"])
    settings = dict(SETTINGS.get(name, {}))
    if name == "retrieval-mcts":
        settings["retriever"] = ss.EmbeddingRetriever(examples())
    return ss.make(name, n, **settings)


def examples(count: int = 200) -> list[ss.Example]:
    """Return worked examples from the generator."""
    puzzles = [ss.generate_puzzle(EXAMPLES_SEED, i) for i in range(count)]
    return [ss.Example(p.question.text, tuple(p.steps), str(p.question.answer)) for p in puzzles]


def tasks_of(questions: list[Question], strategy: Strategy) -> list[Task]:
    """Give every question draws of its own, the same for each strategy."""
    seeds = [int.from_bytes(blake2b(q.id.encode(), digest_size=6).digest(), "little") for q in questions]
    return [Task(q, strategy, seed=seed) for q, seed in zip(questions, seeds, strict=True)]


def run(arguments: argparse.Namespace) -> None:
    """Run what is missing, cheapest first, and append it to the records."""
    import torch

    torch.set_num_threads(1)
    if arguments.folder == "generated":
        questions = [ss.generate_puzzle(GENERATED_SEED, i).question for i in range(arguments.limit)]
    else:
        questions = spread(ss.load_puzzlevqa(arguments.folder), arguments.limit)
    part, parts = map(int, arguments.part.split("/"))
    questions = questions[part::parts]
    policy, reward = ss.load_policy(arguments.policy), ss.load_reward(arguments.reward)
    arguments.records.mkdir(parents=True, exist_ok=True)
    path = arguments.records / f"{arguments.policy}-{part}-{parts}.jsonl"
    done = {(row["strategy"], row["n"]) for row in rows_of(path)}
    for n in sorted({*arguments.sizes, *(n for sizes in SQUARES.values() for n in sizes)}):
        for name in arguments.strategies:
            wanted = [1] if name == "greedy" else SQUARES.get(name, arguments.sizes)
            if (name, n) in done or n not in wanted:
                continue
            row = run_one(questions, policy, reward, name, n)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            share = sum(row["right"]) / len(questions)
            tokens = sum(row["tokens"]) / len(questions)
            print(
                f"{name:20} n = {n:2}  {100 * share:5.1f} %  {tokens:7.0f} tokens  {row['seconds']:6.1f} s", flush=True
            )


def run_one(questions: list[Question], policy: Any, reward: Any, name: str, n: int) -> dict[str, Any]:
    """Return the record of one strategy at one size."""
    policy.clear()
    reward.clear()
    strategy = strategy_of(name, n)
    start, start_wall = time.process_time(), time.perf_counter()
    run = ss.solve_many(tasks_of(questions, strategy), policy, reward, schedule=Schedule(searches=SEARCHES))
    results = dict(run)
    seconds, wall = time.process_time() - start, time.perf_counter() - start_wall
    found = [results[i] for i in range(len(questions))]
    return {
        "strategy": name,
        "n": n,
        "ids": [q.id for q in questions],
        "right": [int(is_right(q, r.answer)) for q, r in zip(questions, found, strict=True)],
        "tokens": [r.usage.tokens for r in found],
        "policy_tokens": [r.usage.policy_tokens for r in found],
        "reward_tokens": [r.usage.reward_tokens for r in found],
        "degraded": sum(bool(r.degraded) for r in found),
        "seconds": round(seconds, 3),
        "wall": round(wall, 3),
        "reward_batch": run.stats().reward.mean_size,
    }


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a file."""
    if path.exists():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def merged(folder: Path, policy: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Join the parts of each strategy and size; what is not complete is left out."""
    files = sorted(folder.glob(f"{policy}-*.jsonl"))
    parts: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for path in files:
        for row in rows_of(path):
            parts.setdefault((row["strategy"], row["n"]), []).append(row)
    whole = {}
    for key, rows in parts.items():
        if len(rows) != len(files):
            continue
        whole[key] = {
            name: [value for row in rows for value in row[name]]
            for name in ("ids", "right", "tokens", "policy_tokens", "reward_tokens")
        } | {"degraded": sum(row["degraded"] for row in rows)}
        # Rows of an older version of this file have the wall-clock of a busy machine, which says little.
        timed = all("wall" in row for row in rows)
        whole[key]["seconds"] = sum(row["seconds"] for row in rows) if timed else None
    return whole


def report(arguments: argparse.Namespace) -> None:
    """Write the record and the plot, print the tables."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from timing import write_record

    found = merged(arguments.records, arguments.policy)
    order = {name: i for i, name in enumerate([*ss.STRATEGIES, *VARIANTS])}
    keys = sorted(found, key=lambda key: (order[key[0]], key[1]))
    ids = found[keys[0]]["ids"]
    means = resampled_means(np.array([found[key]["right"] for key in keys], np.float64))
    points = []
    for key, sample in zip(keys, means, strict=True):
        row = found[key]
        assert row["ids"] == ids
        points.append({
            "strategy": key[0], "n": key[1],
            "accuracy": float(np.mean(row["right"])), "ci95": interval(sample),
            "tokens": float(np.mean(row["tokens"])),
            "policy_tokens": float(np.mean(row["policy_tokens"])),
            "reward_tokens": float(np.mean(row["reward_tokens"])),
            "seconds": row["seconds"] / len(ids) if row["seconds"] is not None else None,
            "degraded": row["degraded"],
        })  # fmt: skip
    equal = equal_cost(points, dict(zip(keys, means, strict=True)))
    data = {"policy": arguments.policy, "questions": len(ids), "points": points, "equal_cost": equal}
    write_record(f"search_curves_{arguments.policy}", data)
    plot(points, arguments.policy, len(ids), arguments.plot)
    print(table(equal), seconds_table(points), sep="\n\n")


def equal_cost(points: list[dict[str, Any]], means: dict[tuple[str, int], Any]) -> dict[str, Any]:
    """Return for each size of best-of-n what each strategy reaches with no more tokens (5 % grace)."""
    base = {p["n"]: p for p in points if p["strategy"] == "best-of-n"}
    columns: dict[str, Any] = {}
    for n, limit in base.items():
        column: dict[str, Any] = {}
        for name in dict.fromkeys(p["strategy"] for p in points):
            affordable = [p for p in points if p["strategy"] == name and p["tokens"] <= 1.05 * limit["tokens"]]
            if affordable:
                best = max(affordable, key=lambda p: p["tokens"])
                versus = means[name, best["n"]] - means["best-of-n", n]
                column[name] = {key: best[key] for key in ("n", "accuracy", "ci95", "tokens", "seconds")}
                column[name]["vs_best_of_n"] = {"difference": best["accuracy"] - limit["accuracy"],
                                                "ci95": interval(versus)}  # fmt: skip
        columns[str(n)] = {"tokens": limit["tokens"], "strategies": column}
    return columns


def table(equal: dict[str, Any]) -> str:
    """Return accuracies at equal tokens as Markdown, one column a budget."""
    names = list(dict.fromkeys(name for column in equal.values() for name in column["strategies"]))
    heads = [f"{column['tokens']:,.0f}" for column in equal.values()]
    lines = ["| strategy | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    for name in names:
        cells = []
        for column in equal.values():
            one = column["strategies"].get(name)
            cells.append("–" if one is None else f"{100 * one['accuracy']:.1f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def seconds_table(points: list[dict[str, Any]], budgets: Sequence[float] = (0.05, 0.1, 0.2, 0.4)) -> str:
    """Return accuracies at equal seconds a question as Markdown: the largest size that took no longer."""
    lines = ["| strategy | " + " | ".join(f"{b:g} s" for b in budgets) + " |", "| --- |" + " ---: |" * len(budgets)]
    for name in dict.fromkeys(p["strategy"] for p in points):
        timed = [p for p in points if p["strategy"] == name and p["seconds"] is not None]
        cells = []
        for budget in budgets:
            affordable = [p for p in timed if p["seconds"] <= 1.05 * budget]
            best = max(affordable, key=lambda p: p["n"], default=None)
            cells.append("–" if best is None else f"{100 * best['accuracy']:.1f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


GROUPS = {
    "whole trajectories": (
        "self-consistency", "best-of-n", "weighted", "hybrid", "refined-best-of-n", "critique-rewrite", *STOPS,
    ),
    "step by step": ("guided-greedy", "beam", "annealed-beam", "lookahead", "dvts", "rebase", "particle-filtering"),
    "trees": ("mcts", WIDER, "uct", "ab-mcts", "reflective-mcts", "retrieval-mcts"),
}  # fmt: skip


TICKS = {"tokens": (50, 100, 200, 500, 1000, 2000, 4000), "seconds": (0.02, 0.05, 0.1, 0.2, 0.5, 1)}


def plot(points: list[dict[str, Any]], policy: str, questions: int, path: Path) -> None:
    """Draw accuracy against tokens and against seconds, a column a family of strategies."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(15, 8.4), sharey=True)
    for row, (cost, label) in enumerate((("tokens", "tokens a question"), ("seconds", "seconds a question"))):
        for axis, (title, names) in zip(axes[row], GROUPS.items(), strict=True):
            shown = dict.fromkeys((*names, "best-of-n", "self-consistency"))
            for i, name in enumerate(shown):
                line = [p for p in points if p["strategy"] == name and p[cost] is not None]
                if not line:
                    continue
                guest = name not in names
                colour = {"best-of-n": "black", "self-consistency": "grey"}.get(name, f"C{i if i < 7 else i + 1}")
                x, y = [p[cost] for p in line], [100 * p["accuracy"] for p in line]
                axis.plot(x, y, "--" if guest else "-o", color=colour, label=name, markersize=4, linewidth=1.4)
                if not guest:
                    low, high = zip(*[[100 * c for c in p["ci95"]] for p in line], strict=True)
                    axis.fill_between(x, low, high, color=colour, alpha=0.06)
            axis.set_xscale("log")
            axis.set_xticks(TICKS[cost], [f"{tick:g}" for tick in TICKS[cost]])
            axis.minorticks_off()
            axis.set_xlabel(label)
            axis.set_title(title if not row else "")
            axis.set_ylim(76, 99)  # retrieval, which these policies do not understand, lies far below
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8, loc="lower right")
        axes[row][0].set_ylabel("right answers, %")
    figure.suptitle(
        f"{policy} with svip-tiny on {questions} puzzles; a line is a strategy as it grows, bands are 95 % intervals"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runner = commands.add_parser("run")
    runner.add_argument("folder")
    runner.add_argument("--limit", type=int, default=300)
    runner.add_argument("--reward", default="svip-tiny")
    runner.add_argument("--part", default="0/1")
    runner.add_argument("--sizes", type=lambda text: [int(n) for n in text.split(",")], default=SIZES)
    runner.add_argument("--strategies", type=lambda text: text.split(";"), default=[*ss.STRATEGIES, *VARIANTS])
    runner.set_defaults(act=run)
    reporter = commands.add_parser("report")
    reporter.add_argument("--plot", type=Path, default=ROOT / "docs" / "images" / "curves.png")
    reporter.set_defaults(act=report)
    for one in (runner, reporter):
        one.add_argument("--policy", default="puzzle-nano")
        one.add_argument("--records", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.act(arguments)


if __name__ == "__main__":
    main()

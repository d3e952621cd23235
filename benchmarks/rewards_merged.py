"""Rewards of many questions: one call of the reward model for all against a call for each.

``python benchmarks/rewards_merged.py``; the embedded ``svip-tiny`` on one thread of the CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import count

import torch
from timing import interleave

from svip_search import Question, generate_puzzle, load_reward

Items = list[tuple[Question, list[tuple[str, ...]]]]


def new_items(questions: list[Question], paths: int) -> Iterator[Items]:
    """Yield the questions again and again with paths of one step that nobody has seen yet."""
    steps = [step for i in range(len(questions)) for step in generate_puzzle(seed=2, index=i).steps]
    for turn in count():
        yield [
            (q, [(f"{steps[(i + j) % len(steps)]} {turn} {j}",) for j in range(paths)]) for i, q in enumerate(questions)
        ]


def main() -> None:
    """Print the median milliseconds of both and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--paths", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cold", action="store_true", help="forget prompts too before each call")
    args = parser.parse_args()
    torch.set_num_threads(1)
    questions = [generate_puzzle(seed=1, index=i).question for i in range(args.questions)]
    items = new_items(questions, args.paths)
    models = {name: load_reward("svip-tiny", device=args.device) for name in ("separate", "merged")}

    def run(name: str) -> None:
        model, work = models[name], next(items)
        if args.cold:
            model.clear()
        if name == "merged":
            model.evaluate_many(work)
        else:
            for question, paths in work:
                model.evaluate(question, paths)

    rounds = (args.rounds, args.rounds)
    found = interleave({name: lambda name=name: run(name) for name in models}, seconds=30, rounds=rounds)
    for name, figures in found.items():
        print(f"{name:9} {figures['p50_ms']:8.2f} ms  (p20 {figures['p20_ms']:.2f}, p80 {figures['p80_ms']:.2f})")
    print(f"separate / merged {found['separate']['p50_ms'] / found['merged']['p50_ms']:.2f}")


if __name__ == "__main__":
    main()

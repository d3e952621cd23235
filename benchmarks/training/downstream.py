"""What a reward model is worth in choosing answers: several of them on the same samples of a policy.

    python benchmarks/training/downstream.py PUZZLEVQA --policies puzzle-nano,puzzle-tiny \\
        --rewards full=svip-tiny,outcome=runs/outcome --out benchmarks/records/downstream.json
    python benchmarks/training/downstream.py generated:1000 …      # generated puzzles of a seed of their own

Every policy draws its samples once; each reward model chooses among them, by best-of-n and by a weighted vote,
with the scoring that it recommends.  ``shuffled`` is the first reward model with its rewards permuted among the
candidates of a question.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import svip_search as ss
from svip_search import Candidate, Policy, ProposeRequest, Question

GENERATED_SEED = 50_001
STRATEGIES = ("self-consistency", "best-of-n", "weighted")
Continuations = list[tuple[Candidate, ...]]


class Remembering:
    """A policy that is asked everything once."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.known: dict[tuple[Any, ...], Continuations] = {}

    def propose(self, requests: Sequence[ProposeRequest]) -> list[Continuations]:
        keys = [(r.question.id, r.prefix, r.n, r.seed, r.temperature, r.whole) for r in requests]
        new = {key: request for key, request in zip(keys, requests, strict=True) if key not in self.known}
        if new:
            self.known.update(zip(new, self.policy.propose(list(new.values())), strict=True))
        return [self.known[key] for key in keys]


def questions_of(text: str) -> list[Question]:
    """Read ``generated:N`` or a folder of puzzles."""
    if text.startswith("generated:"):
        return [ss.generate_puzzle(GENERATED_SEED, i).question for i in range(int(text.partition(":")[2]))]
    return ss.load_puzzlevqa(text)


def row(report: dict[str, Any]) -> dict[str, Any]:
    """Keep of a report what the table shows."""
    wanted = ("accuracy", "ci95", "vs_self_consistency", "gap_closed", "by_family", "reward_tokens_per_question",
              "seconds_per_question")  # fmt: skip
    return {name: {key: figures[key] for key in wanted} for name, figures in report["strategies"].items()}


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = []
    for policy, found in results.items():
        samples = found["samples"]
        lines.append(f"\n`{policy}`: majority {100 * samples['self_consistency']:.1f}, pass@n "
                     f"{100 * samples['pass_at_n']:.1f}\n")  # fmt: skip
        lines.append("| reward | best-of-n | gap closed | weighted | gap closed |\n| --- | ---: | ---: | ---: | ---: |")
        for reward, figures in found["rewards"].items():
            cells = []
            for name in ("best-of-n", "weighted"):
                one = figures[name]
                low, high = (100 * x for x in one["ci95"])
                cells.append(f"{100 * one['accuracy']:.1f} ({low:.1f}–{high:.1f})")
                gap = one["gap_closed"]
                low, high = (100 * x for x in gap["ci95"])
                cells.append(f"{100 * gap['value']:.0f} % ({low:.0f} to {high:.0f})")
            lines.append(f"| {reward} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions")
    parser.add_argument("--policies", default="puzzle-nano,puzzle-tiny")
    parser.add_argument("--rewards", default="full=svip-tiny", help="name=model,name=model")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    questions = questions_of(arguments.questions)
    if arguments.limit is not None:  # across the families, not the first of them
        questions = questions[:: max(1, len(questions) // arguments.limit)][: arguments.limit]
    rewards = dict(pair.partition("=")[::2] for pair in arguments.rewards.split(","))
    results: dict[str, Any] = {}
    for name in arguments.policies.split(","):
        policy = Remembering(ss.load_policy(name))
        found: dict[str, Any] = {"rewards": {}}
        for told, where in [*rewards.items(), ("shuffled", next(iter(rewards.values())))]:
            reward = ss.load_reward(where)
            report = ss.evaluate(
                questions, policy, reward, STRATEGIES, n=arguments.n, seed=arguments.seed, batch=16,
                shuffled_reward=told == "shuffled", labels={"policy": name, "reward": told},
            ).to_dict()  # fmt: skip
            found |= {"samples": report["samples"], "run": report["run"], "n_questions": report["n_questions"]}
            found["rewards"][told] = row(report) | {"scoring": str(reward.scoring)}
            print(name, told, {k: round(v["accuracy"], 4) for k, v in report["strategies"].items()}, flush=True)
        results[name] = found
        if arguments.out:
            arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()

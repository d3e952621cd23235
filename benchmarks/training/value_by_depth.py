"""How well does a reward model tell prefixes of plans that still reach a right answer, by their depth?

    python benchmarks/training/value_by_depth.py --reward svip-plan --policies plan-nano

Chains are samples of the policies, as a search meets them, of generated puzzles that are in no training: one half as
long as is usual, one half with plans of 8 to 14 moves.  Writes a record and a figure.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]  # benchmarks are no package

from timing import write_record  # noqa: E402

import svip_search as ss  # noqa: E402
from svip_search import ProposeRequest  # noqa: E402
from svip_search.datasets.planning import FAMILIES, Plan, generate_plan  # noqa: E402
from svip_search.evaluation.value_by_depth import LEAST, LOGIC, DepthValue, value_by_depth  # noqa: E402

SEED = 91_007  # of no training, validation, tuning or study
LONG = (8, 14)
TOGETHER = 16  # puzzles whose chains are sampled in one call
DEEPEST, FEWEST = 14, 40  # moves and prefixes of what is shown
Chains = list[tuple[str, ...]]


def puzzles(count: int) -> Iterator[Plan]:
    """Yield puzzles, every second one with a long plan."""
    long = [name for name, family in FAMILIES.items() if family.longest >= LONG[0]]
    for index in range(count):
        yield generate_plan(SEED, index, families=long, moves=LONG) if index % 2 else generate_plan(SEED, index)


class Once:
    """A reward model that scores the chains of a question once, however many scorings look at them."""

    kind = "prm"

    def __init__(self, reward: Any) -> None:
        self.reward, self.known = reward, {}

    def evaluate(self, question: Any, paths: Any) -> Any:
        """Return the rewards of the paths, which are the same ones whenever the question is asked about."""
        if question.id not in self.known:
            self.known[question.id] = self.reward.evaluate(question, paths)
            self.reward.forget(question)
        return self.known[question.id]


def sample(policy: Any, plans: Sequence[Plan], chains: int, found: dict[str, Chains]) -> None:
    """Add some chains of a policy to those of each puzzle."""
    for at in range(0, len(plans), TOGETHER):
        group = plans[at : at + TOGETHER]
        drawn = policy.propose([ProposeRequest(p.question, (), chains, SEED, 1.0, whole=True) for p in group])
        for plan, own in zip(group, drawn, strict=True):
            found.setdefault(plan.question.id, []).extend(tuple(step.text for step in chain) for chain in own)
            policy.forget(plan.question)


def plot(curves: dict[str, list[DepthValue]], path: Path, title: str) -> None:
    """Draw the area by depth with its intervals, and below it the share of prefixes that still reach an answer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (upper, lower) = plt.subplots(2, 1, figsize=(8, 5.6), sharex=True, height_ratios=(3, 1))
    for color, (name, rows) in zip(("#3d85c6", "#e69138", "#8e7cc3"), curves.items(), strict=False):
        depths = [row.depth for row in rows]
        upper.plot(depths, [row.auroc for row in rows], color=color, marker="o", markersize=4, label=name)
        upper.fill_between(depths, [r.low for r in rows], [r.high for r in rows], color=color, alpha=0.18, linewidth=0)
    upper.axhline(0.9, color="#999999", linewidth=0.8, linestyle="--")
    upper.set(ylabel="AUROC", title=title)
    upper.legend(fontsize=8, loc="lower left")
    rows = next(iter(curves.values()))
    lower.bar([row.depth for row in rows], [row.reaching for row in rows], color="#999999")
    lower.set(ylabel="still right", xlabel="moves so far", ylim=(0, 1), xticks=[row.depth for row in rows])
    for axis in (upper, lower):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward", default="svip-plan", help="name or folder")
    parser.add_argument("--policies", default="plan-nano", help="names or folders whose samples are told apart")
    parser.add_argument("--puzzles", type=int, default=400)
    parser.add_argument("--chains", type=int, default=8, help="samples a puzzle and policy")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--record", default="value_by_depth", help="name of the record; empty writes none")
    parser.add_argument("--figure", type=Path, default=HERE.parents[1] / "docs" / "images" / "value-by-depth.png")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    plans = list(puzzles(arguments.puzzles))
    reward, names = ss.load_reward(arguments.reward), arguments.policies.split(",")
    drawn: dict[str, Chains] = {}
    for name in names:
        sample(ss.load_policy(name, max_tokens=640, max_step_tokens=96), plans, arguments.chains, drawn)
    chains = [(plan, drawn[plan.question.id]) for plan in plans]
    scorings = {"logic of the last step": LOGIC, "least of logic and attribute": LEAST, "as shipped": reward.scoring}
    once = Once(reward)
    found = {name: value_by_depth(once, chains, scoring) for name, scoring in scorings.items()}
    shown = {
        name: [row for row in rows if row.depth <= DEEPEST and row.prefixes >= FEWEST] for name, rows in found.items()
    }
    for name, rows in shown.items():
        print(name)
        for row in rows:
            interval = f"({row.low:.3f}-{row.high:.3f})"
            print(f"  {row.depth:2d} moves  {row.prefixes:5d} prefixes  {row.reaching:.2f} still right"
                  f"  AUROC {row.auroc:.3f} {interval}")  # fmt: skip
    if arguments.record:
        figures = {name: [asdict(row) for row in rows] for name, rows in shown.items()}
        settings = {"reward": arguments.reward, "policies": names, "puzzles": len(plans), "chains": arguments.chains}
        print("record:", write_record(arguments.record, {**settings, "curves": figures}))
    plot(shown, arguments.figure, f"{Path(arguments.reward).name} on {len(chains):,} puzzles of {', '.join(names)}")


if __name__ == "__main__":
    main()

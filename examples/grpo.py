"""Trains the embedded policy with GRPO, once a reward, and draws how often it is right on held-out puzzles.

::

    svip      the step rewards of svip-tiny, combined: no true answer is read
    outcome   1 if the stated answer is the true one, else 0
    both      their sum

Every arm starts from the same weights and takes as many completions of the same puzzles.

``python examples/grpo.py`` trains the first two (some minutes on one idle core), ``--quick`` takes seconds.
Writes grpo.json and grpo.png to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from svip_search import load_reward
from svip_search.evaluation._bootstrap import interval, resampled_means
from svip_search.rewards.rl_reward import RewardFunction, answer_reward
from svip_search.training.grpo import GrpoConfig, train_grpo

#: Weights of (svip, answer_reward).  One of weight 0 is measured along and teaches nothing.
ARMS = {"svip": (1.0, 0.0), "outcome": (0.0, 1.0), "both": (1.0, 1.0)}
QUICK = {"steps": 2, "prompts": 2, "group": 4, "eval_every": 1, "eval_puzzles": 8, "eval_samples": 1}


def measured(lines: Sequence[dict[str, Any]], config: GrpoConfig) -> dict[str, Any]:
    """Return the curve of one run, with 95 % intervals over the held-out puzzles, and what it gained."""
    evaluations = [(line["step"], line["held_out"]) for line in lines if "held_out" in line]
    curve = []
    for step, found in evaluations:
        point = {"step": step, "completions": step * config.prompts * config.group,
                 "steps_per_chain": found["steps"], "rewards": found["rewards"]}  # fmt: skip
        for name in ("greedy", "sampled"):
            point[name] = found[name]
            point[f"{name}_ci95"] = interval(resampled_means([found[f"{name}_right"]])[0])
        curve.append(point)
    gains = {name: gain(evaluations[0][1], evaluations[-1][1], name) for name in ("greedy", "sampled")}
    training = [{k: line[k] for k in ("step", "right", "kl", "tokens", "exact", "rewards")}
                for line in lines if "loss" in line]  # fmt: skip
    return {"curve": curve, "gain": gains, "training": training}


def gain(before: dict[str, Any], after: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the difference of two evaluations on the same puzzles, with its paired 95 % interval."""
    first, last = resampled_means([before[f"{name}_right"], after[f"{name}_right"]])
    return {"mean": after[name] - before[name], "ci95": interval(last - first)}


def compared(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return by how much each arm ends above outcome reward alone."""
    last = {arm: lines[-1]["held_out"] for arm, lines in runs.items()}
    return {f"{arm} - outcome": {name: gain(last["outcome"], found, name) for name in ("greedy", "sampled")}
            for arm, found in last.items() if arm != "outcome" and "outcome" in last}  # fmt: skip


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw the curves: accuracy on held-out puzzles, and what the reward model says of them."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    titles = ("right, sampled", "right, greedy", "mean SVIP reward of samples")
    for arm, run in record["arms"].items():
        x = [p["completions"] for p in run["curve"]]
        for axis, name in zip(axes, ("sampled", "greedy"), strict=False):
            (line,) = axis.plot(x, [p[name] for p in run["curve"]], marker="o", ms=3, label=arm)
            low, high = zip(*(p[f"{name}_ci95"] for p in run["curve"]), strict=True)
            axis.fill_between(x, low, high, alpha=0.12, color=line.get_color(), lw=0)
        axes[2].plot(x, [p["rewards"]["svip"] for p in run["curve"]], marker="o", ms=3, label=arm)
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xlabel="completions seen in training")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("held-out puzzles (band: 95 %)")
    axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train all arms, write record and figure, and print a line an arm."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--policy", default="puzzle-nano", help="embedded policy or folder to start from")
    parser.add_argument("--reward", default="svip-tiny", help="embedded reward model or folder")
    parser.add_argument("--arms", default="svip,outcome", help=f"of {', '.join(ARMS)}")
    parser.add_argument("--families", default="", help="of puzzles (all)")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--eval-every", type=int, default=10, help="steps between two evaluations")
    parser.add_argument("--learning-rate", type=float, default=2e-2)
    parser.add_argument("--kl", type=float, default=0.0, help="weight of the divergence from the start")
    parser.add_argument("--temperature", type=float, default=1.5, help="of all samples: hot, so that chains slip")
    parser.add_argument("--credit", default="step", help="step: SVIP rewards go to the steps they are of; or chain")
    parser.add_argument("--train", default="norms", help="norms, language or all: which weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/grpo"), help="folder of grpo.json and grpo.png")
    parser.add_argument("--runs", type=Path, help="folder of the trained policies, to resume from; default: none kept")
    parser.add_argument("--quick", action="store_true", help="a few completions only, to see it work")
    args = parser.parse_args(arguments)
    if unknown := set(args.arms.split(",")) - set(ARMS):
        parser.error(f"--arms must be of {', '.join(ARMS)}; got {', '.join(sorted(unknown))}")
    options: dict[str, Any] = {"policy": args.policy, "families": tuple(f for f in args.families.split(",") if f),
                               "seed": args.seed, "temperature": args.temperature,
                               "steps": args.steps, "eval_every": args.eval_every, "threads": args.threads,
                               "learning_rate": args.learning_rate, "kl_weight": args.kl,
                               "credit": args.credit, "train": args.train}  # fmt: skip
    if args.quick:
        options |= QUICK
    with tempfile.TemporaryDirectory() as temporary:
        record = train(args, options, args.runs or Path(temporary))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "grpo.json").write_text(json.dumps(rounded(record), indent=1) + "\n", encoding="utf-8")
    try:
        draw(record, args.out / "grpo.png")
    except ImportError:
        print("no figure drawn: pip install matplotlib")
    for arm, run in record["arms"].items():
        for name, found in run["gain"].items():
            first, last = (run["curve"][i][name] for i in (0, -1))
            low, high = found["ci95"]
            print(f"{arm:8} {name:8} {first:.3f} -> {last:.3f}  ({found['mean']:+.3f}, 95 % {low:+.3f} to {high:+.3f})")
    return 0


def train(args: argparse.Namespace, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train every arm and return the record."""
    # Puzzles do not come back, so nothing is worth keeping between calls.
    disable_progress_bar()
    functions = [RewardFunction(load_reward(args.reward, cache_tokens=0), name="svip"), answer_reward]
    record: dict[str, Any] = {"reward": args.reward, "scoring": asdict(functions[0].scoring), "arms": {}}
    logs: dict[str, list[dict[str, Any]]] = {}
    for arm in args.arms.split(","):
        config = GrpoConfig(out=str(folder / arm), reward_weights=ARMS[arm], **options)
        train_grpo(
            config, functions, lambda *state, arm=arm: print(f"{arm}: {state[0]}/{state[1]} {state[2]}", flush=True)
        )
        log = (folder / arm / "training.jsonl").read_text(encoding="utf-8").splitlines()
        logs[arm] = [json.loads(line) for line in log]
        record["arms"][arm] = measured(logs[arm], config) | {"seconds": logs[arm][-1]["seconds"]}
        record["config"] = {k: v for k, v in asdict(config).items() if k not in ("out", "reward_weights", "resume")}
    record["compared"] = compared(logs)
    record["machine"] = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "system": platform.machine(),
                         "torch": torch.__version__, "numpy": np.__version__}  # fmt: skip
    return record


def rounded(value: Any) -> Any:
    """Return a record with its numbers cut to five digits."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, (list, tuple)) else value


if __name__ == "__main__":
    raise SystemExit(main())

"""From records to figures: accuracy by cost and length, differences at equal tokens, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svip_search.evaluation import metrics
from svip_search.evaluation._bootstrap import interval, resampled_means
from svip_search.evaluation._subsets import at, best_curve, distinct_curve, pass_curve, vote_curve

from .cells import ablations
from .models import Truth, worth
from .pool import unsqueezed
from .questions import BIN_NAMES, Item, described

Floats = NDArray[np.float64]
#: Samples of a question whose prefixes are looked at, and the deepest depth that is shown by itself.
LOOKED_AT, DEEPEST = 16, 14
#: Permutations of the rewards behind a curve of the control.
SHUFFLES = 3
#: Resamples behind an interval of a mean over questions, and of a measure that is no mean.
RESAMPLES, FEW_RESAMPLES = 4000, 200


def rows(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """Return the records of all parts by key; lines cut off by a kill are left out."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob(f"{name}.*.jsonl")):
        for line in path.read_bytes().rpartition(b"\n")[0].split(b"\n")[1:]:
            record = json.loads(line)
            found[record.pop("key")] = record
    return found


def study(one: Any, read: Mapping[str, Any], truth: Truth) -> dict[str, Any]:
    """Return all figures of one policy on one set of questions."""
    items = [item for item in one.questions.items if item.id in read["pool"]]
    core = [item for item in one.core if item.id in read["pool"]]
    if not items:
        return {}
    curves = {item.id: curves_of(read["pool"][item.id], read["scores"], item.id) for item in items}
    figures: dict[str, Any] = {
        "core": described(core), "all": described(items),
        "sampled_core": sampled(core, curves), "sampled_all": sampled(items, curves),
        "searched": searched(core, read["searches"], curves),
        "diversity": diversity(core, curves),
    }  # fmt: skip
    if read["scores"].get("learned"):
        figures["reward_quality"] = reward_quality(items, read["pool"], read["scores"]["learned"], truth)
    return figures


# ---- samples -----------------------------------------------------------------------------------------


def curves_of(pool: Mapping[str, Any], scores: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Return accuracy at every n of each way to answer from the pool of one question, and what samples cost."""
    which = np.array(pool["samples"], np.int64)
    right = np.array(pool["right"], bool)[which]
    stated: dict[Any, int] = {}
    codes = [-1 if a is None else stated.setdefault(a, len(stated)) for a in pool["answers"]]
    answers = np.array(codes, np.int64)[which]
    found: dict[str, Any] = {
        "greedy": np.array([float(pool["greedy"] >= 0 and pool["right"][pool["greedy"]])]),
        "self-consistency": vote_curve(answers, right),
        "pass": pass_curve(right),
        "answers": distinct_curve(answers),
        "chains": distinct_curve(which),
    }
    for kind, table in scores.items():
        if name in table:
            weights = np.full(len(pool["chains"]), np.nan)
            weights[table[name]["chosen"]] = table[name]["values"]
            found[f"best-of-n {kind}"] = best_curve(weights[which], right)
            found[f"weighted {kind}"] = vote_curve(answers, right, weights[which])
            if kind == "learned":
                found |= shuffled(answers, right, weights[which])
    found["tokens"] = float(np.mean(np.array(pool["tokens"])[which]))
    found["greedy_tokens"] = float(pool["tokens"][pool["greedy"]]) if pool["greedy"] >= 0 else 0.0
    found["seconds"] = pool["seconds"] / len(which)
    found["greedy_seconds"] = pool["greedy_seconds"]
    distinct = found["chains"] / max(1.0, found["chains"][-1])  # of all distinct ones: each is scored once
    found["reward_tokens"] = {k: t[name]["tokens"] * distinct for k, t in scores.items() if name in t}
    found["reward_seconds"] = {k: t[name]["seconds"] * distinct for k, t in scores.items() if name in t}
    return found


def shuffled(answers: NDArray[np.int64], right: NDArray[np.bool_], weights: Floats) -> dict[str, Floats]:
    """Return the curves with the rewards permuted among the samples that state an answer."""
    rng, known = np.random.default_rng(0), np.flatnonzero(~np.isnan(weights))
    best, vote = [], []
    for seed in range(SHUFFLES):
        mixed = weights.copy()
        mixed[known] = weights[rng.permutation(known)]
        best.append(best_curve(mixed, right))
        vote.append(vote_curve(answers, right, mixed, orders=1, seed=seed))
    return {"best-of-n shuffled": np.mean(best, axis=0), "weighted shuffled": np.mean(vote, axis=0)}


def sampled(items: Sequence[Item], curves: Mapping[str, Any]) -> dict[str, Any]:
    """Return for every way to answer from samples its points, n = 1, 2, 4 ... as far as every pool reaches."""
    names = dict.fromkeys(name for item in items for name, c in curves[item.id].items() if _is_way(name))
    found = {}
    for name in names:
        have = [item for item in items if name in curves[item.id]]
        most = 1 if name == "greedy" else min(len(curves[item.id]["pass"]) for item in have)
        found[name] = [point(have, curves, name, n) for n in sizes(most)]
    return found


def _is_way(name: str) -> bool:
    return name in ("greedy", "self-consistency", "pass") or name.startswith(("best-of-n ", "weighted "))


def sizes(most: int) -> list[int]:
    """Return 1, 2, 4 ... up to ``most``.

    >>> sizes(20)
    [1, 2, 4, 8, 16]
    """
    return [2**k for k in range(most.bit_length())] if most else []


def point(items: Sequence[Item], curves: Mapping[str, Any], name: str, n: int) -> dict[str, Any]:
    """Return accuracy and mean cost of one way to answer with n samples."""
    kind = name.partition(" ")[2].replace("shuffled", "learned")
    own = [curves[item.id] for item in items]
    greedy = name == "greedy"
    tokens = [c["greedy_tokens"] if greedy else n * c["tokens"] for c in own]
    cost = {
        "reward_tokens": np.mean([c["reward_tokens"][kind][n - 1] if kind else 0.0 for c in own]),
        "seconds": np.mean([
            c["greedy_seconds"] if greedy
            else n * c["seconds"] + (c["reward_seconds"][kind][n - 1] if kind else 0.0) for c in own
        ]),
    }  # fmt: skip
    values = [c[name][n - 1] for c in own]
    return {"n": n, **{k: float(v) for k, v in cost.items()}, **by_group(items, values, tokens)}


def by_group(items: Sequence[Item], values: Sequence[float], tokens: Sequence[float]) -> dict[str, Any]:
    """Return mean, interval, policy tokens and number of questions: of all, by length of the plan, by family."""
    array, cost = np.asarray(values, np.float64), np.asarray(tokens, np.float64)
    bins = {name: np.array([item.bin == b for item in items]) for b, name in enumerate(BIN_NAMES)}
    families = {f: np.array([item.family == f for item in items]) for f in sorted({i.family for i in items})}
    return {
        **mean_of(array), "policy_tokens": float(cost.mean()),
        "bins": {k: mean_of(array[m]) | {"policy_tokens": float(cost[m].mean())} for k, m in bins.items() if m.any()},
        "families": {k: mean_of(array[m], intervals=False) for k, m in families.items()},
    }  # fmt: skip


def mean_of(values: Floats, *, intervals: bool = True) -> dict[str, Any]:
    """Return the mean over questions and its bootstrap interval."""
    found: dict[str, Any] = {"mean": float(values.mean()), "questions": len(values)}
    if intervals:
        found["ci95"] = interval(resampled_means(values[None], RESAMPLES)[0])
    return found


# ---- searches ----------------------------------------------------------------------------------------


def searched(
    items: Sequence[Item], searches: Mapping[str, Mapping[str, Any]], curves: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return accuracy, cost and differences of every search that covers any question."""
    cells: dict[tuple[str, str, int], dict[str, Any]] = {}
    for reward, table in searches.items():
        for key, row in table.items():
            strategy, n, _, name = key.split("|", 3)
            cells.setdefault((reward, strategy, int(n)), {})[name] = row
    found = []
    for (reward, strategy, n), table in cells.items():
        have = [item for item in items if item.id in table]
        if not have:
            continue
        own = [table[item.id] for item in have]
        entry = {"strategy": strategy, "n": n, "reward": reward, "asked": len(items)}
        entry |= {k: float(np.mean([r[k] for r in own]))
                  for k in ("reward_tokens", "seconds", "pass", "trajectories", "answers")}  # fmt: skip
        entry |= {"degraded": sum(r["degraded"] > 0 for r in own)}
        entry |= by_group(have, [r["right"] for r in own], [r["policy_tokens"] for r in own])
        entry["versus"] = {k: v for k in rivals(reward) if (v := versus(have, table, curves, k))}
        if plain := baseline(strategy):
            entry["baseline"] = plain
            entry["versus_baseline"] = difference(have, table, cells.get((reward, plain, n), {}))
        found.append(entry)
    return found


def baseline(strategy: str) -> str | None:
    """Return the search that a variant is compared with: rules with all rules, all else with the search itself.

    >>> baseline("beam + no loops"), baseline("beam + rules"), baseline("beam")
    ('beam + rules', 'beam', None)
    """
    name, _, variant = strategy.partition(" + ")
    if not variant:
        return None
    return f"{name} + rules" if variant in ablations() and variant != "rules" else name


def difference(items: Sequence[Item], table: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the paired difference of two searches on the questions that both cover."""
    both = [item for item in items if item.id in other]
    if not both:
        return None
    gaps = [table[i.id]["right"] - other[i.id]["right"] for i in both]
    return by_group(both, gaps, [table[i.id]["policy_tokens"] - other[i.id]["policy_tokens"] for i in both])


def rivals(reward: str) -> tuple[str, ...]:
    """Return what a search is compared with: the same reward on whole samples, and no reward."""
    return f"best-of-n {reward}", f"weighted {reward}", "self-consistency"


def versus(
    items: Sequence[Item], table: Mapping[str, Any], curves: Mapping[str, Any], rival: str
) -> dict[str, Any] | None:
    """Return the paired difference to samples that take as many tokens, on the average of each group of questions.

    The size of the rival may lie between whole numbers.  Where a search took more than the whole pool, it is
    compared with the whole pool, and ``beyond`` says so.
    """
    have = [item for item in items if rival in curves[item.id]]
    if not have:
        return None
    groups = {"all": have} | {name: [i for i in have if i.bin == b] for b, name in enumerate(BIN_NAMES)}
    groups |= {f: [i for i in have if i.family == f] for f in sorted({i.family for i in have})}
    found = {}
    for name, group in groups.items():
        if not group:
            continue
        spent = np.mean([table[i.id]["policy_tokens"] for i in group])
        n = float(spent / np.mean([curves[i.id]["tokens"] for i in group]))
        gaps = np.array([table[i.id]["right"] - at(curves[i.id][rival], n) for i in group])
        most = min(len(curves[i.id][rival]) for i in group)
        found[name] = {"n": n, "beyond": n > most} | mean_of(gaps)
    return found


# ---- why ---------------------------------------------------------------------------------------------


def diversity(items: Sequence[Item], curves: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return by length of the plan how many answers and chains differ among n samples, and pass@n."""
    found = {}
    for b, name in enumerate(BIN_NAMES):
        own = [curves[item.id] for item in items if item.bin == b]
        if own:
            keys = ("answers", "chains", "pass")
            most = min(len(c["pass"]) for c in own)
            found[name] = [{"n": n} | {k: float(np.mean([c[k][n - 1] for c in own])) for k in keys}
                           for n in sizes(most)]  # fmt: skip
    return found


def reward_quality(
    items: Sequence[Item], pool: Mapping[str, Any], scores: Mapping[str, Any], truth: Truth
) -> dict[str, Any]:
    """Return how well the logic reward tells prefixes that can still end right, by moves so far; and calibration.

    A prefix can still end right where nothing is wrong in it and a shortest plan is still open from its last state
    (``worth`` is 1).  Depth 0 are the readings of the picture.
    """
    parts: list[NDArray[np.float64]] = []  # a question each: depth, logic, hopeful, ended right
    ranks: dict[str, list[float]] = {name: [] for name in BIN_NAMES}
    for item in items:
        if item.id in scores:
            parts.append(prefixes(pool[item.id], scores[item.id], truth[item.id]))
            ranks[BIN_NAMES[item.bin]].append(ranking(pool[item.id], scores[item.id]))
    table = np.concatenate(parts)
    depth = np.minimum(table[:, 0], DEEPEST)
    by_depth = []
    for d in range(DEEPEST + 1):
        group = [part[np.minimum(part[:, 0], DEEPEST) == d] for part in parts]
        whole = table[depth == d]
        if len(whole):
            entry = {"depth": d, "prefixes": len(whole), "hopeful": float(whole[:, 2].mean())}
            entry |= {"auroc": number(metrics.auroc(whole[:, 1], whole[:, 2])),
                      "auroc_ended_right": number(metrics.auroc(whole[:, 1], whole[:, 3])),
                      "ci95": auroc_interval([part for part in group if len(part)])}  # fmt: skip
            by_depth.append(entry)
    chart = metrics.reliability(table[:, 1], table[:, 2], 10)
    return {
        "by_depth": by_depth,
        "auroc": number(metrics.auroc(table[:, 1], table[:, 2])),
        "calibration_error": number(chart.error),
        "reliability": {"counts": list(chart.counts), "score": [number(x) for x in chart.mean_score],
                        "hopeful": [number(x) for x in chart.mean_label]},
        "ranking_within_question": {k: {"auroc": number(np.nanmean(v)), "questions": int((~np.isnan(v)).sum())}
                                    for k, v in ranks.items() if len(v) and not np.isnan(v).all()},
    }  # fmt: skip


def prefixes(pool: Mapping[str, Any], scores: Mapping[str, Any], plan: Any) -> Floats:
    """Return [P, 4], of prefixes of the first samples: depth, logic reward, hopeful, whether the chain ends right."""
    place = {c: i for i, c in enumerate(scores["chosen"])}
    chains = [pool["chains"][c].split("\n") for c in scores["chosen"]]
    rewards = unsqueezed(scores["rewards"], [len(chain) for chain in chains])
    found = []
    for c in pool["samples"][:LOOKED_AT]:
        if c in place:
            chain = chains[place[c]]
            hopeful = worth(plan, chain) > 0.99
            columns = (depths(chain), rewards[place[c]][:, 1], hopeful, np.full(len(chain), pool["right"][c]))
            found.append(np.stack(columns, axis=1).astype(np.float64))
    return np.concatenate(found) if found else np.zeros((0, 4))


def depths(chain: Sequence[str]) -> list[int]:
    """Return the moves of the plan after each step, as the steps number them.

    >>> depths(["start : 3 0", "1 : 1 > 2 : 0 3", "back to 0 : 3 0", "answer : 1"])
    [0, 1, 0, 0]
    """
    found, depth = [], 0
    for step in chain:
        head = step.removeprefix("back to ").partition(" : ")[0]
        depth = min(int(head), 99) if head.isascii() and head.isdecimal() and len(head) < 4 else depth
        found.append(depth)
    return found


def ranking(pool: Mapping[str, Any], scores: Mapping[str, Any]) -> float:
    """Return how often a right sample of a question scores above a wrong one, ties counting half."""
    value = dict(zip(scores["chosen"], scores["values"], strict=True))
    known = [c for c in pool["samples"] if c in value]
    return metrics.auroc([value[c] for c in known], [pool["right"][c] for c in known]) if known else float("nan")


def auroc_interval(parts: Sequence[Floats]) -> list[float] | None:
    """Return the interval of the area over resampled questions; None for fewer than ten."""
    if len(parts) < 10:
        return None
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(FEW_RESAMPLES):
        drawn = np.concatenate([parts[i] for i in rng.integers(len(parts), size=len(parts))])
        samples.append(metrics.auroc(drawn[:, 1], drawn[:, 2]))
    return interval(samples)


def number(value: float) -> float | None:
    """Return a number for JSON, None for NaN."""
    return None if np.isnan(value) else float(value)


def rounded(value: Any) -> Any:
    """Return figures with no more digits than they are good for, so that the record stays small."""
    if isinstance(value, Mapping):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value

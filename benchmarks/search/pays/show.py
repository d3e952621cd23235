"""Tables in Markdown, and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .questions import BIN_NAMES

SEARCH = "search, budget of n samples, reward"
COLOURS = {"beam": "C0", "dvts": "C2", "mcts": "C3"}
TICKS = (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
LINES = {
    "self-consistency": ("grey", "-"), "best-of-n learned": ("black", "-"), "weighted learned": ("C1", "-"),
    "best-of-n shuffled": ("black", ":"), "best-of-n oracle": ("C4", "--"), "pass": ("C8", "-."),
}  # fmt: skip


def tables(figures: Mapping[str, Any]) -> str:
    """Return every table."""
    blocks = []
    for name, policies in figures["sets"].items():
        for policy, study in policies.items():
            if study:
                blocks += [f"# {name}: {policy}", *_of_study(study)]
    return "\n\n".join(blocks)


def _of_study(study: Mapping[str, Any]) -> list[str]:
    blocks = [f"Core: {study['core']}\n\nAll: {study['all']}"]
    for which in ("sampled_core", "sampled_all"):
        blocks += [f"## Samples, {which.removeprefix('sampled_')}: accuracy by n", samples_table(study[which])]
        blocks += [f"## Samples, {which.removeprefix('sampled_')}: largest n, by moves of the shortest plan",
                   bins_table({k: v[-1] for k, v in study[which].items()})]  # fmt: skip
    plain = [e for e in study["searched"] if " + " not in e["strategy"]]
    varied = [e for e in study["searched"] if " + " in e["strategy"]]
    blocks += ["## Searches", searches_table(plain)]
    blocks += ["## Searches minus best-of-n at equal policy tokens, points", versus_table(plain)]
    if varied:
        blocks += ["## Rules and scoring", ablation_table(varied)]
    blocks += ["## Diversity of samples", diversity_table(study["diversity"])]
    if "reward_quality" in study:
        blocks += ["## Logic reward: can the prefix still end right?", quality_table(study["reward_quality"])]
    return blocks


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is text."""
    rows = [heads, ["---"] + ["---:"] * (len(heads) - 1), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def percent(value: Mapping[str, Any] | None, sign: str = "") -> str:
    """Return mean and interval in percent."""
    if value is None:
        return "–"
    span = value.get("ci95")
    text = f"{100 * value['mean']:{sign}.1f}"
    return text if span is None else f"{text} ({100 * span[0]:{sign}.1f} to {100 * span[1]:{sign}.1f})"


def samples_table(found: Mapping[str, Any]) -> str:
    ns = sorted({p["n"] for points in found.values() for p in points})
    lines = []
    for name, points in found.items():
        cells = {p["n"]: p for p in points}
        lines.append([name, *(f"{100 * cells[n]['mean']:.1f}" if n in cells else "–" for n in ns)])
    most = max(found.values(), key=len, default=[])
    cost = {p["n"]: p for p in most}
    lines.append(["policy tokens", *(f"{cost[n]['policy_tokens']:,.0f}" if n in cost else "–" for n in ns)])
    return markdown(["way to answer", *(f"n = {n}" for n in ns)], lines)


def bins_table(found: Mapping[str, Any]) -> str:
    lines = [[f"{name}, n = {p['n']}", str(p["questions"]), percent(p), *(percent(p["bins"].get(b)) for b in BIN_NAMES),
              f"{p['policy_tokens']:,.0f}", f"{p['reward_tokens']:,.0f}", f"{p['seconds']:.2f}"]
             for name, p in found.items()]  # fmt: skip
    heads = ["way to answer", "questions", "all", *BIN_NAMES, "policy tokens", "reward tokens", "seconds"]
    return markdown(heads, lines)


def searches_table(found: Sequence[Mapping[str, Any]]) -> str:
    lines = [[f"{e['strategy']}, {e['n']}, {e['reward']}", f"{e['questions']}/{e['asked']}", percent(e),
              *(percent(e["bins"].get(b)) for b in BIN_NAMES), f"{100 * e['pass']:.1f}", f"{e['policy_tokens']:,.0f}",
              f"{e['reward_tokens']:,.0f}", f"{e['seconds']:.2f}"] for e in found]  # fmt: skip
    heads = [SEARCH, "questions", "all", *BIN_NAMES, "pass", "policy tokens", "reward tokens", "seconds"]
    return markdown(heads, lines)


def versus_table(found: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for e in found:
        rival = e["versus"].get(f"best-of-n {e['reward']}")
        if rival:
            at = rival["all"]
            size = f"{at['n']:.1f}" + (" (beyond the pool)" if at["beyond"] else "")
            lines.append([f"{e['strategy']}, {e['n']}, {e['reward']}", size, percent(at, "+"),
                          *(percent(rival.get(b), "+") for b in BIN_NAMES)])  # fmt: skip
    return markdown([SEARCH, "as many tokens as n", "all", *BIN_NAMES], lines)


def ablation_table(found: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for e in found:
        gap = e["versus_baseline"]
        bins = gap["bins"] if gap else {}
        name = f"{e['strategy']}, {e['n']}, {e['reward']}"
        lines.append([name, str(e["questions"]), percent(e), e["baseline"], percent(gap, "+"),
                      *(percent(bins.get(b), "+") for b in BIN_NAMES), f"{e['policy_tokens']:,.0f}"])  # fmt: skip
    return markdown(["search", "questions", "accuracy", "minus", "difference", *BIN_NAMES, "policy tokens"], lines)


def diversity_table(found: Mapping[str, Any]) -> str:
    lines = []
    for name, points in found.items():
        for p in points:
            if p["n"] in (1, 4, 16, 64, 256):
                lines.append([f"{name} moves, n = {p['n']}", f"{p['answers']:.2f}", f"{p['chains']:.1f}",
                              f"{100 * p['pass']:.1f}"])  # fmt: skip
    return markdown(["plans of", "different answers", "different chains", "pass@n"], lines)


def quality_table(found: Mapping[str, Any]) -> str:
    def show(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    lines = []
    for e in found["by_depth"]:
        span = "–" if e["ci95"] is None else f"{e['ci95'][0]:.3f} to {e['ci95'][1]:.3f}"
        lines.append([str(e["depth"]), f"{e['prefixes']:,}", f"{100 * e['hopeful']:.1f}", show(e["auroc"]), span,
                      show(e["auroc_ended_right"])])  # fmt: skip
    heads = ["moves so far", "prefixes", "can end right, %", "AUROC", "95 % interval", "AUROC, chain did end right"]
    ranks = (f"{k}: {show(v['auroc'])} ({v['questions']})" for k, v in found["ranking_within_question"].items())
    return (
        f"{markdown(heads, lines)}\n\nAll prefixes: AUROC {show(found['auroc'])}, calibration error "
        f"{show(found['calibration_error'])}. Right above wrong within a question, by moves (questions): "
        f"{', '.join(ranks)}."
    )


# ---- figures -----------------------------------------------------------------------------------------


def plot(figures: Mapping[str, Any], folder: Path) -> None:
    """Draw accuracy against tokens by length of the plan, and the quality of the rewards by depth."""
    import matplotlib

    matplotlib.use("Agg")
    studies = {k: v for k, v in figures["sets"].get("plans", {}).items() if v}
    if not studies:
        return
    folder.mkdir(parents=True, exist_ok=True)
    _curves(studies, folder / "when_search_pays.png")
    graded = {k: v["reward_quality"] for k, v in studies.items() if "reward_quality" in v}
    if graded:
        _quality(graded, folder / "when_search_pays_rewards.png")


def _curves(studies: Mapping[str, Any], path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(studies), len(BIN_NAMES), figsize=(18, 4.6 * len(studies)), squeeze=False,
                                sharey="row")  # fmt: skip
    for row, (policy, study) in zip(axes, studies.items(), strict=True):
        for axis, name in zip(row, BIN_NAMES, strict=True):
            _lines(axis, study, name)
            axis.set(xscale="log", xlabel="policy tokens a question", title=f"{policy}: {name} moves")
            axis.set_xticks(TICKS, [f"{tick:,}" for tick in TICKS])
            axis.minorticks_off()
            axis.set_xlim(*_span(study, name))
            axis.grid(alpha=0.3)
        row[0].set_ylabel("right answers, %")
        row[0].legend(fontsize=8, loc="best")
    figure.suptitle("Accuracy by the moves of the shortest plan; bands and bars are 95 % intervals over questions")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _span(study: Mapping[str, Any], name: str) -> tuple[float, float]:
    """Return the least and most tokens of the samples, with a margin."""
    tokens = [p["bins"][name]["policy_tokens"] for p in study["sampled_core"].get("pass", []) if name in p["bins"]]
    return (0.8 * min(tokens), 1.25 * max(tokens)) if tokens else (50, 20_000)


def _lines(axis: Any, study: Mapping[str, Any], name: str) -> None:
    """Draw the lines of samples, and searches with learned rewards as points."""
    for way, (colour, style) in LINES.items():
        points = [p for p in study["sampled_core"].get(way, []) if name in p["bins"]]
        x = [p["bins"][name]["policy_tokens"] for p in points]
        axis.plot(x, [100 * p["bins"][name]["mean"] for p in points], style, color=colour, linewidth=1.4,
                  label="pass@n" if way == "pass" else way)  # fmt: skip
        if way == "best-of-n learned" and points:
            low, high = zip(*[[100 * c for c in p["bins"][name]["ci95"]] for p in points], strict=True)
            axis.fill_between(x, low, high, color=colour, alpha=0.1)
    for strategy, colour in COLOURS.items():
        for reward, marker in (("learned", "o"), ("oracle", "^")):
            found = sorted((e for e in study["searched"] if (e["strategy"], e["reward"]) == (strategy, reward)
                            and name in e["bins"]), key=lambda e: e["n"])  # fmt: skip
            if found:
                mean = [100 * e["bins"][name]["mean"] for e in found]
                spans = [[100 * c for c in e["bins"][name]["ci95"]] for e in found]
                off = [[m - s[0] for m, s in zip(mean, spans, strict=True)],
                       [s[1] - m for m, s in zip(mean, spans, strict=True)]]  # fmt: skip
                x = [e["bins"][name]["policy_tokens"] for e in found]
                axis.errorbar(x, mean, yerr=off, fmt=marker, color=colour, alpha=0.8,
                              linestyle="-" if reward == "learned" else "--", linewidth=0.9, markersize=5, capsize=2,
                              label=f"{strategy} {reward}")  # fmt: skip


def _quality(graded: Mapping[str, Any], path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4))
    for i, (policy, quality) in enumerate(graded.items()):
        shown = [e for e in quality["by_depth"] if e["auroc"] is not None]
        depth = [e["depth"] for e in shown]
        left.plot(depth, [e["auroc"] for e in shown], "-o", color=f"C{i}", markersize=4, label=policy)
        spans = [e["ci95"] or [e["auroc"]] * 2 for e in shown]
        left.fill_between(depth, [s[0] for s in spans], [s[1] for s in spans], color=f"C{i}", alpha=0.15)
        pairs = zip(quality["reliability"]["score"], quality["reliability"]["hopeful"], strict=True)
        known = [(x, y) for x, y in pairs if x is not None and y is not None]
        right.plot([x for x, _ in known], [y for _, y in known], "-o", color=f"C{i}", markersize=4, label=policy)
    left.set(xlabel="moves so far", ylabel="AUROC of the logic reward", title="Can the prefix still end right?")
    right.plot([0, 1], [0, 1], ":", color="grey")
    right.set(xlabel="logic reward", ylabel="share of prefixes that can end right", title="Calibration")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)

"""What the figures of the tree attention look like: in a terminal, in the documentation, on a roofline."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCS, IMAGE = ROOT / "docs" / "kernels.md", ROOT / "docs" / "images" / "triatt_roofline.svg"
BEGIN, END = "<!-- triatt table begin -->", "<!-- triatt table end -->"
HEADLINE = {"shape": "beam", "prefix": 512, "width": 128, "heads": 3, "dtype": "float32"}
#: How many times our time a rival was meant to take, at N = 256 and N = 1024 of the headline.
AIMS = {
    ("padded", "full"): (150, 150),
    ("path loop", "full"): (15, 15),
    ("dense mask", "full"): (16, 55),
    ("segment loop", "full"): (6, 6),
    ("flex", "full"): (12, 12),
    ("flex + mask", "full"): (30, 30),
    ("ours, full re-score", "frontier"): (14, 14),
}
#: Share of the floor, which is the longer of all multiply-adds at peak and all bytes at full bandwidth.
FLOOR_AIMS = {"full": 0.80, "frontier": 0.75}
BF16_AIM = 1.6
Figures = dict[str, Any]


def derive(figures: Figures, base: Figures | None, flops: int, n_bytes: int, floor: float | None) -> Figures:
    """Return speeds, the share of the floor, and how many times our time a time is."""
    ms = figures["p50_ms"]
    found = {"gflops": round(flops / ms / 1e6, 2), "gbs": round(n_bytes / ms / 1e6, 2)}
    if floor:
        found["of_floor"] = round(floor / ms, 4)
    if base:
        found["times"] = round(ms / base["p50_ms"], 2)
        found["times_cpu"] = round(figures["cpu_ms"] / max(base["cpu_ms"], 1e-6), 2)
    return found


def slopes(cases: list[Figures]) -> list[Figures]:
    """Return by what power of N each cost grows, beside that of the work itself."""
    groups: dict[tuple[Any, ...], list[Figures]] = defaultdict(list)
    keys = (*HEADLINE, "mode", "threads")
    for case in filter(_is_headline, cases):
        groups[tuple(case[key] for key in keys)].append(case)
    found = []
    for group, members in groups.items():
        curves = {"work": {case["nodes"]: case["gflop"] for case in members}}
        for case in members:
            for name, figures in case["results"].items():
                curves.setdefault(name, {})[case["nodes"]] = figures["p50_ms"]
        powers = {name: _power(curve) for name, curve in curves.items() if len(curve) > 1}
        if powers:
            found.append(dict(zip(keys, group, strict=True)) | {"powers": powers})
    return found


def _power(curve: dict[int, float]) -> float:
    """Return the slope of the straight line through the logarithms."""
    xs, ys = [math.log(x) for x in curve], [math.log(y) for y in curve.values()]
    x0, y0 = sum(xs) / len(xs), sum(ys) / len(ys)
    return round(sum((x - x0) * (y - y0) for x, y in zip(xs, ys, strict=True)) / sum((x - x0) ** 2 for x in xs), 3)


def aims(cases: list[Figures]) -> list[Figures]:
    """Return every aim that was measured, with what came out on the wall and in processor time."""
    found = []
    for case in cases:
        if case["nodes"] not in (256, 1024) or not _is_headline(case) or "ours" not in case["results"]:
            continue
        mine = case["results"]["ours"]
        reached = [
            (f"times faster than {name}", wanted[case["nodes"] == 1024], rival["times"], rival["times_cpu"])
            for (name, mode), wanted in AIMS.items()
            if mode == case["mode"] and (rival := case["results"].get(name))
        ]
        if case["floor_ms"]:
            share = case["floor_ms"] * max(1, case["threads"]) / mine["cpu_ms"]
            reached.append(("share of the floor", FLOOR_AIMS[case["mode"]], mine["of_floor"], share))
        if half := next((c["results"].get("ours, bfloat16 products") for c in cases if _is_half_of(c, case)), None):
            ratios = (mine[key] / half[key] for key in ("p50_ms", "cpu_ms"))
            reached.append(("times faster with bfloat16 products", BF16_AIM, *ratios))
        for what, aim, wall, cpu in reached:
            where = {key: case[key] for key in ("nodes", "mode", "threads")}
            found.append(where | {"what": what, "aim": aim, "measured": round(wall, 3), "cpu": round(cpu, 3)})
    return found


def _is_headline(case: Figures) -> bool:
    return all(case[key] == value for key, value in HEADLINE.items()) and not case["cold"]


def _is_half_of(case: Figures, other: Figures) -> bool:
    same = (*(key for key in HEADLINE if key != "dtype"), "nodes", "mode", "threads", "cold")
    return case["dtype"] == "bfloat16" and all(case[key] == other[key] for key in same)


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar, or lines where the output is no terminal; yield what is called as each case begins."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    console = Console()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total, completed=-1)

        def advance(description: str) -> None:
            bar.update(task, advance=1, description=description)
            if not console.is_terminal:
                print(f"{bar.tasks[0].completed:.0f}/{total} {description}", flush=True)

        yield advance


def show(figures: Figures) -> None:
    """Print all cases and the aims."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.width = max(console.width, 116)  # a table that wraps its numbers cannot be read
    for top in figures["ceilings"]:
        console.print(_ceilings_line(top))
    for case in figures["cases"]:
        head = " ".join(str(case[key]) for key in ("shape", "heads", "dtype", "mode"))
        title = f"N={case['nodes']} P={case['prefix']} d={case['width']} {head}, {threads_of(case['threads'])}"
        table = Table("", "ms", "p20-p80", "cpu ms", "x ours", "by cpu", "GFLOP/s", "GB/s", "of floor", title=title)
        for name, f in case["results"].items():
            spread = f"{f['p20_ms']:.3f}-{f['p80_ms']:.3f}"
            ratios = (f"{f.get(key, math.nan):.2f}" for key in ("times", "times_cpu"))
            speeds = (f"{f[key]:.1f}" for key in ("gflops", "gbs"))
            share = f"{f.get('of_floor', math.nan):.0%}"
            table.add_row(name, f"{f['p50_ms']:.3f}", spread, f"{f['cpu_ms']:.3f}", *ratios, *speeds, share)
        console.print(table)
        for name, reason in case["skipped"].items():
            console.print(f"[dim]{name} skipped: {reason}[/dim]")
    for title, rows in _extra_tables(figures):
        table = Table(*rows[0], title=title)
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)


def publish(path: Path) -> None:
    """Put the table of a record into the documentation, and draw the roofline."""
    record = json.loads(path.read_text(encoding="utf-8"))
    _replace(BEGIN, END, lambda: markdown(record))
    if plot(record, IMAGE):
        print(f"roofline: {IMAGE}")
    else:
        print("no roofline drawn: pip install matplotlib")


def publish_accuracy(path: Path) -> None:
    """Put the table of a record of `accuracy.py` into the documentation."""
    found = json.loads(path.read_text(encoding="utf-8"))["figures"]["rows"]
    inputs = [key for key in found[0] if key not in ("who", "dtype")]
    rows = [["", "keys, values", *(f"{name}: {of}" for name in inputs for of in ("attention", "score"))]]
    for row in found:
        values = (f"{row[name][of]:.1e}" for name in inputs for of in ("att", "scores"))
        rows.append([row["who"], row["dtype"], *values])
    _replace(BEGIN.replace("table", "accuracy"), END.replace("table", "accuracy"), lambda: _markdown_table(rows))


def _replace(begin: str, end: str, text: Callable[[], str]) -> None:
    """Put text between two lines of the documentation."""
    if not DOCS.exists() or begin not in (old := DOCS.read_text(encoding="utf-8")):
        print(f"no table written: {DOCS.name} has no line {begin}")
        return
    before, rest = old.split(begin)
    DOCS.write_text(before + begin + "\n" + text() + end + rest.split(end)[1], encoding="utf-8")
    print(f"table: {DOCS}")


def markdown(record: Figures) -> str:
    """Return the tables of the documentation."""
    figures, machine = record["figures"], record["machine"]
    made = f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}, {record['date'][:10]}"
    parts = [f"{made}, commit {record['commit']}; milliseconds, and in brackets how many times ours.\n"]
    parts += [_ceilings_line(top) + "\n" for top in figures["ceilings"]]
    for threads in sorted({case["threads"] for case in figures["cases"]}):
        for mode in ("full", "frontier"):
            rows = _headline_rows([c for c in figures["cases"] if c["threads"] == threads and c["mode"] == mode])
            if rows:
                title = {"full": "Every step", "frontier": "The newest level only"}[mode]
                parts.append(f"**{title}, {threads_of(threads)}**\n\n{_markdown_table(rows)}")
    parts += [f"**{title}**\n\n{_markdown_table(rows)}" for title, rows in _extra_tables(figures)]
    return "\n".join(parts)


def _ceilings_line(top: Figures) -> str:
    known = {"fma": "float32 GFLOP/s", "bf16_dot": "bfloat16 GFLOP/s", "read": "GB/s read",
             "sgemm": "GFLOP/s in torch's sgemm", "bf16_gemm": "in its bfloat16 product"}  # fmt: skip
    values = ", ".join(f"{top[key]:.0f} {what}" for key, what in known.items() if top[key])
    return f"Ceilings of {top['device']}, {threads_of(top['threads'])}: {values}."


def threads_of(threads: int) -> str:
    """Return the words for a number of threads, where 0 stands for a GPU."""
    return {0: "GPU", 1: "1 thread"}.get(threads, f"{threads} threads")


def _headline_rows(cases: list[Figures]) -> list[list[str]]:
    """Return a header and a row for each rival, a column for each size."""
    cases = sorted((case for case in cases if _is_headline(case)), key=lambda case: case["nodes"])
    if not cases:
        return []
    names = list(dict.fromkeys(name for case in cases for name in (*case["results"], *case["skipped"])))
    rows = [["", *(f"N = {case['nodes']}" for case in cases)]]
    for name in names:
        if any(name in case["results"] for case in cases):
            rows.append([name, *(_cell(case["results"].get(name), name) for case in cases)])
    rows.append(["floor", *(f"{case['floor_ms']:.3g}" if case["floor_ms"] else "" for case in cases)])
    return rows


def _cell(figures: Figures | None, name: str) -> str:
    if figures is None:
        return "-"
    text = _number(figures["p50_ms"])
    return text if name == "ours" or "times" not in figures else f"{text} ({_number(figures['times'])}x)"


def _number(value: float) -> str:
    """Return three digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _extra_tables(figures: Figures) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield titles and rows of what is not the headline; the first row is a header."""
    if varied := [case for case in figures["cases"] if not _is_headline(case) and "ours" in case["results"]]:
        yield "One thing changed", [["", "ours", "of floor", "best rival", "ms"], *map(_varied_row, varied)]
    if figures["growth"]:
        rows = [["", "appending", "scoring", "together"]]
        for case in figures["growth"]:
            rows += _growth_rows(case)
        yield "Growing a tree in 16 rounds, all rounds together, ms", rows
    if figures["slopes"]:
        rows = [["", "cost grows with N to the power of"]]
        for group in figures["slopes"]:
            powers = ", ".join(f"{name} {power:.2f}" for name, power in group["powers"].items())
            rows.append([f"{group['shape']} {group['mode']}, {threads_of(group['threads'])}", powers])
        yield "Growth of the cost", rows
    if figures["aims"]:
        rows = [["", "what", "aim", "measured", "in processor time"]]
        for aim in figures["aims"]:
            where = f"N = {aim['nodes']} {aim['mode']}, {threads_of(aim['threads'])}"
            rows.append([where, aim["what"], f"{aim['aim']:g}", *(_number(aim[key]) for key in ("measured", "cpu"))])
        yield "Aims", rows


def _varied_row(case: Figures) -> list[str]:
    rivals = {name: f["p50_ms"] for name, f in case["results"].items() if not name.startswith("ours")}
    best = min(rivals, key=lambda name: rivals[name], default=None)
    mine = case["results"]["ours"]
    ratio = f"{_number(rivals[best])} ({rivals[best] / mine['p50_ms']:.3g}x)" if best else ""
    what = f"{case['shape']} N={case['nodes']} P={case['prefix']} d={case['width']} heads={case['heads']}"
    share = f"{mine['of_floor']:.0%}" if "of_floor" in mine else ""
    return [f"{what} {case['dtype']} {case['mode']}", f"{mine['p50_ms']:.3g}", share, best or "", ratio]


def _growth_rows(case: Figures) -> Iterator[list[str]]:
    for name, figures in case.items():
        if isinstance(figures, dict):
            append, score = figures.get("append_ms"), figures["score_ms"]
            label = f"N = {case['nodes']}, {threads_of(case['threads'])}: {name}"
            yield [label, "not counted" if append is None else f"{append:.3g}", f"{score:.3g}",
                   f"{(append or 0) + score:.3g}"]  # fmt: skip


def _markdown_table(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"


def plot(record: Figures, path: Path) -> bool:
    """Draw our speed against operations a byte, under the machine's ceilings; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "svip"  # the same picture gives the same file
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for i, top in enumerate(top for top in record["figures"]["ceilings"] if top["fma"] and top["read"]):
        reach = [1, top["fma"] / top["read"], 1000]
        roof = [min(top["fma"], x * top["read"]) for x in reach]
        axes.plot(reach, roof, color=f"C{i}", label=f"ceiling, {threads_of(top['threads'])}")
        for mode, marker in (("full", "o"), ("frontier", "^")):
            points = [(case["gflop"] * 1e3 / case["mbyte"], case["results"]["ours"]["gflops"])
                      for case in record["figures"]["cases"] if case["mode"] == mode and "ours" in case["results"]
                      and case["threads"] == top["threads"] and case["dtype"] == "float32"]  # fmt: skip
            if points:
                axes.scatter(*zip(*points, strict=True), color=f"C{i}", marker=marker, label=f"{mode}")
    axes.set(xscale="log", yscale="log", xlabel="operations per byte of keys and values read once", ylabel="GFLOP/s")
    axes.set_title("Tree attention, float32")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return True

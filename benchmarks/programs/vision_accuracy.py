"""Measure the share of right answers of the classical vision module, per call kind and family.

``python benchmarks/programs/vision_accuracy.py`` asks about generated pictures and compares with scene truth;
``--real FOLDER`` adds the real PuzzleVQA pictures, compared with their captions; ``--errors DIR`` writes contact
sheets of the wrong answers.  Needs the extra ``vision``.  Writes ``records/vision_accuracy.json``.

A thing that is not found makes all its answers wrong.  Intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # benchmarks are no package

import captions  # noqa: E402
from shares import wilson  # noqa: E402
from timing import version, write_record  # noqa: E402

from svip_search.datasets.puzzles import FAMILIES, generate_puzzle  # noqa: E402
from svip_search.programs import Region  # noqa: E402
from svip_search.programs.vision import ClassicalVision, Thing, ThingScene, TruthVision, same_answer  # noqa: E402

METHODS = ("color", "number", "shape", "size", "sides", "text")
SEED = 4_000_000  # of the generated pictures: no other seed of the project is so large
WHOLE = Region()
_NEAR = 0.08


@dataclass
class Tally:
    """Answers counted by (call kind, family), and the wrong ones."""

    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    right: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[dict[str, Any]] = field(default_factory=list)

    def note(self, kind: str, family: str, expected: Any, found: Any, ok: bool, **where: Any) -> None:
        """Count one answer."""
        self.asked[kind, family] += 1
        self.right[kind, family] += ok
        if not ok:
            self.wrong.append({"kind": kind, "family": family, "expected": expected, "found": found, **where})

    def table(self) -> dict[str, Any]:
        """Return share, count and interval of each call kind, over all families and for each."""
        kinds = dict.fromkeys(kind for kind, _ in self.asked)
        return {kind: self._row(kind) for kind in kinds}

    def _row(self, kind: str) -> dict[str, Any]:
        families = {f: (self.right[k, f], n) for (k, f), n in self.asked.items() if k == kind}
        right, asked = sum(r for r, _ in families.values()), sum(n for _, n in families.values())
        return {**share(right, asked), "families": {f: share(*counts) for f, counts in sorted(families.items())}}


def share(right: int, asked: int) -> dict[str, Any]:
    """Return the share of right answers with its interval."""
    interval = [round(bound, 4) for bound in wilson(right, asked)]
    return {"right": right, "asked": asked, "share": round(right / asked, 4), "interval": interval}


def generated(tally: Tally, count: int, pixels: int, times: list[float]) -> None:
    """Ask about ``count`` generated pictures, families in turn."""
    names = list(FAMILIES)
    for i in range(count):
        puzzle = generate_puzzle(SEED, i, pixels=pixels, families=[names[i % len(names)]])
        scene, truth = looked(puzzle.image, times), TruthVision().look(puzzle)
        for kind in ("object", "number", "?", *sorted({t.shape for t in truth.things} - {""})):
            expected, found = (s.call("find", WHOLE, [kind]) for s in (truth, scene))
            ok = same_answer("find", found, expected)
            tally.note("find", puzzle.family, f"{kind}: {len(expected)}", len(found), ok,
                       picture=puzzle.image, region=WHOLE)  # fmt: skip
        partners = matched(scene.things, truth.things)
        for thing in truth.things:
            answers(tally, puzzle.family, attributes(thing), scene, partners.get(thing), puzzle.image, thing.region)


def attributes(thing: Thing) -> dict[str, Any]:
    """Return every answer about a thing."""
    return {method: getattr(thing, method) for method in METHODS}


def matched(found: Sequence[Thing], true: Sequence[Thing]) -> dict[Thing, Thing]:
    """Return the thing found nearest to each true one, if it is near."""
    partners = {}
    for thing in true:
        near = min(found, key=lambda f: distance(f, thing), default=None)
        if near is not None and distance(near, thing) < _NEAR:
            partners[thing] = near
    return partners


def distance(a: Thing, b: Thing) -> float:
    return math.hypot(a.region.x - b.region.x, a.region.y - b.region.y)


def looked(picture: Any, times: list[float]) -> ThingScene:
    start = time.process_time()
    scene = ClassicalVision().look(picture)
    times.append(1e3 * (time.process_time() - start))
    return scene


def answers(tally: Tally, family: str, facts: dict[str, Any], scene: ThingScene, thing: Thing | None,
            picture: Any, region: Region) -> None:  # fmt: skip
    """Ask all that is known of one thing, through its patch."""
    for method, expected in facts.items():
        found = scene.call(method, thing.region, []) if thing else None
        tally.note(method, family, expected, found, same_answer(method, found, expected), picture=picture,
                   region=region)  # fmt: skip


def real(tally: Tally, folder: Path, times: list[float]) -> None:
    """Ask about the real pictures what their captions determine."""
    for family in FAMILIES:
        for line in (folder / f"{family}.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            picture = folder / record["image"]
            known, order = captions.facts(family, record)
            scene = looked(picture, times)
            things = best_order(known, order, scene.things)
            marks = sum(f.get("number") == "?" for f in known)
            ok = things is not None and len(scene.call("find", WHOLE, ["?"])) == marks
            tally.note("find", family, len(known), len(scene.things), ok, picture=picture, region=WHOLE)
            for fact, thing in zip(known, things or [None] * len(known), strict=True):
                region = thing.region if thing else WHOLE
                answers(tally, family, completed(fact), scene, thing, picture, region)


def completed(fact: dict[str, Any]) -> dict[str, Any]:
    """Add what follows from a fact: text from the number, sides from the shape."""
    sides = {name: n for n, name in captions.SIDES.items()} | {"rectangle": 4}
    text = {"text": str(fact["number"])} if "number" in fact else {}
    return {**fact, **text, **({"sides": sides.get(fact["shape"], 0)} if "shape" in fact else {})}


def best_order(known: list[captions.Fact], order: captions.Order, things: Sequence[Thing]) -> list[Thing] | None:
    """Return the things in the order of the facts that fits best; None where there are more or fewer of them."""
    if len(things) != len(known):
        return None
    return list(max(order(things), key=lambda line: sum(map(fits, known, line))))


def fits(fact: captions.Fact, thing: Thing) -> int:
    return sum(same_answer(method, getattr(thing, method), value) for method, value in fact.items())


def sheets(wrong: Sequence[dict[str, Any]], folder: Path, name: str, per_kind: int = 40) -> None:
    """Write a contact sheet a call kind: the picture, the region, what was expected and what was found."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in dict.fromkeys(w["kind"] for w in wrong):
        some = [w for w in wrong if w["kind"] == kind][:per_kind]
        sheet = Image.new("RGB", (8 * 264, -(-len(some) // 8) * 300), "white")
        for i, error in enumerate(some):
            sheet.paste(tile(error), (i % 8 * 264, i // 8 * 300))
        sheet.save(folder / f"{name}_{kind}.png")


def tile(error: dict[str, Any]) -> Image.Image:
    picture = error["picture"]
    image = (Image.open(picture) if isinstance(picture, Path) else picture).convert("RGB").resize((256, 256))
    found = Image.new("RGB", (256, 296), "white")
    found.paste(image)
    pen, r = ImageDraw.Draw(found), error["region"]
    pen.rectangle([256 * v for v in (r.left, r.top, r.right, r.bottom)], outline=(255, 0, 255))
    pen.text((2, 258), f"{error['family']}\n{error['kind']}: {error['expected']!r}, found {error['found']!r}", "black")
    return found


def figures(arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure each set of pictures and yield its name and figures."""
    runs = [("generated_128", arguments.count, 128), ("generated_512", arguments.count // 8, 512)]
    for name, count, pixels in runs:
        tally, times = Tally(), []
        generated(tally, count, pixels, times)
        yield name, finished(name, tally, times, arguments)
    if arguments.real:
        tally, times = Tally(), []
        real(tally, arguments.real, times)
        yield "real", finished("real", tally, times, arguments)


def finished(name: str, tally: Tally, times: list[float], arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.errors:
        sheets(tally.wrong, arguments.errors, name)
    table = tally.table()
    p20, p50, p80 = np.percentile(times, [20, 50, 80])
    print(f"{name}: {len(times)} pictures, {p50:.1f} ms of processor time a picture")
    for kind, row in table.items():
        low, high = row["interval"]
        print(f"  {kind:7s} {row['share']:.4f}  [{low:.4f}, {high:.4f}]  of {row['asked']}")
    cpu = {"p20_ms": round(p20, 3), "p50_ms": round(p50, 3), "p80_ms": round(p80, 3)}
    return {"pictures": len(times), "processor_time": cpu, "kinds": table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=4000, help="generated pictures of 128 pixels")
    parser.add_argument("--real", type=Path, help="folder of the PuzzleVQA data")
    parser.add_argument("--errors", type=Path, help="folder for contact sheets of wrong answers")
    cv2.setNumThreads(1)  # its threads would spin on other cores and count
    found = dict(figures(parser.parse_args()))
    found["opencv"] = version("opencv-python-headless")
    print(write_record("vision_accuracy", found))


if __name__ == "__main__":
    main()

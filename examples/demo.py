"""Solves the two example puzzles with the embedded models and writes the tree of the first as a page.

``make demo`` runs this; or ``python examples/demo.py [folder for tree.html]``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from rich.rule import Rule

import svip_search as ss
from svip_search.cli._show import console, show_result
from svip_search.viewer import write_html

PUZZLES = Path(__file__).parent / "puzzles"


def main(folder: Path, policy: str = "puzzle-tiny", reward: str = "svip-tiny") -> int:
    """Solve, show and write; return 0 if both answers are right."""
    out = console()
    start = time.perf_counter()
    models = ss.load_policy(policy), ss.load_reward(reward)
    entries = json.loads((PUZZLES / "puzzles.json").read_text(encoding="utf-8"))
    right = 0
    for number, entry in enumerate(entries):
        out.print(Rule(entry["image"], align="left"))
        picture = PUZZLES / entry["image"]
        question = ss.Question(entry["question"], [picture], entry["options"], entry["answer"])
        result = ss.solve(question, *models, strategy=ss.MCTS(iterations=32), seed=0)
        show_result(result, out)
        out.print()
        right += result.answer == entry["answer"]
        if number == 0:
            page = write_html(result, folder / "tree.html")
    seconds = time.perf_counter() - start
    out.print(f"{right} of {len(entries)} right in {seconds:.1f} s; the tree of the first: {page}", markup=False)
    return 0 if right == len(entries) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))

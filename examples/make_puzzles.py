"""Draws the two example puzzles again, from the library's own generator.

Run from anywhere: ``python examples/make_puzzles.py``.  The numbers were chosen so that the options
of the first are 1, 4, 8 and 9, and so that the embedded models solve both: of twelve such venn puzzles, the
family they find hardest to read, MCTS of 32 iterations solved five.
"""

from __future__ import annotations

import json
from pathlib import Path

from svip_search.datasets.puzzles import Puzzle, generate_puzzle

FOLDER = Path(__file__).parent / "puzzles"
SEED = 2024
INDEX = {"venn": 817, "color_hexagon": 4}


def puzzles() -> list[Puzzle]:
    """Return the example puzzles."""
    return [generate_puzzle(SEED, i, pixels=512, families=[family], plain=True) for family, i in INDEX.items()]


def main() -> None:
    """Write one picture a puzzle, and what is asked about it."""
    FOLDER.mkdir(exist_ok=True)
    entries = []
    for puzzle in puzzles():
        name = f"{puzzle.family}.png"
        puzzle.image.save(FOLDER / name, optimize=True)
        question = puzzle.question
        entries.append(
            {
                "image": name,
                "question": question.text,
                "options": list(question.options),
                "answer": puzzle.answer,
            }
        )
    (FOLDER / "puzzles.json").write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""What the endless sequences of generated puzzles have in common: which families, from what seed."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def family_names(families: Sequence[str] | None, known: Collection[str]) -> list[str]:
    """Return the families to draw from: those named, or all that are known.

    Raises:
        ValueError: a name is not known, or there is none.
    """
    names = list(families) if families is not None else list(known)
    unknown = [n for n in names if n not in known]
    if unknown or not names:
        raise ValueError(f"`families` must name families of {sorted(known)}; got {unknown or names}.")
    return names


def check_place(seed: int, index: int) -> None:
    """Raise a ValueError where a place in a sequence is none."""
    for name, number in (("seed", seed), ("index", index)):
        if number < 0:
            raise ValueError(f"`{name}` must be >= 0; got {number}.")

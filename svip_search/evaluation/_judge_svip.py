"""The figures of SVIP-Test: does each head know its own dimension, and does the score tell right chains from wrong?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .._types import DIMENSIONS
from ..datasets.svip import SvipRecord, is_correct
from . import _judge_measures as m
from ._judge_figures import Cell, Figures, Judged, Settings, Table
from ._judge_run import Rows
from .metrics import first_error, reliability

#: One chain: its question's index, its record, what was said about it.
_Chain = tuple[int, SvipRecord, Rows]


def svip_test(judged: Sequence[Judged], settings: Settings) -> Figures:
    """Return AUROC, F1 and calibration a dimension, the heads' cross table, first errors and pairs of chains.

    Which steps are right is said by `is_correct`; steps without a label are left out.
    """
    chains: list[_Chain] = [
        (index, record, rows)
        for index, one in enumerate(judged)
        for record, rows in zip(one.item, one.record.mean(), strict=True)
    ]
    scores = np.concatenate([rows for _, _, rows in chains])
    labels = np.concatenate([record.labels for _, record, _ in chains]).astype(np.float64)
    question = np.concatenate([np.full(len(rows), q) for q, _, rows in chains])
    source = np.concatenate([np.full(len(rows), record.source) for _, record, rows in chains])
    known = ~np.isnan(labels)
    right = is_correct(labels).astype(np.float64)
    tables = [
        _dimensions(scores, labels, question, settings),
        _heads(scores, right, question),
        _first_errors(chains, settings),
        _pairs(chains, settings),
        _sources(scores, right, question, source),
    ]
    bins = {
        name: reliability(scores[known[:, c], c], labels[known[:, c], c]).to_dict() for c, name in enumerate(DIMENSIONS)
    }
    extra = {"n_chains": len(chains), "n_steps": len(scores), "reliability": bins}
    return Figures(len(judged), tables, extra)


def _dimensions(scores: Rows, labels: Rows, question: m.Indices, settings: Settings) -> Table:
    rows: dict[str, dict[str, Cell]] = {}
    correct = is_correct(labels)
    for c, name in enumerate(DIMENSIONS):
        known = ~np.isnan(labels[:, c])
        score, label, owner = scores[known, c], labels[known, c], question[known]
        right, said = correct[known, c] > 0, score > settings.thresholds[c]
        rows[name] = {
            "steps": int(known.sum()),
            "wrong": int((~right).sum()),
            "AUROC": m.auroc(score, right, owner),
            "F1 right": m.f1(said, right, owner),
            "F1 wrong": m.f1(~said, ~right, owner),
            "calibration error": m.calibration(score, label, owner),
        }
    columns = ("steps", "wrong", "AUROC", "F1 right", "F1 wrong", "calibration error")
    return Table("dimensions", "dimension", columns, rows)


def _heads(scores: Rows, right: Rows, question: m.Indices) -> Table:
    """AUROC of each head against the labels of each dimension: a column should be best on its diagonal."""
    rows: dict[str, dict[str, Cell]] = {}
    for h, head in enumerate(DIMENSIONS):
        rows[head] = {}
        for c, name in enumerate(DIMENSIONS):
            known = ~np.isnan(right[:, c])
            rows[head][f"{name} labels"] = m.auroc(scores[known, h], right[known, c] > 0, question[known])
    return Table("AUROC of every head", "head", tuple(f"{name} labels" for name in DIMENSIONS), rows)


def _sources(scores: Rows, right: Rows, question: m.Indices, source: NDArray[np.str_]) -> Table:
    rows: dict[str, dict[str, Cell]] = {}
    for name in sorted(set(source.tolist())):
        rows[name] = {"steps": int((source == name).sum())}
        for c, dimension in enumerate(DIMENSIONS):
            known = ~np.isnan(right[:, c]) & (source == name)
            rows[name][dimension] = m.auroc(scores[known, c], right[known, c] > 0, question[known])
    return Table("AUROC by source", "source", ("steps", *DIMENSIONS), rows)


def _first_errors(chains: Sequence[_Chain], settings: Settings) -> Table:
    """First step held wrong against first step labelled wrong; a step without a label is no error on either side."""
    rows: dict[str, dict[str, Cell]] = {}
    for name, columns in (("any", [0, 1, 2]), *((name, [c]) for c, name in enumerate(DIMENSIONS))):
        said, truth, owner = [], [], []
        for question, record, scores in chains:
            right = is_correct(record.labels)[:, columns]
            known = ~np.isnan(right)
            above = scores[:, columns] > np.array(settings.thresholds)[columns]
            if known.any():
                truth.append(first_error(np.all(~known | (right > 0), axis=1)))
                said.append(first_error(np.all(~known | above, axis=1)))
                owner.append(question)
        rows[name] = _localisation(np.array(said), np.array(truth), np.array(owner, np.intp))
    return Table("first error", "dimension", ("chains", "accuracy", "erroneous", "correct", "F1"), rows)


def _localisation(said: m.Indices, truth: m.Indices, owner: m.Indices) -> dict[str, Cell]:
    hit, wrong = said == truth, truth >= 0
    erroneous, correct = m.mean(hit[wrong], owner[wrong]), m.mean(hit[~wrong], owner[~wrong])
    return {
        "chains": len(truth), "accuracy": m.mean(hit, owner), "erroneous": erroneous, "correct": correct,
        "F1": m.harmonic(erroneous, correct),
    }  # fmt: skip


def _pairs(chains: Sequence[_Chain], settings: Settings) -> Table:
    """Right against wrong chains of the same question: how often the right one scores higher, ties half."""
    ways: dict[str, Callable[[Rows], float]] = {f"score ({settings.scoring.aggregate} of steps)": settings.score}
    ways |= {f"{name}, mean of steps": partial(_mean_of, c) for c, name in enumerate(DIMENSIONS)}
    by_question: dict[int, list[_Chain]] = {}
    for chain in chains:
        by_question.setdefault(chain[0], []).append(chain)
    rows: dict[str, dict[str, Cell]] = {}
    for name, score in ways.items():
        won: list[float] = []
        owner: list[int] = []
        for question, mine in by_question.items():
            right = np.array([score(rows_) for _, record, rows_ in mine if record.outcome])
            wrong = np.array([score(rows_) for _, record, rows_ in mine if not record.outcome])
            pairs = (right[:, None] > wrong) + 0.5 * (right[:, None] == wrong)
            won += pairs.ravel().tolist()
            owner += [question] * pairs.size
        accuracy = m.mean(won, np.array(owner, np.intp))
        rows[name] = {"pairs": len(won), "questions": len(set(owner)), "accuracy": accuracy}
    return Table("right against wrong chains", "score", ("pairs", "questions", "accuracy"), rows)


def _mean_of(column: int, rows: Rows) -> float:
    return float(rows[:, column].mean())

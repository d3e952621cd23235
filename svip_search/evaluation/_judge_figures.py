"""The figures of the public benchmarks, from what a reward model said about their cases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._aggregate import Scoring, step_value
from .._types import DIMENSIONS
from ..datasets.reward_benchmarks import CandidatesItem, PairItem, PrefixItem, RlhfPair, StepsItem
from ..datasets.reward_benchmarks.mm_rlhf_rewardbench import CATEGORIES
from ..datasets.reward_benchmarks.vl_rewardbench import GROUPS
from ..datasets.reward_benchmarks.vlrmbench import DIMENSION_OF, TASKS
from . import _judge_measures as m
from ._judge_run import Case, JudgeRecord, Rows

Cell = m.Measure | int | str
#: A label, a share or a reward above this is "right".
HALF = 0.5
#: What the best-of-N table shows beside the model's own scoring; the names are those of `Scoring`.
AGGREGATES = ("mean", "min", "product", "last", "max", "sum_log", "mean_log_odds")


@dataclass(frozen=True)
class Judged:
    """A record of a benchmark (or all chains of a question of SVIP-Test), its case and what was said."""

    item: Any
    case: Case
    record: JudgeRecord


@dataclass(frozen=True)
class Settings:
    """What figures depend on beside the rewards."""

    scoring: Scoring
    threshold: float = HALF
    thresholds: tuple[float, ...] = (HALF,) * len(DIMENSIONS)

    def value(self, rows: Rows) -> m.Floats:
        """Return the value of each step, as the model's scoring weighs the dimensions."""
        return step_value(rows, self.scoring.weights, self.scoring.veto)

    def score(self, rows: Rows) -> float:
        """Return the score of a path; one without steps loses against every other."""
        return self.scoring.score(rows) if len(rows) else -np.inf


@dataclass(frozen=True)
class Table:
    """Rows of cells: a measure gets a value and an interval, a number or a text is shown as it is."""

    title: str
    head: str
    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Cell]]


@dataclass(frozen=True)
class Figures:
    """Tables over ``questions`` questions, and what else a report holds."""

    questions: int
    tables: list[Table]
    extra: dict[str, Any] = field(default_factory=dict)


# ---- steps -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Steps:
    """Labelled steps in a row: scores [N, 4] of the heads and of their value, whether each is right, and whose it is.

    The fourth column is the value.
    """

    scores: m.Floats
    right: m.Bools
    question: m.Indices
    group: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.right)

    def of(self, group: str) -> Steps:
        """Return the steps of one group."""
        rows = self.group == group
        return Steps(self.scores[rows], self.right[rows], self.question[rows], self.group[rows])

    def auroc(self, column: int) -> m.Measure:
        """Return how well a column tells right from wrong steps."""
        return m.auroc(self.scores[:, column], self.right, self.question)


HEADS = (*DIMENSIONS, "value")


def steps_of(judged: Sequence[Judged], settings: Settings) -> Steps:
    """Return the steps of all chains that are right or wrong; neutral ones are left out."""
    scores, right, question, group = [np.zeros((0, 4))], [], [], []
    for index, one in enumerate(judged):
        item: StepsItem = one.item
        [rows] = one.record.mean()
        known = [t for t, label in enumerate(item.right) if label is not None]
        scores.append(np.column_stack([rows, settings.value(rows)])[known])
        right += [bool(item.right[t]) for t in known]
        question += [index] * len(known)
        group += [item.group] * len(known)
    return Steps(np.concatenate(scores), np.array(right, bool), np.array(question, np.intp), np.array(group, np.str_))


def visualprocessbench(judged: Sequence[Judged], settings: Settings) -> Figures:
    """Macro-F1 over right and wrong steps, pooled over the sources and of each."""
    steps = steps_of(judged, settings)
    sources = sorted({one.item.group for one in judged})

    def row(part: Steps) -> dict[str, Cell]:
        said = part.scores[:, 3] > settings.threshold
        return {
            "steps": len(part),
            "macro F1": m.macro_f1(said, part.right, part.question),
            "F1 right": m.f1(said, part.right, part.question),
            "F1 wrong": m.f1(~said, ~part.right, part.question),
            "AUROC": part.auroc(3),
        }

    rows = {"all": row(steps)} | {source: row(steps.of(source)) for source in sources}
    rows["mean of sources"] = _averages([rows[source] for source in sources])
    columns = ("steps", "macro F1", "F1 right", "F1 wrong", "AUROC")
    heads = {head: {"AUROC": steps.auroc(c)} for c, head in enumerate(HEADS)}
    tables = [Table("steps", "source", columns, rows), Table("heads", "score", ("AUROC",), heads)]
    return Figures(len(judged), tables)


def _averages(rows: Sequence[Mapping[str, Cell]]) -> dict[str, Cell]:
    """Return the mean of each measure over some rows, and the sum of each number."""
    found: dict[str, Cell] = {}
    for name in rows[0] if rows else ():
        cells = [row[name] for row in rows]
        measures = [cell for cell in cells if callable(cell)]
        if measures:
            found[name] = m.average(measures)
        elif all(isinstance(cell, int) for cell in cells):
            found[name] = sum(cell for cell in cells if isinstance(cell, int))
    return found


def vlrmbench(judged: Sequence[Judged], settings: Settings) -> Figures:
    """F1_w of the step tasks, each by the reward that speaks about it, and accuracies of the outcome tasks."""
    chains = [one for one in judged if isinstance(one.item, StepsItem)]
    questions = {one.case.id: index for index, one in enumerate(judged)}
    steps = steps_of(chains, settings)
    owner = np.array([questions[one.case.id] for one in chains], np.intp)
    steps = Steps(steps.scores, steps.right, owner[steps.question] if chains else steps.question, steps.group)
    present = [task for task in TASKS if any(one.item.group == task for one in chains)]
    said = np.zeros(len(steps), bool)
    for task in present:
        mine = steps.group == task
        said[mine] = ~(steps.scores[mine, HEADS.index(DIMENSION_OF.get(task, "value"))] > settings.threshold)

    def row(rows: m.Bools) -> dict[str, Cell]:
        wrong, question = ~steps.right[rows], steps.question[rows]
        return {
            "steps": int(rows.sum()),
            "F1_w": m.weighted_f1(said[rows], wrong, question),
            "F1 error": m.f1(said[rows], wrong, question),
            "F1 right": m.f1(~said[rows], ~wrong, question),
        }

    tables = []
    if chains:
        tasks = {task: {"by": DIMENSION_OF.get(task, "value")} | row(steps.group == task) for task in present}
        rows: dict[str, Mapping[str, Cell]] = {**tasks}
        rows["all steps"] = row(np.ones(len(steps), bool))
        rows["mean of tasks"] = _averages([{k: c for k, c in r.items() if k != "by"} for r in tasks.values()])
        tables.append(Table("step tasks", "task", ("by", "steps", "F1_w", "F1 error", "F1 right"), rows))
        by_head = {task: {h: steps.of(task).auroc(c) for c, h in enumerate(HEADS)} for task in present}
        tables.append(Table("AUROC of each score", "task", HEADS, by_head))
    outcome = _outcomes(judged, settings)
    if outcome:
        tables.append(Table("outcome tasks", "task", ("records", "accuracy", "AUROC"), outcome))
    return Figures(len(judged), tables)


def _outcomes(judged: Sequence[Judged], settings: Settings) -> dict[str, dict[str, Cell]]:
    rows: dict[str, dict[str, Cell]] = {}
    pairs = [(i, one) for i, one in enumerate(judged) if isinstance(one.item, PairItem)]
    if pairs:
        won = [float(settings.score(a) > settings.score(b)) for a, b in (one.record.mean() for _, one in pairs)]
        rows["multi_solution"] = {"records": len(won), "accuracy": m.mean(won, np.array([i for i, _ in pairs]))}
    prefixes = [(i, one) for i, one in enumerate(judged) if isinstance(one.item, PrefixItem)]
    if prefixes:
        question = np.array([i for i, _ in prefixes])
        values = settings.scoring.value([settings.score(one.record.mean()[0]) for _, one in prefixes])
        right = np.array([one.item.right for _, one in prefixes])
        rows["foresight"] = {
            "records": len(values),
            "accuracy": m.mean((values > settings.threshold) == right, question),
            "AUROC": m.auroc(values, right, question),
        }
    return rows


# ---- pairs -------------------------------------------------------------------------------------------


def vl_rewardbench(judged: Sequence[Judged], settings: Settings) -> Figures:
    """Share of pairs of which a majority of the judgements says the better one, overall and by group.

    An equal pair goes to the response that was shown first; where the judgements are divided, the pair is
    left out, both as the published script has it.
    """
    votes = [[_vote(one, index, settings) for index in range(len(one.record.rewards))] for one in judged]
    share = np.array([np.mean([won for won, _ in vote]) for vote in votes])
    ties = [any(tie for _, tie in vote) for vote in votes]
    group = np.array([one.item.group for one in judged])

    def row(rows: m.Bools) -> dict[str, Cell]:
        decided = np.flatnonzero(rows & (share != HALF))
        return {
            "pairs": int(rows.sum()),
            "accuracy": m.mean(share[decided] > HALF, decided),
            "equal": int(np.array(ties)[rows].sum()),
            "divided": int((share[rows] == HALF).sum()),
        }

    parts = {name: row(group == name) for name in GROUPS if (group == name).any()}
    rows: dict[str, dict[str, Cell]] = {
        "overall": row(np.ones(len(judged), bool)),
        "macro": _averages([*parts.values()]),
    }
    return Figures(len(judged), [Table("pairs", "group", ("pairs", "accuracy", "equal", "divided"), rows | parts)])


def _vote(one: Judged, index: int, settings: Settings) -> tuple[bool, bool]:
    """Return whether the better response won a judgement, and whether the two were equal."""
    scores = [settings.score(rows) for rows in one.record.judgement(index)]
    better = one.item.better
    if scores[0] == scores[1]:
        first = 1 if one.case.swap[index] else 0
        return bool(better == first), True
    return bool(scores[better] > scores[1 - better]), False


def mm_rlhf_rewardbench(judged: Sequence[Judged], settings: Settings) -> Figures:
    """ACC over pairs and ACC+ over ids, of which every pair must be right; an equal pair is wrong."""
    items: list[RlhfPair] = [one.item for one in judged]
    names = list(dict.fromkeys(item.question_id for item in items))
    place = {name: i for i, name in enumerate(names)}
    question = np.array([place[item.question_id] for item in items], np.intp)
    won = np.array([_won(one, settings) for one in judged])
    every = np.ones(len(names), bool)
    np.logical_and.at(every, question, won)
    group = np.array([item.group for item in items])
    first = np.array([items[int(np.argmax(question == i))].group for i in range(len(names))])

    def row(pairs: m.Bools, ids: m.Bools) -> dict[str, Cell]:
        return {
            "pairs": int(pairs.sum()),
            "ACC": m.mean(won[pairs], question[pairs]),
            "ids": int(ids.sum()),
            "ACC+": m.mean(every[ids], np.flatnonzero(ids)),
        }

    rows = {"overall": row(np.ones(len(won), bool), np.ones(len(names), bool))}
    for name in (*CATEGORIES, *sorted(set(group) - set(CATEGORIES))):
        if (group == name).any():
            rows[str(name)] = row(group == name, first == name)
    return Figures(len(names), [Table("pairs", "category", ("pairs", "ACC", "ids", "ACC+"), rows)])


def _won(one: Judged, settings: Settings) -> bool:
    """Return whether a majority of the judgements has the better response above the other."""
    better = one.item.better
    wins = []
    for index in range(len(one.record.rewards)):
        scores = [settings.score(rows) for rows in one.record.judgement(index)]
        wins.append(scores[better] > scores[1 - better])
    return bool(sum(wins) * 2 > len(wins))


# ---- candidates --------------------------------------------------------------------------------------


def mmprm_bon(judged: Sequence[Judged], settings: Settings) -> Figures:
    """Accuracy of the candidate with the best score, beside chance and pass@k."""
    items: list[CandidatesItem] = [one.item for one in judged]
    rewards = [one.record.mean() for one in judged]
    everyone = np.arange(len(items))
    ways = {f"best of N, {settings.scoring.aggregate} (the model's)": settings.scoring}
    others = (a for a in AGGREGATES if a != settings.scoring.aggregate)
    ways |= {f"best of N, {a}": Scoring(aggregate=a, weights=settings.scoring.weights) for a in others}  # type: ignore[arg-type]
    rows: dict[str, dict[str, Cell]] = {}
    for name, scoring in ways.items():
        way = Settings(scoring)
        chosen = [int(np.argmax([way.score(path) for path in paths])) for paths in rewards]
        right = [item.right[i] for item, i in zip(items, chosen, strict=True)]
        rows[name] = {"accuracy": m.mean(right, everyone)}
    rows["one at random"] = {"accuracy": m.mean([np.mean(item.right) for item in items], everyone)}
    for k in (2, 4, 8, 16):
        rows[f"pass@{k}"] = {"accuracy": m.mean([_pass_at(k, item.right) for item in items], everyone)}
    return Figures(len(items), [Table("best of N", "choice", ("accuracy",), rows)])


def _pass_at(k: int, right: Iterable[bool]) -> float:
    """Return how likely one of k candidates drawn without replacement is right."""
    flags = list(right)
    n, wrong = len(flags), flags.count(False)
    k = min(k, n)
    return 1 - comb(wrong, k) / comb(n, k)

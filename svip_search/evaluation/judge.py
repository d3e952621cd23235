"""Runs a reward model over a benchmark of reward models, or over SVIP-Test.

::

    records = read and check the whole benchmark     (a record that cannot be used is found now, not in an hour)
    for each case that is not in the records file:
        rewards = reward.evaluate(question, paths)     k times where asked
        write them down
    figures = measures(rewards, labels), each with a bootstrap interval over questions

What is kept of a case are its rewards, so a run can be continued and figures can be computed again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import zip_longest
from os import PathLike
from typing import Any

from .._aggregate import Scoring
from .._types import DIMENSIONS, RewardModel
from ..datasets import reward_benchmarks as data_of
from ..datasets.reward_benchmarks import CandidatesItem, Item, PairItem, PrefixItem, StepsItem
from ..datasets.svip import SvipRecord
from . import _judge_figures as figures_of
from ._judge_figures import HALF, Figures, Judged, Settings
from ._judge_report import JudgeReport, build_report
from ._judge_run import Case, JudgeRecord, Progress, run
from ._judge_svip import svip_test
from ._records import RecordFile

__all__ = ["BENCHMARKS", "JudgeReport", "judge"]

AnyPath = str | PathLike[str]


@dataclass(frozen=True)
class _Benchmark:
    """How to read a benchmark, what to ask, and what to make of the rewards."""

    load: Callable[..., Sequence[Any]]
    figures: Callable[[Sequence[Judged], Settings], Figures]
    takes: tuple[str, ...] = ("images",)


#: The benchmarks, by their names.
BENCHMARKS: dict[str, _Benchmark] = {
    "svip-test": _Benchmark(data_of.load_svip_test, svip_test, ()),
    "vlrmbench": _Benchmark(data_of.load_vlrmbench, figures_of.vlrmbench, ("images", "tasks")),
    "visualprocessbench": _Benchmark(data_of.load_visualprocessbench, figures_of.visualprocessbench),
    "vl-rewardbench": _Benchmark(data_of.load_vl_rewardbench, figures_of.vl_rewardbench),
    "mm-rlhf-rewardbench": _Benchmark(data_of.load_mm_rlhf_rewardbench, figures_of.mm_rlhf_rewardbench),
    "mmprm-bon": _Benchmark(data_of.load_mmprm_bon, figures_of.mmprm_bon),
}


def judge(
    benchmark: str,
    data: AnyPath | Sequence[AnyPath],
    reward: RewardModel,
    *,
    k: int = 1,
    seed: int = 0,
    limit: int | None = None,
    batch: int = 8,
    threshold: float | None = None,
    images: AnyPath | None = None,
    tasks: Sequence[str] = (),
    records: AnyPath | None = None,
    skip_unusable: bool = False,
    labels: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> JudgeReport:
    r"""Return the figures of a reward model on a benchmark.

    Args:
        benchmark: a name of `BENCHMARKS`.
        data: the benchmark's folder or file; of ``svip-test`` also several.
        reward: the model.  One of whole paths (``kind`` "orm") is asked about every prefix where steps matter.
        k: judgements of each case: pairs are decided by their majority, all else by their mean.
        seed: of the order in which the responses of a pair are shown, and of the bootstrap.
        limit: so many cases, in turn from all groups; all by default.
        batch: cases between two calls of ``progress``.
        threshold: a step is held to be right where its reward is above it; default: in ``svip-test`` the model's own
            ``thresholds``, elsewhere and where it has none 1/2.  Never fit it on the benchmark.
        images: where the pictures lie, if not where the benchmark has them.
        tasks: of ``vlrmbench``, which ones; all by default.
        records: a JSON-lines file of one line a case.  What it holds already is not asked again.
        skip_unusable: leave out records that cannot be used, and count them; otherwise the first is raised.
        labels: ``{"reward": name}`` for the report.
        progress: called with (cases done, cases, text).

    Returns:
        The `JudgeReport`.  After ``KeyboardInterrupt`` it covers the cases that were judged.

    Raises:
        ValueError: an argument is out of range, there is no such data, or records are of another run.
        RecordError: a record cannot be used and ``skip_unusable`` is False.
        RewardError: the reward model failed or returned something else than rewards.

    Notes:
        One call of ``reward.evaluate`` a case and judgement.  The folding of rewards into a score is the
        model's own ``scoring``, or else the mean over steps and dimensions.

    Example:
        >>> import json, pathlib, tempfile
        >>> from svip_search.testing import HashReward
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "data.jsonl"
        >>> rows = [{"id": f"RLHF-V-{i}", "image": None, "query": f"What is {i}?", "response": ["A.", "B."],
        ...          "human_ranking": [0, 1]} for i in range(40)]
        >>> _ = file.write_text("\n".join(map(json.dumps, rows)))
        >>> report = judge("vl-rewardbench", file, HashReward())
        >>> report.to_dict()["tables"]["pairs"]["hallucination"]["pairs"]
        40
    """
    bench = _check(benchmark, k, batch, limit, threshold, reward, images, tasks)
    skipped: list[str] = []
    options: dict[str, Any] = {"images": images, "tasks": tasks}
    given = {name: options[name] for name in bench.takes}
    if skip_unusable:
        given["on_error"] = lambda error: skipped.append(str(error))
    items = bench.load(data, **given)
    cases = _spread(_cases(items, seed, k), limit)
    if not cases:
        more = f" ({len(skipped)} were left out; the first: {skipped[0]})" if skipped else ""
        raise ValueError(f"`data` must hold at least one record to judge; '{data}' has none{more}.")
    settings = {"benchmark": benchmark, "reward": type(reward).__name__, **(labels or {}), "k": k, "seed": seed}
    file = RecordFile(records, settings, JudgeRecord)
    found, complete = run([case for _, case in cases], reward, file, k, batch, skip_unusable, progress)
    judged = []
    for item, case in cases:
        if case.id in found and not found[case.id].failure:
            judged.append(Judged(item, case, found[case.id]))
        elif case.id in found:
            skipped.append(f"record {case.id!r}: {found[case.id].failure}")
    if not judged:
        raise ValueError(
            f"`data` must hold at least one record that can be judged; the first failed with: {skipped[0]}"
        )
    scoring = getattr(reward, "scoring", None) or Scoring()
    one = HALF if threshold is None else threshold
    own = getattr(reward, "thresholds", None) if threshold is None else None
    chosen = Settings(scoring, one, tuple(own or (one,) * len(DIMENSIONS)))
    cut: Any = list(chosen.thresholds) if benchmark == "svip-test" else one
    shown = settings | {"scoring": asdict(scoring), "threshold": cut, "limit": limit}
    return build_report(bench.figures(judged, chosen), shown, skipped, complete, seed)


def _check(
    benchmark: str, k: int, batch: int, limit: int | None, threshold: float | None, reward: RewardModel,
    images: AnyPath | None, tasks: Sequence[str],
) -> _Benchmark:  # fmt: skip
    if benchmark not in BENCHMARKS:
        raise ValueError(f"`benchmark` must be one of {', '.join(BENCHMARKS)}; got {benchmark!r}.")
    for name, value in (("k", k), ("batch", batch), ("limit", 1 if limit is None else limit)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer; got {value!r}.")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"`threshold` must lie in 0..1; got {threshold!r}.")
    if getattr(reward, "kind", None) not in ("prm", "orm"):
        raise TypeError(f"`reward` must be a reward model of kind 'prm' or 'orm'; got {type(reward).__name__}.")
    bench = BENCHMARKS[benchmark]
    for name, given in (("images", images), ("tasks", tasks)):
        if given and name not in bench.takes:
            fit = ", ".join(other for other, b in BENCHMARKS.items() if name in b.takes)
            raise ValueError(f"`{name}` must be left out unless the benchmark is one of {fit}; got {given!r}.")
    return bench


# ---- cases -------------------------------------------------------------------------------------------


def _cases(items: Sequence[Any], seed: int, k: int) -> list[tuple[Any, Case]]:
    """Return every item with its case; the chains of one question of SVIP-Test are one item."""
    if items and isinstance(items[0], SvipRecord):
        return [(chains, _chains_case(chains)) for chains in _by_question(items)]
    return [(item, _case(item, seed, k)) for item in items]


def _case(item: Item, seed: int, k: int) -> Case:
    if isinstance(item, (StepsItem, PrefixItem)):
        return Case(item.id, item.group, item.to_question, (item.steps,), isinstance(item, StepsItem))
    if isinstance(item, PairItem):
        swap = tuple(_coin(seed, item.id, index) for index in range(k))
        return Case(item.id, item.group, item.to_question, item.responses, swap=swap)
    assert isinstance(item, CandidatesItem)
    return Case(item.id, item.group, item.to_question, item.solutions, every_step=True)


def _coin(*parts: object) -> bool:
    """Return a toss that depends on the parts alone."""
    return bool(blake2b(repr(parts).encode("utf-8", "replace"), digest_size=1).digest()[0] & 1)


def _by_question(records: Sequence[SvipRecord]) -> list[tuple[SvipRecord, ...]]:
    found: dict[str, list[SvipRecord]] = {}
    for r in records:
        key = json.dumps([r.family, r.question, r.options, r.images, str(r.folder) if _has_files(r) else ""])
        found.setdefault(key, []).append(r)
    return [tuple(chains) for chains in found.values()]


def _has_files(record: SvipRecord) -> bool:
    return any(isinstance(image, str) for image in record.images)


def _chains_case(chains: tuple[SvipRecord, ...]) -> Case:
    first = chains[0]
    return Case(first.id, first.family, first.to_question, tuple(r.steps for r in chains), every_step=True)


def _spread(cases: list[tuple[Any, Case]], limit: int | None) -> list[tuple[Any, Case]]:
    """Return ``limit`` cases, taken in turn from every group, in their original order."""
    if limit is None or limit >= len(cases):
        return cases
    groups: dict[str, list[int]] = {}
    for index, (_, case) in enumerate(cases):
        groups.setdefault(case.group, []).append(index)
    turns = [index for turn in zip_longest(*groups.values()) for index in turn if index is not None]
    return [cases[index] for index in sorted(turns[:limit])]

"""JudgeReward: a language model behind an OpenAI-compatible server judges steps, solutions, or pairs of solutions.

::

    dimensions   one request a path        -> three scores of 1..10 for every step             kind "prm"
    single       one request a path        -> one score, or a verdict                          kind "orm"
    pairwise     two requests a pair       -> which of two solutions is better; win shares     kind "orm"

    reward = mean (or majority) over the votes that can be read
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .._aggregate import Scoring
from .._budget import Usage
from .._errors import RewardError, SvipSearchError
from .._http import Encoded, ServerModel, gathered, parts_size, picture_parts, settings_of
from .._types import DIMENSIONS, Prefix, Question
from . import _judging as judging
from ._judge_server import Asked, JudgeCounts, JudgeServer, Recent

Mode = Literal["dimensions", "single", "pairwise"]
Item = tuple[Question, Sequence[Prefix]]

#: Temperature of several votes, where none is given: equal votes would be one.
VOTING_TEMPERATURE = 0.7
_OURS = ("messages", "model", "n", "seed", "stream")


class JudgeReward(ServerModel):
    """A reward model that asks a generative judge.

    Args:
        base_url: of an OpenAI-compatible server, up to and with its version; several are equal servers.
        model: its name there.
        api_key: sent as a bearer token.  It travels with a pickle of the judge; that of ``api_key_env`` does not.
        api_key_env: the environment variable that holds it.
        mode: ``"dimensions"`` scores relevance, logic and attribute of every step in one answer (kind "prm");
            ``"single"`` gives one number a path, ``"pairwise"`` compares the paths that are asked about
            together (both kind "orm").
        scope: in mode "single", whether the whole ``"path"`` or its ``"last_step"`` is judged.
        scale: in mode "single", ``"score"`` (1 to 10) or ``"verdict"`` (correct or incorrect).
        votes: answers that are asked for a judgement.
        vote: ``"mean"``, or ``"majority"``: the most frequent value, the mean of several such.
        temperature: default 0 for one vote and 0.7 for several.
        opponents: in mode "pairwise", how many others each path is compared with at most (rounded up to an even
            number, or all): a batch of n paths costs up to n * opponents requests a vote.
        instructions: what the judge should know besides, for example how strict to be.
        max_tokens: of an answer.
        seed: of the answers and of the marks.
        secret: goes into the marks; needed only where those who write steps could know ``seed``.
        structured: ask the server to hold the judge to the JSON schema of the answer (``response_format``), which makes
            every answer readable where the server can do it.
        extra_body: further fields of the request; one that is None is left out.
        scoring: how strategies should fold the rewards of steps into a score.
        concurrent_calls: calls that a search makes at a time.
        cache_size: judgements that are kept, least recently used first to go.
        slots: most requests in flight a server.
        timeout: seconds for a request, with all tries and waits.
        retries: how many more tries after a passing fault.
        max_bytes: largest accepted answer.

    Attributes:
        kind: ``"prm"`` for "dimensions", else ``"orm"``.
        usage: ``reward_tokens`` counts the tokens that the judge read and wrote, as far as the server tells;
            those of the server's prefix cache are ``cached_reward_tokens``.
        counts: what became of the votes, see `JudgeCounts`.

    Raises:
        ValueError: a setting is unknown or out of range.
        ImportError: aiohttp is not installed.

    Notes:
        A score s of 1 to 10 becomes (s - 1) / 9.  In mode "pairwise" every pair is asked both ways round, so that a
        preference for a place cancels; a path's reward is its mean share of wins, a tie counting one half, and one
        that is alone gets 0.5.  It depends on the other paths of the call: use it where finished trajectories are
        compared at once, as in `BestOfN`.

        Steps are untrusted text.  Each request has a mark that is not in them; answers that hold it count, others
        only where nothing in question and steps could be read as a verdict.  That keeps a step from having its own
        verdict echoed; it cannot keep a judge from believing what a step says.

        `Question.answer` is never sent.  Temperature 0 makes judgements repeatable as far as the server does.  An
        object may be used from several threads and event loops.

    Example:
        >>> judge = JudgeReward("http://127.0.0.1:9/v1", "some-model", timeout=1, retries=0)
        >>> judge.kind, judge.evaluate(Question("Which?"), [("a clue", "Answer: red")])
        ('prm', [RewardError("The judge at 127.0.0.1:9 cannot be talked to (...), after 1 try.")])
        >>> judge.close()
    """

    kind: Literal["prm", "orm"]

    def __init__(
        self,
        base_url: str | Sequence[str],
        model: str,
        *,
        api_key: str | None = None,
        api_key_env: str | None = None,
        mode: Mode = "dimensions",
        scope: Literal["path", "last_step"] = "path",
        scale: Literal["score", "verdict"] = "score",
        votes: int = 1,
        vote: Literal["mean", "majority"] = "mean",
        temperature: float | None = None,
        opponents: int = 4,
        instructions: str = "",
        max_tokens: int = 1024,
        seed: int = 0,
        secret: str = "",
        structured: bool = False,
        extra_body: Mapping[str, Any] | None = None,
        scoring: Scoring | None = None,
        concurrent_calls: int = 16,
        cache_size: int = 4096,
        slots: int = 64,
        timeout: float = 120.0,
        retries: int = 3,
        max_bytes: int = 1 << 24,
    ) -> None:
        self._settings = settings_of(locals())
        _check_choices(mode=(mode, get_args(Mode)), scope=(scope, ("path", "last_step")))
        _check_choices(scale=(scale, ("score", "verdict")), vote=(vote, ("mean", "majority")))
        _check_positive(votes=votes, opponents=opponents, max_tokens=max_tokens, concurrent_calls=concurrent_calls)
        if not model:
            raise ValueError("`model` must name a model; got ''.")
        if temperature is not None and not 0 <= temperature < math.inf:
            raise ValueError(f"`temperature` must be >= 0 and finite; got {temperature}.")
        if cache_size < 0:
            raise ValueError(f"`cache_size` must be >= 0; got {cache_size}.")
        if reserved := [name for name in extra_body or {} if name in _OURS]:
            raise ValueError(f"`extra_body` must not hold {', '.join(_OURS)}; got {reserved[0]!r}.")
        self.model, self.mode, self.scope, self.scale = model, mode, scope, scale
        self.kind = "prm" if mode == "dimensions" else "orm"
        self.votes, self.vote, self.opponents = votes, vote, opponents
        self.temperature = (VOTING_TEMPERATURE if votes > 1 else 0.0) if temperature is None else temperature
        self.seed, self.secret, self.scoring = seed, secret, scoring
        self.concurrent_calls = concurrent_calls
        self._connect(RewardError, "judge")
        fields = {"model": model, "max_tokens": max_tokens, "temperature": self.temperature} | dict(extra_body or {})
        servers = 1 if isinstance(base_url, str) else len(base_url)
        system = f"{judging.SYSTEM} {instructions}".strip()
        self._server = JudgeServer(self._client, fields, system, slots * servers, structured)
        self._shown = Encoded(_parts, parts_size)
        self._scores = Recent(cache_size)

    @property
    def usage(self) -> Usage:
        """What the judge has read and written so far."""
        return self._server.usage

    @property
    def counts(self) -> JudgeCounts:
        """What became of the votes so far."""
        return self._server.counts

    def evaluate(self, question: Question, paths: Sequence[Prefix]) -> list[Any]:
        """Return the rewards of each path, float32 [T, 3] or []; an exception stands for a path without any.

        Raises:
            TypeError: a path is not made of texts.
        """
        (found,) = self.evaluate_many([(question, paths)])
        return found

    def evaluate_many(self, items: Sequence[Item]) -> list[list[Any]]:
        """Return what ``evaluate`` returns for each of several questions, asked together."""
        return self._client.run(self.aevaluate_many(items))

    async def aevaluate_many(self, items: Sequence[Item]) -> list[list[Any]]:
        """Return what ``evaluate_many`` returns.

        Each path has its rewards, or the error that stands for them: a RewardError where no answer came or none
        could be read, an ImageError where a picture cannot be shown.
        """
        checked = [(question, _checked(paths)) for question, paths in items]
        return await gathered([self._item(*item) for item in checked])

    def forget(self, question: Question) -> None:
        """Drop all that is kept of a question."""
        self._scores.forget(self._shown.forget(question))

    def clear(self) -> None:
        """Drop all judgements that are kept."""
        self._scores.clear()

    async def arelease(self) -> None:
        """Close the connections of the running event loop, which ends."""
        await self._server.arelease()

    # One question.

    async def _item(self, question: Question, paths: list[Prefix]) -> list[Any]:
        try:
            asked = await self._asked(question)
        except SvipSearchError as error:
            return [error for _ in paths]
        distinct = list(dict.fromkeys(paths))
        found = await (self._compared(asked, distinct) if self.mode == "pairwise" else self._each(asked, distinct))
        return [found[path] for path in paths]

    async def _asked(self, question: Question) -> Asked:
        key, parts = await self._shown.of(question)
        options = f"Options: {', '.join(question.options)}\n" if question.options else ""
        return Asked(key, parts, f"Question: {question.text}\n{options}\n")

    async def _each(self, asked: Asked, paths: list[Prefix]) -> dict[Prefix, Any]:
        return dict(zip(paths, await gathered([self._path(asked, path) for path in paths]), strict=True))

    async def _path(self, asked: Asked, path: Prefix) -> Any:
        """Return the rewards of one path, or the error that stands for them."""
        if not path:
            nothing = RewardError("A path without steps cannot be judged.")
            return np.zeros((0, len(DIMENSIONS)), np.float32) if self.kind == "prm" else nothing
        mark = self._mark(asked, path)
        if self.mode == "dimensions":
            ask = judging.about_dimensions(path, mark, asked.text)
        else:
            ask = judging.about_path(path, mark, asked.text, self.scale, self.scope == "last_step")
        found = await self._judged(asked, path, ask)
        if isinstance(found, SvipSearchError):
            return found
        scored = self.mode == "dimensions" or self.scale == "score"
        return np.asarray(judging.value_of(found) if scored else found, dtype=np.float32)

    def _mark(self, asked: Asked, *paths: Prefix) -> str:
        return judging.mark_of(self.seed, self.secret, asked.text, paths)

    # Pairs.

    async def _compared(self, asked: Asked, paths: list[Prefix]) -> dict[Prefix, Any]:
        """Return the share of wins of each path, or the error that stands for it."""
        # In the order of their digests: the same paths make the same pairs, in whatever order they come.
        order = sorted(paths, key=lambda path: judging.mark_of(self.seed, "order", path))
        pairs = [(order[i], order[j]) for i, j in design(len(order), self.opponents)]
        shares: dict[Prefix, list[float]] = {path: [] for path in paths}
        errors: dict[Prefix, SvipSearchError] = {}
        for (one, two), won in zip(pairs, await gathered([self._pair(asked, *pair) for pair in pairs]), strict=True):
            if isinstance(won, SvipSearchError):
                errors |= {one: won, two: won}
            else:
                shares[one].append(won)
                shares[two].append(1 - won)
        return {path: _share(shares[path], errors.get(path)) for path in paths}

    async def _pair(self, asked: Asked, one: Prefix, two: Prefix) -> Any:
        """Return how far the first path is the better one, asked both ways round."""
        ways = await gathered([self._winner(asked, one, two), self._winner(asked, two, one)])
        wrong = next((way for way in ways if isinstance(way, SvipSearchError)), None)
        # One way alone would keep the judge's preference for a place.
        return wrong if wrong is not None else (float(ways[0]) + 1 - float(ways[1])) / 2

    async def _winner(self, asked: Asked, one: Prefix, two: Prefix) -> Any:
        mark = self._mark(asked, one, two)
        return await self._judged(asked, (one, two), judging.about_pair(one, two, mark, asked.text))

    # Votes.

    async def _judged(self, asked: Asked, what: Any, ask: judging.Ask) -> NDArray[np.float64] | SvipSearchError:
        """Return the mean or majority of the votes on something, or the error that stands for it."""
        known: NDArray[np.float64] | None = self._scores.get(asked.key, what)
        if known is not None:
            return known
        try:
            answers = await self._server.answers(asked, ask, self.votes, self.seed)
        except SvipSearchError as error:
            return error
        readings = [reading for answer in answers if (reading := ask.read(answer)) is not None]
        self._server.count(len(answers), len(readings), sum(reading.marked for reading in readings))
        if not readings:
            return RewardError(f"The judge {self.model} gave nothing that can be read: {answers[-1]!r:.100}")
        value = _fold([np.asarray(reading.value, np.float64) for reading in readings], self.vote)
        self._scores.put(asked.key, what, value)
        return value


def _parts(question: Question) -> list[dict[str, Any]]:
    from .._video import pictures

    return picture_parts(pictures(question))


def design(n: int, opponents: int) -> Iterator[tuple[int, int]]:
    """Yield pairs of n things so that each meets as many others as any: rings of growing distance.

    Example:
        >>> list(design(4, 2)), len(list(design(4, 9))), list(design(1, 4))
        ([(0, 1), (1, 2), (2, 3), (3, 0)], 6, [])
    """
    for distance in range(1, min((opponents + 1) // 2, n // 2) + 1):
        # Half way round, both ends would name the same pair.
        yield from ((i, (i + distance) % n) for i in range(n // 2 if 2 * distance == n else n))


def _share(shares: Sequence[float], error: SvipSearchError | None) -> Any:
    if not shares and error is not None:
        return error
    # Sorted, so that the order of the paths changes no bit; one that met nobody is neither better nor worse.
    return np.asarray(sum(sorted(shares)) / len(shares) if shares else 0.5, dtype=np.float32)


def _fold(values: Sequence[NDArray[np.float64]], vote: str) -> NDArray[np.float64]:
    """Return the mean or the majority of votes of equal shape, number by number."""
    stacked = np.stack(values)
    if vote == "mean":
        return np.asarray(np.sort(stacked, axis=0).mean(axis=0))
    flat = stacked.reshape(len(values), -1)
    return np.array([_majority(flat[:, i].tolist()) for i in range(flat.shape[1])]).reshape(stacked.shape[1:])


def _majority(values: Sequence[float]) -> float:
    counted = Counter(values)
    most = max(counted.values())
    return float(np.mean(sorted(value for value, count in counted.items() if count == most)))


def _checked(paths: Sequence[Any]) -> list[Prefix]:
    for path in paths:
        if isinstance(path, str) or not all(isinstance(step, str) for step in path):
            raise TypeError(f"`paths` must be sequences of step texts; got {path!r:.80}.")
    return [tuple(path) for path in paths]


def _check_choices(**named: tuple[str, tuple[str, ...]]) -> None:
    for name, (value, choices) in named.items():
        if value not in choices:
            raise ValueError(f"`{name}` must be one of {', '.join(choices)}; got {value!r}.")


def _check_positive(**named: int) -> None:
    for name, value in named.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer; got {value!r}.")

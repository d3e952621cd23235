"""One pool of samples a question, drawn once; every number of samples is answered from it."""

from __future__ import annotations

import base64
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svip_search import ProposeRequest, Question, Scoring
from svip_search._vote import extract_answer
from svip_search.evaluation._run import _seed_of, is_right

from .models import Model
from .questions import Item, Questions
from .store import Store

SEED = 0
#: Chains sampled in one call of the policy, and paths scored in one call of the reward model.
ROWS, PATHS = 256, 256
#: The answer of a chain, "\\n" between its steps; ``None`` where none of the options is stated.
Chain = tuple[str, ...]


def draw(policy: Model, questions: Questions, items: Sequence[Item], store: Store, size: Callable[[Item], int],
         over: Callable[[], bool]) -> None:  # fmt: skip
    """Sample what is missing: ``size(item)`` chains and the greedy one of every question."""
    missing = [item for item in items if item.id not in store.known]
    for group in batches(missing, size):
        if over():
            return
        asked = [questions.question(item) for item in group]
        start = time.perf_counter()
        found = policy.model.propose([
            ProposeRequest(q, (), size(item), _seed_of(SEED, q), 1.0, whole=True)
            for q, item in zip(asked, group, strict=True)
        ])  # fmt: skip
        middle = time.perf_counter()
        greedy = policy.model.propose([ProposeRequest(q, (), 1, 0, 0.0, whole=True) for q in asked])
        end = time.perf_counter()
        for item, q, chains, best in zip(group, asked, found, greedy, strict=True):
            record = packed(q, chains, best)
            share = size(item) / sum(map(size, group))
            record |= {"seconds": (middle - start) * share, "greedy_seconds": (end - middle) / len(group)}
            store.add(item.id, record)
            forget(policy.model, q)


def batches(items: Sequence[Item], size: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Yield the items in groups of about ``ROWS`` samples."""
    group: list[Item] = []
    for item in items:
        if group and sum(map(size, group)) + size(item) > ROWS:
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def forget(model: Any, question: Question) -> None:
    """Free what a model keeps of a question."""
    if callable(method := getattr(model, "forget", None)):
        method(question)


def packed(question: Question, chains: Sequence[Any], greedy: Sequence[Any]) -> dict[str, Any]:
    """Return the record of a pool: equal chains once, and which one every sample is."""
    codes: dict[str, int] = {}
    tokens: list[int] = []
    answers: list[str | None] = []

    def code(chain: Any) -> int:
        text = "\n".join(step.text for step in chain)
        if text not in codes:
            codes[text] = len(codes)
            tokens.append(sum(step.tokens for step in chain))
            answers.append(extract_answer(chain[-1].text, question.options))
        return codes[text]

    samples = [code(chain) for chain in chains if chain]
    best = code(greedy[0]) if greedy and greedy[0] else -1
    right = [int(is_right(question, answer)) for answer in answers]
    return {"chains": list(codes), "tokens": tokens, "answers": answers, "right": right, "samples": samples,
            "greedy": best}  # fmt: skip


def score(reward: Model, questions: Questions, items: Sequence[Item], pool: Store, store: Store,
          over: Callable[[], bool]) -> None:  # fmt: skip
    """Score every distinct chain of the pools that states an answer."""
    scoring = getattr(reward.model, "scoring", None) or Scoring()
    for item in items:
        if item.id in store.known or item.id not in pool.known:
            continue
        if over():
            return
        record, question = pool.known[item.id], questions.question(item)
        chosen = [c for c in dict.fromkeys(record["samples"]) if record["answers"][c] is not None]
        paths: list[Chain] = [tuple(record["chains"][c].split("\n")) for c in chosen]
        start, before = time.perf_counter(), tokens_of(reward.model)
        rewards = [r for at in range(0, len(paths), PATHS)
                   for r in reward.model.evaluate(question, paths[at : at + PATHS])]  # fmt: skip
        seconds, tokens = time.perf_counter() - start, tokens_of(reward.model) - before
        values = scoring.value([scoring.score(r) for r in rewards]).tolist() if rewards else []
        forget(reward.model, question)
        store.add(item.id, {"chosen": chosen, "values": values, "rewards": squeezed(rewards), "seconds": seconds,
                            "tokens": tokens})  # fmt: skip


def tokens_of(model: Any) -> int:
    """Return the tokens that a model has computed so far, 0 where it does not count."""
    return int(getattr(getattr(model, "usage", None), "reward_tokens", 0))


def squeezed(rewards: Sequence[NDArray[np.float32]]) -> str:
    """Return rewards [T, 3] of several chains as one text, to three digits."""
    if not rewards:
        return ""
    return base64.b64encode(zlib.compress(np.concatenate(rewards).astype("<f2").tobytes())).decode()


def unsqueezed(text: str, lengths: Sequence[int]) -> list[NDArray[np.float32]]:
    """Return what `squeezed` was given, chain by chain."""
    if not text:
        return []
    flat = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<f2").astype(np.float32).reshape(-1, 3)
    return np.split(flat, np.cumsum(lengths)[:-1])

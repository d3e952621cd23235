"""Worked examples for a prompt: the protocol of retrievers, and one over embeddings."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .._types import Prefix, Question

Vectors = NDArray[np.float32]

#: Lengths of the character n-grams of the default embedding.
LENGTHS = (3, 4, 5)
#: Buckets into which they are hashed: the width of the default embedding.
BUCKETS = 2048


@dataclass(frozen=True, slots=True)
class Example:
    """A question with the steps that solve it.

    Args:
        question: not blank.
        steps: of the solution, in order.
        answer: None where the last step states it.
    """

    question: str
    steps: tuple[str, ...] = ()
    answer: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.question, str) or not self.question.strip():
            raise ValueError(f"`question` must be a non-empty text; got {self.question!r}.")
        steps: object = self.steps
        if isinstance(steps, str) or not all(isinstance(step, str) for step in self.steps):
            raise TypeError(f"`steps` must be a list of texts; got {steps!r}.")
        object.__setattr__(self, "steps", tuple(self.steps))

    @property
    def text(self) -> str:
        """The question, the steps and the answer, one a line."""
        stated = () if self.answer is None else (f"Answer: {self.answer}",)
        return "\n".join((self.question, *self.steps, *stated))


@runtime_checkable
class Retriever(Protocol):
    """Finds worked examples that help with a question and the steps taken so far.

    A retriever is part of a strategy: to pickle a search, it has to be picklable; for a search that the
    seed determines, it has to give the same examples every time.
    """

    def retrieve(self, question: Question, prefix: Prefix, k: int) -> list[Example]:
        """Return up to ``k`` examples, the best one first."""
        ...


class NgramEmbedding:
    """Returns tf-idf vectors of hashed character n-grams: texts that share words or stems are near.

    ::

        v[b] = (1 + log(count of n-grams in bucket b)) * (1 + log((1 + D) / (1 + texts with bucket b)))
        v /= |v|                                # D texts; a text without n-grams is 0

    Args:
        texts: whose statistics give the idf.

    Example:
        >>> embed = NgramEmbedding(["four red circles", "two blue squares"])
        >>> a, b, c = embed(["red circles", "a red circle", "blue squares"])
        >>> bool(a @ b > a @ c)
        True
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.idf = np.ones(BUCKETS, np.float32)
        occurs = np.sum([self._counts(text) > 0 for text in texts], axis=0)
        self.idf += np.log((1 + len(texts)) / (1 + occurs)).astype(np.float32)

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Return float32 [len(texts), `BUCKETS`] of length 1 (or 0) each."""
        counts = np.stack([self._counts(text) for text in texts])
        vectors = (np.log1p(np.maximum(counts - 1, 0)) + (counts > 0)) * self.idf
        return normalised(vectors)

    def _counts(self, text: str) -> Vectors:
        """Return how many n-grams of a text, one blank at either end, fall into each bucket."""
        padded = f" {' '.join(text.casefold().split())} "
        grams = [padded[i : i + n] for n in LENGTHS for i in range(len(padded) - n + 1)]
        # Not hash(), which differs from process to process.
        buckets = [zlib.crc32(gram.encode("utf-8", "surrogatepass")) % BUCKETS for gram in grams]
        return np.bincount(np.array(buckets, np.intp), minlength=BUCKETS).astype(np.float32)


def normalised(vectors: NDArray[Any]) -> Vectors:
    """Return the vectors scaled to length 1; zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


class EmbeddingRetriever:
    """Finds the examples whose text is nearest to the question and the steps so far.

    ::

        similarity(example) = cos(embed(example's question and steps), embed(question and steps so far))

    Args:
        examples: at least one.  The questions to be answered should not be among them.
        embed: takes a list of texts and returns vectors [n, d], such as the ``encode`` of a
            sentence-transformers model; None is `NgramEmbedding`, which needs numpy alone.

    Raises:
        ValueError: there are no examples, or ``embed`` returns something else than finite [n, d].
        TypeError: an example is not an `Example`.

    Notes:
        Ties go to the earlier example.  The examples' vectors, float32 [n, d], are kept.

    Example:
        >>> retriever = EmbeddingRetriever([
        ...     Example("How many red circles?", ("I count them: 3.",), "3"),
        ...     Example("Which shape comes next?", ("They alternate.",), "square"),
        ... ])
        >>> retriever.retrieve(Question("How many blue circles?"), (), 1)[0].answer
        '3'
    """

    def __init__(self, examples: Sequence[Example], embed: Callable[[list[str]], NDArray[Any]] | None = None) -> None:
        self.examples = list(examples)
        if not self.examples:
            raise ValueError("`examples` must not be empty.")
        for example in self.examples:
            if not isinstance(example, Example):
                raise TypeError(f"`examples` must be of type Example; got {type(example).__name__}.")
        texts = ["\n".join((e.question, *e.steps)) for e in self.examples]
        self.embed = embed or NgramEmbedding(texts)
        self.vectors = self._embedded(texts)

    def __repr__(self) -> str:
        return f"EmbeddingRetriever({len(self.examples)} examples)"

    def _embedded(self, texts: list[str]) -> Vectors:
        """Return unit vectors."""
        vectors = np.asarray(self.embed(texts), np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            shape = list(vectors.shape)
            raise ValueError(f"`embed` must return finite vectors [n, d] with n = {len(texts)}; got shape {shape}.")
        return normalised(vectors)

    def retrieve(self, question: Question, prefix: Prefix, k: int) -> list[Example]:
        """Return the ``k`` nearest examples, or all where there are fewer, the nearest first."""
        (query,) = self._embedded(["\n".join((question.text, *prefix))])
        # Rounded, so that equal texts tie whatever order a product sums in.
        similarity = np.round(self.vectors @ query, 6)
        nearest = np.argsort(-similarity, kind="stable")[:k]
        return [self.examples[i] for i in nearest]

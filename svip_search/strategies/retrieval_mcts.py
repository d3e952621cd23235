"""MCTS whose policy sees worked examples, retrieved anew for every node that is expanded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .._types import Question
from ._base import Round
from ._retrieval import Example, Retriever
from .mcts import MCTS, MCTSSearch


class RetrievalMCTSSearch(MCTSSearch):
    """Puts the examples retrieved for each node before the question that the policy is asked."""

    def _begin(self, r: Round) -> None:
        if r.asks == "policy":
            r.prompts = [self._prompt(node) for node in r.nodes]
        super()._begin(r)

    def _prompt(self, node: int) -> Question:
        """Return the question behind the examples for a node; the question alone where there are none."""
        examples = self._examples(node)
        if not examples:
            return self.question
        shown = "\n\n".join(f"Example: {example.text}" for example in examples)
        return replace(self.question, text=f"{shown}\n\nQuestion: {self.question.text}")

    def _examples(self, node: int) -> list[Example]:
        """Return what the retriever finds for a node; [] where it fails."""
        k: int = self.config.k
        try:
            found: Any = self.config.retriever.retrieve(self.question, self.tree.texts(node), k)
            if not isinstance(found, (list, tuple)) or not all(isinstance(e, Example) for e in found):
                raise TypeError("it must return a list of Example")
        except Exception as error:  # user code: whatever it raises, the search goes on without examples
            self.degraded.append(f"node {node}: retriever failed: {type(error).__name__}: {error}")
            return []
        return list(found[:k])


@dataclass(frozen=True, kw_only=True)
class RetrievalMCTS(MCTS):
    """Returns the answer of an MCTS whose policy is shown worked examples of similar problems.

    ::

        as MCTS, but where the policy is asked for steps after a node:
            examples = retriever.retrieve(question, steps to the node, k)
            prompt = "Example: ..." for each, then "Question: ..."

    Args:
        retriever: finds the examples, see `Retriever`; required.  `EmbeddingRetriever` makes one of a
            list of `Example`.
        k: examples a prompt.

    Notes:
        One retrieval for each node that is expanded or rolled out, in the thread of the search: a slow
        retriever holds everything up.  A policy that keeps the keys and values of a prompt has to read
        the question again wherever the examples change.  The reward model sees the question alone.
        A retriever that fails leaves an entry in ``degraded``.

    Reference:
        G. Dong et al., "Progressive multimodal reasoning via active retrieval" (AR-MCTS), arXiv
        2412.14835, ACL 2025: retrieval for each step in the expansion of MCTS.  W. Feng et al., AirRAG,
        arXiv 2501.10053, and H. Tran et al., RARE, arXiv 2412.02830, make retrieval of documents an
        action of the tree instead.

    Example:
        >>> from svip_search.testing import HashPolicy, HashReward
        >>> from svip_search import Question, solve
        >>> from svip_search.strategies._retrieval import EmbeddingRetriever
        >>> retriever = EmbeddingRetriever([Example("How many circles?", ("I count 3.",), "3")])
        >>> strategy = RetrievalMCTS(retriever=retriever, k=1, iterations=8)
        >>> solve(Question("Which?"), HashPolicy(depth=3), HashReward(), strategy).usage.policy_calls
        8
    """

    name = "retrieval-mcts"
    search = RetrievalMCTSSearch

    retriever: Retriever | None = None
    k: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.retriever is None:
            raise ValueError("`retriever` must be given, such as EmbeddingRetriever([Example(...), ...]); got None.")
        if not isinstance(self.retriever, Retriever):
            raise TypeError(f"`retriever` must have a method `retrieve`; got {type(self.retriever).__name__}.")

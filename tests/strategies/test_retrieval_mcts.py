import pickle

import checks
import numpy as np
import pytest
from golden import check_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import MCTS, Candidate, Question
from svip_search.strategies._retrieval import EmbeddingRetriever, Example, NgramEmbedding, Retriever
from svip_search.strategies.retrieval_mcts import RetrievalMCTS
from svip_search.testing import HashPolicy, HashReward, TableReward, play

QUESTION = Question("Which colour is missing?", options=["red", "green", "blue"])
EXAMPLES = [
    Example("How many red circles are there?", ("I count them row by row.", "There are 3."), "3"),
    Example("Which shape is missing in the pattern?", ("The shapes alternate.",), "square"),
    Example("Which colour is missing in the grid?", ("Each row has each colour once.",), "blue"),
]
RETRIEVER = EmbeddingRetriever(EXAMPLES)
CONFIGS = [
    RetrievalMCTS(retriever=RETRIEVER, iterations=9, expand=3),
    RetrievalMCTS(retriever=RETRIEVER, k=1, iterations=5, expand=2, rollout=True, parallel=2),
]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=["serial", "rollouts"])


class Recording(HashPolicy):
    """Remembers what it was asked."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.asked = []

    def propose(self, requests):
        self.asked += requests
        return super().propose(requests)


def test_the_nearest_example_comes_first_and_ties_go_to_the_earlier_one():
    assert RETRIEVER.retrieve(QUESTION, (), 3) == [EXAMPLES[2], EXAMPLES[1], EXAMPLES[0]]
    assert RETRIEVER.retrieve(Question("How many blue circles?"), (), 1) == [EXAMPLES[0]]
    twice = EmbeddingRetriever([EXAMPLES[0], Example("What?"), Example("what?"), EXAMPLES[1]])
    assert [e.question for e in twice.retrieve(Question("WHAT?"), (), 2)] == ["What?", "what?"]
    nothing = EmbeddingRetriever(EXAMPLES).retrieve(Question("\u2603"), (), 9)
    assert nothing == EXAMPLES


def test_the_steps_so_far_change_what_is_found():
    steps = ("I count the circles row by row.", "There are 3 red circles, row by row.")
    assert RETRIEVER.retrieve(Question("Which?"), steps, 1) == [EXAMPLES[0]]
    assert RETRIEVER.retrieve(Question("Which?"), ("The shapes alternate in the pattern.",), 1) == [EXAMPLES[1]]


def test_an_embedding_of_ones_own():
    def embed(texts):
        return np.array([[text.count("circle"), text.count("colour")] for text in texts])

    retriever = EmbeddingRetriever(EXAMPLES, embed)
    assert retriever.vectors.tolist() == [[1, 0], [0, 0], [0, 1]]
    assert retriever.retrieve(Question("Circles or circles?"), (), 1) == [EXAMPLES[0]]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_the_default_embedding_is_finite_and_of_length_one(texts):
    embed = NgramEmbedding(texts)
    vectors = embed(texts)
    assert vectors.dtype == np.float32
    lengths = np.linalg.norm(vectors, axis=1)
    assert lengths == pytest.approx([0 if not text.strip() else 1 for text in texts], abs=1e-5)
    assert (embed(texts[::-1]) == vectors[::-1]).all()
    assert (pickle.loads(pickle.dumps(embed))(texts) == vectors).all()


def test_a_retriever_survives_pickling():
    copy = pickle.loads(pickle.dumps(RETRIEVER))
    assert isinstance(copy, Retriever)
    assert copy.retrieve(QUESTION, ("a step",), 2) == RETRIEVER.retrieve(QUESTION, ("a step",), 2)
    assert repr(copy) == "EmbeddingRetriever(3 examples)"


@pytest.mark.parametrize("rollout", [False, True])
def test_every_prompt_shows_what_is_found_for_its_steps(rollout):
    policy = Recording(depth=3)
    question = Question(QUESTION.text, images=["a.png"], options=QUESTION.options, answer="red")
    config = RetrievalMCTS(retriever=RETRIEVER, k=2, iterations=6, expand=2, rollout=rollout)
    play(config.start(question), policy, HashReward())
    assert any(r.whole for r in policy.asked) == rollout
    for request in policy.asked:
        shown = RETRIEVER.retrieve(question, request.prefix, 2)
        expected = "".join(f"Example: {e.text}\n\n" for e in shown) + f"Question: {question.text}"
        assert request.question.text == expected
        assert request.question.images == question.images
        assert request.question.options == question.options
    first = policy.asked[0].question.text
    assert first.startswith(
        "Example: Which colour is missing in the grid?\nEach row has each colour once.\nAnswer: blue"
    )


class Broken:
    def __init__(self, found):
        self.found = found

    def retrieve(self, question, prefix, k):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.mark.parametrize("found", [RuntimeError("index lost"), None, ["text"], 7])
def test_a_retriever_that_fails_leaves_plain_mcts(found):
    plain = play(MCTS(iterations=6).start(QUESTION), HashPolicy(), HashReward())
    policy = Recording()
    search = play(RetrievalMCTS(retriever=Broken(found), iterations=6).start(QUESTION), policy, HashReward())
    assert search.tree.to_json() == plain.tree.to_json()
    assert {r.question.text for r in policy.asked} == {QUESTION.text}
    assert len(search.degraded) == 6
    assert search.degraded[0].startswith("node 0: retriever failed: ")


def test_what_a_retriever_gives_too_much_is_dropped():
    policy = Recording()
    config = RetrievalMCTS(retriever=Broken(EXAMPLES), k=1, iterations=2)
    play(config.start(QUESTION), policy, HashReward())
    assert all(r.question.text.count("Example: ") == 1 for r in policy.asked)


class Imitating:
    """Answers as the last example it sees does."""

    def propose(self, requests):
        return [[self._one(r)] for r in requests]

    def _one(self, request):
        last = request.question.text.rpartition("Answer: ")[2].split("\n")[0]
        answer = last if "Answer: " in request.question.text else "red"
        return (Candidate(f"Answer: {answer}", finish_reason="stop"),)


def test_examples_help_a_policy_that_heeds_them():
    config = RetrievalMCTS(retriever=RETRIEVER, k=1, iterations=2)
    assert play(config.start(QUESTION), Imitating(), TableReward({})).result().answer == "blue"
    assert play(MCTS(iterations=2).start(QUESTION), Imitating(), TableReward({})).result().answer == "red"


@every_config
def test_protocol(config):
    checks.check_protocol(config)


def test_tree_is_the_golden_one():
    check_golden("retrieval_mcts", CONFIGS[0])


def test_bad_settings():
    with pytest.raises(ValueError, match=r"`retriever` must be given, such as EmbeddingRetriever\(\["):
        RetrievalMCTS()
    with pytest.raises(TypeError, match="`retriever`"):
        RetrievalMCTS(retriever="examples.json")
    with pytest.raises(ValueError, match="`k`"):
        RetrievalMCTS(retriever=RETRIEVER, k=0)


def test_bad_examples():
    with pytest.raises(ValueError, match="`examples` must not be empty"):
        EmbeddingRetriever([])
    with pytest.raises(TypeError, match="`examples`"):
        EmbeddingRetriever(["text"])
    with pytest.raises(ValueError, match="`question`"):
        Example(" ")
    with pytest.raises(TypeError, match="`steps`"):
        Example("Which?", "one text")


@pytest.mark.parametrize("vectors", [np.zeros(3), np.zeros((2, 4)), np.full((3, 4), np.nan)])
def test_bad_embeddings(vectors):
    with pytest.raises(ValueError, match=r"`embed` must return finite vectors \[n, d\] with n = 3"):
        EmbeddingRetriever(EXAMPLES, lambda texts: vectors)

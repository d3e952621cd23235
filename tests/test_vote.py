import math
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import Trajectory, extract_answer, select_answer

quick = settings(max_examples=25, deadline=None)
SCORES = st.sampled_from([0.1, 0.25, 0.5, 0.75])
BALLOTS = st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), SCORES), max_size=9)


def trajectories(ballots):
    return [Trajectory((), answer, score, i) for i, (answer, score) in enumerate(ballots)]


@pytest.mark.parametrize(
    ("text", "options", "answer"),
    [
        ("Answer: red", (), "red"),
        ("The answer is red.", (), "red"),
        ("so ANSWER : 4.5 apples. Done", (), "4.5 apples"),
        (r"Thus \boxed{4}", (), "4"),
        (r"Answer: \boxed{\frac{1}{2}}", (), r"\frac{1}{2}"),
        ("**Answer:** **red**", (), "red"),
        ("Answer: red\nWait. Answer: blue", (), "blue"),
        ("answer: 4.0", ("3", "4"), "4"),
        ("Answer: 1,000", ("100", "1000"), "1000"),
        ("Answer: B", ("red", "blue"), "blue"),
        ("Answer: (b) Blue", ("red", "blue"), "blue"),
        ("Answer: (a) Blue", ("red", "blue"), None),
        ("Answer: D", ("red", "blue"), None),
        ("Answer: A", ("B", "A"), "A"),
        ("Answer: green. The answer is red", ("red", "blue"), "red"),
        ("Answer: red\nThe answer is not purple", ("red", "blue"), "red"),
        ("Answer: 7", ("red", "blue"), None),
        ("The answers differ", (), None),
        ("Nothing here", ("red",), None),
        ("Answer:", (), None),
        ("", (), None),
    ],
)
def test_extract_answer(text, options, answer):
    assert extract_answer(text, options) == answer


def test_extract_answer_is_fast_on_hostile_text():
    for text in ("answer" + " " * 50_000, "answer(" * 20_000, r"\boxed{" * 20_000, "answer: " + "{" * 50_000):
        extract_answer(text, ("red",))


@quick
@given(st.text(alphabet="answer is:\\boxed{}()\n.* 41Aa", max_size=60))
def test_extract_answer_takes_any_text(text):
    assert extract_answer(text, ("a", "4")) in ("a", "4", None)
    extract_answer(text)


@quick
@given(BALLOTS)
def test_majority_equals_counting(ballots):
    votes, weight, first = defaultdict(int), defaultdict(float), {}
    for i, (answer, score) in enumerate(ballots):
        if answer is not None:
            votes[answer] += 1
            weight[answer] += score
            first.setdefault(answer, i)
    best = min(votes, key=lambda a: (-votes[a], -weight[a], first[a]), default=None)
    assert select_answer(trajectories(ballots), "majority")[0] == best
    heaviest = min(votes, key=lambda a: (-weight[a], first[a]), default=None)
    assert select_answer(trajectories(ballots), "weighted")[0] == heaviest


@quick
@given(BALLOTS)
def test_max_is_argmax_and_last_is_last(ballots):
    stated = [(answer, score) for answer, score in ballots if answer is not None]
    best = max(stated, key=lambda b: b[1], default=(None, 0))[0]  # max keeps the first of equals
    assert select_answer(trajectories(ballots), "max")[0] == best
    last = stated[-1][0] if stated else None
    assert select_answer(trajectories(ballots), "last")[0] == last


def test_answers_that_mean_the_same_vote_together():
    answer, votes = select_answer(trajectories([("Red.", 0.1), ("blue", 0.2), ("red", 0.3)]), "majority")
    assert answer == "Red."
    assert [v.votes for v in votes] == [2, 1]


def test_without_scores_max_becomes_a_majority():
    unscored = trajectories([("a", math.nan), ("b", math.nan), ("b", math.nan)])
    assert select_answer(unscored, "max")[0] == "b"
    assert select_answer(unscored, "weighted")[0] == "b"


def test_some_scores_missing_weigh_nothing():
    some = trajectories([("a", math.nan), ("a", math.nan), ("b", 0.1)])
    assert select_answer(some, "max")[0] == "b"
    assert select_answer(some, "weighted")[0] == "b"


def test_bad_arguments():
    with pytest.raises(ValueError, match="`how`"):
        select_answer([], "best")
    with pytest.raises(ValueError, match="`weights`"):
        select_answer([], weights=[1.0])

"""RuleReward: rules on answers and steps, and who may know the true answer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import Beam, BestOfN, Question, RewardError, Scoring, solve
from svip_search._types import RewardModel
from svip_search.rewards.rule_reward import RuleReward, true_answer
from svip_search.rewards.rules import (
    Passage,
    Rule,
    embedding_similarity,
    exact_match,
    iou,
    length,
    meaning,
    numeric,
    regex,
    stated_answer,
    states_answer,
)
from svip_search.testing import HashPolicy

OPEN = Question("How many?", answer="7")
CLOSED = Question("Which?", options=["red", "blue"], answer="blue")


def score(rule: Rule, answer: str, reference: str | None = None, question: Question = OPEN) -> float:
    reward = RuleReward(rule, reference=None if reference is None else lambda question: reference)
    (found,) = reward.evaluate(question, [(f"Answer: {answer}",)])
    assert found.shape == ()
    assert found.dtype == np.float32
    return float(found)


# -- answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("7", "7", 1), ("7.0", "7", 1), (" **Seven** ", "seven", 1), ("8", "7", 0), ("1,250", "1250", 1),
        ("the red one", "red", 0), ("???", "???", 1), ("???", "!!!", 0),
    ],
)  # fmt: skip
def test_exact_match(answer: str, reference: str, value: float) -> None:
    assert score(exact_match(), answer, reference) == value


@pytest.mark.parametrize(
    ("answer", "reference", "value"), [("(b)", "blue", 1), ("Blue.", "B", 1), ("red", "blue", 0), ("B", "(b) blue", 1)]
)
def test_exact_match_among_options(answer: str, reference: str, value: float) -> None:
    assert score(exact_match(), answer, reference, CLOSED) == value


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("12.4", "12", 1), ("12.6", "12", 0), ("about 12 cm", "12", 1), ("-12", "12", 0), ("−12", "-12", 1),
        ("$1,200.50", "1200.5", 1), ("3/4", "0.75", 1), (r"\frac{3}{4}", "0.75", 1), ("1e3", "1000", 1),
        ("12 or 13", "12", 0), ("3-4", "3", 0), ("twelve", "12", 0), ("3/0", "3", 0), ("9" * 400, "9", 0),
        ("12%", "12", 1), (".5", "0.5", 1), ("1,2", "1", 0),
    ],
)  # fmt: skip
def test_numeric(answer: str, reference: str, value: float) -> None:
    assert score(numeric(tolerance=0.5), answer, reference) == value


@settings(max_examples=200, deadline=None)
@given(
    st.floats(-1e9, 1e9).filter(lambda x: abs(x) > 1e-3),
    st.floats(-0.2, 0.2),
    st.floats(0, 0.1),
)
def test_numeric_is_right_within_its_tolerance(true: float, off: float, relative: float) -> None:
    given_number = true * (1 + off)
    found = score(numeric(relative=relative), f"{given_number!r}", f"{true!r}")
    if abs(abs(off) - relative) > 1e-9:  # at the edge, rounding decides
        assert found == float(abs(off) <= relative)


def test_a_zero_tolerance_knows_equal_numbers_only() -> None:
    assert score(numeric(0, 0), "0.30000000000000004", "0.3") == 0
    assert score(numeric(0, 0), "0.30", "0.3") == 1


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("[0, 0, 10, 10]", "[0, 0, 10, 10]", 1), ("[0, 0, 10, 5]", "[0, 0, 10, 10]", 0.5),
        ("[10, 10, 0, 0]", "[0, 0, 10, 10]", 1), ("[20, 20, 30, 30]", "[0, 0, 10, 10]", 0),
        ("(0, 0, 10, 10)", "[0,0,10,10]", 1), ("[0.5, 0.5, 1.5, 1.5]", "[0, 0, 1, 1]", 0.25 / 1.75),
        ("left", "[0, 0, 1, 1]", 0), ("[1, 2, 3]", "[0, 0, 1, 1]", 0), ("[1, 2, 3, 4, 5]", "[0, 0, 1, 1]", 0),
        ("[3, 3, 3, 3]", "[3, 3, 3, 3]", 1), ("[3, 3, 3, 3]", "[4, 4, 4, 4]", 0),
        ("[0,0,1,1] and [5,5,6,6]", "[0, 0, 1, 1]", 0.5), ("[0,0,1,1]", "[5,5,6,6] [0,0,1,1]", 0.5),
        ("[5,5,6,6], [0,0,1,1]", "[0,0,1,1], [5,5,6,6]", 1), (f"[0, 0, 1, {'9' * 400}]", "[0, 0, 1, 1]", 0),
        ("[-1e9, 0, 1, 1]", "[0, 0, 1, 1]", 0),
    ],
)  # fmt: skip
def test_boxes(answer: str, reference: str, value: float) -> None:
    assert score(iou(), answer, reference) == pytest.approx(value, rel=1e-6)


def test_a_threshold_makes_boxes_right_or_wrong() -> None:
    for threshold, value in ((0.5, 1.0), (0.51, 0.0), (0.25, 1.0)):
        assert score(iou(threshold), "[0, 0, 10, 5]", "[0, 0, 10, 10]") == value


BOX = st.tuples(*[st.integers(0, 30)] * 4)


@settings(max_examples=300, deadline=None)
@given(BOX, BOX, st.integers(1, 9), st.integers(-20, 20))
def test_boxes_against_counted_cells(a: Any, b: Any, scale: int, shift: int) -> None:
    """IoU is symmetric, moves and scales along, and of whole numbers it is what counting cells gives."""

    def cells(box: Any) -> set[tuple[int, int]]:
        xs, ys = sorted((box[0], box[2])), sorted((box[1], box[3]))
        return {(x, y) for x in range(*xs) for y in range(*ys)}

    found = score(iou(), str(list(a)), str(list(b)))
    assert found == score(iou(), str(list(b)), str(list(a)))
    one, two = cells(a), cells(b)
    if one | two:
        assert found == pytest.approx(len(one & two) / len(one | two), rel=1e-6)
    moved = [[scale * value + shift for value in box] for box in (a, b)]
    assert score(iou(), str(moved[0]), str(moved[1])) == pytest.approx(found, rel=1e-6)


@settings(max_examples=150, deadline=None)
@given(st.lists(BOX, min_size=1, max_size=5), st.lists(BOX, min_size=1, max_size=5), st.randoms())
def test_the_order_of_boxes_does_not_matter(a: list[Any], b: list[Any], rng: Any) -> None:
    shuffled = rng.sample(a, len(a))
    answers = [", ".join(str(list(box)) for box in boxes) for boxes in (a, shuffled)]
    reference = ", ".join(str(list(box)) for box in b)
    first = score(iou(), answers[0], reference)
    assert 0 <= first <= 1
    # Ties between equal overlaps may be matched either way; distinct overlaps give one matching.
    overlaps = [score(iou(), str(list(x)), str(list(y))) for x in a for y in b]
    if len(set(overlaps)) == len(overlaps):
        assert score(iou(), answers[1], reference) == pytest.approx(first, rel=1e-6)
    assert score(iou(), answers[0], answers[1]) == 1


def letters(texts: Any) -> Any:
    return [[text.lower().count(c) for c in "abcdefgh"] for text in texts]


def test_embeddings_of_answers() -> None:
    assert score(embedding_similarity(letters), "abc", "cab") == pytest.approx(1)
    assert score(embedding_similarity(letters), "ab", "cd") == 0
    assert score(embedding_similarity(letters), "ab", "a") == pytest.approx(math.sqrt(0.5))
    assert score(embedding_similarity(letters), "xyz", "abc") == 0  # no direction at all
    assert score(embedding_similarity(lambda texts: [[1e200 if t == "a" else -1e200] for t in texts]), "a", "b") == 0


def test_texts_are_embedded_together_and_once() -> None:
    asked: list[list[str]] = []

    def embed(texts: Any) -> Any:
        asked.append(list(texts))
        return letters(texts)

    reward = RuleReward(embedding_similarity(embed), reference=lambda question: "abc")
    reward.evaluate(OPEN, [("Answer: a",), ("Answer: b",), ("Answer: a",), ("no",)])
    assert asked == [["a", "abc", "b"]]
    asked.clear()
    RuleReward(embedding_similarity(embed, "text"), reference=lambda question: "abc").evaluate(OPEN, [("a", "b")])
    assert asked == [["a\nb", "abc"]]


@pytest.mark.parametrize(
    "embed", [lambda texts: [1.0], lambda texts: [[math.nan]] * len(texts), lambda texts: [[1.0]], lambda texts: "no"]
)
def test_embeddings_that_are_none(embed: Any) -> None:
    with pytest.raises(RewardError, match="The rule embedding_similarity"):
        score(embedding_similarity(embed), "a", "b")


# -- words -----------------------------------------------------------------------------------------


def test_stated_answers() -> None:
    assert stated_answer(CLOSED, ("look", "the answer is (b)")) == "blue"
    assert stated_answer(CLOSED, ("look", "Blue")) == "blue"
    assert stated_answer(OPEN, ("look", "7")) is None
    assert stated_answer(OPEN, ()) is None
    assert [float(f) for f in RuleReward(states_answer()).evaluate(CLOSED, [("Answer: green",), ("red",), ()])] == [
        0, 1, 0,
    ]  # fmt: skip


def test_regular_expressions() -> None:
    reward = RuleReward(regex(r"^so\b"))
    assert [float(f) for f in reward.evaluate(OPEN, [("so it is",), ("also",), ()])] == [1, 0, 0]
    assert score(regex(r"^\d+$", "answer"), "12") == 1
    assert score(regex(r"^\d+$", "answer"), "12 cm") == 0


@pytest.mark.parametrize(
    ("rule", "steps", "value"),
    [
        (length(2, 4), ("a b",), 1), (length(2, 4), ("a",), 0.5), (length(2, 4), ("a b c", "d e"), 0.8),
        (length(2), (), 0), (length(), (), 1), (length(most=5, unit="characters"), ("1234567890",), 0.5),
        (length(most=1, unit="steps"), ("a", "b"), 0.5),
    ],
)  # fmt: skip
def test_lengths(rule: Rule, steps: Any, value: float) -> None:
    assert float(RuleReward(rule).evaluate(OPEN, [steps])[0]) == pytest.approx(value)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 20), st.integers(1, 30), st.integers(0, 60))
def test_lengths_fall_from_the_bounds(least: int, room: int, n: int) -> None:
    rule = length(least, least + room)
    at = [float(RuleReward(rule).evaluate(OPEN, [("w " * k,)])[0]) for k in (n, n + 1)]
    assert all(0 <= value <= 1 for value in at)
    assert (at[0] == 1) == (least <= n <= least + room)
    assert (at[1] >= at[0]) if n < least + room else (at[1] <= at[0])


# -- the model -------------------------------------------------------------------------------------


def test_several_rules_are_combined() -> None:
    rules = [length(most=1), states_answer(), regex("x")]
    for combine, value in (("mean", (0.5 + 1 + 0) / 3), ("min", 0), ("product", 0)):
        reward = RuleReward(rules, combine=combine)  # type: ignore[arg-type]
        assert float(reward.evaluate(OPEN, [("Answer: 7",)])[0]) == pytest.approx(value)


@settings(max_examples=100, deadline=None)
@given(st.permutations([length(most=1), states_answer(), regex("x"), regex("7")]), st.sampled_from(["mean", "product"]))
def test_the_order_of_rules_changes_no_bit(rules: list[Rule], combine: Any) -> None:
    paths = [("Answer: 7",), ("three words here",), ()]
    first, second = (RuleReward(r, combine=combine).evaluate(OPEN, paths) for r in (rules, sorted(rules, key=id)))
    assert [f.tobytes() for f in first] == [f.tobytes() for f in second]


def test_steps_are_rewarded_one_by_one() -> None:
    reward = RuleReward(
        {"relevance": regex("red"), "attribute": [exact_match(), length(most=2)]},
        "prm",
        reference=true_answer,
        scoring=Scoring(aggregate="min"),
    )
    assert isinstance(reward, RewardModel)
    assert (reward.kind, reward.scoring) == ("prm", Scoring(aggregate="min"))
    found = reward.evaluate(CLOSED, [("red it is", "Answer: blue"), (), ("Answer: red",)])
    assert [f.shape for f in found] == [(2, 3), (0, 3), (1, 3)]
    assert all(f.dtype == np.float32 for f in found)
    # The first step states no answer: one half by the rule on answers, 2/3 by that on length.
    attribute = (0.5 + 2 / 3) / 2
    np.testing.assert_allclose(found[0], [[1, (1 + attribute) / 2, attribute], [0, 0.5, 1]], rtol=1e-6)
    np.testing.assert_allclose(found[2], [[1, 0.75, 0.5]], rtol=1e-6)


def test_equal_rules_fill_all_dimensions() -> None:
    (found,) = RuleReward(regex("red"), "prm").evaluate(OPEN, [("red", "blue", "red")])
    np.testing.assert_array_equal(found, [[1] * 3, [0] * 3, [1] * 3])


def test_no_rule_sees_the_true_answer() -> None:
    seen: list[Any] = []

    def check(passage: Passage) -> float:
        seen.append((passage.question.answer, passage.reference))
        return 1.0

    RuleReward(Rule("spy", check)).evaluate(OPEN, [("Answer: 7",)])
    RuleReward(Rule("spy", check), reference=true_answer).evaluate(OPEN, [("Answer: 7",)])
    assert seen == [(None, None)] * 2  # not even where a reference is at hand that nobody needs
    RuleReward(Rule("spy", check, needs_reference=True), reference=true_answer).evaluate(OPEN, [("Answer: 7",)])
    assert seen[-1] == (None, "7")


def test_a_missing_reference_is_an_error() -> None:
    for rule in (exact_match(), numeric(), iou(), embedding_similarity(letters)):
        with pytest.raises(ValueError, match=f"`reference` must be given for the rule {rule.name}"):
            RuleReward([states_answer(), rule])
    reward = RuleReward(exact_match(), reference=true_answer)
    with pytest.raises(RewardError, match="`reference` must give a text for every question; got None for 'Which one"):
        reward.evaluate(Question("Which one?"), [("Answer: 7",)])
    with pytest.raises(RewardError, match="`reference` raised ZeroDivisionError"):
        RuleReward(exact_match(), reference=lambda question: str(1 / 0)).evaluate(OPEN, [("Answer: 7",)])
    for rule, what in ((numeric(), "one number"), (iou(), "a box")):
        with pytest.raises(RewardError, match=f"The rule {rule.name}: the reference must hold {what}"):
            score(rule, "7", "nothing")


@pytest.mark.parametrize("value", [1.5, -0.1, math.nan, "good", None])
def test_rules_that_give_no_reward_are_named(value: Any) -> None:
    with pytest.raises(RewardError, match="The rule odd"):
        RuleReward(Rule("odd", lambda passage: value)).evaluate(OPEN, [("Answer: 7",)])


def test_a_rule_that_raises_is_named() -> None:
    with pytest.raises(RewardError, match="The rule broken raised ZeroDivisionError"):
        RuleReward(Rule("broken", lambda passage: 1 / 0)).evaluate(OPEN, [("Answer: 7",)])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rules": []}, TypeError, "`rules` must be one or several `Rule`; got"),
        ({"rules": [1]}, TypeError, "`rules` must be one or several `Rule`; got 1"),
        ({"rules": exact_match}, TypeError, "`rules` must be one or several"),
        ({"rules": [exact_match]}, TypeError, "call it to make a rule"),
        ({"rules": states_answer(), "kind": "both"}, ValueError, "`kind` must be one of prm, orm; got 'both'"),
        ({"rules": states_answer(), "combine": "sum"}, ValueError, "`combine` must be one of mean, min, product"),
        ({"rules": {"logic": states_answer()}}, ValueError, "`rules` by dimension need kind 'prm'"),
        ({"rules": {"depth": states_answer()}, "kind": "prm"}, ValueError, "`rules` must be named by relevance, logic"),
        ({"rules": {}, "kind": "prm"}, ValueError, "`rules` must be named by"),
        ({"rules": states_answer(), "reference": "7"}, TypeError, "`reference` must be a function"),
    ],
)
def test_wrong_settings(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        RuleReward(**arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: numeric(-1), "`tolerance` must be a finite number >= 0; got -1"),
        (lambda: numeric(relative=math.nan), "`relative` must be"),
        (lambda: iou(0), r"`threshold` must be in \(0, 1\] or None; got 0"),
        (lambda: regex("("), "`pattern` must be a regular expression"),
        (lambda: regex("a", "step"), "`target` must be one of answer, text"),
        (lambda: length(3, 2), "`least` must be >= 0 and `most` at least 1 and `least`; got 3 and 2"),
        (lambda: length(unit="lines"), "`unit` must be one of words, characters, steps"),
        (lambda: embedding_similarity(letters, "step"), "`target` must be"),
    ],
)
def test_rules_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
    with pytest.raises(TypeError, match="`embed` must be callable"):
        embedding_similarity(None)  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=120))
def test_any_answer_gives_a_reward(text: str) -> None:
    rules = [exact_match(), numeric(), embedding_similarity(letters), length(1, 9), states_answer()]
    reward = RuleReward(rules, reference=lambda question: "12 apples")
    boxes = RuleReward(iou(), reference=lambda question: "[0, 0, 1, 1]")
    for found in (
        *reward.evaluate(OPEN, [(text,), (f"Answer: {text}",)]),
        *boxes.evaluate(OPEN, [(f"Answer: {text}",)]),
    ):
        assert 0 <= float(found) <= 1
    assert meaning(text) == meaning(f" {text} ") or not text.strip()


def test_searches_take_rules() -> None:
    likes_blue = RuleReward([exact_match()], reference=lambda question: "blue")
    result = solve(CLOSED, HashPolicy(), likes_blue, BestOfN(n=8), seed=1)
    assert (result.answer, result.trajectory.score if result.trajectory else 0) == ("blue", 1.0)
    assert result.degraded == ()
    steps = RuleReward(regex("branch 0"), "prm")
    result = solve(CLOSED, HashPolicy(distinct=True), steps, Beam(width=2), seed=1)
    assert result.trajectory is not None
    assert result.trajectory.score == 1.0
    told = RuleReward(exact_match(), reference=true_answer)
    assert solve(CLOSED, HashPolicy(), told, BestOfN(n=8), seed=1).answer == "blue"
    # Without the true answer there is nothing to compare with: the search says so and goes on.
    blind = solve(Question("Which?", options=["red", "blue"]), HashPolicy(), told, BestOfN(n=8), seed=1)
    assert blind.answer in ("red", "blue")
    assert "`reference` must give a text" in blind.degraded[0]

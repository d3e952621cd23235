"""Rewards for training: TRL's calling convention, what earns nothing, and one call a question."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from svip_search import DIMENSIONS, CallableReward, ImageError, Question, RewardError, Scoring
from svip_search.testing import HashReward

pytest.importorskip("torch")
pytest.importorskip("transformers")
from svip_search.rewards.rl_reward import (
    RewardFunction,
    answer_reward,
    completion_text,
    questions_of,
    reward_functions,
    split_steps,
    step_rewards,
)

GOOD, BAD = "left : 4\nright : 9\nanswer : 5", "no idea\nanswer : 7"


class Counting(HashReward):
    """Notes the calls it gets."""

    def __init__(self, **options):
        super().__init__(**options)
        self.calls = []

    def evaluate(self, question, paths):
        self.calls.append((question, list(paths)))
        return super().evaluate(question, paths)


def fixed(rewards):
    """A reward model that gives every path the same rows."""
    return CallableReward(lambda question, path: np.resize(rewards, (len(path), 3)), "prm")


def test_a_group_is_judged_in_one_call_and_questions_are_kept_apart():
    model = Counting()
    picture = np.zeros((4, 4, 3), np.uint8)
    images = [[picture], [picture.copy()], [picture + 1], [picture]]
    rewards = RewardFunction(model)(["Which?"] * 4, [GOOD, BAD, GOOD, GOOD], images=images)
    assert [len(paths) for _, paths in model.calls] == [3, 1]
    assert model.calls[0][1] == [split_steps(GOOD), split_steps(BAD), split_steps(GOOD)]
    # A hash does not see the picture: equal texts are worth the same, and each stands at its own place.
    assert rewards[0] == rewards[2] == rewards[3] != rewards[1]


def test_the_score_is_that_of_the_scoring_and_of_one_dimension():
    rows = [[1.0, 0.5, 0.2], [0.8, 0.5, 0.4], [0.6, 0.5, 0.6]]
    assert RewardFunction(fixed(rows), Scoring(aggregate="min"))([""], [GOOD], question=["Which?"]) == pytest.approx(
        [min(sum(r) / 3 for r in rows)]
    )
    each = [f([""], [GOOD], question=["Which?"])[0] for f in reward_functions(fixed(rows))]
    assert each == pytest.approx([0.8, 0.5, 0.4])


def test_the_scoring_of_the_reward_model_is_the_default():
    model = fixed([[1.0, 0.5, 0.2], [0.8, 0.5, 0.4]])
    model.scoring = Scoring(aggregate="last", weights=(1, 0, 0))
    assert RewardFunction(model)(["?"], ["one\nanswer : 2"]) == pytest.approx([0.8])
    assert reward_functions(model)[2](["?"], ["one\nanswer : 2"]) == pytest.approx([0.4])


@pytest.mark.parametrize("aggregate", ["sum_log", "mean_log_odds", "product"])
def test_rewards_lie_between_zero_and_one(aggregate):
    (reward,) = RewardFunction(fixed([[0.9, 0.9, 0.9]]), Scoring(aggregate=aggregate))(["?"], [GOOD])
    assert reward == pytest.approx(0.9 if aggregate == "mean_log_odds" else 0.9**3)


@pytest.mark.parametrize("completion", ["", " \n\n ", "left : 4\nright : 9", "answer : 7\nbut who knows", "answer : 6",
                                        "\n".join(["left : 4"] * 9 + ["answer : 5"])])  # fmt: skip
def test_no_answer_and_too_many_steps_earn_nothing_and_cost_nothing(completion):
    model = Counting()
    function = RewardFunction(model, max_steps=8)
    assert function(["?", "?"], [completion, GOOD], options=[["5", "7"]] * 2)[0] == 0.0
    assert [paths for _, paths in model.calls] == [[split_steps(GOOD)]]


def test_an_answer_is_not_asked_for_where_the_user_says_so():
    function = RewardFunction(fixed([[0.5, 0.5, 0.5]]), require_answer=False)
    assert function(["?", "?"], ["left : 4", ""]) == [0.5, 0.0]


def test_messages_count_as_texts():
    picture = np.zeros((4, 4, 3), np.uint8)
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "Which?"}]
    prompts = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]]
    said = [[{"role": "assistant", "content": "left : 4"}, {"role": "tool", "content": "x"},
             {"role": "assistant", "content": [{"type": "text", "text": "answer : 5"}]}]]  # fmt: skip
    model = Counting()
    RewardFunction(model)(prompts, said, options=[["5"]], trainer_state=object(), completion_ids=[[1]], log_extra=print)
    question, paths = model.calls[0]
    assert (question.text, question.images[0] is picture, question.options) == ("Which?", True, ("5",))
    assert paths == [("left : 4", "answer : 5")]


def test_columns_come_before_the_prompt():
    given = Question("A whole question", options=["1"])
    columns = {"question": ["Which?", given, None], "image": ["a.png", None, None]}
    found = questions_of(["<template>"] * 3, [""] * 3, **columns)
    assert found == [Question("Which?", images=["a.png"]), given, Question("<template>")]


@pytest.mark.parametrize("content", [None, [], [{"type": "image"}]])
def test_a_message_without_words_is_empty(content):
    assert completion_text([{"role": "assistant", "content": content}]) == ""


def test_what_cannot_be_judged_has_no_reward_and_the_others_keep_theirs():
    class Short(HashReward):
        def evaluate(self, question, paths):
            if max(map(len, paths)) > 2:
                raise RewardError("a path is too long.")
            return super().evaluate(question, paths)

    with pytest.warns(RuntimeWarning, match="too long"):
        rewards = RewardFunction(Short())(["?"] * 2, [GOOD, BAD])
    assert rewards[0] is None
    assert rewards[1] == RewardFunction(HashReward())(["?"], [BAD])[0]


def test_an_exception_of_a_function_stands_for_its_path():
    model = CallableReward(lambda question, path: 1 / (len(path) - 2))
    with pytest.warns(RuntimeWarning, match="division by zero"):
        assert RewardFunction(model)(["?"] * 2, [BAD, GOOD]) == [None, 1.0]


@pytest.mark.parametrize("value", [np.ones((3, 2)), np.full((3, 3), np.nan), np.full((3, 3), 1.5)])
def test_other_than_rewards_is_refused_by_name(value):
    with pytest.raises(RewardError, match=r"CallableReward\.evaluate must return rewards"):
        RewardFunction(CallableReward(lambda question, path: value, "prm"))(["?"], [GOOD])


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="`dimension` must be one of relevance, logic, attribute; got 'style'"):
        RewardFunction(HashReward(), dimension="style")
    with pytest.raises(ValueError, match="`dimension` needs a reward model of kind 'prm'"):
        RewardFunction(HashReward(kind="orm"), dimension="logic")
    with pytest.raises(ValueError, match="`max_steps` must be at least 1; got 0"):
        RewardFunction(HashReward(), max_steps=0)
    with pytest.raises(TypeError, match="`completions` must hold texts or lists of messages; got 3"):
        RewardFunction(HashReward())(["?"], [3])
    with pytest.raises(ValueError, match="`options` must be a list with one entry a completion, 2; got 1"):
        RewardFunction(HashReward())(["?"] * 2, [GOOD] * 2, options=[["5"]])
    with pytest.raises(ValueError, match="`reward` must be of kind 'prm'; got 'orm'"):
        step_rewards(HashReward(kind="orm"), [Question("?")], [GOOD])
    with pytest.raises(ValueError, match="`questions` must have length 2; got 1"):
        step_rewards(HashReward(), [Question("?")], [GOOD] * 2)


def test_rewards_of_steps_are_those_of_the_model():
    question = Question("Which?")
    found = step_rewards(HashReward(), [question, question], [GOOD, ""])
    np.testing.assert_array_equal(found[0], HashReward().evaluate(question, [split_steps(GOOD)])[0])
    assert found[1].shape == (0, len(DIMENSIONS))


def test_outcome_alone():
    completions = ["Answer: (A)", "first answer : blue\nanswer : red", "red", "answer : red\nor blue", "answer : red"]
    rewards = answer_reward([""] * 5, completions, answer=["red"] * 4 + [None], options=[["red", "blue"]] * 5)
    assert rewards == [1.0, 1.0, 0.0, 0.0, None]
    with pytest.raises(ValueError, match="`answer` must be a list with one entry a completion, 1; got the text"):
        answer_reward([""], [GOOD], answer="5")


def test_the_embedded_reward_model_reads_puzzles(tmp_path):
    from svip_search import generate_puzzle, list_models, load_reward

    if "svip-tiny" not in {m.name for m in list_models()}:
        pytest.skip("the embedded weights are not there")
    puzzle = generate_puzzle(5, 0)
    columns = {"images": [[puzzle.image]] * 2, "options": [puzzle.question.options] * 2}
    completions = ["\n".join(puzzle.steps), puzzle.steps[-1]]
    function = RewardFunction(load_reward("svip-tiny"))
    rewards = function([puzzle.question.text] * 2, completions, **columns)
    assert all(0 <= r <= 1 for r in rewards)
    with pytest.raises(ImageError):
        function([puzzle.question.text], completions[:1], image=[str(tmp_path / "nowhere.png")])


@pytest.mark.filterwarnings("ignore")  # those of other libraries about each other
def test_trl_takes_the_functions(tmp_path):
    """Two steps of TRL's own trainer on a tiny random text model, its log read back."""
    for name in ("trl", "datasets", "accelerate"):
        pytest.importorskip(name, reason=f"needs {name}", exc_type=ImportError)
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    words = {w: i for i, w in enumerate(["<pad>", "<eos>", "which", "answer", ":", "1", "2"])}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), hidden_size=16, intermediate_size=16,
                                         num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
                                         pad_token_id=0, eos_token_id=1))  # fmt: skip
    data = Dataset.from_dict({"prompt": ["which"] * 8, "options": [["1", "2"]] * 8, "answer": ["2"] * 8})
    config = GRPOConfig(str(tmp_path), max_steps=2, per_device_train_batch_size=4, num_generations=4, logging_steps=1,
                        max_completion_length=4, report_to=[], use_cpu=True, bf16=False, disable_tqdm=True)  # fmt: skip
    functions = [RewardFunction(HashReward(), require_answer=False), *reward_functions(HashReward()), answer_reward]
    trainer = GRPOTrainer(model, reward_funcs=functions, args=config, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    logged = [r for r in trainer.state.log_history if "reward" in r]
    assert len(logged) == 2
    for name in ("svip", "svip_relevance", "svip_logic", "svip_attribute", "answer_reward"):
        assert all(math.isfinite(float(r[f"rewards/{name}/mean"])) for r in logged)
    assert any(float(r["rewards/svip/mean"]) > 0 for r in logged)


def test_nothing_heavy_is_imported_with_the_library():
    import subprocess

    code = "import sys, svip_search; print('svip_search.rewards.rl_reward' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"

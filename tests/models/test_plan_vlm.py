"""The planning model: a grid of any size becomes one visual token a cell, in policies and reward models alike."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from svip_search import BestOfN, ImageError, ProposeRequest, Question, solve
from svip_search.datasets.planning import CELL_WORDS, FAMILIES, generate_plan, phrases
from svip_search.models.embedded import new_model, new_processor
from svip_search.models.plan_processor import PlanProcessor
from svip_search.models.plan_vlm import PlanVLMForConditionalGeneration
from svip_search.models.prompt import build_inputs, encode_step, question_text
from svip_search.policies.transformers_policy import TransformersPolicy
from svip_search.rewards._triatt_cot import TriAttCoT
from svip_search.rewards.svip_reward import SvipReward, read_backbone
from svip_search.testing import HashReward
from svip_search.training.data import batches, text_batch
from svip_search.training.domains import PlanDomain, domain_of
from svip_search.training.plan_data import cell_loss, encode_plans

PLANS = [generate_plan(7, 0, families=[family]) for family in FAMILIES]


@pytest.fixture(scope="module")
def processor():
    return new_processor("plan-nano")


@pytest.fixture(scope="module")
def model(processor):
    torch.manual_seed(0)
    return new_model("plan-nano", processor).eval()


@pytest.fixture(scope="module")
def folder(model, processor, tmp_path_factory):
    path = tmp_path_factory.mktemp("plan")
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.mark.parametrize(("name", "low", "high"), [("plan-nano", 0, 500_000), ("plan-small", 3e6, 6e6)])
def test_sizes_are_what_their_names_promise(processor, name, low, high):
    assert low < sum(p.numel() for p in new_model(name, processor).parameters()) <= high


def test_boilerplate_costs_a_token_a_phrase(processor):
    tokenizer = processor.tokenizer
    for phrase in phrases():
        assert len(tokenizer.encode(phrase.capitalize(), add_special_tokens=False)) == 1, phrase
    for plan in PLANS:
        words = tokenizer.encode(question_text(plan.question, instructions=False), add_special_tokens=False)
        assert len(words) < 40, plan.family


@pytest.mark.parametrize("plan", PLANS, ids=[p.family for p in PLANS])
def test_a_prompt_holds_no_options(processor, plan):
    """A policy that sees them guesses the length of the plan from them."""
    open_ended = dataclasses.replace(plan.question, options=())
    seen, told = build_inputs(processor, plan.question), build_inputs(processor, open_ended)
    assert torch.equal(seen["input_ids"], told["input_ids"])
    chunk = encode_plans([plan], [plan.steps], processor)
    assert chunk.prompts[0] == seen["input_ids"][0].tolist()


def test_numbers_are_words_and_steps_survive_the_tokenizer(processor):
    tokenizer = processor.tokenizer
    assert len(tokenizer.encode(" ".join(map(str, range(151))), add_special_tokens=False)) == 151
    for plan in PLANS:
        for step in plan.steps:
            ids = encode_step(tokenizer, step)
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids[:-1]) == step


def test_phrases_do_not_begin_or_end_within_words():
    from svip_search.models.puzzle_processor import make_tokenizer

    tokenizer = make_tokenizer(["a", "rid", "grid", "of", "offers", "x"], ["a grid of", "a grid"])
    assert tokenizer.tokenize("A grid of x") == ["a grid of", "x"]
    assert tokenizer.tokenize("a grid offers") == ["a grid", "offers"]
    assert tokenizer.tokenize("x a gridx") != ["x", "a grid", "x"]


def test_one_visual_token_a_cell(processor):
    for plan in PLANS:
        inputs = build_inputs(processor, plan.question)
        cells = len(plan.cells)
        assert inputs["pixel_values"].shape == (cells, 3, 32, 32)
        assert inputs["pixel_values"].dtype == torch.float32
        assert inputs["image_grid_hw"].tolist() == [[plan.grid.rows, plan.grid.columns]]
        image = processor.tokenizer.convert_tokens_to_ids("<image>")
        ids, rows = inputs["input_ids"][0], plan.grid.rows
        end = processor.tokenizer.convert_tokens_to_ids("|")
        assert ids[-cells - rows :].tolist() == ([image] * plan.grid.columns + [end]) * rows
        assert int(ids.eq(image).sum()) == cells


def test_save_and_load_through_auto_classes(model, folder: Path):
    again, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert isinstance(again, PlanVLMForConditionalGeneration)
    assert isinstance(processor, PlanProcessor)
    inputs = build_inputs(processor, PLANS[0].question)
    assert torch.equal(model(**inputs).logits, again(**inputs).logits)


def test_pictures_of_different_grids_in_one_batch(model, processor):
    texts = ["<image>" + question_text(p.question, instructions=False) for p in PLANS]
    inputs = processor(images=[p.image for p in PLANS], text=texts)
    together = model(**inputs, position_ids=(inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)).logits[:, -1]
    alone = torch.cat([model(**build_inputs(processor, p.question)).logits[:, -1] for p in PLANS])
    assert torch.allclose(together, alone, atol=1e-4)


def test_cache_changes_nothing(model, processor):
    inputs = build_inputs(processor, PLANS[0].question)
    with_cache = model.generate(**inputs, max_new_tokens=8, do_sample=False, use_cache=True)
    assert torch.equal(with_cache, model.generate(**inputs, max_new_tokens=8, do_sample=False, use_cache=False))
    ids = torch.tensor([encode_step(processor.tokenizer, PLANS[0].steps[0])])
    cache = model(**inputs, use_cache=True).past_key_values
    after = model(input_ids=ids, past_key_values=cache).logits
    whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], ids], 1)}
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    assert torch.allclose(after, model(**whole).logits[:, -ids.shape[1] :], atol=1e-4)


def test_several_texts_a_prompt_repeat_whole_pictures(model, processor):
    texts = ["<image>" + question_text(p.question, instructions=False) for p in PLANS[:2]]
    inputs = dict(processor(images=[p.image for p in PLANS[:2]], text=texts))
    ids, expanded = model._expand_inputs_for_generation(3, **inputs)
    expected = model(**inputs).logits.repeat_interleave(3, 0)
    assert torch.allclose(model(input_ids=ids, **expanded).logits, expected, atol=1e-4)
    assert len(model.generate(**inputs, max_new_tokens=2, do_sample=True, num_return_sequences=2)) == 4


def test_policy_samples_plans_of_different_grids_together(folder: Path):
    requests = [
        ProposeRequest(plan.question, tuple(plan.steps[: i % 2]), n=2, seed=3, temperature=1.0)
        for i, plan in enumerate(PLANS)
    ]
    together = TransformersPolicy.load(str(folder), max_step_tokens=12).propose(requests)
    alone = TransformersPolicy.load(str(folder), max_step_tokens=12, cache_tokens=0)
    for request, candidates in zip(requests, together, strict=True):
        (expected,) = alone.propose([request])
        assert [[c.text for c in path] for path in candidates] == [[c.text for c in path] for path in expected]


def test_reward_model_reads_plans(folder: Path):
    backbone, processor = read_backbone(folder, "auto")
    reward = SvipReward(backbone, processor, TriAttCoT(hidden_size=96))
    rewards = reward.evaluate_many([(p.question, [p.steps, p.steps[:1]]) for p in PLANS[:3]])
    assert [[len(r) for r in each] for each in rewards] == [[len(p.steps), 1] for p in PLANS[:3]]
    states = reward.hidden_states(PLANS[0].question, [PLANS[0].steps])
    assert (states[()].segments == 1).sum() == len(PLANS[0].cells)


def test_other_questions_are_named(processor, folder: Path):
    picture = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ImageError, match="What is missing"):
        build_inputs(processor, Question("What is missing?", images=[picture]))
    policy = TransformersPolicy.load(str(folder))
    with pytest.raises(ImageError, match="planning question"):
        policy.propose([ProposeRequest(Question("What is missing?", images=[picture]), (), n=1, seed=0)])
    with pytest.raises(ImageError, match="planning question"):
        build_inputs(processor, Question("This is maze having 99 * 99 cells.", images=[picture]))
    with pytest.raises(ImageError, match="takes 1 picture"):
        build_inputs(processor, Question(PLANS[0].question.text, images=[picture, picture]))
    with pytest.raises(ValueError, match="one <image> a picture"):
        processor(images=[picture], text="This is maze having 3 * 3 cells.")


def test_tensors_must_belong_together(model, processor):
    inputs = build_inputs(processor, PLANS[0].question)
    with pytest.raises(ValueError, match="image_grid_hw"):
        model(**{**inputs, "image_grid_hw": torch.tensor([[1, 1]])})
    with pytest.raises(ValueError, match="image_grid_hw"):
        model(**{k: v for k, v in inputs.items() if k != "image_grid_hw"})
    with pytest.raises(ValueError, match="one image token a cell"):
        model(**{**inputs, "input_ids": inputs["input_ids"][:, :-2], "attention_mask": None})


def test_training_and_inference_see_the_same_sequence(model, processor):
    domain = PlanDomain(processor)
    chunk = encode_plans(PLANS, [p.steps for p in PLANS], processor)
    for row, plan in enumerate(PLANS):
        inputs = build_inputs(processor, plan.question)
        assert inputs["input_ids"][0].tolist() == chunk.prompts[row]
        _, pictures = domain.prompts(model, chunk, [row])
        assert torch.allclose(inputs["pixel_values"], pictures["pixel_values"])
        assert chunk.pictures([row])[1].tolist() == [CELL_WORDS.index(w) for w in plan.cells]
    rows = np.array([2, 0])
    with torch.inference_mode():
        trained, _ = domain.losses(model, chunk, rows)
        ids, labels = text_batch(chunk, rows, processor.tokenizer.pad_token_id)
        _, pictures = domain.prompts(model, chunk, rows.tolist())
        expected = model(input_ids=ids, labels=labels, **pictures).loss
    assert torch.allclose(trained, expected, atol=1e-4)


def test_training_draws_what_it_is_told():
    domain = domain_of("plan-nano", ("tower_of_hanoi",), mixed=1.0, moves=(2, 3))
    chunk = domain.draw(0, range(12))
    assert set(chunk.families) == {"tower_of_hanoi"}
    right = PlanDomain(domain.processor, ("tower_of_hanoi",), mixed=0.0, moves=(2, 3)).draw(0, range(12))
    assert right.prompts == chunk.prompts
    assert right.steps != chunk.steps
    with pytest.raises(ValueError, match="moves"):
        domain_of("puzzle-nano", moves=(2, 3))


def test_batches_by_tokens_hold_every_sample_once(processor):
    chunk = encode_plans(PLANS, [p.steps for p in PLANS], processor)
    lengths = [len(p) + len(s) for p, s in zip(chunk.prompts, chunk.steps, strict=True)]
    for most in (1, 200, 600, 10_000):
        cut = batches(chunk, 32, np.random.default_rng(0), most)
        assert sorted(np.concatenate(cut).tolist()) == list(range(len(PLANS)))
        assert all(len(rows) == 1 or len(rows) * max(lengths[r] for r in rows) <= most for rows in cut)


def test_words_weigh_the_same_in_the_loss_of_the_eye():
    logits = torch.zeros(10, len(CELL_WORDS))
    logits[9, 1] = 5.0  # the one wall is seen, the nine empty cells are not
    each = torch.nn.functional.cross_entropy(logits, cells := torch.tensor([0] * 9 + [1]), reduction="none")
    assert torch.allclose(cell_loss(logits, cells), (each[0] + each[9]) / 2)


def test_a_cell_hears_of_its_neighbours_and_of_nothing_outside_its_picture():
    from svip_search.models.plan_vlm import Surroundings

    torch.manual_seed(0)
    spread = Surroundings(8, rounds=1)
    cells = torch.randn(12 + 4, 8)
    grids = [(3, 4), (2, 2)]
    heard = spread(cells, grids)
    assert torch.allclose(heard[:12], spread(cells[:12], grids[:1]), atol=1e-5)
    assert torch.allclose(heard[12:], spread(cells[12:], grids[1:]), atol=1e-5)
    changed = cells.clone()
    changed[0] *= -1  # the upper left cell of the first picture
    moved = (spread(changed, grids) - heard).abs().sum(1) > 1e-6
    assert moved.nonzero()[:, 0].tolist() == [0, 1, 4, 5]


def test_a_question_without_its_picture_is_no_question(folder: Path):
    blind = Question(PLANS[0].question.text, options=PLANS[0].question.options)
    result = solve(blind, TransformersPolicy.load(folder), HashReward(), BestOfN(n=2))
    assert result.answer is None
    assert "needs 1 picture; the question has 0" in result.degraded[0]

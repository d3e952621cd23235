"""The embedded model: it behaves like any other image-text-to-text model of transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from svip_search.datasets.puzzles import generate_puzzle
from svip_search.models.embedded import SIZES_OF_MODELS, new_model, new_processor
from svip_search.models.prompt import build_inputs, encode_step, question_text
from svip_search.models.puzzle_vlm import PuzzleVLMForConditionalGeneration
from svip_search.training.data import cell_labels, encode
from svip_search.training.domains import loss_of


@pytest.fixture(scope="module")
def processor():
    return new_processor()


@pytest.fixture(scope="module")
def model(processor):
    torch.manual_seed(0)
    return new_model("puzzle-nano", processor).eval()


PUZZLE = generate_puzzle(5, 5)


@pytest.mark.parametrize(("name", "low", "high"), [("puzzle-nano", 0, 500_000), ("puzzle-tiny", 1e6, 5e6)])
def test_sizes_are_what_their_names_promise(processor, name, low, high):
    parameters = sum(p.numel() for p in new_model(name, processor).parameters())
    assert low < parameters <= high


def test_unknown_size_is_named(processor):
    with pytest.raises(ValueError, match="puzzle-huge"):
        new_model("puzzle-huge", processor)
    assert {n for n in SIZES_OF_MODELS if n.startswith("puzzle")} == {"puzzle-nano", "puzzle-tiny"}


def test_save_and_load_through_auto_classes(model, processor, tmp_path: Path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(again, PuzzleVLMForConditionalGeneration)
    inputs = build_inputs(AutoProcessor.from_pretrained(tmp_path), PUZZLE.question)
    assert torch.equal(model(**inputs).logits, again(**inputs).logits)


def test_training_and_inference_see_the_same_sequence(model, processor):
    chunk = encode([PUZZLE], processor)
    inputs = build_inputs(processor, PUZZLE.question)
    assert inputs["input_ids"][0, 64:].tolist() == chunk.prompts[0]
    ids = torch.tensor([chunk.prompts[0] + chunk.steps[0]])
    labels = ids.clone()
    labels[:, : len(chunk.prompts[0])] = -100
    with torch.inference_mode():
        trained, _ = loss_of(model, chunk.pixels, torch.from_numpy(cell_labels(PUZZLE))[None], ids, labels)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], ids[:, len(chunk.prompts[0]) :]], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        used = model(**inputs, labels=torch.where(inputs["input_ids"] == 4, -100, inputs["input_ids"]))
        logits = used.logits[:, 63 + len(chunk.prompts[0]) : -1]
        expected = torch.nn.functional.cross_entropy(logits[0], ids[0, len(chunk.prompts[0]) :])
    assert torch.allclose(trained, expected, atol=1e-5)


def test_cache_changes_nothing(model, processor):
    inputs = build_inputs(processor, PUZZLE.question)
    with_cache = model.generate(**inputs, max_new_tokens=8, do_sample=False, use_cache=True)
    without = model.generate(**inputs, max_new_tokens=8, do_sample=False, use_cache=False)
    assert torch.equal(with_cache, without)


def test_placeholders_must_match_the_pictures(model, processor):
    inputs = build_inputs(processor, PUZZLE.question)
    inputs["input_ids"] = inputs["input_ids"][:, 1:]
    inputs["attention_mask"] = inputs["attention_mask"][:, 1:]
    with pytest.raises(ValueError, match="64 image tokens"):
        model(**inputs)


def test_steps_survive_the_tokenizer(processor):
    for i in range(50):
        for step in generate_puzzle(8, i, pixels=16).steps:
            ids = encode_step(processor.tokenizer, step)
            assert processor.tokenizer.unk_token_id not in ids
            assert processor.tokenizer.decode(ids[:-1]) == step
            assert processor.tokenizer.decode(ids[-1:]) == "\n"


def test_prompt_holds_options_and_asks_general_models_for_steps():
    text = question_text(PUZZLE.question)
    assert all(o in text for o in PUZZLE.question.options)
    assert "Answer: X" in text


def test_every_object_is_something_the_eye_can_name():
    for i in range(200):
        puzzle = generate_puzzle(8, i, pixels=32)
        cells = {(int(o.x * 8), int(o.y * 8)) for o in puzzle.objects}
        assert (cell_labels(puzzle).any(1)).sum() == len(cells)

"""Adapters around random models of transformers, small enough to test in milliseconds."""

from __future__ import annotations

import pytest
from PIL import Image, ImageDraw

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny_models import LlavaTiny, llava, make_tokenizer  # noqa: E402

from svip_search.programs import Region  # noqa: E402
from svip_search.programs.vision import (  # noqa: E402
    ImageTextAnswerer,
    ObjectDetector,
    TransformersVision,
    ZeroShotDetector,
)
from svip_search.programs.vision.transformers_vision import crop, parse_answer  # noqa: E402

WHOLE = Region()
SIZE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def picture():
    image = Image.new("RGB", (64, 48), "white")
    ImageDraw.Draw(image).ellipse((8, 8, 30, 30), "red")
    return image


def yolos():
    torch.manual_seed(0)
    names = {0: "circle", 1: "square"}
    config = transformers.YolosConfig(
        **SIZE, image_size=[32, 32], patch_size=8, num_detection_tokens=6, id2label=names,
        label2id={name: i for i, name in names.items()},
    )  # fmt: skip
    return transformers.YolosForObjectDetection(config)


class OwlProcessor:
    """A processor of OWL-ViT with a tokenizer of whole words."""

    def __init__(self):
        size = {"height": 32, "width": 32}
        self.image_processor = transformers.OwlViTImageProcessorPil(size=size, crop_size=size)
        self.tokenizer = make_tokenizer()
        self.asked = []

    def __call__(self, images, text, return_tensors):
        self.asked += text[0]
        ids = self.tokenizer(
            text[0], return_tensors="pt", return_token_type_ids=False, padding="max_length", max_length=8
        )
        return transformers.BatchFeature({**ids, **self.image_processor(images=images, return_tensors="pt")})

    def post_process_grounded_object_detection(self, outputs, threshold, target_sizes):
        return self.image_processor.post_process_object_detection(
            outputs, threshold=threshold, target_sizes=target_sizes
        )


def owlvit():
    torch.manual_seed(0)
    words = len(make_tokenizer())
    text = {
        **SIZE,
        "vocab_size": words,
        "max_position_embeddings": 8,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    vision = {**SIZE, "image_size": 32, "patch_size": 8}
    return transformers.OwlViTForObjectDetection(
        transformers.OwlViTConfig(text_config=text, vision_config=vision, projection_dim=16)
    )


def llava_answerer():
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    model = llava(len(tokenizer), tokenizer.convert_tokens_to_ids("<image>"))
    return ImageTextAnswerer(model, LlavaTiny(tokenizer), max_new_tokens=4)


def test_an_object_detector_finds_its_classes():
    processor = transformers.YolosImageProcessorPil(size={"height": 32, "width": 32})
    detect = ObjectDetector(yolos(), processor, threshold=0.0)
    found = {kind: detect(picture(), kind) for kind in ("object", "circle", "square")}
    assert len(found["object"]) == 6
    assert len(found["circle"]) + len(found["square"]) == 6
    assert all(isinstance(region, Region) for region in found["object"])
    assert ObjectDetector(yolos(), processor, threshold=1.0)(picture(), "object") == []
    with pytest.raises(ValueError, match="'hexagon'"):
        detect(picture(), "hexagon")


def test_a_zero_shot_detector_is_asked_by_name():
    processor = OwlProcessor()
    detect = ZeroShotDetector(owlvit(), processor, threshold=0.0)
    assert len(detect(picture(), "circle")) > 0
    detect(picture(), "?")
    assert processor.asked == ["a circle", "a question mark"]


def test_an_image_text_model_answers():
    answer = llava_answerer()
    text = answer(picture(), "what is the red circle ?")
    assert isinstance(text, str)
    assert answer(picture(), "what is the red circle ?") == text


def test_models_make_a_scene():
    calls = []
    answerer = llava_answerer()

    def answer(image, question):
        calls.append(question)
        return answerer(image, question)

    processor = transformers.YolosImageProcessorPil(size={"height": 32, "width": 32})
    detector = ObjectDetector(yolos(), processor, threshold=0.0)
    scene = TransformersVision(detector, answer).look(picture())
    patches = scene.call("find", WHOLE, ["circle"]) + scene.call("find", WHOLE, ["square"])
    assert len(patches) >= 1
    assert scene.call("exists", patches[0], ["object"])
    for method, kind in {"color": str, "number": (int, str), "sides": int, "shape": str, "size": str}.items():
        assert isinstance(scene.call(method, patches[0], []), kind)
    assert scene.call("query", WHOLE, ["what is the answer ?"]) == scene.call("query", WHOLE, ["what is the answer ?"])
    assert len(calls) == 6


def test_overlapping_boxes_are_one_thing():
    boxes = [Region(0.1, 0.1, 0.5, 0.5), Region(0.12, 0.1, 0.5, 0.5), Region(0.6, 0.1, 0.9, 0.48)]
    scene = TransformersVision(lambda image, kind: boxes, lambda image, question: "").look(picture())
    assert scene.call("find", WHOLE, ["object"]) == [boxes[0], boxes[2]]
    assert scene.call("find", Region(0.5, 0, 1, 1), ["object"]) == [boxes[2]]


@pytest.mark.parametrize(
    ("method", "text", "value"),
    [("color", "The shape is Green.", "green"), ("color", "no idea", ""), ("number", "It says 42!", 42),
     ("number", "a ? mark", "?"), ("number", "seven", 7), ("number", "", ""), ("number", "9" * 5000, ""),
     ("sides", "a hexagon", 6), ("sides", "I see 5 sides", 5), ("sides", "?", 0), ("shape", "two circles", "circle"),
     ("size", "LARGE", "large"), ("text", " 12 \n", "12"), ("query", "yes ", "yes")],
)  # fmt: skip
def test_what_models_say_becomes_answers(method, text, value):
    assert parse_answer(method, text) == value


def test_crops_hold_at_least_a_pixel():
    assert crop(picture(), WHOLE).size == (64, 48)
    assert crop(picture(), Region(1, 1, 1, 1)).size[0] >= 1
    assert crop(picture(), Region(0.25, 0.25, 0.5, 0.5)).size == (19, 14)


def test_unknown_methods_and_kinds_are_named():
    scene = TransformersVision(lambda image, kind: [], lambda image, question: "").look(picture())
    with pytest.raises(ValueError, match="'paint'"):
        scene.call("paint", WHOLE, [])
    with pytest.raises(ValueError, match="'unicorn'"):
        scene.call("find", WHOLE, ["unicorn"])

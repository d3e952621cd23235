"""Vision modules from models of transformers: a detector finds, an image-text-to-text model answers.

Any two callables will do in their place::

    detector(picture, kind)      -> regions of the things of that kind, best first
    answerer(picture, question)  -> a text

The adapters take a loaded model and its processor and import torch when they are first used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..._images import open_image
from ...datasets.puzzles._family import COLORS, MISSING, SIDES, SIZES
from .._types import Json, Region
from ._things import SHAPES, Thing, check_call, holds, kind_of, reading_order

Detector = Callable[[Any, str], list[Region]]
Answerer = Callable[[Any, str], str]

#: What a detector is asked for, by kind.
PROMPTS = {"object": "a shape", "number": "a number", MISSING: "a question mark", "part": "a part", "morph": "a blob"}
#: What an image-text-to-text model is asked, by method.
QUESTIONS = {
    "color": "What color is this shape? Answer with one word.",
    "number": "What number is written here? Answer with digits, or ? for a question mark.",
    "shape": "What shape is this? Answer with one word.",
    "size": "Is this small, medium or large? Answer with one word.",
    "sides": "How many sides does this shape have? Answer with a number.",
    "text": "What is written here? Answer with the text alone.",
}
_WORDS = {"color": COLORS, "shape": SHAPES, "size": SIZES}
_COUNTS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_MARGIN = 0.02  # what a crop shows around its region, so that outlines are whole


class TransformersVision:
    """Scenes of pictures that models look at.

    Args:
        detector: finds the things of a kind, as `ZeroShotDetector` and `ObjectDetector` do.
        answerer: answers a question about a picture or a crop of it, as `ImageTextAnswerer` does.

    Notes:
        Every call is one pass of a model; equal calls of a scene are answered from memory.

    Example:
        >>> from PIL import Image
        >>> vision = TransformersVision(lambda picture, kind: [Region(0.1, 0.1, 0.4, 0.4)], lambda crop, ask: "Red.")
        >>> scene = vision.look(Image.new("RGB", (64, 64), "red"))
        >>> scene.call("color", scene.call("find", Region(), ["circle"])[0], [])
        'red'
    """

    def __init__(self, detector: Detector, answerer: Answerer) -> None:
        self.detector, self.answerer = detector, answerer

    def look(self, picture: Any) -> _ModelScene:
        """Return the scene of a picture: a path, bytes, a PIL image or a uint8 array."""
        return _ModelScene(open_image(picture), self.detector, self.answerer)


class _ModelScene:
    def __init__(self, picture: Any, detector: Detector, answerer: Answerer) -> None:
        self.picture, self.detector, self.answerer = picture, detector, answerer
        self._found: dict[str, list[Region]] = {}
        self._said: dict[tuple[Region, str], str] = {}

    def call(self, method: str, region: Region, arguments: Sequence[Json]) -> Json:
        """Answer as `Scene.call` says."""
        check_call(method, arguments)
        if method in ("find", "exists"):
            found = [r for r in self._find(kind_of(arguments[0])) if holds(region, r.x, r.y)]
            return found if method == "find" else bool(found)
        question = arguments[0] if method == "query" else QUESTIONS[method]
        return parse_answer(method, self._ask(region, question))

    def _find(self, kind: str) -> list[Region]:
        if kind not in self._found:
            found = [Thing(region) for region in _distinct(self.detector(self.picture, kind))]
            self._found[kind] = [thing.region for thing in reading_order(found)]
        return self._found[kind]

    def _ask(self, region: Region, question: str) -> str:
        key = (region, question)
        if key not in self._said:
            self._said[key] = self.answerer(crop(self.picture, region), question)
        return self._said[key]


def parse_answer(method: str, text: str) -> Json:
    """Return what a model said as the answer of a method; "" (0 for ``sides``) where it said nothing of the kind.

    Example:
        >>> parse_answer("sides", "It has six sides."), parse_answer("color", "A Blue circle")
        (6, 'blue')
    """
    words = re.findall(r"[a-z]+|\d+|\?", text.lower())
    if method in _WORDS:
        known = _WORDS[method]
        return next((w for w in (*words, *(w.removesuffix("s") for w in words)) if w in known), "")
    if method in ("number", "sides"):
        count = next((int(w) if w.isdigit() else _COUNTS.index(w) for w in words if _is_count(w)), None)
        if method == "sides":
            return count if count is not None else next((SIDES[w] for w in words if w in SIDES), 0)
        return count if count is not None else (MISSING if MISSING in words else "")
    return text.strip()


def _is_count(word: str) -> bool:
    return (word.isdigit() and len(word) < 10) or word in _COUNTS


def crop(picture: Any, region: Region) -> Any:
    """Return the part of a PIL picture that a region shows, with a little around it; at least a pixel."""
    if region == Region():
        return picture
    width, height = picture.size
    left = min(width - 1, max(0, int((region.left - _MARGIN) * width)))
    top = min(height - 1, max(0, int((region.top - _MARGIN) * height)))
    right = max(left + 1, min(width, round((region.right + _MARGIN) * width)))
    bottom = max(top + 1, min(height, round((region.bottom + _MARGIN) * height)))
    return picture.crop((left, top, right, bottom))


def _distinct(regions: Sequence[Region]) -> list[Region]:
    """Drop what mostly covers something better: detectors report a thing several times."""
    kept: list[Region] = []
    for region in regions:
        if all(_overlap(region, other) < 0.5 for other in kept):
            kept.append(region)
    return kept


def _overlap(a: Region, b: Region) -> float:
    """Return the area that two regions share over that of both."""
    width = max(0.0, min(a.right, b.right) - max(a.left, b.left))
    height = max(0.0, min(a.bottom, b.bottom) - max(a.top, b.top))
    both = sum((r.right - r.left) * (r.bottom - r.top) for r in (a, b)) - width * height
    return width * height / both if both > 0 else 0.0


def _regions(found: Mapping[str, Any], size: tuple[int, int]) -> list[Region]:
    """Return detected boxes (pixels) as regions, best first."""
    width, height = size
    scored = sorted(zip(found["scores"].tolist(), found["boxes"].tolist(), strict=True), key=lambda s: -s[0])
    sides = (width, height, width, height)
    clipped = ([min(1.0, max(0.0, v / side)) for v, side in zip(box, sides, strict=True)] for _, box in scored)
    return [Region(*box) for box in clipped if box[0] < box[2] and box[1] < box[3]]


class ZeroShotDetector:
    """Finds things by their name with a model of ``AutoModelForZeroShotObjectDetection``.

    Args:
        model: the model, on its device (OWL-ViT, OWLv2, Grounding DINO, …).
        processor: its processor, as ``AutoProcessor`` gives it.
        threshold: least score of what is reported.
        prompts: what to ask for a kind; its own name by default (see ``PROMPTS``).
    """

    def __init__(self, model: Any, processor: Any, threshold: float = 0.2,
                 prompts: Mapping[str, str] = PROMPTS) -> None:  # fmt: skip
        self.model, self.processor = model.eval(), processor
        self.threshold, self.prompts = threshold, dict(prompts)

    def __call__(self, picture: Any, kind: str) -> list[Region]:
        import torch

        text = self.prompts.get(kind, f"a {kind}")
        inputs = self.processor(images=picture, text=[[text]], return_tensors="pt").to(self.model.device)
        with torch.inference_mode():
            outputs = self.model(**inputs)
        found = self.processor.post_process_grounded_object_detection(
            outputs, threshold=self.threshold, target_sizes=[(picture.height, picture.width)]
        )
        return _regions(found[0], picture.size)


class ObjectDetector:
    """Finds things of the classes of a model of ``AutoModelForObjectDetection``.

    Args:
        model: the model, on its device (DETR, RT-DETR, YOLOS, …).
        image_processor: its image processor.
        threshold: least score of what is reported.
        classes: the classes of the model that a kind stands for; by default the class of that name, and all of
            them for ``object``.

    Raises:
        ValueError: when a kind is asked for that no class stands for.
    """

    def __init__(self, model: Any, image_processor: Any, threshold: float = 0.5,
                 classes: Mapping[str, Sequence[str]] | None = None) -> None:  # fmt: skip
        self.model, self.image_processor, self.threshold = model.eval(), image_processor, threshold
        names = list(model.config.id2label.values())
        self.classes = {"object": names, **{name: [name] for name in names}} | dict(classes or {})

    def __call__(self, picture: Any, kind: str) -> list[Region]:
        import torch

        if kind not in self.classes:
            raise ValueError(f"`kind` must be among the detector's {sorted(self.classes)}; got {kind!r}.")
        inputs = self.image_processor(images=picture, return_tensors="pt").to(self.model.device)
        with torch.inference_mode():
            outputs = self.model(**inputs)
        found = self.image_processor.post_process_object_detection(
            outputs, threshold=self.threshold, target_sizes=[(picture.height, picture.width)]
        )[0]
        wanted = [self.model.config.id2label[int(i)] in self.classes[kind] for i in found["labels"]]
        keep = torch.tensor(wanted, dtype=torch.bool, device=found["scores"].device)
        return _regions({"scores": found["scores"][keep], "boxes": found["boxes"][keep]}, picture.size)


class ImageTextAnswerer:
    """Answers questions about pictures with a model of ``AutoModelForImageTextToText``.

    Args:
        model: the model, on its device.
        processor: its processor; one with a chat template gets one turn of the user.
        max_new_tokens: longest answer.
    """

    def __init__(self, model: Any, processor: Any, max_new_tokens: int = 16) -> None:
        self.model, self.processor, self.max_new_tokens = model.eval(), processor, max_new_tokens

    def __call__(self, picture: Any, question: str) -> str:
        import torch

        inputs = {k: v.to(self.model.device) for k, v in self._inputs(picture, question).items()}
        with torch.inference_mode():
            ids = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        fresh = ids[0, inputs["input_ids"].shape[1] :]
        text: str = self.processor.tokenizer.decode(fresh, skip_special_tokens=True)
        return text.strip()

    def _inputs(self, picture: Any, question: str) -> dict[str, Any]:
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            turn = [{"role": "user", "content": content}]
            text = self.processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        else:
            text = f"{getattr(self.processor, 'image_token', '<image>')}\n{question}\n"
        return dict(self.processor(images=[picture], text=text, return_tensors="pt"))

"""How questions with several pictures and videos become prompts, with processors of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

from svip_search._errors import ImageError
from svip_search._types import Question
from svip_search._video import Video
from svip_search.models.embedded import new_processor
from svip_search.models.prompt import build_inputs, question_text

TEMPLATE = (
    "{% for m in messages %}[{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}]{% endfor %}"
)
#: The templates of LLaVA 1.5 and others put all pictures before all text, whatever the order of the parts.
PICTURES_FIRST = (
    "{% for m in messages %}{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}<image>{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] }}{% endfor %}{% endfor %}"
)


def picture(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


MIXED = Question("Which?", images=[picture(0), Video([picture(1), picture(2)]), picture(3)], options=["1", "2"])
FRAMES_LAST = Question("Which?", images=[Video([picture(1), picture(2)])])


def tokenizer(*special: str) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(("<pad>", "<unk>", *special))}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|\w+|[^\w\s]"), "removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", additional_special_tokens=list(special)
    )


def llava(template: str | None = TEMPLATE) -> Any:
    images = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return LlavaProcessor(images, tokenizer("<image>"), patch_size=8, vision_feature_select_strategy="default",
                          image_token="<image>", num_additional_image_tokens=1, chat_template=template)  # fmt: skip


def idefics3() -> Any:
    images = Idefics3ImageProcessorPil(
        do_image_splitting=False, size={"longest_edge": 32}, max_image_size={"longest_edge": 32}
    )
    words = tokenizer("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    return Idefics3Processor(images, words, image_seq_len=4, chat_template=TEMPLATE)


class Noting:
    """A processor that notes what it is given, around a real one."""

    def __init__(self, processor: Any) -> None:
        self.real, self.image_token, self.chat_template = processor, "<image>", processor.chat_template
        self.apply_chat_template = processor.apply_chat_template
        self.text, self.images = "", []

    def __call__(self, images: Any, text: str, return_tensors: str) -> Any:
        self.text, self.images = text, images
        return self.real(images=images, text=text, return_tensors=return_tensors)


@pytest.mark.parametrize("template", [TEMPLATE, None])
def test_labels_stand_before_their_frames(template: str | None) -> None:
    processor = Noting(llava(template))
    begin, end = ("[", "]") if template else ("", "\n")
    build_inputs(processor, MIXED)
    words = question_text(MIXED).rstrip("\n")
    assert processor.text == (
        f"{begin}<image>\nVideo 1, frame 1 of 2: <image>\nVideo 1, frame 2 of 2: <image><image>{words}{end}"
    )
    for image, seed in zip(processor.images, range(4), strict=True):
        np.testing.assert_array_equal(np.asarray(image), picture(seed))
    build_inputs(processor, FRAMES_LAST)
    words = question_text(FRAMES_LAST).rstrip("\n")
    assert processor.text == (f"{begin}Video 1, frame 1 of 2: <image>\nVideo 1, frame 2 of 2: <image>\n{words}{end}")


@pytest.mark.parametrize("template", [TEMPLATE, None])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_plain_pictures_stand_without_labels(count: int, template: str | None) -> None:
    processor = Noting(llava(template))
    question = Question("Which?", images=[picture(i) for i in range(count)])
    build_inputs(processor, question)
    text = "<image>" * count + question_text(question)
    assert processor.text == (f"[{text.rstrip()}]" if template else text)
    assert processor.images is None if count == 0 else len(processor.images) == count


def test_a_template_may_put_the_pictures_first() -> None:
    processor = Noting(llava(PICTURES_FIRST))
    build_inputs(processor, MIXED)
    assert processor.text.startswith("<image>" * 4 + "\nVideo 1, frame 1 of 2: \nVideo 1, frame 2 of 2: Which?")


@pytest.mark.parametrize(("make", "tokens"), [(llava, 4), (lambda: llava(None), 4), (idefics3, 4)])
def test_processors_of_transformers_take_several(make: Any, tokens: int) -> None:
    processor = make()
    inputs = build_inputs(processor, MIXED)
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert int((inputs["input_ids"] == image).sum()) == 4 * tokens
    pixels = inputs["pixel_values"].reshape(4, -1)
    singles = [build_inputs(processor, Question("Which?", images=[picture(i)]))["pixel_values"] for i in range(4)]
    for got, single in zip(pixels, singles, strict=True):
        np.testing.assert_array_equal(got, single.reshape(-1))


@pytest.mark.parametrize(("images", "count"), [
    ([picture(0), picture(1), picture(2)], 3),
    ([Video([picture(0), picture(1)])], 2),
    ([picture(0), Video([picture(0)])], 2),
])  # fmt: skip
def test_a_model_of_one_picture_says_so(images: list[Any], count: int) -> None:
    with pytest.raises(ImageError, match=f"A puzzle model takes 1 picture; the question has {count}"):
        build_inputs(new_processor(), Question("Which?", images=images))


def test_a_model_of_one_picture_takes_none_one_and_a_video_of_one() -> None:
    for images in ([], [picture(0)], [Video([picture(0)])]):
        inputs = build_inputs(new_processor(), Question("Which?", images=images))
        assert len(inputs.get("pixel_values", ())) == len(images)

"""How a question and the steps of a path become the text, and the tokens, that a reward model reads.

::

    prompt | first step after | between step after | between step after | closing
                            ^ read                ^ read               ^ read

``prompt``, ``between``, ``after`` and ``closing`` come from a format and from the model's chat template: they may hold
special tokens.  Question and steps come from outside: they may not.  A step is tokenised with the text before it in
view but with nothing behind it, so the tokens of a path never change when a step is added.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .._errors import ImageError, RewardError
from .._types import Prefix, Question
from .._video import Picture, pictures
from ..models.prompt import check_count, content_parts, question_text

#: Stand for foreign text while a chat template is rendered, so that no template can act on it.
_QUESTION, _STEP, _ANSWER, _STEP_2, _ANSWER_2 = "@@question@@", "@@step@@", "@@answer@@", "@@step-2@@", "@@answer-2@@"

Chat = Literal["none", "reply", "turns"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFormat:
    """Where question and steps stand.

    Args:
        chat: ``"none"`` one plain text; ``"reply"`` the steps are one turn of the assistant; ``"turns"`` each step is
            a turn of the user, answered by the assistant.
        system: words of the system's turn; None leaves it to the chat template.
        user: the user's turn, in plain text the beginning; ``{question}`` is the question with its options.  With
            ``"turns"`` the first step follows it in the same turn.
        reply: what stands before the first step in the assistant's turn; may hold ``{question}`` instead of ``user``.
        first: before the first step.
        between: between what follows a step and the next step.
        after: after every step; its last token is where the step is read.  Behind an answer in one piece it follows
            the end of the turn.
        answer: with ``"turns"``, what the assistant answered to the steps before.
    """

    chat: Chat = "reply"
    system: str | None = None
    user: str = "{question}"
    reply: str = ""
    first: str = ""
    between: str = ""
    after: str = ""
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """The trusted texts around the steps of one question, its own text in place."""

    prompt: str
    first: str
    between: str
    after: str
    closing: str
    pictures: tuple[Any, ...] = ()


class StepText:
    """Makes tokens of questions and paths.

    Args:
        processor: a processor with a ``tokenizer``, or for a model without eyes its tokenizer.
        form: where everything stands.
        marker: text of a token that must stand after every step and nowhere else; "" where there is none.
        image_ids: ids of placeholders of pictures, which no question or step may contain.
    """

    def __init__(self, processor: Any, form: StepFormat, marker: str = "", image_ids: Sequence[int] = ()) -> None:
        self.processor, self.form, self.marker = processor, form, marker.strip()
        self.tokenizer = getattr(processor, "tokenizer", None) or processor
        self.sees = self.tokenizer is not processor
        if form.chat != "none" and not (getattr(processor, "chat_template", None) or self._template()):
            raise ValueError(f"`processor` must have a chat template for a style of {form.chat!r}; it has none.")
        self.marker_id = self.single("marker", "1", form.after) if self.marker else None
        self.reserved = self._reserved(image_ids)
        texts = [t for t in self._reserved_texts(image_ids) if len(t) > 1]
        self._pattern = re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")

    def _template(self) -> Any:
        return getattr(self.tokenizer, "chat_template", None)

    def _reserved_texts(self, image_ids: Sequence[int]) -> set[str]:
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        texts = {str(token.content) for token in added.values() if token.special}
        texts.update(map(str, getattr(self.tokenizer, "all_special_tokens", ())))
        texts.update(t for i in image_ids if isinstance(t := self.tokenizer.convert_ids_to_tokens(i), str))
        texts.update(t for name in ("image_token", "video_token") if (t := getattr(self.processor, name, None)))
        return {t.strip() for t in (*texts, self.marker) if t.strip()}

    def _reserved(self, image_ids: Sequence[int]) -> frozenset[int]:
        """Return the ids that only trusted text may bring: not that of unknown words, which any text may."""
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        ids = {int(i) for i, token in added.items() if token.special}
        ids.update(map(int, getattr(self.tokenizer, "all_special_ids", ())), image_ids)
        if self.marker_id is not None:
            ids.add(self.marker_id)
        return frozenset(ids - {getattr(self.tokenizer, "unk_token_id", None)})

    # -- text ---------------------------------------------------------------------------------------------------

    def escaped(self, text: str) -> str:
        """Return foreign text in which no reserved token can be read: a space follows its first character."""
        for _ in range(4):  # what was cut may overlap with another
            cut = self._pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
            if cut == text:
                break
            text = cut
        return text

    def layout(self, question: Question) -> Layout:
        """Return the texts around the steps of a question.

        Raises:
            ImageError: the question has pictures and the model sees none, or one cannot be read.
        """
        shown = pictures(question)
        if shown and not self.sees:
            raise ImageError(
                f"The reward model reads text alone; the question {question.text[:60]!r} has {len(shown)} pictures."
            )
        check_count(self.processor, len(shown))
        make = {"none": self._plain, "reply": self._reply, "turns": self._turns}[self.form.chat]
        texts = make(shown)
        words = self.escaped(question_text(question, instructions=False).rstrip("\n"))
        prompt = texts[0].replace(_QUESTION, words)
        # Most tokenizers write a space and the word behind it as one token, which the prompt must not cut.
        begun = prompt.rstrip(" ")
        return Layout(begun, prompt[len(begun) :] + texts[1], *texts[2:], tuple(p.image for p in shown))

    def _plain(self, shown: Sequence[Picture]) -> tuple[str, str, str, str, str]:
        form, token = self.form, getattr(self.processor, "image_token", "<image>")
        parts = content_parts(shown, _filled(form.user) + _filled(form.reply))
        prompt = "".join(part.get("text", token) for part in parts)
        return prompt, form.first, form.between, form.after, ""

    def _reply(self, shown: Sequence[Picture]) -> tuple[str, str, str, str, str]:
        form = self.form
        early = "{question}" in form.user
        turns = [
            ("user", _filled(form.user), shown if early else ()),
            ("assistant", _filled(form.reply) + _STEP, () if early else shown),
        ]
        prompt, closing = _split(self._rendered(turns), _STEP)
        return prompt, form.first, form.between, form.after, closing

    def _turns(self, shown: Sequence[Picture]) -> tuple[str, str, str, str, str]:
        form = self.form
        turns = [
            ("user", _filled(form.user) + _STEP, shown),
            ("assistant", _ANSWER, ()),
            ("user", _STEP_2, ()),
            ("assistant", _ANSWER_2, ()),
        ]
        prompt, rest = _split(self._rendered(turns), _STEP)
        after, rest = _split(rest, _ANSWER)
        between, rest = _split(rest, _STEP_2)
        again, _ = _split(rest, _ANSWER_2)
        if again != after:
            raise RewardError("the chat template renders two equal turns differently, so that they cannot be chained.")
        return prompt, form.first, form.answer + between, after, ""

    def _rendered(self, turns: Sequence[tuple[str, str, Sequence[Picture]]]) -> str:
        messages = [{"role": "system", "content": self._content(self.form.system, ())}] if self.form.system else []
        messages += [{"role": role, "content": self._content(text, seen)} for role, text, seen in turns]
        owner = self.processor if getattr(self.processor, "chat_template", None) else self.tokenizer
        return str(owner.apply_chat_template(messages, tokenize=False, add_generation_prompt=False))

    def _content(self, text: str, shown: Sequence[Picture]) -> Any:
        return content_parts(shown, text) if self.sees else text

    def around(self) -> str:
        """Return the text behind which a judgement of a step would be written."""
        return self._turns(())[3] if self.form.chat == "turns" else self.form.after

    # -- tokens -------------------------------------------------------------------------------------------------

    def prompt_inputs(self, layout: Layout) -> dict[str, Any]:
        """Return what the model takes for the prompt: input_ids, attention_mask [1, L], pixel_values, …"""
        import torch

        if self.sees:
            # A chat template writes the first token itself; a second one would be a prompt the model never saw.
            bos = getattr(self.tokenizer, "bos_token", None)
            twice = {"add_special_tokens": False} if bos and layout.prompt.startswith(bos) else {}
            shown = list(layout.pictures) or None
            return dict(self.processor(images=shown, text=layout.prompt, return_tensors="pt", **twice))
        ids = self.encode(layout.prompt)
        if self.form.chat == "none":
            ids = self._begun(layout.prompt, ids)
        return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.int64)}

    def _begun(self, text: str, ids: list[int]) -> list[int]:
        """Return ids with the tokens that begin a text, without those that end one."""
        whole = list(self.tokenizer.encode(text, add_special_tokens=True))
        for start in range(len(whole) - len(ids) + 1):
            if whole[start : start + len(ids)] == ids:
                return whole[:start] + ids
        return ids

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text without special tokens around it."""
        ids: list[int] = list(self.tokenizer.encode(text, add_special_tokens=False))
        return ids

    def encode_after(self, before: str, text: str) -> tuple[int, ...]:
        """Return the ids of a text as they are behind another: some tokenizers begin a text with a space."""
        known = self.encode(before)
        ids = self.encode(before + text)
        return tuple(ids[len(known) :] if ids[: len(known)] == known else self.encode(text))

    def single(self, name: str, before: str, text: str) -> int:
        """Return the id of a text that is one token behind another.

        Raises:
            ValueError: it is several tokens, or none that the vocabulary has; ``name`` says whose it is.
        """
        ids = self.encode_after(before, text)
        if len(ids) != 1 or ids[0] == getattr(self.tokenizer, "unk_token_id", None):
            raise ValueError(f"`{name}` must be a single token of the vocabulary; {text!r} is {len(ids)}: {list(ids)}.")
        return ids[0]

    def path_ids(self, layout: Layout, path: Prefix) -> list[tuple[int, ...]]:
        """Return the ids of each step of a path with what stands around it.

        Raises:
            RewardError: a step cannot be written without a reserved token, or hides the marker.
        """
        rows = []
        for i, step in enumerate(path):
            before = layout.between if i else layout.first
            anchor = layout.after if i else layout.prompt
            row = self.encode_after(anchor, before + self.escaped(step) + layout.after)
            self._check(row, before, layout, step)
            rows.append(row)
        return rows

    def answer_ids(self, layout: Layout, answer: str) -> tuple[int, ...]:
        """Return the ids of an answer in one piece, up to the end of its turn; ``after`` follows that.

        Raises:
            RewardError: it cannot be written without a reserved token.
        """
        behind = layout.closing + layout.after
        row = self.encode_after(layout.prompt, layout.first + self.escaped(answer) + behind)
        self._count(row, layout.first, behind, answer)
        return row

    def _count(self, row: Sequence[int], before: str, behind: str, text: str) -> None:
        """Refuse tokens among which there are more reserved ones than trusted text brings."""
        trusted = self.encode(before) + self.encode(behind)
        if sum(i in self.reserved for i in row) != sum(i in self.reserved for i in trusted):
            raise RewardError(f"a step must not contain a special token or the marker {self.marker!r}; got {text!r}.")

    def _check(self, row: Sequence[int], before: str, layout: Layout, step: str) -> None:
        if not row or (self.marker_id is not None and row[-1] != self.marker_id):
            raise RewardError(f"the marker {self.marker!r} must stay a token of its own behind a step; got {step!r}.")
        self._count(row, before, layout.after, step)


def _filled(text: str) -> str:
    return text.replace("{question}", _QUESTION)


def _split(text: str, at: str) -> tuple[str, str]:
    before, found, behind = text.partition(at)
    if not found:
        raise RewardError("the chat template drops a part of the conversation, so that steps cannot be placed.")
    return before, behind

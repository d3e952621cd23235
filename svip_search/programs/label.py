"""From a question to labelled trajectories: programs are grown, run, assessed and told as steps."""

from __future__ import annotations

import io
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Any

from .._errors import ImageError
from .._images import open_image
from .._types import Question
from .._video import Video
from ..datasets.puzzlevqa import family_of
from ..datasets.svip import SvipRecord, replacing
from ._types import Program, Scene
from .assess import Assessment, Runner, answer_test, assess
from .generate import ProgramGenerator, grow
from .narrate import Narrator, narrate


def label_programs(
    question: Question,
    generator: ProgramGenerator,
    runner: Runner,
    scene: Scene,
    verifier: Scene,
    *,
    completer: ProgramGenerator | None = None,
    completions: int = 4,
    narrator: Narrator = narrate,
    leaves: int = 12,
    width: int = 3,
    depth: int = 16,
    seed: int = 0,
) -> list[tuple[Assessment, list[str]]]:
    """Return distinct labelled trajectories of one question, each with its steps.

    Args:
        question: with its picture and its true answer.
        generator: writes the programs.
        runner: runs them, as ``Sandbox.run``.
        scene: the picture as the vision modules see it.
        verifier: the picture as it is.
        completer: writes the continuations for logic; by default the programs themselves serve.
        completions: how many a prefix.
        narrator: tells a block and what it gave as a step.
        leaves: programs to grow.
        width: sub-nodes a step.
        depth: longest program, in blocks.
        seed: of the tree.

    Raises:
        ValueError: the question has no answer.
        ImageError: it has several pictures, or a video.
    """
    if question.answer is None:
        raise ValueError(f"`question` must have its true answer; {question.id or question.text!r} has none.")
    if len(question.images) > 1 or any(isinstance(image, Video) for image in question.images):
        raise ImageError(f"`question` must have one picture at most; {question.id or question.text!r} has more.")
    image = question.images[0] if question.images else None
    tree = grow(generator, question, image, width=width, leaves=leaves, seed=seed, depth=depth)
    programs = [tree.path(leaf) for leaf in tree.leaves]
    counts = [tree.nodes[leaf].count for leaf in tree.leaves]

    def complete(prefix: Program) -> list[tuple[Program, int]]:
        assert completer is not None
        more = grow(
            completer, question, image, width=completions, leaves=completions, seed=seed, blocks=prefix, depth=depth
        )
        return [(more.path(leaf), more.nodes[leaf].count) for leaf in more.leaves]

    right = answer_test(question.answer, question.options)
    found = assess(programs, runner, scene, verifier, right, counts, complete if completer else None)
    distinct = {assessment.program: assessment for assessment in found if assessment.program}
    return [(assessment, _told(assessment, narrator)) for assessment in distinct.values()]


def _told(assessment: Assessment, narrator: Narrator) -> list[str]:
    blocks = list(zip(assessment.program, assessment.run.blocks, strict=True))
    return [narrator(block, run, blocks[:i]) for i, (block, run) in enumerate(blocks)]


def record_of(
    question: Question,
    assessment: Assessment,
    steps: list[str],
    folder: str | PathLike[str],
    *,
    id: str,
    source: str = "program",
    seed: int = 0,
    generator: str = "",
) -> SvipRecord:
    """Return the record of a labelled trajectory; its pictures are written into the folder as PNG files.

    Args:
        question: with its pictures.
        assessment: as `label_programs` gives it, with ``steps``.
        steps: the chain of thought.
        folder: where the file of the records will lie; pictures go to ``images`` in it, each once.
        id: of the record, unique in the data set.
        source: who wrote the program.
        seed: of the draw.
        generator: version of what wrote the program.

    Raises:
        ImageError: a picture cannot be read.
        OSError: a picture cannot be written.
    """
    run = assessment.run
    return SvipRecord(
        id=id, family=family_of(question), question=question.text, options=tuple(question.options),
        answer=question.answer, images=tuple(_save(image, Path(folder)) for image in question.images),
        program=assessment.program, results=tuple(block.value for block in run.blocks),
        errors=tuple(f"{block.error}: {block.message}" if block.error else "" for block in run.blocks),
        steps=tuple(steps), labels=assessment.labels, outcome=int(assessment.right), source=source, seed=seed,
        generator=generator, sandbox=run.sandbox, folder=Path(folder),
    )  # fmt: skip


def _save(image: Any, folder: Path) -> str:
    """Write a picture under a name that its content gives, and return its path in the folder."""
    buffer = io.BytesIO()
    open_image(image).save(buffer, "PNG")
    name = f"images/{blake2b(buffer.getvalue(), digest_size=8).hexdigest()}.png"
    if not (folder / name).exists():
        (folder / "images").mkdir(parents=True, exist_ok=True)
        with replacing(folder / name) as stream:
            stream.write(buffer.getvalue())
    return name

"""Pictures and text to tensors for the planning models: the grid that a question tells, cut into cells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import AutoProcessor, BatchFeature

from .._errors import ImageError
from .._images import open_image
from ..datasets.planning import FAMILIES
from ..datasets.planning._cut import cut
from ..datasets.planning._grid import Grid, grid_of
from .plan_vlm import PlanVLMConfig
from .puzzle_processor import PuzzleImageProcessor, PuzzleProcessor

#: Ends a row of cells, as in the states of chains.
ROW_END = "|"
#: The options of a question, as ``question_text`` writes them.
_OPTIONS = re.compile(r"\n?Options: [^\n]*")


class PlanImageProcessor(PuzzleImageProcessor):
    """Cuts pictures into the cells of their grids and maps them to [-1, 1]."""

    model_input_names: ClassVar[list[str]] = ["pixel_values", "image_grid_hw"]

    def __init__(self, side: int = 32, **kwargs: Any) -> None:
        super().__init__(side, **kwargs)

    def __call__(  # type: ignore[override]
        self, images: Any, grids: Sequence[Grid] = (), return_tensors: str | None = "pt", **kwargs: Any
    ) -> BatchFeature:
        """Return ``pixel_values`` float32 [cells of all pictures, 3, side, side] and ``image_grid_hw`` [P, 2]."""
        several = images if isinstance(images, (list, tuple)) else [images]
        cells = np.concatenate([cut(open_image(i), g, self.side) for i, g in zip(several, grids, strict=True)])
        pixels = (cells.astype(np.float32) / 127.5 - 1.0).transpose(0, 3, 1, 2)
        data = {"pixel_values": torch.from_numpy(np.ascontiguousarray(pixels)),
                "image_grid_hw": torch.tensor([[g.rows, g.columns] for g in grids])}  # fmt: skip
        return BatchFeature(data, tensor_type=return_tensors)


class PlanProcessor(PuzzleProcessor):
    """Tokenizer and image processor in one; an ``<image>`` in a text becomes a placeholder for every cell.

    The cells stand behind the question, row by row, as a chain of thought will state them: so what a first step has to
    copy is always as far back, however long the question is.

    The options of a question are left out.  The answer follows from the plan; a policy that sees the options learns to
    stop at a number of moves that looks right among them instead of at the goal, and one whose training knew another
    manner of options than the questions it meets is misled by them.
    """

    model_name = "A planning model"
    min_images = 1
    #: A question whose words tell a grid, for whoever wants to see what a prompt looks like.
    example = FAMILIES["rotting_kiwi"].templates[0].format(3, 3)
    eye: ClassVar[type[PuzzleImageProcessor]] = PlanImageProcessor

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None,
                 **kwargs: Any) -> None:  # fmt: skip
        super().__init__(image_processor, tokenizer, 1, chat_template)  # one visual token a cell

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that a call returns."""
        return ["input_ids", "attention_mask", "pixel_values", "image_grid_hw"]

    def __call__(self, images: Any = None, text: str | Sequence[str] | None = None,
                 return_tensors: str | None = "pt", **kwargs: Any) -> BatchFeature:  # fmt: skip
        """Return ``input_ids``, ``attention_mask`` [B, L], ``pixel_values`` [N, 3, S, S], ``image_grid_hw`` [P, 2].

        Args:
            images: one picture for each ``<image>`` in the texts, in order.
            text: questions, each of which tells the grid of its own picture.
            return_tensors: of which library, as for other processors.
            kwargs: for the tokenizer.

        Raises:
            ImageError: a question tells no grid, or a picture cannot be read.
            ValueError: there are more or fewer pictures than ``<image>`` in the texts.
        """
        texts = [text] if isinstance(text, str) else list(text or ())
        shown = list(images) if isinstance(images, (list, tuple)) else [] if images is None else [images]
        grids = [grid for t in texts for grid in [_grid(t)] * t.count("<image>")]
        if len(grids) != len(shown):
            raise ValueError(f"`text` must hold one <image> a picture; got {len(grids)} for {len(shown)} pictures.")
        data = dict(super().__call__(None, texts, **kwargs)) if texts else {}
        if shown:
            data.update(self.image_processor(shown, grids))
        return BatchFeature(data, tensor_type=return_tensors)

    def expand(self, text: str) -> str:
        r"""Return a prompt with its picture behind its words, a placeholder a cell and a bar after each row.

        Example:
            >>> processor = PlanProcessor.__new__(PlanProcessor)
            >>> processor.expand("<image>" + processor.example[:-1] + "\nOptions: 1, 2\n")[-37:]
            '<image><image>|<image><image><image>|'
        """
        if "<image>" not in text:
            return text
        grid, text = _grid(text), _OPTIONS.sub("", text)
        return text.replace("<image>", "") + ("<image>" * grid.columns + ROW_END) * grid.rows


def _grid(text: str) -> Grid:
    """Return the grid that a question with a picture tells."""
    if (grid := grid_of(text)) is None:
        words = text.replace("<image>", "").strip()
        raise ImageError(
            "A planning model knows the grid of a picture by the words of a planning question (number_slide, maze, "
            f"move_box, n_queens, rotting_kiwi, checker_move, tower_of_hanoi, water_jugs); got {words[:60]!r}."
        )
    return grid


AutoProcessor.register(PlanVLMConfig, PlanProcessor, exist_ok=True)

"""Asks one module about several views of a picture: a verifier where there is no scene truth.

An answer that survives a shift, a change of scale, blur and noise is more likely right; the share of the views
that agree says how likely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..._images import open_image
from .._types import Json, Region, Scene
from ._things import same_answer
from .noisy import Vision


@dataclass(frozen=True, slots=True)
class View:
    """How a picture is changed: scaled about its middle, moved (in fractions of its sides), blurred, made noisy."""

    scale: float = 1.0
    dx: float = 0.0
    dy: float = 0.0
    blur: float = 0.0
    noise: float = 0.0

    def there(self, region: Region) -> Region:
        """Return where a region of the picture lies in the view."""
        return Region(*(_clip(v) for v in (self._x(region.left), self._y(region.top),
                                           self._x(region.right), self._y(region.bottom))))  # fmt: skip

    def back(self, region: Region) -> Region:
        """Return where a region of the view lies in the picture."""
        xs = ((v - 0.5 - self.dx) / self.scale + 0.5 for v in (region.left, region.right))
        ys = ((v - 0.5 - self.dy) / self.scale + 0.5 for v in (region.top, region.bottom))
        (left, right), (top, bottom) = xs, ys
        return Region(_clip(left), _clip(top), _clip(right), _clip(bottom))

    def _x(self, x: float) -> float:
        return (x - 0.5) * self.scale + 0.5 + self.dx

    def _y(self, y: float) -> float:
        return (y - 0.5) * self.scale + 0.5 + self.dy


#: The picture as it is, and four gentle changes of it; blur is in pixels per 128 of the longer side.
VIEWS = (View(), View(dx=0.021, dy=-0.017), View(scale=0.93), View(blur=0.35), View(noise=5.0))


class AugmentedVision:
    """Scenes whose answers are those of most views of a picture.

    Args:
        inner: the module that is asked about each view.
        views: the changes; the first one wins ties.
        seed: of the noise.

    Notes:
        As many looks at a picture as there are views.

    Example:
        >>> from svip_search.datasets.puzzles import generate_puzzle
        >>> from svip_search.programs.vision import ClassicalVision
        >>> picture = generate_puzzle(1, 0, families=["venn"], plain=True, pixels=256).image
        >>> scene = AugmentedVision(ClassicalVision()).look(picture)
        >>> scene.agreement("exists", Region(), ["?"])
        1.0
    """

    def __init__(self, inner: Vision, views: Sequence[View] = VIEWS, seed: int = 0) -> None:
        if not views:
            raise ValueError("`views` must name at least one view; got none.")
        self.inner, self.views, self.seed = inner, tuple(views), seed

    def look(self, picture: Any) -> AugmentedScene:
        """Return the scene of a picture."""
        image = open_image(picture)
        return AugmentedScene([(view, self.inner.look(render(image, view, self.seed))) for view in self.views])


class AugmentedScene:
    """What several views of a picture say."""

    def __init__(self, scenes: Sequence[tuple[View, Scene]]) -> None:
        self.scenes = tuple(scenes)

    def call(self, method: str, region: Region, arguments: Sequence[Json]) -> Json:
        """Return the answer of most views; of those that tie, that of the first."""
        return self._vote(method, region, arguments)[0]

    def agreement(self, method: str, region: Region, arguments: Sequence[Json]) -> float:
        """Return the share of the views that give the answer of `call`."""
        return self._vote(method, region, arguments)[1]

    def _vote(self, method: str, region: Region, arguments: Sequence[Json]) -> tuple[Json, float]:
        answers = []
        for view, scene in self.scenes:
            answer = scene.call(method, view.there(region), arguments)
            answers.append([view.back(r) for r in answer] if method == "find" else answer)
        counts = [sum(same_answer(method, a, b) for b in answers) for a in answers]
        best = max(range(len(answers)), key=lambda i: (counts[i], -i))
        return answers[best], counts[best] / len(answers)


def render(image: Any, view: View, seed: int = 0) -> Any:
    """Return a view of a PIL picture, as large as the picture; what comes in at its borders has their colour."""
    from PIL import Image, ImageFilter

    if view.scale != 1 or view.dx or view.dy:
        width, height = image.size
        grow = 1 / view.scale
        x = width * (0.5 - (0.5 + view.dx) * grow)
        y = height * (0.5 - (0.5 + view.dy) * grow)
        data = (grow, 0, x, 0, grow, y)
        image = image.transform(image.size, Image.Transform.AFFINE, data, Image.Resampling.BICUBIC,
                                fillcolor=_border_color(image))  # fmt: skip
    if view.blur:
        image = image.filter(ImageFilter.GaussianBlur(view.blur * max(image.size) / 128))
    if view.noise:
        array = np.asarray(image, np.float32)
        noise = np.random.default_rng(seed).standard_normal(array.shape, np.float32) * view.noise
        image = Image.fromarray(np.clip(array + noise, 0, 255).astype(np.uint8))
    return image


def _border_color(image: Any) -> tuple[int, ...]:
    array = np.asarray(image)
    border = np.concatenate([array[0], array[-1], array[:, 0], array[:, -1]])
    return tuple(int(v) for v in np.median(border, axis=0))


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))

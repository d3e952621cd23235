"""One self-contained page of a solved question: picture, answer, tree, votes and usage.

The page is a template (`page.html`, with `page.css` and `page.js` inlined) and one block of JSON.
Everything that a policy, a data set or a user wrote reaches the page through that block and is
placed by the script as text, never as markup; a content security policy forbids every request.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .._images import open_image
from .._tree import Status
from .._types import DIMENSIONS, Question, Result
from .._video import Video, pictures_of
from .._vote import match_option, normalise

#: Pictures are reduced to this many pixels a side, so that a page stays small.
PICTURE_SIDE = 1024
#: The same for a frame of a video, of which there may be many.
FRAME_SIDE = 512


def write_html(result: Result, path: str | PathLike[str], max_nodes: int = 5000) -> Path:
    """Write the page of a result to a file and return its path.

    Args:
        result: what a search found.
        path: the file to write; its folder must exist.
        max_nodes: see `render_html`.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    path.write_text(render_html(result, max_nodes), encoding="utf-8")
    return path


def render_html(result: Result, max_nodes: int = 5000) -> str:
    """Return the page of a result: one HTML text that needs no network and no other file.

    Args:
        result: what a search found.
        max_nodes: of a larger tree the first ``max_nodes`` nodes are shown, and every node of a
            finished trajectory; the page says so.

    Notes:
        Of a video its chosen frames are shown, reduced.  A picture or video that can no longer be read is
        replaced by a note on the page.
    """
    parts = {
        "title": html.escape(_clip(f"{result.answer or 'No answer'} · {result.question.text}", 120)),
        "style": _resource("page.css"),
        "plain": _plain(result),
        "data": _script_safe(page_data(result, max_nodes)),
        "script": _resource("page.js"),
    }
    # One pass: a mark inside a foreign text is not filled in.
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], _resource("page.html"))


def page_data(result: Result, max_nodes: int = 5000) -> dict[str, Any]:
    """Return what the page shows, as plain JSON values (None for NaN)."""
    tree = result.tree
    kept = _kept_nodes(result, max_nodes)
    place = {node: i for i, node in enumerate(kept)}
    chosen = tree.path(result.trajectory.node) if result.trajectory is not None else [0]
    question = result.question
    shown = list(_pictures(question))
    return {
        "question": {
            "text": question.text,
            "options": list(question.options),
            "answer": question.answer,
            "true_option": _true_option(question),
            "images": [url for url, _ in shown],
            "labels": [label for _, label in shown],
        },
        "answer": result.answer,
        "correct": _correct(question, result.answer),
        "strategy": result.strategy,
        "seed": result.seed,
        "stopped_by": result.stopped_by,
        "degraded": [_clip(line, 500) for line in result.degraded[:200]],
        "dimensions": list(DIMENSIONS),
        "total_nodes": len(tree),
        "nodes": _columns(result, kept, place),
        "chosen": [place[node] for node in chosen] if len(chosen) > 1 else [],
        # A rollout that only estimated a value has steps beyond its node of the tree.
        "chain": [
            {"text": s.text, "reward": _reward(s.reward or ()), "node": place.get(s.node, -1)}
            for s in (result.trajectory.steps if result.trajectory is not None else ())
        ],
        "trajectories": [
            {
                "node": place[t.node],
                "answer": t.answer,
                "score": _number(t.score),
                "steps": [_clip(s.text, 200) for s in t.steps],
            }
            for t in result.trajectories
            if t.node in place
        ],
        "votes": [{"answer": v.answer, "votes": v.votes, "weight": _number(v.weight)} for v in result.votes],
        "usage": {name: value for name, value in asdict(result.usage).items() if value or name == "seconds"}
        | {"policy_tokens": result.usage.policy_tokens, "reward_tokens": result.usage.reward_tokens},
    }


def _kept_nodes(result: Result, max_nodes: int) -> list[int]:
    """Choose the nodes to show: a parent always comes before its children, in the tree and here."""
    nodes = set(range(min(len(result.tree), max_nodes)))
    ends = [*result.trajectories[:max_nodes], *((result.trajectory,) if result.trajectory else ())]
    for trajectory in ends:
        nodes.update(result.tree.path(trajectory.node))
    return sorted(nodes)


def _columns(result: Result, kept: list[int], place: dict[int, int]) -> dict[str, list[Any]]:
    tree, arena = result.tree, result.tree.arena
    rewards = arena.reward[kept].astype(np.float64)
    visits = arena.visits[kept]
    values = arena.value_sum[kept] / np.maximum(visits, 1)
    return {
        "index": kept,
        "parent": [place.get(int(parent), -1) for parent in arena.parent[kept]],
        "text": [tree.text[node] for node in kept],
        "visits": visits.tolist(),
        "value": [round(float(v), 4) if n else None for v, n in zip(values, visits, strict=True)],
        "prior": [_number(p) for p in arena.prior[kept]],
        "reward": [_reward(row) for row in rewards.tolist()],
        "status": [Status(int(s)).name.lower() for s in arena.status[kept]],
        "log_prob": [_number(tree.log_prob[node]) for node in kept],
        "tokens": [int(tree.tokens[node]) for node in kept],
    }


def _true_option(question: Question) -> str | None:
    if question.answer is None or not question.options:
        return None
    return match_option(question.answer, question.options)


def _correct(question: Question, answer: str | None) -> bool | None:
    if question.answer is None:
        return None
    truth = _true_option(question) or question.answer
    return answer is not None and normalise(answer) == normalise(truth)


def _pictures(question: Question) -> Iterator[tuple[str | None, str]]:
    """Return the address and the label of each picture; of what cannot be read one without an address."""
    videos = 0
    for image in question.images:
        video = isinstance(image, Video)
        videos += video
        try:
            shown = pictures_of(image, videos)
        except (ValueError, TypeError):
            yield None, f"Video {videos}" if video else ""
            continue
        for picture in shown:
            yield (_encoded(picture.image, FRAME_SIDE, "jpeg") if video else _data_url(picture.image)), picture.label


def _data_url(source: Any) -> str | None:
    try:
        return _encoded(open_image(source), PICTURE_SIDE, "png")
    except (ValueError, TypeError):
        return None


def _encoded(picture: Image.Image, side: int, kind: str) -> str:
    picture = picture.copy()
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=85)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _script_safe(data: dict[str, Any]) -> str:
    """Write JSON that no HTML parser can mistake for markup, whatever the texts hold."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    text = text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair is no character
    return re.sub(r"[^ -~]|[<>&]", lambda odd: "".join(f"\\u{unit:04x}" for unit in _utf16(odd[0])), text)


def _utf16(character: str) -> list[int]:
    return [int(unit) for unit in np.frombuffer(character.encode("utf-16-le"), "<u2")]


def _plain(result: Result) -> str:
    """Return the answer and its steps for a reader without scripts."""
    steps = result.trajectory.steps if result.trajectory is not None else ()
    texts = (result.question.text, str(result.answer), *(step.text for step in steps))
    question, answer, *lines = (html.escape(_clip(text, 5000)) for text in texts)
    items = "".join(f"<li>{line}</li>" for line in lines)
    return f"<p>{question}</p><ol>{items}</ol><p>Answer: {answer}</p>"


def _clip(text: str, limit: int) -> str:
    text = text.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate cannot be written to a file
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _reward(values: Sequence[float]) -> list[float] | None:
    return [round(v, 4) for v in values] if values and not any(map(math.isnan, values)) else None


def _number(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")

"""The tree page: complete, harmless whatever the texts hold, and alive in a browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from svip_search import MCTS, BestOfN, Candidate, ProposeRequest, Question, Result, SelfConsistency, solve
from svip_search._video import Video
from svip_search.testing import FaultyPolicy, HashPolicy, HashReward
from svip_search.viewer import render_html, write_html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NASTY = [
    "</script><script>alert(1)</script>",
    "<!-- <script> <img src=x onerror=alert(1)>",
    "\"quotes\" 'single' `back` ${x} {{script}} {{data}} \\",
    "\u202eright to left\u202c \u2028\u2029 \x00\x1b[31m \ud800",
    "&lt;b&gt; &amp; %s {0}",
]


class Quoting:
    """A policy that says one given text and then answers with it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def propose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
        step, end = Candidate(self.text), Candidate(f"Answer: {self.text}", finish_reason="stop")
        return [[(step, end) if r.whole else (end if r.prefix else step,)] * r.n for r in requests]


def solved(size: int = 8, **question: Any) -> Result:
    asked = Question("Which one is it?", **{"options": ["red", "blue"], "answer": "red"} | question)
    return solve(asked, HashPolicy(depth=4), HashReward(), BestOfN(n=size), seed=1)


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_page_holds_everything(tmp_path: Path) -> None:
    picture = np.full((2000, 1000, 3), 7, np.uint8)
    result = solved(images=[picture, "nowhere.png"])
    page = write_html(result, tmp_path / "tree.html").read_text(encoding="utf-8")
    data = data_of(page)
    assert data["answer"] == result.answer
    assert data["correct"] == (result.answer == "red")
    assert [v["answer"] for v in data["votes"]] == [v.answer for v in result.votes]
    assert len(data["trajectories"]) == 8
    assert data["nodes"]["text"] == result.tree.text
    assert data["nodes"]["parent"] == result.tree.arena.parent.tolist()
    np.testing.assert_allclose(data["nodes"]["reward"][1:], result.tree.arena.reward[1:], atol=1e-4)
    assert result.trajectory is not None
    assert data["chosen"] == result.tree.path(result.trajectory.node)
    assert [s["text"] for s in data["chain"]] == [s.text for s in result.trajectory.steps]
    assert data["question"]["images"][0].startswith("data:image/png;base64,")
    assert data["question"]["images"][1] is None


def test_all_pictures_and_frames_are_shown_with_their_labels() -> None:
    grey = np.full((2000, 1000, 3), 7, np.uint8)
    film = [np.full((900, 1600, 3), 50 * i, np.uint8) for i in range(4)]
    shown = [grey, Video(film, frames=3), "nowhere.png", Video("nowhere.mp4"), Video(film[:1]), 3]
    question = data_of(render_html(solved(images=shown)))["question"]
    assert question["labels"] == [
        "",
        *(f"Video 1, frame {i} of 3" for i in (1, 2, 3)),
        "",
        "Video 2",
        "Video 3, frame 1 of 1",
        "",
    ]
    sources = question["images"]
    assert [s and s.split(";")[0] for s in sources] == [
        "data:image/png", *["data:image/jpeg"] * 3, None, None, "data:image/jpeg", None,
    ]  # fmt: skip
    for source, size, shade in zip(sources[:4], [(512, 1024), *[(512, 288)] * 3], (7, 0, 50, 150), strict=True):
        picture = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))
        assert picture.size == size
        assert abs(int(np.asarray(picture.convert("L"))[0, 0]) - shade) < 3


def test_page_needs_no_network() -> None:
    page = render_html(solved(images=[np.zeros((4, 4, 3), np.uint8)]))
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)=[\"']?(?!data:)[a-z]+:|@import|url\(|fetch\(|XMLHttp", page)


@pytest.mark.parametrize("text", [*NASTY, "x" * 100_000])
def test_foreign_text_is_never_markup(text: str, tmp_path: Path) -> None:
    question = Question(f"Is it {text}?", options=[text, "other"], answer=text)
    result = solve(question, Quoting(text), strategy=SelfConsistency(n=2))
    result = replace(result, degraded=(text,), strategy=text)
    page = write_html(result, tmp_path / "tree.html").read_text(encoding="utf-8")
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img src=x" not in page
    assert page[page.index('id="data"') : page.index("</script>")].isascii()
    assert data_of(page)["nodes"]["text"][1] == text.replace("\ud800", "?")
    head = page[: page.index("<style>")]
    assert len(head) < 3000


def test_nothing_found_and_no_rewards() -> None:
    empty = solve("Why?", FaultyPolicy(HashPolicy(), "empty"), strategy="greedy")
    data = data_of(render_html(empty))
    assert data["answer"] is None
    assert data["chosen"] == []
    assert data["degraded"]
    assert len(data["nodes"]["text"]) == 1
    greedy = data_of(render_html(solve("Why?", HashPolicy(), strategy="greedy")))
    assert greedy["nodes"]["reward"] == [None] * len(greedy["nodes"]["text"])
    assert greedy["trajectories"][0]["score"] is None


def test_rollouts_beside_the_tree_keep_their_steps() -> None:
    strategy = MCTS(iterations=3, expand=2, rollout=True)
    result = solve(Question("Which?", options=["red", "blue"]), HashPolicy(depth=5), HashReward(), strategy)
    assert result.trajectory is not None
    chain = data_of(render_html(result))["chain"]
    assert [s["text"] for s in chain] == [s.text for s in result.trajectory.steps]


def test_large_trees_are_cut_and_keep_the_trajectories() -> None:
    question = Question("Which?", options=["red", "blue"])
    policy = HashPolicy(branching=8, depth=6, distinct=True)
    result = solve(question, policy, HashReward(), MCTS(iterations=300, expand=8, c=0.3))
    assert len(result.tree) > 1000
    data = data_of(render_html(result, max_nodes=100))
    count = len(data["nodes"]["parent"])
    assert 100 <= count <= 100 + 6 * len(result.trajectories)
    assert data["total_nodes"] == len(result.tree)
    assert all(0 <= p < i for i, p in enumerate(data["nodes"]["parent"]) if i)
    assert len(data["trajectories"]) == min(len(result.trajectories), 100)


def test_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"tree\.html"):
        write_html(solved(), tmp_path / "gone" / "tree.html")


def browse(path: Path, profile: Path) -> tuple[str, str]:
    """Return the document after its scripts ran, and what the browser's console said."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", f"--user-data-dir={profile}",
             "--window-size=1280,800", "--dump-dom", path.as_uri()]  # fmt: skip
    done = subprocess.run([str(CHROMIUM), *flags], capture_output=True, timeout=120, check=True)
    console = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if "CONSOLE" in line]
    return done.stdout.decode("utf-8", "replace"), "\n".join(console)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("size", [1, 2000])
def test_page_works_in_a_browser(size: int, tmp_path: Path) -> None:
    policy = HashPolicy(branching=7, depth=4, distinct=True)
    question = Question("Which one?", [np.zeros((8, 8, 3), np.uint8)], ["red", "blue"], "red")
    strategy = MCTS(iterations=max(1, size // 7), expand=7) if size > 1 else SelfConsistency(n=1)
    result = solve(question, policy, HashReward(), strategy)
    page = write_html(result, tmp_path / "tree.html")
    document, console = browse(page, tmp_path / "profile")
    assert console == ""
    shown = re.search(r'<div id="answer"[^>]*>([^<]*)</div>', document)
    assert shown
    assert shown[1] == (result.answer or "No answer found")
    assert 1 < len(re.findall(r'role="treeitem"', document)) <= len(result.tree)
    assert len(re.findall(r'<div [^>]*aria-selected="true"', document)) == 1
    assert len(re.findall(r'<button [^>]*aria-selected="true"', document)) == 1


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_frames_of_videos_in_a_browser(tmp_path: Path) -> None:
    film = Video([np.full((9, 16, 3), 50 * i, np.uint8) for i in range(3)])
    result = solved(images=[np.zeros((8, 8, 3), np.uint8), film, "gone.png", Video("gone.mp4")])
    document, console = browse(write_html(result, tmp_path / "tree.html"), tmp_path / "profile")
    assert console == ""
    assert re.findall(r"<figcaption[^>]*>([^<]*)<", document) == [f"Video 1, frame {i} of 3" for i in (1, 2, 3)]
    assert re.findall(r'<img[^>]*alt="([^"]*)"', document) == [
        "Picture 1 of the question",
        *(f"Video 1, frame {i} of 3" for i in (1, 2, 3)),
    ]
    assert re.findall(r'<div class="gone">([^<]*)<', document) == [
        "The picture is no longer available.",
        "Video 2 is no longer available.",
    ]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_foreign_text_stays_text_in_a_browser(tmp_path: Path) -> None:
    text = " ".join(NASTY) + "x" * 100_000
    result = solve(Question(text, options=[text, "b"]), Quoting(text), strategy=SelfConsistency(n=1))
    document, console = browse(write_html(result, tmp_path / "tree.html"), tmp_path / "profile")
    assert console == ""
    assert document.count("<script") == 2
    assert "&lt;script&gt;alert(1)" in document
    assert not re.search(r"<img src=.?x", document)

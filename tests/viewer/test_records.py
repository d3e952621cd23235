"""The page of records: complete, harmless whatever the texts hold, and alive in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from svip_search.datasets.puzzles import generate_puzzle
from svip_search.datasets.svip import SvipRecord, generator_version
from svip_search.viewer.records import render_records, write_records

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NASTY = [
    "</script><script>alert(1)</script>",
    "<!-- <script> <img src=x onerror=alert(1)>",
    "\"quotes\" 'single' `back` ${x} {{script}} {{data}} \\",
    "\u202eright to left\u202c \u2028\u2029 \x00\x1b[31m \ud800",
    "&lt;b&gt; &amp; %s {0}",
]


def record(index: int = 0, **changes: Any) -> SvipRecord:
    puzzle = generate_puzzle(12_345, index, pixels=32)
    blocks = len(puzzle.steps)
    labels = np.ones((blocks, 3), np.float32)
    labels[-1] = (0.5, 0.25, np.nan)
    made = SvipRecord(
        id=f"{puzzle.question.id}#0", family=puzzle.family, question=puzzle.question.text,
        options=tuple(puzzle.question.options), answer=puzzle.answer,
        images=({"puzzle": [12_345, index], "pixels": 32},),
        program=tuple(f"x{i} = {i}" for i in range(blocks)), results=tuple(range(blocks)),
        errors=("",) * (blocks - 1) + ("runtime: no",), steps=puzzle.steps, labels=labels, outcome=index % 2,
        source="program", seed=3, generator=generator_version(), sandbox="monty+bwrap",
    )  # fmt: skip
    return replace(made, **changes)


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_page_holds_everything(tmp_path: Path) -> None:
    made = record()
    page = write_records([made, replace(made, id="twin"), record(1)], tmp_path / "r.html").read_text(encoding="utf-8")
    data = data_of(page)
    shown = data["records"][0]
    assert [s["text"] for s in shown["steps"]] == list(made.steps)
    assert [s["code"] for s in shown["steps"]] == list(made.program)
    assert [s["result"] for s in shown["steps"]] == list(made.results)
    assert [s["error"] for s in shown["steps"]] == list(made.errors)
    assert shown["steps"][-1]["labels"] == [0.5, 0.25, None]
    assert (shown["id"], shown["answer"], shown["outcome"]) == (made.id, made.answer, 0)
    assert [r["pictures"] for r in data["records"]] == [[0], [0], [1]]  # equal pictures are there once
    assert all(p.startswith("data:image/png;base64,") for p in data["pictures"])


def test_steps_without_a_program() -> None:
    made = record(program=(), results=(), errors=(), source="policy:tiny")
    [shown] = data_of(render_records([made]))["records"]
    assert all("code" not in step for step in shown["steps"])


@pytest.mark.parametrize("image", ["gone.png", {"puzzle": [1, 1], "pixels": 8}])
def test_a_picture_that_cannot_be_shown(image: Any) -> None:
    made = record(images=(image,), generator="puzzles-old")
    data = data_of(render_records([made]))
    assert data["pictures"] == [None]


def test_a_picture_file_is_put_into_the_page(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    data = data_of(render_records([record(images=("a.png",), folder=tmp_path)]))
    assert data["pictures"][0].startswith("data:image/png;base64,")


def test_the_page_needs_no_network() -> None:
    page = render_records([record()])
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)=[\"']?(?!data:)[a-z]+:|@import|url\(|fetch\(|XMLHttp", page)


@pytest.mark.parametrize("text", [*NASTY, "x" * 100_000])
def test_foreign_text_is_never_markup(text: str, tmp_path: Path) -> None:
    made = record(id=text, question=text, options=(text,), answer=text, family=text, source=text)
    blocks = len(made.steps)
    made = replace(made, steps=(text,) * blocks, program=(text,) * blocks, errors=(text,) * blocks,
                   results=({"k": [text]},) * blocks)  # fmt: skip
    page = write_records([made], tmp_path / "r.html", title=text).read_text(encoding="utf-8")
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img src=x" not in page
    assert page[page.index('id="data"') : page.index("</script>")].isascii()
    assert data_of(page)["records"][0]["id"] == text.replace("\ud800", "?")


def test_nothing_to_show() -> None:
    assert data_of(render_records([]))["records"] == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("count", [0, 1, 300])
def test_the_page_works_in_a_browser(count: int, tmp_path: Path) -> None:
    nasty = record(question=" ".join(NASTY))
    records = [nasty, *(record(i % 7, id=f"r{i}") for i in range(1, count))][:count]
    page = write_records(records, tmp_path / "r.html")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
             f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,800", "--dump-dom",
             page.as_uri()]  # fmt: skip
    done = subprocess.run([str(CHROMIUM), *flags], capture_output=True, timeout=120, check=True)
    console = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if "CONSOLE" in line]
    document = done.stdout.decode("utf-8", "replace")
    assert console == []
    assert document.count("<script") == 2
    assert len(re.findall(r'role="option"', document)) == count
    assert len(re.findall(r'<li [^>]*aria-selected="true"', document)) == min(count, 1)
    assert document.count('class="card step"') == (len(nasty.steps) if count else 0)
    assert document.count('class="label none"') == min(count, 1)

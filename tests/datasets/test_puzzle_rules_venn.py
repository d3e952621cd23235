"""The rule of the venn family is the rule of the real one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from svip_search.datasets.puzzles.venn import Venn

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "puzzlevqa" / "venn.jsonl"


def test_sampled_puzzles_hold_together():
    family = Venn()
    for seed in range(200):
        instance = family.sample(np.random.default_rng(seed))
        steps = family.steps(instance.facts, instance.question)
        assert steps[-1] == f"answer : {instance.answer}"
        assert instance.answer in instance.options
        assert len(set(instance.options)) == len(instance.options)
        assert family.parse(0, steps[0]) == instance.facts[:3]
        assert family.parse(1, steps[1]) == instance.facts[3:]


@pytest.mark.skipif(not REAL.exists(), reason="the PuzzleVQA evaluation data is not beside the checkout")
def test_real_captions_give_the_real_answers():
    items = [json.loads(line) for line in REAL.read_text(encoding="utf-8").splitlines()]
    assert len(items) == 50
    for item in items:
        circles = re.search(r"numbers \[(.*?)\]", item["caption"]).group(1)
        overlaps = re.findall(r"contains the number (\d+)", item["caption"])
        facts = tuple(f.strip(" '") for f in circles.split(",")) + tuple(overlaps)
        assert Venn().reason(facts, item["question"])[-1] == f"answer : {item['answer']}"

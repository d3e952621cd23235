"""Golden trees pin every strategy's behaviour, node by node.

``SVIP_REGENERATE=1 pytest tests/strategies`` writes them anew, after a change that is meant.
"""

import json
import os
from pathlib import Path

import pytest

from svip_search import Question, Tree
from svip_search.testing import HashPolicy, HashReward, play

FOLDER = Path(__file__).parent.parent / "golden"
QUESTION = Question("Which?", options=["red", "green", "blue"])


def record(config):
    """Return everything a search did, as plain values."""
    search = play(config.start(QUESTION, seed=7), HashPolicy(), HashReward())
    result = search.result()
    tree = search.tree.to_dict()
    tree["value_sum"] = [round(v, 9) for v in tree["value_sum"]]
    return {
        "answer": result.answer,
        "votes": [[v.answer, v.votes, round(v.weight, 9)] for v in result.votes],
        "ends": [t.node for t in result.trajectories],
        "policy_calls": result.usage.policy_calls,
        "reward_calls": result.usage.reward_calls,
        "tree": tree,
    }


def check_golden(name, config):
    """Compare what a strategy does with the golden tree of that name."""
    path = FOLDER / f"{name}.json"
    found = json.loads(json.dumps(record(config)))
    if os.environ.get("SVIP_REGENERATE"):
        path.write_text(json.dumps(found, separators=(",", ":")).replace('],"', '],\n"') + "\n", encoding="utf-8")
    golden = json.loads(path.read_text(encoding="utf-8"))
    nodes = Tree.from_dict(found["tree"]), Tree.from_dict(golden["tree"])
    for node in range(min(map(len, nodes))):  # the first node that differs says most
        found_node, golden_node = (tree.attributes(node) | {"path": tree.path(node)} for tree in nodes)
        assert found_node["path"] == golden_node["path"]
        assert found_node["text"] == golden_node["text"]
        for key in ("status", "visits", "value", "prior", "relevance", "logic", "attribute"):
            expected = golden_node.get(key)
            assert found_node.get(key) == (
                pytest.approx(expected, rel=1e-6) if isinstance(expected, float) else expected
            ), f"node {node}: {key}"
    del found["tree"], golden["tree"]
    for (_, *numbers), (_, *expected) in zip(found["votes"], golden["votes"], strict=True):
        assert numbers == pytest.approx(expected, rel=1e-6)
    del found["votes"], golden["votes"]
    assert found == golden
    assert len(nodes[0]) == len(nodes[1])

"""Trees of chains: equal beginnings stand once, labels are means, questions are held out for good."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from svip_data import records, write_data

from svip_search.datasets.puzzles import generate_puzzle
from svip_search.datasets.svip import RecordError, write_svip
from svip_search.training.step_scorer import forest
from svip_search.training.step_trees import hold_out, read_step_trees, record_of_chain, step_trees

NAN = float("nan")


def chain(steps, labels, outcome=0, source="program"):
    puzzle = generate_puzzle(1, 0, families=["venn"])
    base = record_of_chain(puzzle, steps, source)
    return replace(base, labels=np.array(labels, np.float32), outcome=outcome)


def test_labels_are_means_over_chains_and_missing_ones_count_for_nothing():
    (tree,) = step_trees([
        chain(["a", "b"], [[1, 1, NAN], [1, 0, NAN]], outcome=1),
        chain(["a", "c"], [[0, 1, 0.5], [1, 1, NAN]]),
        chain(["a", "b"], [[0, NAN, NAN], [0, 0, NAN]]),
    ])  # fmt: skip
    assert tree.steps == ("a", "b", "c")
    assert tree.parent.tolist() == [-1, 0, 0]
    np.testing.assert_allclose(tree.labels, [[1 / 3, 1, 0.5], [0.5, 0, NAN], [1, 1, NAN]], rtol=1e-6)
    np.testing.assert_allclose(tree.outcome, [1 / 3, 0.5, 0], rtol=1e-6)
    assert tree.chains == ((0, 1), (0, 2), (0, 1))
    assert tree.path(2) == ("a", "c")


def test_faultless_are_the_nodes_without_a_wrong_step_on_their_path():
    (tree,) = step_trees([
        chain(["a", "b", "c"], [[1, 1, 1], [1, 0.75, NAN], [NAN, NAN, 1]]),
        chain(["a", "d", "e"], [[1, 1, 1], [0.5, 1, NAN], [1, 1, 1]], outcome=1),
        chain(["f"], [[1, 1, 0.9]]),
    ])  # fmt: skip
    assert [s for s, good in zip(tree.steps, tree.faultless, strict=True) if good] == ["a", "b", "c"]


def test_targets_soft_hard_and_outcome():
    (tree,) = step_trees([chain(["a"], [[0.5, 0.75, NAN]], outcome=1)])
    np.testing.assert_array_equal(tree.targets("soft"), [[0.5, 0.75, NAN]])
    np.testing.assert_array_equal(tree.targets("hard"), [[0, 1, NAN]])
    np.testing.assert_array_equal(tree.targets("outcome"), [[1, 1, 1]])


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=5), min_size=1, max_size=8))
@settings(deadline=None, max_examples=40)
def test_every_chain_can_be_read_back(chains):
    (tree,) = step_trees(chain(c, [[1, 1, 1]] * len(c)) for c in chains)
    assert [list(tree.path(nodes[-1])) for nodes in tree.chains] == chains
    assert len({tree.path(n) for n in range(len(tree))}) == len(tree)  # a prefix stands once
    assert all(p < n for n, p in enumerate(tree.parent.tolist()))


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_a_token_follows_the_end_of_its_parent(data):
    trees = []
    for _ in range(data.draw(st.integers(1, 3))):
        lists = data.draw(st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=4), min_size=1, max_size=5))
        trees += step_trees(chain(c, [[1, 1, 1]] * len(c)) for c in lists)
    prompts = [data.draw(st.integers(1, 3)) for _ in trees]
    lengths = [[data.draw(st.integers(1, 3)) for _ in range(len(t))] for t in trees]
    found = forest(trees, prompts, lengths)
    owner = np.repeat(np.arange(len(found.parent)), np.diff(found.token_ptr))
    assert len(found.nodes) == sum(map(len, trees))
    for token, before in enumerate(found.before):
        node = owner[token]
        if token > found.token_ptr[node]:
            assert before == token - 1
        elif found.parent[node] < 0:
            assert before == -1
        else:
            assert before == found.token_ptr[found.parent[node] + 1] - 1


def test_validation_questions_are_no_training_questions(tmp_path):
    data = write_data(tmp_path / "data", n=200, chains=2)
    training, validation = hold_out(read_step_trees([data]))
    assert len(training) + len(validation) == 200
    assert 0 < len(validation) < 30
    assert not {t.record.images[0]["puzzle"][1] for t in training} & {
        t.record.images[0]["puzzle"][1] for t in validation
    }
    beside = hold_out(training[:50] + validation)  # whatever it stands beside
    assert {id(t) for t in beside[1]} == {id(t) for t in validation}


def test_of_few_questions_one_is_held_out():
    trees = step_trees(records(5, chains=2))
    training, validation = hold_out(trees)
    assert (len(training), len(validation)) == (4, 1)
    with pytest.raises(ValueError, match="at least 2 questions"):
        hold_out(trees[:1])


def test_a_folder_gives_its_training_files_only(tmp_path):
    data = write_data(tmp_path / "data", n=12)
    assert {t.record.seed for t in read_step_trees([data])} == {4}
    assert {t.record.seed for t in read_step_trees([data / "test-00000.jsonl"])} == {5}


def test_a_cut_record_is_named_or_counted(tmp_path):
    data = write_data(tmp_path / "data", n=12)
    file = data / "train-00000.jsonl"
    text = file.read_bytes()
    file.write_bytes(text[: len(text) - 40])
    with pytest.raises(RecordError, match=r"train-00000\.jsonl, line 36: .*The line is cut"):
        read_step_trees([data])
    skipped: Counter[str] = Counter()
    trees = read_step_trees([data], skipped=skipped)
    assert sum(len(t.chains) for t in trees) == 35
    assert sum(skipped.values()) == 1


def test_nothing_usable_is_said(tmp_path):
    write_svip(records(3), tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="`data` must hold usable records"):
        read_step_trees([tmp_path / "a.jsonl"], keep=lambda record: False)

"""The states on disk are those that evaluation sees, survive a kill, and are never those of something else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from any_backbone import FAMILIES, file_records, puzzle_trees, tiny

from svip_search._errors import TrainingError
from svip_search.rewards.svip_reward import SvipReward
from svip_search.training.hidden_states import HiddenStateCache, fingerprint, tree_key
from svip_search.training.step_trees import step_trees


@pytest.fixture(scope="module")
def nano():
    return SvipReward(*tiny("puzzle"))


@pytest.fixture(scope="module")
def trees():
    return puzzle_trees(3)


def whole_path(reward, tree, node):
    """The last hidden states of a path, computed by the reward model for this path alone."""
    path = tree.path(node)
    found = reward.hidden_states(tree.question(), [path])
    return torch.cat([found[path[:i]].hidden for i in range(len(path) + 1)])


@pytest.mark.parametrize("family", [*FAMILIES, "puzzle"])
def test_states_are_those_of_every_path_alone(family, tmp_path):
    reward = SvipReward(*tiny(family))
    (tree, *_) = puzzle_trees(1) if family == "puzzle" else step_trees(file_records(tmp_path))
    cache = HiddenStateCache(tmp_path / "states", reward, "float32")
    assert cache.fill([tree]) == 1
    states = cache.read(tree)
    assert states.surprise[: states.token_ptr[1]].abs().max() == 0
    assert states.surprise[states.token_ptr[1] :].min() > 0
    for node in range(len(tree)):
        path, up = [], node
        while up >= 0:
            path.append(up)
            up = int(tree.parent[up])
        rows = [0, *(n + 1 for n in reversed(path))]
        mine = torch.cat([states.hidden[states.token_ptr[r] : states.token_ptr[r + 1]] for r in rows])
        torch.testing.assert_close(mine, whole_path(reward, tree, node), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.0), ("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_rounding_is_what_is_stated(nano, trees, dtype, error, tmp_path):
    cache = HiddenStateCache(tmp_path, nano, dtype)
    cache.fill(trees[:1])
    found = cache.read(trees[0])
    exact = nano.hidden_states(trees[0].question(), [trees[0].path(n) for n in range(len(trees[0]))])
    wanted = torch.cat([exact[()].hidden, *(exact[trees[0].path(n)].hidden for n in range(len(trees[0])))])
    assert ((found.hidden - wanted).abs() <= error * wanted.abs() + 1e-7).all()


def test_only_what_is_missing_is_computed(nano, trees, tmp_path, monkeypatch):
    said = []
    assert HiddenStateCache(tmp_path, nano).fill(trees[:2], lambda *a: said.append(a)) == 2
    assert said[0][:2] == (0, 2)
    assert said[-1][:2] == (2, 2)
    assert "MB" in said[-1][2]
    again = HiddenStateCache(tmp_path, nano)
    assert again.missing([*trees, *trees]) == [trees[2]]
    calls = []
    read = nano.hidden_states
    monkeypatch.setattr(nano, "hidden_states", lambda *a: calls.append(a) or read(*a))
    assert again.fill([*trees, *trees]) == 1
    assert len(calls) == 1
    assert torch.equal(again.read(trees[0]).hidden, HiddenStateCache(tmp_path, nano).read(trees[0]).hidden)


def test_estimate_is_what_is_written(nano, trees, tmp_path):
    cache = HiddenStateCache(tmp_path, nano)
    expected = cache.estimate(trees)
    cache.fill(trees)
    written = sum(p.stat().st_size for p in tmp_path.iterdir())
    assert expected.trees == 3
    assert expected.trajectories == 12
    assert expected.tokens == sum(len(cache.read(t).segment) for t in trees)
    assert expected.bytes <= written < 1.1 * expected.bytes + 4096
    assert cache.estimate([]).bytes == 0


def test_a_fault_keeps_what_was_done(nano, trees, tmp_path, monkeypatch):
    read, calls = nano.hidden_states, []

    def faulty(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return read(*args)

    monkeypatch.setattr(nano, "hidden_states", faulty)
    with pytest.raises(KeyboardInterrupt):
        HiddenStateCache(tmp_path, nano).fill(trees)
    assert len(HiddenStateCache(tmp_path, nano).missing(trees)) == 1


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from any_backbone import puzzle_trees, tiny
from svip_search.rewards.svip_reward import SvipReward  # noqa: E402
from svip_search.training.hidden_states import HiddenStateCache  # noqa: E402
cache = HiddenStateCache({folder!r}, SvipReward(*tiny("puzzle")), shard_bytes=1)
cache.fill(puzzle_trees(40))
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_process_leaves_whole_shards(tmp_path):
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 300
        while len(list(tmp_path.glob("states-*"))) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    trees, cache = puzzle_trees(40), HiddenStateCache(tmp_path, SvipReward(*tiny("puzzle")))
    missing = cache.missing(trees)
    assert 0 < len(missing) <= 36
    done = trees[: len(trees) - len(missing)]
    assert all(bool(torch.isfinite(cache.read(t).hidden).all()) for t in done)
    assert cache.fill(trees[: len(done) + 2]) == 2


@pytest.mark.parametrize("size", [0, 7, 200, -1])
def test_a_cut_shard_is_written_again(nano, trees, size, tmp_path):
    HiddenStateCache(tmp_path, nano).fill(trees[:1])
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    cache = HiddenStateCache(tmp_path, nano)
    assert cache.fill(trees[:1]) == 1
    assert path.stat().st_size == len(whole)
    assert torch.isfinite(cache.read(trees[0]).hidden).all()


def test_files_of_others_are_left_alone(nano, trees, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    (tmp_path / "states-x.safetensors").write_bytes(b"cut")
    HiddenStateCache(tmp_path, nano).fill(trees[:1])
    assert (tmp_path / "model.safetensors").read_bytes() == b"mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_states_of_another_backbone_are_refused(nano, trees, tmp_path):
    HiddenStateCache(tmp_path, nano).fill(trees[:1])
    other = SvipReward(*tiny("puzzle", seed=5))
    with pytest.raises(TrainingError, match=r"must hold hidden states of backbone '\w+'; states-.* has '\w+' \(use"):
        HiddenStateCache(tmp_path, other).fill(trees[:1])
    with pytest.raises(TrainingError, match=r"must hold hidden states of dtype 'float32'; .* has 'float16'"):
        HiddenStateCache(tmp_path, nano, "float32").fill(trees[:1])


def test_fingerprint_tells_one_weight_and_the_way_to_prompt():
    backbone, processor, _ = tiny("llava")
    before = fingerprint(backbone, processor)
    assert fingerprint(*tiny("llava")[:2]) == before
    weight = backbone.get_input_embeddings().weight
    with torch.no_grad():
        weight[3, 5] += 1e-3
    assert fingerprint(backbone, processor) != before
    with torch.no_grad():
        weight[3, 5] -= 1e-3
    processor.wants_instructions = False
    assert fingerprint(backbone, processor) != before


def test_tree_key_tells_pictures_and_steps_but_not_labels(tmp_path):
    records = file_records(tmp_path, 1)
    (tree,) = step_trees(records)
    flipped = [type(r)(**{**vars(r), "labels": 1 - r.labels}) for r in records]
    assert tree_key(step_trees(flipped)[0]) == tree_key(tree)
    assert tree_key(step_trees(records[:-1])[0]) != tree_key(tree)
    picture = tmp_path / "0.png"
    before, stat = tree_key(tree), picture.stat()
    os.utime(picture, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
    assert tree_key(tree) != before


def test_wrong_arguments_and_numbers_are_named(nano, trees, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"`dtype` must be one of \['float16', .*got 'int8'"):
        HiddenStateCache(tmp_path, nano, "int8")
    read = nano.hidden_states
    huge = {}

    def large(*args):
        for prefix, states in read(*args).items():
            huge[prefix] = type(states)(states.hidden * 1e6, states.surprise, states.segments)
        return huge

    monkeypatch.setattr(nano, "hidden_states", large)
    with pytest.raises(TrainingError, match=r"must be finite in torch.float16; .* \(bfloat16 and float32 hold more\)"):
        HiddenStateCache(tmp_path, nano).fill(trees[:1])


def test_a_full_disk_is_refused_before_the_work(nano, trees, tmp_path, monkeypatch):
    real = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((real.f_bsize, real.f_frsize, 1, 0, 0, *real[5:])))
    with pytest.raises(TrainingError, match=r"must have room for 3 trees, .* the disk has 0.0 MB left"):
        HiddenStateCache(tmp_path, nano).fill(trees)


def test_pictures_of_a_data_set_that_was_moved_have_the_same_key(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (tree, *_) = step_trees(file_records(old))
    key = tree_key(tree)
    old.rename(new)
    moved = [type(r)(**{**vars(r), "folder": new}) for r in file_records_of(tree, new)]
    assert tree_key(step_trees(moved)[0]) == key


def file_records_of(tree, folder):
    """The records of a tree's chains, as if read from ``folder``."""
    for chain in tree.chains:
        steps = tuple(tree.steps[n] for n in chain)
        labels = np.zeros((len(steps), 3), np.float32)
        yield type(tree.record)(**{**vars(tree.record), "steps": steps, "labels": labels, "folder": folder})

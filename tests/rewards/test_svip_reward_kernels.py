"""Whole searches with the embedded models: the C++ core takes the same course as the reference, and keeps no memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from svip_search import Budget, ProposeRequest, generate_puzzle, kernels, solve
from svip_search.models.zoo import load_policy, load_reward
from svip_search.rewards import _triatt_memory
from svip_search.rewards._triatt_memory import PagedMemory, TensorMemory
from svip_search.strategies import make

BACKENDS = ("auto", "reference")
STRATEGIES = ("best-of-n", "weighted", "beam", "mcts")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def policy():
    return load_policy("puzzle-nano")


@pytest.fixture(scope="module")
def rewards():
    return {backend: load_reward("svip-tiny", backend=backend) for backend in BACKENDS}


def pages_of(reward) -> int:
    """Return the pages that the kept nodes of a reward model need: every node on the way to a kept one."""
    needed = set()
    for node in reward._trie:
        if node.kv is not None:
            needed |= set(node.path())
    return sum(-(-len(node.ids) // 16) for node in needed)


def pages_in_use(reward) -> int:
    return reward._memory._pool.pages_in_use


def wild_paths(seed: int):
    """Return a puzzle's question, and right and wrong paths that share beginnings."""
    puzzle, other = generate_puzzle(seed=seed, index=0), generate_puzzle(seed=seed, index=1)
    right, wrong = puzzle.steps, other.steps
    mixed = [(*right[:i], *wrong[j:]) for i in range(len(right) + 1) for j in range(len(wrong))]
    return puzzle.question, [right, wrong, *mixed]


# Temperature 2: at 1 the policy is so sure of itself that its trees are chains.
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("name", STRATEGIES)
def test_searches_take_the_same_course(policy, rewards, name, index):
    question = generate_puzzle(seed=7, index=index).question
    found, calls = [], []
    for backend, reward in rewards.items():
        reward.clear()
        kernels.reset_counts()
        strategy = make(name, n=9, temperature=2.0, max_depth=10)
        found.append(solve(question, policy, reward, strategy, Budget(nodes=60), seed=3))
        ((ran, n),) = kernels.counts()["triatt"].items()
        assert ran == ("cpu" if backend == "auto" else "reference")
        calls.append(n)
    assert calls[0] == calls[1] >= (5 if name in ("beam", "mcts") else 1)
    assert isinstance(rewards["auto"]._memory, PagedMemory)
    assert isinstance(rewards["reference"]._memory, TensorMemory)

    fast, slow = found
    assert len(fast.tree) > 15
    assert fast.answer == slow.answer
    assert (fast.stopped_by, fast.degraded) == (slow.stopped_by, slow.degraded)
    assert fast.tree.text == slow.tree.text
    for column in ("parent", "visits", "status"):
        assert np.array_equal(getattr(fast.tree.arena, column), getattr(slow.tree.arena, column))
    assert np.isfinite(fast.tree.arena.reward).any()
    np.testing.assert_allclose(fast.tree.arena.reward, slow.tree.arena.reward, rtol=0, atol=1e-5)  # NaN alike
    assert [t.text for t in fast.trajectories] == [t.text for t in slow.trajectories]
    assert fast.trajectory.text == slow.trajectory.text
    np.testing.assert_allclose(fast.trajectory.score, slow.trajectory.score, rtol=0, atol=1e-4)
    assert [(v.answer, v.votes) for v in fast.votes] == [(v.answer, v.votes) for v in slow.votes]
    assert fast.usage.reward_tokens == slow.usage.reward_tokens


def test_rewards_are_the_same_however_the_paths_come(rewards):
    question, paths = wild_paths(seed=11)
    for reward in rewards.values():
        reward.clear()
    wanted = rewards["reference"].evaluate(question, paths)
    assert np.ptp(np.concatenate(wanted), axis=0).max() > 0.5  # right and wrong steps are told apart
    at_once = rewards["auto"].evaluate(question, paths)
    rewards["auto"].clear()
    one_by_one = [rewards["auto"].evaluate(question, [path])[0] for path in reversed(paths)][::-1]
    for found in (at_once, one_by_one):
        for a, b in zip(found, wanted, strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=0, atol=3e-5)


@pytest.mark.parametrize("cache_tokens", [0, 200, 600])
def test_pages_go_back_when_the_cache_evicts(rewards, cache_tokens):
    small = load_reward("svip-tiny", cache_tokens=cache_tokens)
    large = rewards["auto"]
    large.clear()
    most = 0
    for seed in (1, 2):
        question, paths = wild_paths(seed)
        for some in (paths[:5], paths[3:6], paths[20:24]):
            found = small.evaluate(question, some)
            for a, b in zip(found, large.evaluate(question, some), strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
            assert pages_in_use(small) == pages_of(small)
            most = max(most, pages_in_use(small))
    assert pages_in_use(large) == pages_of(large) > most
    assert small._trie.tokens <= cache_tokens
    if cache_tokens == 0:
        assert most == 0
    pool = small._memory._pool
    small.clear()
    assert pool.pages_in_use == 0


def test_memory_does_not_grow_with_the_number_of_questions(rewards):
    small, large = load_reward("svip-tiny", cache_tokens=400), rewards["auto"]
    large.clear()
    taken = []
    for seed in range(20, 34):
        question, paths = wild_paths(seed)
        for reward in (small, large):
            reward.evaluate(question, paths[1:3])
        taken.append(small._memory._pool.bytes)
    assert len(set(taken[5:])) == 1
    assert 2 * taken[-1] < large._memory._pool.bytes


def test_pages_go_back_when_a_question_is_forgotten():
    reward = load_reward("svip-tiny")
    puzzles = [wild_paths(seed) for seed in (40, 41, 42)]
    reward.evaluate_many([(question, paths[:6]) for question, paths in puzzles])
    assert pages_in_use(reward) == pages_of(reward)
    for question, _ in puzzles:
        before = pages_in_use(reward)
        reward.forget(question)
        assert pages_in_use(reward) == pages_of(reward) < before
    assert pages_in_use(reward) == len(reward._trie) == reward._trie.tokens == 0


def test_questions_in_several_trees(monkeypatch, rewards):
    monkeypatch.setattr(_triatt_memory, "TREE_NODES", 8)
    small, large = load_reward("svip-tiny"), rewards["auto"]
    large.clear()
    items = [(question, paths[:4]) for question, paths in map(wild_paths, (50, 51, 52))]
    for item in items[:2]:
        small.evaluate(*item)
    kernels.reset_counts()
    found = small.evaluate_many([(question, [("a new step",), *paths]) for question, paths in items])
    assert kernels.counts()["triatt"]["cpu"] > 1
    for (question, paths), (_, *known) in zip(items, found, strict=True):
        for a, b in zip(known, large.evaluate(question, paths), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=3e-5)


class Looks:
    """Counts the pictures that went through the eye of a model."""

    def __init__(self, model) -> None:
        self.count = 0
        self.handle = model.model.eye.register_forward_hook(self.see)

    def see(self, module, inputs, output) -> None:
        self.count += len(inputs[0])


@pytest.mark.parametrize("merged", [True, False])
def test_a_picture_is_encoded_once_however_many_searches_are_open(merged):
    questions = [generate_puzzle(seed=5, index=i).question for i in range(48)]
    capacity = len(questions) * 105  # a prompt has up to 93 tokens
    policy = load_policy("puzzle-nano", cache_tokens=capacity)
    reward = load_reward("svip-tiny", cache_tokens=capacity)
    seen = {model: Looks(inner) for model, inner in ((policy, policy.model), (reward, reward.backbone))}
    paths = [[()] for _ in questions]
    everything = list(range(len(questions)))
    for depth in range(3):
        for group in [everything] if merged else [[i] for i in everything]:
            asked = [(i, p) for i in group for p in paths[i]]
            answers = policy.propose([ProposeRequest(questions[i], p, 4, depth, 2.0) for i, p in asked])
            for i in group:
                paths[i] = []
            for (i, prefix), steps in zip(asked, answers, strict=True):
                paths[i] += [(*prefix, step.text) for (step,) in steps if not step.finished]
            reward.evaluate_many([(questions[i], paths[i]) for i in group])
            for i in group:
                paths[i] = paths[i][:5]
    for model, looks in seen.items():
        looks.handle.remove()
        assert looks.count == len(questions)
        known = list(model._trie)
        assert any(node.parent is not None and node.kv is None for node in known)  # steps did have to go
        assert all(node.kv is not None for node in known if node.parent is None)
        assert model._trie.tokens <= capacity

"""GRPO: advantages, log-probabilities, the loss, and that a run resumes as if it had never stopped."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search import TrainingError, generate_puzzle, list_models, load_policy
from svip_search.rewards.rl_reward import answer_reward
from svip_search.training.data import encode
from svip_search.training.grpo import (
    GrpoConfig,
    _credit,
    advantages,
    evaluate_policy,
    log_probs,
    policy_loss,
    sample,
    step_advantages,
    train_grpo,
)

pytestmark = pytest.mark.skipif(
    "puzzle-nano" not in {m.name for m in list_models()}, reason="the embedded weights are not there"
)


@pytest.fixture(scope="module")
def policy():
    return load_policy("puzzle-nano", cache_tokens=0)


@pytest.fixture(scope="module")
def drawn(policy):
    puzzles = [generate_puzzle(6, i, families=["venn", "triangle"]) for i in range(3)]
    return sample(policy, puzzles, 3, 1.0, seed=5)


def config(folder, **options):
    small = {"prompts": 2, "group": 2, "batch": 1, "steps": 2, "epochs": 1, "eval_every": 1, "eval_puzzles": 1,
             "eval_samples": 1, "families": ("venn",)}  # fmt: skip
    return GrpoConfig(policy="puzzle-nano", out=str(folder), **(small | options))


def length_reward(prompts, completions, **columns):
    """Give every completion of a group another reward, whatever the policy says."""
    return [i % 2 + len(c) / 1000 for i, c in enumerate(completions)]


# ---- advantages --------------------------------------------------------------------------------


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=6), min_size=1, max_size=6))
@settings(deadline=None)
def test_advantages_sum_to_zero_in_every_group(groups):
    group = np.array([g for g, rewards in enumerate(groups) for _ in rewards])
    found = advantages(np.array([r for rewards in groups for r in rewards]), group)
    assert np.bincount(group, found) == pytest.approx(np.zeros(len(groups)), abs=1e-6)
    assert np.isfinite(found).all()


def test_equal_rewards_have_no_advantage_and_missing_ones_do_not_count():
    assert not advantages(np.full(4, 0.3), np.array([0, 0, 1, 1])).any()
    assert not advantages(np.full(4, math.nan), np.array([0, 0, 1, 1])).any()
    found = advantages(np.array([1.0, math.nan, 0.0]), np.zeros(3, int))
    assert found.tolist() == [1.0, 0.0, -1.0]


def test_small_differences_stay_small_beside_large_ones():
    found = advantages(np.array([1.0, 0.0, 0.501, 0.5]), np.array([0, 0, 1, 1]))
    assert abs(found[2] / found[0]) == pytest.approx(0.001, rel=1e-6)


# ---- log-probabilities -------------------------------------------------------------------------


def test_recomputed_log_probabilities_are_those_of_the_sampler(policy, drawn):
    assert drawn.exact.mean() > 0.5
    chunk = encode(drawn.puzzles, policy.processor)
    completions = [[drawn.ids[i] for i in np.flatnonzero(drawn.group == g)] for g in range(3)]
    with torch.no_grad():
        found, mask = log_probs(policy.model, chunk, [0, 1, 2], completions)
    assert mask.sum(1).tolist() == [len(i) for i in drawn.ids]
    sums = (found * mask).sum(1).numpy()
    assert sums[drawn.exact] == pytest.approx(drawn.log_prob[drawn.exact], abs=1e-3)


def test_the_completions_of_a_puzzle_do_not_see_each_other(policy, drawn):
    chunk = encode(drawn.puzzles, policy.processor)
    ids = [drawn.ids[i] for i in np.flatnonzero(drawn.group == 1)]
    with torch.no_grad():
        together, mask = log_probs(policy.model, chunk, [1], [ids], temperature=0.7)
        for i, one in enumerate(ids):
            alone, _ = log_probs(policy.model, chunk, [1], [[one]], temperature=0.7)
            torch.testing.assert_close(together[i][mask[i]], alone[0], atol=1e-4, rtol=1e-4)


def test_the_same_seed_samples_the_same(policy, drawn):
    again = sample(policy, drawn.puzzles, 3, 1.0, seed=5)
    assert again.texts == drawn.texts
    assert sample(policy, drawn.puzzles, 3, 1.0, seed=6).texts != drawn.texts


# ---- the loss ----------------------------------------------------------------------------------


def test_the_gradient_raises_the_better_completion():
    torch.manual_seed(0)
    logits = torch.zeros(4, requires_grad=True)  # four completions of one token
    old = logits.log_softmax(-1)[:, None].detach()
    mask = torch.ones(4, 1, dtype=torch.bool)
    advantage = torch.tensor([1.0, -1.0, 0.0, 0.0])[:, None]
    for _ in range(5):
        loss, _ = policy_loss(logits.log_softmax(-1)[:, None], old, None, advantage, mask, 0.2, 0.0)
        (gradient,) = torch.autograd.grad(loss, logits)
        with torch.no_grad():
            logits -= 0.5 * gradient
    new = logits.softmax(-1)
    assert new[0] > 0.25 > new[1]
    assert new[2].item() == pytest.approx(new[3].item())


def test_beyond_the_clip_there_is_no_gradient():
    old, mask = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
    for gap, advantage, moves in ((0.5, 1.0, False), (0.5, -1.0, True), (-0.5, -1.0, False), (-0.5, 1.0, True)):
        new = torch.full((1, 1), gap, requires_grad=True)
        loss, _ = policy_loss(new, old, None, torch.tensor([[advantage]]), mask, 0.2, 0.0)
        loss.backward()
        assert bool(new.grad.any()) is moves


def test_the_divergence_is_zero_at_the_reference_and_pulls_back_to_it():
    mask, advantage = torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2)
    new = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    loss, kl = policy_loss(new, new.detach(), torch.tensor([[-1.0, -1.0]]), advantage, mask, 0.2, 0.5)
    assert kl.item() == pytest.approx(0.25)
    loss.backward()
    assert new.grad[0, 0] == 0 > new.grad[0, 1]  # the token that became too unlikely is to rise


def test_tokens_outside_the_mask_do_not_count():
    new = torch.randn(2, 3).requires_grad_()
    mask = torch.tensor([[True, True, False], [True, False, False]])
    loss, _ = policy_loss(
        new, new.detach(), torch.zeros(2, 3), torch.tensor([[1.0], [-1.0]]).expand(2, 3), mask, 0.2, 0.1
    )
    loss.backward()
    assert not new.grad[~mask].any()


# ---- credit for steps --------------------------------------------------------------------------


def test_steps_are_compared_with_the_steps_of_their_group_at_their_place():
    values = [np.array([1.0, 0.2]), np.array([0.0, 0.2]), np.array([0.9]), None, np.array([0.3, 0.8, 0.8])]
    group = np.array([0, 0, 1, 1, 1])
    found = step_advantages(values, group)
    assert [len(f) for f in found] == [2, 2, 1, 0, 3]
    assert found[0][0] == -found[1][0] > 0
    assert found[0][1] == found[1][1] == 0  # equal at that place
    assert found[2][0] == pytest.approx(-found[4][0])
    assert found[2][0] > 0
    assert found[4][1] == found[4][2] == 0  # nothing to compare with
    scale = np.concatenate(found)
    assert np.sqrt((scale**2).mean()) == pytest.approx(1)


def test_every_token_of_a_step_gets_what_the_step_gets(drawn):
    values = [np.arange(len(sizes), dtype=float) for sizes in drawn.sizes]
    for spread, ids, sizes, exact in zip(drawn.spread(values), drawn.ids, drawn.sizes, drawn.exact, strict=True):
        assert len(spread) == len(ids)
        if exact:
            ends = np.cumsum(sizes)
            assert all(
                (spread[end - size : end - 1] == i).all() for i, (end, size) in enumerate(zip(ends, sizes, strict=True))
            )
            assert spread[-1] == len(sizes) - 1  # what ends the chain belongs to its last step
    assert [set(s.tolist()) for s in drawn.spread([2.0] * len(drawn.ids))] == [{2.0}] * len(drawn.ids)


def test_a_fault_is_laid_to_its_step_alone(policy, drawn):
    class Fault:
        """Values every second step of the first completion of a puzzle less than those of the others."""

        __name__ = "fault"

        def __call__(self, prompts, completions, **columns):
            return [0.5] * len(completions)

        def step_values(self, prompts, completions, **columns):
            lengths = [text.count("\n") + 1 for text in completions]
            return [np.where(np.arange(n) == 1, float(i % 3 > 0), 0.5) for i, n in enumerate(lengths)]

    run = SimpleNamespace(config=GrpoConfig(credit="step"), rewards=[Fault()], weights=np.array([1.0]))
    credit = _credit(run, drawn, np.full((len(drawn.ids), 1), 0.5), np.full(len(drawn.ids), 0.5))
    for i, (found, sizes) in enumerate(zip(credit, drawn.sizes, strict=True)):
        second = slice(sizes[0], sizes[0] + sizes[1])
        assert (found[second] < 0).all() if i % 3 == 0 else (found[second] > 0).all()
        assert not found[: sizes[0]].any()
        assert not found[sizes[0] + sizes[1] :].any()


# ---- the run -----------------------------------------------------------------------------------


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def records(folder):
    lines = (folder / "training.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path):
    train_grpo(config(tmp_path / "unbroken"), [length_reward])
    train_grpo(config(tmp_path / "broken", steps=1), [length_reward])
    with open(tmp_path / "broken" / "training.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 2, "lost": true}\n')  # logged after the last checkpoint
    train_grpo(config(tmp_path / "broken"), [length_reward])
    assert weights(tmp_path / "broken") == weights(tmp_path / "unbroken")
    assert records(tmp_path / "broken") == records(tmp_path / "unbroken")
    assert [r["step"] for r in records(tmp_path / "unbroken")] == [0, 1, 2]
    with pytest.raises(TrainingError, match="other settings"):
        train_grpo(config(tmp_path / "broken", learning_rate=1.0), [length_reward])


def test_a_few_puzzles_are_learnt_by_heart(tmp_path, monkeypatch):
    from svip_search.training import grpo

    draw = grpo._puzzle
    monkeypatch.setattr(grpo, "_puzzle", lambda config, seed, index: draw(config, seed, index % config.prompts))
    options = {"prompts": 3, "group": 12, "batch": 3, "steps": 8, "epochs": 2, "eval_every": 8, "eval_samples": 0}
    out = train_grpo(config(tmp_path, families=("triangle", "venn"), seed=3, kl_weight=0.0, train="all",
                            learning_rate=5e-4, **options), [answer_reward])  # fmt: skip
    right = [r["right"] for r in records(out) if "right" in r]
    assert right[-1] > right[0] + 0.2


def test_the_eye_stays_as_it_was_unless_asked(tmp_path, policy):
    out = train_grpo(config(tmp_path, steps=1), [length_reward])
    before, after = policy.model.state_dict(), load_policy(str(out)).model.state_dict()
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert {name for name in before if ".eye." in name} <= same
    assert len(same) < len(before)


def test_scales_of_normalisations_can_be_all_that_learns(tmp_path, policy):
    out = train_grpo(config(tmp_path, steps=1, train="norms", learning_rate=1e-2), [length_reward])
    before, after = policy.model.state_dict(), load_policy(str(out)).model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed
    assert all("norm" in name and "language_model" in name for name in changed)


def test_equal_rewards_leave_the_weights_alone(tmp_path, policy):
    out = train_grpo(config(tmp_path, steps=1), [lambda completions, **_: [0.5] * len(completions)])
    trained = load_policy(str(out)).model.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in policy.model.state_dict().items())


def test_a_loss_that_is_no_number_is_refused_and_nothing_is_saved(tmp_path, monkeypatch):
    from svip_search.training import grpo

    broken = grpo.policy_loss
    monkeypatch.setattr(grpo, "policy_loss", lambda *a: tuple(x * math.nan for x in broken(*a)))
    with pytest.raises(TrainingError, match=r"loss of step 0 must be finite; got nan .* `learning_rate` below 0.0001"):
        train_grpo(config(tmp_path), [length_reward])
    assert not (tmp_path / "checkpoint.pt").exists()


def test_rewards_that_are_not_finite_or_too_few_are_refused(tmp_path):
    with pytest.raises(TrainingError, match="rewards of step 0 must be finite; got inf"):
        train_grpo(config(tmp_path, eval_samples=0), [lambda completions, **_: [math.inf] * len(completions)])

    def too_few(**columns):
        return length_reward(**columns)[:-1]

    with pytest.raises(TrainingError, match="`too_few` must return 4 rewards; got 3"):
        train_grpo(config(tmp_path, eval_samples=0), [too_few])


def test_an_evaluation_counts_right_answers(policy):
    puzzles = [generate_puzzle(6, i, families=["size_grid"]) for i in range(3)]
    report = evaluate_policy(policy, puzzles, [answer_reward], n=2)
    assert report["greedy"] == np.mean(report["greedy_right"]) == 1.0
    assert report["rewards"]["answer_reward"] == pytest.approx(report["sampled"])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"group": 1}, "`group` must be at least 2"), ({"steps": 0}, "`steps` must be at least 1; got 0"),
     ({"clip": 0.0}, "`clip` must be positive"), ({"kl_weight": math.nan}, "`kl_weight` and `eval_samples`"),
     ({"families": ("tangram",)}, "`families` must name families")],
)  # fmt: skip
def test_wrong_settings_are_named(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **options)


def test_a_weight_for_every_function(tmp_path):
    with pytest.raises(ValueError, match="one weight a reward function, 1; got 2"):
        train_grpo(config(tmp_path, reward_weights=(1.0, 0.0)), [length_reward])


def test_the_example_writes_record_and_figure(tmp_path, capsys):
    if "svip-tiny" not in {m.name for m in list_models()}:
        pytest.skip("the embedded weights are not there")
    pytest.importorskip("matplotlib")
    path = Path(__file__).resolve().parents[2] / "examples" / "grpo.py"
    spec = importlib.util.spec_from_file_location("grpo_example", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    assert example.main(["--quick", "--arms", "outcome", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "grpo.json").read_text(encoding="utf-8"))
    curve = record["arms"]["outcome"]["curve"]
    assert [p["completions"] for p in curve] == [0, 8, 16]
    assert all(p["greedy_ci95"][0] <= p["greedy"] <= p["greedy_ci95"][1] for p in curve)
    assert (tmp_path / "grpo.png").stat().st_size > 5_000
    assert "outcome  sampled" in capsys.readouterr().out

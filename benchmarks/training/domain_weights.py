"""Measure whether learned domain weights find a domain whose labels are wrong, and what that is worth.

``python benchmarks/training/domain_weights.py`` trains heads on the hidden states of the embedded backbone
puzzle-nano.  The training questions are of several families of puzzles, a domain each, and of one more domain,
``noisy``: further questions of the same families, of which the labels are flipped, or shuffled among the steps.
Trusted questions and test questions have right labels.  Two trainings a kind of noise (one is none) and seed, with
equal and with learned weights, and for comparison one without the noisy domain.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]  # benchmarks are no package

from timing import write_record  # noqa: E402

from svip_search.datasets.puzzles import generate_puzzle  # noqa: E402
from svip_search.datasets.puzzles.labels import corrupt  # noqa: E402
from svip_search.datasets.svip import SvipRecord  # noqa: E402
from svip_search.evaluation.metrics import auroc  # noqa: E402
from svip_search.models.zoo import model_folder  # noqa: E402
from svip_search.rewards._triatt_cot import TriAttCoT  # noqa: E402
from svip_search.rewards.svip_reward import read_backbone  # noqa: E402
from svip_search.training.domain_weights import DomainWeights  # noqa: E402
from svip_search.training.frozen_scorer import FrozenScorer  # noqa: E402
from svip_search.training.step_trees import StepTree, record_of_chain, step_trees  # noqa: E402

FAMILIES = ("venn", "color_hexagon", "shape_size_grid", "rectangle_height_number")
NOISY = "noisy"
#: Questions a domain, of the trusted set and of the test; the noisy domain has as many as all others together.
QUESTIONS, TRUSTED, TESTED = 30, 32, 64
BATCH, EPOCHS, RATE, META_EVERY, META_RATE = 16, 8, 3e-3, 2, 0.05
SEEDS = 2


def records(seed: int, first: int, count: int, families: Sequence[str]) -> Iterator[SvipRecord]:
    """Yield chains about generated puzzles: one right and three corrupted a puzzle."""
    for i in range(first, first + count):
        puzzle = generate_puzzle(seed, i, families=families)
        rng = np.random.default_rng([seed, i])
        for chain in (puzzle.steps, *(corrupt(puzzle, rng) for _ in range(3))):
            yield record_of_chain(puzzle, chain)


def spoiled(found: Sequence[SvipRecord], noise: str, seed: int) -> list[SvipRecord]:
    """Return copies in the domain `NOISY` with wrong labels."""
    rng = np.random.default_rng(seed)
    wrong = {"flipped": lambda a: 1 - a, "shuffled": lambda a: rng.permutation(pool)[: len(a)], "none": lambda a: a}
    pool = np.concatenate([record.labels for record in found])
    return [replace(r, labels=wrong[noise](r.labels), extra={"domain": NOISY}) for r in found]


def loss_of(logits: Tensor, trees: Sequence[StepTree], weights: Tensor | None = None) -> Tensor:
    """Return the mean binary cross-entropy of the known labels, trees weighted."""
    targets = torch.from_numpy(np.concatenate([tree.labels for tree in trees]))
    known = ~torch.isnan(targets)
    each = functional.binary_cross_entropy_with_logits(logits, targets.nan_to_num(), reduction="none") * known
    if weights is not None:
        each = each * weights.repeat_interleave(torch.tensor([len(tree) for tree in trees]))[:, None]
    return each.sum() / known.sum()


def trained(
    scorer: FrozenScorer, training: list[StepTree], trusted: list[StepTree], learn: bool, seed: int,
    epochs: int = EPOCHS,
) -> DomainWeights:  # fmt: skip
    """Train the head of a scorer and return the weights of the domains."""
    (optimizer,) = scorer.make_optimizers(RATE, RATE)
    weights = DomainWeights(sorted({tree.domain for tree in training}), META_RATE)
    rng = np.random.default_rng(seed)
    scorer.train()
    for _ in range(epochs):
        order = rng.permutation(len(training))
        for i in range(0, len(order), BATCH):
            batch = [training[j] for j in order[i : i + BATCH]]
            if learn and i // BATCH % META_EVERY == 0:
                meta = [trusted[j] for j in rng.integers(len(trusted), size=BATCH)]
                weights.step(scorer, batch, meta, loss_of)
            loss = loss_of(scorer(batch)[0], batch, weights.weights_of([t.domain for t in batch]).detach())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return weights


def tested(scorer: FrozenScorer, trees: list[StepTree]) -> float:
    """Return the AUROC over the steps of some trees, mean of the three dimensions."""
    scorer.eval()
    with torch.no_grad():
        scores = torch.cat([scorer([tree])[0] for tree in trees]).numpy()
    labels = np.concatenate([tree.labels for tree in trees])
    found = []
    for c in range(labels.shape[1]):
        known = ~np.isnan(labels[:, c])
        found.append(auroc(scores[known, c], labels[known, c] > 0.5))
    return float(np.nanmean(found))


def measure(cache: Path, noise: str, seed: int) -> dict[str, Any]:
    """Return the weights that were learned and the AUROC of each way to train; of one for the noise ``left out``."""
    draw = 100 + seed
    training = [r for f, name in enumerate(FAMILIES) for r in records(draw, 1000 * f, QUESTIONS, [name])]
    if noise != "left out":
        training += spoiled(list(records(draw, 10_000, QUESTIONS * len(FAMILIES), FAMILIES)), noise, seed)
    trusted = step_trees(records(draw, 20_000, TRUSTED, FAMILIES))
    test = step_trees(records(draw, 30_000, TESTED, FAMILIES))
    trees = step_trees(training)
    figures: dict[str, Any] = {"noise": noise, "seed": seed}
    for name in ("equal", "learned")[: 1 if noise == "left out" else 2]:
        backbone, processor = read_backbone(model_folder("puzzle-nano", "policy"), "float32")
        torch.manual_seed(seed)
        head = TriAttCoT(backbone.config.get_text_config().hidden_size, 32, surprise=True)
        scorer = FrozenScorer(backbone, processor, head, cache=cache)
        scorer.prepare([*trees, *trusted, *test])
        weights = trained(scorer, trees, trusted, name == "learned", seed)
        figures[f"auroc, {name} weights"] = round(tested(scorer, test), 4)
        if name == "learned":
            figures["weights"] = {d: round(w, 3) for d, w in weights.as_dict().items()}
    return figures


def main(cache: Path) -> None:
    """Measure, print, and write the record."""
    torch.set_num_threads(1)
    rows = []
    for seed in range(SEEDS):
        for noise in ("shuffled", "flipped", "none", "left out"):
            rows.append(measure(cache, noise, seed))
            print(rows[-1], flush=True)
            write_record("domain_weights", {"backbone": "puzzle-nano", "rows": rows})


if __name__ == "__main__":
    if len(sys.argv) > 1:  # keep the hidden states there
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))

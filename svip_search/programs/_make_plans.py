"""The records of a planning puzzle: what programs tell of it, and what its generator writes, right and wrong.

All labels are those of `svip_search.datasets.planning.label_steps`: the shortest plans are known, so nothing has
to be estimated from continuations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..datasets.planning import Plan, corrupt, trace
from ..datasets.svip import SvipRecord
from .assess import Runner
from .label import label_programs

if TYPE_CHECKING:
    from ._make import BuildConfig

#: Blocks of a program beside its moves: readings, and what leads from the last move to the answer.
_AROUND = 12


def of_plan(config: BuildConfig, plan: Plan, run: Runner) -> list[SvipRecord]:
    """Return the distinct records of a puzzle, at most ``config.per_puzzle``.

    Those of programs come first, at most half; then the shortest chain, and in turn chains that explore and chains
    with something wrong in them.
    """
    told = _told(config, plan, run)[: config.per_puzzle // 2]
    known = {record.steps for record in told}
    return told + _written(plan, config.per_puzzle - len(told), known)


def _written(plan: Plan, most: int, known: set[tuple[str, ...]]) -> list[SvipRecord]:
    from ._make import blank

    rng = np.random.default_rng([plan.seed, plan.index, 1])
    found: list[SvipRecord] = []
    for number in range(2 * most):  # short plans have few chains: some come twice
        source = "trace" if number % 3 == 0 else "corrupt"
        steps = plan.steps if not number else trace(plan, rng) if source == "trace" else corrupt(plan, rng)
        if tuple(steps) not in known and len(found) < most:
            known.add(tuple(steps))
            found.append(blank(plan, steps, source))
    return found


def _told(config: BuildConfig, plan: Plan, run: Runner) -> list[SvipRecord]:
    """Return records told from programs, in random order; no policy writes steps of which one failed."""
    from ._make import blank, with_program
    from .planning import PlanProgramGenerator, narrate_plan
    from .vision import CellVision, NoisyVision

    noise = config.noise if config.vision == "noisy" else 0.0
    found = label_programs(
        plan.question,
        PlanProgramGenerator(config.error_rate, cells=plan.cells, family=plan.family),
        run,
        NoisyVision(CellVision(), noise, plan.index).look(plan),
        CellVision().look(plan),
        narrator=narrate_plan,
        leaves=config.leaves,
        width=config.width,
        depth=2 * plan.length + _AROUND,
        seed=plan.index,
    )
    rng = np.random.default_rng([plan.seed, plan.index, 2])
    sound = {tuple(steps): made for made, steps in found if all(block.ok for block in made.run.blocks)}
    records = [with_program(blank(plan, steps, "program"), made) for steps, made in sound.items()]
    return [records[i] for i in rng.permutation(len(records))]

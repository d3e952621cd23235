"""One program in one session: answers what it asks and collects what it gives."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ._crossing import Room, Unfit, corners, region_of
from ._prelude import ASK, DONE, Mark, Script
from ._types import METHODS, BlockRun, Call, Json, Region, Scene

if TYPE_CHECKING:
    from pydantic_monty import FunctionSnapshot, MontyError, MontySession, NameLookupSnapshot

_LOG = logging.getLogger(__name__)

#: Seconds of a program's own time: in the interpreter, and on its way to us and back.
SECONDS: Final = 1.0
#: Bytes that it may print.
PRINTED: Final = 64 * 2**10
#: Longest message of an error.
MESSAGE: Final = 300
#: Longest argument of a call: questions are short.
ARGUMENT: Final = 500
#: Where the interpreter says that code comes from: the text of the program itself, not an `exec` in it.
_TEXT: Final = "<python-input-0>"


class Stop(Exception):
    """The end of a program, with the kind of its error."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Execution:
    """What a program has done so far.

    Args:
        script: the program.
        scene: answers its questions.
        calls: how many it may ask.
    """

    def __init__(self, script: Script, scene: Scene, calls: int) -> None:
        self.done: list[BlockRun] = []
        #: Whether anything has run: an unknown construction is found before.
        self.started = False
        #: The block where the error was seen.
        self.fault = 0
        import pydantic_monty  # here: the package must be importable without it

        self._monty = pydantic_monty
        self._script, self._scene, self._limit = script, scene, calls
        self._room = Room()
        self._calls: list[Call] = []
        self._asked = 0
        self._unset: set[str] = set()
        self._unread = False
        self._seen = 0
        self._waited = 0.0

    def run(self, session: MontySession) -> BlockRun | None:
        """Run the program in a fresh session; return the block that failed, None if all is well."""
        monty = self._monty
        self._printed = monty.CollectString(max_bytes=PRINTED)
        self._start = time.perf_counter()
        try:
            event: Any = session.feed_start(self._script.source, print_callback=self._printed)
            while not isinstance(event, monty.MontyComplete):
                self.started = True
                event = self._answer(event)
            if len(self.done) < len(self._script.marks):
                raise Stop("runtime", "the block leaves the program before its end")
        except Stop as stop:
            return self._failed(stop.kind, str(stop))
        except monty.MontyError as error:
            return self._failed(*self._judge(error))
        except Exception as error:  # a fault of ours, or of the interpreter's client: not the caller's
            _LOG.exception("a program could not be followed")
            return self._failed("unavailable", f"the sandbox failed: {type(error).__name__}")
        return None

    def _failed(self, kind: str, message: str) -> BlockRun | None:
        if len(self.done) == len(self._script.marks):
            return None  # it has given all there was to give
        text = self._print_since()
        return BlockRun(error=kind, message=message[:MESSAGE], calls=tuple(self._calls), printed=text)

    # What the interpreter asks -------------------------------------------------------------------------

    def _answer(self, event: Any) -> Any:
        """Answer one event and return the next."""
        monty = self._monty
        if time.perf_counter() - self._start - self._waited > SECONDS:
            raise Stop("timeout", f"more than {SECONDS:g} s")
        if isinstance(event, monty.NameLookupSnapshot):
            return self._look_up(event)
        if not isinstance(event, monty.FunctionSnapshot):
            raise Stop("runtime", "waits for something that does not come")
        if event.is_os_function:
            return event.resume_not_handled()
        if event.function_name == ASK:
            return self._asked_for(event)
        mark = self._expected(event)
        if mark and event.function_name == DONE and event.position.start == mark.call:
            return event.resume({"return_value": not self._finish(event)})
        return event.resume({"exc_type": "NameError", "message": f"name '{event.function_name[:80]}' is not defined"})

    def _expected(self, event: FunctionSnapshot | NameLookupSnapshot) -> Mark | None:
        """Return the end of the block that runs, None if an event comes from elsewhere than our text."""
        here = event.position.filename == _TEXT and len(self.done) < len(self._script.marks)
        return self._script.marks[len(self.done)] if here else None

    def _look_up(self, event: NameLookupSnapshot) -> Any:
        """A name that is not there: an error in the program; in our list of variables, one to leave out."""
        mark = self._expected(event)
        if mark and mark.names <= event.position.start < mark.end:
            self._unset.add(event.variable_name)
            return event.resume(value=None)
        return event.resume()

    # The end of a block --------------------------------------------------------------------------------

    def _finish(self, event: FunctionSnapshot) -> bool:
        """Take over what a block gave; return whether it could be read."""
        try:
            (given,) = event.args
        except Exception:  # a key of a class of the program, for one: in its variables, if they are there
            if self._unread:
                raise Stop("output", "the value of the block: a key that is no text and no number") from None
            self._unread = True
            return False
        try:
            value = self._room.take(given[0])
            names = {} if self._unread else self._variables(given[1])
        except Unfit as error:
            raise Stop("output", f"the value of the block: {error}") from None
        self.done.append(BlockRun(value, calls=tuple(self._calls), names=names, printed=self._print_since()))
        self._calls.clear()
        self._unset.clear()
        self._unread = False
        return True

    def _variables(self, names: dict[str, Any]) -> dict[str, Json]:
        kept = {}
        for name, value in names.items():
            if name in self._unset:
                continue
            try:
                kept[name] = self._room.take(value)
            except Unfit as error:
                if name == "answer":
                    raise Unfit(f"`answer`: {error}") from None
        return kept

    def _print_since(self) -> str:
        """Return what was printed since the last call."""
        text: str = self._printed.output
        self._seen, start = len(text), self._seen
        return text[start:]

    # Questions to the vision modules -------------------------------------------------------------------

    def _asked_for(self, event: FunctionSnapshot) -> Any:
        self._asked += 1
        if self._asked > self._limit:
            raise Stop("calls", f"more than {self._limit} calls")
        try:
            method, region, arguments = _question(event.args, event.kwargs)
        except Unfit as error:
            return event.resume({"exc_type": "ValueError", "message": str(error)})
        except Exception:  # an argument that cannot even be read here
            return event.resume({"exc_type": "TypeError", "message": "not something to ask with"})
        start = time.perf_counter()
        try:
            found = self._scene.call(method, region, arguments)
        except ValueError:
            return event.resume({"exc_type": "ValueError", "message": f"{method} does not know this argument"})
        except Exception as error:
            _LOG.warning("a vision module failed in `%s`", method, exc_info=True)
            raise Stop("unavailable", f"the vision module failed: {type(error).__name__}") from None
        finally:
            self._waited += time.perf_counter() - start
        value = _reply(method, found)
        self._calls.append(Call(method, region, arguments, value))
        return event.resume({"return_value": value})

    # Errors --------------------------------------------------------------------------------------------

    def _judge(self, error: MontyError) -> tuple[str, str]:
        """Return the kind and the message of an error of the interpreter."""
        monty = self._monty
        if isinstance(error, monty.MontyCrashedError):
            if error.timed_out:
                return "timeout", f"more than {SECONDS:g} s"
            return "crash", "the worker process died"
        if not isinstance(error, monty.MontySyntaxError | monty.MontyRuntimeError):
            return "unavailable", f"the interpreter failed: {type(error).__name__}"
        message = error.display("type-msg")[: 2 * MESSAGE]
        kind = _kind(message, isinstance(error, monty.MontySyntaxError))
        return kind, self._place(message, error.traceback(), kind)

    def _place(self, message: str, trace: Sequence[Any], kind: str) -> str:
        """Return the message with the line of the block that it is about."""
        lines = [frame.line for frame in trace if frame.filename == _TEXT]
        self.fault = len(self.done)
        if not lines:
            return message
        if kind == "syntax" and not self.started:
            self.fault = self._script.block_of(lines[0])
        first = self._script.lines[min(self.fault, len(self._script.lines) - 1)]
        return f"{message[: MESSAGE - 20]} (line {lines[0] - first})"


def _kind(message: str, syntax: bool) -> str:
    """Return the kind of an error by what the interpreter says; its limits speak in fixed words."""
    name, _, text = message.partition(": ")
    if syntax or (name == "NotImplementedError" and "syntax parser" in text):
        return "syntax"
    if name == "TimeoutError" and "time limit exceeded" in text:
        return "timeout"
    if name == "MemoryError":
        return "output" if text.endswith(f"> {PRINTED} bytes") else "memory"
    if name == "RuntimeError" and text.startswith("suspension limit"):
        return "calls"
    return "runtime"


def _question(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[str, Region, tuple[Json, ...]]:
    """Return the method, region and arguments of a call, each as it must be.

    Raises:
        Unfit: they are not.
    """
    if kwargs or len(args) < 5 or type(args[0]) is not str or args[0] not in METHODS:
        raise Unfit("there is no such question")
    method, arguments = METHODS[args[0]], tuple(args[5:])
    if len(arguments) != len(method.arguments):
        raise Unfit(f"{method.name} takes {len(method.arguments)} arguments")
    for argument in arguments:
        if type(argument) is not str or len(argument) > ARGUMENT:
            raise Unfit(f"{method.name} takes text of at most {ARGUMENT} characters")
    return method.name, region_of(*args[1:5]), arguments


def _reply(method: str, found: Any) -> Json:
    """Return the answer of a vision module as it crosses; regions as lists.

    Raises:
        Stop: it is no answer to the question.
    """
    if method == "find":
        if isinstance(found, list | tuple) and all(isinstance(region, Region) for region in found):
            return [corners(region) for region in found]
    elif type(found) in (str, int, bool):
        with contextlib.suppress(Unfit):
            return Room().take(found)
    raise Stop("unavailable", f"the vision module gave a {type(found).__name__} for {method}")

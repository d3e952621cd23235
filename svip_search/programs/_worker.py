"""Starting a worker process: through bubblewrap where the machine has it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from types import TracebackType

from .._errors import BackendUnavailable

_INSIDE = "/monty"
_WARNED = False


class Launcher:
    """Gives the path of a file that starts a worker, as long as the context is open.

    ``kind`` says what the worker is contained by: "monty+bwrap", or "monty" where there is no bubblewrap
    or the system does not let it make namespaces; a warning says so once a process.

    Args:
        require: no worker without bubblewrap.

    Raises:
        BackendUnavailable: the interpreter is not installed or does not start, or bubblewrap is required and
            not to be had; on entering.
    """

    def __init__(self, require: bool = False) -> None:
        self.require = require
        self.path = ""
        self.kind = ""
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Launcher:
        binary = _interpreter()
        self._folder = tempfile.TemporaryDirectory(prefix="svip-sandbox-")
        try:
            self._choose(binary, Path(self._folder.name))
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._folder is not None
        self._folder.cleanup()

    def _choose(self, binary: str, folder: Path) -> None:
        command, reason = _bubblewrap(binary)
        if command:
            self.path, self.kind = _script(folder / "bwrap", command), "monty+bwrap"
            reason = _trial(self.path)
        if reason:
            if self.require:
                raise BackendUnavailable(f"programs must run inside bubblewrap: {reason}")
            _warn(reason)
            self.path, self.kind = _script(folder / "monty", ["/usr/bin/env", "-i", binary]), "monty"
            fault = _trial(self.path)
            if fault:
                raise BackendUnavailable(f"the interpreter of programs does not start: {fault}")


def _interpreter() -> str:
    try:
        from pydantic_monty._binary import find_monty_binary

        return os.path.realpath(find_monty_binary())
    except (ImportError, FileNotFoundError) as error:
        hint = "programs need `pip install svip-search[programs]`"
        raise BackendUnavailable(f"{hint} (pydantic-monty): {error}") from None


def _bubblewrap(binary: str) -> tuple[list[str], str]:
    """Return the command that starts the interpreter in an empty world, or why there is none."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        return [], "`bwrap` (bubblewrap) is not installed"
    ldd = shutil.which("ldd")
    if ldd is None:
        return [], "`ldd`, which tells the libraries to show it, is not there"
    shown = [binary, *_libraries(ldd, binary)]
    inside = [_INSIDE, *shown[1:]]
    binds = [word for pair in zip(shown, inside, strict=True) for word in ("--ro-bind", *pair)]
    walls = "--unshare-all --cap-drop ALL --uid 65534 --gid 65534 --clearenv --new-session --die-with-parent"
    return [os.path.abspath(bwrap), *walls.split(), *binds, "--remount-ro", "/", "--chdir", "/", "--", _INSIDE], ""


def _libraries(ldd: str, binary: str) -> list[str]:
    """Return the shared libraries that a binary needs: all of the machine that a worker sees."""
    listed = subprocess.run([ldd, binary], capture_output=True, text=True, check=False, timeout=10)
    return sorted(set(re.findall(r"(?:=> |^\s*)(/\S+)", listed.stdout, re.MULTILINE)))


def _script(path: Path, command: list[str]) -> str:
    """Write a file that starts a worker; what a dying one has to say is not for the user's terminal."""
    line = f'#!/bin/sh\nulimit -c 0\nexec {shlex.join(command)} "$@" 2>/dev/null\n'
    path.write_text(line, encoding="utf-8")
    path.chmod(0o700)
    return str(path)


def _trial(path: str) -> str:
    """Return why a worker does not start, "" if it does."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"
    return "" if done.returncode == 0 else f"`{path}` ends with status {done.returncode}"


def _warn(reason: str) -> None:
    global _WARNED
    if not _WARNED:
        _WARNED = True
        warnings.warn(f"programs run in the interpreter's own sandbox alone: {reason}", stacklevel=5)

"""Which backend runs an operation: probe, choose, explain, count."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from svip_search._errors import BackendUnavailable

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_counts: Counter[tuple[str, str]] = Counter()
_import_failures: dict[str, str] = {}  # a failing import is slow, so "auto" tries each module once


@dataclass(frozen=True, slots=True)
class Facts:
    """What a backend needs to know about a call to accept or refuse it.

    ``device`` is ``"cpu"`` or ``"cuda"``, ``dtype`` the type of keys and values, ``grad`` whether
    the backend itself must have gradients (of a returned softmax state or of a scan: scores get theirs
    through any backend), ``library`` ``"numpy"`` or ``"torch"``, ``precision`` the
    type of the results, and ``width`` the head width d.
    """

    device: str = "cpu"
    dtype: str = "float32"
    grad: bool = False
    library: str = "numpy"
    precision: str = "float32"
    width: int = 64


def choose(operation: str, backend: str, facts: Facts) -> tuple[str, ModuleType]:
    """Return the name and the module of the backend that is to run a call.

    ``"auto"`` takes the first backend of the table that can be imported and accepts ``facts``.

    Raises:
        ValueError: ``backend`` is not a name of the table.
        BackendUnavailable: ``backend`` was asked for by name and cannot run the call; the import
            error, if there was one, is its cause.
    """
    names = _table(operation)
    if backend != "auto":
        if backend not in names:
            known = ", ".join(["auto", *names])
            raise ValueError(f"`backend` must be one of {known}; got {backend!r}.")
        try:
            module = import_module(names[backend])
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise BackendUnavailable(f"`backend` {backend!r} cannot run {operation}: {reason}") from error
        if refusal := module.supports(facts):
            raise BackendUnavailable(f"`backend` {backend!r} cannot run {operation}: {refusal}")
        return backend, module
    for name, path in names.items():
        loaded, reason = _probe(name, path, facts)
        if loaded is not None:
            return name, loaded
        _log.debug("%s: backend %s passed over: %s", operation, name, reason)
    raise BackendUnavailable(f"no backend can run {operation} with {facts}.")


def which(operation: str, backend: str = "auto", **facts: Any) -> str:
    """Return the name of the backend that would run a call.

    Args:
        operation: a name of ``TABLE``.
        backend: ``"auto"`` or a name of the operation's table.
        facts: what is known of the call, the fields of ``Facts``.

    Raises:
        ValueError: no such operation or backend.
        BackendUnavailable: the backend cannot run such a call.

    Example:
        >>> from svip_search.kernels import which
        >>> which("triatt", dtype="float64", precision="float64")
        'reference'
    """
    return choose(operation, backend, Facts(**facts))[0]


def explain(operation: str, facts: Facts | None = None) -> str:
    """Return, one backend a line, which one ``"auto"`` takes for a call and why not another.

    Args:
        operation: a name of ``TABLE``.
        facts: the call; default float32 numpy arrays on the CPU.

    Example:
        >>> from svip_search.kernels import explain
        >>> "reference: chosen" in explain("triatt")
        True
    """
    facts = facts or Facts()
    lines, chosen = [], False
    for name, path in _table(operation).items():
        module, reason = _probe(name, path, facts)
        if module is not None:
            reason = "able, not needed" if chosen else "chosen"
            chosen = True
        lines.append(f"{name}: {reason}")
    return "\n".join(lines)


def count(operation: str, backend: str) -> None:
    """Note that ``backend`` ran ``operation`` once."""
    with _lock:
        _counts[operation, backend] += 1


def counts() -> dict[str, dict[str, int]]:
    """Return how often each backend ran, as operation -> backend -> calls."""
    found: dict[str, dict[str, int]] = {}
    with _lock:
        for (operation, backend), n in _counts.items():
            found.setdefault(operation, {})[backend] = n
    return found


def reset_counts() -> None:
    """Set every count back to zero."""
    with _lock:
        _counts.clear()


def _table(operation: str) -> dict[str, str]:
    from . import TABLE

    if operation not in TABLE:
        raise ValueError(f"`operation` must be one of {', '.join(TABLE)}; got {operation!r}.")
    return TABLE[operation]


def _probe(name: str, path: str, facts: Facts) -> tuple[ModuleType | None, str]:
    """Return the module if it can run the call, otherwise None and the reason."""
    from . import GPU_ONLY

    if name in GPU_ONLY and facts.device == "cpu":
        return None, "needs a GPU, and keys and values are on the CPU."
    if path in _import_failures:
        return None, _import_failures[path]
    try:
        module = import_module(path)
    except Exception as error:  # whatever goes wrong in a fast backend, "auto" goes on
        _import_failures[path] = f"{type(error).__name__}: {error}"
        return None, _import_failures[path]
    refusal: str = module.supports(facts)
    return (None, refusal) if refusal else (module, "")

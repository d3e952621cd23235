"""Ray, with an error that says what to do where it is missing, and what its own errors come from."""

from __future__ import annotations

import importlib
import os
import socket
from typing import Any


def load_ray() -> Any:
    """Return the module.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ImportError("a run on a cluster needs Ray; `pip install svip-search[ray]` installs it") from error


def connect(address: str | None, cpus: int) -> bool:
    """Join a cluster, or start one on this machine; return whether it was started here.

    Args:
        address: ``host:port``, ``"auto"`` for the cluster this machine belongs to; None starts one.
        cpus: how many workers and replicas there must be room for, where one is started.

    Raises:
        ValueError: the address is one of Ray's client, whose programs run outside of the cluster.
        ConnectionError: there is no such cluster.
    """
    if address is not None and address.startswith("ray://"):
        raise ValueError(
            f"`address` must be host:port or 'auto', on a machine of the cluster that has the journal; got {address!r}."
        )
    ray = load_ray()
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody was asked whether Ray may call home
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        # Workers wait for models most of the time; how many share a core is for whoever asks for them.
        ray.init(num_cpus=max(cpus, os.cpu_count() or 1), include_dashboard=False, **quiet)
        return True
    if address != "auto":
        _knock(address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConnectionError(
            f"`address` must be that of a Ray cluster; {address!r} is not ({one_line(error)})"
        ) from None
    return False


def _knock(address: str) -> None:
    """Raise unless somebody listens there: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConnectionError(f"`address` must be that of a Ray cluster; {address!r} is not ({error}).") from None


def unwrapped(error: BaseException) -> BaseException:
    """Return what was raised on the other side, rather than Ray's account of it.

    Example:
        >>> unwrapped(ValueError("no"))
        ValueError('no')
    """
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def one_line(error: object) -> str:
    """Return what Ray says, often at length, as the beginning of one line."""
    return " ".join(str(error).split())[:300]

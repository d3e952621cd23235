"""Models of a run by what stands on a command line: a name, a folder, an address or an object of a module."""

from __future__ import annotations

import importlib
import os
import re
import sys
from typing import Any

from .._errors import PolicyError
from .settings import folder_identity

_OBJECT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_address(name: str) -> bool:
    """Whether a model is meant that a server has."""
    return name.startswith(("http://", "https://"))


def is_object(name: str) -> bool:
    """Whether an object of a Python module is meant, ``module:object``."""
    return _OBJECT.fullmatch(name) is not None and not is_address(name)


def load_policy(name: str, model: str | None = None, api_key: str | None = None) -> Any:
    """Return a policy.

    Args:
        name: of an embedded model, a folder, a hub id, addresses of servers with commas between them, or
            ``module:object``, where a class or function is called without arguments.
        model: the name the servers know it by.
        api_key: for the servers.

    Raises:
        ModelFileError: there is no such model.
        ValueError: a server's model is not named, or there is no such object.

    Example:
        >>> type(load_policy("svip_search.testing:HashPolicy")).__name__
        'HashPolicy'
    """
    if is_address(name):
        from ..policies.openai_policy import OpenAIPolicy

        if model is None:
            raise ValueError("`model` must be the name the server knows the policy by; got None.")
        return OpenAIPolicy(_addresses(name), model, api_key=api_key)
    if is_object(name):
        return _object("policy", name)
    from ..models import zoo

    return zoo.load_policy(name)


def look_at_server(name: str, model: str | None, api_key: str | None = None, seconds: float = 5.0) -> str | None:
    """Return what seems wrong with a policy's server before a run waits for it; None where nothing does.

    Args:
        name: see `load_policy`; what is no address is all right.
        model: the name the server is to know it by.
        api_key: for the server.
        seconds: how long it is waited for.

    Raises:
        PolicyError: it refuses the key.

    Notes:
        A server that is away says nothing: a run waits for it.
    """
    if not is_address(name):
        return None
    from .._http import HttpClient, HttpFault
    from ..policies._chat import read_models

    client = HttpClient(_addresses(name), api_key=api_key, timeout=seconds, retries=0)
    try:
        listed = client.run(client.get("/models", read_models))
    except PolicyError as error:
        if isinstance(error.__cause__, HttpFault) and error.__cause__.status in (401, 403):
            raise
        return None
    finally:
        client.close()
    if model in listed:
        return None
    return f"the policy server lists {', '.join(map(repr, listed[:5])) or 'no models'}, and not {model!r}"


def load_reward(name: str, api_key: str | None = None) -> Any:
    """Return a reward model, None for ``"none"``; see `load_policy`."""
    if name == "none":
        return None
    if is_address(name):
        from ..rewards.remote_reward import RemoteReward

        return RemoteReward(_addresses(name), api_key=api_key)
    if is_object(name):
        return _object("reward", name)
    from ..models import zoo

    return zoo.load_reward(name)


def identity(name: str, kind: str, model: str | None = None, api_key: str | None = None) -> dict[str, Any] | None:
    """Return who a model is for the fingerprint of a run; where it is, is no part of it.

    Args:
        name: see `load_policy`.
        kind: ``"policy"`` or ``"reward"``.
        model: the name a server knows it by.
        api_key: for a server of a reward model, which is asked who it is.

    Raises:
        ModelFileError: there is no such model.
        RewardError: the server does not say.
    """
    if name == "none":
        return None
    if is_address(name):
        return {"server": model} if kind == "policy" else _served(name, api_key)
    if is_object(name):
        return {"object": name}
    from ..models import zoo

    folder = zoo.model_folder(name, kind)
    if not os.path.isdir(folder):
        return {"name": name}
    return {"name": os.path.basename(os.path.abspath(folder)), "files": folder_identity(folder)}


def _served(name: str, api_key: str | None) -> dict[str, Any]:
    """Return who a server says its reward model is."""
    from ..rewards.remote_reward import RemoteReward

    with RemoteReward(_addresses(name), api_key=api_key, timeout=10.0) as reward:
        return reward.identity


def _addresses(name: str) -> str | list[str]:
    found = [address.strip() for address in name.split(",") if address.strip()]
    return found[0] if len(found) == 1 else found


def _object(kind: str, name: str) -> Any:
    module, _, path = name.partition(":")
    if "" not in sys.path:  # as `python -m` has it: modules of the folder one is in
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"`{kind}` must name an object of a module; {name!r} does not: {error}.") from error
    ready = any(callable(getattr(found, m, None)) for m in ("propose", "apropose", "evaluate", "aevaluate_many"))
    return found if ready and not isinstance(found, type) else found()

"""``svip-search policy-server`` and ``svip-search reward-server``: models for other programs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._arguments import UsageError, positive_int

if TYPE_CHECKING:
    from starlette.applications import Starlette


def add_command(commands: Any) -> None:
    """Add both commands to the parser."""
    policy: argparse.ArgumentParser = commands.add_parser(
        "policy-server",
        help="serve a policy to OpenAI clients",
        description="Serve a policy as an OpenAI-compatible model: /v1/chat/completions, /v1/completions, /v1/models. "
        "Prints one line when it is ready, and runs until Ctrl-C.",
    )
    policy.add_argument("--policy", default="puzzle-tiny", help="name, folder or hub id (puzzle-tiny)")
    policy.set_defaults(run=lambda arguments: _run(arguments, arguments.policy, _policy_app))
    reward: argparse.ArgumentParser = commands.add_parser(
        "reward-server",
        help="serve a reward model",
        description="Serve a reward model to RemoteReward clients. "
        "Prints one line when it is ready, and runs until Ctrl-C.",
    )
    reward.add_argument("--reward", default="svip-tiny", help="name or folder (svip-tiny)")
    reward.set_defaults(run=lambda arguments: _run(arguments, arguments.reward, _reward_app))
    _add_flags(policy, "candidates")
    _add_flags(reward, "paths")


def _add_flags(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--name", help="what clients call it (the end of its name or path)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1)")
    parser.add_argument("--port", type=_port, default=0, help="0 chooses a free one (0)")
    parser.add_argument("--token-env", metavar="NAME", help="the environment variable with the token that clients "
                        "must send; needed where others can reach the address")  # fmt: skip
    parser.add_argument("--batch", type=positive_int, default=256, metavar="N",
                        help=f"most {what} of one call of the model (256)")  # fmt: skip
    parser.add_argument("--device", help="where to compute, as cpu or cuda (where the model is loaded)")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")


def _port(text: str) -> int:
    """Read the number of a port."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 65535; got {text!r}")
    return int(text)


Make = Callable[[argparse.Namespace, dict[str, Any]], "Starlette"]


def _run(arguments: argparse.Namespace, model: str, make: Make) -> int:
    """Check what is cheap to check, load the model and serve it."""
    try:
        from ..serving import serve
        from ..serving._serve import check_address
    except ImportError as error:
        raise UsageError(f"{error}; `pip install svip-search[models,serve]` installs what servers need") from None
    token = _token(arguments.token_env)
    check_address(arguments.host, token is not None)
    name = arguments.name or Path(model).name or model
    app = make(arguments, {"name": name, "token": token, "batch": arguments.batch})
    serve(app, arguments.host, arguments.port, ready=lambda url: print(f"serving {name} at {url}", flush=True))
    return 0


def _policy_app(arguments: argparse.Namespace, settings: dict[str, Any]) -> Starlette:
    from ..models import zoo
    from ..serving import policy_app

    return policy_app(zoo.load_policy(arguments.policy, **_device(arguments)), **settings)


def _reward_app(arguments: argparse.Namespace, settings: dict[str, Any]) -> Starlette:
    from ..models import zoo
    from ..serving import reward_app

    return reward_app(zoo.load_reward(arguments.reward, **_device(arguments)), **settings)


def _device(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.device is None:
        return {}
    import torch

    try:
        torch.empty(0, device=arguments.device)
    except (RuntimeError, AssertionError) as error:  # the latter: torch without CUDA
        reason = str(error).partition("\n")[0]
        raise UsageError(f"argument --device: must be one that torch has here, as cpu or cuda; {reason}") from None
    return {"device": arguments.device}


def _token(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise UsageError(f"argument --token-env: must name an environment variable that is set; got {variable!r}")
    return os.environ[variable]

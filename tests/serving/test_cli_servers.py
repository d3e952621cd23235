"""The two commands that serve models: real processes, their line, their end."""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("msgspec")
from serving_checks import ask, chat

from svip_search.cli import app, serve
from svip_search.models.zoo import list_models

needs_models = pytest.mark.skipif(
    not {"puzzle-nano", "svip-tiny"} <= {m.name for m in list_models()}, reason="the embedded weights are not there"
)
# The program, with both commands among its own.
PROGRAM = """
import sys
from svip_search.cli import app, serve
build = app.build_parser
def with_servers(words=()):
    parser = build(words)
    commands = next(a for a in parser._actions if getattr(a, "choices", None))
    if "policy-server" not in commands.choices:
        serve.add_command(commands)
    return parser
app.build_parser = with_servers
"""


@contextmanager
def program(*words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "error", "-c", PROGRAM + "sys.exit(app.main(sys.argv[1:]))", *words]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=os.environ | environment, cwd=Path(__file__).parents[2], **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def ready(process: subprocess.Popen[str], name: str) -> str:
    """Return the address that the one line names."""
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(rf"serving {name} at (http://127\.0\.0\.1:\d+/v1)\n", line)
    assert found, line or (process.stderr and process.stderr.read())
    return found[1]


@needs_models
def test_a_policy_is_served_until_ctrl_c() -> None:
    with program("policy-server", "--policy", "puzzle-nano", "--token-env", "A_TOKEN", A_TOKEN="s3cret") as process:
        url = ready(process, "puzzle-nano")
        assert ask(url, "/v1/models")[0] == 401
        status, answer = ask(url, "/v1/chat/completions", chat("what is missing ?", stop="\n"), token="s3cret")
        assert (status, answer["model"]) == (200, "puzzle-nano")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (130, "", "svip-search: interrupted\n")


@needs_models
@pytest.mark.skipif(os.name != "posix", reason="signals of Unix")
def test_ctrl_c_twice_prints_no_more_than_once() -> None:
    with program("reward-server", "--reward", "svip-tiny") as process:
        ready(process, "svip-tiny")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (130, "", "svip-search: interrupted\n")


@needs_models
def test_an_address_in_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert app.main(["reward-server", "--reward", "svip-tiny", "--port", str(port)]) == 2
    err = capsys.readouterr().err
    assert f"cannot listen at '127.0.0.1', port {port}: Address already in use" in err
    assert err.count("\n") == 1


@needs_models
def test_a_reward_model_is_served_until_it_is_terminated() -> None:
    with program("reward-server", "--reward", "svip-tiny", "--name", "judge", "--batch", "8") as process:
        url = ready(process, "judge")
        body = {"items": [{"question": {"text": "what is missing ?"}, "paths": [["it is red"]]}]}
        status, answer = ask(url, "/v1/rewards", body)
        assert status == 200
        assert len(answer["rewards"][0][0][0]) == 3
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (-signal.SIGTERM, "", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["policy-server", "--policy", "nothing"], "`policy` must be puzzle-nano"),
        (["policy-server", "--policy", "svip-tiny"], "'svip-tiny' is a reward"),
        (["policy-server", "--host", "0.0.0.0"], "`host` must be a loopback address where there is no token"),
        (["policy-server", "--port", "70000"], "must be a number from 0 to 65535; got '70000'"),
        (["policy-server", "--batch", "0"], "must be at least 1; got 0"),
        (["reward-server", "--token-env", "NOT_SET_ANYWHERE"], "must name an environment variable that is set"),
        (["reward-server", "--reward", "none"], "`reward` must be svip-tiny"),
        (["policy-server", "--device", "abacus"], "argument --device: must be one that torch has here"),
    ],
)
def test_wrong_words_are_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "build_parser", app.build_parser)  # put back what the program changes
    exec(PROGRAM, {})
    code = app.main(words)
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("svip-search: error: ")
    assert err.count("\n") == 1


def test_the_help_of_both_commands() -> None:
    parser = argparse.ArgumentParser()
    serve.add_command(parser.add_subparsers())
    for command in ("policy-server", "reward-server"):
        arguments = parser.parse_args([command, "--port", "8000"])
        assert (arguments.host, arguments.port, arguments.batch, arguments.token_env) == ("127.0.0.1", 8000, 256, None)

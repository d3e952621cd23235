"""The command line: what it prints, what it writes, and one line for whatever is wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from svip_search import STRATEGIES, Candidate, ModelFileError, ProposeRequest, Question, SelfConsistency, solve
from svip_search._video import pictures
from svip_search.cli import main
from svip_search.cli._arguments import add_dataclass_flags, comma_list, dataclass_from_flags
from svip_search.cli._show import answer_line, console, plain, show_result
from svip_search.cli.app import build_parser
from svip_search.models import zoo
from svip_search.testing import FaultyPolicy, HashPolicy, HashReward

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "venn.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    return str(path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def load_policy(name: str) -> HashPolicy:
        if name != "puzzle-tiny":
            raise ModelFileError(f"`policy` must be one of puzzle-tiny; got {name!r}.")
        return HashPolicy(branching=3, depth=3)

    monkeypatch.setattr(zoo, "load_policy", load_policy)
    monkeypatch.setattr(zoo, "load_reward", lambda name: HashReward())

    def call(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def write_questions(folder: Path, count: int = 6) -> Path:
    record = {"question": "Which?", "images": [], "options": ["red", "blue"], "answer": "red"}
    for family in ("a", "b"):
        (folder / f"{family}.jsonl").write_text((json.dumps(record) + "\n") * count)
    return folder


# ---- solve --------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["greedy", "self-consistency", "best-of-n", "weighted", "beam", "mcts"])
def test_solve_prints_the_tree_and_the_answer_last(strategy: str, run: Run, picture: str) -> None:
    words = ["solve", picture, "Which?", "--options", "red,blue", "--strategy", strategy]
    code, out, err = run(*words, "--n", 32)
    assert (code, err) == (0, "")
    lines = out.rstrip().splitlines()
    assert lines[-1] in ("Answer: red", "Answer: blue")
    assert lines[0] == "Which?"
    assert any("●" in line for line in lines)
    assert "\x1b" not in out


def test_solve_is_deterministic_by_seed(run: Run, picture: str) -> None:
    def answers(seed: int) -> Any:
        _, out, _ = run("solve", picture, "Which?", "--options", "red,blue", "--seed", seed, "--json", "-")
        return json.loads(out)["trajectories"]

    assert answers(1) == answers(1)
    assert answers(1) != answers(2)


def test_solve_writes_json_and_html(run: Run, picture: str, tmp_path: Path) -> None:
    page, report = tmp_path / "tree.html", tmp_path / "r.json"
    words = ["solve", picture, "Which?", "--options", "red,blue", "--answer", "red", "--n", 32]
    code, out, _ = run(*words, "--html", page, "--json", report, "--quiet")
    data = json.loads(report.read_text())
    assert code == 0
    assert out == data["answer"] + "\n"
    assert data["true_answer"] == "red"
    assert data["tree"]["text"]
    assert data["trajectory"]["steps"][0]["reward"].keys() == {"relevance", "logic", "attribute"}
    assert "data:image/png" in page.read_text()


def test_budgets_reach_the_search(run: Run, picture: str) -> None:
    words = ["solve", picture, "Which?", "--options", "red,blue", "--n", 500]
    _, out, _ = run(*words, "--budget-tokens", 40)
    assert "(best so far, the tokens budget is used up)" in out.splitlines()[-1]
    _, out, _ = run(*words, "--budget-seconds", 1e-9)
    assert "seconds budget" in out.splitlines()[-1]


def test_solve_takes_several_pictures_and_videos(
    run: Run, picture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Question] = []

    class Noting(HashPolicy):
        def propose(self, requests: Any) -> Any:
            asked.extend(request.question for request in requests)
            return super().propose(requests)

    monkeypatch.setattr(zoo, "load_policy", lambda name: Noting(branching=3, depth=3))
    film, stills = tmp_path / "film.gif", tmp_path / "stills"
    frames = [Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)) for i in range(10)]
    frames[0].save(film, save_all=True, append_images=frames[1:], duration=100)
    stills.mkdir()
    frames[0].save(stills / "1.png")
    words = ["--options", "red,blue", "--frames", 3, "--json", "-"]
    more = ["--image", picture, "--video", stills, "--image", film]
    code, _, _ = run("solve", film, "Which?", *words, *more)
    assert code == 0
    assert [p.label for p in pictures(asked[0])] == [
        *(f"Video 1, frame {i} of 3, {s:.2f} s" for i, s in ((1, 0.0), (2, 0.4), (3, 0.9))),
        "",
        "Video 2, frame 1 of 1",
        *(f"Video 3, frame {i} of 3, {s:.2f} s" for i, s in ((1, 0.0), (2, 0.4), (3, 0.9))),
    ]
    assert run("solve", film, "--fps", 2, "Which?", "--options", "red,blue")[0] == 0
    assert [p.label for p in pictures(asked[-1])] == [f"Video 1, frame {i} of 2, {i / 2 - 0.5:.2f} s" for i in (1, 2)]


BAD = [
    (["solve", "gone.png", "Q"], "'gone.png': there is no such file"),
    (["solve", __file__, "Q"], "PNG, JPEG, WebP, GIF or BMP"),
    (["solve", "PICTURE", "Q", "--image", "gone.png"], "'gone.png': there is no such file"),
    (["solve", "PICTURE", "Q", "--video", __file__], "PNG, JPEG, WebP, GIF or BMP"),
    (["solve", "FOLDER", "Q"], "the folder is empty"),
    (["solve", "PICTURE", "Q", "--frames", "0"], "--frames: must be at least 1; got 0"),
    (["solve", "FOLDER", "Q", "--frames", "257"], "`frames` must be 1 to 256; got 257"),
    (["solve", "PICTURE", "Q", "--fps", "0"], "--fps: must be above 0"),
    (["solve", "PICTURE", "--image", "PICTURE"], "required: QUESTION"),
    (["solve", "PICTURE", " "], "non-empty question"),
    (["solve", "PICTURE"], "required: QUESTION"),
    (["solve", "PICTURE", "Q", "--n", "0"], "--n: must be at least 1; got 0"),
    (["solve", "PICTURE", "Q", "--n", "x"], "--n: must be a whole number"),
    (["solve", "PICTURE", "Q", "--budget-tokens", "0"], "--budget-tokens: must be at least 1"),
    (["solve", "PICTURE", "Q", "--budget-seconds", "0"], "--budget-seconds: must be above 0"),
    (["solve", "PICTURE", "Q", "--budget-seconds", "nan"], "--budget-seconds: must be a number"),
    (["solve", "PICTURE", "Q", "--temperature", "-1"], "--temperature: must be at least 0"),
    (["solve", "PICTURE", "Q", "--strategy", "guess"], "--strategy: must be one of greedy"),
    (["solve", "PICTURE", "Q", "--policy", "nobody"], "`policy` must be one of puzzle-tiny; got 'nobody'"),
    (["solve", "PICTURE", "Q", "--reward", "none"], "--reward: this strategy needs a reward model"),
    (["solve", "PICTURE", "Q", "--options", "a,a"], "`options` must be distinct"),
    (["solve", "PICTURE", "Q", "--options", "a,,b"], "--options: must be words between commas"),
    (["solve", "PICTURE", "Q", "--html", "gone/tree.html"], "its folder must exist"),
    (["solve", "PICTURE", "Q", "--json", "."], "'.' is a folder"),
    (["solve", "PICTURE", "Q", "--unknown"], "unrecognized arguments: --unknown"),
    (["evaluate", "gone"], "there is no 'gone'"),
    (["evaluate", "FOLDER"], "has none"),
    (["evaluate", "FOLDER", "--strategies", "guess"], "--strategies: must be among greedy"),
    (["evaluate", "FOLDER", "--limit", "0"], "--limit: must be at least 1"),
    (["dance"], "invalid choice: 'dance'"),
    (["train"], "required: policy|reward"),
]


@pytest.mark.parametrize(("words", "reason"), BAD)
def test_bad_input_is_one_line_and_code_2(
    words: list[str], reason: str, run: Run, picture: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"PICTURE": picture, "FOLDER": str(tmp_path / "empty")}
    code, out, err = run(*(places.get(word, word) for word in words))
    assert (code, out) == (2, "")
    assert err.startswith("svip-search: error: ")
    assert err.count("\n") == 1
    assert reason in err


def test_internal_errors_are_owned_up_to(run: Run, picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise RuntimeError("out of luck\nreally")

    monkeypatch.setattr(zoo, "load_reward", broken)
    code, _, err = run("solve", picture, "Which?")
    assert code == 1
    assert err == "svip-search: error: internal error, RuntimeError: out of luck really (--debug shows where)\n"
    code, _, err = run("solve", picture, "Which?", "--debug")
    assert "Traceback" in err


class Interrupted(HashPolicy):
    """Somebody presses Ctrl-C during the n-th call."""

    def __init__(self, call: int) -> None:
        super().__init__(branching=3, depth=3)
        self.left = call

    def propose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().propose(requests)


def test_ctrl_c_prints_the_best_answer_so_far(run: Run, picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "load_policy", lambda name: Interrupted(call=8))
    code, out, err = run("solve", picture, "Which?", "--options", "red,blue", "--n", 500)
    assert (code, err) == (130, "")
    assert out.splitlines()[-1].startswith("Answer: ")
    assert "interrupted" in out.splitlines()[-1]


def test_ctrl_c_before_there_is_anything(run: Run, picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo, "load_policy", interrupt)
    assert run("solve", picture, "Which?") == (130, "", "svip-search: interrupted\n")


def test_no_answer_is_said_and_code_1(run: Run, picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "load_policy", lambda name: FaultyPolicy(HashPolicy(), "raises"))
    code, out, _ = run("solve", picture, "Which?")
    assert code == 1
    assert out.splitlines()[-1] == "No answer found (finished)."
    assert "degraded: " in out


# ---- the printed tree ---------------------------------------------------------------------------


class Saying:
    """A policy that answers with a given text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def propose(self, requests: Sequence[ProposeRequest]) -> list[list[tuple[Candidate, ...]]]:
        return [[(Candidate(self.text, finish_reason="stop"),)] * r.n for r in requests]


def test_foreign_text_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\x1b]0;title\x07 [bold red]markup[/] \u202e\r\n Answer: \x1b[2J[/nothing]"
    result = solve(Question("\x1b[31mQ\nuestion"), Saying(text), strategy="greedy")
    show_result(result, console())
    out = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(out)
    assert "[bold red]markup[/]" in out
    assert plain("a\n\x1bb\tc") == "a b c"


def test_a_large_tree_is_shown_as_the_chosen_path(capsys: pytest.CaptureFixture[str]) -> None:
    policy = HashPolicy(branching=5, depth=40, distinct=True)
    result = solve(Question("Which?", options=["red", "blue"]), policy, HashReward(), "beam")
    show_result(result, console())
    out = capsys.readouterr().out.splitlines()
    assert max(map(len, out)) <= 120
    shown = [line for line in out if "○" in line or "●" in line]
    assert len(shown) < len(result.tree) - 1
    assert any("(+" in line for line in shown)
    assert sum("●" in line for line in shown) == len(result.trajectory.steps if result.trajectory else ()) + 1


@pytest.mark.parametrize(("no_color", "colored"), [("", True), ("1", False)])
def test_colour_on_a_terminal_unless_no_color(
    no_color: str, colored: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", no_color)
    show_result(solve("Which?", HashPolicy(), HashReward(), "best-of-n"), console())
    assert ("\x1b[38;" in capsys.readouterr().out) is colored


# ---- the other commands -------------------------------------------------------------------------


def test_evaluate_prints_and_writes_reports(run: Run, tmp_path: Path) -> None:
    folder = write_questions(tmp_path)
    files = {name: tmp_path / f"r.{name}" for name in ("json", "csv", "markdown", "records")}
    flags = [word for name, path in files.items() for word in (f"--{name}", path)]
    code, out, err = run("evaluate", folder, "--strategies", "greedy,weighted", "--n", 4, "--seed", 1, *flags)
    assert code == 0
    assert "self" not in out
    assert "weighted" in out
    assert "questions 12/12" in err
    data = json.loads(files["json"].read_text())
    assert data["n_questions"] == 12
    assert (data["policy"], data["reward"], data["seed"], data["n"]) == ("puzzle-tiny", "svip-tiny", 1, 4)
    assert len(files["records"].read_text().splitlines()) == 13
    assert files["markdown"].read_text(encoding="utf-8").startswith("| strategy |")
    code, out, err = run("evaluate", folder, "--limit", 3, "--strategies", "greedy", "--json", "-", "--quiet")
    assert json.loads(out)["families"] == {"a": 2, "b": 1}
    assert err == ""


def test_evaluate_without_a_reward_model(run: Run, tmp_path: Path) -> None:
    words = ["evaluate", write_questions(tmp_path), "--reward", "none", "--quiet", "--n", 2]
    assert run(*words, "--strategies", "greedy,self-consistency")[0] == 0
    assert run(*words)[0] == 2


def test_evaluate_interrupted_reports_what_is_finished(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "load_policy", lambda name: Interrupted(call=3))
    words = ["evaluate", write_questions(tmp_path), "--strategies", "greedy", "--batch", 4, "--json", "-"]
    code, out, _ = run(*words)
    assert code == 130
    assert json.loads(out)["complete"] is False


def test_models_lists_the_cards(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    card = zoo.ModelCard("puzzle-nano", "policy", "smallest", 432_100, tmp_path, {"seed": 1})
    monkeypatch.setattr(zoo, "list_models", lambda: [card])
    code, out, _ = run("models")
    assert code == 0
    assert "432,100" in out
    assert json.loads(run("models", "--json")[1])[0]["name"] == "puzzle-nano"


def test_kernels_says_what_runs_and_why(run: Run) -> None:
    code, out, err = run("kernels")
    assert (code, err) == (0, "")
    found = json.loads(run("kernels", "--json")[1])
    for part in (found["machine"], found["chosen"]["triatt"], found["reasons"]["triatt"]):
        for name in part:
            assert name in out
    assert found["chosen"]["triatt"]["numpy, float32"] == "cpu"
    assert found["chosen"]["triatt"]["numpy, float64"] == "reference"
    assert "(in use)" in found["machine"]["SIMD tiers"]


def test_kernels_without_a_gpu_offers_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svip_search.cli.kernels._gpu_names", list)
    found = json.loads(run("kernels", "--json")[1])
    assert found["chosen"]["triatt"]["torch on a GPU, bfloat16"] == ""
    assert found["machine"]["GPU"] == "none that torch can use"


def test_kernels_shows_the_tier_that_was_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVIP_SIMD", "baseline")
    tiers = json.loads(run("kernels", "--json")[1])["machine"]["SIMD tiers"].split(";")[0].split(", ")
    assert tiers[-1].endswith("(in use)")
    assert sum("(in use)" in tier for tier in tiers) == 1


def test_version_and_help(run: Run) -> None:
    assert run("--version")[1].startswith("svip-search 0.")
    for words in ([], ["--help"], ["solve", "--help"], ["evaluate", "--help"]):
        code, out, err = run(*words)
        assert (code, err) == (0, "")
        assert "usage: svip-search" in out


@dataclass
class Settings:
    """How something is trained.

    Args:
        samples: puzzles to see
            in all; 100 % of them.
        rate: learning rate.
        resume: continue.
        names: of ``folders``.
        out: a folder, or none.
    """

    samples: int = 10
    rate: float = 1e-3
    resume: bool = True
    names: tuple[str, ...] = ()
    out: str | None = None


def test_flags_are_made_from_a_configuration() -> None:
    import argparse

    parser = argparse.ArgumentParser()
    add_dataclass_flags(parser, Settings)
    words = ["--samples", "1_000", "--no-resume", "--names", "a,b"]
    assert dataclass_from_flags(parser.parse_args(words), Settings) == Settings(1000, 1e-3, False, ("a", "b"))
    assert dataclass_from_flags(parser.parse_args([]), Settings) == Settings()
    text = " ".join(parser.format_help().split())
    assert "puzzles to see in all; 100 % of them (default 10)" in text
    assert comma_list('a, "b, c"') == ["a", "b, c"]


def test_train_passes_its_flags_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from svip_search.training import policy

    seen: list[Any] = []

    def train(config: Any, progress: Callable[[int, int, str], None]) -> Path:
        seen.append(config)
        progress(64, 64, "loss 0.1")
        return Path("runs/x")

    monkeypatch.setattr(policy, "train_policy", train)
    code, out, err = run("train", "policy", "--samples", 64, "--seed", 3)
    assert (code, out) == (0, "saved to runs/x\n")
    assert err == "policy 64/64  loss 0.1\n"
    assert (seen[0].samples, seen[0].seed) == (64, 3)
    assert run("train", "policy", "--samples", "many")[0] == 2


def test_help_of_all_commands_without_torch() -> None:
    before = "torch" in sys.modules
    build_parser(["solve"])
    assert ("torch" in sys.modules) == before


def test_retrieval_takes_worked_examples_from_a_file(run: Run, picture: str, tmp_path: Path) -> None:
    ask = ["solve", picture, "Which?", "--options", "a,b", "--strategy", "retrieval-mcts", "--n", 2, "--quiet"]
    code, _, err = run(*ask)
    assert code == 2
    assert "--examples: must be given" in err
    file = tmp_path / "examples.jsonl"
    for text, complaint in (("", "holds no examples"), ('{"question": "q"}\n', "example 1"), ("[1]\n", "example 1")):
        file.write_text(text, encoding="utf-8")
        code, _, err = run(*ask, "--examples", file)
        assert code == 2
        assert complaint in err
    assert "cannot read" in run(*ask, "--examples", tmp_path)[2]
    file.write_text('{"question": "Which?", "steps": ["Look."], "answer": "a"}\n', encoding="utf-8")
    code, out, _ = run(*ask, "--examples", file)
    assert code == 0
    assert out.strip() in ("a", "b")
    code, _, err = run("evaluate", write_questions(tmp_path), "--strategies", "retrieval-mcts")
    assert code == 2
    assert "needs worked examples" in err


def test_every_strategy_solves_from_the_command_line(run: Run, picture: str) -> None:
    for name in STRATEGIES:
        if name != "retrieval-mcts":
            ask = ("solve", picture, "Which?", "--options", "a,b", "--strategy", name, "--n", 4, "--patience", 3)
            code, out, _ = run(*ask, "--quiet")
            assert code == 0, name
            assert out.strip() in ("a", "b")


def test_a_search_that_converged_does_not_speak_of_a_budget(run: Run, picture: str) -> None:
    code, out, _ = run("solve", picture, "Which?", "--strategy", "self-consistency", "--n", 40, "--patience", 1)
    assert code == 0
    assert "budget" not in out
    question = Question("Which?", options=["red"])
    result = solve(question, HashPolicy(), HashReward(), SelfConsistency(n=40, chunk=1, patience=2))
    assert answer_line(result).plain == "Answer: red  (best so far, converged)"

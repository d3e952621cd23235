"""Runs on a Ray cluster: a local one of real processes, some of which are killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from run_cases import records, write_questions

from svip_search import Budget, Question, Tree, make
from svip_search._errors import JournalError, PolicyError, RewardError
from svip_search._journal import Journal
from svip_search.datasets.puzzles import generate_puzzle
from svip_search.runs.questions import read_questions
from svip_search.runs.runner import run
from svip_search.runs.stop import Stop
from svip_search.runs.workers import Plan
from svip_search.testing import HashReward

ray = pytest.importorskip("ray", reason="needs Ray")
pytestmark = [pytest.mark.filterwarnings("ignore::ResourceWarning")]  # of Ray's own files and pipes

from svip_search.runs.cluster import Cluster, JournalActor, RayStore, RayWorkers  # noqa: E402
from svip_search.runs.cluster._ray import _knock, connect  # noqa: E402
from svip_search.runs.cluster.replicas import RayReward, Replica  # noqa: E402
from svip_search.runs.cluster.store import Files  # noqa: E402

HASH = {"policy": "svip_search.testing:HashPolicy", "reward": "svip_search.testing:HashReward"}
SLOW = {"policy": "run_cases:SlowPolicy", "reward": "run_cases:rewarding"}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One cluster for all tests: it takes seconds to start."""
    os.environ["SVIP_TEST_PAUSE"] = "0.05"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    assert connect(None, 6)
    yield
    ray.shutdown()


def journal_of(path: Path, questions: Path) -> Journal:
    journal = Journal.open(path, fingerprint={"a": 1})
    journal.add((entry.id, entry.hash, entry.payload) for entry in read_questions(questions))
    return journal


def plan_of(tmp_path: Path, **more: Any) -> Plan:
    settings = {"strategy": make("mcts", n=6), "budget": Budget(), "lease": 1.5, "searches": 4, **HASH, **more}
    return Plan(journal=str(tmp_path / "run.db"), folder=str(tmp_path), **settings)


def answers(journal: Journal) -> dict[str, Any]:
    """What a run has found, without what timing and caches may change."""
    found = {}
    for id, result in journal.results():
        usage = {name: result["usage"][name] for name in ("policy_calls", "reward_calls", "nodes", "policy_tokens")}
        found[id] = {name: result[name] for name in ("answer", "trajectory", "trajectories", "votes", "seed")} | usage
    return found


def local(tmp_path: Path, questions: Path, plan: Plan) -> dict[str, Any]:
    with journal_of(tmp_path / "local.db", questions) as journal:
        run(journal, *plan.load(), plan.strategy, plan.budget, seed=plan.seed, folder=plan.folder)
        return answers(journal)


def quiet(counts: Any, stats: Any) -> None:
    pass


@pytest.mark.parametrize("replicas", [0, 2])
def test_the_results_are_those_of_a_local_run(tmp_path, replicas):
    questions = write_questions(tmp_path / "q.jsonl", 24)
    plan = plan_of(tmp_path)
    with journal_of(tmp_path / "run.db", questions) as journal:
        seen, spent = [], []

        def watch(counts: Any, stats: Any) -> None:
            seen.append(counts.done)
            spent.append(stats.usage.tokens)

        workers = RayWorkers(plan, Cluster(workers=2, policy_replicas=replicas, reward_replicas=replicas), journal)
        assert workers.run(Stop(), watch) == 0
        journal.verify()
        assert answers(journal) == local(tmp_path, questions, plan) and len(answers(journal)) == 24
    assert seen[-1] == 24 and spent[-1] > 0


@pytest.mark.parametrize("victim", ["worker", "journal", "replica"])
def test_whatever_is_killed_nothing_is_lost_or_made_twice(tmp_path, victim):
    questions = write_questions(tmp_path / "q.jsonl", 40)
    plan = plan_of(tmp_path, **SLOW)
    killed = []
    with journal_of(tmp_path / "run.db", questions) as journal:
        replicas = 1 if victim == "replica" else 0
        workers = RayWorkers(plan, Cluster(workers=2, policy_replicas=replicas), journal)

        def watch(counts: Any, stats: Any) -> None:
            if not killed and 2 <= counts.done < 36:
                killed.append(pid_of(victim, workers))
                os.kill(killed[0], signal.SIGKILL)

        assert workers.run(Stop(), watch) == 0
        journal.verify()
        assert journal.counts().done == 40 and killed
        found = answers(journal)
    undisturbed = local(tmp_path, questions, plan)
    assert found == undisturbed


def pid_of(victim: str, workers: RayWorkers) -> int:
    if victim == "worker":
        return workers.pids()[0]
    if victim == "journal":
        return ray.get(workers._actor.pid.remote())
    return ray.get(workers._replicas[0][0].pid.remote())


def test_pictures_are_brought_from_the_driver(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    generate_puzzle(11, 0).image.save(here / "0.png")
    Journal.open(here / "none.db").close()
    name, actor = JournalActor.start(str(here / "none.db"))
    files = Files(name, str(there))
    picture = here / "0.png"
    assert files.local(str(picture)) == str(picture)  # it is there
    content = picture.read_bytes()
    (hidden := here / "hidden.png").write_bytes(content)
    copy = Path(str(there) + str(hidden))
    assert ray.get(actor.read.remote(str(hidden))) == content
    files._write(copy, content)
    hidden.unlink()
    assert files.local(str(hidden)) == str(copy) == files.local(str(copy))
    assert copy.read_bytes() == content
    assert files.local(str(here / "nowhere.png")) == str(here / "nowhere.png")


def test_a_real_policy_that_all_workers_ask_says_the_same(tmp_path):
    puzzles = [generate_puzzle(11, i) for i in range(2)]
    lines = []
    for i, puzzle in enumerate(puzzles):
        puzzle.image.save(tmp_path / f"{i}.png")
        question = puzzle.question
        lines.append({"question": question.text, "images": [f"{i}.png"], "options": list(question.options)})
    questions = tmp_path / "q.jsonl"
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    more = {"policy": "puzzle-nano", "reward": "none", "strategy": make("self-consistency", n=3)}
    plan = plan_of(tmp_path, **more)
    with journal_of(tmp_path / "run.db", questions) as journal:
        RayWorkers(plan, Cluster(workers=1, policy_replicas=1), journal).run(Stop(), quiet)
        found = answers(journal)
    # Not bit for bit: how many candidates share a batch rounds log-probabilities differently.
    assert steps_of(found) == steps_of(local(tmp_path, questions, plan)) and len(found) == 2


def steps_of(found: dict[str, Any]) -> dict[str, Any]:
    return {id: [[step["text"] for step in t["steps"]] for t in row["trajectories"]] for id, row in found.items()}


def test_no_more_is_noted_of_questions_than_allowed_and_what_is_dropped_is_sent_again(tmp_path, monkeypatch):
    monkeypatch.setattr("svip_search.runs.cluster.replicas._QUESTIONS", 2)
    with Journal.open(tmp_path / "run.db"):
        name, journal = JournalActor.start(str(tmp_path / "run.db"))
        actor = ray.remote(Replica).options(max_restarts=1, max_task_retries=0)
        places = [actor.remote("reward", partial(HashReward, 3), name, str(tmp_path)) for _ in range(2)]
        reward = RayReward(places)
        questions = [Question(f"Which, {i}?") for i in range(5)]
        wanted = [one.tolist() for one in HashReward(3).evaluate(questions[0], [("a",), ("b",)])]

        def ask() -> None:
            async def run() -> list[Any]:
                return await reward.aevaluate_many([(question, [("a",), ("b",)]) for question in questions])

            assert [[one.tolist() for one in found] for found in asyncio.run(run())] == [wanted] * 5
            assert len(reward._sent) == 2

        ask()
        ask()
        asyncio.run(reward.aevaluate_many([(questions[0], [("a",)])]))  # the last one asked is surely noted
        reward.forget(questions[0])
        assert len(reward._sent) == 1
        for place in places:
            ray.kill(place)
        fails = reward.aevaluate_many([(question, [("a",)]) for question in questions])
        with pytest.raises(RewardError, match="all 2 replicas of the model have died"):
            asyncio.run(fails)
        assert not any(reward._sent.values())
        ray.kill(journal)


def test_a_folder_of_frames_is_brought_whole(tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(3):
        (frames / f"{i}.png").write_bytes(bytes([i]))
    Journal.open(tmp_path / "none.db").close()
    name, actor = JournalActor.start(str(tmp_path / "none.db"))
    content = ray.get(actor.read.remote(str(frames)))
    assert content == {f"{i}.png": bytes([i]) for i in range(3)}
    files = Files(name, str(tmp_path / "there"))
    copy = Path(str(tmp_path / "there") + str(frames))
    for _ in range(2):  # the second time it is there already
        files._write(copy, content)
    assert sorted(p.name for p in copy.iterdir()) == ["0.png", "1.png", "2.png"]
    assert sorted(p.name for p in copy.parent.iterdir()) == ["frames"]


def test_the_proxy_is_a_journal(tmp_path):
    path = tmp_path / "run.db"
    with Journal.open(path) as journal:
        journal.add((r["id"], "h", {"question": r["question"]}) for r in records(600))
        name, _actor = JournalActor.start(str(path))
        store = RayStore(name)
        first = store.claim("me", 2, 30.0)
        assert [item.id for item in first] == ["q0", "q1"] and first[0].attempt == 1
        assert store.renew("me", ["q0", "q1"], 30.0) == ["q0", "q1"]
        assert store.finish("me", "q0", {"x": 1}) and not store.finish("me", "q0", {"x": 2})
        assert store.fail("me", "q1", "no", attempts=1) == "failed"
        store.cache({"a": b"1"})
        assert store.cached(["a", "b"]) == {"a": b"1"}
        assert store.tree("q0") is None
        for item in store.claim("me", 598, 30.0):
            store.finish("me", item.id, {"x": item.id})
        assert [id for id, _ in store.results()] == [id for id, _ in journal.results()]
        assert dict(store.failures()) == {"q1": "no"} and store.counts() == journal.counts()
        with pytest.raises((JournalError, ValueError)):
            store.claim("", 1, 1.0)


def test_trees_of_an_earlier_run_are_searched_further(tmp_path):
    questions = write_questions(tmp_path / "q.jsonl", 4)
    with journal_of(tmp_path / "old.db", questions) as old:
        plan = plan_of(tmp_path)
        run(old, *plan.load(), plan.strategy, folder=plan.folder, keep_trees=True)
        sizes = {id: len(Tree.from_dict(result["tree"])) for id, result in old.results()}
    plan = plan_of(tmp_path, warm_from=str(tmp_path / "old.db"), keep_trees=True)
    with journal_of(tmp_path / "run.db", questions) as journal:
        RayWorkers(plan, Cluster(workers=1), journal).run(Stop(), quiet)
        assert all(len(Tree.from_dict(result["tree"])) > sizes[id] for id, result in journal.results())


@pytest.mark.parametrize("level", [1, 2])
def test_a_run_that_is_asked_to_end_gives_back_what_it_has_not_finished(tmp_path, level):
    questions = write_questions(tmp_path / "q.jsonl", 400)
    stop = Stop(raises=False)
    with journal_of(tmp_path / "run.db", questions) as journal:
        workers = RayWorkers(plan_of(tmp_path, lease=60.0, **SLOW), Cluster(workers=2), journal)

        def watch(counts: Any, stats: Any) -> None:
            while counts.done and stop.level < level:
                stop.request()

        workers.run(stop, watch)
        counts = journal.counts()
        assert 0 < counts.done < 400 and counts.leased == 0 and counts.done + counts.waiting == 400
        journal.verify()


def test_what_stops_one_worker_stops_the_run(tmp_path):
    questions = write_questions(tmp_path / "q.jsonl", 4)
    with journal_of(tmp_path / "run.db", questions) as journal:
        plan = plan_of(tmp_path, policy="svip_search.testing:Nobody")
        with pytest.raises(ValueError, match="Nobody"):
            RayWorkers(plan, Cluster(workers=2), journal).run(Stop(), quiet)
        plan = plan_of(tmp_path, policy="run_cases:DeadlyPolicy")
        start = time.monotonic()
        with pytest.raises(PolicyError, match="one worker after another has died"):
            RayWorkers(plan, Cluster(workers=1), journal).run(Stop(), quiet)
        assert time.monotonic() - start < 90
        assert journal.counts().done == 0


def test_bad_clusters_are_refused_in_one_line():
    for name, value in (("workers", 0), ("policy_replicas", -1), ("worker_cpus", -1.0), ("replica_gpus", float("nan"))):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            Cluster(**{name: value})
    with pytest.raises(ValueError, match="`address` must be host:port"):
        connect("ray://somewhere:10001", 1)
    for address in ("127.0.0.1:9", "nowhere", "127.0.0.1:port"):
        with pytest.raises(ConnectionError, match="`address` must be that of a Ray cluster"):
            _knock(address)

"""``svip-search run``: a file of questions, however long it takes and whatever happens meanwhile."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .._budget import Budget
from ..strategies import STRATEGIES, make
from ._arguments import UsageError, non_negative_float, output_file, positive_float, positive_int
from .solve import reward_name

if TYPE_CHECKING:
    from .._journal import Journal
    from .._schedule import RunStats
    from ..runs.cluster import RayWorkers
    from ..runs.protocols import Counts
    from ..runs.workers import Plan, Workers


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "run",
        help="answer a file of questions, in a run that survives anything",
        description="Search for the answer to every question of a file.  Results go into a journal one by one, and "
        "from there into --out.  The same command continues a run that was interrupted, killed or cut off, and "
        "several processes, started at any time, share one.  Ctrl-C ends it once the open searches have ended, "
        "a second one at once.",
    )
    parser.add_argument("questions", metavar="QUESTIONS", help="JSON lines: question, images, options, answer, id")
    parser.add_argument("--out", type=output_file, required=True, metavar="FILE",
                        help="results: JSON lines, or Parquet where it ends in .parquet")  # fmt: skip
    _add_models(parser)
    _add_search(parser)
    _add_work(parser)
    _add_output(parser)
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    parser.set_defaults(run=run)


def _add_models(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("models")
    group.add_argument("--policy", default="puzzle-tiny", metavar="NAME", help="name, folder, hub id, address of a "
                       "server (http://host/v1), or module:object (puzzle-tiny)")  # fmt: skip
    group.add_argument("--model", metavar="NAME", help="what the policy's server calls the model")
    group.add_argument("--reward", default="auto", metavar="NAME", help="name, folder, address of a server, "
                       "module:object, 'none', or 'auto': the embedded one of the policy's puzzles (auto)")  # fmt: skip
    group.add_argument("--api-key-env", default="SVIP_API_KEY", metavar="NAME",
                       help="environment variable with the key of the servers (SVIP_API_KEY)")  # fmt: skip


def _add_search(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("search; another setting is another run, with a journal of its own")
    group.add_argument("--strategy", default="mcts", help=f"how to search (mcts): {', '.join(STRATEGIES)}")
    group.add_argument("--n", type=positive_int, default=16, metavar="N", help="trajectories or iterations (16)")
    group.add_argument("--patience", type=positive_int, metavar="N",
                       help="end a search once N more trajectories have not changed the answer")  # fmt: skip
    group.add_argument("--temperature", type=non_negative_float, help="of the policy's sampling (default 1)")
    group.add_argument("--budget-tokens", type=positive_int, metavar="N", help="policy and reward tokens a question")
    group.add_argument("--budget-calls", type=positive_int, metavar="N", help="calls of the policy a question")
    group.add_argument("--budget-seconds", type=positive_float, metavar="S", help="time a question")
    group.add_argument("--seed", type=int, default=0, help="the same seed gives the same results (0)")
    group.add_argument("--warm-from", metavar="JOURNAL", help="search the trees of an earlier run (--trees) further")


def _add_work(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("work")
    group.add_argument("--journal", type=output_file, metavar="FILE", help="keeps the run (default: OUT as .db)")
    group.add_argument("--searches", type=positive_int, default=16, metavar="N", help="open at once (16)")
    group.add_argument("--processes", type=positive_int, metavar="N",
                       help="each with models of its own (1; with --ray 2)")  # fmt: skip
    group.add_argument("--ray", nargs="?", const="", metavar="ADDRESS", help="--processes on a Ray cluster instead: "
                       "host:port, 'auto' for the one of this machine, or nothing to start one here")  # fmt: skip
    group.add_argument("--policy-replicas", type=positive_int, default=0, metavar="N",
                       help="with --ray: processes with the policy, for all to ask (0: each has its own)")  # fmt: skip
    group.add_argument("--reward-replicas", type=positive_int, default=0, metavar="N",
                       help="with --ray: the same for the reward model")  # fmt: skip
    group.add_argument("--replica-gpus", type=non_negative_float, default=0.0, metavar="G",
                       help="with --ray: GPUs of each of these (0)")  # fmt: skip
    group.add_argument("--lease", type=positive_float, default=60.0, metavar="S",
                       help="seconds after which others take over from a process that died (60)")  # fmt: skip
    group.add_argument("--attempts", type=positive_int, default=3, metavar="N",
                       help="tries of a question whose models fail (3)")  # fmt: skip
    group.add_argument("--retry-failed", action="store_true", help="try what has failed again")
    group.add_argument("--check", action="store_true", help="look for all pictures and videos before beginning")
    group.add_argument("--no-call-cache", action="store_true", help="do not keep calls of the models")


def _add_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--trees", nargs="?", const=True, default=False, metavar="FOLDER",
                       help="keep the trees: in a column of --out, or one file each in a folder")  # fmt: skip
    group.add_argument("--export-only", action="store_true", help="write --out from the journal, search nothing")
    group.add_argument("--quiet", action="store_true", help="no progress bar and no summary")


def run(arguments: argparse.Namespace) -> int:
    """Run, export, and return the exit code."""
    from .._journal import Journal
    from ..runs.stop import terminable

    path = arguments.journal or arguments.out.with_suffix(".db")
    with terminable():
        _check(arguments, path)
        plan = None if arguments.export_only else _plan(arguments, path)
        settings = None if plan is None else _settings(arguments, plan)
        with Journal.open(path, fingerprint=settings, create=plan is not None) as journal:
            try:
                gave_up, level = (0, 0) if plan is None else _search(arguments, plan, journal)
                _export(arguments, journal)
                return _summary(arguments, journal, gave_up, level) if journal.in_place() else 2
            finally:
                if not journal.in_place():
                    _save(journal)


def _search(arguments: argparse.Namespace, plan: Plan, journal: Journal) -> tuple[int, int]:
    _prepare(arguments, journal)
    return _work(arguments, plan, journal)


def _export(arguments: argparse.Namespace, journal: Journal) -> None:
    """Write the file of results; where that fails, nothing is lost."""
    from ..runs.export import export

    try:
        export(journal, arguments.out, _ids(arguments.questions), trees=arguments.trees)
    except OSError as error:
        where = "" if error.filename is None else f" ('{error.filename}')"
        raise UsageError(
            f"the results cannot be written to '{arguments.out}': {error.strerror or error}{where}; "
            f"they are in {journal.path}, and --export-only writes them again"
        ) from error


def _save(journal: Journal) -> NoReturn:
    """Write what was in a journal to another file, since its own was deleted, moved or replaced."""
    from .._errors import JournalError

    saved = f"{journal.path}.saved"
    journal.snapshot(saved)
    raise JournalError(
        f"the journal {journal.path} was deleted, moved or replaced during the run; "
        f"everything that was in it is in {saved}"
    )


def _check(arguments: argparse.Namespace, journal: Path) -> None:
    """Refuse what cannot be meant, before anything is written."""
    from ..runs.models import is_address

    if arguments.strategy not in STRATEGIES:
        names = ", ".join(STRATEGIES)
        raise UsageError(f"argument --strategy: must be one of {names}; got {arguments.strategy!r}")
    if arguments.strategy == "retrieval-mcts":
        raise UsageError("argument --strategy: 'retrieval-mcts' needs worked examples, see `svip-search solve`")
    if arguments.reward == "none" and STRATEGIES[arguments.strategy].needs_reward:
        raise UsageError("argument --reward: this strategy needs a reward model; got 'none'")
    if is_address(arguments.policy) and arguments.model is None:
        raise UsageError("argument --model: must be given for a policy on a server")
    if not Path(arguments.questions).is_file():
        raise UsageError(f"argument QUESTIONS: must be a file; there is no '{arguments.questions}'")
    if arguments.export_only and not (journal.is_file() and journal.stat().st_size):
        raise UsageError(f"argument --export-only: there is no journal '{journal}'")
    if len({p.resolve() for p in (Path(arguments.questions), arguments.out, journal)}) < 3:
        raise UsageError("QUESTIONS, --out and --journal must be three files")
    _check_output(arguments)


def _check_output(arguments: argparse.Namespace) -> None:
    """Refuse results that could not be written, now rather than after the search."""
    out = Path(os.path.realpath(arguments.out))
    if out.exists() and not out.is_file():
        raise UsageError(f"argument --out: must be a file; '{arguments.out}' is something else")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise UsageError(f"argument --out: its folder must be one that can be written; got '{out.parent}'")
    if isinstance(arguments.trees, str):
        try:
            Path(arguments.trees).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"{error.strerror}: '{arguments.trees}'"
            raise UsageError(f"argument --trees: must be a folder that can be made; {reason}") from None


def _plan(arguments: argparse.Namespace, journal: Path) -> Plan:
    from ..runs.workers import Plan

    wanted = {"temperature": arguments.temperature, "patience": arguments.patience}
    given: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    return Plan(
        journal=str(journal), folder=str(Path(arguments.questions).parent), policy=arguments.policy,
        reward=reward_name(arguments), strategy=make(arguments.strategy, n=arguments.n, **given),
        budget=Budget(
            tokens=arguments.budget_tokens, policy_calls=arguments.budget_calls, seconds=arguments.budget_seconds
        ),
        model=arguments.model, seed=arguments.seed, searches=arguments.searches, lease=arguments.lease,
        attempts=arguments.attempts, keep_trees=bool(arguments.trees), warm_from=arguments.warm_from,
        cache=not arguments.no_call_cache, api_key_name=arguments.api_key_env,
    )  # fmt: skip


def _settings(arguments: argparse.Namespace, plan: Plan) -> dict[str, Any]:
    """Return the fingerprint of the run: what its journal must have been made with."""
    from ..runs.models import identity
    from ..runs.settings import fingerprint

    key = os.environ.get(plan.api_key_name)
    policy, reward = identity(plan.policy, "policy", plan.model), identity(plan.reward, "reward", api_key=key)
    warm = {} if plan.warm_from is None else {"warm_from": Path(plan.warm_from).name}
    return fingerprint(plan.strategy, plan.budget, plan.seed, policy, reward, **warm)


def _prepare(arguments: argparse.Namespace, journal: Journal) -> None:
    """Put the questions into the journal, all or none."""
    from ..runs.questions import read_questions

    entries = read_questions(arguments.questions, check=arguments.check)
    journal.add((entry.id, entry.hash, entry.payload) for entry in entries)
    if arguments.retry_failed:
        journal.retry()


def _ids(questions: str) -> Any:
    from ..runs.questions import read_questions

    return (entry.id for entry in read_questions(questions))


def _work(arguments: argparse.Namespace, plan: Plan, journal: Journal) -> tuple[int, int]:
    """Search; return the code with which the run gave up (0: it did not), and how often it was asked to end."""
    from .._errors import PolicyError
    from ..runs.runner import Abandoned
    from ..runs.stop import Stop
    from ..runs.workers import take_part_here
    from ._progress import training_bar

    counts = journal.counts()
    if not counts.waiting and not counts.leased:
        return 0, 0
    _look_at_server(arguments, plan)
    workers = _workers(arguments, plan, journal)
    loaded = plan.load() if workers is None else (None, None)
    stop = Stop(raises=workers is None)
    with training_bar("questions", arguments.quiet) as report, stop.listening():
        show = _shown(report)
        try:
            if workers is not None:
                return workers.run(stop, show), stop.level
            take_part_here(plan, loaded, stop, show)
        except Abandoned:
            pass  # the second request came just before or after the searches
        except PolicyError as error:
            print(f"svip-search: error: {error}", file=sys.stderr)
            return 1, stop.level
    return 0, stop.level


def _look_at_server(arguments: argparse.Namespace, plan: Plan) -> None:
    """Say before the searches what would make all of them fail."""
    from .._errors import PolicyError
    from ..runs.models import look_at_server

    try:
        note = look_at_server(plan.policy, plan.model, os.environ.get(plan.api_key_name))
    except PolicyError as error:
        raise UsageError(f"argument --api-key-env: {error}") from error
    if note is not None and not arguments.quiet:
        print(f"svip-search: note: {note}", file=sys.stderr)


def _workers(arguments: argparse.Namespace, plan: Plan, journal: Journal) -> Workers | RayWorkers | None:
    """Return the processes that are to search; None where this one does."""
    if arguments.ray is not None:
        from ..runs.cluster import Cluster, RayWorkers

        cluster = Cluster(
            address=arguments.ray or None, workers=arguments.processes or 2, replica_gpus=arguments.replica_gpus,
            policy_replicas=arguments.policy_replicas, reward_replicas=arguments.reward_replicas,
        )  # fmt: skip
        return RayWorkers(plan, cluster, journal)
    if arguments.policy_replicas or arguments.reward_replicas:
        raise UsageError("arguments --policy-replicas and --reward-replicas: need --ray")
    if (arguments.processes or 1) == 1:
        return None
    from ..runs.workers import Workers

    return Workers(plan, arguments.processes, journal)


def _shown(report: Callable[[int, int, str], None]) -> Callable[[Counts, RunStats], None]:
    def show(counts: Counts, stats: RunStats) -> None:
        failed = f"  {counts.failed:,} failed" if counts.failed else ""
        report(counts.done + counts.failed, counts.total, f"{stats.tokens_per_second:,.0f} tokens/s{failed}")

    return show


def _summary(arguments: argparse.Namespace, journal: Journal, gave_up: int, level: int) -> int:
    """Say how the run stands, and return the exit code."""
    counts = journal.counts()
    left = counts.waiting + counts.leased
    interrupted = level > 0 and left > 0
    if not arguments.quiet or interrupted:
        failed = f", {counts.failed:,} failed" if counts.failed else ""
        goes_on = f"; the same command does the other {left:,}" if left else ""
        head = "svip-search: interrupted: " if interrupted else ""
        print(f"{head}{counts.done:,} of {counts.total:,} done{failed}{goes_on}", file=sys.stderr)
    if interrupted:
        return 130
    return gave_up or int(bool(counts.failed or left) and not arguments.export_only)

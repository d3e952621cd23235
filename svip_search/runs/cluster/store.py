"""The journal of a run for processes on other machines: an actor that has it, and a proxy that asks the actor."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ..._tree import Tree
from ..protocols import Counts, Item
from ._ray import load_ray, unwrapped

#: Results that cross at a time.
PAGE = 256


class JournalActor:
    """A journal on the machine of its file, and the files its items name; to be made with `start`.

    Args:
        path: of the journal.
        warm_from: of the journal whose trees are searched further.
    """

    def __init__(self, path: str, warm_from: str | None = None) -> None:
        from ..._journal import Journal
        from ..workers import saved_trees

        self._journal = Journal.open(path, create=False)
        self._tree = (lambda id: None) if warm_from is None else saved_trees(warm_from)

    @classmethod
    def start(cls, path: str, warm_from: str | None = None) -> tuple[str, Any]:
        """Start such an actor on this machine; return its name, and its handle, with which it ends.

        It is started again should it die, and what it was asked meanwhile is asked again.  That does no harm: an
        item that was claimed for nobody is claimable once its lease has ended, and a result is written once.
        """
        ray = load_ray()
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        name = f"svip-search-journal-{secrets.token_hex(8)}"
        actor = ray.remote(cls).options(
            name=name, num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here
        )
        handle = actor.remote(os.path.abspath(path), warm_from and os.path.abspath(warm_from))
        ray.get(handle.pid.remote())
        return name, handle

    def pid(self) -> int:
        """Return the number of the process, as soon as the journal is open."""
        return os.getpid()

    def call(self, name: str, *arguments: Any, **more: Any) -> Any:
        """Return what a method of the journal returns."""
        return getattr(self._journal, name)(*arguments, **more)

    def page(self, name: str, start: int, ids: Sequence[str] | None = None) -> list[Any]:
        """Return some of what ``results`` or ``failures`` yields, from a place on."""
        found = getattr(self._journal, name)(*([] if name == "failures" else [ids]))
        return list(islice(found, start, start + PAGE))

    def tree(self, id: str) -> Tree | None:
        """Return the tree that the search of an item begins with."""
        return self._tree(id)

    def read(self, path: str) -> bytes | dict[str, bytes] | None:
        """Return the content of a file, that of each file of a folder, or None where there is neither."""
        found = Path(path)
        if not found.is_dir():
            return _content(found)
        inside = {child.name: _content(child) for child in sorted(found.iterdir())}
        return {name: content for name, content in inside.items() if content is not None}


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if stat.S_ISREG(path.stat().st_mode) else None
    except OSError:
        return None


class RayStore:
    """A journal as `run` needs it, by way of a `JournalActor`.

    Args:
        actor: its name.
        files: brings the files that items name; None leaves their paths as they are.
        folder: where relative paths begin on the machine of the journal.

    Raises:
        JournalError: what the journal raises there is raised here.
    """

    def __init__(self, actor: str, files: Files | None = None, folder: str = "") -> None:
        self._files, self._folder = files, os.path.abspath(folder)
        self._ray = load_ray()
        self.actor = self._ray.get_actor(actor)

    def claim(self, owner: str, limit: int, lease: float) -> Sequence[Item]:
        items: list[Item] = self._call("claim", owner, limit, lease)
        if self._files is not None:
            for item in items:
                self._localise(item.payload)
        return items

    def renew(self, owner: str, ids: Sequence[str], lease: float) -> list[str]:
        kept: list[str] = self._call("renew", owner, list(ids), lease)
        return kept

    def release(self, owner: str, ids: Sequence[str]) -> None:
        self._call("release", owner, list(ids))

    def finish(self, owner: str, id: str, result: Any) -> bool:
        return bool(self._call("finish", owner, id, result))

    def fail(self, owner: str, id: str, error: str, *, attempts: int) -> str:
        return str(self._call("fail", owner, id, error, attempts=attempts))

    def counts(self) -> Counts:
        counts: Counts = self._call("counts")
        return counts

    def results(self, ids: Sequence[str] | None = None) -> Iterator[tuple[str, Any]]:
        return self._pages("results", None if ids is None else list(ids))

    def failures(self) -> Iterator[tuple[str, str]]:
        return self._pages("failures")

    def cached(self, keys: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = self._call("cached", list(keys))
        return found

    def cache(self, entries: Mapping[str, bytes]) -> None:
        self._call("cache", dict(entries))

    def tree(self, id: str) -> Tree | None:
        """Return the tree that the search of an item begins with."""
        found: Tree | None = self._get(self.actor.tree.remote(id))
        return found

    def _localise(self, payload: dict[str, Any]) -> None:
        assert self._files is not None
        for field in ("images", "videos"):
            if field in payload:
                payload[field] = [self._files.local(os.path.join(self._folder, name)) for name in payload[field]]

    def _pages(self, name: str, *arguments: Any) -> Iterator[Any]:
        start = 0
        while page := self._get(self.actor.page.remote(name, start, *arguments)):
            yield from page
            start += len(page)

    def _call(self, name: str, *arguments: Any, **more: Any) -> Any:
        return self._get(self.actor.call.remote(name, *arguments, **more))

    def _get(self, answer: Any) -> Any:
        try:
            return self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:
            raise unwrapped(error) from None


class Files:
    """Files of the driver's machine on another one, brought when they are first needed.

    Args:
        actor: name of a `JournalActor`.
        root: folder for what was brought, the same on all machines.

    Notes:
        A file that is there under its own path, on a shared disk say, is used where it is.
    """

    def __init__(self, actor: str, root: str) -> None:
        self.root = root
        self._ray = load_ray()
        self.actor = self._ray.get_actor(actor)

    def local(self, path: str) -> str:
        """Return the path of a file on this machine; the given one where nobody has the file.

        Args:
            path: on the driver's machine, or one that this function has returned on any machine.
        """
        path = os.path.abspath(path)
        if path.startswith(self.root + os.sep):
            path = path[len(self.root) :]
        if os.path.exists(path):
            return path
        copy = Path(self.root + path)
        if copy.exists():
            return str(copy)
        content = self._ray.get(self.actor.read.remote(path))
        return path if content is None else self._write(copy, content)

    def _write(self, copy: Path, content: bytes | dict[str, bytes]) -> str:
        """Write a file, or a folder, that is never seen half written."""
        copy.parent.mkdir(parents=True, exist_ok=True)
        half = copy.with_name(f".{copy.name}.{os.getpid()}.{os.urandom(4).hex()}")
        if isinstance(content, bytes):
            half.write_bytes(content)
            half.replace(copy)
            return str(copy)
        half.mkdir()
        for name, data in content.items():
            (half / name).write_bytes(data)
        try:
            half.rename(copy)
        except OSError:  # another process of this machine was faster
            for name in content:
                (half / name).unlink()
            half.rmdir()
        return str(copy)

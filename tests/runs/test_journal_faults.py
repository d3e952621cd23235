"""A disk that fails, fills up, cuts or changes what was written: never a crash, never a lost result."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import apsw
import journal_worker
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svip_search._errors import JournalError
from svip_search._journal import Journal

WORKER = journal_worker.__file__
SYSTEM = apsw.vfs_names()[0]  # before a test puts its own in the first place


class Disk(apsw.VFS):
    """The system's files, with a fault at the n-th write or sync, and a copy of all that was synced."""

    def __init__(self, fault=None, at=None, lasting=False, torn=False, synced=None):
        self.fault, self.at, self.lasting, self.torn, self.synced = fault, at, lasting, torn, synced
        self.events, self.read_only = 0, False
        super().__init__("faulty", SYSTEM, makedefault=True)

    def xOpen(self, name, flags):
        if self.read_only and flags[0] & apsw.SQLITE_OPEN_MAIN_DB:
            flags[0] = flags[0] & ~(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE) | apsw.SQLITE_OPEN_READONLY
        return File(self, name, flags)

    def xDelete(self, name, sync):
        super().xDelete(name, sync)
        if self.synced:
            (self.synced / Path(name).name).unlink(missing_ok=True)

    def event(self):
        """Raise if the time has come; return whether it has, where half of a write goes through first."""
        self.events += 1
        due = self.at is not None and (self.events == self.at or (self.lasting and self.events > self.at))
        if due and not self.torn:
            raise self.fault("as the test wants")
        return due

    def excepthook(self, *_):
        """Faults are part of the test: they are not worth a warning."""


class File(apsw.VFSFile):
    def __init__(self, disk, name, flags):
        self.disk = disk
        self.name = Path(name.filename() if isinstance(name, apsw.URIFilename) else name) if name else None
        super().__init__(SYSTEM, name, flags)

    def excepthook(self, *_):
        """As that of the disk."""

    def xWrite(self, data, offset):
        if self.disk.event():
            super().xWrite(data[: len(data) // 2], offset)
            raise self.disk.fault("as the test wants")
        super().xWrite(data, offset)

    def xSync(self, flags):
        if self.disk.event():
            raise self.disk.fault("as the test wants")
        if self.disk.synced and self.name:  # syncing for real would tell nothing, and take long
            shutil.copyfile(self.name, self.disk.synced / self.name.name)


@pytest.fixture
def disk():
    """A disk that becomes the default one, and is taken away at the end."""
    disks = []

    def make(**faults):
        for old in disks:
            old.unregister()
        disks[:] = [Disk(**faults)]
        return disks[0]

    yield make
    for old in disks:
        old.unregister()


class Run:
    """A small run that remembers what it was told."""

    def __init__(self, path):
        self.path = path
        self.finished, self.added = {}, 0

    def go(self, after_finish=lambda: None, now=0):
        with Journal.open(self.path, wait=0, clock=lambda: now) as journal:
            self.added += journal.add((f"item {i}", "hash", {"number": i}) for i in range(6))
            for turn in range(2):
                for item in journal.claim("me", 3, 60):
                    self.work(journal, item, turn)
                    after_finish()

    def work(self, journal, item, turn):
        journal.cache({item.id: item.id.encode() * 300})
        if item.payload["number"] == 4:
            journal.fail("me", item.id, "no", attempts=1)
            return
        result = {"turn": turn, "text": item.id * 400}
        if journal.finish("me", item.id, result):
            self.finished[item.id] = result

    def check(self, path=None):
        """The journal is sound and holds all that was reported."""
        with Journal.open(path or self.path, wait=0) as journal:
            journal.verify()
            results = dict(journal.results())
            assert {id: results.get(id) for id in self.finished} == self.finished
            assert not self.added or journal.counts().total == 6
            assert set(journal.cached(list(self.finished)).values()) <= {id.encode() * 300 for id in self.finished}
        return results


FAULTS = {
    "full": {"fault": apsw.FullError},
    "full from then on": {"fault": apsw.FullError, "lasting": True},
    "error": {"fault": apsw.IOError},
    "error from then on": {"fault": apsw.IOError, "lasting": True},
    "torn": {"fault": apsw.IOError, "torn": True},
    "torn from then on": {"fault": apsw.FullError, "torn": True, "lasting": True},
}


@pytest.mark.parametrize("kind", FAULTS)
def test_the_nth_write_fails(disk, tmp_path, kind):
    whole = disk()
    Run(tmp_path / "whole").go()
    assert whole.events > 60
    messages = []
    for at in range(1, whole.events + 1):
        run = Run(tmp_path / f"{at}.journal")
        broken = disk(at=at, **FAULTS[kind])
        try:
            run.go()
        except JournalError as error:
            messages.append(str(error))
        broken.at = None
        run.check()
        run.go(now=100)  # the disk is well again, and the leases have run out: the rest gets done
        assert len(run.check()) == 5
    assert len(messages) > whole.events // 2  # some faults are SQLite's to bear, as those of a checkpoint
    reason = "the disk of the journal" if FAULTS[kind]["fault"] is apsw.FullError else "cannot be read or written"
    for message in messages:
        assert reason in message
        assert str(tmp_path) in message
        assert "\n" not in message


def test_a_journal_goes_on_after_a_fault(disk, tmp_path):
    """The same object works again once there is room, without being opened anew."""
    faulty = disk(fault=apsw.FullError)
    run = Run(tmp_path / "j")
    with Journal.open(run.path, wait=0) as journal:
        journal.add((f"item {i}", "hash", {"number": i}) for i in range(4))
        for item in journal.claim("me", 4, 60):
            faulty.at = faulty.events + 1
            with pytest.raises(JournalError, match=r"full; nothing finished is lost, free some space and go on"):
                journal.finish("me", item.id, 1)
            faulty.at = None
            run.work(journal, item, 0)
        assert journal.counts().leased == 0
    run.check()


def test_what_was_reported_survives_a_power_cut(disk, tmp_path):
    """A copy of what had been synced, and of nothing else, holds every result reported until then."""
    folder = tmp_path / "synced"
    folder.mkdir()
    cutting = disk(synced=folder)
    run = Run(tmp_path / "run.journal")
    cuts = []

    def cut():
        copy = tmp_path / f"cut {len(cuts)}"
        shutil.copytree(folder, copy)
        found = Run(copy / "run.journal")
        found.finished, found.added = dict(run.finished), run.added
        cuts.append(found)

    run.go(cut)
    cutting.synced = None
    assert len(cuts) == 6
    for found in cuts:
        found.check()


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    """A journal as a killed process leaves it, half of it checkpointed: files, and ids in the order of finishing."""
    folder = tmp_path_factory.mktemp("crashed")
    with Journal.open(folder / "j") as journal:
        journal.add((f"item {i}", "hash", {"number": i}) for i in range(60))
        claimed = [item.id for item in journal.claim("me", 60, 1e9)]
        journal.cache({f"key {i}": os.urandom(300) for i in range(10)})
        for id in claimed[:20]:
            journal.finish("me", id, {"text": id * 100})
        with journal._connection.using() as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        for id in claimed[20:40]:
            journal.finish("me", id, {"text": id * 100})
        files = {end: Path(f"{folder / 'j'}{end}").read_bytes() for end in ("", "-wal")}
    assert len(files["-wal"]) > 100_000
    return files, claimed[:40]


def restore(folder, files):
    for name in os.listdir(folder):
        os.unlink(folder / name)
    for end, content in files.items():
        (folder / f"j{end}").write_bytes(content)
    return folder / "j"


def use_it_all(path):
    """Do what a run would do, and return the results; the journal was sound if nothing was raised."""
    with Journal.open(path, wait=0) as journal:
        results = dict(journal.results())
        for item in journal.claim("you", 3, 60):
            journal.finish("you", item.id, {"text": item.id * 100})
        journal.add([("item 3", "hash", {}), ("another", "hash", {})])
        journal.cached([f"key {i}" for i in range(10)])
        list(journal.failures())
        journal.counts()
        journal.verify()
    return results


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_truncated_log_loses_its_end_only(crashed, tmp_path_factory, data):
    files, ids = crashed
    length = data.draw(st.integers(0, len(files["-wal"])))
    folder = tmp_path_factory.getbasetemp() / "truncated"
    folder.mkdir(exist_ok=True)
    results = use_it_all(restore(folder, {"": files[""], "-wal": files["-wal"][:length]}))
    assert list(results) == ids[: len(results)]
    assert len(results) >= 20
    assert results == {id: {"text": id * 100} for id in results}


@pytest.mark.parametrize("which", ["", "-wal"])
def test_flipped_bits_are_harmless_or_an_error(crashed, disk, tmp_path, which):
    disk()  # one that does not sync is faster
    files, ids = crashed
    chance, outcomes = random.Random(which), []
    for turn in range(250):
        content = bytearray(files[which])
        # The first bytes say the most: half of the flips go there.
        place = chance.randrange(100 if turn % 2 and which == "" else len(content))
        content[place] ^= 1 << chance.randrange(8)
        path = restore(tmp_path, files | {which: bytes(content)})
        try:
            results = use_it_all(path)
        except JournalError as error:
            outcomes.append(str(error))
        else:
            assert results == {id: {"text": id * 100} for id in ids[: len(results)]}
            assert len(results) == 40 or (which == "-wal" and len(results) >= 20)
            outcomes.append("fine")
    assert "fine" in outcomes
    errors = [outcome for outcome in outcomes if outcome != "fine"]
    assert bool(errors) == (which == "")  # SQLite ends a log at the first frame whose checksum is wrong
    assert all(str(tmp_path) in error and "\n" not in error for error in errors)


def test_a_truncated_file_is_an_error_or_fine(crashed, tmp_path):
    files, ids = crashed
    chance = random.Random(0)
    for _ in range(80):
        length = chance.randrange(1, len(files[""]))
        with contextlib.suppress(JournalError):
            assert list(use_it_all(restore(tmp_path, {"": files[""][:length]}))) == ids[:20]


def test_damage_met_on_the_way_is_explained(crashed, tmp_path):
    """SQLite's own check says where the damage is."""
    files, _ = crashed
    pages = bytearray(files[""])
    with Journal.open(restore(tmp_path, files)) as journal, journal._connection.using() as db:
        [(page,)] = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'waiting'").fetchall()
        [(items,)] = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'items'").fetchall()
    for number in (page, items):
        pages[(number - 1) * 4096 : number * 4096] = b"\xa5" * 4096
    with Journal.open(restore(tmp_path, {"": bytes(pages)})) as journal:
        with pytest.raises(JournalError, match=r"the journal .*/j is damaged: .*; go on from a snapshot, or start"):
            journal.claim("me", 1, 60)
        with pytest.raises(JournalError, match="is damaged: "):
            journal.verify()
        assert journal.counts().done == 20


class TestDisks:
    def test_a_full_database(self, tmp_path):
        with Journal.open(tmp_path / "j") as journal:
            journal.add((str(i), "hash", None) for i in range(100))
            journal.claim("me", 100, 60)
            with journal._connection.using() as db:
                db.execute("PRAGMA max_page_count = 60").fetchall()
            done = 0
            with contextlib.suppress(JournalError):
                while journal.finish("me", str(done), "x" * 5000):
                    done += 1
            with pytest.raises(JournalError, match=r"the disk of the journal .*/j is full; nothing finished is lost"):
                journal.finish("me", str(done), "x" * 5000)
            assert journal.counts().done == done > 10
            with journal._connection.using() as db:
                db.execute("PRAGMA max_page_count = 1000000").fetchall()
            assert journal.finish("me", str(done), "x" * 5000)
            journal.verify()

    @pytest.mark.skipif(sys.platform != "linux", reason="no limits on the size of files here")
    def test_a_file_that_may_not_grow(self, tmp_path):
        limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (3000000, 3000000))"
        code = f"{limit}; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
        found = self.fill(tmp_path / "j", [sys.executable, "-c", code])
        assert "cannot be read or written" in found

    def test_a_small_disk(self, tmp_path):
        """A real one of 3 MB, in memory, which only this child sees; its files are copied out at the end."""
        script = 'mount -t tmpfs -o size=3m none disk || exit 77; "$@"; code=$?; cp disk/* out/ || exit 78; exit $code'
        if shutil.which("unshare") is None:
            pytest.skip("there is no unshare")
        (tmp_path / "disk").mkdir()
        (tmp_path / "out").mkdir()
        command = ["unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh"]
        command += [sys.executable, WORKER, "fill", "disk/j"]
        child = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        if child.returncode in (1, 77) and not child.stdout:
            pytest.skip(f"no disk can be mounted: {child.stderr.strip()}")
        assert child.returncode == 0, child.stderr
        reported, error = child.stdout.splitlines()
        assert "is full; nothing finished is lost" in error
        with Journal.open(tmp_path / "out" / "j") as journal:
            journal.verify()
            assert journal.counts().done == len(list(journal.results())) >= int(reported) > 0

    def fill(self, path, python):
        child = subprocess.run([*python, WORKER, "fill", path], capture_output=True, text=True, timeout=60, check=True)
        reported, error = child.stdout.splitlines()
        with Journal.open(path) as journal:
            journal.verify()
            assert journal.counts().done == len(list(journal.results())) >= int(reported) > 0
        return error

    def test_a_read_only_file(self, tmp_path, disk):
        Journal.open(tmp_path / "j").close()
        disk().read_only = True
        with pytest.raises(JournalError, match=r"the journal .*/j is read-only; a run needs to write it"):
            Journal.open(tmp_path / "j")

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
    def test_a_read_only_folder(self, tmp_path):
        Journal.open(tmp_path / "j").close()
        tmp_path.chmod(0o500)
        try:
            with pytest.raises(JournalError, match=r"the journal .*/j "):
                Journal.open(tmp_path / "j")
        finally:
            tmp_path.chmod(0o700)

    def test_a_file_system_without_shared_memory(self, tmp_path):
        """As on network file systems, whose files SQLite cannot map for several processes."""

        class Plain(apsw.VFS):
            def __init__(self):
                super().__init__("plain", "unix-dotfile", makedefault=True)

        plain = Plain()
        try:
            with pytest.raises(JournalError, match=r"cannot use SQLite's write-ahead log \(its mode stays"):
                Journal.open(tmp_path / "j")
        finally:
            plain.unregister()


class TestLocks:
    @pytest.fixture
    def held(self, tmp_path):
        """A function that lets another process hold a lock on the journal, until the test ends."""
        holders = []

        def hold(sql):
            command = [sys.executable, WORKER, "hold", tmp_path / "j", sql]
            holders.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            assert holders[0].stdout.readline() == "ready\n"
            return holders[0]

        yield hold
        for holder in holders:
            holder.kill()
            holder.communicate()

    def test_a_writer_elsewhere_is_waited_for_and_then_named(self, tmp_path, held):
        with Journal.open(tmp_path / "j", wait=0.2) as journal:
            journal.add([("a", "hash", None)])
            held("BEGIN EXCLUSIVE")
            for call in (
                lambda: journal.claim("me", 1, 60),
                lambda: journal.finish("me", "a", 1),
                lambda: journal.add([("b", "hash", None)]),
                lambda: journal.cache({"k": b"v"}),
            ):
                with pytest.raises(JournalError, match=r"/j is locked by another process; waited 0.2 s$"):
                    call()
            assert journal.counts().waiting == 1  # reading needs no lock
            journal.verify()

    def test_work_goes_on_when_the_other_is_gone(self, tmp_path, held):
        with Journal.open(tmp_path / "j", wait=60) as journal:
            journal.add([("a", "hash", None)])
            holder = held("BEGIN EXCLUSIVE; UPDATE counts SET waiting = 99")
            holder.kill()
            assert [item.id for item in journal.claim("me", 1, 60)] == ["a"]
            journal.verify()

    def test_a_file_that_is_somebodys_alone_is_not_opened(self, tmp_path, held):
        Journal.open(tmp_path / "j").close()
        held("PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE; UPDATE counts SET waiting = 0; COMMIT")
        with pytest.raises(JournalError, match=r"/j is locked by another process; waited 0.1 s$"):
            Journal.open(tmp_path / "j", wait=0.1)

    def test_switching_to_the_log_waits_too(self, tmp_path, held):
        """SQLite does not wait by itself where a file is changed to the write-ahead log that others read."""
        Journal.open(tmp_path / "j").close()
        db = apsw.Connection(str(tmp_path / "j"))
        assert db.execute("PRAGMA journal_mode = DELETE").get == "delete"
        db.close()
        held("BEGIN; SELECT * FROM counts")
        with pytest.raises(JournalError, match=r"/j is locked by another process; waited 0.1 s$"):
            Journal.open(tmp_path / "j", wait=0.1)


# ---- a file that is not there any more ------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="open files can be deleted and renamed on Unix alone")
@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_file_that_is_out_of_place_is_noticed_and_can_be_saved(tmp_path, how):
    """SQLite goes on writing to what nobody finds again."""
    path = tmp_path / "run.db"
    with Journal.open(path, fingerprint={"a": 1}) as journal:
        journal.add([(f"q{i}", "hash", {}) for i in range(9)])
        journal.claim("me", 8, 60.0)
        assert journal.finish("me", "q3", "found")
        assert journal.in_place()
        if how == "deleted":
            path.unlink()
        elif how == "moved":
            path.rename(tmp_path / "elsewhere")
        else:
            (tmp_path / "other").touch()
            (tmp_path / "other").replace(path)
        assert not journal.in_place()
        message = "was deleted or moved while it was in use, or another file put in its place"
        for change in (
            lambda: journal.finish("me", "q4", "lost"), lambda: journal.claim("me", 1, 60.0), journal.retry,
            lambda: journal.renew("me", ["q4"], 9.0), lambda: journal.release("me", ["q4"]),
            lambda: journal.cache({"a": b"b"}), lambda: journal.fail("me", "q4", "no", attempts=3),
            lambda: journal.add([("new", "hash", {})]),
        ):  # fmt: skip
            if how == "deleted":
                assert not path.exists()  # nothing makes it anew
            with pytest.raises(JournalError, match=message):
                change()
        assert list(journal.results()) == [("q3", "found")]
        journal.snapshot(tmp_path / "saved")
    with Journal.open(tmp_path / "saved", fingerprint={"a": 1}) as saved:
        saved.verify()
        assert list(saved.results()) == [("q3", "found")]
        assert (saved.counts().leased, saved.counts().waiting) == (7, 1)


def test_a_journal_that_is_not_to_be_made(tmp_path):
    with pytest.raises(JournalError, match="there is no journal"):
        Journal.open(tmp_path / "run.db", create=False)
    assert not any(tmp_path.iterdir())
    Journal.open(tmp_path / "run.db").close()
    Journal.open(tmp_path / "run.db", create=False).close()

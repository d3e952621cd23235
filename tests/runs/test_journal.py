"""The journal: who gets what in which order, what is kept, and what each refusal says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from itertools import count
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from svip_search._errors import JournalError
from svip_search._journal import Counts, Item, Journal, _adding, _leasing, _reading, new_owner


class Clock:
    """A clock on the wall that somebody sets."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


def items(*ids):
    return [(id, f"hash of {id}", {"text": id}) for id in ids]


def ids_of(claimed):
    return [item.id for item in claimed]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.journal"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def journal(path, clock):
    with Journal.open(path, clock=clock, wait=0.3) as journal:
        yield journal
        journal.verify()


class TestWork:
    def test_an_item_goes_from_waiting_to_done(self, journal):
        assert journal.add(items("a", "b", "c")) == 3
        assert journal.claim("me", 2, 60) == [Item("a", {"text": "a"}, 1), Item("b", {"text": "b"}, 1)]
        assert journal.counts() == Counts(waiting=1, leased=2, done=0, failed=0)
        assert journal.finish("me", "b", {"answer": "é☃", "score": 0.5})
        assert journal.counts() == Counts(waiting=1, leased=1, done=1, failed=0)
        assert journal.counts().total == 3
        assert list(journal.results()) == [("b", {"answer": "é☃", "score": 0.5})]

    def test_nothing_to_claim_is_an_empty_list(self, journal):
        assert journal.claim("me", 3, 60) == []
        journal.add(items("a"))
        assert ids_of(journal.claim("me", 3, 60)) == ["a"]
        assert journal.claim("you", 3, 60) == []

    def test_a_lease_that_ran_out_is_claimed_after_what_waits(self, journal, clock):
        journal.add(items("a", "b", "c"))
        journal.claim("dead", 2, 10)
        clock.now += 10
        assert ids_of(journal.claim("me", 2, 60)) == ["c", "a"]
        assert journal.claim("me", 2, 60) == [Item("b", {"text": "b"}, 2)]
        assert journal.counts() == Counts(waiting=0, leased=3, done=0, failed=0)

    def test_a_renewed_lease_holds(self, journal, clock):
        journal.add(items("a", "b"))
        journal.claim("me", 2, 10)
        clock.now += 9
        assert journal.renew("me", ["a", "nobody's"], 10) == ["a"]
        clock.now += 9
        assert ids_of(journal.claim("you", 2, 10)) == ["b"]

    def test_a_lapsed_lease_is_the_owners_until_somebody_claims_it(self, journal, clock):
        journal.add(items("a", "b"))
        journal.claim("me", 2, 10)
        clock.now += 100
        assert ids_of(journal.claim("you", 1, 10)) == ["a"]
        assert journal.renew("me", ["a", "b"], 10) == ["b"]

    def test_the_first_result_is_kept_whoever_brings_it(self, journal, clock):
        journal.add(items("a"))
        journal.claim("slow", 1, 10)
        clock.now += 10
        journal.claim("fast", 1, 10)
        assert journal.finish("slow", "a", 1)
        assert not journal.finish("fast", "a", 2)
        assert journal.fail("fast", "a", "too late", attempts=1) == "done"
        assert list(journal.results()) == [("a", 1)]

    def test_what_is_released_is_as_if_it_had_never_been_claimed(self, journal):
        journal.add(items("a", "b"))
        journal.claim("me", 1, 60)
        journal.release("you", ["a"])
        assert journal.counts().leased == 1
        journal.release("me", ["a", "a", "unknown"])
        assert journal.claim("you", 1, 60) == [Item("a", {"text": "a"}, 1)]

    def test_failing_gives_others_the_turn_and_ends_after_so_many_attempts(self, journal):
        journal.add(items("a", "b"))
        journal.claim("me", 1, 60)
        assert journal.fail("me", "a", "no answer", attempts=2) == "waiting"
        assert [(item.id, item.attempt) for item in journal.claim("me", 2, 60)] == [("b", 1), ("a", 2)]
        assert journal.fail("you", "a", "not mine", attempts=2) == "leased"
        assert journal.fail("me", "a", "again \ud800", attempts=2) == "failed"
        assert list(journal.failures()) == [("a", "again \\ud800")]
        assert journal.counts() == Counts(waiting=0, leased=1, done=0, failed=1)
        assert journal.claim("me", 2, 60) == []

    def test_failed_items_can_be_tried_again(self, journal):
        journal.add(items("a", "b"))
        journal.claim("me", 2, 60)
        journal.fail("me", "b", "no", attempts=1)
        assert journal.retry() == 1
        assert journal.retry() == 0
        assert journal.claim("me", 2, 60) == [Item("b", {"text": "b"}, 1)]

    def test_a_late_result_of_a_failed_item_counts(self, journal, clock):
        journal.add(items("a"))
        journal.claim("slow", 1, 10)
        clock.now += 10
        journal.claim("fast", 1, 10)
        assert journal.fail("fast", "a", "no", attempts=2) == "failed"
        assert journal.finish("slow", "a", "yes")
        assert journal.counts() == Counts(waiting=0, leased=0, done=1, failed=0)
        assert list(journal.failures()) == []

    def test_owners_differ(self):
        assert len({new_owner() for _ in range(100)}) == 100
        assert str(os.getpid()) in new_owner()

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda j: j.claim("", 1, 60), "`owner`"),
            (lambda j: j.claim("me", 0, 60), "`limit` must be at least 1; got 0"),
            (lambda j: j.claim("me", 1, 0), "`lease`"),
            (lambda j: j.claim("me", 1, float("inf")), "`lease`"),
            (lambda j: j.renew("me", [], float("nan")), "`lease`"),
            (lambda j: j.finish("me", "x", 1), "`id` must be that of an item in the journal; got 'x'"),
            (lambda j: j.fail("me", "x", "", attempts=1), "`id`"),
            (lambda j: j.finish("me", "x", {1j}), "`result` must be JSON-able"),
            (lambda j: j.finish("me", "x", float("nan")), "`result` must be JSON-able"),
        ],
    )
    def test_arguments_are_checked(self, journal, call, message):
        with pytest.raises(ValueError, match="(?s)" + message):
            call(journal)


class TestAdding:
    def test_adding_again_adds_only_what_is_new_and_drops_nothing(self, journal):
        assert journal.add(items("a", "b", "c")) == 3
        journal.claim("me", 1, 60)
        journal.finish("me", "a", 1)
        assert journal.add(items("a", "b", "c")) == 0
        assert journal.add(items("d", "b")) == 1
        assert journal.add([]) == 0
        assert journal.counts() == Counts(waiting=3, leased=0, done=1, failed=0)
        assert ids_of(journal.claim("me", 9, 60)) == ["b", "c", "d"]

    def test_another_hash_is_refused_with_its_id(self, journal):
        journal.add(items("a", "b"))
        with pytest.raises(JournalError, match=r"item 'b' is in .*run.journal .* was 'hash of b' .* 'other'"):
            journal.add([*items("c", "a"), ("b", "other", {})])
        assert journal.counts().total == 2

    @pytest.mark.parametrize("size", [3, 3 * _adding.CHUNK])
    def test_an_id_twice_is_refused_with_both_places(self, journal, size):
        ids = [f"id {i}" for i in range(size)]
        ids[-1] = ids[1]
        with pytest.raises(JournalError, match=rf"items 2 and {size} for .*run.journal have the same id 'id 1'"):
            journal.add(items(*ids))
        assert journal.counts().total == 0

    def test_an_id_twice_is_refused_where_the_journal_has_it_too(self, journal):
        journal.add(items("a"))
        with pytest.raises(JournalError, match=r"items 1 and 2 .* 'a'"):
            journal.add(items("a", "a"))

    @pytest.mark.parametrize("id", ["", None, 3, b"a", "\ud800"])
    def test_an_id_is_a_text(self, journal, id):
        with pytest.raises(ValueError, match="`id` of item 2 must be a text that is not empty; got "):
            journal.add([*items("a"), (id, "hash", {})])
        with pytest.raises(ValueError, match="`input_hash` of item 1"):
            journal.add([("a", id, {})])
        assert journal.counts().total == 0

    def test_a_payload_is_json(self, journal):
        with pytest.raises(ValueError, match="`payload of b` must be JSON-able"):
            journal.add([*items("a"), ("b", "hash", {"image": object()})])
        assert journal.add(items("a")) == 1

    def test_what_the_iterable_raises_comes_through_and_nothing_is_added(self, journal):
        def broken():
            yield from items(*map(str, range(_adding.CHUNK + 1)))
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            journal.add(broken())
        assert journal.counts().total == 0

    def test_many_are_added_in_order_and_progress_is_told(self, journal):
        ids = [f"{i * 7919 % 100_003:x}" for i in range(20_000)]
        told = []
        assert journal.add(items(*ids), progress=lambda read, added: told.append((read, added))) == 20_000
        assert told == sorted(told)
        assert told[0] == (_adding.CHUNK, 0)
        assert told[-1] == (20_000, 20_000)
        assert ids_of(journal.claim("me", 20_000, 60)) == ids

    def test_the_items_may_come_from_the_journal_itself(self, journal, tmp_path):
        journal.add(items("a", "b"))
        journal.claim("me", 2, 60)
        journal.finish("me", "b", "next")
        assert journal.add((text, "hash", id) for id, text in journal.results()) == 1

    def test_two_threads_add_at_once(self, journal):
        def add(shift):
            journal.add(items(*(f"{shift + i}" for i in range(3000))))

        threads = [threading.Thread(target=add, args=(shift,)) for shift in (0, 1500)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert journal.counts().total == 4500

    def test_another_process_adds_the_same_meanwhile(self, journal, path):
        def interrupted():
            yield from items("a", "b")
            with Journal.open(path) as other:
                other.add([*items("b"), ("c", "another hash of c", {})])
            yield from items("d")

        assert journal.add(interrupted()) == 2
        with pytest.raises(JournalError, match="item 'e' is in the journal"), Journal.open(path) as other:
            journal.add(row for row in [*items("f", "e"), other.add([("e", "else", {})])] if row != 1)


class TestReading:
    def test_results_come_in_the_order_of_adding(self, journal):
        ids = [f"{i * 37 % 101}" for i in range(101)]
        journal.add(items(*ids))
        for item in reversed(journal.claim("me", 101, 60)):
            journal.finish("me", item.id, item.payload)
        assert [id for id, _ in journal.results()] == ids
        assert [id for id, _ in journal.results(["5", "7", "unknown", "3"])] == sorted(["5", "7", "3"], key=ids.index)
        assert list(journal.results([])) == []

    def test_long_results_are_read_a_few_at_a_time(self, journal, monkeypatch):
        monkeypatch.setattr(_reading, "_PAGE", 1000)
        journal.add(items(*map(str, range(50))))
        journal.claim("me", 50, 60)
        for i in range(50):
            journal.finish("me", str(i), "x" * 400)
        assert len(list(journal.results())) == 50
        assert len(_reading._page(journal._connection, _reading._RESULTS, 0)) == 3

    def test_others_write_while_results_are_read(self, journal, path):
        journal.add(items("a", "b", "c"))
        journal.claim("me", 3, 60)
        journal.finish("me", "a", 1)
        found = []
        with Journal.open(path, wait=0) as other:
            for id, _ in journal.results():
                found.append(id)
                if id == "a":
                    assert other.finish("me", "c", 3)
                    assert other.finish("me", "b", 2)
        assert found[0] == "a"
        assert len(list(journal.results())) == 3

    def test_any_text_comes_back(self, journal):
        texts = ["\ud83d", "\0", "\N{SNOWMAN}", 'quote"', "x" * 100_000, "\u2028"]
        journal.add([(f"{i}\0é", "hash", {"text": text}) for i, text in enumerate(texts)])
        for item, text in zip(journal.claim("me", 9, 60), texts, strict=True):
            assert item.payload == {"text": text}
            journal.finish("me", item.id, [text])
        assert [result for _, result in journal.results()] == [[text] for text in texts]

    def test_queries_use_their_index(self, journal):
        with journal._connection.using() as db:
            for query in (_leasing._WAITING, _leasing._EXPIRED, _leasing._AHEAD, _reading._FAILURES, _reading._RESULTS):
                plan = " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}", (1, 1)[: query.count("?")]))
                assert "TEMP B-TREE" not in plan, plan
                assert "SCAN" not in plan.replace("SCAN i USING INDEX waiting", ""), plan


class TestCalls:
    def test_the_first_value_of_a_key_stays(self, journal):
        journal.cache({"k": b"one", "l": b"", "long": b"ab" * 5000, "random": os.urandom(5000)})
        journal.cache({"k": b"two"})
        found = journal.cached(["k", "l", "none", "long"])
        assert found == {"k": b"one", "l": b"", "long": b"ab" * 5000}
        assert len(journal.cached(["random"])["random"]) == 5000
        assert journal.cached([]) == {}

    def test_long_values_are_compressed(self, journal, path):
        journal.cache({"text": b"step after step " * 1000})
        with journal._connection.using() as db:
            assert db.execute("SELECT length(value), packed FROM calls").fetchall()[0] < (1600, 1)
        assert journal.cached(["text"]) == {"text": b"step after step " * 1000}

    @pytest.mark.parametrize("value", [b"short", b"long" * 1000])
    def test_a_changed_value_is_noticed(self, path, value):
        with Journal.open(path) as journal:
            journal.cache({"k": value})
        alter(path, "UPDATE calls SET value = CAST('sho' || 'rT' AS BLOB)")
        with Journal.open(path) as journal:
            with pytest.raises(JournalError, match="damaged: the contents of call 'k' are not what was written"):
                journal.cached(["k"])
            with pytest.raises(JournalError, match="damaged"):
                journal.verify()


def alter(path, sql):
    """Do to a file what no journal does."""
    db = apsw.Connection(str(path))
    db.execute(sql).fetchall()
    db.close()


class TestOpening:
    def test_a_journal_is_found_again(self, path, clock):
        with Journal.open(path, fingerprint={"seed": 1}, clock=clock) as journal:
            journal.add(items("a", "b"))
            journal.claim("me", 1, 60)
            journal.finish("me", "a", {"answer": 1})
        assert sorted(file.name for file in path.parent.iterdir()) == ["run.journal"]
        with Journal.open(path, fingerprint={"seed": 1}, clock=clock) as journal:
            assert journal.path == str(path)
            assert list(journal.results()) == [("a", {"answer": 1})]
            journal.verify()

    def test_an_empty_file_becomes_a_journal(self, path):
        path.touch()
        with Journal.open(path) as journal:
            journal.verify()

    def test_odd_names_are_files(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in (":memory:", "file:x?mode=memory", "a b'\"%20é"):
            with Journal.open(name) as journal:
                assert journal.add(items("a")) == 1
            assert (tmp_path / name).stat().st_size > 0

    @pytest.mark.parametrize(
        ("before", "now", "message"),
        [
            ({"seed": 1, "model": "a"}, {"seed": 2, "model": "a"}, "`seed` was 1 and is now 2$"),
            ({"seed": 1}, {"seed": 1, "draws": 3}, "`draws` was not set and is now 3$"),
            ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, "`a.c` was 2 and is now 3$"),
            (None, {"seed": 1}, "`seed` was not set and is now 1$"),
            ({"p": "x" * 500 + "1"}, {"p": "x" * 500 + "2"}, '`p` was [.]{3}x{20}1" and is now [.]{3}x{20}2"$'),
            ({"p": "1" * 500}, {"p": "2"}, '`p` was "1{59}[.]{3} and is now "2"$'),
            ({str(i): 0 for i in range(20)}, {str(i): 1 for i in range(20)}, "`15` was 0 and is now 1, and 12 more$"),
        ],
    )
    def test_other_settings_are_refused_with_both_values(self, path, before, now, message):
        Journal.open(path, fingerprint=before).close()
        with pytest.raises(JournalError, match=f"run.journal is of a run with other settings: .*{message}") as caught:
            Journal.open(path, fingerprint=now)
        assert "\n" not in str(caught.value)

    def test_settings_are_compared_as_json(self, path):
        Journal.open(path, fingerprint={"options": ("a", "b"), "x": 0.1, "none": None}).close()
        Journal.open(path, fingerprint={"none": None, "options": ["a", "b"], "x": 0.1}).close()
        Journal.open(path).close()

    @pytest.mark.parametrize("fingerprint", [{"a": {1}}, {"a": float("inf")}])
    def test_settings_must_be_json(self, path, fingerprint):
        with pytest.raises(ValueError, match="`fingerprint` must be a mapping of JSON values"):
            Journal.open(path, fingerprint=fingerprint)

    def test_wait_is_checked(self, path):
        with pytest.raises(ValueError, match="`wait`"):
            Journal.open(path, wait=-1)

    def test_a_missing_folder_is_named(self, tmp_path):
        with pytest.raises(JournalError, match=r"the folder of the journal .*none/run.journal does not exist"):
            Journal.open(tmp_path / "none" / "run.journal")
        with pytest.raises(JournalError, match="is a folder; a file is needed"):
            Journal.open(tmp_path)

    def test_another_kind_of_file_is_refused_and_left_alone(self, path):
        path.write_bytes(b"id,text\n" * 1000)
        with pytest.raises(JournalError, match=r"run.journal is no journal: it is not an SQLite database"):
            Journal.open(path)
        assert path.read_bytes() == b"id,text\n" * 1000

    def test_a_database_of_another_program_is_refused_and_left_alone(self, path):
        alter(path, "CREATE TABLE items(x)")
        before = path.read_bytes()
        with pytest.raises(JournalError, match="is no journal: it is an SQLite database of another program"):
            Journal.open(path)
        assert path.read_bytes() == before

    @pytest.mark.parametrize(("version", "age"), [(2, "a newer"), (0, "an older")])
    def test_another_version_is_refused(self, path, version, age):
        Journal.open(path).close()
        alter(path, f"PRAGMA user_version = {version}")
        with pytest.raises(JournalError, match=f"written by {age} version .* in format {version}; .* reads format 1"):
            Journal.open(path)

    @pytest.mark.parametrize("sql", ["DROP INDEX waiting", "ALTER TABLE items RENAME COLUMN error TO fault"])
    def test_altered_tables_are_refused(self, path, sql):
        Journal.open(path).close()
        alter(path, sql)
        with pytest.raises(JournalError, match=r"damaged: the definition of `.*` is missing or another one"):
            Journal.open(path)

    def test_a_table_of_the_users_own_does_no_harm(self, path):
        Journal.open(path).close()
        alter(path, "CREATE VIEW mine AS SELECT id, state FROM items")
        Journal.open(path).close()

    def test_a_closed_journal_says_so(self, path):
        journal = Journal.open(path)
        journal.add(items("a"))
        results = journal.results()
        journal.close()
        journal.close()
        for call in (journal.counts, journal.verify, lambda: next(results), lambda: journal.add(items("b"))):
            with pytest.raises(JournalError, match=r"run.journal is closed"):
                call()

    def test_many_threads_make_one_journal(self, path):
        found = []

        def work(number):
            with Journal.open(path) as journal:
                found.append(journal.add(items("a", "b", str(number))))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 6
        assert sum(found) == 8


class TestVerify:
    @pytest.mark.parametrize(
        ("sql", "message"),
        [
            ("DELETE FROM results WHERE number = 1", "item 'a' is done and has no result"),
            ("UPDATE items SET state = 'waiting' WHERE id = 'a'", "item 'a' has a result and is not done"),
            ("INSERT INTO results VALUES (9, '1', 1, 'me', 1.0)", "result 9 is of no item"),
            ("DELETE FROM items WHERE id = 'c'", "input 3 is of no item"),
            ("DELETE FROM inputs WHERE number = 3", "item 'c' has no input"),
            ("UPDATE items SET owner = NULL WHERE id = 'b'", "item 'b' has half a lease"),
            ("UPDATE items SET state = 'failed' WHERE id = 'c'", "item 'c' failed without an error"),
            ("UPDATE items SET attempt = -1 WHERE id = 'c'", "item 'c' has attempts below zero"),
            ("UPDATE counts SET waiting = 7", "its counts are .*7.* where there are .*1, 1, 1, 0"),
            ("UPDATE results SET payload = '{\"answer\": 2}'", "the contents of item 'a' are not what was written"),
            ("UPDATE inputs SET payload = '2' WHERE number = 3", "the contents of item 'c' are not"),
        ],
    )
    def test_every_broken_invariant_is_found(self, path, sql, message):
        with Journal.open(path) as journal:
            journal.add(items("a", "b", "c"))
            journal.claim("me", 2, 60)
            journal.finish("me", "a", {"answer": 1})
            journal.verify()
        alter(path, sql)
        with Journal.open(path) as journal, pytest.raises(JournalError, match=f"is damaged: {message}"):
            journal.verify()

    def test_lost_counts_are_said(self, path):
        Journal.open(path).close()
        alter(path, "DELETE FROM counts")
        with Journal.open(path) as journal, pytest.raises(JournalError, match="its counts are gone"):
            journal.counts()


class TestSnapshot:
    def test_a_snapshot_is_a_journal_of_its_own(self, journal, tmp_path):
        journal.add(items("a", "b"))
        journal.claim("me", 2, 60)
        journal.finish("me", "a", 1)
        journal.cache({"k": b"v"})
        for _ in range(2):  # an older one is replaced
            journal.snapshot(tmp_path / "copy.journal")
        journal.finish("me", "b", 2)
        assert sorted(p.name for p in tmp_path.iterdir() if "copy" in p.name) == ["copy.journal"]
        with Journal.open(tmp_path / "copy.journal") as copy:
            copy.verify()
            assert list(copy.results()) == [("a", 1)]
            assert copy.finish("me", "b", 3)
            assert copy.cached(["k"]) == {"k": b"v"}

    def test_it_can_be_taken_while_others_write(self, journal, path, tmp_path):
        journal.add(items(*map(str, range(2000))))
        stop = threading.Event()

        def write():
            with Journal.open(path) as other:
                for item in other.claim("you", 2000, 60):
                    if stop.is_set():
                        return
                    other.finish("you", item.id, "x" * 3000)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for number in range(5):
                journal.snapshot(tmp_path / f"{number}.journal")
        finally:
            stop.set()
            thread.join()
        done = []
        for number in range(5):
            with Journal.open(tmp_path / f"{number}.journal") as copy:
                copy.verify()
                done.append(copy.counts().done)
        assert done == sorted(done)

    def test_it_is_not_written_over_the_journal(self, journal, path, tmp_path):
        (tmp_path / "link").symlink_to(path)
        for same in (path, tmp_path / "link"):
            with pytest.raises(ValueError, match="`path` must be another file than the journal"):
                journal.snapshot(same)

    def test_nothing_stays_behind_where_it_cannot_be_written(self, journal, tmp_path):
        with pytest.raises(JournalError, match=r"the folder of .*none"):
            journal.snapshot(tmp_path / "none" / "copy")
        (tmp_path / "folder").mkdir()
        with pytest.raises(OSError, match="folder"):
            journal.snapshot(tmp_path / "folder")
        assert not list(tmp_path.glob("*.part*"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    jump=st.floats(-1e9, 1e9),
    lease=st.floats(1e-3, 1e6),
    renewed=st.booleans(),
)
def test_no_jump_of_the_clock_freezes_or_doubles_an_item(tmp_path_factory, jump, lease, renewed):
    """Whatever the clock is set to, the item is free two leases later, and the second result is refused."""
    folder = tmp_path_factory.mktemp("jump")
    clock = Clock(1.7e9)
    with Journal.open(folder / "j", clock=clock) as journal:
        journal.add(items("a"))
        journal.claim("one", 1, lease)
        if renewed:
            clock.now += lease / 2
            assert journal.renew("one", ["a"], lease) == ["a"]
        clock.now += jump
        held = -lease <= jump < lease
        early = journal.claim("two", 1, lease)
        assert bool(early) != held or abs(abs(jump) - lease) < 1e-3
        clock.now += 2 * lease + 1e-3
        assert ids_of(journal.claim("three", 1, lease)) == ["a"]
        assert [journal.finish(owner, "a", owner) for owner in ("one", "two", "three")] == [True, False, False]
        assert list(journal.results()) == [("a", "one")]
        journal.verify()
    shutil.rmtree(folder)


IDS = st.sampled_from([f"item {i}" for i in range(12)])
OWNERS = st.sampled_from(["one", "two", "three"])
LEASES = st.integers(1, 20)


class Model(RuleBasedStateMachine):
    """Two processes on one journal beside a dict that says what must come out."""

    @initialize()
    def start(self):
        self.folder = Path(tempfile.mkdtemp())
        self.clock = Clock()
        self.journals = [Journal.open(self.folder / "j", clock=self.clock) for _ in range(2)]
        self.turn = count()
        self.items = {}

    @property
    def journal(self):
        return self.journals[next(self.turn) % 2]

    def teardown(self):
        for journal in getattr(self, "journals", []):
            journal.verify()
            journal.close()
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def leased(self, owner):
        return [id for id, item in self.items.items() if item["state"] == "leased" and item["owner"] == owner]

    def lapsed(self):
        now = self.clock.now
        leased = [(id, item) for id, item in self.items.items() if item["state"] == "leased"]
        expired = sorted((item["until"], item["number"], id) for id, item in leased if item["until"] <= now)
        ahead = sorted((item["from"], item["number"], id) for id, item in leased if item["from"] > now)
        return [id for *_, id in expired + ahead]

    @rule(ids=st.lists(IDS, unique=True))
    def add(self, ids):
        new = [id for id in ids if id not in self.items]
        assert self.journal.add(items(*ids)) == len(new)
        for id in new:
            self.items[id] = {"number": len(self.items), "state": "waiting", "attempt": 0}

    @rule(id=IDS)
    def add_twice(self, id):
        with pytest.raises(JournalError):
            self.journal.add(items("new", id, id))

    @rule(owner=OWNERS, limit=st.integers(1, 5), lease=LEASES)
    def claim(self, owner, limit, lease):
        waiting = sorted((i["attempt"], i["number"], id) for id, i in self.items.items() if i["state"] == "waiting")
        expected = [*(id for *_, id in waiting), *self.lapsed()][:limit]
        for id in expected:
            self.hold(id, owner, lease)
            self.items[id]["attempt"] += 1
        claimed = self.journal.claim(owner, limit, lease)
        assert claimed == [Item(id, {"text": id}, self.items[id]["attempt"]) for id in expected]

    def hold(self, id, owner, lease):
        now = self.clock.now
        self.items[id] |= {"state": "leased", "owner": owner, "from": now - lease, "until": now + lease}

    @rule(owner=OWNERS, ids=st.lists(IDS, unique=True), lease=LEASES)
    def renew(self, owner, ids, lease):
        kept = [id for id in ids if id in self.leased(owner)]
        assert self.journal.renew(owner, ids, lease) == kept
        for id in kept:
            self.hold(id, owner, lease)

    @rule(owner=OWNERS, ids=st.lists(IDS))
    def release(self, owner, ids):
        for id in set(ids) & set(self.leased(owner)):
            self.items[id] |= {"state": "waiting", "attempt": self.items[id]["attempt"] - 1}
        self.journal.release(owner, ids)

    @rule(owner=OWNERS, id=IDS, result=st.integers())
    def finish(self, owner, id, result):
        if id not in self.items:
            with pytest.raises(ValueError, match="`id`"):
                self.journal.finish(owner, id, result)
            return
        first = self.items[id]["state"] != "done"
        assert self.journal.finish(owner, id, result) == first
        if first:
            self.items[id] |= {"state": "done", "result": result}

    @rule(owner=OWNERS, id=IDS, attempts=st.integers(1, 3), error=st.text(max_size=3))
    def fail(self, owner, id, attempts, error):
        if id in self.items:
            if id in self.leased(owner):
                last = self.items[id]["attempt"] >= attempts
                self.items[id] |= {"state": "failed" if last else "waiting", "error": error}
            assert self.journal.fail(owner, id, error, attempts=attempts) == self.items[id]["state"]

    @rule()
    def retry(self):
        failed = [item for item in self.items.values() if item["state"] == "failed"]
        assert self.journal.retry() == len(failed)
        for item in failed:
            item |= {"state": "waiting", "attempt": 0}

    @rule(seconds=st.one_of(st.integers(0, 15), st.integers(-50, 50)))
    def tick(self, seconds):
        self.clock.now += seconds

    @rule(which=st.integers(0, 1))
    def reopen(self, which):
        self.journals[which].close()
        self.journals[which] = Journal.open(self.folder / "j", clock=self.clock)

    @invariant()
    def everything_is_as_the_dict_says(self):
        if not hasattr(self, "journals"):
            return
        states = [item["state"] for item in self.items.values()]
        names = ("waiting", "leased", "done", "failed")
        assert self.journal.counts() == Counts(*(states.count(name) for name in names))
        done = [(id, item["result"]) for id, item in self.items.items() if item["state"] == "done"]
        assert list(self.journal.results()) == done
        failed = [(id, item["error"]) for id, item in self.items.items() if item["state"] == "failed"]
        assert list(self.journal.failures()) == failed


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


class TestSharing:
    def test_two_threads_share_the_work(self, path):
        ids = [str(i) for i in range(120)]
        done = []
        with Journal.open(path) as journal:
            journal.add(items(*ids))

            def work(owner):
                while claimed := journal.claim(owner, 3, 60):
                    done.extend(item.id for item in claimed if journal.finish(owner, item.id, owner))

            threads = [threading.Thread(target=work, args=(str(number),)) for number in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(done) == sorted(ids)
            journal.verify()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    def test_a_forked_child_gets_a_connection_of_its_own(self, path):
        code = """
            import os, sys, threading
            from svip_search._journal import Journal
            journal = Journal.open(sys.argv[1])
            journal.add([(str(i), "hash", i) for i in range(20)])
            mine = journal.claim("parent", 10, 60)
            journal._connection._lock.acquire()  # as another thread might hold it
            child = os.fork()
            if child:
                journal._connection._lock.release()
                for item in mine[:5]:
                    journal.finish("parent", item.id, item.payload)
                assert os.waitpid(child, 0)[1] == 0
            else:
                mine = journal.claim("child", 10, 60)
            for item in mine:
                journal.finish("parent" if child else "child", item.id, item.payload)
            if not child and len(sys.argv) > 2:
                os._exit(0)
            journal.close()
        """
        code = "\n".join(line[12:] for line in code.splitlines())
        for leave in ([], ["at once"]):
            path.unlink(missing_ok=True)
            subprocess.run([sys.executable, "-W", "error", "-c", code, path, *leave], check=True, timeout=60)
            with Journal.open(path) as journal:
                journal.verify()
                assert list(journal.results()) == [(str(i), i) for i in range(20)]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
    def test_closing_in_a_child_leaves_the_parents_connection_alone(self, path):
        code = """
            import os, sys
            from svip_search._journal import Journal
            journal = Journal.open(sys.argv[1])
            child = os.fork()
            if child:
                assert os.waitpid(child, 0)[1] == 0
                journal.add([("a", "hash", 1)])
            journal.close()
        """
        code = "\n".join(line[12:] for line in code.splitlines())
        subprocess.run([sys.executable, "-c", code, path], check=True, timeout=60)
        with Journal.open(path) as journal:
            assert journal.counts().total == 1

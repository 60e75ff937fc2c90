"""The commands' memory: what a method returned from is there after a crash, and a cut in the audit trail shows."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import StoreError
from agent.journal import Command, Entry, Head, Journal, Link, first_bad
from agent.progress import Progress

ROOT = Path(__file__).resolve().parent.parent
NOW_S = 1_790_000_000.0


def _command(id_="r1", counter=7, key_id=b"12345678", operation="update", **changes):
    progress = Progress(id_, operation, t_wall_s=NOW_S)
    args = {"model": "keywords", "raw": b"\0"}
    made = Command(progress, "d" * 64, key_id, "ann", "technician", counter, 1, 2, args, NOW_S)
    return replace(made, **changes)


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "commands.db", "boot-1") as made:
        yield made


def test_a_row_comes_back_as_it_was(journal):
    """Every field, arguments in bytes included; a state that moved is the one that is found."""
    first = _command()
    journal.admit(first, {"what": "admit"})
    assert journal.find("r1") == first
    assert journal.find("r2") is None
    later = first.moved(NOW_S + 1, "boot-2", status="failed", reason="CANCELED", detail={"a": [1, None, "x"]})
    journal.move(later, {"what": "failed"})
    assert journal.find("r1") == later
    assert journal.under_way() == []
    assert journal.shown() == [later]


def test_an_id_is_taken_once(journal):
    """The same id again changes nothing, neither the row nor the counter nor the trail."""
    journal.admit(_command(), {"what": "admit"})
    head = journal.head
    with pytest.raises(StoreError):
        journal.admit(_command(counter=9), {"what": "admit"})
    assert journal.counter(b"12345678") == 7
    assert journal.head == head


def test_counters_are_kept_per_key_and_outlive_the_rows(journal):
    """What a key has asked once it can never ask again, however long ago it was."""
    journal.admit(_command("a", 7, b"AAAAAAAA"), {})
    journal.admit(_command("b", 5, b"BBBBBBBB"), {})
    journal.move(journal.find("a").moved(NOW_S, "", status="successful"))
    journal.hide("a")
    assert journal.forget(NOW_S + 1) == 1
    assert journal.find("a") is None
    assert (journal.counter(b"AAAAAAAA"), journal.counter(b"BBBBBBBB"), journal.counter(b"C")) == (7, 5, 0)


def test_what_is_under_way_or_shown_is_never_forgotten(journal):
    """Only rows that ended long ago and stand nowhere at the broker leave."""
    journal.admit(_command("a"), {})
    journal.admit(_command("b"), {})
    journal.move(journal.find("b").moved(NOW_S, "", status="successful"))
    assert journal.forget(NOW_S + 1e9) == 0
    assert [c.id for c in journal.under_way()] == ["a"]
    assert [c.id for c in journal.shown()] == ["a", "b"]


def test_only_one_process_opens_it(journal):
    """A second one is told to ask the agent."""
    with pytest.raises(StoreError, match="another process"):
        Journal(journal.path)


def test_what_was_written_survives_sigkill(tmp_path):
    """A process that is killed right after a method returned has left a whole row, its counter and its entry."""
    code = (
        "import os, signal, sys; sys.path[:0] = [%r]; from pathlib import Path\n"
        "from tests.test_journal import _command; from agent.journal import Journal\n"
        "journal = Journal(Path(%r))\n"
        "journal.admit(_command(), {'what': 'admit'}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "commands.db"
    done = subprocess.run([sys.executable, "-c", code % (str(ROOT), str(path))], env={**os.environ}, check=False)
    assert done.returncode == -signal.SIGKILL
    with Journal(path) as journal:
        assert journal.find("r1") == _command()
        assert journal.counter(b"12345678") == 7
        assert first_bad(journal.audit(0, 10), journal.anchor) == ""


def test_a_damaged_file_is_set_aside_and_a_fresh_one_begins(tmp_path):
    """Corrupt is not empty: it is kept, said, and the new one has no birthday yet."""
    path = tmp_path / "commands.db"
    with Journal(path) as journal:
        journal.bear(5)
        for number in range(200):
            journal.admit(_command(f"r{number}", number), {"what": "admit"})
    data = bytearray(path.read_bytes())
    data[4096 : 4096 * 6] = os.urandom(4096 * 5)
    path.write_bytes(data)
    with Journal(path) as journal:
        assert "kept as commands.db.damaged-1" in journal.trouble
        assert journal.born_ms is None
        assert journal.shown() == []
    assert (tmp_path / "commands.db.damaged-1").stat().st_size == len(data)
    path.write_bytes(b"no database at all" * 500)
    with Journal(path) as journal:
        assert "damaged-2" in journal.trouble


def test_a_folder_that_is_not_ours_says_so(tmp_path):
    """Names the journal and what to look at."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="journal"):
        Journal(tmp_path / "file" / "commands.db")


# --- the audit trail ------------------------------------------------------------------------------------------------


def _trail(journal, count=6):
    for number in range(count):
        journal.note(NOW_S + number, {"what": "deny", "number": number})
    return journal.audit(0, 100)


def test_a_whole_trail_verifies_and_each_edit_is_found_at_its_place(journal):
    """H2: an entry changed, removed, inserted, swapped; each is named by its number."""
    links = _trail(journal)
    assert first_bad(links, Head()) == ""
    changed = [*links[:2], replace(links[2], entry=Entry(links[2].entry.t_ms, '{"what":"admit"}')), *links[3:]]
    assert "entry 3 is not" in first_bad(changed, Head())
    late = [*links[:2], replace(links[2], entry=Entry(links[2].entry.t_ms + 1, links[2].entry.line)), *links[3:]]
    assert "entry 3 is not" in first_bad(late, Head())
    assert "entry 3 is missing" in first_bad([*links[:2], *links[3:]], Head())
    assert "entry 2 is missing" in first_bad([links[0], links[2], links[1], *links[3:]], Head())
    renumbered = [*links[:2], *(Link(link.n - 1, link.entry, link.hash) for link in links[3:])]
    assert "entry 3 is not" in first_bad(renumbered, Head())


def test_a_row_edited_in_the_file_is_found(tmp_path):
    """H2 on the real database, by another program."""
    path = tmp_path / "commands.db"
    with Journal(path) as journal:
        _trail(journal)
    with sqlite3.connect(path) as db:
        db.execute("""update audit set line = '{"what":"admit"}' where n = 4""")
    db.close()
    with Journal(path) as journal:
        assert "entry 4 is not" in first_bad(journal.audit(0, 100), journal.anchor)
    with sqlite3.connect(path) as db:
        db.execute("delete from audit where n = 4")
    db.close()
    with Journal(path) as journal:
        assert "entry 4 is missing" in first_bad(journal.audit(0, 100), journal.anchor)


def test_a_cut_end_and_a_rewritten_trail_are_given_away_by_a_published_head(journal):
    """The chain alone cannot know its own length; a head that was told before does."""
    links = _trail(journal)
    head = journal.head
    assert first_bad(links, Head(), [head]) == ""
    assert "cut off" in first_bad(links[:-1], Head(), [head])
    with_other = [Head(head.n, bytes(32))]
    assert "rewritten" in first_bad(links, Head(), with_other)


def test_the_trail_is_bounded_and_what_is_left_still_verifies(tmp_path):
    """Old entries leave in steps; the last one that left is the anchor of the rest."""
    with Journal(tmp_path / "commands.db", audit_entries=50) as journal:
        _trail(journal, 300)
        links = journal.audit(0, 1000)
        assert 50 <= len(links) <= 52
        assert journal.anchor.n == links[0].n - 1
        assert first_bad(links, journal.anchor, [journal.head]) == ""
        assert "entry" in first_bad(links, Head())
    with Journal(tmp_path / "commands.db") as journal:
        assert journal.head.n == 300
        assert json.loads(journal.audit(299, 1)[0].entry.line) == {"number": 299, "what": "deny"}

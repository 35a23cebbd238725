"""Either side, or a part of what it stores, is put back to an earlier moment: it ends equal, or held with true words, and
OK is never said before that (MRK-4, MRK-7, CRW-8)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.marks import MarkFile
from engine.model import Mark
from tests.system.oracle import differences
from tests.system.runner import wait_until
from tests.system.settings import CALM, LOCAL, Maker, Setting, write

INDEX = ("index.db", "index.db-wal", "index.db-shm")


class Story:
    """A session that was copied at moments 0 and 1, with changes after each, some of which undo each other."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.product, self.tree, self.there = setting.product, setting.primary, setting.secondary
        self.base = self.product.base
        self.changes(0)
        for moment in (0, 1):
            self.sync()
            self.copy(moment)
            self.changes(moment + 1)
        self.sync()

    @property
    def state(self) -> Path:
        """The state directory of the one brick."""
        (found,) = (self.base / "state").glob("*/bricks/*")
        return found

    def sync(self) -> None:
        done = self.product.once()
        assert done.returncode == 0, done.stderr + done.stdout

    def copy(self, moment: int) -> None:
        for name, path in (("state", self.base / "state"), ("there", self.there), ("tree", self.tree)):
            subprocess.run(["cp", "-a", str(path), str(self.base / f"{name}{moment}")], check=True)

    def changes(self, number: int) -> None:
        """What is made in one step goes in the next; names come back; some is rewritten with its size kept."""
        tree = self.tree
        (tree / "d").mkdir(exist_ok=True)
        for n in range(25):
            write(tree / f"d/only-{number}-{n}", f"made in step {number}" * n)
            write(tree / f"d/same-{n % 8}", f"content {number}")
        if number == 0:
            write(tree / "stay", "stay")
            write(tree / "sub/below", "below")
            return
        for n in range(20):
            (tree / f"d/only-{number - 1}-{n}").unlink()
        if number % 2:
            (tree / "stay").rename(tree / "moved")
            (tree / "sub").rename(tree / "d/sub")
        else:
            (tree / "moved").rename(tree / "stay")
            (tree / "d/sub").rename(tree / "sub")

    # ---- what is put back

    def put_back(self, thing: str, moment: int | None) -> None:
        """One stored thing is that of a moment, or gone."""
        parts: dict[str, tuple[Path, str, tuple[str, ...]]] = {
            "index": (self.state, "state", INDEX),
            "marks": (self.state, "state", ("marks.json",)),
            "journal": (self.state, "state", ("journal",)),
            "chain": (self.state / "journal", "state", ("chain",)),
            "their index": (self.there / ".georep", "there", INDEX),
            "copy of the mark": (self.there / ".georep", "there", ("mark.json",)),
            "their state": (self.there, "there", (".georep",)),
        }
        if thing == "state":
            shutil.rmtree(self.base / "state")
            assert moment is not None
            subprocess.run(["cp", "-a", str(self.base / f"state{moment}"), str(self.base / "state")], check=True)
        elif thing in ("secondary", "content", "tree"):
            name, place = ("tree", self.tree) if thing == "tree" else ("there", self.there)
            source = self.base / f"{name}{moment}"
            if moment is None:
                (source := self.base / "nothing").mkdir()
            kept = ["--exclude", "/.georep"] if thing == "content" else []
            subprocess.run(["rsync", "-aHAX", "--delete", *kept, f"{source}/", f"{place}/"], check=True)
        else:
            where, top, names = parts[thing]
            base = {"state": self.base / "state", "there": self.there}[top]
            for name in names:
                path = where / name
                old = self.base / f"{top}{moment}" / path.relative_to(base)
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
                if moment is not None and old.exists():
                    subprocess.run(["cp", "-a", str(old), str(path)], check=True)

    # ---- what comes of it

    def outcome(self) -> str:
        """Run it live: "equal" when it says OK, which must be true in that moment, or why it is held."""
        self.product.start()

        def reached() -> str | None:
            session = self.product.session()
            for brick in session.get("bricks") or []:
                if brick["held"]:
                    assert session["verdict"] != "ok"
                    return str(brick["held"]["reason"])
                if brick["comparing"]:
                    assert session["verdict"] != "ok"
                if session["verdict"] == "ok" and brick["crawl_status"] == "Changelog Crawl":
                    assert self.differ() == [], f"said OK before\n{self.product.tail()}"
                    return "equal"
            return None

        said: str = wait_until(reached, 60, f"OK or held; {self.product.tail()}", pause=0.1)
        assert self.product.stop() == 0
        return said

    def differ(self) -> list[str]:
        return differences(os.fsencode(self.tree), os.fsencode(self.there))

    def approved(self) -> None:
        """A person says that the primary wins."""
        done = self.product.once("--adopt")
        assert done.returncode == 0, done.stderr + done.stdout
        assert self.differ() == []
        write(self.tree / "after", "after")
        shutil.rmtree(self.tree / "d")
        self.sync()
        assert self.differ() == []


EQUAL = "equal"
PRIMARY = "this primary is of"
OTHER = "another history"
SOMEONE = "the secondary was changed by someone else"

SITUATIONS: dict[str, tuple[dict[str, int | None], str]] = {
    # in CI
    "an old state directory": ({"state": 0}, EQUAL),
    "an old state directory and the tree of then": ({"state": 1, "tree": 1}, PRIMARY),
    "the primary's index alone": ({"index": 1}, EQUAL),
    "an old secondary": ({"secondary": 0}, EQUAL),
    "the secondary's content without .georep": ({"content": 0}, SOMEONE),
    "the secondary's index alone": ({"their index": 1}, EQUAL),
    "the journal is gone": ({"journal": None}, EQUAL),
    "the copy of the mark alone": ({"copy of the mark": 0}, EQUAL),
    # with --long
    "the state directory of yesterday": ({"state": 1}, EQUAL),
    "state and tree of the first day": ({"state": 0, "tree": 0}, PRIMARY),
    "the tree alone": ({"tree": 1}, EQUAL),
    "the tree alone, of the first day": ({"tree": 0}, EQUAL),
    "an old index": ({"index": 0}, EQUAL),
    "no index": ({"index": None}, EQUAL),
    "old marks": ({"marks": 0}, EQUAL),
    "marks of yesterday": ({"marks": 1}, EQUAL),
    "no marks": ({"marks": None}, EQUAL),
    "an old journal": ({"journal": 0}, EQUAL),
    "the journal of yesterday": ({"journal": 1}, EQUAL),
    "an old chain": ({"chain": 0}, EQUAL),
    "no chain": ({"chain": None}, EQUAL),
    "index and marks": ({"index": 1, "marks": 1}, EQUAL),
    "index and journal": ({"index": 1, "journal": 1}, EQUAL),
    "journal and marks": ({"journal": 1, "marks": 1}, EQUAL),
    "no index and no journal": ({"index": None, "journal": None}, EQUAL),
    "no index and no marks": ({"index": None, "marks": None}, EQUAL),
    "the secondary of yesterday": ({"secondary": 1}, EQUAL),
    "the content of yesterday": ({"content": 1}, SOMEONE),
    "the secondary emptied but for .georep": ({"content": None}, EQUAL),
    "their old index": ({"their index": 0}, EQUAL),
    "their index gone": ({"their index": None}, EQUAL),
    "their copy of the mark of yesterday": ({"copy of the mark": 1}, EQUAL),
    "their copy of the mark gone": ({"copy of the mark": None}, EQUAL),
    "their state of the first day": ({"their state": 0}, EQUAL),
    "their state of yesterday": ({"their state": 1}, EQUAL),
    "their index and mark": ({"their index": 1, "copy of the mark": 1}, EQUAL),
    "both sides of different days": ({"state": 0, "secondary": 1}, EQUAL),
    "both sides, the secondary older": ({"state": 1, "secondary": 0}, ""),
    "both sides of one day": ({"state": 1, "secondary": 1}, ""),
    "tree, state and secondary of one day": ({"state": 1, "tree": 1, "secondary": 1}, ""),
    "their content and our index": ({"content": 1, "index": 1}, ""),
    "both indexes": ({"their index": 1, "index": 1}, EQUAL),
}
"""What is put back, and what must come of it: equal, held with these words, or ("") either of both."""
IN_CI = 8


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.long] if i >= IN_CI else []) for i, n in enumerate(SITUATIONS)]
)
def test_mrk_7_put_back(make: Maker, name: str) -> None:
    story = Story(make(LOCAL, **CALM))
    things, expected = SITUATIONS[name]
    for thing, moment in things.items():
        story.put_back(thing, moment)
    said = story.outcome()
    if expected == EQUAL:
        assert said == EQUAL
    else:
        assert expected in said, said + story.product.tail(60)
    if said == EQUAL:
        assert story.differ() == []
    else:
        story.approved()


def test_what_waits_for_the_word_is_still_there(make: Maker) -> None:
    """The primary was put back: all that only the replica has, and what it has newer, is there until a person says so."""
    story = Story(make(LOCAL, **CALM))
    before = {p.relative_to(story.there): p.read_bytes() for p in story.there.rglob("d/*") if p.is_file()}
    story.put_back("tree", 0)
    story.put_back("state", 0)
    assert PRIMARY in story.outcome()
    assert PRIMARY in story.outcome(), "a restart asks again"
    for path, content in before.items():
        assert (story.there / path).read_bytes() == content, path


@pytest.mark.parametrize("moment", ["noted", "comparing", "noted, all killed"])
def test_a_comparison_that_breaks_off_is_gone_on_with(make: Maker, moment: str) -> None:
    """Killed as soon as it is noted, or in the middle of it: it is not forgotten, and not taken for done."""
    story = Story(make(LOCAL, **CALM))
    product = story.product
    for n in range(1500):
        write(story.tree / f"many{n % 30}/f{n}", f"{n}")
    story.sync()
    story.put_back("index", 1)
    story.put_back("content", 1)
    product.start()
    marks = story.state / "marks.json"
    if moment == "comparing":
        wait_until(lambda: product.brick().get("comparing"), 30, "comparing", pause=0.02)
    else:
        wait_until(lambda: "token" in MarkFile(str(marks)).identity, 30, "noted", pause=0.005)
    if moment == "noted, all killed":
        product.kill()
    else:
        product.crash()
    said = story.outcome()
    assert said == EQUAL or "was" in said, said
    story.approved()


TORN: dict[str, Callable[[Path], Any]] = {
    "torn": lambda path: os.truncate(path, path.stat().st_size // 3),
    "emptied": lambda path: os.truncate(path, 0),
    "removed": lambda path: path.unlink(),
    "zeros": lambda path: path.write_bytes(path.read_bytes()[:40] + bytes(path.stat().st_size - 40)),
}


@pytest.mark.parametrize("how", TORN)
def test_changelogs_that_wait_are_damaged(make: Maker, how: str) -> None:
    """Found by their digests at the start: the index is ahead of what is left of the journal, so both trees are compared;
    the ledger's entry stays until then."""
    setting = make(LOCAL, **CALM)
    product, tree = setting.product, setting.primary
    write(tree / "before", "before")
    product.start()
    product.active()
    assert product.command("pause", product.name).returncode == 0
    for n in range(30):
        write(tree / f"new/f{n}", "x" * n)
    (tree / "before").unlink()
    waiting: list[Path] = wait_until(
        lambda: [p for p in (product.base / "state").rglob("*CHANGELOG*") if p.stat().st_size > 100], 15, "a slice"
    )
    wait_until(lambda: (product.brick().get("backlog") or {}).get("changelogs"), 10, "it waits")
    assert product.stop() == 0
    waiting = [p for p in (product.base / "state").rglob("*CHANGELOG*") if p.stat().st_size > 100]
    for path in waiting:
        TORN[how](path)
    product.start()
    wait_until(product.session, 20, "an answer")
    assert product.command("resume", product.name).returncode == 0

    def over() -> bool:
        session = product.session()
        for brick in session.get("bricks") or []:
            if brick["comparing"] or brick["crawl_status"] != "Changelog Crawl":
                assert session["verdict"] != "ok"
                return False
        return session.get("verdict") == "ok" and not product.failures()

    wait_until(over, 60, product.story())
    assert differences(os.fsencode(tree), os.fsencode(setting.secondary)) == []
    assert "the journal of the primary is damaged" in product.tail(100)
    assert product.stop() == 0


def test_states_of_an_older_version_are_taken_once_and_compared(make: Maker) -> None:
    """No chain on both sides: it goes on at once, and one comparison in the background finds what that version lost."""
    setting = make(LOCAL, **CALM)
    product, there = setting.product, setting.secondary
    for n in range(40):
        write(setting.primary / f"d/f{n}", f"content {n}")
    assert product.once().returncode == 0
    (state,) = (product.base / "state").glob("*/bricks/*")
    (state / "journal/chain").unlink()
    for path, gone in ((state / "brick.json", ("chain",)), (state / "marks.json", ("at", "epoch")),
                       (there / ".georep/mark.json", ("at", "epoch"))):  # fmt: skip
        kept = {k: v for k, v in json.loads(path.read_text()).items() if k not in gone}
        path.write_text(json.dumps({**kept, "format": 1} if "format" in kept else kept))
    for path in (state / "index.db", there / ".georep/index.db"):
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("DELETE FROM fact WHERE key IN ('at', 'token', 'newest')")
            db.execute("UPDATE fact SET value=1 WHERE key='format'")
            if path.parent != state:
                db.execute("UPDATE entry SET size=0, mtime=0, ctime=0")
            db.commit()
    lost = there / "d/f7"
    os.utime(lost, ns=(1, 1))
    product.start()
    wait_until(lambda: product.session().get("verdict") == "ok" and "compared both sides" in product.tail(100), 60,
               "compared once")  # fmt: skip
    assert "comparing both sides anew" not in product.tail(100)
    assert differences(os.fsencode(setting.primary), os.fsencode(there)) == []
    assert (state / "journal/chain").exists() and "older" not in json.loads((state / "brick.json").read_text())
    assert product.stop() == 0


def test_mrk_4_a_mark_of_tomorrow(make: Maker) -> None:
    """An error that names both times and the way out; with it, both sides are compared and life goes on."""
    setting = make(LOCAL, **CALM)
    product = setting.product
    write(setting.primary / "one", "1")
    assert product.once().returncode == 0
    (marks,) = (product.base / "state").rglob("marks.json")
    MarkFile(str(marks)).advance(Mark(int(time.time()) + 86_400, 0))
    write(setting.primary / "two", "2")
    done = product.once()
    assert done.returncode == 2, done.stderr
    assert "later than the last change that it recorded" in done.stderr and "--adopt" in done.stderr
    assert not (setting.secondary / "two").exists()
    done = product.once("--adopt")
    assert done.returncode == 0, done.stderr
    assert differences(os.fsencode(setting.primary), os.fsencode(setting.secondary)) == []


def test_content_changed_on_the_secondary_is_found_while_it_runs(make: Maker) -> None:
    """A pass through all rows within `scrub_interval`, by the agent: what someone wrote there is not passed over."""
    setting = make(LOCAL, scrub_interval="5s")
    product = setting.product
    for n in range(300):
        write(setting.primary / f"d{n % 7}/f{n}", f"content {n}")
    product.start()
    product.active()
    wait_until(lambda: product.session().get("verdict") == "ok", 20, "OK")
    write(setting.secondary / "d3/f3", "written by someone")
    reason = wait_until(lambda: (product.brick().get("held") or {}).get("reason"), 40, "held", pause=0.2)
    assert SOMEONE in reason and "d3/f3" in reason
    assert (setting.secondary / "d3/f3").read_text() == "written by someone"
    assert product.stop() == 0

"""The gate: nothing is destroyed that nobody named (SAFE-1, CRW-8), on the real product. A copy made before is the oracle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.system.oracle import differences
from tests.system.runner import Product, converged, wait_until
from tests.system.settings import CALM, LOCAL, SSH, Maker, Setting, untouched, write


def _names(tree: Path) -> set[str]:
    """All names in a tree, `.georep` left out."""
    found = (p.relative_to(tree) for p in tree.rglob("*"))
    return {str(p) for p in found if p.parts[0] != ".georep"}


def _kept(secondary: Path) -> dict[str, str]:
    """What was taken by consent and is kept: path → content."""
    out: dict[str, str] = {}
    for day in (secondary / ".georep" / "deleted").glob("*.unproven"):
        out.update({str(p.relative_to(day)): p.read_text() for p in day.rglob("*") if p.is_file()})
    return out


def _equal(setting: Setting) -> None:
    assert differences(os.fsencode(setting.primary), os.fsencode(setting.secondary)) == []


def _seeded(setting: Setting, extra: int = 60) -> None:
    """A secondary that is nobody's: equal files, three that differ, and `extra` that only it has."""
    for n in range(20):
        write(setting.primary / f"d{n % 2}/f{n}", f"content {n}")
    subprocess.run(["cp", "-a", f"{setting.primary}/.", str(setting.secondary)], check=True)
    for n in range(3):
        write(setting.secondary / f"d0/f{2 * n}", f"older content of {n}")
    for n in range(extra):
        write(setting.secondary / f"theirs/{n % 3}/x{n}", f"theirs {n}")
    write(setting.primary / "new", "new")


# ---- (a) a secondary that was put back to an older copy of itself ----------------------------------------------------


def _replicated(setting: Setting, files: int = 120) -> Path:
    """Replicate some files; a copy of the secondary as it is then."""
    for n in range(files):
        write(setting.primary / f"d/f{n}", f"content {n}")
    assert setting.product.once().returncode == 0
    old = setting.secondary.with_name("old-copy")
    subprocess.run(["cp", "-a", str(setting.secondary), str(old)], check=True)
    return old


def _put_back(setting: Setting, old: Path, how: str) -> None:
    if how == "moved":
        shutil.rmtree(setting.secondary)
        old.rename(setting.secondary)
    else:
        subprocess.run(["rsync", "-aHAX", "--delete", f"{old}/", f"{setting.secondary}/"], check=True)


@pytest.mark.parametrize("how", ["in place", "moved"])
def test_a_restored_secondary_loses_nothing_unasked(make: Maker, how: str) -> None:
    """Nearly everything deleted here, an older copy there: it is held, whatever the guard's share, and nothing goes."""
    setting = make(LOCAL)
    product, there = setting.product, setting.secondary
    old = _replicated(setting)
    write(setting.primary / "later", "later")
    assert product.once().returncode == 0
    for n in range(118):
        (setting.primary / f"d/f{n}").unlink()
    _put_back(setting, old, how)
    before = _names(there)
    done = product.once()
    assert (done.returncode, _names(there)) == (1, before), done.stderr
    with product:
        product.start()
        held = product.asked()["remove"]
        assert held["deletes"] == 118 and held["by_directory"] == [
            {"directory": "d", "count": 118, "bytes": sum(len(f"content {n}") for n in range(118))}
        ]
        assert _names(there) == before
        product.answer(held["id"], approve=True)
        product.active()
        converged(product, setting.primary, there, since=time.monotonic(), within=20)
    assert _kept(there)["d/f0"] == "content 0"


def test_a_restored_secondary_that_differs_in_content_is_asked_about(make: Maker) -> None:
    """A variant: not one delete, but newer files that would be written over."""
    setting = make(SSH, **CALM)
    old = _replicated(setting, 20)
    write(setting.primary / "d/f3", "newer content of 3")
    assert setting.product.once().returncode == 0
    _put_back(setting, old, "in place")
    done = setting.product.once()
    assert done.returncode == 1 and (setting.secondary / "d/f3").read_text() == "content 3"
    done = setting.product.once("--adopt")
    assert done.returncode == 0, done.stderr
    _equal(setting)
    assert _kept(setting.secondary) == {"d/f3": "content 3"}


# ---- (b) approving what is listed allows just that -------------------------------------------------------------------


def test_approving_replacements_removes_nothing(make: Maker) -> None:
    """Three replacements approved: the 60 files that nobody named stay until they are approved themselves."""
    setting = make(LOCAL)
    product, there = setting.product, setting.secondary
    _seeded(setting)
    theirs = {n for n in _names(there) if n.startswith("theirs")}
    with product:
        product.start()
        held = product.asked(2)
        assert (held["replace"]["deletes"], held["remove"]["deletes"]) == (3, 64)
        assert not (there / "new").exists(), "nothing is written before the answer"
        product.answer(held["replace"]["id"], approve=True)
        product.asked()
        assert theirs <= _names(there)
        product.answer(held["remove"]["id"], approve=False)
        product.active()
        wait_until(lambda: (there / "d0/f0").read_text() == "content 0", 20, "replaced")
        assert theirs <= _names(there) and (there / "new").read_text() == "new"
        assert _names(there) - theirs == _names(setting.primary)


def test_what_comes_or_changes_after_the_list_is_asked_about_anew(make: Maker) -> None:
    """A variant: between the list and the answer a file appears in a listed directory, and two listed ones change."""
    setting = make(LOCAL)
    product, there = setting.product, setting.secondary
    _seeded(setting)
    with product:
        product.start()
        held = product.asked(2)
        write(there / "theirs/1/came-later", "precious")
        write(there / "theirs/2/x2", "changed after it was listed")
        write(there / "d0/f2", "changed after it was listed, too")
        for one in held.values():
            product.answer(one["id"], approve=True)
        again = wait_until(
            lambda: {h["kind"]: h for h in product.held() if h["id"] not in [o["id"] for o in held.values()]}, 30, "asked anew"
        )
        again = product.asked(2) if len(again) < 2 else again
        assert again["replace"]["sample"] == ["d0/f2"]
        assert again["remove"]["sample"] == ["theirs/1/came-later", "theirs/2/x2"]
        assert (there / "theirs/1/came-later").read_text() == "precious"
        assert (there / "d0/f2").read_text() == "changed after it was listed, too"
        assert not (there / "theirs/0").exists()
        for one in again.values():
            product.answer(one["id"], approve=True)
        product.active()
        converged(product, setting.primary, there, since=time.monotonic(), within=20)


def test_an_answer_outlives_a_crash_of_everything(make: Maker) -> None:
    """A variant: approved, and killed before or while it is acted on: it goes on without asking again."""
    setting = make(LOCAL)
    product, there = setting.product, setting.secondary
    _seeded(setting, extra=300)
    with product:
        product.start()
        held = product.asked(2)
        product.kill()
        product.start()
        again = product.asked(2)
        assert {k: (h["id"], h["since"]) for k, h in again.items()} == {k: (h["id"], h["since"]) for k, h in held.items()}
        for one in held.values():
            product.answer(one["id"], approve=True)
        product.kill()
        product.start()
        product.active()
        converged(product, setting.primary, there, since=time.monotonic(), within=20)


# ---- (c) reject ------------------------------------------------------------------------------------------------------


def test_rejected_it_stays_and_the_rest_goes_on(make: Maker) -> None:
    """Both rejected: one entry for each list, nothing is held any more, changes go on; and so after a restart."""
    setting = make(LOCAL)
    product, there = setting.product, setting.secondary
    _seeded(setting)
    before = untouched(there)
    with product:
        product.start()
        for one in product.asked(2).values():
            product.answer(one["id"], approve=False)
        product.active()
        entries = product.failures()
        assert sorted(e["operation"] for e in entries) == ["REMOVE", "REPLACE"]
        assert all(e["message"].startswith("rejected by ") and Path(e["path"]).exists() for e in entries), entries
        write(setting.primary / "after", "after")
        write(setting.primary / "d0/f2", "a newer content that was not asked about")
        wait_until(lambda: (there / "after").exists(), 20, "the rest goes on")
        for _ in range(2):
            now = untouched(there)
            assert {p: now.get(p) for p in before} == before
            assert product.held() == [] and len(product.failures()) == 2, product.failures()
            assert product.stop() == 0
            product.process = None
            product.start()
            product.active()


def test_rejected_and_asked_about_again(make: Maker) -> None:
    """A variant: a person thinks again: retrying the entry asks anew, and approved it is done."""
    setting = make(LOCAL)
    product, there = setting.product, setting.secondary
    _seeded(setting)
    with product:
        product.start()
        for one in product.asked(2).values():
            product.answer(one["id"], approve=False)
        product.active()
        ids = [e["id"] for e in product.failures()]
        assert product.command("failures", product.name, "--retry").returncode == 0
        assert len(product.failures()) == 2 and product.held() == [], "not without its id"
        assert product.command("failures", product.name, *ids, "--retry").returncode == 0
        for one in product.asked(2).values():
            product.answer(one["id"], approve=True)
        product.active()
        converged(product, setting.primary, there, since=time.monotonic(), within=20)


# ---- (d) ignore_deletes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["adopt", "restored", "repair"])
def test_ignore_deletes_holds_on_every_way(make: Maker, route: str) -> None:
    setting = make(LOCAL, ignore_deletes=True)
    product, there = setting.product, setting.secondary
    if route == "adopt":
        _seeded(setting)
        done = product.once("--adopt")
        assert done.returncode == 0, done.stdout + done.stderr
        assert (there / "theirs/1/x1").read_text() == "theirs 1" and (there / "d0/f0").read_text() == "content 0"
        return
    old = _replicated(setting, 20)
    (setting.primary / "d/f1").unlink()
    write(setting.primary / "d/f2", "newer")
    if route == "restored":
        assert product.once().returncode == 0
        _put_back(setting, old, "in place")
        assert product.once("--adopt").returncode == 0
        assert (there / "d/f1").exists() and (there / "d/f2").read_text() == "newer"
        return
    with product:
        product.start()
        product.active()
        wait_until(lambda: (there / "d/f2").read_text() == "newer", 20, "in step")
        write(there / "d/f2", "changed there")
        done = product.command("verify", product.name, "--content", "--repair")
        assert (there / "d/f1").exists() and (there / "d/f2").read_text() == "newer", done.stdout
        done = product.command("verify", product.name, "--repair", "--remove-extra")
        assert done.returncode != 0 and "ignore_deletes" in done.stderr + done.stdout
        assert (there / "d/f1").exists()


# ---- (e) the dry run is what then happens ----------------------------------------------------------------------------


def _dry(product: Product, *more: str) -> dict[str, Any]:
    done = product.command(*product.run_words("--dry-run", "--json", *more)[3:])
    assert done.returncode == 0, done.stderr
    plan: dict[str, Any] = json.loads(done.stdout)["bricks"][0]
    return plan


@pytest.mark.parametrize("options", [{}, {"ignore_deletes": True}, {"exclude": "theirs/1/"}, {"adopt": "checksum"}])
def test_a_dry_run_says_what_then_happens(make: Maker, options: dict[str, Any]) -> None:
    setting = make(LOCAL, **options)
    there = setting.secondary
    _seeded(setting)
    os.utime(there / "d1/f1", ns=(1, 1))  # the same content
    contents = {n: (there / n).read_bytes() for n in _names(there) if (there / n).is_file()}
    before = untouched(there)
    plan = _dry(setting.product, "--adopt")
    assert untouched(there) == before and not (there / ".georep").exists()
    done = setting.product.once("--adopt")
    assert done.returncode == 0, done.stdout + done.stderr
    gone = {n for n in contents if not (there / n).is_file()}
    changed = {n for n in contents if n not in gone and (there / n).read_bytes() != contents[n]}
    said = {w: {p["path"] for p in plan[w]["paths"]} for w in ("removed", "replaced")}
    assert {n for n in said["removed"] if n in contents} == gone
    assert changed <= said["replaced"] and said["replaced"] - changed <= {"d1/f1"}, said["replaced"]
    assert plan["removed"]["objects"] == len(said["removed"]) and (len(gone) > 0) != ("ignore_deletes" in options)
    assert plan["made"]["objects"] == 1 and plan["asks"] == {}


def test_a_dry_run_without_adopt_says_what_would_be_asked(make: Maker) -> None:
    """A variant: text for a person, with paths; and of a session that goes on, what the guard would hold."""
    setting = make(LOCAL)
    _seeded(setting)
    done = setting.product.command(*setting.product.run_words("--dry-run")[3:])
    assert "would be replaced: d0/f0" in done.stdout and "would ask before it goes on: 3 to replace and 64 to remove" in done.stdout
    assert setting.product.once("--adopt").returncode == 0
    for n in range(200):
        write(setting.primary / f"many/{n}", "x")
    assert setting.product.once().returncode == 0
    shutil.rmtree(setting.primary / "many")
    plan = _dry(setting.product)
    assert plan["kind"] == "continue" and plan["asks"] == {"delete": 201} and {"path": "many/0"} in plan["paths"]["removed"]


# ---- held, verify, live ----------------------------------------------------------------------------------------------


def test_held_shows_the_whole_list(make: Maker, scratch: Path) -> None:
    setting = make(LOCAL)
    product = setting.product
    _seeded(setting)
    with product:
        product.start()
        product.asked(2)
        text = product.command("held", product.name).stdout
        assert "theirs/0/  20 objects" in text and "d0/  3 objects" in text, text
        every = json.loads(product.command("held", product.name, "--json").stdout)["held"]
        assert sorted(len(h["items"]) for h in every) == [3, 64]
        saved = scratch / "list"
        assert product.command("held", product.name, "--list", str(saved)).returncode == 1
        lines = [json.loads(line) for line in saved.read_text().splitlines()]
        assert {line["path"] for line in lines} >= {"d0/f0", "theirs/2/x2"} and len(lines) == 67
        shown = product.brick()["held"]
        assert shown["kind"] == "replace" and Path(shown["list"]).exists() and shown["by_directory"]


def test_verify_removes_only_when_that_is_asked_for(make: Maker) -> None:
    setting = make(LOCAL, exclude="*.keep")
    product, there = setting.product, setting.secondary
    write(setting.primary / "d/f", "content")
    with product:
        product.start()
        product.active()
        converged(product, setting.primary, there, since=time.monotonic())
        write(there / "extra/deep/file", "theirs")
        write(there / "extra/some.keep", "excluded")
        write(there / "d/f", "changed there")
        said = product.command("verify", product.name, "--repair", "--remove-extra", "--dry-run", "--json")
        would = json.loads(said.stdout)["would"]
        assert (would["replaced"]["objects"], would["removed"]["objects"]) == (1, 1), would
        assert (there / "d/f").read_text() == "changed there"
        done = product.command("verify", product.name, "--repair")
        assert (there / "d/f").read_text() == "content" and (there / "extra/deep/file").exists(), done.stdout
        assert done.returncode == 1 and "--remove-extra" in done.stdout
        product.command("verify", product.name, "--repair", "--remove-extra")
        assert not (there / "extra/deep").exists() and (there / "extra/some.keep").read_text() == "excluded"
        assert _kept(there)["extra/deep/file"] == "theirs"


def test_something_unknown_in_the_way_is_not_replaced_unasked(make: Maker) -> None:
    """A live session: a file that somebody made there has the name of one that is made here afterwards."""
    setting = make(LOCAL)
    product, there = setting.product, setting.secondary
    with product:
        product.start()
        product.active()
        write(there / "name", "somebody's")
        write(setting.primary / "name", "the primary's")
        write(setting.primary / "other", "goes on")
        (entry,) = wait_until(product.failures, 20, "an entry")
        assert entry["kind"] == "in-the-way" and (there / "name").read_text() == "somebody's"
        wait_until(lambda: (there / "other").exists(), 20, "the rest goes on")
        assert product.command("failures", product.name, entry["id"], "--retry").returncode == 0
        converged(product, setting.primary, there, since=time.monotonic(), within=20)

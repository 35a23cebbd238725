"""Case j: the primary is emptied, unmounted or replaced under a running session: nothing is deleted until approved."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.system.oracle import differences
from tests.system.places import Mounts
from tests.system.runner import Product, converged, let_pass, wait_until
from tests.system.settings import LOCAL, Maker, Setting, untouched, write
from tests.system.trees import many_files

FILES = 600


def _names(tree: Path) -> set[str]:
    return {
        os.path.relpath(os.path.join(folder, name), tree)
        for folder, directories, files in os.walk(tree)
        for name in directories + files
        if not os.path.relpath(os.path.join(folder, name), tree).startswith(".georep")
    }


def _begin(setting: Setting) -> set[str]:
    """A live session on 600 files; returns the names on the secondary."""
    many_files(setting.primary, 12, FILES // 12)
    product = setting.product
    product.start()
    product.active()
    converged(product, setting.primary, setting.secondary, since=time.monotonic())
    return _names(setting.secondary)


def _is_held(product: Product) -> dict[str, Any]:
    """Wait until a brick is held; returns what `held` says."""

    def look() -> list[dict[str, Any]]:
        return product.held() if product.brick().get("status") == "Held" else []

    try:
        found: list[dict[str, Any]] = wait_until(look, 20, "held", pause=0.2)
    except AssertionError as e:
        raise AssertionError(f"{e}; {product.story()}") from None
    assert len(found) == 1, found
    return found[0]


def test_emptied(make: Maker) -> None:
    """An emptied root is Faulty or held (SAFE-1), and stays so over a restart; nothing is deleted."""
    setting = make(LOCAL)
    with setting.product as product:
        names = _begin(setting)
        for path in list(setting.primary.iterdir()):
            shutil.rmtree(path)
        brick = wait_until(
            lambda: (b := product.brick()).get("status") in ("Held", "Faulty") and b, 20, f"held; {product.story()}"
        )
        assert brick["held"] or brick["last_error"], brick
        assert _names(setting.secondary) == names
        assert product.stop() in (0, 1)
        product.start()
        wait_until(lambda: product.brick().get("status") in ("Held", "Faulty"), 30, "held after the restart")
        let_pass(3)
        assert _names(setting.secondary) == names


def test_names_of_one_object_are_one_delete(make: Maker) -> None:
    """Hard links whose names go one slice after the other count once: 50 of 100 objects are not 150."""
    setting = make(LOCAL, delete_guard_share="60%", delete_guard_minimum=0, max_history_changelogs_in_batch=1)
    for n in range(100):
        (setting.primary / f"a{n}").write_text(str(n))
        for other in "bc":
            os.link(setting.primary / f"a{n}", setting.primary / f"{other}{n}")
    with setting.product as product:
        product.start()
        product.active()
        converged(product, setting.primary, setting.secondary, since=time.monotonic())
        assert product.command("pause", product.name).returncode == 0
        for name in "abc":
            before = product.brick()["backlog"]["changelogs"]
            for n in range(50):
                (setting.primary / f"{name}{n}").unlink()
            wait_until(lambda before=before: product.brick()["backlog"]["changelogs"] > before, 20, "a slice more")
        assert product.command("resume", product.name).returncode == 0
        converged(product, setting.primary, setting.secondary, since=time.monotonic())
        assert product.held() == []


def test_what_is_gone_there_already_is_no_loss(make: Maker) -> None:
    """Deletes that an earlier run did before its mark was written, or a person did on both sides, hold nothing."""
    setting = make(LOCAL)
    with setting.product as product:
        _begin(setting)
        assert product.stop() == 0
        for side in (setting.primary, setting.secondary):
            _remove_60_percent(side)
        product.start()
        product.active()
        converged(product, setting.primary, setting.secondary, since=time.monotonic())
        assert product.held() == []


def test_unmounted_and_mounted_again(make: Maker, mounts: Mounts) -> None:
    """Unmounting gives no event: the root's identity is checked at each slice. It comes back by itself."""
    disk = mounts.ext4("disk", 64)
    (disk / "lost+found").rmdir()
    setting = make(LOCAL, primary=disk)
    with setting.product as product:
        names = _begin(setting)
        mounts.unmount(disk)
        error = product.faulty()
        assert error["hint"], error
        assert _names(setting.secondary) == names
        write(disk / "on-the-empty-mount-point", "x")
        let_pass(3)
        assert _names(setting.secondary) == names
        (disk / "on-the-empty-mount-point").unlink()
        mounts.ext4("disk", 64, image=setting.base.parent / "disk.img")
        write(disk / "after", "mounted again")
        converged(product, disk, setting.secondary, since=time.monotonic(), within=75, patience=90)


def test_another_tree_mounted_in_its_place(make: Maker, mounts: Mounts) -> None:
    disk = mounts.tmpfs("disk", "20m")
    setting = make(LOCAL, primary=disk)
    with setting.product as product:
        names = _begin(setting)
        other = mounts.tmpfs("disk", "20m")
        for n in range(50):
            write(other / f"foreign{n}", "foreign")
        assert product.faulty()["hint"]
        let_pass(3)
        assert _names(setting.secondary) == names
        mounts.unmount(other)
        write(disk / "after", "back again")
        converged(product, disk, setting.secondary, since=time.monotonic(), within=75, patience=90)


def test_the_root_replaced_by_another_directory(make: Maker) -> None:
    """A restore or `mv` put another directory under the same name."""
    setting = make(LOCAL)
    with setting.product as product:
        names = _begin(setting)
        setting.primary.rename(setting.base / "was-primary")
        write(setting.primary / "other", "other")
        assert product.faulty()["hint"]
        let_pass(3)
        assert _names(setting.secondary) == names
        shutil.rmtree(setting.primary)
        (setting.base / "was-primary").rename(setting.primary)
        converged(product, setting.primary, setting.secondary, since=time.monotonic(), within=75, patience=90)


def _remove_60_percent(tree: Path) -> None:
    """Over many slices: a few files at a time."""
    doomed = sorted(p for p in tree.rglob("f*"))[: FILES * 6 // 10]
    for n, path in enumerate(doomed):
        path.unlink()
        if n % 40 == 39:
            let_pass(0.6)


def test_60_percent_over_many_slices_approved(make: Maker) -> None:
    """The guard's window slides over slices: small deletes add up and are held; approved, they are done."""
    setting = make(LOCAL)
    with setting.product as product:
        _begin(setting)
        _remove_60_percent(setting.primary)
        held = _is_held(product)
        assert held["reason"]
        assert held["deletes"] > 0
        assert held["sample"]
        left = len([n for n in _names(setting.secondary) if "/f" in n])
        assert left >= FILES * 0.5 - 1, f"{FILES - left} of {FILES} deleted without approval"
        checked = product.command("status", product.name, "--check")
        assert checked.returncode in (1, 2), checked.stdout
        done = product.command("held", product.name, "--approve", str(held["id"]))
        assert done.returncode == 0, done.stderr
        converged(product, setting.primary, setting.secondary, since=time.monotonic(), within=20)


def test_60_percent_rejected(make: Maker) -> None:
    """Rejected, nothing more is deleted, and the session says that both sides differ."""
    setting = make(LOCAL)
    with setting.product as product:
        _begin(setting)
        _remove_60_percent(setting.primary)
        held = _is_held(product)
        before = _names(setting.secondary)
        done = product.command("held", product.name, "--reject", str(held["id"]))
        assert done.returncode == 0, done.stderr
        let_pass(4)
        assert _names(setting.secondary) == before
        kept = product.failures()
        assert {f["primary_state"] for f in kept} == {"absent"} and all(", 06" in f["secondary_state"] for f in kept), kept[:2]


def test_once_with_too_many_deletes(make: Maker) -> None:
    """`--once` ends with 1 and says why; nothing is deleted."""
    setting = make(LOCAL)
    many_files(setting.primary, 12, FILES // 12)
    assert setting.product.once().returncode == 0
    names = _names(setting.secondary)
    for d in range(9):
        shutil.rmtree(setting.primary / f"d{d:05}")
    done = setting.product.once()
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert "held" in (done.stderr + done.stdout).lower()
    assert _names(setting.secondary) == names


@pytest.mark.parametrize("how", ["displaced", "moved out"])
def test_other_ways_to_lose_files_count(make: Maker, how: str) -> None:
    """Displaced by renames and moved out of the tree count as deleted (SAFE-1)."""
    setting = make(LOCAL)
    with setting.product as product:
        _begin(setting)
        if how == "moved out":
            for d in range(9):
                (setting.primary / f"d{d:05}").rename(setting.base / f"out{d}")
        else:
            for n, path in enumerate(sorted(setting.primary.rglob("f*"))[: FILES * 8 // 10]):
                write(setting.base / "new" / str(n), "new")
                (setting.base / "new" / str(n)).rename(path)
        held = _is_held(product)
        done = product.command("held", product.name, "--approve", str(held["id"]))
        assert done.returncode == 0, done.stderr
        converged(product, setting.primary, setting.secondary, since=time.monotonic(), within=20)


def test_moves_within_the_tree_do_not_count(make: Maker) -> None:
    """Everything renamed, nothing lost: nothing is held."""
    setting = make(LOCAL)
    with setting.product as product:
        _begin(setting)
        (setting.primary / "all").mkdir()
        for d in range(12):
            (setting.primary / f"d{d:05}").rename(setting.primary / "all" / f"d{d}")
        converged(product, setting.primary, setting.secondary, since=time.monotonic())
        assert product.held() == []


@pytest.mark.usefixtures("root")
def test_a_filesystem_mounted_inside_is_left_alone(make: Maker) -> None:
    """One filesystem per brick: what is mounted in the tree is reported and skipped, under a live session too."""
    setting = make(LOCAL)
    with setting.product as product:
        _begin(setting)
        (setting.primary / "mnt").mkdir()
        converged(product, setting.primary, setting.secondary, since=time.monotonic())
        at = setting.primary / "mnt"
        inside = Mounts(setting.primary)
        inside.tmpfs("mnt", "5m")
        try:
            write(at / "inside", "another filesystem")
            write(setting.primary / "outside", "ours")
            wait_until((setting.secondary / "outside").exists, 10)
            let_pass(2)
            assert not (setting.secondary / "mnt/inside").exists()
        finally:
            inside.close()
        converged(product, setting.primary, setting.secondary, since=time.monotonic())


def test_a_hold_says_how_much(make: Maker) -> None:
    """A hold says how many of how many, since when."""
    setting = make(LOCAL, delete_guard_share="10%", delete_guard_minimum=20)
    with setting.product as product:
        _begin(setting)
        for d in range(3):
            shutil.rmtree(setting.primary / f"d{d:05}")
        held = _is_held(product)
        assert held["deletes"] >= 60
        assert held["of"] >= FILES
        assert held["since"] <= time.time()
        assert differences(os.fsencode(setting.primary), os.fsencode(setting.secondary)) != []


def test_replacing_rejected(make: Maker) -> None:
    """What a person wants kept is kept, over a restart too: not displaced by the new objects that have its names."""
    setting = make(LOCAL)
    with setting.product as product:
        _begin(setting)
        (setting.base / "new").mkdir()
        for n, path in enumerate(sorted(setting.primary.rglob("f*"))[: FILES * 8 // 10]):
            write(setting.base / "new" / str(n), "new")
            (setting.base / "new" / str(n)).rename(path)
        held = _is_held(product)
        before = untouched(setting.secondary)
        done = product.command("held", product.name, "--reject", str(held["id"]))
        assert done.returncode == 0, done.stderr
        wait_until(lambda: len(product.failures()) >= 2 * held["deletes"], 20, "both sides of it in the ledger")
        assert not [f for f in product.failures() if f["operation"] == "REPLACE" and ", 0" not in f["primary_state"]]
        assert product.stop() in (0, 1)
        product.start()
        product.active()
        now = untouched(setting.secondary)
        changed = [path for path in before if now.get(path) != before[path]]
        assert len(changed) <= FILES * 8 // 10 - held["deletes"], "what a later slice replaced, and nothing that was held"

"""Case g: a secondary that was there before: seeded, foreign, restored, or of a session whose state is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.system import processes
from tests.system.oracle import differences
from tests.system.runner import converged, finish, wait_until, working, workload
from tests.system.settings import CALM, LOCAL, SSH, Maker, Setting, untouched, write


def _fill(tree: Path, seed: int = 31) -> None:
    outside = tree.parent / "outside"
    started = workload(tree, seed, 1200, outside=outside)
    with working(started):
        finish(started)
    # what is linked from outside has more links than names: nobody else need know
    shutil.rmtree(outside)


def _rsync(one: Path, two: Path, *options: str) -> None:
    subprocess.run(["rsync", "-a", "--modify-window=-1", *options, f"{one}/", f"{two}/"], check=True)


def _once(setting: Setting, *more: str) -> subprocess.CompletedProcess[str]:
    return setting.product.once(*more)


def _equal(setting: Setting) -> None:
    assert differences(os.fsencode(setting.primary), os.fsencode(setting.secondary)) == []


def test_seeded_with_hard_links_by_rsync(make: Maker) -> None:
    """Equal already: adopted as it is, no file is touched (CRW-8)."""
    setting = make(SSH, **CALM)
    _fill(setting.primary)
    _rsync(setting.primary, setting.secondary, "-HAX", "--sparse")
    before = untouched(setting.secondary)
    done = _once(setting)
    assert done.returncode == 0, done.stderr
    _equal(setting)
    changed = {p for p, seen in untouched(setting.secondary).items() if before.get(p) != seen}
    assert changed == set()


def test_seeded_by_plain_rsync(make: Maker) -> None:
    """`rsync -a` breaks hard links: they are put right, from the data that is there."""
    setting = make(LOCAL, **CALM)
    tree = setting.primary
    for n in range(30):
        write(tree / f"d{n % 3}/f{n}", os.urandom(3000))
    os.link(tree / "d0/f0", tree / "d1/second")
    os.link(tree / "d0/f0", tree / "d2/third")
    _rsync(tree, setting.secondary)
    inodes = {p.stat().st_ino for p in setting.secondary.rglob("*")}
    done = _once(setting)
    assert done.returncode == 0, done.stderr
    _equal(setting)
    assert {p.stat().st_ino for p in setting.secondary.glob("d*/*")} <= inodes, "made anew instead of linked"


def test_seeded_and_some_of_it_old(make: Maker) -> None:
    """What differs would be replaced: that needs `--adopt` on a secondary that is not ours yet (SAFE-1)."""
    setting = make(LOCAL, **CALM)
    _fill(setting.primary)
    _rsync(setting.primary, setting.secondary, "-HAX", "--sparse")
    write(setting.primary / "newer", "new content")
    write(setting.secondary / "newer", "old content")
    done = _once(setting)
    assert done.returncode == 1, done.stderr
    assert (setting.secondary / "newer").read_text() == "old content"
    done = _once(setting, "--adopt")
    assert done.returncode == 0, done.stderr
    _equal(setting)


def test_foreign_files_are_kept_until_adopted(make: Maker) -> None:
    """Nothing is deleted or replaced without `--adopt`; and the reason names it."""
    setting = make(LOCAL, **CALM)
    write(setting.primary / "mine", "mine")
    write(setting.primary / "both", "the primary's")
    write(setting.secondary / "foreign/precious", "precious")
    write(setting.secondary / "both", "the secondary's")
    before = untouched(setting.secondary)
    done = _once(setting)
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert "--adopt" in done.stderr + done.stdout
    now = untouched(setting.secondary)
    assert {p: now.get(p) for p in before} == before
    done = _once(setting, "--adopt")
    assert done.returncode == 0, done.stderr
    _equal(setting)


def test_a_copy_without_xattrs_is_adopted_with_them(make: Maker) -> None:
    """CRW-8: `rsync -a` brings no xattrs and no ACLs: what is equal by size and time gets them."""
    setting = make(LOCAL)
    for n in range(20):
        path = setting.primary / f"f{n}"
        path.write_text(str(n))
        os.utime(path, ns=(n, n))
    there = setting.secondary
    subprocess.run(["cp", "-a", f"{setting.primary}/.", str(there)], check=True)
    for n in range(20):
        os.setxattr(setting.primary / f"f{n}", "user.one", b"1")
    done = _once(setting, "--adopt")
    assert done.returncode == 0, done.stderr
    _equal(setting)


def test_restored_from_an_older_copy_of_itself(make: Maker) -> None:
    """MRK-7: the copy of the mark is older than the primary's: noticed, said, and put right when a person agrees."""
    setting = make(LOCAL, **CALM)
    product, there = setting.product, setting.secondary
    _fill(setting.primary, 32)
    with product:
        product.start()
        product.active()
        converged(product, setting.primary, there, since=time.monotonic())
        product.stop()
        old = there.with_name("old-copy")
        subprocess.run(["cp", "-a", str(there), str(old)], check=True)
        _fill(setting.primary, 33)
        product.start()
        product.active()
        converged(product, setting.primary, there, since=time.monotonic())
        product.stop()
        shutil.rmtree(there)
        old.rename(there)
        product.start()
        for one in product.asked(2).values():
            product.answer(one["id"], approve=True)
        product.active()
        converged(product, setting.primary, there, since=time.monotonic(), within=20)
        assert product.stop() == 0, product.tail()


def test_a_directory_that_only_loses_something_keeps_its_times(make: Maker) -> None:
    """An older copy of the replica has more in a directory than the primary, which has nothing there to bring over."""
    setting = make(LOCAL, **CALM)
    product, there = setting.product, setting.secondary
    (setting.primary / "d").mkdir()
    write(setting.primary / "d" / "child", "x")
    assert product.once().returncode == 0
    old = there.with_name("old-copy")
    subprocess.run(["cp", "-a", str(there), str(old)], check=True)
    (setting.primary / "d" / "child").unlink()
    assert product.once().returncode == 0
    shutil.rmtree(there)
    old.rename(there)
    done = product.once()
    assert done.returncode == 1 and "held" in done.stdout, done.stderr
    done = product.once("--adopt")
    assert done.returncode == 0, done.stderr
    _equal(setting)


@pytest.mark.parametrize("what", ["emptied", "index lost", "index damaged", "mark lost"])
def test_the_secondarys_own_state_is_lost(make: Maker, what: str) -> None:
    """The replica emptied, its index lost or damaged, the copy of the mark gone: a hybrid crawl puts it right."""
    setting = make(LOCAL, **CALM)
    product, there = setting.product, setting.secondary
    _fill(setting.primary, 34)
    done = product.once()
    assert done.returncode == 0, done.stderr
    state = there / ".georep"
    if what == "emptied":
        for path in list(there.iterdir()):
            subprocess.run(["rm", "-rf", str(path)], check=True)
    elif what == "index damaged":
        for path in state.glob("index.db*"):
            path.write_bytes(b"no database" * 2000)
    else:
        gone = list(state.glob("index.db*" if what == "index lost" else "mark*"))
        assert gone, list(state.iterdir())
        for path in gone:
            path.unlink()
    write(setting.primary / "after", "after")
    done = product.once()
    assert done.returncode == 0, done.stderr + done.stdout
    _equal(setting)


def test_the_primarys_state_is_lost(make: Maker) -> None:
    """Taking over is an explicit word (SAFE-5); then a hybrid crawl recovers without sending data."""
    setting = make(SSH, **CALM)
    product = setting.product
    _fill(setting.primary, 35)
    assert product.once().returncode == 0
    before = untouched(setting.secondary)
    shutil.rmtree(product.base / "state")
    (product.base / "state").mkdir()
    done = product.once()
    assert done.returncode in (1, 2), done.stderr
    assert "--adopt" in done.stderr + done.stdout
    assert untouched(setting.secondary) == before
    done = product.once("--adopt")
    assert done.returncode == 0, done.stderr
    _equal(setting)
    assert untouched(setting.secondary) == before


def test_the_primarys_index_is_damaged(make: Maker) -> None:
    """The index is rebuilt by a hybrid crawl; nothing is sent that is there."""
    setting = make(LOCAL, **CALM)
    product = setting.product
    _fill(setting.primary, 36)
    assert product.once().returncode == 0
    before = untouched(setting.secondary)
    found = list((product.base / "state").rglob("index.db*"))
    assert found
    for path in found:
        path.write_bytes(b"no database" * 2000)
    done = product.once()
    assert done.returncode == 0, done.stderr
    _equal(setting)
    assert untouched(setting.secondary) == before


def test_reverse_after_failover(make: Maker) -> None:
    """SAFE-7: a `.georep` in a primary is not replicated; the reverse session adopts what is equal."""
    setting = make(LOCAL, **CALM)
    _fill(setting.primary, 37)
    assert setting.product.once().returncode == 0
    write(setting.secondary / "written-after-failover", "there")
    (setting.primary / ".georep").mkdir(exist_ok=True)
    before = untouched(setting.primary)
    back = make(LOCAL, primary=setting.secondary, secondary=setting.primary, **CALM)
    done = back.product.once("--adopt")
    assert done.returncode == 0, done.stderr
    assert differences(os.fsencode(setting.secondary), os.fsencode(setting.primary)) == []
    now = untouched(setting.primary)
    assert {p: now.get(p) for p in before} == before


def test_an_undelete_is_kept(make: Maker) -> None:
    """`keep_deleted`: what is deleted on the primary waits in `.georep` for that time (SEC-16)."""
    setting = make(LOCAL, keep_deleted=3600)
    product = setting.product
    write(setting.primary / "file", "wanted back")
    write(setting.primary / "stays", "x")
    with product:
        product.start()
        product.active()
        converged(product, setting.primary, setting.secondary, since=time.monotonic())
        (setting.primary / "file").unlink()
        converged(product, setting.primary, setting.secondary, since=time.monotonic())

        def kept() -> bool:
            files = [p for p in (setting.secondary / ".georep").rglob("*") if p.is_file()]
            return any(p.read_bytes() == b"wanted back" for p in files)

        wait_until(kept, 10, "the deleted file below .georep")


def test_an_agent_that_dies_while_a_missing_directory_is_made_anew(make: Maker) -> None:
    """CON-5: somebody has removed a directory there that is renamed here. Half made anew, the rename repeated finds it
    there: what is missing in it is known from the ledger."""
    setting = make(LOCAL)
    tree, there, product = setting.primary, setting.secondary, setting.product
    hit = 0
    for i in range(8):
        for n in range(300):
            write(tree / f"d{i}/a/{'deep' if n % 2 else 'flat'}/{n}", str(n))
    with product:
        product.start()
        product.active()
        converged(product, tree, there, since=time.monotonic(), within=30)
        for i in range(8):
            agents = product.children("python")
            shutil.rmtree(there / f"d{i}/a")
            (tree / f"d{i}/a").rename(tree / f"d{i}/b")
            new = there / f"d{i}/b"
            end = time.monotonic() + 20
            while not new.exists() and time.monotonic() < end:
                pass  # it passes within milliseconds
            processes.kill(agents)
            hit += sum(path.is_file() and path.stat().st_size > 0 for path in new.rglob("*")) < 300
            converged(product, tree, there, since=time.monotonic(), within=60)
            if hit == 3:
                break
        assert hit, "no agent died in between"
        assert product.stop() == 0, product.tail()


def test_a_directory_that_somebody_removed_comes_back_with_all_in_it(make: Maker) -> None:
    """SEC-11: renamed here and missing there, it is made anew with what is in it, at once: nothing fails on the way."""
    setting = make(LOCAL)
    tree, there, product = setting.primary, setting.secondary, setting.product
    for n in range(40):
        write(tree / f"a/{'deep' if n % 2 else 'flat'}/{n}", str(n))
    with product:
        product.start()
        product.active()
        converged(product, tree, there, since=time.monotonic())
        shutil.rmtree(there / "a")
        (tree / "a").rename(tree / "b")
        converged(product, tree, there, since=time.monotonic())
        assert product.stop() == 0, product.tail()
    (log,) = (product.base / "state").rglob("engine.log")
    assert "WARNING" not in log.read_text(), log.read_text()

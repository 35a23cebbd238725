"""Case l: what no event reports is found by the scrub (CRW-9); changes behind our back by verify (SAFE-3)."""

from __future__ import annotations

import json
import mmap
import os
import time
from pathlib import Path

from tests.system.oracle import differences
from tests.system.places import Mounts
from tests.system.runner import Product, converged, finish, let_pass, wait_until, working, workload
from tests.system.settings import LOCAL, Maker, write


def test_a_write_through_mmap_is_found_by_the_scrub(make: Maker, mounts: Mounts) -> None:
    """The mapping was made before the session began, its descriptor is closed: writing leaves no event."""
    disk = mounts.ext4("disk", 64)
    (disk / "lost+found").rmdir()
    setting = make(LOCAL, primary=disk, scrub_interval=3, scrub_rate=10_000)
    write(disk / "mapped", b"x" * 8192)
    with open(disk / "mapped", "r+b") as f:
        mapped = mmap.mmap(f.fileno(), 8192)
    try:
        with setting.product as product:
            product.start()
            product.active()
            converged(product, disk, setting.secondary, since=time.monotonic())
            mapped[4096:4103] = b"changed"
            mapped.flush()
            wait_until(lambda: b"changed" in (setting.secondary / "mapped").read_bytes(), 20, product.story())
            converged(product, disk, setting.secondary, since=time.monotonic())
    finally:
        mapped.close()


def _tampered(there: Path) -> None:
    """One altered with size and times kept, one altered openly, one removed, one added, one with a new mode."""
    path = there / "d/altered"
    info = path.stat()
    with open(path, "r+b") as f:
        f.write(b"X")
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    write(there / "d/longer", "not what the primary has")
    (there / "d/removed").unlink()
    write(there / "d/added", "nobody on the primary made this")
    (there / "d/mode").chmod(0o600)


def _verify(product: Product, *more: str) -> tuple[int, dict[str, object]]:
    done = product.command("verify", product.name, "--json", *more)
    return done.returncode, json.loads(done.stdout or "{}")


def test_changes_behind_our_back_are_found_and_repaired(make: Maker) -> None:
    setting = make(LOCAL)
    tree, there = setting.primary, setting.secondary
    for name in ("altered", "longer", "removed", "mode", "fine"):
        write(tree / "d" / name, f"content of {name}")
    with setting.product as product:
        product.start()
        product.active()
        converged(product, tree, there, since=time.monotonic())
        code, found = _verify(product, "--content")
        assert code == 0, found
        _tampered(there)
        code, found = _verify(product)
        text = json.dumps(found)
        assert code == 1, found
        for name in ("longer", "removed", "added", "mode"):
            assert f"d/{name}" in text, found
        assert "d/altered" not in text, "found without looking at content"
        code, found = _verify(product, "--content")
        assert code == 1
        assert "d/altered" in json.dumps(found), found
        assert "d/fine" not in json.dumps(found), found
        before = differences(os.fsencode(tree), os.fsencode(there))
        assert len(before) >= 5, "verify alone changes nothing"
        code, found = _verify(product, "--content", "--repair", "--remove-extra")
        converged(product, tree, there, since=time.monotonic())
        code, found = _verify(product, "--content")
        assert code == 0, found


def test_verify_under_load_reports_nothing_false(make: Maker) -> None:
    """Compares up to the mark: what is still under way is no difference."""
    setting = make(LOCAL)
    with setting.product as product:
        product.start()
        product.active()
        started = workload(setting.primary, 81, 2400, rate=200)
        with working(started):
            let_pass(3)
            code, found = _verify(product, "--content")
            assert code == 0, json.dumps(found)
            finish(started)
        converged(product, setting.primary, setting.secondary, since=time.monotonic())


def test_verify_in_words(make: Maker) -> None:
    """Without --json: a line a person can read, naming the file."""
    setting = make(LOCAL)
    write(setting.primary / "file", "x")
    with setting.product as product:
        product.start()
        product.active()
        converged(product, setting.primary, setting.secondary, since=time.monotonic())
        (setting.secondary / "file").write_text("y" * 10)
        done = product.command("verify", product.name)
        assert done.returncode == 1
        assert "file" in done.stdout

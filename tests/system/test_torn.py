"""Nothing is given up before its successor is whole: read errors, readers, and crashes while content is replaced (ERR-3)."""

from __future__ import annotations

import json
import os
import random
import threading
from pathlib import Path

import pytest

from tests.system.bad_disk import BadDisk
from tests.system.runner import wait_until
from tests.system.settings import LOCAL, SSH, Maker, Setting, Way

ENGINES = ["stream", "rsync", "tarssh"]
SMALL, MIDDLE, LARGE = 3000, 1 << 20, 20 << 20


def _bytes(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def _live(make: Maker, engine: str, over: str = "local") -> tuple[Setting, BadDisk]:
    """A session that runs, with a disk that can be made to fail."""
    setting = make(Way(engine, over, "me"))
    disk = BadDisk(setting.base)
    setting.product.before = disk.words
    return setting, disk


def _settled(setting: Setting, content: dict[str, bytes], seconds: float = 30) -> None:
    def same() -> bool:
        return all((setting.secondary / n).exists() and (setting.secondary / n).read_bytes() == d for n, d in content.items())

    wait_until(same, seconds, "the secondary has it all")


def _failures(setting: Setting) -> dict[str, str]:
    return {str(f["path"]): str(f["message"]) for f in setting.product.failures()}


@pytest.mark.parametrize("engine", ENGINES)
def test_err_3_a_read_error_leaves_the_old_files(make: Maker, engine: str) -> None:
    """The primary's disk goes bad under files that have just changed: the good copies are what they were, with their
    times, and the ledger has path and error; what is half written is marked, and keeps its blocks. It heals: all is equal,
    no mark is left."""
    setting, disk = _live(make, engine)
    old = {"bad-small": _bytes(SMALL, 1), "bad-middle": _bytes(MIDDLE, 2), "bad-large": _bytes(LARGE, 3), "bad-linked": _bytes(90_000, 4)}
    for name, data in old.items():
        (setting.primary / name).write_bytes(data)
    os.link(setting.primary / "bad-linked", setting.primary / "bad-other")
    with setting.product as product:
        product.start()
        product.active()
        _settled(setting, old)
        before = {n: os.stat(setting.secondary / n) for n in old}
        disk.fails()
        for name in old:
            with open(setting.primary / name, "ab") as f:
                f.write(b"one more line\n")
        (setting.primary / "bad-new").write_bytes(_bytes(SMALL, 5))
        (setting.primary / "good").write_bytes(b"good")
        wait_until(lambda: len(_failures(setting)) == 5, 60, "all five are in the ledger")
        assert (setting.secondary / "good").read_bytes() == b"good", "the others go on"
        for name, data in old.items():
            assert (setting.secondary / name).read_bytes() == data, name
        for name in ("bad-small", "bad-middle"):
            now = os.stat(setting.secondary / name)
            assert (now.st_ino, now.st_mtime_ns) == (before[name].st_ino, before[name].st_mtime_ns)
        said = _failures(setting)
        assert all("primary: Input/output error" in text for text in said.values()), said
        half = {path for path, text in said.items() if text.startswith("half written: ")}
        assert {"bad-large", "bad-new"} <= half and not half & {"bad-small", "bad-middle"}, said
        verified = json.loads(product.command("verify", product.name, "--json").stdout)
        assert "half written" in next(d["what"] for d in verified["differences"] if d["path"] == "bad-large")
        torn = setting.secondary / ".georep" / "torn"
        assert torn.exists()
        assert product.stop() == 0
        assert torn.exists(), "a restart does not forget it"
        product.start()
        wait_until(lambda: product.session().get("failures") == 5, 30)
        disk.heals()
        product.command("failures", product.name, "--retry")
        _settled(setting, {n: (setting.primary / n).read_bytes() for n in (*old, "bad-new")})
        wait_until(lambda: not product.failures(), 60, "the ledger is empty")
        assert not torn.exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_err_3_it_fails_in_the_middle(make: Maker, engine: str) -> None:
    """The first half can be read: a rewritten file of the same size is not half old, half new, nor half of zeros. What is
    written in place has the new blocks up to there, and the old ones behind."""
    setting, disk = _live(make, engine)
    sizes = {"bad-small": 50_000, "bad-middle": 3 << 20, "bad-large": LARGE}
    old = {name: _bytes(size, 10) for name, size in sizes.items()}
    new = {name: _bytes(size, 11) for name, size in sizes.items()}
    for name, data in old.items():
        (setting.primary / name).write_bytes(data)
    with setting.product as product:
        product.start()
        product.active()
        _settled(setting, old)
        disk.fails(from_byte=40_960)
        for name, data in new.items():
            with open(setting.primary / name, "r+b") as f:
                f.write(data)
        wait_until(lambda: len(_failures(setting)) == 3, 60, "all three are in the ledger")
        for name in ("bad-small", "bad-middle"):
            assert (setting.secondary / name).read_bytes() == old[name], name
        large = (setting.secondary / "bad-large").read_bytes()
        assert len(large) == LARGE
        assert large[1 << 20 :] == old["bad-large"][1 << 20 :]
        assert all(large[i : i + 4096] in (old["bad-large"][i : i + 4096], new["bad-large"][i : i + 4096]) for i in range(0, 1 << 20, 4096))
        assert _failures(setting)["bad-large"].startswith("half written: primary: Input/output error")
        disk.heals()
        product.command("failures", product.name, "--retry")
        _settled(setting, new)


@pytest.mark.parametrize("engine", ENGINES)
def test_syn_4_readers_see_the_one_or_the_other(make: Maker, engine: str) -> None:
    """Files of one name, rewritten again and again, are opened in a loop on the secondary: never a mixture, never short;
    owner, mode, xattrs and times are the primary's, and the directory's times did not move."""
    setting = make(Way(engine, "local", "me"))
    names = {"d/small": 5000, "d/middle": 2 << 20}
    (setting.primary / "d").mkdir()
    for name, size in names.items():
        (setting.primary / name).write_bytes(b"a" * size)
        os.setxattr(setting.primary / name, "user.k", b"v")
        (setting.primary / name).chmod(0o640)
    wrong: list[str] = []
    seen: dict[str, set[bytes]] = {name: set() for name in names}
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            for name, size in names.items():
                data = (setting.secondary / name).read_bytes()
                seen[name].add(data[:1])
                if len(data) != size or data != data[:1] * size:
                    wrong.append(f"{name}: {len(data)} bytes of {sorted(set(data))}")

    with setting.product as product:
        product.start()
        product.active()
        _settled(setting, {n: b"a" * s for n, s in names.items()})
        times = os.stat(setting.primary / "d").st_mtime_ns
        reader = threading.Thread(target=read)
        reader.start()
        try:
            for letter in b"bcdef":
                for name, size in names.items():
                    with open(setting.primary / name, "r+b") as f:
                        f.write(bytes([letter]) * size)
                _settled(setting, {n: bytes([letter]) * s for n, s in names.items()})
        finally:
            stop.set()
            reader.join()
        assert not wrong, wrong[:5]
        assert all(len(letters) >= 3 for letters in seen.values()), "the reader saw it change"
        wait_until(lambda: product.brick().get("failures") == 0, 10)
        for name in names:
            here, there = os.stat(setting.primary / name), os.stat(setting.secondary / name)
            assert (here.st_mode, here.st_uid, here.st_mtime_ns) == (there.st_mode, there.st_uid, there.st_mtime_ns)
            assert os.getxattr(setting.secondary / name, "user.k") == b"v"
        assert os.stat(setting.secondary / "d").st_mtime_ns == times == os.stat(setting.primary / "d").st_mtime_ns
        assert not list((setting.secondary / ".georep" / "new").iterdir())

"""Case a: the operating system's own trees to an empty directory, once; a second run sends nothing (CRW-5, SYN-5)."""

from __future__ import annotations

import glob
import json
import os
from pathlib import Path

import pytest

from tests.system.line import Line
from tests.system.oracle import differences
from tests.system.settings import ALL_WAYS, LOCAL, SSH, Maker, Setting, Way, untouched, write
from tests.system.sshd import Sshd
from tests.system.trees import many_files

PYTHON = [Path(p) for p in sorted(glob.glob("/usr/lib/python3*")) if os.path.isdir(p)]
SHARE = Path("/usr/share")


def _sync(setting: Setting) -> None:
    done = setting.product.once()
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]


@pytest.mark.parametrize("way", ALL_WAYS)
def test_python_library_as_several_bricks(make: Maker, way: Way) -> None:
    """`dir=name` puts each brick under its name; case i: every engine, and an ordinary user."""
    setting = make(way)
    setting.product.primaries = [f"{p}={p.name}" for p in PYTHON]
    _sync(setting)
    for p in PYTHON:
        there = os.fsencode(setting.secondary / p.name)
        assert differences(os.fsencode(p), there, owners=setting.owners) == []
    before = untouched(setting.secondary)
    assert len(before) > 500
    _sync(setting)
    assert untouched(setting.secondary) == before


@pytest.mark.parametrize("way", [pytest.param(LOCAL, id="local"), pytest.param(SSH, id="ssh")])
def test_usr_share(make: Maker, way: Way, sshd: Sshd) -> None:
    setting = make(way, primary=SHARE)
    with Line(sshd.port) as line:
        if way.over == "ssh":
            setting = setting.through(line, sshd)
        _sync(setting)
        assert differences(os.fsencode(SHARE), os.fsencode(setting.secondary)) == []
        before, sent = untouched(setting.secondary), line.sent
        _sync(setting)
        again = line.sent - sent
    assert untouched(setting.secondary) == before
    if way.over == "ssh":
        size = sum(os.lstat(p).st_size for p in before)
        assert sent > size / 5, "the line was not in use"
        assert again < 3_000_000 + size / 100, f"the second run sent {again} bytes of {size}"


def test_an_empty_tree(make: Maker) -> None:
    setting = make(LOCAL)
    _sync(setting)
    assert differences(os.fsencode(setting.primary), os.fsencode(setting.secondary)) == []


def test_a_json_log_is_json(make: Maker) -> None:
    """`--log-format json`: every line of the log is one object."""
    setting = make(LOCAL)
    (setting.primary / "file").write_text("x")
    done = setting.product.once("--log-format", "json")
    assert done.returncode == 0, done.stderr
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    assert lines
    assert all(isinstance(json.loads(line), dict) for line in lines)


def test_a_dry_run_changes_nothing(make: Maker) -> None:
    """SAFE-2: counts and bytes, and the secondary stays empty."""
    setting = make(LOCAL)
    (setting.primary / "file").write_bytes(bytes(12345))
    done = setting.product.once("--dry-run")
    assert done.returncode == 0, done.stderr
    assert os.listdir(setting.secondary) in ([], [".georep"])
    assert "1" in done.stdout


@pytest.mark.parametrize("adopt", [False, True])
def test_a_crawl_that_ends_while_the_worker_looks_elsewhere(make: Maker, adopt: bool) -> None:
    """Its last slices are brought over before anything counts as caught up, or as missing on the primary."""
    setting = make(LOCAL)
    many_files(setting.primary, 50, 100)
    if adopt:
        write(setting.secondary / "old", "what was there before")
    setting.product.module = ("-m", "tests.system.late")
    done = setting.product.once(*(["--adopt"] if adopt else []))
    assert done.returncode == 0, done.stderr
    assert "late" in done.stderr
    assert differences(os.fsencode(setting.primary), os.fsencode(setting.secondary)) == []

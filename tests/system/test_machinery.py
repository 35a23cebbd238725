"""The private sshd lets its client in, the line in front of it counts, breaks and heals, the ordinary user is one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.system import processes
from tests.system.line import Line
from tests.system.ordinary import OrdinaryUser
from tests.system.places import Mounts, PowerCut
from tests.system.runner import wait_until
from tests.system.sshd import HOST, Sshd


def _ssh(config: Path, command: str) -> subprocess.CompletedProcess[bytes]:
    words = ["ssh", "-F", str(config), "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", HOST, command]
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)


def test_a_command_runs_over_the_private_sshd(sshd: Sshd) -> None:
    done = _ssh(sshd.client(), "id -u")
    assert done.stdout.strip() == b"%d" % os.geteuid(), done.stderr


def test_an_unknown_host_key_is_refused(sshd: Sshd) -> None:
    sshd.write_known_hosts("nothing_known", None)
    done = _ssh(sshd.client(known_hosts="nothing_known", name="unknown"), "true")
    assert done.returncode == 255
    assert b"Host key verification failed" in done.stderr


@pytest.mark.usefixtures("root")
def test_the_ordinary_user_gets_in_and_runs_the_project(sshd: Sshd, ordinary: OrdinaryUser) -> None:
    words = [*ordinary.prefix, "ssh", "-F", str(sshd.client(uid=ordinary.uid)), "-o", "BatchMode=yes", HOST, "id -u"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    assert done.stdout.strip() == b"%d" % ordinary.uid, done.stderr
    env = {**os.environ, "PYTHONPATH": str(ordinary.project)}
    code = "import os, engine, typer; print(os.geteuid())"
    done = subprocess.run([*ordinary.prefix, ordinary.python, "-c", code], env=env, cwd="/", capture_output=True)
    assert done.stdout.strip() == b"%d" % ordinary.uid, done.stderr


def test_the_line_counts_what_passes(sshd: Sshd) -> None:
    with Line(sshd.port) as line:
        done = _ssh(sshd.client(port=line.port), "head -c 1000000 /dev/zero")
        assert len(done.stdout) == 1_000_000
        assert 1_000_000 < line.received < 1_300_000
        assert 0 < line.sent < 200_000


@pytest.mark.parametrize("how", ["cut", "stall"])
def test_the_line_breaks_and_heals(sshd: Sshd, how: str) -> None:
    with Line(sshd.port) as line:
        config = sshd.client(port=line.port)
        assert _ssh(config, "true").returncode == 0
        line.cut() if how == "cut" else line.stall()
        assert _ssh(config, "true").returncode == 255
        line.heal()
        assert _ssh(config, "true").returncode == 0


def test_small_filesystems_come_and_go(mounts: Mounts) -> None:
    small = mounts.tmpfs("small", "1m")
    with pytest.raises(OSError, match="No space left"):
        (small / "file").write_bytes(bytes(2 << 20))
    mounts.resize(small, "4m")
    (small / "file").write_bytes(bytes(2 << 20))
    disk = mounts.ext4("disk", 16)
    (disk / "file").write_text("x")
    assert mounts.remount(disk, "ro")
    with pytest.raises(OSError, match="Read-only"):
        (disk / "file").write_text("y")


def test_a_power_cut_loses_what_was_not_synced(mounts: Mounts, scratch: Path) -> None:
    ground = PowerCut(mounts, scratch)
    (ground.disk / "synced").write_text("synced")
    os.sync()
    (ground.disk / "not-synced").write_text("not synced")
    copy = ground.snapshot()
    ground.put_back(copy)
    assert (ground.disk / "synced").read_text() == "synced"
    assert not (ground.disk / "not-synced").exists()


def test_processes_are_found_and_killed() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 1000 & wait"]) as shell:
        found = wait_until(lambda: processes.named(shell.pid, "sleep"), 10)
        assert processes.memory(shell.pid) > 0
        assert processes.kill([shell.pid, *found]) == 2
    wait_until(lambda: not processes.command(found[0]), 10)

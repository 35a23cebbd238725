"""Bad input: one clear line on stderr, exit 2, and nothing is changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.link import Link, LinkError, SshTarget
from tests.system.runner import Product, converged, finish, wait_until, working, workload
from tests.system.settings import LOCAL, SSH, Maker, Setting, Way, write
from tests.system.sshd import HOST, Sshd


def _snapshot(*trees: Path) -> list[tuple[str, int, int]]:
    found = []
    for tree in trees:
        for folder, directories, files in os.walk(tree):
            for name in [".", *directories, *files]:
                info = os.lstat(os.path.join(folder, name))
                found.append((os.path.join(folder, name), info.st_ino, info.st_ctime_ns))
    return sorted(found)


def _refused(setting: Setting, *more: str, says: str | list[str] = "", product: Product | None = None) -> str:
    """One line, exit 2, both trees as they were; returns the line."""
    before = _snapshot(setting.primary, setting.secondary)
    done = (product or setting.product).once(*more, timeout=60)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, (done.returncode, done.stderr, done.stdout)
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in [says] if isinstance(says, str) else says:
        assert word.lower() in lines[0].lower(), lines[0]
    assert _snapshot(setting.primary, setting.secondary) == before
    return lines[0]


@pytest.fixture
def setting(make: Maker) -> Setting:
    made = make(LOCAL)
    write(made.primary / "file", "x")
    write(made.secondary / "there", "y")
    return made


def test_missing_primary(setting: Setting) -> None:
    setting.product.primaries = [str(setting.base / "missing")]
    _refused(setting, says=str(setting.base / "missing"))


def test_primary_is_a_file(setting: Setting) -> None:
    setting.product.primaries = [str(setting.primary / "file")]
    _refused(setting, says="directory")


@pytest.mark.parametrize("how", ["inside", "reverse", "same", "inside through a symlink", "brick in a brick"])
def test_trees_inside_each_other(setting: Setting, how: str) -> None:
    """They would replicate themselves for ever; symlinks are seen through."""
    (setting.primary / "inside").mkdir()
    (setting.secondary / "inside").mkdir()
    product = setting.product
    if how == "inside":
        product.secondary = str(setting.primary / "inside")
    elif how == "reverse":
        product.primaries = [str(setting.secondary / "inside")]
    elif how == "same":
        product.secondary = str(setting.primary)
    elif how == "brick in a brick":
        product.primaries = [f"{setting.primary}=one", f"{setting.primary / 'inside'}=two"]
    else:
        os.symlink(setting.primary / "inside", setting.base / "link")
        product.secondary = str(setting.base / "link")
    _refused(setting, says=["inside", "same"][how == "same"])


def test_secondary_missing_parent(setting: Setting) -> None:
    setting.product.secondary = str(setting.base / "no" / "such" / "place")
    _refused(setting, says="no/such")


def test_one_secondary_two_sessions(make: Maker) -> None:
    """SAFE-5: the secondary refuses a second session, and one of another primary."""
    first = make(LOCAL)
    write(first.primary / "file", "x")
    assert first.product.once().returncode == 0
    second = make(LOCAL, secondary=first.secondary)
    write(second.primary / "other", "y")
    _refused(second, says=str(first.secondary))


def test_the_same_session_twice_at_once(make: Maker) -> None:
    setting = make(LOCAL)
    write(setting.primary / "file", "x")
    with setting.product as product:
        product.start()
        product.active()
        converged(product, setting.primary, setting.secondary, since=time.monotonic())
        done = product.once(timeout=60)
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert product.running()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("no_such_option=1", ["no_such_option"]),
        ("sync_jobs=many", ["sync_jobs", "many"]),
        ("sync_jobs=0", ["sync_jobs", "0", "1"]),
        ("sync_jobs", ["sync_jobs"]),
        ("sync_method=carrier-pigeon", ["sync_method", "carrier-pigeon", "stream", "rsync", "tarssh"]),
        ("rollover_time=-1", ["rollover_time", "-1"]),
        ("delete_guard_share=101", ["delete_guard_share", "101", "100"]),
        ("bandwidth_limit=fast", ["bandwidth_limit", "fast"]),
        ("recorder=oracle", ["recorder", "oracle", "fanotify", "inotify", "scan"]),
    ],
)
def test_wrong_options(setting: Setting, option: str, says: list[str]) -> None:
    """The name, the value, and what is allowed (section 11)."""
    _refused(setting, "--set", option, says=says)


def test_wrong_option_in_a_file(setting: Setting) -> None:
    path = setting.base / "session.toml"
    path.write_text(f'[primary]\npath = "{setting.primary}"\n[options]\nno_such_option = 1\n')
    done = setting.product.command("run", str(path), "--no-ui", "--once")
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    "words",
    [["run"], ["run", "only-one"], ["run", "--no-such-flag"], ["status", "no-such-session"], ["no-such-command"],
     ["checkpoint", "no-such-session", "yesterday-ish"], ["pause", "no-such-session"], ["failures", "no-such-session"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_words(setting: Setting, words: list[str]) -> None:
    done = setting.product.command(*words)
    assert done.returncode == 2, (done.returncode, done.stderr, done.stdout)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr


@pytest.fixture
def odd_sshd(scratch: Path) -> Iterator[tuple[Sshd, Path]]:
    """An sshd whose commands find only what is in one directory."""
    programs = scratch / "programs"
    programs.mkdir()
    (scratch / "odd").mkdir()
    server = Sshd(scratch / "odd", path=str(programs))
    server.start()
    try:
        yield server, programs
    finally:
        server.stop()


def _over(make: Maker, server: Sshd, **client: str) -> Setting:
    made = make(SSH)
    write(made.primary / "file", "x")
    made.product.options["ssh_options"] = f"-F {server.client(**client)}"  # type: ignore[arg-type]
    return made


def test_no_python_on_the_remote(make: Maker, odd_sshd: tuple[Sshd, Path]) -> None:
    _refused(_over(make, odd_sshd[0]), says="python3")


def test_a_login_that_waits_for_something(sshd: Sshd, scratch: Path) -> None:
    """A lock that a shell's start files wait for, for example."""
    server = Sshd(scratch)
    (server.base / ".bashrc").write_text("exec sleep 1000\n")  # its home is there, and sshd's bash reads it
    (server.base / ".profile").write_text("exec sleep 1000\n")
    server.start()
    try:
        target = SshTarget(HOST, options=("-F", str(server.client())), connect_timeout=1)
        with pytest.raises(LinkError, match="no agent within 6 s") as caught:
            Link(target, os.fsencode(scratch / "replica"))
        assert f"time ssh {HOST} true" in caught.value.hint
    finally:
        server.stop()


def test_too_old_a_python_on_the_remote(make: Maker, odd_sshd: tuple[Sshd, Path]) -> None:
    """A python3 that is 3.7 by its own word."""
    server, programs = odd_sshd
    real = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
    old = programs / "python3"
    old.write_text(
        "#!/bin/sh\n"
        'for code; do :; done\n'
        f"""exec {real} -c 'import sys; sys.version_info = (3, 7, 2, "final", 0); exec(sys.argv[1])' "$code"\n"""
    )
    old.chmod(0o755)
    _refused(_over(make, server), says=["3.7", "3.9"])


def test_host_key_unknown(make: Maker, sshd: Sshd) -> None:
    sshd.write_known_hosts("none_known", None)
    _refused(_over(make, sshd, known_hosts="none_known", name="unknown"), says="host key")


def test_host_key_changed(make: Maker, sshd: Sshd) -> None:
    sshd.write_known_hosts("other_known", "identity.pub")
    _refused(_over(make, sshd, known_hosts="other_known", name="changed"), says="host key")


def test_no_such_host(make: Maker, sshd: Sshd) -> None:
    made = make(SSH)
    write(made.primary / "file", "x")
    made.product.secondary = "no-such-host.invalid:/somewhere"
    _refused(made, says="no-such-host.invalid")
    assert sshd.pid


def test_a_host_that_looks_like_an_option(setting: Setting) -> None:
    """`-oProxyCommand=…` as a host must never reach ssh as an option."""
    mark = setting.base / "was-run"
    setting.product.secondary = f"-oProxyCommand=touch {mark}:/dir"
    done = setting.product.once()
    assert done.returncode == 2, done.stderr
    assert not mark.exists()


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("over", ["local", "ssh"])
def test_no_permission_to_write(make: Maker, over: str) -> None:
    made = make(Way("stream", over, "ordinary"))
    write(made.primary / "file", "x")
    os.chown(made.secondary, 0, 0)
    made.secondary.chmod(0o755)
    _refused(made, says="permission")


@pytest.mark.usefixtures("root")
def test_no_permission_to_read(make: Maker) -> None:
    made = make(Way("stream", "local", "ordinary"))
    write(made.primary / "file", "x")
    os.chown(made.primary, 0, 0)
    made.primary.chmod(0o700)
    _refused(made, says="permission")


def test_no_place_for_state(setting: Setting) -> None:
    """`--state-dir` below a file, and inside the primary."""
    write(setting.base / "a-file", "x")
    _refused(setting, "--state-dir", str(setting.base / "a-file" / "state"), says="a-file")
    _refused(setting, "--state-dir", str(setting.primary / "state"), says="state")


def test_a_socket_path_that_is_too_long(setting: Setting) -> None:
    long = setting.base / ("r" * 120)
    long.mkdir()
    env = setting.product.environment() | {"XDG_RUNTIME_DIR": str(long)}
    done = subprocess.run(
        setting.product.run_words("--once"), env=env, cwd="/", stdin=subprocess.DEVNULL, text=True,
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "long" in done.stderr


@pytest.mark.parametrize("how", ["torn", "foreign"])
def test_a_changelog_that_cannot_be_read(make: Maker, how: str) -> None:
    """Skipped whole into the ledger, with its offset; everything else goes on."""
    setting = make(LOCAL)
    product = setting.product
    with product:
        product.start()
        product.active()
        write(setting.primary / "before", "x")
        converged(product, setting.primary, setting.secondary, since=time.monotonic())
        assert product.command("pause", product.name).returncode == 0
        wait_until(lambda: product.brick()["status"] == "Paused", 10)
        started = workload(setting.primary, 61, 600, rate=150)
        with working(started):
            finish(started)
        wait_until(lambda: product.brick()["backlog"]["changelogs"] >= 2, 10)
        product.stop()
        logs = sorted(p for p in (product.base / "state").rglob("CHANGELOG.*") if p.stat().st_size > 200)
        assert logs
        data = logs[0].read_bytes()
        logs[0].write_bytes(data[: len(data) // 2] if how == "torn" else b"GIF89a" + bytes(range(200)))
        product.start()
        assert product.command("resume", product.name).returncode == 0 or wait_until(
            lambda: product.command("resume", product.name).returncode == 0, 20
        )
        ledger = wait_until(product.failures, 20, "in the ledger", pause=0.3)
        assert any(logs[0].name in str(f) for f in ledger), ledger
        assert any("offset" in str(f["message"]).lower() for f in ledger), ledger
        write(setting.primary / "after", "goes on")
        wait_until((setting.secondary / "after").exists, 20, "the rest goes on")

"""An agent on a real volume: whose it is, the lock, the mark, what is left when it is killed, and bad input."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.agent.frames import PROTOCOL, Kind
from engine.agent.wire import encode_entries
from tests.agent_side import ROOT, SESSION, create, gfid, mkdir, slot_params
from tests.gluster.agent_volume import VolumeAgent, elsewhere, held, view
from tests.gluster.base import gluster, wait_for
from tests.gluster.lab import Lab, Volume
from tests.system.places import Mounts

MOUNTS = Path("/run/georep-tui/mounts")


def clients(volume: Volume) -> list[int]:
    """Mount daemons of agents on this volume."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if f"--volfile-id={volume.name}".encode() in words and words[-2].startswith(os.fsencode(MOUNTS)):
                found.append(int(entry.name))
    return found


@pytest.fixture(scope="module")
def volume(lab: Lab) -> Iterator[Volume]:
    made = lab.volume(2)
    yield made
    lab.remove(made)


@pytest.fixture
def fresh(lab: Lab) -> Iterator[Volume]:
    made = lab.volume(2)
    yield made
    lab.remove(made)


def test_hello_tells_the_volume_and_changes_nothing(lab: Lab, fresh: Volume) -> None:
    """Id, nodes and shape of the volume; several nodes are for the engine to choose from."""
    mount = view(lab, fresh)
    before = os.stat(mount)
    with VolumeAgent(fresh) as agent:
        found = agent.hello()
    assert found["volume_id"] == fresh.id and found["nodes"] == [{"host": fresh.host, "id": found["node_id"]}] and found["subvolumes"] == 2
    assert found["volume"]["version"][0].isdigit() and found["volume"]["local"] is True
    assert (found["fresh"], found["empty"], found["session"], found["mark"]) == (True, True, None, None)
    assert found["statfs"]["total_bytes"] > found["statfs"]["bytes"] > 0
    assert os.listdir(mount) == [] and os.stat(mount).st_mtime_ns == before.st_mtime_ns
    assert [x for x in os.listxattr(fresh.bricks[0]) if "georep" in x] == []


def test_sec_directories_of_the_node_are_ours_alone(fresh: Volume) -> None:
    """Locks and mounts are below directories that nobody else may write to, though an agent has no umask."""
    with held(fresh):
        for path in (MOUNTS.parent, MOUNTS):
            st = path.stat()
            assert st.st_uid == 0 and st.st_mode & 0o022 == 0, (path, oct(st.st_mode))


def test_mrk_7_the_copy_of_the_mark(lab: Lab, fresh: Volume) -> None:
    """MRK-7: kept with the session's identity, on every brick, in no name of the volume; for each brick its own."""
    with held(fresh) as agent:
        assert agent.hello()["mark"] is None
        agent.call("commit", mark={"sec": 11, "nsec": 0})
        with held(fresh, brick="b2") as other:
            found = other.hello(brick="b2")
            assert (found["session"], found["brick"], found["mark"]) == (SESSION["session"], None, None)
            other.call("commit", mark={"sec": 22, "nsec": 5}, entry_mark="30.0")
    with VolumeAgent(fresh) as agent:
        found = agent.hello()
        assert (found["mark"], found["brick"], found["fresh"]) == ({"sec": 11, "nsec": 0}, "b1", False)
        assert agent.hello(brick="b2")["mark"] == {"sec": 22, "nsec": 5}
        assert agent.hello(brick="b3")["mark"] is None
    for brick in fresh.bricks:
        assert len([x for x in os.listxattr(brick) if x.startswith("trusted.georep.mark.")]) == 2
    mount = view(lab, fresh)
    assert os.listdir(mount) == []
    assert all(x.startswith("trusted.") for x in os.listxattr(mount) if "georep" in x), "for root only"


def test_safe_5_another_session_is_refused(fresh: Volume) -> None:
    """SAFE-5: a second session, or one of another primary; taking over is explicit."""
    with held(fresh) as agent:
        agent.call("commit", mark={"sec": 11, "nsec": 0})
    with VolumeAgent(fresh) as agent:
        assert agent.hello(session="other")["session"] == SESSION["session"]
        words = {**SESSION, "session": "other", "volume": agent.volume}
        answer = agent.ask("begin", **words)
        assert answer["error"]["code"] == "other-session" and SESSION["primary"] in answer["error"]["text"]
        agent.call("begin", **words, take_over=True)
        assert agent.hello(session="other")["mark"] is None
    with VolumeAgent(fresh) as agent:
        assert agent.hello(session="other")["session"] == "other"


def test_safe_5_one_agent_for_a_brick_at_a_time(volume: Volume) -> None:
    """SAFE-5: the second waits, is refused in one line, and goes on as soon as the first is killed."""
    first = VolumeAgent(volume)
    first.begin()
    with VolumeAgent(volume) as second:
        answer = second.ask("begin", **SESSION, volume=second.volume, wait=0)
        assert answer["error"]["code"] == "locked" and f"pid {first.child.pid}" in answer["error"]["text"]
        with held(volume, brick="b2") as other:
            other.entries(mkdir(gfid(1), ROOT, b"beside"))
        first.kill()
        second.begin(wait=20)


@pytest.mark.parametrize("staged", [False, True])
def test_no_mount_stays_when_the_agent_is_killed(fresh: Volume, staged: bool) -> None:
    """SIGKILL at any moment: neither a mount nor its daemon stays, also where one is visible for rsync and tar."""
    agent = VolumeAgent(fresh)
    agent.begin()
    if staged:
        path = agent.call("stage", gfids=[])["path"]
        assert os.path.isdir(os.path.dirname(path))
    else:
        assert not [m for m in MOUNTS.iterdir() if m.name.startswith(f"{agent.child.pid}-")], "out of sight"
    assert clients(fresh)
    agent.kill()
    wait_for("the end of the mounts", lambda: not clients(fresh))
    wait_for("their directories", lambda: not [m for m in MOUNTS.iterdir() if m.name.startswith(f"{agent.child.pid}-")])


def test_no_mount_stays_when_the_agent_ends(fresh: Volume) -> None:
    """The ordinary end."""
    with held(fresh) as agent:
        agent.call("stage", gfids=[])
        pid = agent.child.pid
    wait_for("the end of the mounts", lambda: not clients(fresh))
    assert not [m for m in MOUNTS.iterdir() if m.name.startswith(f"{pid}-")]


def test_stale_mounts_are_cleared_at_the_start(volume: Volume) -> None:
    """One that was killed in the moment between mounting and hiding left its mount behind."""
    MOUNTS.mkdir(parents=True, exist_ok=True)
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = MOUNTS / f"{gone.pid}-1234-left"
    left.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(left)], check=True)
    with VolumeAgent(volume) as agent:
        agent.hello()
        assert not left.exists()


def test_mrk_6_the_order_of_a_commit(volume: Volume, tmp_path: Path) -> None:
    """MRK-6: the bricks are synced, then the copy of the mark is written, then it is synced."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    with held(volume) as agent:
        tracer = subprocess.Popen(["strace", "-f", "-e", "trace=syncfs,setxattr", "-p", str(agent.child.pid), "-o", str(trace)],
                                  stderr=subprocess.PIPE, text=True)  # fmt: skip
        assert tracer.stderr is not None and "attached" in tracer.stderr.readline()
        assert agent.entries(create(gfid(77), ROOT, b"traced", b"x")).failures == []
        agent.call("commit", mark={"sec": 1, "nsec": 0})
        tracer.terminate()
        tracer.wait()
    seen = []
    for line in trace.read_text().splitlines():
        if "syncfs(" in line:
            seen.append("sync")
        elif "newfile" in line:
            seen.append("made")
        elif "trusted.georep.mark" in line:
            seen.append("mark")
    assert seen == ["made", "sync", "sync", "mark", "sync", "sync"], seen


def test_mrk_6_bricks_of_other_nodes(lab: Lab, fresh: Volume, tmp_path: Path) -> None:
    """MRK-6: where bricks cannot be synced from here, content is synced file by file, and a file without a name on
    each brick after the entry operations; nothing of it is seen in the volume."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    mount = view(lab, fresh)
    d = gfid(1)
    with held(fresh, elsewhere(tmp_path)) as agent:
        assert agent.hello()["volume"]["local"] is False
        agent.entries(mkdir(d, ROOT, b"d"))
        agent.call("commit", mark={"sec": 1, "nsec": 0})
        before = os.stat(mount).st_mtime_ns
        tracers = []
        for brick in fresh.bricks:
            trace = tmp_path / brick.name
            pid = lab.brick_pid(fresh, brick)
            tracer = subprocess.Popen(["strace", "-f", "-e", "trace=fsync,fdatasync", "-p", str(pid), "-o", str(trace)],
                                      stderr=subprocess.PIPE, text=True)  # fmt: skip
            assert tracer.stderr is not None and "attached" in tracer.stderr.readline()
            tracers.append((tracer, trace))
        agent.entries(mkdir(gfid(2), d, b"below"))
        agent.call("commit", mark={"sec": 2, "nsec": 0})
        after_entries = [t.read_text().count("sync(") for _, t in tracers]
        files = [create(gfid(100 + i), d, b"f%d" % i, b"x") for i in range(8)]
        assert agent.entries(*files).failures == []
        after_files = [t.read_text().count("sync(") for _, t in tracers]
        for tracer, _ in tracers:
            tracer.terminate()
            tracer.wait()
        assert all(after_entries) and sum(after_files) == sum(after_entries) + 8, (after_entries, after_files)
        assert os.listdir(mount) == ["d"] and os.stat(mount).st_mtime_ns == before
        lab.kill_brick(fresh, fresh.bricks[0])
        lab.start(fresh, force=True)
        last: list[object] = []

        def commits() -> bool:
            last[:] = [agent.ask("commit", mark={"sec": 3, "nsec": 0})]
            return "result" in str(last)

        wait_for("a commit again", commits)
    assert os.listdir(mount) == ["d"]


@pytest.mark.long
def test_safe_5_agents_on_two_nodes(fresh: Volume, tmp_path: Path) -> None:
    """SAFE-5: on another node the second waits until the first one's lease has stood still; the first then stops."""
    first = VolumeAgent(fresh)
    first.begin()
    with VolumeAgent(fresh, elsewhere(tmp_path)) as second:
        answer = second.ask("begin", **SESSION, volume=second.volume, wait=8)
        assert answer["error"]["code"] == "other-node" and os.uname().nodename in answer["error"]["text"]
        assert answer["error"]["node"] == {"id": first.hello()["node_id"], "host": os.uname().nodename}
        first.kill()
        ident = second.send(Kind.CALL, json.dumps({"method": "begin", "params": {**SESSION, "volume": second.volume, "wait": 60}}).encode())
        frame = second.reader.read(90)
        assert frame is not None and frame.id == ident and b"statfs" in frame.payload
        second.entries(mkdir(gfid(1), ROOT, b"d"))


@pytest.mark.long
def test_safe_5_an_agent_that_lost_its_lease_writes_no_more(lab: Lab, fresh: Volume) -> None:
    """SAFE-5: however that came about."""
    mount = view(lab, fresh)
    with held(fresh) as agent:
        (lease,) = [x for x in os.listxattr(mount) if x.startswith("trusted.georep.lease.")]
        os.setxattr(mount, lease, b'{"node": "other", "pid": 1, "name": "there", "turn": 1}')

        def refuses() -> bool:
            frame = agent.request(Kind.ENTRIES, encode_entries([mkdir(gfid(1), ROOT, b"d")]))
            return frame.kind == Kind.ERROR

        wait_for("a refusal", refuses)
        assert agent.ask("commit", mark={"sec": 9, "nsec": 0})["error"]["code"] == "lease-lost"


# --- bad input: one line, with what to do, and nothing changed


def refused(agent: VolumeAgent, code: str) -> str:
    answer = agent.ask("hello", protocol=PROTOCOL, version="0", **SESSION, volume=agent.volume)
    error = answer.get("error") or {}
    assert error.get("code") == code, answer
    assert error["text"] and "\n" not in error["text"] and error["hint"], error
    return str(error["text"])


def test_an_unknown_volume(lab: Lab) -> None:
    for name in ("nosuch", "", "-x", "a/b"):
        with VolumeAgent(Volume(name, "georep-test", "", ())) as agent:
            refused(agent, "volume-unknown")


def test_a_stopped_volume(lab: Lab, fresh: Volume) -> None:
    lab.stop(fresh)
    with VolumeAgent(fresh) as agent:
        assert fresh.name in refused(agent, "volume-stopped")
    lab.start(fresh)


def test_a_read_only_volume(lab: Lab, fresh: Volume) -> None:
    lab.set(fresh, "features.read-only", "on")
    with VolumeAgent(fresh) as agent:
        assert "features.read-only" in refused(agent, "volume-readonly")
    lab.set(fresh, "features.read-only", "off")
    with held(fresh):
        pass


@pytest.mark.long
def test_a_volume_with_a_dead_subvolume(lab: Lab, fresh: Volume) -> None:
    lab.kill_brick(fresh, fresh.bricks[0])
    with VolumeAgent(fresh) as agent:
        refused(agent, "volume-incomplete")
    lab.start(fresh, force=True)
    with held(fresh):
        pass


def test_not_root(volume: Volume) -> None:
    """Non-root on the secondary is refused with a clear message for now."""
    code = (
        "import os, sys; sys.path.insert(0, '.')\n"
        "from engine.agent.gluster_info import describe\nfrom engine.agent.state import CallError\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: describe(sys.argv[1])\nexcept CallError as e: print(e.code, '|', e.text, '|', e.hint)"
    )
    here = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code, volume.name], capture_output=True, text=True, cwd=here)
    assert done.stdout.startswith("non-root | "), done
    assert "root@" in done.stdout


def hidden(volume: Volume, over: str) -> subprocess.CompletedProcess[str]:
    """hello, where a file of the system is hidden in a mount namespace of its own."""
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from engine.agent.gluster_info import describe\nfrom engine.agent.state import CallError\n"
        "try: describe(sys.argv[1]); print('well')\nexcept CallError as e: print(e.code, '|', e.text, '|', e.hint)"
    )
    here = Path(__file__).parent.parent.parent
    script = f'mount --bind {over} && exec "$0" -c "$1" "$2"'
    return subprocess.run(["unshare", "-m", "sh", "-c", script, sys.executable, code, volume.name],
                          capture_output=True, text=True, cwd=here)  # fmt: skip


@pytest.mark.parametrize("program", ["glusterfs", "gluster"])
def test_gluster_is_not_installed(volume: Volume, program: str) -> None:
    path = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")
    done = hidden(volume, f"/dev/null {path}")
    assert done.stdout.startswith(f"no-gluster | {program} is not installed"), done


def test_there_is_no_fuse(volume: Volume) -> None:
    assert hidden(volume, "/dev/null /dev/fuse").stdout.startswith("no-fuse | /dev/fuse"), hidden(volume, "/dev/null /dev/fuse")


def test_too_old_a_glusterfs(volume: Volume, tmp_path: Path) -> None:
    old = tmp_path / "glusterfs"
    old.write_text("#!/bin/sh\necho 'glusterfs 3.4.2 built on Jan 14 2014'\n")
    old.chmod(0o755)
    path = shutil.which("glusterfs", path=os.environ["PATH"] + ":/usr/sbin")
    done = hidden(volume, f"{old} {path}")
    assert done.stdout.startswith("gluster-version | GlusterFS 3.4.2 is too old"), done


def test_a_full_volume(lab: Lab, mounts: Mounts) -> None:
    """ENOSPC is told as such for what did not fit; what is repeated when there is room again is then whole."""
    small = mounts.tmpfs("small", "24m")
    volume = lab.volume(1, at=small)
    lab.set(volume, "storage.reserve", "0")
    mount = view(lab, volume)
    with held(volume) as agent:
        ops = [create(gfid(500 + i), ROOT, b"f%02d" % i, bytes([i]) * 60_000) for i in range(40)]
        failed = []
        for _ in range(20):
            failed = agent.entries(*ops).failures
            if failed:
                break
            first = len(os.listdir(mount))
            ops = [create(gfid(500 + first + i), ROOT, b"f%d" % (first + i), bytes([i]) * 60_000) for i in range(40)]
        assert failed and {f.errno for f in failed} == {errno.ENOSPC}, failed[:3]
        mounts.resize(small, "64m")
        assert agent.entries(*ops).failures == []
        for op in ops:
            assert (mount / op.slot.name.decode()).read_bytes() == op.data
    lab.remove(volume)


def test_a_brick_that_dies_is_told(lab: Lab, fresh: Volume) -> None:
    """A subvolume that goes away: its operations fail with the system's error; they pass when it is back."""
    ops = [create(gfid(i), ROOT, b"f%d" % i, b"x") for i in range(16)]
    with held(fresh) as agent:
        lab.kill_brick(fresh, fresh.bricks[0])
        failed = agent.entries(*ops).failures
        assert failed and {f.errno for f in failed} <= {errno.ENOTCONN, errno.EIO, errno.ESTALE}, failed
        lab.start(fresh, force=True)
        last: list[object] = []

        def passes() -> bool:
            last[:] = agent.entries(*ops).failures
            return not last

        wait_for("the brick", passes)
    assert sorted(os.listdir(view(lab, fresh))) == sorted(f"f{i}" for i in range(16))


def test_what_a_volume_has_not(volume: Volume) -> None:
    """Calls about limbo and adoption: nothing there, or a clear refusal."""
    with held(volume) as agent:
        assert agent.call("limbo") == {"objects": []}
        agent.call("adopt_begin", adopt="metadata")
        agent.call("adopt_end")
        assert agent.ask("sweep")["error"]["code"] == "not-a-tree"
        assert agent.call("statfs")["statfs"]["bytes"] > 0
        assert agent.call("taken", slots=[slot_params(gfid(9999), b"x")])["taken"] == [""]

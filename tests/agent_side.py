"""The agent for tests: in this process on a real tree, or as a real child process over pipes."""

from __future__ import annotations

import json
import os
import signal
import stat as _stat
import subprocess
import sys
from pathlib import Path
from typing import Any

from engine.agent import wire
from engine.agent.content import Contents
from engine.agent.entries import Applied, Entries
from engine.agent.frames import PROTOCOL, Frame, FrameReader, Kind, write_frame
from engine.agent.state import Holding, Place
from engine.agent.types import LIMBO, ROOT, EntryOp, Fop, Gfid, MetaOp, Slot, Stat

SESSION = {"session": "5e55", "brick": "b1", "primary": "host:/srv"}
T0 = 1_700_000_000_123_456_789


def gfid(n: int) -> Gfid:
    """A gfid that is easy to tell in a failure."""
    return b"\xaa" + n.to_bytes(15, "big")


def hexname(g: Gfid) -> bytes:
    return g.hex().encode()


def regular(size: int = 0, mode: int = 0o644, mtime: int = T0, uid: int | None = None) -> Stat:
    uid = os.getuid() if uid is None else uid
    return Stat(_stat.S_IFREG | mode, uid, os.getgid(), size, mtime, mtime, 0)


def directory(mode: int = 0o755, mtime: int = T0) -> Stat:
    return Stat(_stat.S_IFDIR | mode, os.getuid(), os.getgid(), 0, mtime, mtime, 0)


def symlink(mtime: int = T0) -> Stat:
    return Stat(_stat.S_IFLNK | 0o777, os.getuid(), os.getgid(), 0, mtime, mtime, 0)


def create(
    g: Gfid, parent: Gfid, name: bytes, data: bytes | None = b"", mtime: int = T0, fop: int = Fop.CREATE
) -> EntryOp:
    st = regular(len(data or b""), mtime=mtime)
    return EntryOp(fop, g, Slot(parent, name), None, st, None, data, {})


def mkdir(g: Gfid, parent: Gfid, name: bytes, mode: int = 0o755) -> EntryOp:
    return EntryOp(Fop.MKDIR, g, Slot(parent, name), None, directory(mode), None, None, {})


def sym(g: Gfid, parent: Gfid, name: bytes, text: bytes) -> EntryOp:
    return EntryOp(Fop.SYMLINK, g, Slot(parent, name), None, symlink(), text, None, {})


def link(g: Gfid, parent: Gfid, name: bytes, stat: Stat | None = None, text: bytes | None = None) -> EntryOp:
    return EntryOp(Fop.LINK, g, Slot(parent, name), None, stat, text)


def unlink(g: Gfid, parent: Gfid, name: bytes) -> EntryOp:
    return EntryOp(Fop.UNLINK, g, Slot(parent, name))


def rmdir(g: Gfid, parent: Gfid, name: bytes) -> EntryOp:
    return EntryOp(Fop.RMDIR, g, Slot(parent, name))


def rename(
    g: Gfid, src: tuple[Gfid, bytes], dest: tuple[Gfid, bytes], stat: Stat | None = None, text: bytes | None = None
) -> EntryOp:
    return EntryOp(Fop.RENAME, g, Slot(*src), Slot(*dest), stat, text)


def limbo(g: Gfid) -> tuple[Gfid, bytes]:
    return (LIMBO, hexname(g))


class Local:
    """The agent's parts in this process, on `path`."""

    def __init__(self, path: Path, **options: Any) -> None:
        os.umask(0o022)
        self.path = path
        self._options = {"take_over": False, "create": True, "wait": 0.0, **options}
        self.open()

    def open(self) -> None:
        self.holding = Holding(Place(os.fsencode(self.path), b""), SESSION, **self._options)
        self.tree = self.holding.tree
        self.entries = Entries(self.tree, self.holding.writer)
        self.contents = Contents(self.tree, self.holding.writer)

    def apply(self, *ops: EntryOp) -> Applied:
        self.holding.applying()
        before = os.umask(0)
        try:
            return self.entries.apply(list(ops))
        finally:
            os.umask(before)

    def ok(self, *ops: EntryOp) -> Applied:
        done = self.apply(*ops)
        assert not done.failures, done.failures
        return done

    def fails(self, op: EntryOp, errno: int, word: str = "") -> bytes:
        """Apply one operation that must fail; the gfid that was in the way."""
        done = self.apply(op)
        assert len(done.failures) == 1, done.failures
        assert done.failures[0].errno == errno, done.failures
        assert done.failures[0].text.startswith(word), done.failures
        return done.failures[0].found

    def commit(self, *purge: Gfid, mark: int = 1, keep: float | None = None, foreign: bool = False) -> dict[str, Any]:
        answer = self.holding.commit(
            list(purge), purge_foreign=foreign, keep_deleted=keep, mark={"sec": mark, "nsec": 0}
        )
        assert self.holding.trash is not None and self.holding.trash.wait(10)
        return answer

    def crash(self) -> None:
        """End as SIGKILL would: nothing of the index since the last commit is kept."""
        self.tree.index.rollback()
        self.holding.close(clean=False)

    def again(self) -> None:
        """Crash and start anew."""
        self.crash()
        self.open()

    def close(self) -> None:
        self.holding.close()

    def limbo(self) -> set[str]:
        return set(os.listdir(self.path / ".georep" / "limbo"))


def tree_of(root: Path, times: bool = False) -> dict[str, tuple[Any, ...]]:
    """What is on disk below a root, without .georep: path → kind, mode and content; hard links by group."""
    found: dict[str, tuple[Any, ...]] = {}
    inodes: dict[int, str] = {}
    for top, dirs, files in os.walk(os.fsencode(root)):
        if top == os.fsencode(root) and b".georep" in dirs:
            dirs.remove(b".georep")
        for name in sorted(dirs + files):
            path = os.path.join(top, name)
            key = os.path.relpath(path, os.fsencode(root)).decode("utf-8", "backslashreplace")
            st = os.lstat(path)
            more: tuple[Any, ...] = (st.st_mtime_ns,) if times and not _stat.S_ISDIR(st.st_mode) else ()
            if _stat.S_ISREG(st.st_mode):
                with open(path, "rb") as f:
                    content: Any = f.read()
                first = inodes.setdefault(st.st_ino, key)
                found[key] = ("file", oct(st.st_mode), content, first if st.st_nlink > 1 else "", *more)
            elif _stat.S_ISLNK(st.st_mode):
                found[key] = ("link", os.readlink(path), *more)
            else:
                found[key] = (_stat.S_IFMT(st.st_mode), oct(st.st_mode), *more)
    return found


class Agent:
    """A real agent as a child process, and the primary's side of the line; used by one thread."""

    def __init__(self, root: Path | bytes, python: str = sys.executable) -> None:
        self.root = os.fsencode(root)
        here = Path(__file__).parent.parent
        self.child = subprocess.Popen(
            [python, "-m", "engine.agent", self.root],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=here, bufsize=0,
        )  # fmt: skip
        assert self.child.stdin is not None and self.child.stdout is not None
        self.stdin = self.child.stdin.fileno()
        self.stdout = self.child.stdout.fileno()
        line = b""
        while not line.endswith(b"\n"):
            c = os.read(self.stdout, 1)
            assert c, "the agent did not greet"
            line += c
        assert line == b"georep-agent 1\n"
        self.reader = FrameReader(self.stdout)
        self.next = 0

    def send(self, kind: int, *payload: bytes, ident: int | None = None) -> int:
        if ident is None:
            self.next += 1
            ident = self.next
        write_frame(self.stdin, kind, ident, *payload)
        return ident

    def read(self) -> Frame:
        frame = self.reader.read(30)
        assert frame is not None, "the agent ended"
        return frame

    def request(self, kind: int, *payload: bytes) -> Frame:
        ident = self.send(kind, *payload)
        frame = self.read()
        assert frame.id == ident
        return frame

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A call that succeeds; its result."""
        answer = self.ask(method, **params)
        assert "result" in answer, answer
        result = answer["result"]
        assert isinstance(result, dict)
        return result

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """A call; the whole answer."""
        frame = self.request(Kind.CALL, json.dumps({"method": method, "params": params}).encode())
        assert frame.kind == Kind.REPLY_JSON, frame
        answer = json.loads(frame.payload)
        assert isinstance(answer, dict)
        return answer

    def hello(self, **params: Any) -> dict[str, Any]:
        return self.call("hello", protocol=PROTOCOL, version="0", **params)

    def begin(self, **params: Any) -> dict[str, Any]:
        return self.call("begin", **{**SESSION, "take_over": False, "create": True, "wait": 5, **params})

    def entries(self, *ops: EntryOp) -> wire.EntriesReply:
        frame = self.request(Kind.ENTRIES, wire.encode_entries(ops))
        assert frame.kind == Kind.REPLY_ENTRIES, frame
        return wire.decode_entries_reply(frame.payload)

    def puts(self, *puts: wire.Put) -> list[wire.FileResult]:
        frame = self.request(Kind.PUT, wire.encode_puts(puts))
        assert frame.kind == Kind.REPLY_FILES, frame
        return wire.decode_files_reply(frame.payload)

    def metas(self, *ops: MetaOp) -> wire.EntriesReply:
        frame = self.request(Kind.META, wire.encode_metas(ops))
        assert frame.kind == Kind.REPLY_ENTRIES, frame
        return wire.decode_entries_reply(frame.payload)

    def file(
        self, g: Gfid, parts: list[tuple[int, bytes]], stat: Stat, *, delta: bool = False,
        holes: list[tuple[int, int]] | None = None, xattrs: wire.Xattrs = None,
    ) -> wire.FileResult:  # fmt: skip
        """Send one file in pieces."""
        ident = self.send(Kind.FILE_BEGIN, wire.encode_file_begin(wire.FileBegin(g, stat.size, delta)))
        for offset, length in holes or []:
            self.send(Kind.FILE_HOLE, wire.FILE_HOLE.pack(offset, length), ident=ident)
        for offset, data in parts:
            self.send(Kind.FILE_DATA, wire.FILE_OFFSET.pack(offset), data, ident=ident)
        self.send(Kind.FILE_END, wire.encode_file_end(stat, xattrs), ident=ident)
        frame = self.read()
        assert frame.kind == Kind.REPLY_FILES and frame.id == ident, frame
        (result,) = wire.decode_files_reply(frame.payload)
        return result

    def sums(self, g: Gfid, block: int, offset: int = 0, length: int = 1 << 40) -> list[wire.SumsReply]:
        ident = self.send(Kind.SUMS, wire.encode_sums_request(wire.SumsRequest(g, block, offset, length)))
        replies: list[wire.SumsReply] = []
        while not replies or not replies[-1].last:
            frame = self.read()
            assert frame.kind == Kind.REPLY_SUMS and frame.id == ident, frame
            replies.append(wire.decode_sums_reply(frame.payload))
        return replies

    def kill(self) -> None:
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()
        self._close()

    def close(self) -> int:
        """End of input; the exit status."""
        assert self.child.stdin is not None
        self.child.stdin.close()
        code = self.child.wait(30)
        self._close()
        return code

    def _close(self) -> None:
        for f in (self.child.stdin, self.child.stdout):
            assert f is not None
            f.close()

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        if self.child.poll() is None:
            self.close()


def slot_params(parent: Gfid, name: bytes) -> dict[str, str]:
    import base64

    return {"parent": parent.hex(), "name": base64.b64encode(name).decode()}


__all__ = [
    "LIMBO", "ROOT", "SESSION", "T0", "Agent", "Local", "create", "directory", "gfid", "hexname", "limbo", "link",
    "mkdir", "regular", "rename", "rmdir", "slot_params", "sym", "symlink", "tree_of", "unlink",
]  # fmt: skip

"""The rsync engine (SYN-2): content by the rsync of both sides, only what differs; on a volume in place."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable

from engine.apply import Watch
from engine.link import Link, SshTarget
from engine.transfer.base import Transfer
from engine.transfer.children import Child, Children
from engine.transfer.remote import ssh_words, stage_command
from engine.transfer.staged import Carried, Stage, Staged, carried
from engine.volume.base import View

# Runs as rsync's "remote shell". What rsync sends goes by `cat` into a pipe of ours, and comes back by another one, so
# that the limit holds for it; ssh, or for a secondary on this machine the rsync of its side, answers rsync directly.
_SHELL = """
import os, socket, sys
line, stage = socket.socket(fileno=int(sys.argv[1])), os.environb.pop(b'GEOREP_STAGE', b'')
out, back = socket.recv_fds(line, 1, 2)[1]
line.close()
child = os.fork()
if child == 0:
    if os.fork():
        os._exit(0)
    os.dup2(out, 1)
    os.closerange(3, max(out, back) + 1)
    os.execvp('cat', ['cat'])
os.waitpid(child, 0)
os.dup2(back, 0)
os.closerange(3, max(out, back) + 1)
words = sys.argv[2:]
if stage:
    os.chdir(stage)
    words = words[1:]
os.execvp(words[0], words)
"""

_DATA_ONLY = (
    "--files-from=-", "--from0", "--copy-links", "--ignore-times", "--numeric-ids",
    "--no-implied-dirs", "--no-perms", "--no-owner", "--no-group", "--no-times", "--no-xattrs", "--no-acls",
)  # fmt: skip

_PARTIAL = (0, 23, 24)

_HINTS = {
    5: "rsync could not start its work there",
    12: "is rsync installed on the secondary? Does its shell print something at login?",
    30: "the secondary, its disk or the line to it hangs",
    127: "install rsync on the secondary, or choose another sync_method",
    255: "ssh ended: see what it says",
}


def _python() -> str:
    """This interpreter, or, where it may not be started once more (root's own, and we are not root now), the PATH's."""
    return sys.executable if os.access(sys.executable, os.X_OK) else shutil.which("python3") or sys.executable


class RsyncTransfer(Staged):
    """Sends content with rsync (SYN-2).

    `command` is the rsync to run here, with its words; `options` are more, put before ours, which win; `existing`
    keeps rsync from making what is not staged there.
    """

    name = "rsync"

    def __init__(
        self,
        view: View,
        link: Link,
        watch: Watch,
        fallback: Transfer,
        *,
        root: bytes,
        state: str,
        target: SshTarget,
        log: Callable[[str, str], None],
        timeout: float = 120.0,
        xattrs: bool = True,
        command: str = "rsync",
        options: tuple[str, ...] = (),
        existing: bool = True,
        delta_threshold: int | None = None,
    ) -> None:
        super().__init__(
            view, link, watch, fallback, root=root, state=state, target=target, log=log, timeout=timeout, xattrs=xattrs,
            delta_threshold=delta_threshold,
        )  # fmt: skip
        self._command = shlex.split(command)
        self._options = options
        self._existing = existing
        self._sparse = True

    def carry(self, stage: Stage, names: list[str], whole: bool) -> Carried:
        """See Staged.carry. Exit 23 and 24 are partial."""
        child = self._run(stage, names, whole)
        if child.code == 1 and self._sparse and any("--sparse" in w and "--inplace" in w for w in child.words):
            self.log("info", "rsync is too old for sparse files in place: they become full ones")
            self._sparse = False
            child = self._run(stage, names, whole)
        if child.code not in _PARTIAL and not child.in_vain:
            raise self.failed(child, _HINTS.get(child.code or 0, ""))
        if child.code:
            self.whole_brick(child)
        return carried((child,))

    def _run(self, stage: Stage, names: list[str], whole: bool) -> Child:
        local = self.target.host is None
        with Children(self.timeout, self.tick, lambda: self.in_vain(stage, names)) as children:
            out_read, out_write = children.pipe()
            back_read, back_write = children.pipe()
            ours, theirs = children.sockets()
            shell = [_python(), "-I", "-S", "-c", _SHELL, str(theirs.fileno())]
            if not local:
                shell += ssh_words(self.target)
            place = ("--inplace",) if stage.in_place else ("--no-inplace", "--no-append")
            words = [*self._command, *self._options, *_DATA_ONLY, *place, f"--timeout={math.ceil(self.timeout)}"]
            words += [word for word, wanted in (
                ("--existing", self._existing), ("--sparse", self._sparse), ("--whole-file", whole or local),
            ) if wanted]  # fmt: skip
            words += ["-e", " ".join(map(rsync_word, shell))]
            words.append("--rsync-path=" + ("rsync" if local else stage_command(stage.there, stage.some, "rsync")))
            words += [".", "secondary:." if local else f"{_host(self.target)}:."]
            child = children.start(
                "rsync", words, stdin=children.text("\0".join(names).encode()), stdout=subprocess.DEVNULL,
                cwd=stage.here, pass_fds=(theirs.fileno(),), extra={b"GEOREP_STAGE": stage.there} if local else {},
            )  # fmt: skip
            socket.send_fds(ours, [b"\0"], [out_write, back_read])
            children.close(out_write, back_read)
            theirs.close()
            children.pump(out_read, back_write, self.watch.throttle, f"rsync-pump {self.link.where}")
            children.run()
        return child


def rsync_word(word: str) -> str:
    """A word as rsync's own parser of `-e` takes it: in quotes, a quote in it doubled."""
    return "'" + word.replace("'", "''") + "'"


def _host(target: SshTarget) -> str:
    assert target.host is not None
    return f"[{target.host}]" if ":" in target.host else target.host

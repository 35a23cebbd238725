"""The tarssh engine (SYN-3): whole files by tar, piped through ssh into the secondary's tar."""

from __future__ import annotations

import errno
import os
import signal
import subprocess

from engine.transfer.children import Child, Children, TransferError
from engine.transfer.remote import stage_command
from engine.transfer.staged import Carried, Stage, Staged, carried

_RECORD = "--record-size=128K"
_CREATE = (
    "tar", "--create", "--file=-", _RECORD, "--format=gnu", "--sparse", "--dereference", "--hard-dereference",
    "--no-recursion", "--null", "--files-from=-",
)  # fmt: skip
_EXTRACT = (
    "tar", "--extract", "--file=-", _RECORD, "--overwrite", "--no-same-owner", "--no-same-permissions", "--touch",
)  # fmt: skip

_PARTIAL = (0, 1, 2)
"""GNU tar: done; some files changed as they were read; some could not be read or written."""


class TarTransfer(Staged):
    """Sends content with tar (SYN-3), always whole. The exits of both tars count; 1 and 2 are partial."""

    name = "tarssh"
    basis = False

    def carry(self, stage: Stage, names: list[str], whole: bool) -> Carried:  # noqa: ARG002 - tar sends whole files
        """See Staged.carry."""
        with Children(self.timeout, self.tick) as children:
            made_read, made_write = children.pipe()
            taken_read, taken_write = children.pipe()
            taker = self._taker(children, stage, taken_read)
            maker = children.start(
                "tar", _CREATE, stdin=children.text("\0".join(names).encode()), stdout=made_write, cwd=stage.here
            )
            children.close(made_write, taken_read)
            children.pump(made_read, taken_write, self.watch.throttle, f"tar-pump {self.link.where}")
            children.run()
        if taker.code:
            self.whole_brick(taker)
        if taker.code not in _PARTIAL or (taker.code and maker.code == -signal.SIGPIPE):
            raise self.failed(taker, _hint(taker))
        if maker.code not in _PARTIAL:
            raise self.failed(maker)
        return carried((maker, taker))

    def _taker(self, children: Children, stage: Stage, stdin: int) -> Child:
        """Start the tar that takes: here, or there by ssh."""
        if self.target.host is not None:
            argv = self.target.argv(stage_command(stage.there, stage.some, *_EXTRACT))
            return children.start("ssh tar", argv, stdin=stdin, stdout=subprocess.DEVNULL, watched=False)
        if not os.path.lexists(os.path.join(stage.there, stage.some.encode())):
            raise TransferError(f"{self.link.where}: the stage is not there", code="transfer", errno=errno.ENOENT)
        return children.start("secondary's tar", _EXTRACT, stdin=stdin, stdout=subprocess.DEVNULL, cwd=stage.there)


def _hint(child: Child) -> str:
    if child.code == 127:
        return "install GNU tar on the secondary, or choose another sync_method"
    return "ssh ended: see what it says" if child.code == 255 else ""

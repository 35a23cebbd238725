"""A real agent on a real volume, and the primary's side of the line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.agent_side import SESSION, Agent, gfid
from tests.gluster.lab import Lab, Volume


class VolumeAgent(Agent):
    """An agent that holds a volume; `mount` is a view of it that has nothing cached."""

    def __init__(self, volume: Volume, python: str = sys.executable, **params: Any) -> None:
        super().__init__(b"", python)
        self.volume = {"host": volume.host, "name": volume.name, "params": "", **params}

    def hello(self, **params: Any) -> dict[str, Any]:
        return super().hello(**{**SESSION, "volume": self.volume, **params})

    def begin(self, **params: Any) -> dict[str, Any]:
        return super().begin(volume=self.volume, **params)


def elsewhere(directory: Path) -> str:
    """A python that runs as on a node that has no brick: it has neither this node's id nor its locks."""
    script = directory / "elsewhere"
    hide = "mount --bind /dev/null /var/lib/glusterd/glusterd.info && mkdir -p /run/georep-tui"
    hide += " && mount -t tmpfs none /run/georep-tui"
    script.write_text(f"#!/bin/sh\nexec unshare -m sh -c '{hide} && exec \"$0\" \"$@\"' {sys.executable} \"$@\"\n")
    script.chmod(0o755)
    return str(script)


@contextmanager
def held(volume: Volume, python: str = sys.executable, **params: Any) -> Iterator[VolumeAgent]:
    """An agent that has begun; ended cleanly."""
    with VolumeAgent(volume, python) as agent:
        agent.hello()
        agent.begin(**params)
        yield agent


class Fresh:
    """Numbers for gfids that no other test of this volume uses, and a directory of one's own."""

    def __init__(self, start: int) -> None:
        self._next = start * 10_000

    def gfid(self) -> bytes:
        self._next += 1
        return gfid(self._next)


def view(lab: Lab, volume: Volume) -> Path:
    """A mount that shows what is there now, whatever was there before."""
    return lab.mount(volume, "attribute-timeout=0", "entry-timeout=0", "aux-gfid-mount",
                     "xlator-option=*md-cache.pass-through=on")  # fmt: skip


def gfid_at(path: Path) -> bytes:
    """The gfid of what is at a path on an aux-gfid mount."""
    text = os.getxattr(path, "glusterfs.gfid.string", follow_symlinks=False)
    return bytes.fromhex(text.decode().replace("-", ""))

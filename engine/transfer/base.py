"""What a transfer engine is: it brings the content of files over and believes only what the secondary then sees."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Protocol

from engine.apply import Result
from engine.model import Gfid


class Transfer(Protocol):
    """One way to send content (SYN-2…4). `send` returns when every file is acknowledged, a problem, or gone.

    `made` are objects that are new on the secondary: nothing there to compare with. Into the result go `sent` (content
    and metadata are there, size and mtime as the secondary sees them equal what was sent, SYN-5), `gone`, `problems`.
    Raises LinkError, BrickFault, TransferError when the transfer as a whole failed.
    """

    def send(self, gfids: Iterable[Gfid], made: Collection[Gfid], result: Result) -> None: ...

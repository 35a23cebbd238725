"""What a slice finds: names that hold something else, objects that changed. The differ fills it in, the emitter empties it."""

from __future__ import annotations

from engine.agent.index import Row
from engine.model import LIMBO, Gfid, Slot
from engine.volume.tree import Seen

DATA, META, ENTRY = 1, 2, 4
"""Flags of a dirty slot or object: content, attributes, the name itself."""

RACY_NS = 20_000_000
"""A file changed less than this before it was looked at may change again without its times showing it."""


def limbo_slot(gfid: Gfid) -> Slot:
    """Where a displaced object waits under a temporary name."""
    return Slot(LIMBO, gfid.hex().encode())


class Findings:
    """What was found since the last settling, and what of a slice stays open until its end."""

    def __init__(self, now_ns: int) -> None:
        self.now_ns = now_ns
        """When the slice began to look, unix time."""
        self.removed: dict[Slot, Row] = {}
        """Names that hold their object no more; what is found elsewhere leaves, the rest is removed in the end."""
        self.looked: set[Slot] = set()
        self.suspect = False
        """Something was written through a name, and it is not known what the name held."""
        self.passing = False
        """A name came and went in this slice: it may have been one of a file's, and still be written through."""
        self.settled()

    def settled(self) -> None:
        """Everything found so far has its records."""
        self.added: dict[Slot, Seen] = {}
        self.places: dict[Gfid, Slot] = {}
        self.objects: dict[Gfid, int] = {}
        self.stats: dict[Gfid, Seen] = {}

    def flag(self, gfid: Gfid, flags: int) -> None:
        """Something of this object changed."""
        self.objects[gfid] = self.objects.get(gfid, 0) | flags

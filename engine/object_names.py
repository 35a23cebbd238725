"""Which names an object gets on the secondary, and which are taken from it: each by a look at that very name (CON-2 to 4)."""

from __future__ import annotations

import base64
import errno
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from engine.model import LIMBO, Gfid, Slot
from engine.volume.base import Known, View


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one object on both sides.

    `want`: those that hold it on the primary, as far as they are known. `missing`: those of them that it was not seen to
    have on the secondary. `drop`: names that it has there, or that a record gave it, and that, looked up on the primary, do
    not hold it; `wrong` are those of them that it was seen to have.
    """

    want: tuple[Slot, ...]
    missing: tuple[Slot, ...]
    drop: tuple[Slot, ...]
    wrong: tuple[Slot, ...]


def compared_names(view: View, gfid: Gfid, known: Known, claimed: Iterable[Slot], there: Iterable[Slot]) -> Names:
    """Compare the names that an object has there with the primary's of now.

    What is not among the `known` names, because a brick has not noted it, may be one all the same: each such name, there
    or `claimed` by a record, is looked up. Raises OSError, VolumeError: what cannot be looked up is not removed.
    """
    want = {row.slot: None for row in known.rows}
    has = list(there)
    asked = [slot for slot in dict.fromkeys((*has, *claimed)) if slot not in want and slot.parent != LIMBO]
    holding = view.holding(asked, gfid) if asked else set()
    want.update((slot, None) for slot in asked if slot in holding)
    seen = set(has)
    drop = [slot for slot in asked if slot not in want]  # of a claimed one the agent sees whether it is the object's
    wrong = tuple(slot for slot in drop if slot in seen)
    return Names(tuple(want), tuple(s for s in want if s not in seen), tuple(drop), wrong)


def slots_there(there: dict[str, Any] | None) -> list[Slot]:
    """The names of an object in the agent's answer to `lookup`."""
    return [parse_slot(name) for name in there["names"]] if there else []


def parse_slot(name: dict[str, Any]) -> Slot:
    """A slot as the agent writes it."""
    return Slot(bytes.fromhex(name["parent"]), base64.b64decode(name["name"]))


class NamesUnknown(OSError):
    """A file has more names than any brick has noted, and not as many on the secondary: which, a full comparison finds."""

    def __init__(self, links: int, known: int, there: int) -> None:
        self.text = (f"it has {links:,} names on the primary, of which {known:,} are known here, and {there:,} on the secondary: "
                     "a crawl looks for the others")  # fmt: skip
        super().__init__(errno.ENODATA, self.text)

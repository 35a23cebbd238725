"""The one place where a comparison of both sides asks whether it may replace or remove something on the secondary."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.guard import Hold, hold_id

if TYPE_CHECKING:
    from engine.worker import Worker

SHOWN = 10
"""Names shown of what waits."""


def approval(worker: Worker, what: str, ids: Sequence[str], sample: Sequence[str], count: int, of: int) -> bool:
    """May these `count` objects go or be replaced? False while that waits for a person: the brick is shown as held.

    `what` says it in words, `ids` name the objects: the answer is for them alone. With `--adopt`, and where the
    secondary is a replica of ours that was put back, nobody is asked (MRK-7); where the primary was put back, always.
    """
    identity = worker.primary.marks.identity
    if worker.seat.adopt or "replace" in identity:
        return True
    why = identity.get("why")
    reason = f"{why}: {what}" if why else what
    return worker.permitted(Hold(hold_id(ids), reason, count, of, tuple(sample[:SHOWN]), time.time()))

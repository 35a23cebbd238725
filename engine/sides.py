"""What each side has of an object, in words, for the failure ledger (ERR-3)."""

from __future__ import annotations

import os
import stat as _stat
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from engine.agent.handles import kind_word
from engine.link import Link, RemoteError
from engine.model import Gfid
from engine.volume.base import Gone, View

ABSENT = "absent"
PAGE = 200
"""Objects asked for at once."""

ASKED = 5000
"""Objects of one batch of failures whose states are looked up; of more, the rest says nothing."""


def words(mode: int, size: int, mtime_ns: int, uid: int, gid: int, names: int = 1) -> str:
    """`a file, 1,204 bytes, 2026-11-22 14:30:00.5 UTC, 0644, 1000:1000`."""
    kind = kind_word(mode)
    when = datetime.fromtimestamp(mtime_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")
    part = f".{mtime_ns % 10**9:09d}".rstrip("0").rstrip(".")
    parts = [kind, f"{size:,} bytes"] if _stat.S_ISREG(mode) else [kind]
    parts += [f"{when}{part} UTC", f"{_stat.S_IMODE(mode):04o}", f"{uid}:{gid}"]
    if names > 1 and not _stat.S_ISDIR(mode):
        parts.append(f"{names} names")
    return ", ".join(parts)


def primary_state(view: View, gfid: Gfid) -> str:
    """What the primary has of it now; "absent" when it is nowhere in the tree."""
    try:
        seen = view.see(gfid)
    except Gone:
        seen = None
    except OSError as e:
        return f"cannot be looked at: {e.strerror or os.strerror(e.errno or 0)}"
    if seen is None:
        return ABSENT
    st = seen.stat
    return words(st.mode, st.size, st.mtime_ns, st.uid, st.gid, len(view.index.rows(gfid)))


def secondary_states(link: Link, gfids: Sequence[Gfid]) -> dict[Gfid, str]:
    """What the secondary has of these now. Raises LinkError."""
    found: dict[Gfid, str] = {}
    for at in range(0, min(len(gfids), ASKED), PAGE):
        some = list(gfids[at : at + PAGE])
        try:
            answer = link.call("lookup", {"gfids": [gfid.hex() for gfid in some]})
        except RemoteError as e:
            found.update((gfid, f"cannot be looked at: {e.text}") for gfid in some)
            continue
        objects = answer.get("objects") or {}
        found.update((gfid, _there(objects.get(gfid.hex()))) for gfid in some)
    return found


def _there(one: Any) -> str:
    if not isinstance(one, dict):
        return ABSENT
    st = one["stat"]
    text = words(st["mode"], st["size"], st["mtime_ns"], st["uid"], st["gid"], st["nlink"])
    return f"{text} (set aside)" if one.get("limbo") else text

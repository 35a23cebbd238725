"""What each side has of an object, in words, for the failure ledger (ERR-3)."""

from __future__ import annotations

import base64
import errno
import os
import stat as _stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from engine.agent.handles import kind_word
from engine.link import Link, RemoteError
from engine.model import LIMBO, ROOT, Gfid, Slot, Stat
from engine.volume.base import Gone, View

ABSENT = "absent"
TORN = "half written: "
PAGE = 200
"""Objects asked for at once."""

LISTED = 1000
"""Names asked for at once."""

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
    """What the secondary has of these now; TORN begins what is half written. Raises LinkError."""
    found: dict[Gfid, str] = {}
    for at in range(0, min(len(gfids), ASKED), PAGE):
        some = list(gfids[at : at + PAGE])
        try:
            found.update((gfid, _there(one)) for gfid, one in looked_up(link, some))
        except RemoteError as e:
            found.update((gfid, f"cannot be looked at: {e.text}") for gfid in some)
    return found


def slot_params(slot: Slot) -> dict[str, Any]:
    """A slot as the agent's calls take it."""
    return {"parent": slot.parent.hex(), "name": base64.b64encode(slot.name).decode()}


def looked_up(link: Link, gfids: Sequence[Gfid]) -> Iterator[tuple[Gfid, dict[str, Any] | None]]:
    """What the secondary has of each, as the agent's `lookup` says it. Raises LinkError, RemoteError."""
    for at in range(0, len(gfids), PAGE):
        some = gfids[at : at + PAGE]
        objects = link.call("lookup", {"gfids": [gfid.hex() for gfid in some]}).get("objects") or {}
        yield from ((gfid, objects.get(gfid.hex())) for gfid in some)


def compared(view: View, link: Link, gfids: Sequence[Gfid]) -> tuple[list[Gfid], list[Gfid], list[Gfid]]:
    """Those that are missing there, have another size or time than here, or lack blocks here that they have there (what a
    power cut leaves of a file: its size and zeros); those with other names; and the others. Raises LinkError, RemoteError."""
    differ: list[Gfid] = []
    elsewhere: list[Gfid] = []
    same: list[Gfid] = []
    for gfid, there in looked_up(link, gfids):
        seen = view.see(gfid)
        if seen is None:
            continue  # gone or on the move: a record says so
        if there is None or there.get("limbo") or there.get("torn") or (seen.stat.is_file and _other(view, gfid, seen.stat, there["stat"])):
            differ.append(gfid)
        else:
            (same if names_here(view, gfid) == names_there(there) else elsewhere).append(gfid)
    return differ, elsewhere, same


def _other(view: View, gfid: Gfid, here: Stat, there: dict[str, int]) -> bool:
    """Is the file there another one than here, as far as its attributes tell?"""
    if (here.size, here.mtime_ns) != (there["size"], there["mtime_ns"]):
        return True
    return here.size > 0 and _hollow(view, gfid, there["blocks"])


def _hollow(view: View, gfid: Gfid, blocks: int) -> bool:
    """Has the file here a hole, and fewer blocks (of 512 bytes) than that?"""
    try:
        fd = view.open_file(gfid)
    except (Gone, OSError):
        return False
    try:
        st = os.fstat(fd)
    finally:
        os.close(fd)
    return st.st_blocks < blocks and st.st_blocks * 512 < st.st_size


def names_here(view: View, gfid: Gfid) -> set[tuple[str, str]]:
    """The slots of an object on the primary, as the agent writes them."""
    rows = [] if gfid == ROOT else view.index.rows(gfid)
    return {(r.parent.hex(), base64.b64encode(r.name).decode()) for r in rows if r.parent != LIMBO}


def names_there(there: dict[str, Any]) -> set[tuple[str, str]]:
    """The slots of an object in the agent's answer."""
    return {(n["parent"], n["name"]) for n in there["names"]}


def listing(link: Link, gfid: Gfid, *, xattrs: bool = False) -> Iterator[dict[str, Any]]:
    """A directory as the secondary has it, none where it has no such, or none any more. Raises LinkError, RemoteError."""
    after = ""
    while True:
        try:
            answer = link.call("list", {"gfid": gfid.hex(), "after": after, "limit": LISTED, "xattrs": xattrs})
        except RemoteError as e:
            if e.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
            return  # not there, or of another kind
        entries = answer.get("entries", [])
        yield from entries
        if len(entries) < LISTED:
            return
        after = entries[-1]["name"]


def _there(one: Any) -> str:
    if not isinstance(one, dict):
        return ABSENT
    st = one["stat"]
    text = words(st["mode"], st["size"], st["mtime_ns"], st["uid"], st["gid"], st["nlink"])
    text = f"{TORN}{text}" if one.get("torn") else text
    return f"{text} (set aside)" if one.get("limbo") else text

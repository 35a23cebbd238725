"""What a session is: its bricks, its secondary, and how it is run; checked before anything is started."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from engine.addresses import PrimaryVolume, SecondaryAddress, parse_primary, parse_secondary
from engine.model import EngineError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class SpecError(EngineError):
    """A session that cannot be run as it is given."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text, hint=hint, code="usage")


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """A session as asked for. Each brick is (absolute path, name in the secondary, "" for its root).

    `kind` is tree or gluster; of a gluster primary `bricks` is empty and `volume` says which. `adopt` takes over what
    is on a secondary that is not ours yet; `dry_run` changes nothing there; `once` ends when caught up; `read_only`
    refuses commands that change something.
    """

    name: str
    kind: str
    bricks: tuple[tuple[bytes, str], ...]
    secondary: SecondaryAddress
    adopt: bool = False
    dry_run: bool = False
    once: bool = False
    read_only: bool = False
    volume: PrimaryVolume | None = None


def check_name(name: str) -> str:
    """A session's name: it names its state and its socket. Raises SpecError."""
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"{name!r} cannot be a session's name", "letters, digits, dots, dashes, underscores; 64 at most"
        )
    return name


def name_for(primaries: Sequence[str]) -> str:
    """A name for a session that was given none: from the first primary's last component, or its volume."""
    first = parse_primary(primaries[0])
    word = first.volume if isinstance(first, PrimaryVolume) else os.fsdecode(os.path.basename(first[0]))
    word = re.sub(r"[^A-Za-z0-9._-]+", "-", word).strip("-.") or "tree"
    return word[:64]


def make_spec(
    primaries: Sequence[str],
    secondary: str,
    *,
    name: str = "",
    adopt: bool = False,
    dry_run: bool = False,
    once: bool = False,
    read_only: bool = False,
) -> SessionSpec:
    """A session from texts, checked on this machine (not on the other). Raises SpecError, AddressError."""
    if not primaries:
        raise SpecError("no primary is given", "georep-tui run PRIMARY… SECONDARY")
    chosen = check_name(name or name_for(primaries))
    where = parse_secondary(secondary)
    parsed = [parse_primary(p) for p in primaries]
    volumes = [p for p in parsed if isinstance(p, PrimaryVolume)]
    if volumes:
        if len(parsed) > 1:
            raise SpecError("a volume is replicated alone", "one session for each HOST::VOLUME")
        if where.kind != "gluster":
            raise SpecError(
                f"{volumes[0].text} goes to a volume, not to {where.text}", "SECONDARY: [USER@]HOST::VOLUME"
            )
        return SessionSpec(chosen, "gluster", (), where, adopt, dry_run, once, read_only, volumes[0])
    bricks = tuple(p for p in parsed if not isinstance(p, PrimaryVolume))
    if where.kind == "gluster":
        raise SpecError(f"a directory cannot go to the volume {where.text}", "mount it, and name the directory")
    check_bricks(bricks)
    for path, _ in bricks:
        check_primary(path)
    check_apart(bricks, where)
    if where.host is None:
        check_local_secondary(where.path)
    return SessionSpec(chosen, "tree", bricks, where, adopt, dry_run, once, read_only)


def check_bricks(bricks: Sequence[tuple[bytes, str]]) -> None:
    """Several bricks each have a name of their own, one may do without. Raises SpecError."""
    names = [name for _, name in bricks]
    if len(bricks) > 1:
        for path, name in bricks:
            if not name:
                raise SpecError(f"{os.fsdecode(path)}: of several primaries each needs a name", "PRIMARY=NAME")
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise SpecError(f"two primaries are named {twice!r}", "each needs a name of its own")


def check_primary(path: bytes) -> None:
    """A primary is a directory that can be read. Raises SpecError."""
    shown = os.fsdecode(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as e:
        raise SpecError(f"{shown}: no such directory", "is it mounted?") from e
    except OSError as e:
        raise SpecError(f"{shown}: {e.strerror or e}") from e
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            raise SpecError(f"{shown} is not a directory")
    finally:
        os.close(fd)


def check_local_secondary(path: bytes) -> None:
    """A secondary on this machine is a directory, or its parent is one. Raises SpecError."""
    shown = os.fsdecode(path)
    if os.path.lexists(path):
        if not os.path.isdir(path):
            raise SpecError(f"{shown} is not a directory")
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            raise SpecError(f"{shown}: permission denied", "the replica must be writable")
        return
    if not os.path.isdir(os.path.dirname(path)):
        raise SpecError(f"{os.fsdecode(os.path.dirname(path))}: no such directory", "make it, or is it not mounted?")


def check_apart(bricks: Sequence[tuple[bytes, str]], secondary: SecondaryAddress) -> None:
    """No tree lies in another: they would replicate themselves. Symlinks are seen through. Raises SpecError."""
    trees = [("primary", path, os.path.realpath(path)) for path, _ in bricks]
    if secondary.host is None:
        trees.append(("secondary", secondary.path, os.path.realpath(secondary.path)))
    for i, (kind, path, real) in enumerate(trees):
        for other_kind, other, other_real in trees[i + 1 :]:
            if _same(real, other_real):
                what = f"{other_kind} {os.fsdecode(other)} is the same directory as {kind} {os.fsdecode(path)}"
            elif inside(other_real, real):
                what = f"{other_kind} {os.fsdecode(other)} is inside {kind} {os.fsdecode(path)}"
            elif inside(real, other_real):
                what = f"{kind} {os.fsdecode(path)} is inside {other_kind} {os.fsdecode(other)}"
            else:
                continue
            raise SpecError(what, "choose directories apart from each other")


def check_state(state: str, bricks: Sequence[tuple[bytes, str]], secondary: SecondaryAddress) -> None:
    """The state directory lies in no tree: recording would record itself. Raises SpecError."""
    real = os.path.realpath(os.fsencode(state))
    trees = [path for path, _ in bricks] + ([secondary.path] if secondary.host is None and secondary.path else [])
    for path in trees:
        tree = os.path.realpath(path)
        if real == tree or inside(real, tree):
            raise SpecError(
                f"the state directory {state} is inside {os.fsdecode(path)}", "choose another with --state-dir"
            )


def inside(path: bytes, tree: bytes) -> bool:
    """Is this path below that tree? Both are real paths."""
    return path != tree and path.startswith(tree.rstrip(b"/") + b"/")


def _same(one: bytes, other: bytes) -> bool:
    if one == other:
        return True
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False  # one does not exist yet: it cannot be the other

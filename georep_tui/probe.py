"""Run on the secondary's host by `doctor`, sent as text to its python3: what that host allows. Prints one JSON line.

It makes a file without a name, so nothing is left behind and no directory is touched. Python 3.6 must be able to run it
far enough to say its version.
"""

import errno
import json
import os
import shutil
import sys
from typing import Any, Callable, Dict, Optional  # noqa: UP035 - python 3.6 on the other side


def probe(root: str) -> Dict[str, Any]:  # noqa: UP006
    """What can be done below `root`, or in the nearest directory above it that exists."""
    found: Dict[str, Any] = {  # noqa: UP006
        "python": ".".join(map(str, sys.version_info[:3])), "uid": os.geteuid(), "node": os.uname().nodename,
        "rsync": shutil.which("rsync"), "tar": shutil.which("tar"), "exists": os.path.isdir(root),
    }  # fmt: skip
    place = root
    while not os.path.isdir(place) and os.path.dirname(place) != place:
        place = os.path.dirname(place) or "."
    found["place"] = place
    found["filesystem"] = filesystem(place)
    stat = os.statvfs(place)
    found["free_bytes"], found["free_inodes"] = stat.f_bavail * stat.f_frsize, stat.f_favail
    found["inodes"] = stat.f_files
    for what, flag in (("read", os.R_OK), ("write", os.W_OK), ("enter", os.X_OK)):
        found[what] = os.access(place, flag)
    found["unnamed"] = found["xattrs"] = found["acls"] = found["owners"] = None
    try:
        fd = os.open(place, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError as e:
        found["unnamed"] = errno.errorcode.get(e.errno or 0, str(e.errno))
        return found
    try:
        found["xattrs"] = _try(lambda: os.setxattr(fd, b"user.georep", b"1"))
        entries = b"\x02\0\0\0" + b"".join(
            tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + who.to_bytes(4, "little")
            for tag, perm, who in (
                (1, 6, 0xFFFFFFFF), (2, 6, 0), (4, 4, 0xFFFFFFFF), (16, 6, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)
            )
        )
        found["acls"] = _try(lambda: os.setxattr(fd, b"system.posix_acl_access", entries))
        found["owners"] = _try(lambda: os.fchown(fd, 1, 1))
    finally:
        os.close(fd)
    return found


def filesystem(place: str) -> Optional[str]:  # noqa: UP045
    """The kind of filesystem that a directory is on; None where that cannot be told."""
    want, best, kind = os.path.realpath(place), "", None
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as f:
            for line in f:
                _, point, name = line.split()[:3]
                point = point.replace("\\040", " ")
                if (want + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
                    best, kind = point, name
    except (OSError, ValueError):
        return None
    return kind


def _try(deed: Callable[[], None]) -> Optional[str]:  # noqa: UP045
    """None where it works, else why not."""
    try:
        deed()
    except OSError as e:
        return os.strerror(e.errno or 0)
    return None


if __name__ == "__main__":
    sys.stdout.write("georep-probe " + json.dumps(probe(sys.argv[1])) + "\n")

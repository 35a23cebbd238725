"""The incident bundle: one archive with what is needed to see later what was wrong. Without secrets. Imports no textual."""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from engine import __version__
from georep_tui.tui.feed import Feedable
from georep_tui.view.logs import parse_log_line
from georep_tui.view.options import without_secrets
from georep_tui.view.units import stamp

LOG_LINES = 5000


def write_bundle(
    source: Feedable, session: str, snapshot: Mapping[str, Any], events: Sequence[Mapping[str, Any]], now: float,
    directory: str = ".",
) -> str:  # fmt: skip
    """Write `georep-tui-incident-SESSION-TIME.tar.gz` (mode 0600) to `directory`; returns its path.

    What the engine does not answer is said in the bundle. Call it from a thread. Raises OSError when it cannot write.
    """
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    safe = "".join(char if char.isalnum() or char in "-_." else "_" for char in session) or "session"
    name = f"georep-tui-incident-{safe}-{when}"
    path = os.path.join(os.path.abspath(directory), name + ".tar.gz")
    parts: dict[str, str] = {
        "snapshot.json": _json(snapshot),
        "events.jsonl": "".join(json.dumps(event) + "\n" for event in events),
        "log.txt": _log(source, session),
        "failures.json": _json(_ask(source, "failures", session, limit=5000)),
        "held.json": _json(_ask(source, "held", session)),
        "operations.json": _json(_ask(source, "operations", session, limit=1000)),
        "options.json": _options(source, session),
        "versions.json": _json(versions(now)),
    }
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for file, text in parts.items():
            data = text.encode("utf-8", "backslashreplace")
            info = tarfile.TarInfo(f"{name}/{file}")
            info.size, info.mtime, info.mode = len(data), int(now), 0o600
            archive.addfile(info, io.BytesIO(data))
    return path


def versions(now: float) -> dict[str, Any]:
    """Versions of what takes part here; of the tools only what each says of itself."""
    return {
        "time": stamp(now), "georep-tui": __version__, "python": sys.version, "platform": platform.platform(),
        "node": platform.node(), "rsync": _says("rsync", "--version"), "ssh": _says("ssh", "-V"),
        "tar": _says("tar", "--version"), "gluster": _says("gluster", "--version"),
    }  # fmt: skip


def _says(*words: str) -> str:
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        return f"({e.__class__.__name__})"
    return (done.stdout or done.stderr).decode("utf-8", "replace").split("\n", 1)[0].strip()


def _ask(source: Feedable, method: str, session: str, **params: Any) -> Any:
    try:
        return source.command(method, {"session": session, **params})
    except Exception as e:  # noqa: BLE001 - an engine that does not answer is what a bundle is often about
        return {"no answer": str(e) or type(e).__name__}


def _log(source: Feedable, session: str) -> str:
    answer = _ask(source, "logs", session, limit=LOG_LINES)
    if not isinstance(answer, Mapping) or "lines" not in answer:
        return f"{answer}\n"
    lines = [parse_log_line(doc) for doc in answer["lines"]]
    return "".join(f"{stamp(one.time)} {one.level:7} {one.brick}: {one.text}\n" for one in lines)


def _options(source: Feedable, session: str) -> str:
    answer = _ask(source, "config_get", session)
    if isinstance(answer, Mapping) and isinstance(answer.get("options"), list):
        answer = {"options": without_secrets(answer["options"])}
    return _json(answer)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, default=str) + "\n"

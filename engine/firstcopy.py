"""The first copy of a brick: how much of the whole is on the secondary, how fast it goes, and when it may be through."""

from __future__ import annotations

from typing import Any

from engine.progress import UNIT, Rate

MINUTE = 60.0
"""Seconds over which its rate is measured: a batch of large files and one of small ones are both in it."""

_BASIS = "at the rate of the last minute"


class FirstCopy:
    """What of a first full pass is done. The total is what the walk has found, and it is the whole once that has ended.

    Calls come under the lock of the status. `kept` is what an earlier run had brought over.
    """

    def __init__(self, kept: object = None) -> None:
        known = kept if isinstance(kept, dict) else {}
        self.files, self.bytes = _count(known.get("files")), _count(known.get("bytes"))
        since = known.get("since")
        self.since: float | None = float(since) if isinstance(since, int | float) else None
        self._found: tuple[int, int, bool] | None = None
        self._began: float | None = None
        self._rates = {k: Rate(MINUTE) for k in ("files", "bytes")}

    def sent(self, files: int, nbytes: int, now: float, mono: float) -> None:
        """Contents were acknowledged; `now` is unix time, `mono` monotonic."""
        self.since = self.since or now
        self._began = self._began or mono
        self.files += files
        self.bytes += nbytes
        self._rates["files"].add(files, mono)
        self._rates["bytes"].add(nbytes, mono)

    def found(self, files: int, nbytes: int, whole: bool) -> None:
        """The walk has found so much; `whole` once it has been everywhere."""
        self._found = files, nbytes, whole

    def kept(self) -> dict[str, Any]:
        """For JSON, and back with the constructor."""
        return {"files": self.files, "bytes": self.bytes, "since": self.since}

    def shown(self, mono: float, moving: bool) -> dict[str, Any]:
        """As a snapshot has it: pairs of done and total, None where the total is not known; `found` is the least it is."""
        files, nbytes, whole = self._found or (0, 0, False)
        spent = min(MINUTE, max(1.0, mono - self._began)) if self._began is not None else MINUTE
        # a rate is over its whole window: in the first minute over what has passed of it
        per_second = {k: r.value(mono) * MINUTE / spent for k, r in self._rates.items()}
        out: dict[str, Any] = {
            "files": [min(self.files, files) if whole else self.files, files if whole else None],
            "bytes": [min(self.bytes, nbytes) if whole else self.bytes, nbytes if whole else None],
            "found": [max(files, self.files), max(nbytes, self.bytes)],
            "since": self.since, "fraction": None, "eta_seconds": None, "eta_basis": None,
            "files_per_s": round(per_second["files"], 1), "bytes_per_s": round(per_second["bytes"], 1),
        }  # fmt: skip
        if whole:
            total = files * UNIT + nbytes
            done = out["files"][0] * UNIT + out["bytes"][0]
            out["fraction"] = round(min(0.99, done / total), 4) if total else 0.0
            rate = per_second["files"] * UNIT + per_second["bytes"]
            if moving and rate > 0 and done < total:
                out["eta_seconds"], out["eta_basis"] = round((total - done) / rate, 1), _BASIS
        return out


def _count(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0

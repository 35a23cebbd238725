"""Runs the product with a clock of its own: `python -m tests.system.stepped OFFSET_FILE WORDS…`.

`time.time` and `time.time_ns` of this process are shifted by the seconds the file says; the machine's clock, file times
and the processes it starts are not.
"""

from __future__ import annotations

import sys
import time

_file = sys.argv[1]
_time, _time_ns = time.time, time.time_ns
_looked = (-1.0, 0.0)


def _offset() -> float:
    global _looked
    now = time.monotonic()
    if now - _looked[0] > 0.02:
        with open(_file) as f:
            text = f.read().strip()
        _looked = (now, float(text) if text else _looked[1])
    return _looked[1]


def shifted() -> float:
    return _time() + _offset()


def shifted_ns() -> int:
    return _time_ns() + int(_offset() * 1e9)


if __name__ == "__main__":
    time.time = shifted
    time.time_ns = shifted_ns
    from georep_tui.cli import main

    sys.argv = ["georep-tui", *sys.argv[2:]]
    sys.exit(main())

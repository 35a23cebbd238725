"""Trees: georep-tui against rsync and tar through ssh, alternately, on tmpfs, over ssh to this machine.

    python benchmarks/tree.py [--runs 5] [--scale 1.0] [--seconds 30] [--items first,large,many,lag,idle] [--json FILE]

Prints a table of medians (with the least and the most) and ratios. `--scale 0.1` does a tenth of everything, for small machines: the full size takes
about 6 GiB of memory for trees on tmpfs. Needs rsync, tar, ssh and sshd; an sshd of its own is started and stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ground import Ground
from benchmarks.items import ITEMS, Row, Sizes


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each peer, of which the median counts")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full counts and sizes")
    parser.add_argument("--seconds", type=float, default=30.0, help="of live load, and of idling")
    parser.add_argument("--items", default=",".join(ITEMS), help=f"any of {', '.join(ITEMS)}")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args(arguments)
    wanted = options.items.split(",")
    if unknown := set(wanted) - ITEMS.keys():
        parser.error(f"unknown items: {', '.join(sorted(unknown))}; there are {', '.join(ITEMS)}")
    sizes = Sizes(options.runs, options.scale, options.seconds)
    print(_machine(), flush=True)
    print("| what | figures | ratio | wanted | |\n|---|---|---|---|---|", flush=True)
    rows = []
    with Ground() as ground:
        for item in wanted:
            for row in ITEMS[item](ground, sizes):
                rows.append(row)
                print(_line(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": _machine(), "rows": [asdict(r) for r in rows]}, indent=1))
    return 0 if all(r.met for r in rows) else 1


def _line(row: Row) -> str:
    figures = ", ".join(f"{name} {value:.3g}{_spread(row, name)}" for name, value in row.figures.items())
    ratio = "" if row.ratio is None else f"{row.ratio:.2f} ×"
    return f"| {row.item} | {figures} {row.unit} | {ratio} | {row.wanted} | {'yes' if row.met else 'NO'} |"


def _spread(row: Row, name: str) -> str:
    least, most = row.spread.get(name, (0.0, 0.0))
    return f" ({least:.3g}–{most:.3g})" if most else ""


def _machine() -> str:
    version = subprocess.run(["rsync", "--version"], capture_output=True, text=True).stdout.split("\n")[0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores, {memory} GiB, {system}, {version}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

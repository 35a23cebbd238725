"""From afar: seconds to the first picture and bytes at rest, over a real sshd behind a line of a given round trip.

    python -m benchmarks.remote [--round-trip MS] [--bricks N] [--rest SECONDS]

Starts an engine with N bricks, a private sshd, and a line in front of it; then what a console does is done: connect,
log in, have the first picture of all bricks. Traffic is counted on the line, both ways, headers of TCP apart.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from georep_tui.remote import NodeSource
from tests.system.line import Line
from tests.system.places import remove_tree, scratch_directory
from tests.system.runner import Product, wait_until
from tests.system.sshd import HOST, Sshd


def remote_command(product: Product) -> str:
    """What ssh runs there."""
    kept = {k: v for k, v in product.environment().items() if k.startswith(("XDG_", "PYTHON"))}
    return f"env {' '.join(f'{k}={v}' for k, v in kept.items())} {sys.executable} -m georep_tui dial-stdio"


def measure(base: Path, bricks: int, round_trip: float, rest: float) -> dict[str, float]:
    """The figures."""
    primaries = []
    for number in range(bricks):
        (base / f"brick{number}").mkdir()
        (base / f"brick{number}" / "file").write_bytes(b"x")
        primaries.append(f"{base}/brick{number}=b{number}")
    (base / "replica").mkdir()
    sshd = Sshd(base)
    sshd.start()
    product = Product(base / "product", primaries, str(base / "replica"), {}, name="web")
    product.start()
    try:
        wait_until(
            lambda: len(found := product.session().get("bricks") or []) == bricks and {b["status"] for b in found} == {"Active"},
            120, "all bricks Active", pause=1.0,
        )  # fmt: skip
        with Line(sshd.port, delay=round_trip / 2) as line:
            config = str(sshd.client(port=line.port))
            began = time.monotonic()
            source = NodeSource(HOST, remote_command(product), config=config)
            try:
                document = source.snapshot()
                first = time.monotonic() - began
                assert len(document["sessions"][0]["bricks"]) == bricks
                opening = line.sent + line.received
                time.sleep(5)  # until what the first picture leads to is over
                before, began = line.sent + line.received, time.monotonic()
                while time.monotonic() - began < rest:
                    source.snapshot()
                    source.events()
                    time.sleep(0.5)
                at_rest = (line.sent + line.received - before) / (time.monotonic() - began)
                began = time.monotonic()
                source.command("ping", {"session": "web"})
                command = time.monotonic() - began
            finally:
                source.close()
        began = time.monotonic()
        subprocess.run(["ssh", "-F", str(sshd.client()), HOST, "true"], check=True, capture_output=True)
        return {"first": first, "opening": opening, "rest": at_rest, "command": command, "ssh": time.monotonic() - began}
    finally:
        product.kill()
        sshd.stop()


def main() -> None:
    """Print one line of the table in docs/benchmarks.md for each round trip."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--round-trip", type=float, nargs="*", default=[0.0, 50.0, 200.0], metavar="MS")
    parser.add_argument("--bricks", type=int, default=20)
    parser.add_argument("--rest", type=float, default=30.0, metavar="SECONDS")
    given = parser.parse_args()
    print("| round trip | first picture | a command | bytes to the first picture | at rest |")
    print("|---|---|---|---|---|")
    for milliseconds in given.round_trip:
        base = scratch_directory("georep-remote-")
        try:
            found = measure(base, given.bricks, milliseconds / 1000, given.rest)
        finally:
            remove_tree(base)
        print(f"| {milliseconds:g} ms | {found['first']:.2f} s | {found['command'] * 1000:.0f} ms "
              f"| {found['opening'] / 1000:.1f} kB | {found['rest']:.0f} B/s |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

"""Random histories on volumes, one a seed: whenever the session says OK, both sides are equal.

    python -m tests.gluster.campaign_names --layout 'replica 2' --seeds 0:30 --results FILE
    python -m tests.gluster.campaign_names --layout 'disperse 3 redundancy 1' --seeds 100:110 --pauses --results FILE

Appends one line of JSON a seed to FILE, and passes over seeds that it has already; exit 1 when one of them failed. Needs
root. With `--pauses` the worker of a random brick is paused for 1 to 10 s, again and again.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.gluster.base import GlusterError, missing
from tests.gluster.lab import Lab
from tests.gluster.session import Replication
from tests.gluster.test_case_b import churn
from tests.system.places import remove_tree, scratch_directory
from tests.system.runner import PROJECT
from tests.system.sshd import Sshd

OPERATIONS = 900
PAUSED_RATE = 40.0
"""Operations a second where workers are paused: a history lasts for some pauses."""


@dataclass(frozen=True)
class History:
    """One random history: on what, which, how much of it, and whether workers are paused meanwhile."""

    layout: str
    seed: int
    pauses: bool = False
    operations: int = OPERATIONS

    @property
    def subvolume(self) -> int:
        """Bricks a subvolume has."""
        return int(self.layout.split()[1]) if self.layout else 1

    @property
    def bricks(self) -> int:
        """Of the volume: two subvolumes."""
        return 2 * self.subvolume


class Pauses(threading.Thread):
    """Pauses the worker of a random Active brick for 1 to 10 s, again and again; `end` resumes it and joins."""

    def __init__(self, r: Replication, seed: int) -> None:
        super().__init__(name="pauses")
        self._r = r
        self._random = random.Random(seed)
        self._stopping = threading.Event()
        self.done: list[str] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        """Until it is stopped, or an order fails."""
        try:
            while not self._stopping.wait(self._random.uniform(0.1, 2)):
                brick, seconds = self._random.choice(self._r.active()), self._random.uniform(1, 10)
                self._order("pause", brick)
                self._stopping.wait(seconds)
                self._order("resume", brick)
                self.done.append(f"{brick.rpartition('-')[2]}: {seconds:.1f} s")
        except (AssertionError, IndexError, subprocess.TimeoutExpired) as e:
            self.error = e

    def _order(self, word: str, brick: str) -> None:
        product = self._r.product
        done = product.command(word, product.name, "--brick", brick)
        assert done.returncode == 0, done

    def end(self) -> None:
        """Stop and join; what was refused is raised."""
        self._stopping.set()
        self.join()
        if self.error is not None:
            raise AssertionError(f"no pauses any more: {self.error!r}; {self._r.story()}")


def history(lab: Lab, scratch: Path, sshd: Sshd, h: History) -> dict[str, object]:
    """Do one history on new volumes; what is worth knowing of it. AssertionError where OK was said of what differs, or
    never."""
    with Replication.make(lab, scratch, sshd, h.bricks, h.layout, delete_guard_minimum=1_000_000) as r:
        r.product.start()
        r.settled(2, h.bricks - 2)
        pauses = Pauses(r, h.seed)
        if h.pauses:
            pauses.start()
        try:
            done = churn(r.p, h.operations, h.seed, PAUSED_RATE if h.pauses else 0)
        finally:
            if h.pauses:
                pauses.end()
        ended = time.time()
        r.honest(ended, within=180)
        took = time.time() - ended
        assert r.product.stop() == 0, r.product.tail()
    return {"done": done, "pauses_done": pauses.done, "ok_after": round(took, 1)}


def known(results: Path) -> set[History]:
    """The histories that the file has."""
    lines = results.read_text().splitlines() if results.exists() else []
    return {History(**{k: found[k] for k in History.__dataclass_fields__}) for found in map(json.loads, lines)}


def campaign(histories: list[History], results: Path) -> int:
    """Do those that the file has not; the number that failed."""
    failed = 0
    base = scratch_directory("georep-lab-")
    sshd = Sshd(base)
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=PROJECT, capture_output=True, text=True).stdout.strip()
    try:
        sshd.start()
        with Lab(base) as lab:
            had = known(results)
            for h in histories:
                if h in had:
                    continue
                began = time.monotonic()
                scratch = scratch_directory()
                try:
                    outcome = {"equal": True, **history(lab, scratch, sshd, h)}
                except AssertionError as e:
                    outcome = {"equal": False, "error": str(e)[:8000]}
                    failed += 1
                except GlusterError as e:  # it says nothing of the product: to be done again
                    print(f"seed {h.seed}: {e}", flush=True)
                    continue
                finally:
                    remove_tree(scratch)
                line = {**asdict(h), **outcome, "revision": revision, "seconds": round(time.monotonic() - began, 1)}
                with results.open("a") as f:
                    f.write(json.dumps(line) + "\n")
                print(f"seed {h.seed}: {'equal' if outcome['equal'] else outcome['error']}"[:1500], flush=True)
    finally:
        sshd.stop()
        remove_tree(base)
    return failed


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", default="replica 2", help="as gluster takes it; the volumes have two subvolumes")
    parser.add_argument("--seeds", default="0:30", help="FROM:TO, without TO")
    parser.add_argument("--pauses", action="store_true")
    parser.add_argument("--operations", type=int, default=OPERATIONS)
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args(arguments)
    if reason := missing():
        parser.error(reason)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated campaign cleans up too
    first, _, end = options.seeds.partition(":")
    seeds = range(int(first), int(end or int(first) + 1))
    return 1 if campaign([History(options.layout, s, options.pauses, options.operations) for s in seeds], options.results) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A session on real volumes: a primary, a secondary, the product between them, and what it must come to."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.gluster.lab import Lab, Volume
from tests.system.oracle import differences
from tests.system.runner import Product, wait_until
from tests.system.sshd import HOST, Sshd

PATIENCE = 90.0
"""Seconds within which both volumes must be equal: rollovers take 2 s, and CI's machines are small."""


def says_ok(status: dict[str, Any], since: float) -> bool:
    """Does a session's status say that all changes before `since` (unix time) are on the secondary?

    OK, no lag, nothing that failed, nothing under way; and every brick's mark has passed that moment: of the slice that
    is still open the session knows nothing yet.
    """
    bricks = [b for b in status.get("bricks") or [] if b["status"] != "Passive"]
    return (
        status.get("verdict") == "ok" and status.get("lag_seconds") == 0 and bool(bricks)
        and all((b["last_synced"] or 0) >= since and not b["failures"] for b in bricks)
        and not any(b[part] for b in bricks for part in ("entry", "data", "meta"))
    )  # fmt: skip


@dataclass
class Replication:
    """Two volumes, mounted, and the session between them; the volumes go with it."""

    lab: Lab
    primary: Volume
    secondary: Volume
    product: Product
    p: Path
    s: Path
    extra: list[Volume] = field(default_factory=list)

    @classmethod
    def make(
        cls, lab: Lab, base: Path, sshd: Sshd, bricks: int = 2, layout: str = "", *, rollover: int = 2,
        secondary: tuple[int, str] | None = None, mounted: bool = True, **options: object,
    ) -> Self:  # fmt: skip
        """New volumes of that topology, not yet replicated; `secondary`: another topology there."""
        primary, other = lab.pair(bricks, layout, rollover)
        if secondary is not None:
            lab.remove(other)
            other = lab.volume(*secondary, role="s")
        given: dict[str, object] = {"ssh_options": f"-F {sshd.client()}", "delete_guard_share": "100%", **options}
        product = Product(base / primary.name, [f"{primary.host}::{primary.name}"], f"{HOST}::{other.name}", given)
        return cls(lab, primary, other, product, *((lab.mount(primary), lab.mount(other)) if mounted else (base, base)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        self.product.kill()
        if failed is not None and (keep := os.environ.get("GEOREP_TEST_KEEP")):
            # bricks with their journals and gfids, and the engine's log, for whoever looks for the cause
            places = [*self.primary.bricks, *self.secondary.bricks, self.product.base]
            subprocess.run(["cp", "-a", *map(str, places), keep], check=True)
        self.lab.remove(self.primary)
        self.lab.remove(self.secondary)

    # ---- waiting

    def bricks(self) -> list[dict[str, Any]]:
        """The bricks of the session's status, in the volume's order."""
        found = self.product.session().get("bricks") or []
        order = [str(b) for b in self.primary.bricks]
        return sorted(found, key=lambda b: order.index(b["brick"]) if b["brick"] in order else 99)

    def settled(self, active: int, passive: int = 0, crawl: str = "Changelog Crawl", timeout: float = 60) -> None:
        """Wait until so many bricks are Active (with that crawl) and Passive, and none anything else."""

        def reached() -> bool:
            assert self.product.running(), f"the engine ended: {self.product.tail()}"
            bricks = self.bricks()
            roles = Counter(b["status"] for b in bricks)
            crawls = all(b["crawl_status"] == crawl for b in bricks if b["status"] == "Active")
            return roles == Counter({"Active": active, "Passive": passive}) - Counter() and crawls

        try:
            wait_until(reached, timeout, f"{active} Active, {passive} Passive, {crawl}", pause=0.1)
        except AssertionError as e:
            raise AssertionError(f"{e}; {self.story()}") from None

    def equal(self, within: float = PATIENCE, ledger: bool = True) -> None:
        """Wait until both volumes are equal and the ledger is empty."""
        deadline = time.monotonic() + within
        fresh_at = time.monotonic() + within / 6
        while True:
            found = differences(os.fsencode(self.p), os.fsencode(self.s), limit=15)
            if not found or time.monotonic() > fresh_at:  # what a mount had cached does not count, either way
                found = self.lab.equal(self.primary, self.secondary)
                fresh_at = time.monotonic() + within / 6
            if not found and ledger and self.product.running():
                found = [f"in the ledger: {f}" for f in self.product.failures()[:5]]
            if not found:
                return
            if time.monotonic() > deadline:
                found = self.lab.equal(self.primary, self.secondary) or found
                raise AssertionError(f"not equal after {within:g} s:\n" + "\n".join(found) + "\n" + self.story())
            time.sleep(0.2)

    def honest(
        self, since: float, within: float = PATIENCE, until: Callable[[dict[str, Any]], object] | None = None,
    ) -> None:  # fmt: skip
        """Wait until the session says OK of all changes before `since`; both volumes must be equal by then.

        With `until`, return when that holds of the status, OK or not. Never is OK said of what is not equal.
        """
        deadline = time.monotonic() + within
        while True:
            assert self.product.running(), f"the engine ended: {self.product.tail()}"
            status = self.product.session()
            ok = says_ok(status, since)
            if ok and (found := self.unequal()):
                self._late_or_never(found)
            if until(status) if until else ok:
                return
            if time.monotonic() > deadline:
                reasons = [r["text"] for r in status.get("reasons") or []]
                found = "\n".join(self.unequal()) or "both sides are equal"
                raise AssertionError(f"not reached within {within:g} s: {reasons}\n{found}\n{self.story()}")
            time.sleep(0.2)

    def unequal(self) -> list[str]:
        """What differs, through fresh mounts, and what is in the ledger."""
        found = self.lab.equal(self.primary, self.secondary)
        return found + [f"in the ledger: {f}" for f in self.product.failures()[:5]]

    def _late_or_never(self, found: list[str]) -> None:
        """Fail with what differed when OK was said, and whether it came a little later."""
        later = found
        deadline = time.monotonic() + 20
        while later and time.monotonic() < deadline:
            time.sleep(1)
            later = self.unequal()
        told = [f"and {len(later)} of that 20 s later:", *later[:3]] if later else ["and equal a little later"]
        raise AssertionError("OK was said, but:\n" + "\n".join([*found, *told, self.story()]))

    @contextlib.contextmanager
    def slow(self, brick: str) -> Iterator[None]:
        """Pause the worker of this brick for the block, and until the other workers have done what happened in it."""
        product = self.product
        assert (done := product.command("pause", product.name, "--brick", brick)).returncode == 0, done
        wait_until(lambda: "Paused" in [b["status"] for b in self.bricks() if b["brick"] == brick], 30, f"{brick} is Paused")
        yield
        if any(b["status"] == "Active" for b in self.bricks()):
            self.synced_to(time.time())
        assert (done := product.command("resume", product.name, "--brick", brick)).returncode == 0, done

    def active(self) -> list[str]:
        """The bricks that are Active."""
        return [b["brick"] for b in self.bricks() if b["status"] == "Active"]

    def checkpoint(self) -> None:
        """Set a checkpoint, and wait until it completes without a failure before it."""
        done = self.product.command("checkpoint", self.product.name, "now", "--wait", timeout=90)
        assert done.returncode == 0, f"{done}; {self.story()}"

    def seen(self, check: Callable[..., None], *more: str) -> None:
        """Have the secondary looked at; what a mount that was there before still has cached does not count."""

        def holds() -> bool:
            try:
                check(self.s, *more)
            except (AssertionError, OSError):
                return False
            return True

        try:
            wait_until(holds, 2, check.__name__, pause=0.2)
        except AssertionError:
            fresh = self.lab.mount(self.secondary)
            try:
                check(fresh, *more)
            except AssertionError as e:
                held = [f"{b}: {sorted(os.listdir(b))}" for b in self.secondary.bricks]
                raise AssertionError("\n".join([str(e), *held, self.story()])) from None
            finally:
                self.lab.unmount(fresh)

    def synced_to(self, moment: float, timeout: float = 60) -> None:
        """Wait until every Active brick has got that far (unix time)."""

        def reached() -> bool:
            bricks = [b for b in self.bricks() if b["status"] == "Active"]
            return bool(bricks) and all((b["last_synced"] or 0) >= moment for b in bricks)

        try:
            wait_until(reached, timeout, f"synced to {moment}", pause=0.2)
        except AssertionError as e:
            raise AssertionError(f"{e}; {self.story()}") from None

    def story(self) -> str:
        """What the product says of itself, for messages of failed tests."""
        words = [
            f"{b['brick']}: {b['status']}, {b['crawl_status']}, failures {b['failures']}, error {b['last_error']}"
            for b in self.bricks()
        ]
        return "\n".join([*words, self.product.tail(40)])

    # ---- marks

    def stime(self, brick: Path) -> tuple[int, int] | None:
        """A brick's mark for this secondary."""
        try:
            value = os.getxattr(brick, f"trusted.glusterfs.{self.primary.id}.{self.secondary.id}.stime")
        except OSError:
            return None
        found: tuple[int, int] = struct.unpack("!II", value)
        return found

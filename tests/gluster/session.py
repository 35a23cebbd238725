"""A session on real volumes: a primary, a secondary, the product between them, and what it must come to."""

from __future__ import annotations

import os
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.gluster.lab import Lab, Volume
from tests.system.oracle import differences
from tests.system.runner import Product, wait_until
from tests.system.sshd import HOST, Sshd

PATIENCE = 90.0
"""Seconds within which both volumes must be equal: rollovers take 2 s, and CI's machines are small."""


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

"""Pictures of every screen, from a real session on temporary trees: `python screenshots/make.py [DIRECTORY]`.

Each is an SVG, and a PNG beside it where `rsvg-convert` (librsvg2-bin) is there. The work, the failures and the deletes
on them are real; only the clock in the corner is of the day they were made.
"""

from __future__ import annotations

import asyncio
import html
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from textual.pilot import Pilot

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.config import Config
from engine.session import Session
from engine.spec import make_spec
from georep_tui.settings import ConsoleConfig
from georep_tui.sources.base import Embedded
from georep_tui.tui.app import Console

HERE = Path(__file__).resolve().parent
SIZE = (120, 36)
BRICKS = ("documents", "photos", "mail")
WAIT = 60.0


class Stage:
    """Trees, a session between them, and people who work in them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.trees = [place / "srv" / name for name in BRICKS]
        for tree in self.trees:
            tree.mkdir(parents=True)
        self.secondary = place / "backup"
        self.secondary.mkdir()
        spec = make_spec([f"{tree}={tree.name}" for tree in self.trees], str(self.secondary), name="web")
        state = place / "state"
        state.mkdir(mode=0o700)
        config = Config(str(state), environment={}, system_file=str(place / "none"))
        self.session = Session(spec, config, str(state))
        words = [sys.executable, "-m", "georep_tui.workload", *map(str, self.trees)]
        self._work = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._work.stdout is not None and self._work.stdout.readline() == "ready\n"

    def brick(self, name: str) -> dict[str, Any]:
        """What the session says of a brick."""
        bricks = self.session.snapshot()["sessions"][0]["bricks"]
        found: dict[str, Any] = next(one for one in bricks if one["brick"].endswith(name))
        return found

    def rest(self) -> None:
        """The people go home."""
        if self._work.poll() is None:
            self._work.communicate()

    def close(self) -> None:
        """End everything."""
        self.rest()
        self.session.stop()


_TEXT = re.compile(r'<text ([^>]*?)x="([\d.]+)"([^>]*?)textLength="([\d.]+)"([^>]*)>((?:&#160;)*)([^<]*?)((?:&#160;)*)</text>')


def aligned(svg: str) -> str:
    """The same picture with no text that begins or ends with spaces: librsvg drops them and stretches the rest."""

    def put(found: re.Match[str]) -> str:
        before, x, middle, length, after, lead, text, trail = found.groups()
        if not text:
            return ""
        if not cell_len(html.unescape(text)):
            return found[0]
        ahead, behind = len(lead) // 6, len(trail) // 6
        columns = ahead + cell_len(html.unescape(text)) + behind
        wide = float(length) / columns
        at, room = float(x) + wide * ahead, wide * (columns - ahead - behind)
        return f'<text {before}x="{at:g}"{middle}textLength="{room:g}"{after}>{text}</text>'

    return _TEXT.sub(put, svg)


async def until(true: Callable[[], object], what: str) -> None:
    """Wait until it is so."""
    end = time.monotonic() + WAIT
    while not true():
        if time.monotonic() > end:
            raise SystemExit(f"screenshots: not within {WAIT:.0f} s: {what}")
        await asyncio.sleep(0.05)


class Camera:
    """Goes to a screen and takes its picture."""

    def __init__(self, app: Console, pilot: Pilot[Any], into: Path) -> None:
        self.app, self.pilot, self.into = app, pilot, into
        self.taken: list[Path] = []

    async def go(self, *keys: str) -> None:
        """Press keys and wait until what they ask for is there."""
        for key in keys:
            await self.pilot.press(key)
            await self.pilot.pause()
        looks = self.app.feed.looks
        await until(lambda: self.app.feed.looks > looks + 1 and not self.app.orders.busy, "an answer")
        await self.pilot.pause()

    async def home(self) -> None:
        """Back to the session's page."""
        while len(self.app.screen_stack) > 3:
            await self.pilot.press("escape")
            await self.pilot.pause()

    def take(self, name: str) -> None:
        """Keep the screen of now."""
        self.app.clear_notifications()
        path = self.into / f"{name}.svg"
        path.write_text(aligned(self.app.export_screenshot(title="georep-tui")), encoding="utf-8")
        self.taken.append(path)


async def tour(stage: Stage, camera: Camera) -> None:
    """Every screen once, in the order of an administrator's day."""
    await until(lambda: all(stage.brick(name)["status"] == "Active" for name in BRICKS), "the bricks are active")
    await asyncio.sleep(25)  # people work; the series of rates and batches fill
    await camera.go("c", "enter")
    await until(lambda: stage.brick("mail")["checkpoint_completed"], "the checkpoint is complete")
    await camera.go()
    camera.take("dashboard")
    stage.session.command("config_set", {"name": "bandwidth_limit", "value": str(4 << 20)}, "anna")
    outside = stage.place / "outside"
    for number, name in enumerate(("wedding.mov", "garden.mov", "harbour.raw")):
        outside.write_bytes(os.urandom((24 + 9 * number) << 20))
        os.rename(outside, stage.trees[1] / name)
    await until(lambda: (stage.brick("photos")["batch"] or {}).get("in_flight"), "a large file is on its way")
    await asyncio.sleep(8)
    await camera.go("escape")
    camera.take("overview")
    await camera.go("enter", "home")
    while not (camera.app.context().brick and camera.app.context().brick.brick.endswith("photos")):  # type: ignore[union-attr]
        await camera.go("down")
    await camera.go("enter")
    camera.take("brick")
    await camera.home()
    for name, keys in {"log": ("l",), "operations": ("o",), "checkpoints": ("k",), "options": ("O",),
                       "help": ("question_mark",), "palette": ("colon",), "xsync": ("x",), "leave": ("q",)}.items():  # fmt: skip
        await camera.go(*keys)
        camera.take(name)
        await camera.pilot.press("escape")
        await camera.home()
    stage.session.command("config_reset", {"name": "bandwidth_limit"}, "anna")
    stage.rest()
    await until(lambda: stage.brick("photos")["lag_seconds"] == 0, "everything is synced")


async def trouble(stage: Stage, camera: Camera) -> None:
    """Deletes that are held, and failures."""
    for path in list(stage.trees[2].iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    await until(lambda: stage.brick("mail")["held"], "the deletes are held")
    await camera.home()
    await camera.go("p")
    await camera.go("h")
    camera.take("held")
    await camera.go("a")
    camera.take("approve")
    await camera.go("escape")
    hold = stage.brick("mail")["held"]
    stage.session.command("reject", {"id": hold["id"]}, "anna")
    await until(lambda: stage.brick("mail")["failures"], "the rejected deletes are in the ledger")
    await camera.home()
    await camera.go("f", "enter", "down", "down")
    camera.take("failures")


async def make(into: Path) -> list[Path]:
    """All pictures; returns the SVGs."""
    with tempfile.TemporaryDirectory(prefix="georep-") as directory:
        stage = Stage(Path(directory))
        try:
            stage.session.start()
            app = Console(Embedded(stage.session, "anna"), embedded=True, config=ConsoleConfig(refresh=0.5))
            async with app.run_test(size=SIZE, notifications=False) as pilot:
                camera = Camera(app, pilot, into)
                await tour(stage, camera)
                await trouble(stage, camera)
                return camera.taken
        finally:
            stage.close()


def main() -> None:
    """Take the pictures and render them."""
    into = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    into.mkdir(parents=True, exist_ok=True)
    taken = asyncio.run(make(into))
    convert = shutil.which("rsvg-convert")
    for path in taken:
        if convert:
            subprocess.run([convert, "-z", "1.0", "-o", str(path.with_suffix(".png")), str(path)], check=True)
    print(f"{len(taken)} pictures in {into}{'' if convert else ' (no PNGs: rsvg-convert is missing)'}")


if __name__ == "__main__":
    main()

"""Running the console in a test: a frozen clock, no terminal, and screens as text with their colours."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from textual.pilot import Pilot

from georep_tui.tui.app import Console
from georep_tui.settings import ConsoleConfig
from tests.tui.scenes import NOW, ZONE, Stage

IMAGES = os.path.join(os.path.dirname(__file__), "images")
WRITE = os.environ.get("GEOREP_IMAGES") == "write"
"""Set it to `write` to take the screens of now as right; look at the difference before you commit it."""

DEADLINE = 10.0
LETTERS = {"success": "g", "warning": "y", "error": "r", "accent": "c", "primary": "p", "secondary": "b"}


@asynccontextmanager
async def console(
    stage: Stage, size: tuple[int, int] = (80, 24), *, toasts: bool = False, **how: Any
) -> AsyncIterator[tuple[Console, Pilot[Any]]]:
    """A console on a stage, its first picture drawn."""
    config = how.pop("config", ConsoleConfig(refresh=0.2))
    how = {"clock": lambda: NOW, "zone": ZONE, "config": config, **how}
    app = Console(stage, **how)
    async with app.run_test(size=size, notifications=toasts) as pilot:
        await until(lambda: app.picture.snapshot is not None or app.picture.error is not None)
        await settled(app, pilot)
        yield app, pilot


async def until(true: Callable[[], object], deadline: float = DEADLINE, what: str = "it") -> None:
    """Wait until something is so. Fails after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not true():
        assert time.monotonic() < end, f"{what} did not come to be in time"
        await asyncio.sleep(0.01)


async def settled(app: Console, pilot: Pilot[Any]) -> None:
    """Wait until nothing is under way: no frame, no command, no question, nothing to draw."""
    for _ in range(2):
        await until(lambda: not app.pending and not app.orders.busy and not app.feed.news)
        await pilot.pause()
    await pilot.pause()


async def fed(app: Console, pilot: Pilot[Any]) -> None:
    """Wait until the console has looked at its source anew and drawn what it saw."""
    looks = app.feed.looks
    app.feed.hurry()
    await until(lambda: app.feed.looks >= looks + 2)
    await settled(app, pilot)


async def press(app: Console, pilot: Pilot[Any], *keys: str) -> None:
    """Press keys, one after the other, each until its effect is there."""
    for key in keys:
        await pilot.press(key)
        await settled(app, pilot)


def run(play: Callable[[], Awaitable[None]]) -> None:
    """Run an asynchronous test."""
    asyncio.run(asyncio.wait_for(play(), 60))  # type: ignore[arg-type]


def text_of(app: Console) -> str:
    """What the terminal would show, without colours."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)


def image_of(app: Console) -> str:
    """What the terminal would show, and beneath it the colour of each character as a letter."""
    theme = app.current_theme
    known = {getattr(theme, name).lower(): letter for name, letter in LETTERS.items()}
    ground = (theme.foreground or "").lower()
    colours = []
    for strip in app.screen._compositor.render_strips():
        line = ""
        for segment in strip:
            style = segment.style
            colour = style.color.get_truecolor().hex.lower() if style and style.color else ground
            letter = known.get(colour, " " if colour == ground else ".")
            line += "".join(letter if char != " " else " " for char in segment.text)
        colours.append(line.rstrip())
    width = app.size.width
    return f"{text_of(app)}\n{'=' * width}\n" + "\n".join(colours) + "\n"


def compare(name: str, image: str) -> None:
    """Compare an image with the one kept under `name`; it is written where there is none and WRITE is set."""
    path = os.path.join(IMAGES, f"{name}.txt")
    if WRITE:
        os.makedirs(IMAGES, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(image)
        return
    with open(path, encoding="utf-8") as file:
        kept = file.read()
    if image != kept:
        new = path.removesuffix(".txt") + ".new"
        with open(new, "w", encoding="utf-8") as file:
            file.write(image)
        pairs = enumerate(zip(kept.split("\n"), image.split("\n"), strict=False), start=1)
        lines = [f"  {at}: {a!r}\n   → {b!r}" for at, (a, b) in pairs if a != b]
        raise AssertionError(f"{name} is drawn differently (see {new}):\n" + "\n".join(lines[:12]))

"""Case b, one thing at a time: every scene in a live session; what differs afterwards names the scene."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.ordinary import PROJECT
from tests.system.runner import SCAN, WITHIN, converged, wait_until
from tests.system.scenes import SCENES, Scene, ground
from tests.system.settings import LOCAL, Maker, Setting, Way, write


def _scenes(setting: Setting, what: str) -> None:
    """As the user of the setting, in a process of its own."""
    user = setting.user
    words = [
        *(user.prefix if user else []), user.python if user else sys.executable, "-m", "tests.system.scenes",
        what, str(setting.primary), str(setting.base / "outside"),
    ]  # fmt: skip
    project = user.project if user else PROJECT
    env = {**os.environ, "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(words, cwd=project, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("recorder", "who"), [("auto", "me"), ("inotify", "me"), ("scan", "me"), ("auto", "ordinary")]
)
def test_all_scenes_side_by_side(make: Maker, recorder: str, who: str) -> None:
    setting = make(Way("stream", "local", who), recorder=recorder)
    _scenes(setting, "ground")
    with setting.product as product:
        product.start()
        product.active()
        converged(product, setting.primary, setting.secondary, since=time.monotonic())
        _scenes(setting, "play")
        within = SCAN if recorder == "scan" else WITHIN
        converged(product, setting.primary, setting.secondary, since=time.monotonic(), within=within, patience=90)


@pytest.mark.long
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: str(scene.__name__))
def test_scene_by_itself(make: Maker, scene: Scene) -> None:
    """The scene twice, on ground that was laid a slice before."""
    setting = make(LOCAL)
    with setting.product as product:
        product.start()
        product.active()
        for turn in range(2):
            tree, outside = setting.primary / f"t{turn}", setting.base / f"outside{turn}"
            ground(tree, outside)
            there: Path = setting.secondary / f"t{turn}/d2/sub/deep/f"
            wait_until(there.exists, 15, "the ground on the secondary")
            scene(tree, outside)
        converged(product, setting.primary, setting.secondary, since=time.monotonic())


def test_acls_and_default_acls(make: Maker, tool: Callable[[str], str]) -> None:
    """As people set them; what is made below a default ACL inherits it on the primary, and is equal there."""
    setfacl = tool("setfacl")
    setting = make(LOCAL)
    tree = setting.primary
    ground(tree / "t", setting.base / "outside")
    with setting.product as product:
        product.start()
        product.active()
        subprocess.run([setfacl, "-m", "u:1234:rwx,g:1:r", str(tree / "t/a")], check=True)
        subprocess.run([setfacl, "-d", "-m", "u:1234:rw,o::-", str(tree / "t/d1")], check=True)
        write(tree / "t/d1/below/f", "inherits")
        converged(product, tree, setting.secondary, since=time.monotonic())
        subprocess.run([setfacl, "-b", str(tree / "t/a")], check=True)
        subprocess.run([setfacl, "-k", str(tree / "t/d1")], check=True)
        converged(product, tree, setting.secondary, since=time.monotonic())

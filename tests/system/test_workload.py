"""The workload does every operation, is the same for the same seed, stays bounded, and its result can be copied."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.system.operations import OPERATIONS
from tests.system.oracle import differences
from tests.system.runner import PROJECT
from tests.system.workload import Workload


def _start(tree: Path, seed: int, operations: int) -> subprocess.Popen[str]:
    (tree.parent / "outside").mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "tests.system.workload", str(tree), "--outside", str(tree.parent / "outside"),
        "--seed", str(seed), "--operations", str(operations), "--objects", "800",
    ]  # fmt: skip
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)


def test_three_processes_on_one_tree_do_all_operations(scratch: Path) -> None:
    tree, copy = scratch / "tree", scratch / "copy"
    tree.mkdir()
    running = [_start(tree, seed, 3000) for seed in (1, 2, 3)]
    told = [json.loads(p.communicate()[0]) for p in running]
    assert [p.returncode for p in running] == [0, 0, 0]
    assert sum(t["done"] for t in told) > 0.75 * 9000, told
    done = {kind for t in told for kind, count in t["kinds"].items() if count}
    assert set(OPERATIONS) - done == {"create_huge"}
    assert sum(len(d) + len(f) for _, d, f in os.walk(tree)) < 4000
    subprocess.run(["rsync", "-aHAX", "--modify-window=-1", "--sparse", f"{tree}/", f"{copy}/"], check=True)
    assert differences(os.fsencode(tree), os.fsencode(copy)) == []


def test_the_same_seed_alone_makes_the_same_tree(scratch: Path) -> None:
    trees = [scratch / "a" / "tree", scratch / "b" / "tree"]
    for tree in trees:
        tree.mkdir(parents=True)
        (tree.parent / "outside").mkdir()
        w = Workload(os.fsencode(tree), os.fsencode(tree.parent / "outside"), seed=7, objects=500)
        w.tree = b"."
        here = os.getcwd()
        os.chdir(tree)
        try:
            w.run(1500, rate=0)
        finally:
            os.chdir(here)
    different = differences(os.fsencode(trees[0]), os.fsencode(trees[1]))
    assert [d for d in different if "mtime" not in d and "link count" not in d] == []

"""Three engines as three nodes of one replication, over a real ssh: one session on the screen, commands to all."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from georep_tui.remote import NodeSource
from georep_tui.sources.base import SourceError
from georep_tui.sources.several import Several
from tests.system.runner import PROJECT, Product, wait_until
from tests.system.settings import write
from tests.system.sshd import Sshd
from tests.system.test_remote import remote_command

NODES = ("m1", "m2", "m3")


class Cluster:
    """Three engines with a brick each, all to one secondary; each is reached as a host of its own name."""

    def __init__(self, base: Path, sshd: Sshd) -> None:
        self.base = base
        self.secondary = base / "replica"
        self.secondary.mkdir()
        self.products: dict[str, Product] = {}
        blocks = [sshd.client().read_text()]
        for node in NODES:
            (base / f"brick-{node}").mkdir()
            write(base / f"brick-{node}" / "file", node)
            self.products[node] = Product(
                base / node, [f"{base}/brick-{node}={node}"], str(self.secondary), {"sync_method": "stream"}, name="web"
            )
            blocks.append(blocks[0].replace("Host secondary", f"Host {node}"))
        self.config = base / "ssh_config"
        self.config.write_text("\n".join(blocks))

    def source(self) -> Several:
        return Several(
            [NodeSource(n, remote_command(p), config=str(self.config)) for n, p in self.products.items()]
        )

    def close(self) -> None:
        for product in self.products.values():
            product.kill()


@pytest.fixture
def cluster(scratch: Path, sshd: Sshd) -> Iterator[Cluster]:
    made = Cluster(scratch, sshd)
    try:
        for product in made.products.values():
            product.start()
        yield made
    finally:
        made.close()


def the_one(source: Several) -> dict[str, Any]:
    sessions = source.snapshot()["sessions"]
    assert len(sessions) == 1, [s["name"] for s in sessions]
    return dict(sessions[0])


def test_three_nodes_are_one_session(cluster: Cluster) -> None:
    """Bricks together, commands to all, one killed and back."""
    source = cluster.source()
    try:
        wait_until(lambda: len(source.snapshot()["sessions"]) == 1, 40, "the session")
        wait_until(lambda: len(the_one(source)["bricks"]) == 3 and the_one(source)["state"] == "Active", 40, "all three")
        session = the_one(source)
        ident = session["id"]
        assert {b["node"] for b in session["bricks"]} == set(NODES), "machines that call themselves the same are told apart"
        assert session["failures"] == 0 and session["lag_seconds"] is not None
        wait_until(lambda: (cluster.secondary / "m3" / "file").exists(), 20, "the replica")

        result = source.command("checkpoint", {"session": "web", "time": "now"})
        assert [n["done"] for n in result["nodes"]] == [True, True, True]
        wait_until(lambda: the_one(source)["checkpoint"]["completed"], 30, "the checkpoint of all")

        paused = source.command("pause", {"session": ident})
        assert sorted(paused["bricks"]) == sorted(f"{n}:{cluster.base}/brick-{n}" for n in NODES)
        wait_until(lambda: the_one(source)["state"] == "Paused", 10, "Paused")
        source.command("resume", {"session": "web", "brick": f"m2:{cluster.base}/brick-m2"})
        wait_until(lambda: {b["node"] for b in the_one(source)["bricks"] if b["status"] == "Active"} == {"m2"}, 10, "m2")
        source.command("resume", {"session": "web"})
        wait_until(lambda: the_one(source)["state"] == "Active", 10, "Active")
        with pytest.raises(SourceError, match="no node has a brick"):
            source.command("pause", {"session": "web", "brick": "/nowhere"})

        lines = source.command("logs", {"session": "web", "limit": 30})["lines"]
        assert {x["node"] for x in lines} == set(NODES) and [x["n"] for x in lines] == sorted(x["n"] for x in lines)
        again = source.command("logs", {"session": "web", "since": lines[-1]["n"], "limit": 1000})["lines"]
        assert not {(x["node"], x["text"], x["time"]) for x in again} & {(x["node"], x["text"], x["time"]) for x in lines}
        job = source.command("verify", {"session": "web"})["job"]
        state = wait_until(
            lambda: not (s := source.command("verify_status", {"session": "web", "job": job}))["running"] and s, 30, "verify"
        )
        assert (state["checked"], state["different"], state["error"]) == (3, 0, None)

        source.events()
        cluster.products["m2"].kill()
        wait_until(lambda: the_one(source)["verdict"] == "unknown", 20, "one is lost")
        session, sources = the_one(source), {s["node"]: s for s in source.snapshot()["sources"]}
        assert (session["id"], len(session["bricks"]), session["lag_seconds"]) == (ident, 3, None)
        assert [sources[n]["connected"] for n in NODES] == [True, False, True]
        by_node = {b["node"]: b for b in session["bricks"]}
        assert by_node["m1"]["verdict"] == "ok" and by_node["m2"]["lag_seconds"] is None
        result = source.command("pause", {"session": "web"})
        assert [(n["node"], n["done"]) for n in result["nodes"]] == [("m1", True), ("m2", False), ("m3", True)]
        source.command("resume", {"session": "web"})
        cluster.products["m2"].process = None
        cluster.products["m2"].start()
        wait_until(lambda: the_one(source)["verdict"] == "ok" and the_one(source)["state"] == "Active", 40, "back")
        assert the_one(source)["id"] == ident
    finally:
        source.close()


def test_commands_name_each_node(cluster: Cluster, tmp_path: Path) -> None:
    """`--ssh` three times: one picture; a node that fails is told, exit code 1; `stop` ends all."""
    # one command for all nodes: which engine it is follows from the name the node is reached by
    wait_until(lambda: all(p.brick().get("status") == "Active" for p in cluster.products.values()), 40, "Active")
    far = Product(cluster.base / "far", [], "", name="web")

    def ask(*words: str, nodes: tuple[str, ...] = NODES) -> subprocess.CompletedProcess[str]:
        ssh = [x for n in nodes for x in ("--ssh", n)]
        return subprocess.run(
            far.words(*words, *ssh, "--ssh-config", str(cluster.config), "--ssh-command", remote_command(cluster.products["m1"])),
            env=far.environment(), cwd=PROJECT, stdin=subprocess.DEVNULL, text=True, capture_output=True, timeout=60,
        )  # fmt: skip

    done = ask("status", "web", "--json", nodes=("m1", "nowhere.invalid"))
    document = json.loads(done.stdout)
    assert [(s["connected"], bool(s["error"])) for s in document["sources"]] == [(True, False), (False, True)]
    assert "nowhere.invalid" in ask("status", nodes=("m1", "nowhere.invalid")).stdout
    done = ask("status", "--check", nodes=("m1", "nowhere.invalid"))
    assert done.returncode == 3 and "nowhere.invalid is not connected" in done.stdout
    done = ask("stop", "web", nodes=("m1",))
    assert (done.returncode, done.stdout) == (0, "web: stopped\n"), done.stderr
    assert wait_until(lambda: not cluster.products["m1"].running(), 20, "stopped") and cluster.products["m2"].running()

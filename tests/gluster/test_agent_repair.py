"""Looking at a real volume and setting single objects right: lookup, slot, list, place, remove, clear_slot (CON-1 to 5)."""

from __future__ import annotations

import base64
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.agent.types import Slot, Stat
from tests.agent_side import ROOT, T0, create, directory, gfid, link, mkdir, regular, rename, slot_params, sym, symlink, unlink
from tests.gluster.agent_volume import VolumeAgent, gfid_at, held, view
from tests.gluster.lab import Lab


class Side:
    def __init__(self, agent: VolumeAgent, mount: Path, number: int) -> None:
        self.agent, self.mount = agent, mount
        self._next = 2_000_000 + number * 1000
        self.top = self.gfid()
        self.path = mount / f"r{number}"
        assert agent.entries(mkdir(self.top, ROOT, self.path.name.encode())).failures == []

    def gfid(self) -> bytes:
        self._next += 1
        return gfid(self._next)

    def ok(self, *ops: Any) -> None:
        assert self.agent.entries(*ops).failures == []

    def place(
        self, g: bytes, slots: list[tuple[bytes, bytes]], stat: Stat, text: bytes | None = None,
        drop: list[tuple[bytes, bytes]] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        return self.agent.ask(
            "place", gfid=g.hex(), slots=[slot_params(*s) for s in slots], stat=list(stat), replace=True,
            link=None if text is None else base64.b64encode(text).decode(), drop=[slot_params(*s) for s in drop or ()],
        )  # fmt: skip

    def names(self, below: str = "") -> list[str]:
        return sorted(os.listdir(self.path / below))


@pytest.fixture(scope="module")
def served(lab: Lab) -> Iterator[tuple[VolumeAgent, Path]]:
    volume = lab.volume(2)
    mount = view(lab, volume)
    with held(volume) as agent:
        yield agent, mount
    lab.remove(volume)


_number = iter(range(1, 1000))


@pytest.fixture
def side(served: tuple[VolumeAgent, Path]) -> Side:
    return Side(*served, next(_number))


def test_lookup_tells_all_names(side: Side) -> None:
    """Every name of a file, whatever bytes it has, also those that join paths; one of a directory."""
    d, f = side.gfid(), side.gfid()
    names = [b"plain", b"colon:", b"a:/b".replace(b"/", b""), b"\xff:", b":", b"new\nline %"]
    side.ok(mkdir(d, side.top, b"x:"), create(f, d, names[0], b"x"), *(link(f, d, n, regular(1)) for n in names[1:]),
            link(f, side.top, b"up", regular(1)))  # fmt: skip
    found = side.agent.call("lookup", gfids=[f.hex(), d.hex(), ROOT.hex(), side.gfid().hex()])["objects"]
    slots = {(bytes.fromhex(n["parent"]), base64.b64decode(n["name"])) for n in found[f.hex()]["names"]}
    assert slots == {(d, n) for n in names} | {(side.top, b"up")}
    assert found[f.hex()]["stat"]["nlink"] == len(names) + 1
    assert [base64.b64decode(n["name"]) for n in found[d.hex()]["names"]] == [b"x:"]
    assert found[ROOT.hex()]["names"] == [] and len(found) == 3


def test_list_in_pages(side: Side) -> None:
    """CRW-8, SAFE-3: gfid, stat, link text and xattrs of each entry; page after page."""
    files = {b"f%02d" % i: side.gfid() for i in range(25)}
    side.ok(*(create(g, side.top, n, n) for n, g in files.items()), sym(side.gfid(), side.top, b"s", b"to"),
            mkdir(side.gfid(), side.top, b"d"))  # fmt: skip
    os.setxattr(side.path / "f03", "user.a", b"b")
    entries: list[dict[str, Any]] = []
    after = b""
    while True:
        page = side.agent.call("list", gfid=side.top.hex(), after=base64.b64encode(after).decode(), limit=10,
                               xattrs=True)["entries"]  # fmt: skip
        if not page:
            break
        entries += page
        after = base64.b64decode(page[-1]["name"])
    assert [base64.b64decode(e["name"]) for e in entries] == sorted([*files, b"s", b"d"])
    by = {base64.b64decode(e["name"]): e for e in entries}
    assert all(by[n]["gfid"] == g.hex() and by[n]["size"] == 3 and by[n]["mtime_ns"] == T0 for n, g in files.items())
    assert base64.b64decode(by[b"s"]["link"]) == b"to"
    assert by[b"f03"]["xattrs"] == {base64.b64encode(b"user.a").decode(): base64.b64encode(b"b").decode()}
    answer = side.agent.ask("list", gfid=side.gfid().hex())
    assert answer["error"]["errno"] == errno.ENOENT and answer["error"]["text"].startswith("parent")


def test_whose_names_are(side: Side) -> None:
    """The gfids of what has them, in their order."""
    f = side.gfid()
    side.ok(create(f, side.top, b"f", b"abc"))
    slots = [(side.top, b"g"), (side.top, b"f"), (side.gfid(), b"f"), (f, b"below a file"), (side.top, b"..")]
    answer = side.agent.call("taken", slots=[slot_params(*slot) for slot in slots])
    assert answer["taken"] == ["", f.hex(), "", "", ""]


def test_con_3_and_4_place_moves_an_object_to_where_it_belongs(side: Side) -> None:
    """CON-3: a directory is renamed; CON-4: a file gets these names, and loses those that the primary has looked up."""
    d, e, f = (side.gfid() for _ in range(3))
    side.ok(mkdir(d, side.top, b"d"), mkdir(e, side.top, b"e"), create(f, d, b"f", b"abc"), link(f, d, b"f2", regular(3)))
    assert side.place(d, [(e, b"new")], directory())["result"]["errno"] == 0
    assert side.names() == ["e"] and side.names("e/new") == ["f", "f2"]
    answer = side.place(f, [(d, b"f2"), (side.top, b"third")], regular(3))["result"]
    assert (answer["made"], answer["data"], answer["errno"], answer["nlink"]) == (False, False, 0, 3)
    assert answer["beyond"] == [slot_params(d, b"f")] and side.names("e/new") == ["f", "f2"], "nobody spoke of it"
    assert side.place(f, [(d, b"f2")], regular(3), drop=[(d, b"f"), (e, b"new")])["result"]["beyond"] == [
        slot_params(side.top, b"third")
    ]
    assert side.names() == ["e", "third"] and side.names("e/new") == ["f2"]
    assert os.stat(side.path / "third").st_nlink == 2


def test_place_makes_what_is_missing(side: Side) -> None:
    """A file (its content is asked for), a directory, a symlink; of another kind or text: made anew (CON-1)."""
    f, d, s = (side.gfid() for _ in range(3))
    answer = side.place(f, [(side.top, b"f"), (side.top, b"g")], regular(5))["result"]
    assert (answer["made"], answer["data"]) == (True, True)
    assert os.stat(side.path / "f").st_ino == os.stat(side.path / "g").st_ino
    assert side.place(d, [(side.top, b"d")], directory(0o700))["result"]["made"] is True
    assert side.place(s, [(side.top, b"s")], symlink(), b"one")["result"]["made"] is True
    assert side.place(s, [(side.top, b"s")], symlink(), b"two")["result"]["errno"] == 0
    assert os.readlink(side.path / "s") == "two" and gfid_at(side.path / "s") == s
    assert side.place(d, [(side.top, b"d")], regular(0))["result"]["made"] is True
    assert (side.path / "d").is_file() and gfid_at(side.path / "d") == d


def test_place_does_not_touch_what_is_in_the_way(side: Side) -> None:
    """It tells which gfid that is: the engine settles that one first."""
    f, g = side.gfid(), side.gfid()
    side.ok(create(f, side.top, b"f", b"mine"))
    answer = side.place(g, [(side.top, b"f")], regular(0))
    assert answer["error"]["errno"] == errno.EEXIST and answer["error"]["found"] == f.hex()
    assert (side.path / "f").read_bytes() == b"mine"
    missing = side.place(g, [(side.gfid(), b"x")], regular(0))["error"]
    assert missing["errno"] == errno.ENOENT and missing["text"].startswith("parent")
    assert "refused" in side.place(g, [(side.top, b"..")], regular(0))["error"]["text"]


def test_con_1_remove_and_clear_slot(side: Side) -> None:
    """CON-1: an object that is gone on the primary goes with all its names; a directory with what is gone, too."""
    d, e, f = (side.gfid() for _ in range(3))
    side.ok(mkdir(d, side.top, b"d"), mkdir(e, d, b"e"), create(f, e, b"f", b"x"), link(f, side.top, b"g", regular(1)))
    assert side.agent.call("remove", gfid=f.hex(), slots=[slot_params(side.top, b"g")]) == {
        "names": 1, "beyond": [slot_params(e, b"f")], "left": 1,
    }  # fmt: skip
    assert side.agent.call("remove", gfid=f.hex(), slots=[slot_params(e, b"f")])["names"] == 1
    assert side.names() == ["d"] and side.names("d/e") == []
    side.ok(create(f, e, b"f", b"x"))
    at = [slot_params(side.top, b"d")]
    assert side.agent.call("remove", gfid=d.hex(), slots=at, below=[e.hex(), f.hex()])["names"] == 1
    assert side.names() == [] and side.agent.call("remove", gfid=d.hex(), slots=at)["names"] == 0
    side.ok(mkdir(d, side.top, b"d"), create(f, d, b"x", b"x"))
    error = side.agent.ask("clear_slot", **slot_params(side.top, b"d"), gfid=f.hex())["error"]
    assert (error["errno"], error["found"]) == (errno.EEXIST, d.hex()), "another object has the name by now"
    error = side.agent.ask("clear_slot", **slot_params(side.top, b"d"), gfid=d.hex())["error"]
    assert (error["errno"], error["found"]) == (errno.ENOTEMPTY, d.hex()) and side.names("d") == ["x"]
    side.ok(unlink(f, d, b"x"))
    assert side.agent.call("clear_slot", **slot_params(side.top, b"d"), gfid=d.hex())["cleared"] is True
    assert side.agent.call("clear_slot", **slot_params(side.top, b"d"), gfid=d.hex())["cleared"] is False
    assert side.names() == []
    assert side.agent.ask("remove", gfid=ROOT.hex(), slots=[])["error"]["errno"] == errno.EINVAL


def test_con_3_set_aside(side: Side) -> None:
    """CON-3: objects that have each other's names come apart; none is without a name, and a rename clears what was left."""
    a, b, d = (side.gfid() for _ in range(3))
    side.ok(create(a, side.top, b"a", b"A"), create(b, side.top, b"b", b"B"), mkdir(d, side.top, b"d"))
    mine = [slot_params(side.top, n) for n in (b"a", b"b", b"d")]
    assert side.agent.call("set_aside", gfid=b.hex(), slots=mine)["names"] == 1
    beside = f".georep-aside-{b.hex()}"
    assert side.names() == [beside, "a", "d"] and (side.path / beside).read_bytes() == b"B"
    assert side.agent.call("set_aside", gfid=b.hex(), slots=mine)["names"] == 0
    assert side.place(a, [(side.top, b"b")], regular(1), drop=[(side.top, b"a")])["result"]["made"] is False
    assert side.place(b, [(side.top, b"a")], regular(1))["result"]["beyond"] == []
    assert side.names() == ["a", "b", "d"] and (side.path / "a").read_bytes() == b"B"
    assert side.agent.call("set_aside", gfid=d.hex(), slots=mine)["names"] == 1
    assert side.place(d, [(side.top, b"e")], directory())["result"]["made"] is False
    assert side.agent.call("set_aside", gfid=b.hex(), slots=mine)["names"] == 1
    side.ok(rename(b, (side.top, b"a"), (side.top, b"c"), regular(1)))
    assert side.names() == ["b", "c", "e"]


def test_a_directory_whose_handle_the_bricks_lost(lab: Lab) -> None:
    """GlusterFS loses handles in rare races of renames: by its name the directory is found again, and used (CON-5)."""
    volume = lab.volume(2)
    mount = view(lab, volume)
    d = gfid(4)
    with held(volume) as agent:
        assert agent.entries(mkdir(d, ROOT, b"d")).failures == []
    text = f"{d.hex()[:8]}-{d.hex()[8:12]}-{d.hex()[12:16]}-{d.hex()[16:20]}-{d.hex()[20:]}"
    for brick in volume.bricks:
        (brick / ".glusterfs" / text[:2] / text[2:4] / text).unlink()
    with held(volume) as agent:
        op = create(gfid(5), d, b"f", b"x")
        for failure in agent.entries(op).failures:
            assert failure.errno == errno.ENOENT and failure.text.startswith("parent")
        answer = agent.call("place", gfid=d.hex(), slots=[slot_params(ROOT, b"d")], stat=list(directory()), replace=True)
        assert answer["errno"] == 0
        assert agent.entries(op).failures == []
    assert (mount / "d" / "f").read_bytes() == b"x" and gfid_at(mount / "d") == d
    lab.remove(volume)

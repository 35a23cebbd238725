"""Entry operations on a real volume, over the wire: the rows SEC-1 to SEC-15, one by one."""

from __future__ import annotations

import errno
import os
import stat as _stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.agent.types import Fop
from tests.agent_side import (
    LIMBO, ROOT, T0, create, directory, gfid, link, mkdir, regular, rename, rmdir, slot_params, sym, symlink,
    unlink,
)  # fmt: skip
from tests.gluster.agent_volume import VolumeAgent, gfid_at, held, view
from tests.gluster.lab import Lab


class Side:
    """The agent, what a fresh look at the volume shows, and a directory of the test's own."""

    def __init__(self, agent: VolumeAgent, mount: Path, number: int) -> None:
        self.agent = agent
        self._next = 1_000_000 + number * 1000
        self.top = self.gfid()
        name = f"t{number}"
        self.path = mount / name
        self.ok(mkdir(self.top, ROOT, name.encode()))

    def gfid(self) -> bytes:
        self._next += 1
        return gfid(self._next)

    def ok(self, *ops: object) -> object:
        reply = self.agent.entries(*ops)  # type: ignore[arg-type]
        assert reply.failures == [], reply.failures
        return reply

    def fails(self, op: object, number: int, word: str = "") -> bytes:
        reply = self.agent.entries(op)  # type: ignore[arg-type]
        assert [f.errno for f in reply.failures] == [number], reply.failures
        assert reply.failures[0].text.startswith(word), reply.failures
        return reply.failures[0].found

    def names(self, below: str = "") -> list[str]:
        return sorted(os.listdir(self.path / below))

    def at(self, name: str) -> bytes:
        return gfid_at(self.path / name)


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


def test_create_with_content_and_attributes(side: Side) -> None:
    """CREATE: one call of the engine makes the file whole, with the primary's gfid (CHG-9, SEC-13)."""
    g = side.gfid()
    st = regular(5, 0o4750, uid=4321)._replace(gid=8765)
    reply = side.agent.entries(create(g, side.top, b"f", b"hello")._replace(stat=st, xattrs={b"user.k": b"v"}))
    assert (reply.failures, reply.made) == ([], [])
    assert [(s.size, s.mtime_ns) for s in reply.sizes] == [(5, T0)]
    found = os.stat(side.path / "f")
    assert (side.path / "f").read_bytes() == b"hello"
    assert (oct(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns) == (oct(st.mode), 4321, 8765, T0)
    assert os.getxattr(side.path / "f", "user.k") == b"v"
    assert side.at("f") == g


def test_create_without_content_is_told_as_made(side: Side) -> None:
    """What is made without content needs it in the same batch (CHG-9)."""
    g = side.gfid()
    reply = side.agent.entries(create(g, side.top, b"f", None)._replace(stat=regular(7)))
    assert reply.made == [g] and reply.sizes == []
    again = side.agent.entries(create(g, side.top, b"f", None)._replace(stat=regular(7)))
    assert again.failures == [] and again.made == [g], "cut off before its content came"


@pytest.mark.parametrize("fop", [Fop.UNLINK, Fop.RMDIR])
def test_sec_1_what_is_absent_is_removed(side: Side, fop: Fop) -> None:
    """SEC-1: name or gfid absent, or the whole directory."""
    op = unlink if fop == Fop.UNLINK else rmdir
    side.ok(op(side.gfid(), side.top, b"nothing"), op(side.gfid(), side.gfid(), b"nothing"))


def test_sec_2_another_gfid_is_not_removed(side: Side) -> None:
    """SEC-2: EEXIST, with the gfid that is there."""
    f, d = side.gfid(), side.gfid()
    side.ok(create(f, side.top, b"f", b"x"), mkdir(d, side.top, b"d"))
    assert side.fails(unlink(side.gfid(), side.top, b"f"), errno.EEXIST, "occupied") == f
    assert side.fails(rmdir(side.gfid(), side.top, b"d"), errno.EEXIST, "occupied") == d
    assert side.names() == ["d", "f"]


def test_sec_3_a_directory_goes_with_what_is_gone_too(side: Side) -> None:
    """SEC-3: not empty: told, since other bricks' changes may be behind; then with what the primary says is gone.

    Operations of other directories in the same list are not disturbed.
    """
    d, e, f, g = (side.gfid() for _ in range(4))
    side.ok(mkdir(d, side.top, b"d"), mkdir(e, d, b"e"), create(f, e, b"f", b"x"), create(g, d, b"g", b"x"))
    others = [create(side.gfid(), side.top, b"o%d" % i, b"x") for i in range(20)]
    at = [slot_params(side.top, b"d")]
    reply = side.agent.entries(*others[:10], rmdir(d, side.top, b"d"), *others[10:])
    assert [(o.index, o.errno) for o in reply.failures] == [(10, errno.ENOTEMPTY)]
    error = side.agent.ask("remove", gfid=d.hex(), slots=at, below=[e.hex(), g.hex()])["error"]
    assert (error["errno"], error["found"]) == (errno.ENOTEMPTY, f.hex())
    assert side.names("d") == ["e"] and side.names("d/e") == ["f"], "what is alive stays, and the way to it"
    assert side.agent.call("remove", gfid=d.hex(), slots=at, below=[e.hex(), f.hex()])["names"] == 1
    assert side.names() == sorted(f"o{i}" for i in range(20))
    assert side.agent.call("here", gfids=[f.hex(), e.hex(), d.hex(), side.top.hex()])["here"] == [side.top.hex()]


def test_sec_4_create_again_does_nothing(side: Side) -> None:
    """SEC-4: the gfid exists, at this name or another: success, no second name, content as it came."""
    f = side.gfid()
    side.ok(create(f, side.top, b"f", b"one"), rename(f, (side.top, b"f"), (side.top, b"g"), regular(3)))
    side.ok(create(f, side.top, b"f", b"one"))
    assert side.names() == ["g"]
    side.ok(create(f, side.top, b"g", b"seventeen"), create(f, side.top, b"g", b"two"))
    assert (side.path / "g").read_bytes() == b"two"


def test_sec_4_content_goes_to_the_object_not_to_a_name(side: Side) -> None:
    """SEC-4: somebody has moved the file and put another where it was: content that comes again goes to the file."""
    f, g = side.gfid(), side.gfid()
    side.ok(create(f, side.top, b"f", b"one"), create(g, side.top, b"g", b"other"))
    (side.path / "f").rename(side.path / "h")
    (side.path / "g").rename(side.path / "f")
    side.ok(create(f, side.top, b"f", b"two!", mtime=T0 + 10**9))  # by its mtime a mount knows what it has cached
    got = {name: (side.path / name).read_bytes() for name in side.names()}
    assert got == {"f": b"other", "h": b"two!"}
    assert (side.at("h"), side.at("f")) == (f, g)


def test_a_gfid_is_never_on_two_subvolumes(side: Side) -> None:
    """Making a gfid that exists would succeed on another subvolume; so it is looked for first, for every kind."""
    names = [b"n%d" % i for i in range(16)]
    f, s, d = (side.gfid() for _ in range(3))
    side.ok(create(f, side.top, b"f", b"x"), sym(s, side.top, b"s", b"text"), mkdir(d, side.top, b"d"))
    for name in names:
        side.ok(create(f, side.top, name, b"x"))
    assert side.names() == ["d", "f", "s"]
    for name in names:
        side.ok(sym(s, side.top, b"s" + name, b"text"))
    assert os.lstat(side.path / "s").st_nlink == 17, "names of one symlink"
    for name in names:
        side.fails(mkdir(d, side.top, name), errno.EEXIST, "elsewhere")
    assert side.names() == sorted(["d", "f", "s", *(f"sn{i}" for i in range(16))]), "one directory, where it was"


def test_sec_5_mknod_of_a_known_gfid_is_a_link(side: Side) -> None:
    """SEC-5."""
    f = side.gfid()
    side.ok(create(f, side.top, b"f", b"abc"))
    for i in range(8):
        side.ok(create(f, side.top, b"m%d" % i, b"abc", fop=Fop.MKNOD))
    assert os.stat(side.path / "f").st_nlink == 9
    assert {side.at(n) for n in side.names()} == {f}


def test_sec_6_mkdir_of_a_known_gfid_is_a_rename(side: Side) -> None:
    """SEC-6: from where it is, with all that is in it: by `place`, since an agent that is behind must not take it back."""
    d, e, f = (side.gfid() for _ in range(3))
    side.ok(mkdir(d, side.top, b"d:"), mkdir(e, side.top, b"e: x"), create(f, d, b"f", b"x"))
    side.fails(mkdir(d, e, b"new:name"), errno.EEXIST, "elsewhere")
    side.agent.call("place", gfid=d.hex(), slots=[slot_params(e, b"new:name")], stat=list(directory()), link=None,
                    replace=True)  # fmt: skip
    assert side.names() == ["e: x"] and side.names("e: x") == ["new:name"]
    assert side.at("e: x/new:name") == d and (side.path / "e: x/new:name/f").read_bytes() == b"x"


def test_sec_6_mkdir_that_was_cut_off(side: Side) -> None:
    """SEC-6, 13: an agent may end between making a directory and its owner and times: repeated, it is told as made."""
    d, e = side.gfid(), side.gfid()
    reply = side.agent.entries(mkdir(d, side.top, b"d"), mkdir(e, side.top, b"e"))
    assert reply.made == []
    os.chown(side.path / "d", 1000, 1000)
    again = side.agent.entries(mkdir(d, side.top, b"d"), mkdir(e, side.top, b"e"))
    assert again.failures == [] and again.made == [d]


def test_sec_7_link_without_its_object_makes_it(side: Side) -> None:
    """SEC-7: a file from the stat (and its content is asked for), a symlink from its text."""
    f, s = side.gfid(), side.gfid()
    reply = side.agent.entries(link(f, side.top, b"f", regular(9, 0o640)), link(s, side.top, b"s", symlink(), b"there"))
    assert reply.failures == [] and f in reply.made
    assert oct(os.stat(side.path / "f").st_mode) == oct(_stat.S_IFREG | 0o640)
    assert os.readlink(side.path / "s") == "there"
    side.fails(link(side.gfid(), side.top, b"x"), errno.ENOENT, "absent")


def test_link_gives_another_name(side: Side) -> None:
    """LINK, also again, also where the name is another's."""
    f, g = side.gfid(), side.gfid()
    side.ok(create(f, side.top, b"f", b"x"), create(g, side.top, b"g", b"y"), link(f, side.top, b"h", regular(1)))
    side.ok(link(f, side.top, b"h", regular(1)))
    assert os.stat(side.path / "h").st_nlink == 2 and side.at("h") == f
    assert side.fails(link(f, side.top, b"g", regular(1)), errno.EEXIST, "occupied") == g


def test_sec_7_made_anew_after_its_content_came(side: Side) -> None:
    """SEC-7: an agent of another brick removed the file in between: made anew it is empty, and not told as written."""
    f, g = side.gfid(), side.gfid()
    reply = side.agent.entries(
        create(f, side.top, b"f", b"content"), create(g, side.top, b"g", b"x"), unlink(f, side.top, b"f"),
        link(f, side.top, b"f2", regular(7)),
    )  # fmt: skip
    assert reply.failures == [] and reply.made == [f]
    assert [seen.index for seen in reply.sizes] == [1], "what was written of f is gone"
    assert (side.path / "f2").stat().st_size == 0


def test_sec_8_symlinks(side: Side) -> None:
    """SEC-8: the same gfid there is success, another EEXIST; times with nanoseconds, owner (SEC-14)."""
    s = side.gfid()
    op = sym(s, side.top, b"s", b"no/where")._replace(stat=symlink()._replace(uid=77, gid=78))
    side.ok(op)
    side.ok(op)
    st = os.lstat(side.path / "s")
    assert (st.st_uid, st.st_gid, st.st_mtime_ns) == (77, 78, T0)
    assert side.fails(sym(side.gfid(), side.top, b"s", b"else"), errno.EEXIST, "occupied") == s
    assert os.readlink(side.path / "s") == "no/where"


def test_sec_9_and_10_rename(side: Side) -> None:
    """SEC-9: the source holds the gfid. SEC-10: both names are the same inode: the source goes."""
    f, d = side.gfid(), side.gfid()
    side.ok(create(f, side.top, b"f", b"x"), mkdir(d, side.top, b"d"))
    side.ok(rename(f, (side.top, b"f"), (d, b"g"), regular(1)))
    assert side.names() == ["d"] and side.at("d/g") == f
    side.ok(link(f, side.top, b"other", regular(1)), rename(f, (d, b"g"), (side.top, b"other"), regular(1)))
    assert side.names() == ["d", "other"] and side.names("d") == []
    side.ok(rename(f, (d, b"g"), (side.top, b"other"), regular(1)))
    assert side.names() == ["d", "other"]


def test_sec_9_a_directory_with_what_is_in_it(side: Side) -> None:
    """A directory's rename among operations in it and below it, in one list."""
    a, b, f = (side.gfid() for _ in range(3))
    side.ok(
        mkdir(a, side.top, b"a"), mkdir(b, side.top, b"b"), create(f, a, b"f", b"x"),
        rename(a, (side.top, b"a"), (b, b"moved"), directory()), create(side.gfid(), a, b"g", b"y"),
        rename(b, (side.top, b"b"), (side.top, b"c"), directory()), unlink(f, a, b"f"),
    )  # fmt: skip
    assert side.names() == ["c"] and side.names("c") == ["moved"] and side.names("c/moved") == ["g"]


def test_sec_11_rename_without_its_source(side: Side) -> None:
    """SEC-11: linked where the gfid exists, made where not; where a directory belongs is for the primary to say."""
    f, g, d = (side.gfid() for _ in range(3))
    side.ok(create(f, side.top, b"f", b"x"), mkdir(d, side.top, b"d"))
    side.ok(rename(f, (side.top, b"not here"), (side.top, b"linked"), regular(1)))
    assert side.at("linked") == f and side.names() == ["d", "f", "linked"]
    reply = side.agent.entries(rename(g, (side.top, b"nor here"), (side.top, b"new"), regular(4)))
    assert reply.failures == [] and reply.made == [g]
    side.fails(rename(d, (side.top, b"elsewhere"), (side.top, b"e"), directory()), errno.EEXIST, "elsewhere")
    side.ok(rename(d, (side.top, b"elsewhere"), (side.top, b"e")))  # gone on the primary: its removal follows
    side.fails(rmdir(d, side.top, b"e"), errno.EEXIST, "elsewhere")
    assert side.names() == ["d", "f", "linked", "new"] and side.at("d") == d
    side.fails(rename(side.gfid(), (side.top, b"z"), (side.top, b"y"), directory()), errno.ENOENT, "absent")
    assert "y" not in side.names(), "made, nothing would tell any more that what is in it is missing"
    side.ok(rename(side.gfid(), (side.top, b"gone"), (side.top, b"gone too")))  # gone on both sides


def test_sec_12_another_gfid_has_the_new_name(side: Side) -> None:
    """SEC-12 with several subvolumes: EEXIST with the gfid that is there; nothing is replaced or merged."""
    f, g, d, e = (side.gfid() for _ in range(4))
    side.ok(create(f, side.top, b"f", b"x"), create(g, side.top, b"g", b"y"), mkdir(d, side.top, b"d"),
            mkdir(e, side.top, b"e"))  # fmt: skip
    assert side.fails(rename(f, (side.top, b"f"), (side.top, b"g"), regular(1)), errno.EEXIST, "occupied") == g
    assert side.fails(rename(f, (side.top, b"f"), (side.top, b"d"), regular(1)), errno.EEXIST, "occupied") == d
    assert side.fails(rename(d, (side.top, b"d"), (side.top, b"e"), directory()), errno.EEXIST, "occupied") == e
    assert side.names() == ["d", "e", "f", "g"]


def test_sec_13_and_14_attributes(side: Side) -> None:
    """SEC-13: made as root in a directory its owner may not write in. SEC-14: META, symlinks too, set bits kept."""
    from engine.agent.types import MetaOp

    f, d, s = (side.gfid() for _ in range(3))
    side.ok(create(f, side.top, b"f", b"x")._replace(stat=regular(1, 0o400, uid=1234)), mkdir(d, side.top, b"d"),
            sym(s, side.top, b"s", b"x"))  # fmt: skip
    metas = [
        MetaOp(f, regular(1, 0o6755, mtime=T0 + 1, uid=55), {b"user.a": b"1"}),
        MetaOp(d, directory(0o1777, T0 + 2), {b"user.b": b"2"}),
        MetaOp(s, symlink(T0 + 3)._replace(uid=9), None),
    ]
    assert side.agent.metas(*metas).failures == []
    st = os.stat(side.path / "f")
    assert (st.st_mode & 0o7777, st.st_uid, st.st_mtime_ns) == (0o6755, 55, T0 + 1)
    assert (os.stat(side.path / "d").st_mode & 0o7777, os.stat(side.path / "d").st_mtime_ns) == (0o1777, T0 + 2)
    assert (os.lstat(side.path / "s").st_uid, os.lstat(side.path / "s").st_mtime_ns) == (9, T0 + 3)
    assert os.getxattr(side.path / "f", "user.a") == b"1" and os.getxattr(side.path / "d", "user.b") == b"2"
    assert side.agent.metas(MetaOp(f, regular(1, 0o600), {})).failures == []
    assert [x for x in os.listxattr(side.path / "f") if x.startswith("user.")] == []
    assert side.agent.metas(MetaOp(side.gfid(), regular(1), None)).failures[0].errno == errno.ENOENT
    assert side.agent.metas(MetaOp(d, regular(1), None)).failures[0].errno == errno.EINVAL


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/etc/passwd", b"../x", b"nul\0"])
def test_sec_15_names_that_lead_elsewhere_are_refused(side: Side, name: bytes) -> None:
    """SEC-15: whatever the operation."""
    g = side.gfid()
    for op in (
        create(g, side.top, name, b"x"), mkdir(g, side.top, name), sym(g, side.top, name, b"x"),
        link(g, side.top, name, regular()), unlink(g, side.top, name), rmdir(g, side.top, name),
        rename(g, (side.top, name), (side.top, b"x"), regular()), rename(g, (side.top, b"x"), (side.top, name), regular()),
    ):  # fmt: skip
        side.fails(op, errno.EINVAL, "refused")
    side.fails(create(g, LIMBO, b"x", b"x"), errno.EINVAL, "refused")
    assert side.names() == []


def test_sec_15_a_symlink_is_not_followed(side: Side, tmp_path: Path) -> None:
    """SEC-15: a parent that is a symlink is no directory; content does not go through one."""
    s, g = side.gfid(), side.gfid()
    (tmp_path / "victim").write_bytes(b"safe")
    side.ok(sym(s, side.top, b"s", os.fsencode(tmp_path)), sym(g, side.top, b"v", os.fsencode(tmp_path / "victim")))
    side.fails(create(side.gfid(), s, b"x", b"x"), errno.ENOTDIR, "parent")
    from engine.agent.wire import Put

    assert side.agent.puts(Put(g, regular(1), None, b"bad"))[0].errno == errno.EINVAL
    assert os.listdir(tmp_path) == ["victim"] and (tmp_path / "victim").read_bytes() == b"safe"


def test_a_missing_parent_is_told(side: Side) -> None:
    """CON-5 begins with this: ENOENT, `parent`, and which."""
    missing = side.gfid()
    assert side.fails(create(side.gfid(), missing, b"x", b"x"), errno.ENOENT, "parent") == missing
    f = side.gfid()
    side.ok(create(f, side.top, b"f", b"x"))
    assert side.fails(rename(f, (side.top, b"f"), (missing, b"f"), regular(1)), errno.ENOENT, "parent") == missing


def test_any_bytes_are_a_name(side: Side) -> None:
    """CHG-1: names hold any byte but NUL and /."""
    names = [bytes([i]) + b"x" for i in range(1, 256) if i != ord("/")] + [b"n" * 255, "ü€😀".encode(), b"\xff\xfe"]
    ops = [create(side.gfid(), side.top, n, b"c") for n in names]
    side.ok(*ops)
    assert sorted(os.listdir(os.fsencode(side.path))) == sorted(names)
    side.ok(*(unlink(op.gfid, side.top, op.slot.name) for op in ops))
    assert side.names() == []
    side.fails(create(side.gfid(), side.top, b"n" * 256, b"c"), errno.ENAMETOOLONG)


def test_special_files(side: Side) -> None:
    """A fifo, a socket and a device by MKNOD."""
    for name, kind, rdev in ((b"fifo", _stat.S_IFIFO, 0), (b"sock", _stat.S_IFSOCK, 0), (b"dev", _stat.S_IFCHR, os.makedev(1, 3))):
        st = regular()._replace(mode=kind | 0o640, rdev=rdev)
        side.ok(create(side.gfid(), side.top, name, None, fop=Fop.MKNOD)._replace(stat=st))
        found = os.lstat(side.path / name.decode())
        assert (found.st_mode, found.st_rdev, found.st_mtime_ns) == (kind | 0o640, rdev, T0)


def test_order_is_kept_where_it_matters(side: Side) -> None:
    """One name and one object in many operations of one list: the end is that of one after the other."""
    f, g = side.gfid(), side.gfid()
    ops: list[object] = []
    for i in range(30):
        ops += [create(f, side.top, b"a", b"%d" % i), rename(f, (side.top, b"a"), (side.top, b"b"), regular()),
                create(g, side.top, b"a", b"g%d" % i), unlink(f, side.top, b"b"),
                rename(g, (side.top, b"a"), (side.top, b"b"), regular()), unlink(g, side.top, b"b")]  # fmt: skip
    side.ok(*ops[:-1])
    assert side.names() == ["b"] and (side.path / "b").read_bytes() == b"g29" and side.at("b") == g


def test_what_an_earlier_agent_made_is_removed_and_renamed(lab: Lab) -> None:
    """Names that this agent's mount has never seen, in the root and below, whichever brick they are on."""
    volume = lab.volume(2)
    d = gfid(3)
    names = [b"f%d" % i for i in range(12)]
    files = [(gfid(100 + i), ROOT, n) for i, n in enumerate(names)] + [(gfid(200 + i), d, n) for i, n in enumerate(names)]
    with held(volume) as agent:
        assert agent.entries(mkdir(d, ROOT, b"d"), *(create(g, p, n, b"x") for g, p, n in files)).failures == []
    mount = view(lab, volume)
    with held(volume) as agent:
        assert agent.entries(*(unlink(g, p, n) for g, p, n in files[::2])).failures == []
    left = sorted(n.decode() for n in names[1::2])
    assert sorted(os.listdir(mount / "d")) == left and sorted(os.listdir(mount)) == ["d", *left]
    with held(volume) as agent:
        renames = [rename(g, (p, n), (p, b"new " + n), regular(1)) for g, p, n in files[1::2]]
        assert agent.entries(*renames, rename(d, (ROOT, b"d"), (ROOT, b"e"), directory())).failures == []
        more = [create(gfid(300 + i), d, b"more%d" % i, b"x") for i in range(4)]
        assert agent.entries(*more, *(unlink(g, p, b"new " + n) for g, p, n in files[1::2])).failures == []
    assert sorted(os.listdir(mount)) == ["e"] and sorted(os.listdir(mount / "e")) == [f"more{i}" for i in range(4)]
    lab.remove(volume)

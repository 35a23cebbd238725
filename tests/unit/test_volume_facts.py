"""What gluster's XML says, and the marks as gsyncd keeps them on a brick (VOL-1, MRK-1, MRK-7)."""

from __future__ import annotations

import os
import struct
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from engine.marks import MarkError
from engine.model import NO_MARK, Mark
from engine.volume.brickmarks import BrickMarks, stime_names
from engine.volume.facts import FOREIGN, Gluster, VolumeError, foreign_primaries, parse_volume

FIXTURES = Path(__file__).parent.parent / "fixtures/gluster-10.3/gsyncd"
P, S = "9b77dd51-d577-4696-a1c9-191b8c6d55ea", "11111111-2222-3333-4444-555555555555"

LAYOUTS = (  # bricks, replica, disperse, arbiter of each third
    (2, 1, 0, False, [0, 1]), (4, 2, 0, False, [0, 0, 1, 1]), (6, 3, 0, True, [0, 0, 0, 1, 1, 1]),
    (6, 0, 3, False, [0, 0, 0, 1, 1, 1]),
)  # fmt: skip


def xml(bricks: int, replica: int, disperse: int, arbiter: bool) -> ET.Element:
    rows = "".join(
        f"<brick><name>h:/b:{i}</name><hostUuid>u</hostUuid><isArbiter>{int(arbiter and i % 3 == 2)}</isArbiter></brick>"
        for i in range(bricks)
    )
    return ET.fromstring(
        f"<volume><name>v</name><id>{P}</id><statusStr>Started</statusStr><replicaCount>{replica}</replicaCount>"
        f"<disperseCount>{disperse}</disperseCount><bricks>{rows}</bricks><options><option>"
        "<name>changelog.changelog</name><value>on</value></option></options></volume>"
    )


@pytest.mark.parametrize("bricks, replica, disperse, arbiter, subvolumes", LAYOUTS)
def test_vol_1_subvolumes_of_every_layout(
    bricks: int, replica: int, disperse: int, arbiter: bool, subvolumes: list[int]
) -> None:
    facts = parse_volume(xml(bricks, replica, disperse, arbiter))
    assert [b.subvolume for b in facts.bricks] == subvolumes
    assert facts.dispersed == bool(disperse)
    assert [b.arbiter for b in facts.bricks] == [arbiter and i % 3 == 2 for i in range(bricks)]
    assert facts.bricks[0].path == b"/b:0", "a path may hold a colon"
    assert facts.on("changelog.changelog") and not facts.on("geo-replication.indexing")


def test_vol_1_a_real_answer() -> None:
    found = ET.parse(FIXTURES / "volume-info.xml").getroot().find(".//volume")
    assert found is not None
    facts = parse_volume(found)
    assert facts.name == "mvol" and facts.started and len(facts.bricks) == 2 and facts.width == 1


def fake(tmp_path: Path, script: str) -> Gluster:
    """A command in gluster's place that answers as gluster does where there is none to be asked."""
    path = tmp_path / "gluster"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)
    return Gluster(str(path))


def test_bad_input_without_gluster(tmp_path: Path) -> None:
    with pytest.raises(VolumeError) as e:
        Gluster(str(tmp_path / "none")).volume("v")
    assert e.value.code == "no-gluster" and "glusterfs-server" in e.value.hint


def test_bad_input_without_glusterd(tmp_path: Path) -> None:
    with pytest.raises(VolumeError) as e:
        fake(tmp_path, "echo 'Connection failed. Please check if gluster daemon is operational.'; exit 1").volume("v")
    assert e.value.code == "no-glusterd" and "glusterd" in e.value.hint


def test_bad_input_an_unknown_volume_names_those_there_are(tmp_path: Path) -> None:
    answers = (
        'case "$*" in *info*) echo "<cliOutput><opRet>-1</opRet><opErrstr>Volume v does not exist</opErrstr></cliOutput>";;'
        ' *) echo "<cliOutput><opRet>0</opRet><volList><volume>a</volume><volume>b</volume></volList></cliOutput>";; esac'
    )
    with pytest.raises(VolumeError) as e:
        fake(tmp_path, answers).volume("v")
    assert (e.value.code, e.value.hint) == ("volume-unknown", "volumes here: a, b")


@pytest.fixture
def brick(tmp_path: Path) -> bytes:
    path = os.fsencode(tmp_path / "brick")
    os.mkdir(path)
    try:
        os.setxattr(path, "trusted.test", b"")
    except OSError:
        pytest.skip("trusted xattrs are root's, on a filesystem that has them")
    return path


def test_mrk_1_marks_are_where_gsyncd_has_them(tmp_path: Path, brick: bytes) -> None:
    marks = BrickMarks(str(tmp_path / "m.json"), brick, P, S)
    assert marks.stime == NO_MARK and not marks.moved_by_other
    marks.advance(Mark(1_700_000_000, 0), Mark(1_700_000_000, 0))
    assert os.getxattr(brick, f"trusted.glusterfs.{P}.{S}.stime") == bytes.fromhex("6553f10000000000")
    assert os.getxattr(brick, f"trusted.glusterfs.{P}.{S}.entry_stime") == bytes.fromhex("6553f10000000000")
    assert not BrickMarks(str(tmp_path / "m.json"), brick, P, S).moved_by_other


def test_mrk_7_marks_moved_by_gsyncd_are_seen_and_taken(tmp_path: Path, brick: bytes) -> None:
    marks = BrickMarks(str(tmp_path / "m.json"), brick, P, S)
    marks.advance(Mark(1_700_000_000, 0))
    os.setxattr(brick, stime_names(P, S)[0], struct.pack("!II", 1_700_000_500, 0))
    marks.take()
    assert marks.stime == Mark(1_700_000_500, 0) and marks.moved_by_other
    marks.adopt(marks.stime)
    assert not marks.moved_by_other


def test_mrk_7_marks_of_a_gsyncd_that_ran_before_us_are_another_s(tmp_path: Path, brick: bytes) -> None:
    os.setxattr(brick, stime_names(P, S)[0], struct.pack("!II", 1_700_000_500, 0))
    assert BrickMarks(str(tmp_path / "m.json"), brick, P, S).moved_by_other


def test_mrk_2_a_reset_takes_the_marks_away(tmp_path: Path, brick: bytes) -> None:
    marks = BrickMarks(str(tmp_path / "m.json"), brick, P, S)
    marks.advance(Mark(1_700_000_000, 0))
    marks.reset()
    assert stime_names(P, S)[0] not in os.listxattr(brick)


def test_a_damaged_mark_is_refused_with_its_name(tmp_path: Path, brick: bytes) -> None:
    os.setxattr(brick, stime_names(P, S)[0], b"short")
    with pytest.raises(MarkError, match="stime has 5 bytes"):
        BrickMarks(str(tmp_path / "m.json"), brick, P, S)


def test_vol_1_foreign_primaries_count_until_their_time(brick: bytes) -> None:
    now = 1_700_000_000

    def mark(ident: str, until: int, more: bytes = b"") -> None:
        value = struct.pack("!BB16sBIII", 1, 0, bytes(16), 0, now, 0, until) + more
        os.setxattr(brick, FOREIGN + ident, value)

    assert foreign_primaries(brick, now) == frozenset()
    mark(P, now + 60)
    mark(S, now - 1)
    mark(S.replace("1", "2"), now + 60, b"not one of ours")
    assert foreign_primaries(brick, now) == {P}
    mark(S, now)
    assert foreign_primaries(brick, now) == {P, S}
    with pytest.raises(VolumeError, match="brick /nowhere cannot be read"):
        foreign_primaries(b"/nowhere", now)

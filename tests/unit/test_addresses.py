"""Primaries and secondaries as people write them, and sessions that are refused before anything starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.addresses import AddressError, PrimaryVolume, parse_primary, parse_secondary
from engine.spec import SpecError, check_state, make_spec, name_for


@pytest.mark.parametrize(
    ("text", "user", "host", "port", "path", "volume"),
    [
        ("/srv/replica/", None, None, None, b"/srv/replica", None),
        ("/srv/od:d", None, None, None, b"/srv/od:d", None),
        ("dr:/srv//www/", None, "dr", None, b"/srv/www", None),
        ("dr:www", None, "dr", None, b"www", None),
        ("backup@dr:/", "backup", "dr", None, b"/", None),
        ("a@b.example@dr:/x", "a@b.example", "dr", None, b"/x", None),
        ("[2001:db8::1]:/srv", None, "2001:db8::1", None, b"/srv", None),
        ("root@[::1]:/srv", "root", "::1", None, b"/srv", None),
        ("ssh://dr/srv/www", None, "dr", None, b"/srv/www", None),
        ("ssh://backup@dr:2222/srv/a%20b", "backup", "dr", 2222, b"/srv/a b", None),
        ("ssh://backup@[::1]:2222/~/www", "backup", "::1", 2222, b"www", None),
        ("dr::web", None, "dr", None, b"", "web"),
        ("geo@dr::web-2", "geo", "dr", None, b"", "web-2"),
    ],
)
def test_secondaries(text: str, user: str, host: str, port: int, path: bytes, volume: str) -> None:
    found = parse_secondary(text)
    assert (found.user, found.host, found.port, found.path, found.volume) == (user, host, port, path, volume)
    assert parse_secondary(found.text) == found


@pytest.mark.parametrize(
    "text",
    ["", "dr:", "-oProxyCommand=x:/dir", "dr::", "dr::a/b", "ssh://dr", "ssh://dr:0/x", "ssh://dr:70000/x", "ssh:///x",
     "ssh://-o/x", "a b:/x", "@dr:/x", "-l@dr:/x", "dr:/a\0b", "ssh://dr/a%00b"],
)  # fmt: skip
def test_wrong_secondaries(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_secondary(text)
    assert "\n" not in caught.value.text
    assert caught.value.hint


def test_relative_secondary_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_secondary("there").path == os.fsencode(tmp_path / "there")


def test_primaries_with_names(tmp_path: Path) -> None:
    """`dir=name` splits at the last `=`; an existing path of that very name wins."""
    odd = tmp_path / "a=b"
    odd.mkdir()
    assert parse_primary(f"{odd}") == (os.fsencode(odd), "")
    assert parse_primary(f"{odd}=c") == (os.fsencode(odd), "c")
    assert parse_primary(f"{tmp_path}/x=y") == (os.fsencode(tmp_path / "x"), "y")
    assert parse_primary("m1::web") == PrimaryVolume("m1", "web")
    for wrong in (f"{tmp_path}=", f"{tmp_path}=..", f"{tmp_path}=.georep", "=x"):
        with pytest.raises(AddressError):
            parse_primary(wrong)


def test_names_of_bytes_that_are_not_text() -> None:
    text = os.fsdecode(b"/srv/\xff\xfe")
    assert parse_secondary(text).path == b"/srv/\xff\xfe"
    assert parse_primary(text) == (b"/srv/\xff\xfe", "")


def test_names_of_sessions(tmp_path: Path) -> None:
    assert name_for(["/srv/www"]) == "www"
    assert name_for(["m1::web"]) == "web"
    assert name_for(["/srv/a b/"]) == "a-b"
    assert name_for(["/"]) == "tree"
    assert name_for([f"{tmp_path}/data=x"]) == "data"


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    return tmp_path / "one", tmp_path / "two"


def test_a_session(trees: tuple[Path, Path]) -> None:
    spec = make_spec([str(trees[0])], "dr:/srv", once=True)
    assert spec.bricks == ((os.fsencode(trees[0]), ""),)
    assert (spec.name, spec.kind, spec.once, spec.secondary.text) == ("one", "tree", True, "dr:/srv")


def test_sessions_that_are_refused(trees: tuple[Path, Path]) -> None:
    """Missing, no directory, one inside the other (symlinks seen through), names missing or twice."""
    one, two = trees
    (one / "inside").mkdir()
    (one / "file").write_text("x")
    os.symlink(one / "inside", two / "link")
    for primaries, secondary, says in (
        ([], str(two), "no primary"),
        ([str(one / "missing")], str(two), "missing: no such directory"),
        ([str(one / "file")], str(two), "not a directory"),
        ([str(one)], str(one), "the same directory"),
        ([str(one)], str(one / "inside"), "is inside"),
        ([str(one)], str(one / "new"), "is inside"),
        ([str(one / "inside")], str(one), "is inside"),
        ([str(one)], str(two / "link"), "is inside"),
        ([f"{one}=a", f"{one / 'inside'}=b"], str(two), "is inside"),
        ([f"{one}=a", f"{two}=a"], "dr:/x", "two primaries are named"),
        ([str(one), str(two)], "dr:/x", "needs a name"),
        ([str(one)], str(two / "no" / "such"), "no: no such directory"),
        ([str(one)], str(one / "file"), "is inside"),
        ([str(one)], "dr::vol", "cannot go to the volume"),
        (["m1::vol"], "/srv", "goes to a volume"),
        (["m1::vol", str(one)], "dr::vol", "replicated alone"),
    ):
        with pytest.raises((SpecError, AddressError)) as caught:
            make_spec(primaries, secondary)
        assert says in caught.value.text, caught.value.text
        assert "\n" not in caught.value.text
    with pytest.raises(SpecError):
        make_spec([str(one)], str(two), name="../up")


def test_state_is_in_no_tree(trees: tuple[Path, Path], tmp_path: Path) -> None:
    spec = make_spec([str(trees[0])], str(trees[1]))
    check_state(str(tmp_path / "state"), spec.bricks, spec.secondary)
    for inside in (trees[0] / "state", trees[1] / "deep" / "state", trees[0]):
        with pytest.raises(SpecError, match="state directory"):
            check_state(str(inside), spec.bricks, spec.secondary)

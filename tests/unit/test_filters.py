"""Include and exclude patterns: what rsync would take is what we take (CRW-10)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.filters import FilterError, Filters


@pytest.mark.parametrize(
    ("pattern", "path", "is_dir", "excluded"),
    [
        ("*.o", b"a/b/c.o", False, True),
        ("*.o", b"a.o/keep", False, True),  # below an excluded directory
        ("*.o", b"a/c.obj", False, False),
        ("cache/", b"cache", False, False),
        ("cache/", b"x/cache", True, True),
        ("cache/", b"x/cache/deep/file", False, True),
        ("/top", b"top", False, True),
        ("/top", b"sub/top", False, False),
        ("/a/*/c", b"a/b/c", False, True),
        ("/a/*/c", b"a/b/b/c", False, False),
        ("/a/**/c", b"a/b/b/c", False, True),
        ("b/c", b"a/b/c", False, True),
        ("b/c", b"a/bb/c", False, False),
        ("**/c", b"c", False, True),
        ("a**c", b"x/a/b/c", False, True),
        ("dir/***", b"dir", True, True),
        ("dir/***", b"dir/x", False, True),
        ("dir/**", b"dir", True, False),
        ("file?", b"file1", False, True),
        ("file?", b"file", False, False),
        ("[a-c]x", b"bx", False, True),
        ("[!a-c]x", b"bx", False, False),
        ("[[:digit:]]*", b"7z", False, True),
        (r"a\*", b"a*", False, True),
        (r"a\*", b"ab", False, False),
        (r"a\b", b"a\\b", False, True),  # without a wildcard, a backslash is one
        ("\udcff*", b"\xffname", False, True),
        ("new\nline", b"new\nline", False, True),
        (".*", b".hidden/x", False, True),
        ("- *.tmp", b"a.tmp", False, True),
        ("+ *.tmp", b"a.tmp", False, False),
    ],
)
def test_crw_10_patterns(pattern: str, path: bytes, is_dir: bool, excluded: bool) -> None:
    assert Filters((), [pattern]).excluded(path, is_dir) is excluded


def test_crw_10_includes_are_tested_first_and_the_first_match_wins() -> None:
    filters = Filters(["*.keep", "/docs/"], ["*.keep", "*.txt", "/docs/", "/build"])
    assert not filters.excluded(b"a.keep", False)
    assert not filters.excluded(b"docs", True)
    assert filters.excluded(b"docs/a.txt", False)
    assert not filters.excluded(b"docs/a.md", False)
    assert filters.excluded(b"build/a.keep", False)  # what is above is out


def test_crw_10_only_what_is_included() -> None:
    filters = Filters(["*/", "*.py"], ["*"])
    assert not filters.excluded(b"a/b/c.py", False)
    assert filters.excluded(b"a/b/c.txt", False)


def test_crw_10_an_exclamation_mark_forgets_what_was_before() -> None:
    assert not Filters((), ["*.o", "!", "*.a"]).excluded(b"x.o", False)


def test_crw_10_nothing_filtered_by_default_and_the_root_never_is() -> None:
    assert not Filters()
    assert not Filters().excluded(b"anything", True)
    assert Filters((), ["*"])
    assert not Filters((), ["*", "**", "/"]).excluded(b"", True)


@pytest.mark.parametrize("pattern", ["", "+ ", "- ", "a\0b"])
def test_crw_10_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(FilterError, match="not a pattern"):
        Filters((), [pattern])


def test_a_deep_path_and_many_directories() -> None:
    filters = Filters((), ["/0/*/x"])
    assert filters.excluded(b"0/1/x/" + b"/".join(b"%d" % n for n in range(300)), False)
    assert not any(filters.excluded(b"d%d/f" % n, False) for n in range(70_000))


# ---- against the real rsync -----------------------------------------------------------------------------------------

NAMES = [b"a", b"b", b"ab", b"a.b", b"[x]", b"a*", b"a b", b"c\\d", b"\xff", b"-", b"a]", b"x!", "ü".encode()]
PIECES = [
    "a", "b", "x", "ab", "*", "**", "***", "?", "/", ".", "-", "!", "]", "\\*", "\\a", "\\", "\udcff", "ü",
    "[ab]", "[!a]", "[^b]", "[a-c]", "[]x]", "[x]", "[[:alpha:]]", "[[:punct:]b]", "[[:nope:]]", "[[:alp]", "[[]",
    "[a", "[", "\\[", "[a-]", "[--a]", "[a\\]]", "[b-a]", "[a-[:alpha:]]", "[a/b]", "[!/]",
]  # fmt: skip
patterns = st.builds(
    lambda prefix, parts: prefix + "".join(parts),
    st.sampled_from(["", "", "", "", "+ ", "- ", "/"]),
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=5),
)
trees = st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4), min_size=1, max_size=14)


def rsync_takes(source: bytes, include: list[str], exclude: list[str]) -> set[bytes]:
    """The names that `rsync -a` would transfer."""
    command: list[bytes] = [b"rsync", b"-an", b"-8", b"--out-format=%n"]
    command += [b"--include=" + os.fsencode(p) for p in include]
    command += [b"--exclude=" + os.fsencode(p) for p in exclude]
    done = subprocess.run([*command, source + b"/", source + b"-copy"], capture_output=True, check=True, timeout=60)
    lines = {
        line.rstrip(b"/") for line in done.stdout.split(b"\n") if line and not line.startswith(b"created directory")
    }
    return {re.sub(rb"\\#(\d{3})", lambda m: bytes([int(m[1], 8)]), line) for line in lines} - {b"."}


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not here")
@given(trees, st.lists(patterns, max_size=2), st.lists(patterns, min_size=1, max_size=3))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_crw_10_as_the_real_rsync(tree: list[list[bytes]], include: list[str], exclude: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        source = os.fsencode(scratch) + b"/s"
        os.mkdir(source)
        for parts in tree:  # every branch ends in a file, unless another branch goes through it
            above = source + b"".join(b"/" + p for p in parts[:-1])
            try:
                os.makedirs(above, exist_ok=True)
                os.close(os.open(above + b"/" + parts[-1], os.O_CREAT | os.O_WRONLY))
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                continue
        paths: dict[bytes, bool] = {}
        for directory, below, files in os.walk(source):
            for names, is_dir in ((below, True), (files, False)):
                paths.update({os.path.relpath(os.path.join(directory, n), source): is_dir for n in names})
        filters = Filters(include, exclude)
        ours = {path for path, is_dir in paths.items() if not filters.excluded(path, is_dir)}
        assert ours == rsync_takes(source, include, exclude)

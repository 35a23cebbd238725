"""The changes GlusterFS's own geo-replication tests make (B1…B11, X1…X9), and what must be seen of them there."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

ODD = "ಕನ್ನಡ"


def basic(p: Path, prefix: str) -> None:
    """B1…B11: every kind of object and change, also under names that are not ASCII."""
    for tail, text in (("", "HelloWorld!\n"), (f"_{ODD}", "Hello non-ascii\n")):
        (p / f"{prefix}_f1{tail}").write_text(text)
        (p / f"{prefix}_f2{tail}").touch()
        (p / f"{prefix}_f3{tail}").touch()
        for d in ("d1", "d2", "d3"):
            (p / f"{prefix}_{d}{tail}").mkdir()
        (p / f"{prefix}_d1{tail}" / f"in{tail}").write_text("below\n")
        os.link(p / f"{prefix}_f1", p / f"{prefix}_hl1{tail}")
        os.symlink(f"{prefix}_f1", p / f"{prefix}_sl1{tail}")
        (p / f"{prefix}_f2{tail}").unlink()
        (p / f"{prefix}_d2{tail}").rmdir()
        (p / f"{prefix}_f3{tail}").rename(p / f"{prefix}_f4{tail}")
        (p / f"{prefix}_d3{tail}").rename(p / f"{prefix}_d4{tail}")
        (p / f"{prefix}_chown_f1{tail}").touch()
        os.chown(p / f"{prefix}_chown_f1{tail}", 1000, 1000)


def basic_seen(s: Path, prefix: str) -> None:
    """The same, as asserted one by one on the secondary."""
    assert (s / f"{prefix}_f1").read_text() == "HelloWorld!\n"
    assert os.stat(s / f"{prefix}_f1").st_ino == os.stat(s / f"{prefix}_hl1").st_ino
    assert os.readlink(s / f"{prefix}_sl1") == f"{prefix}_f1"
    assert (s / f"{prefix}_d1").is_dir() and (s / f"{prefix}_d4").is_dir()
    assert (s / f"{prefix}_f4").is_file()
    for gone in ("f2", "d2", "f3", "d3"):
        assert not os.path.lexists(s / f"{prefix}_{gone}"), os.stat(s / f"{prefix}_{gone}", follow_symlinks=False)
    assert os.stat(s / f"{prefix}_chown_f1").st_uid == os.stat(s / f"{prefix}_chown_f1").st_gid == 1000


def metadata(p: Path, prefix: str) -> None:
    """What upstream never looks at: modes, times, xattrs, ACLs, special files, odd names, sparse files."""
    f = p / f"{prefix}_m"
    f.write_bytes(b"x" * 5000)
    fd = os.open(f, os.O_RDWR)
    os.fchmod(fd, 0o4751)
    os.setxattr(fd, "user.one", b"1")
    os.setxattr(fd, "user.two", b"\0\xff")
    os.close(fd)
    os.removexattr(f, "user.one")
    os.utime(f, ns=(1_000_000_001, 1_234_567_890_123_456_789))
    subprocess.run(["setfacl", "-m", "u:1000:rwx", str(f)], check=True)
    d = p / f"{prefix}_md"
    d.mkdir()
    subprocess.run(["setfacl", "-d", "-m", "u:1000:rx", str(d)], check=True)
    (d / "inherits").write_text("y")
    os.setxattr(d, "user.dir", b"z")
    os.mkfifo(p / f"{prefix}_fifo", 0o640)
    os.mknod(p / f"{prefix}_dev", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    for name in (b"new\nline", b"%20", b"cr\r", b"\xff\xfe", b" two  ", b"\xc2\x85", b"n" * 250):
        with open(os.path.join(os.fsencode(p), os.fsencode(prefix)[:4] + name), "wb") as out:
            out.write(name)
    with open(p / f"{prefix}_sparse", "wb") as out:
        out.seek(3 << 20)
        out.write(b"end")


def renamed_symlink(p: Path) -> None:
    """X1: a symlink renamed three times in a row."""
    d = p / "MUL_REN_SYMLINK"
    (d / "sym_dir1").mkdir(parents=True)
    os.symlink("sym_dir1", d / "sym1")
    for i in (1, 2, 3):
        (d / f"sym{i}").rename(d / f"sym{i + 1}")


def renamed_symlink_seen(s: Path) -> None:
    assert os.readlink(s / "MUL_REN_SYMLINK/sym4") == "sym_dir1"
    assert sorted(os.listdir(s / "MUL_REN_SYMLINK")) == ["sym4", "sym_dir1"]


def logrotate(p: Path) -> None:
    """X2: names reused by other objects several times within few changelogs."""
    d = p / "logrotate"
    d.mkdir()
    base = d / "lg_test_file"
    for _ in range(4):
        for i in (2, 1):
            if (d / f"lg_test_file.{i}").exists():
                (d / f"lg_test_file.{i}").rename(d / f"lg_test_file.{i + 1}")
        if base.exists():
            base.rename(d / "lg_test_file.1")
        base.touch()
        if (d / "lg_test_file.3").exists():
            (d / "lg_test_file.3").unlink()


def live(p: Path) -> None:
    """X3, X4: a file renamed right after it was written; a hard link renamed."""
    (p / "rename_test_file").write_text("rename_test_file")
    (p / "rename_test_file").rename(p / "rename_test_file.bak")
    (p / "hl_file").write_text("hl_file")
    os.link(p / "hl_file", p / "hl_file.hl")
    (p / "hl_file.hl").rename(p / "hl_file.hl1")


def live_seen(s: Path) -> None:
    assert not (s / "rename_test_file").exists()
    assert (s / "rename_test_file.bak").read_text() == "rename_test_file"
    assert (s / "hl_file").exists() and (s / "hl_file.hl1").exists() and not (s / "hl_file.hl").exists()


def stopped(p: Path) -> None:
    """X5, X6, X7: a directory under a symlink's old name; the first of two names gone; hard-linked symlinks."""
    d = p / "symlink_test1"
    d.mkdir()
    (d / "file1").touch()
    os.symlink("./file1", d / "sym_link")
    (d / "sym_link").rename(d / "rn_sym_link")
    (d / "sym_link").mkdir()

    d = p / "hardlink_rename_issue"
    d.mkdir()
    (d / "f1").write_text("test_data")
    os.link(d / "f1", d / "f2")
    (d / "f2").rename(d / "f3")
    (d / "f1").unlink()

    d = p / "rsnapshot"
    d.mkdir()
    os.symlink("/does/not/exist", d / "a_symlink")
    for i, text in ((0, "/does/not/exist2"), (1, None)):
        copy = p / f"rsnapshot.{i}"
        copy.mkdir()
        os.link(d / "a_symlink", copy / "a_symlink", follow_symlinks=False)
        if text:
            os.symlink(text, d / ".a_symlink.tmp")
            (d / ".a_symlink.tmp").rename(d / "a_symlink")


def stopped_seen(s: Path) -> None:
    assert (s / "symlink_test1/sym_link").is_dir() and (s / "symlink_test1/rn_sym_link").is_symlink()
    assert sorted(os.listdir(s / "hardlink_rename_issue")) == ["f3"]
    assert (s / "hardlink_rename_issue/f3").read_text() == "test_data"
    assert os.readlink(s / "rsnapshot/a_symlink") == "/does/not/exist2"
    assert os.readlink(s / "rsnapshot.0/a_symlink") == "/does/not/exist"
    assert os.readlink(s / "rsnapshot.1/a_symlink") == "/does/not/exist2"


def renamed_over(p: Path) -> None:
    """X8: five files, each renamed over the one before."""
    for i in range(1, 6):
        (p / f"data_set{i}").write_text(f"Data_set{i}")
        (p / f"data_set{i}").rename(p / "data_set")


def renamed_over_seen(s: Path) -> None:
    assert (s / "data_set").read_text() == "Data_set5"
    assert not [i for i in range(1, 6) if (s / f"data_set{i}").exists()]


def vanished(p: Path, count: int = 1000) -> None:
    """X9: so many files, each renamed over the one before, within one changelog."""
    d = p / "hang"
    d.mkdir(exist_ok=True)
    for i in range(count):
        (d / f"file{i}").write_text(f"{i}")
        (d / f"file{i}").rename(d / "file")


def removed(p: Path, prefix: str) -> None:
    """What `basic` made, gone again."""
    for path in p.glob(f"{prefix}_*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

"""SYN-2, SYN-3: no name reaches a shell; the words of ssh and rsync arrive as they were given."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from engine.link import SshTarget
from engine.transfer.remote import ssh_words, stage_command
from engine.transfer.rsync import rsync_word

TERRIBLE = b"a b'\"\n$(touch x)`y`;*[ab]?\\ \xff~!#&|<>:-%s{1,2}\t"
SHELLS = [s for s in ("sh", "bash", "dash", "zsh", "ksh", "csh", "tcsh", "fish") if shutil.which(s)]


@pytest.mark.parametrize("shell", SHELLS)
def test_syn3_a_directory_of_any_bytes_through_a_shell(tmp_path: Path, shell: str) -> None:
    directory = os.path.join(os.fsencode(tmp_path), TERRIBLE)
    os.mkdir(directory)
    with open(os.path.join(directory, b"0123abcd"), "wb") as f:
        f.write(b"found")
    done = subprocess.run(
        [shell, "-c", stage_command(directory, "0123abcd", "cat", "0123abcd")], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"found", b"")


def test_syn3_a_directory_that_is_not_the_stage_is_refused(tmp_path: Path) -> None:
    command = stage_command(os.fsencode(tmp_path), "0123abcd", "touch", "x")
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "0123abcd" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_syn3_a_program_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "0123abcd").touch()
    command = stage_command(os.fsencode(tmp_path), "0123abcd", "no-such-program", "-x")
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (127, "georep: there is no no-such-program here\n")


def test_syn3_the_environment_there_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "0123abcd").touch()
    command = stage_command(os.fsencode(tmp_path), "0123abcd", "env")
    env = {**os.environ, "TAR_OPTIONS": "--wrong", "RSYNC_OLD_ARGS": "1"}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, env=env)
    assert "TAR_OPTIONS" not in done.stdout and "RSYNC_OLD_ARGS" not in done.stdout


WORDS = ["plain", "two words", "it's", "''", "a\"b'c d\n e", "-oProxyCommand=nc %h '%p'", "\\x"]


@pytest.mark.parametrize("word", WORDS)
def test_syn2_words_for_rsyncs_remote_shell(tmp_path: Path, word: str) -> None:
    """rsync itself parses `-e`: it must find the words that were meant."""
    shell = tmp_path / "shell"
    shell.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" > {tmp_path}/words\nexit 9\n')
    shell.chmod(0o755)
    command = " ".join(map(rsync_word, [str(shell), "-x", word, "--"]))
    subprocess.run(["rsync", "-e", command, "/etc/hostname", "host:."], capture_output=True, check=False)
    assert (tmp_path / "words").read_text().split("\0")[:4] == ["-x", word, "--", "host"]


def test_syn2_the_words_of_ssh_are_those_of_the_link() -> None:
    target = SshTarget("dr", "backup", 2222, "ssh -v", ("-F", "a file"))
    assert [*ssh_words(target), "dr", "command"] == target.argv("command")

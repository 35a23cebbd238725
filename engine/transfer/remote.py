"""Running a program in a staging directory over plain ssh, with no name ever in a shell's text."""

from __future__ import annotations

import base64
import shlex

from engine.link import SshTarget

# Goes to the staging directory, makes sure it is the one, and becomes the program. One line, for any shell.
_RUNNER = (
    "import base64,os,shutil,sys;a=sys.argv;"
    "os.chdir(base64.urlsafe_b64decode(a[1]));os.lstat(a[2]);"
    "[os.environ.pop(k,None) for k in list(os.environ) if k in (\"TAR_OPTIONS\",\"POSIXLY_CORRECT\",\"TAPE\")"
    " or k.startswith(\"RSYNC_\")];"
    "shutil.which(a[3]) or (print(\"georep: there is no\",a[3],\"here\",file=sys.stderr,flush=True),os._exit(127));"
    "os.execvp(a[3],a[3:])"
)  # fmt: skip


def stage_command(directory: bytes, some: str, *program: str) -> str:
    """Text for the remote shell that runs a program in a directory (any bytes), if `some` (a plain name) is in it.

    The directory travels as base64, so no shell can misread it.
    """
    words = [base64.urlsafe_b64encode(directory).decode(), some, *program]
    return f"exec python3 -I -c {shlex.quote(_RUNNER)} {shlex.join(words)}"


def ssh_words(target: SshTarget) -> list[str]:
    """The words of ssh up to where the host comes."""
    return target.argv("")[:-2]

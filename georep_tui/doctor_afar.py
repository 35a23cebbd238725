"""`doctor --ssh`: the doctor of other nodes, run there over ssh; its lines and its JSON are shown here as they are here."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from typing import Any

from engine.model import EngineError
from georep_tui import output
from georep_tui.away import Away
from georep_tui.doctor import Step, failed, show
from georep_tui.remote import REMOTE
from georep_tui.sources.base import SourceError
from georep_tui.sources.gluster import Far
from georep_tui.ssh.asker import whoever_is_there
from georep_tui.ssh.keys import Keyring
from georep_tui.view.text import escape

TIMEOUT = 300.0
"""Seconds a node's doctor may take: it connects to each brick's secondary, one after the other."""

_RESULTS = ("ok", "warning", "failed", "skipped")


def examine_afar(words: Sequence[str], away: Away, state_dir: str = "", *, as_json: bool = False) -> int:
    """Examine `words` on every node of `away`; exit code 1 when a step failed on any.

    With `as_json` a document for each node, with its `node`; of several nodes each is one line. Raises SourceError for a
    node that cannot be asked, EngineError for a command that is no `dial-stdio`.
    """
    command = _command(away.command, [*words, *(["--state-dir", state_dir] if state_dir else [])])
    keyring, asker = Keyring(), whoever_is_there()
    bad = False
    nodes = list(dict.fromkeys(away.ssh))
    for node in nodes:
        far = Far(node, asker=asker, keyring=keyring, config=away.config)
        try:
            document = _read(node, *far.execute(command, TIMEOUT))
        finally:
            far.close()
        steps = document["steps"]
        bad = bad or failed(steps)
        if as_json:
            told = {**document, "node": node, "steps": [dict(step=s.step, result=s.result, text=s.text, hint=s.hint) for s in steps]}
            (output.say_json if len(nodes) == 1 else output.say_json_line)(told)
            continue
        if len(nodes) > 1:
            output.say(f"{escape(node)}:")
        for step in steps:
            show(step)
    return output.INCOMPLETE if bad else output.DONE


def _command(dial: str, words: Sequence[str]) -> str:
    """What runs there: as `--ssh-command` reaches georep-tui, with `doctor` for its `dial-stdio`."""
    way = shlex.split(dial or os.environ.get("GEOREP_TUI_REMOTE") or REMOTE)
    if way[-1:] != ["dial-stdio"]:
        raise EngineError(f"doctor: --ssh-command {dial!r} does not end with dial-stdio", code="usage",
                          hint="such as: --ssh-command 'sudo -n georep-tui dial-stdio'")  # fmt: skip
    return shlex.join([*way[:-1], "doctor", "--json", *words])


def _read(node: str, code: int, out: str, err: str) -> dict[str, Any]:
    """A node's document, its steps as Step. Raises SourceError with what the node said where it is none."""
    said = next((line.strip() for line in reversed(err.splitlines()) if line.strip()), "")
    if code == 127:
        raise SourceError(f"{node} has no georep-tui in the PATH of a command over ssh", code="no-command",
                          hint="install georep-tui there, or say where it is: --ssh-command")  # fmt: skip
    try:
        document = json.loads(out)
        steps = [Step(*(str(s[key]) for key in ("step", "result", "text", "hint"))) for s in document["steps"]]
        if any(s.result not in _RESULTS for s in steps) or not isinstance(document["ok"], bool):
            raise ValueError("an unknown result")
    except (ValueError, TypeError, KeyError) as e:
        if said:
            raise SourceError(f"{node}: {said.removeprefix(f'{output.NAME}: ')}", code="usage") from e
        raise SourceError(f"{node}: its doctor answers with something else", code="protocol",
                          hint="is georep-tui there as new as here? does the login print something?") from e  # fmt: skip
    return {"session": str(document.get("session", "")), "ok": not failed(steps), "steps": steps}

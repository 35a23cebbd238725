"""Where commands look for sessions: here, on nodes over ssh, or at GlusterFS's own gsyncd; and the options that say so."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from engine.model import EngineError

if TYPE_CHECKING:
    from georep_tui.sources.base import Source
    from georep_tui.ssh.asker import Questions

SSH = Annotated[
    list[str], typer.Option("--ssh", metavar="[USER@]HOST[:PORT]", help="Sessions of that node, over ssh; repeatable.")
]
GSYNCD = Annotated[bool, typer.Option("--gsyncd", help="Sessions of GlusterFS's own gsyncd, here or with --ssh there.")]
SSH_COMMAND = Annotated[
    str, typer.Option("--ssh-command", metavar="COMMAND", help="What --ssh runs there, such as: sudo -n georep-tui dial-stdio.")
]
SSH_CONFIG = Annotated[str, typer.Option("--ssh-config", metavar="FILE", help="Instead of ~/.ssh/config, as `ssh -F`.")]

CONSOLE_PATIENCE = 0.3
"""Seconds a console's look waits for a node that has not answered yet: the others are shown meanwhile."""


@dataclass(frozen=True, slots=True)
class Away:
    """Where sessions are looked for: on these nodes, gsyncd's own; else here."""

    ssh: Sequence[str]
    gsyncd: bool = False
    command: str = ""
    config: str = ""

    @property
    def elsewhere(self) -> bool:
        """On other nodes? Raises EngineError where it is said how, and not on which."""
        if (self.command or self.config) and not self.ssh:
            raise EngineError("--ssh-command and --ssh-config need --ssh", hint="--ssh [USER@]HOST[:PORT]", code="usage")
        return bool(self.ssh)


@contextlib.contextmanager
def look(
    session: str, away: Away, questions: Questions | None = None, *, known_in: str | None = None
) -> Iterator[Source]:
    """The sessions as a source. `questions` are a console's: it asks them itself, and never waits for a node.

    `known_in` is a --state-dir ("" the usual one): then those are shown, too, that are known here and do not run.

    Raises EngineError, SourceError.
    """
    from georep_tui.sources.several import Several

    elsewhere = away.elsewhere
    sources: list[Source] = []
    try:
        if elsewhere:
            sources += _nodes(away, questions)
        elif away.gsyncd:
            from georep_tui.sources.gsyncd import GsyncdSource

            sources.append(GsyncdSource())
        else:
            from georep_tui.sources.socket import Local

            known = None
            if known_in is not None:
                from georep_tui.standing import refreshed

                known = refreshed(known_in)
            sources.append(Local(session or None, known))
        yield sources[0] if len(sources) == 1 else Several(sources)
    finally:
        if questions is not None:
            questions.stop()
        for source in sources:
            source.close()


def _nodes(away: Away, questions: Questions | None) -> list[Source]:
    """A source for each node; a node named twice is asked once."""
    from georep_tui.remote import PATIENCE, NodeSource
    from georep_tui.ssh.asker import whoever_is_there
    from georep_tui.ssh.keys import Keyring
    from georep_tui.ssh.place import parse_place

    places = list(dict.fromkeys(away.ssh))
    for place in places:
        parse_place(place)
    asker, keyring = questions or whoever_is_there(), Keyring()
    patience = CONSOLE_PATIENCE if questions is not None else PATIENCE
    if away.gsyncd:
        from georep_tui.sources.gluster import Far
        from georep_tui.sources.gsyncd import GsyncdSource

        return [
            GsyncdSource(Far(place, asker=asker, keyring=keyring, config=away.config, before=shlex.split(away.command)),
                         node=place, patience=patience)
            for place in places
        ]  # fmt: skip
    return [
        NodeSource(place, away.command, asker=asker, keyring=keyring, config=away.config, patience=patience)
        for place in places
    ]  # fmt: skip

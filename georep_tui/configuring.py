"""`config`: options of a session that runs, or of one that does not, in its state directory."""

from __future__ import annotations

from typing import Any

from engine.options import find, value_text
from georep_tui import asking, output
from georep_tui.output import DONE
from georep_tui.places import state_base, stopped_config
from georep_tui.sources.base import Source, SourceError
from georep_tui.view.text import escape


def configure(
    source: Source, session: str, option: str, value: str | None, *, reset: bool, as_json: bool, local: bool,
    state_dir: str, gsyncd: bool = False,
) -> int:  # fmt: skip
    """Show options, or set or reset one; returns the exit code. Raises EngineError, SourceError."""
    name = (option.replace("-", "_") if gsyncd else find(option).name) if option else ""
    try:
        if value is None and not reset:
            params: dict[str, Any] = {"session": session} | ({"name": name} if name else {})
            return asking.show_options(source.command("config_get", params)["options"], name, as_json=as_json)
        method = "config_reset" if reset else "config_set"
        done = source.command(method, {"session": session, "name": name} | ({} if reset else {"value": value}))
        return _said(name, done["value"], bool(done["restarts"]))
    except SourceError as e:
        if e.code != "no-session" or not local:
            raise
        missing = e
    config = stopped_config(state_base(state_dir), session)
    if config is None:
        raise missing
    if value is None and not reset:
        return asking.show_options(
            [o for o in config.describe() if name in ("", o["name"])], name, as_json=as_json
        )  # fmt: skip
    if reset:
        config.reset(name)
    else:
        config.set(name, value)
    return _said(name, getattr(config.options, name), False)


def _said(name: str, value: Any, restarts: bool) -> int:
    shown = value_text(tuple(value) if isinstance(value, list) else value)
    output.say(f"{name} = {escape(shown)}" + (" (the workers start again)" if restarts else ""))
    return DONE

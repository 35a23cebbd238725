"""Every action of the console, once: keys, words, where and when it is possible. For bindings, footer, help, palette."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from georep_tui.view.snapshot import Brick, Session

EVERYWHERE = frozenset({
    "overview", "dashboard", "brick", "failures", "checkpoints", "log", "operations", "held", "options", "help",
})  # fmt: skip
_LISTS = frozenset({"overview", "dashboard", "options"})
_WITH_SESSION = EVERYWHERE - {"help"}


@dataclass(frozen=True, slots=True)
class Context:
    """Where a person is: the screen, what is selected, what is allowed."""

    screen: str
    session: Session | None = None
    brick: Brick | None = None
    item: str | None = None
    read_only: bool = False
    embedded: bool = False
    connected: bool = True
    replay: bool = False


Check = Callable[[Context], str | None]
"""Why something is not possible now; None if it is."""


@dataclass(frozen=True, slots=True)
class Action:
    """One thing a person can do. `label` is for the footer, `help` a sentence; `changes` hides it with --read-only."""

    id: str
    keys: str
    label: str
    help: str
    group: str
    screens: frozenset[str] = EVERYWHERE
    changes: bool = False
    check: Check | None = None


def _session(context: Context) -> str | None:
    return None if context.session else "no session is selected"


def _engine(context: Context) -> str | None:
    if context.replay:
        return "this is a recording"
    if not context.session:
        return "no session is selected"
    return None if context.connected else "the engine does not answer"


def _brick(context: Context) -> str | None:
    return _engine(context) or (None if context.brick else "no brick is selected")


def _pausable(context: Context) -> str | None:
    why = _brick(context)
    if why or not context.brick:
        return why
    return f"the brick is {context.brick.status}" if context.brick.status in ("Stopped", "Created") else None


def _pausable_all(context: Context) -> str | None:
    why = _engine(context)
    if why or not context.session:
        return why
    running = any(brick.status not in ("Stopped", "Created") for brick in context.session.bricks)
    return None if running else "no brick is running"


def _crawlable(context: Context) -> str | None:
    why = _brick(context)
    if why or not context.brick:
        return why
    return _crawl_state(context.brick)


def _crawlable_all(context: Context) -> str | None:
    why = _engine(context)
    if why or not context.session:
        return why
    reasons = [_crawl_state(brick) for brick in context.session.bricks]
    return None if None in reasons else "no brick can crawl now" if not reasons else reasons[0]


def _crawl_state(brick: Brick) -> str | None:
    if brick.status in ("Active", "Initializing..."):
        return None
    return {"Paused": "the brick is paused: resume it first", "Held": "held deletes wait for an answer first"}.get(
        brick.status, f"the brick is {brick.status}"
    )


def _held(context: Context) -> str | None:
    why = _engine(context)
    if why or not context.session:
        return why
    return None if any(brick.held for brick in context.session.bricks) else "nothing is held"


def _item(what: str) -> Check:
    def check(context: Context) -> str | None:
        return _engine(context) or (None if context.item else f"no {what} is selected")

    return check


def _stoppable(context: Context) -> str | None:
    why = _engine(context)
    if why or not context.session:
        return why
    return "it is stopped already" if context.session.state == "Stopped" else None


def _replay(context: Context) -> str | None:
    return None if context.replay else "only while a recording is played"


ACTIONS: tuple[Action, ...] = (
    Action("open", "enter", "open", "open what is selected", "move", frozenset({"overview", "dashboard",
           "failures"}), check=None),
    Action("back", "escape,backspace", "back", "back to where you came from", "move", EVERYWHERE - {"overview"}),
    Action("next_panel", "tab", "panel", "next panel of this screen", "move",
           frozenset({"overview", "dashboard", "brick", "held", "checkpoints"})),
    Action("filter", "slash", "filter", "show only rows with this text", "look",
           frozenset({"overview", "dashboard", "failures", "operations", "options"})),
    Action("search", "slash", "search", "search in the log", "look", frozenset({"log"})),
    Action("faults", "exclamation_mark", "faults", "show only what is not OK; again for all", "look",
           frozenset({"overview", "dashboard"})),
    Action("next_fault", "n", "next", "go to the next row that is not OK", "look",
           frozenset({"overview", "dashboard"})),
    Action("next_match", "n", "next", "go to the next match", "look", frozenset({"log"})),
    Action("previous", "N", "previous", "go to the match before", "look", frozenset({"log"})),
    Action("sort", "s", "sort", "sort by a column; the same one again turns it round", "look", _LISTS),
    Action("pause", "p", "pause", "pause the selected brick, or resume it: its changes are recorded meanwhile", "act",
           frozenset({"dashboard", "brick"}), changes=True, check=_pausable),
    Action("pause_session", "P", "pause all", "pause or resume all bricks of the session", "act",
           frozenset({"overview", "dashboard", "brick"}), changes=True, check=_pausable_all),
    Action("xsync", "x", "xsync", "force a hybrid crawl of the brick: compare everything and send what differs", "act",
           frozenset({"dashboard", "brick"}), changes=True, check=_crawlable),
    Action("xsync_all", "X", "xsync all", "force a hybrid crawl of all bricks", "act",
           frozenset({"overview", "dashboard", "brick"}), changes=True, check=_crawlable_all),
    Action("checkpoint", "c", "checkpoint", "set a checkpoint: now, or at a time you type", "act",
           frozenset({"overview", "dashboard", "brick", "checkpoints"}), changes=True, check=_engine),
    Action("verify", "v", "verify", "compare both sides, and repair if asked", "act",
           frozenset({"overview", "dashboard", "brick"}), changes=True, check=_engine),
    Action("stop", "S", "stop", "stop replicating this session", "act",
           frozenset({"overview", "dashboard", "brick"}), changes=True, check=_stoppable),
    Action("retry", "r", "retry", "try the selected failure again now", "act", frozenset({"failures"}), changes=True,
           check=_item("failure")),
    Action("retry_all", "R", "retry all", "try all failures again now", "act", frozenset({"failures"}), changes=True,
           check=_engine),
    Action("dismiss", "d", "dismiss", "strike the selected failure off, with a reason that is logged", "act",
           frozenset({"failures"}), changes=True, check=_item("failure")),
    Action("approve", "a", "approve", "let the held deletes happen (their count is typed)", "act", frozenset({"held"}),
           changes=True, check=_held),
    Action("reject", "r", "reject", "keep what would be deleted; it is listed as failures", "act", frozenset({"held"}),
           changes=True, check=_held),
    Action("set_option", "enter", "change", "change the selected option while it runs", "act", frozenset({"options"}),
           changes=True, check=_item("option")),
    Action("clear_checkpoint", "d", "clear", "clear the checkpoint", "act", frozenset({"checkpoints"}), changes=True,
           check=_engine),
    Action("failures", "f", "failures", "what could not be synced, grouped by reason", "see", _WITH_SESSION,
           check=_session),
    Action("held", "h", "held", "deletes the guard holds: approve or reject", "see", _WITH_SESSION,
           check=_session),
    Action("checkpoints", "k", "checkpoints", "the checkpoint: what it waits for, when it is done", "see",
           _WITH_SESSION, check=_session),
    Action("log", "l", "log", "the engine's log: follow, search, by brick and level", "see", _WITH_SESSION,
           check=_session),
    Action("operations", "o", "operations", "what people did here: who, when, with which result", "see",
           _WITH_SESSION, check=_session),
    Action("options", "O", "options", "options of the session; some change while it runs", "see", _WITH_SESSION,
           check=_session),
    Action("level", "L", "level", "show lines of this level and worse", "look", frozenset({"log"})),
    Action("log_brick", "b", "brick", "show the lines of one brick, or of all", "look", frozenset({"log"})),
    Action("wrap", "w", "wrap", "show long lines whole, or cut", "look", frozenset({"log"})),
    Action("follow", "space", "follow", "stay at the newest line, or stay here", "look", frozenset({"log"})),
    Action("copy", "y", "copy", "copy the selected row to the clipboard", "other"),
    Action("export", "e", "export", "write an incident bundle: snapshot, events, log, configuration, versions", "other",
           _WITH_SESSION, check=_session),
    Action("theme", "T", "theme", "the next theme", "other"),
    Action("play", "space", "play", "play the recording, or hold it", "replay", EVERYWHERE - {"log"}, check=_replay),
    Action("step_on", "full_stop,right", "step", "one step on", "replay", check=_replay),
    Action("step_back", "comma,left", "step back", "one step back", "replay", check=_replay),
    Action("seek_on", "shift+right", "a minute on", "a minute on", "replay", check=_replay),
    Action("seek_back", "shift+left", "a minute back", "a minute back", "replay", check=_replay),
    Action("faster", "plus", "faster", "play twice as fast", "replay", check=_replay),
    Action("slower", "minus", "slower", "play half as fast", "replay", check=_replay),
    Action("help", "question_mark", "help", "all keys here and now, and the words of the field", "other",
           EVERYWHERE - {"help"}),
    Action("palette", "colon,ctrl+p", "commands", "search everything that can be done", "other"),
    Action("quit", "q,ctrl+q,ctrl+c", "quit", "leave; an embedded engine can go on without a screen", "other"),
)  # fmt: skip

FOOTER: Mapping[str, tuple[str, ...]] = {
    "overview": ("open", "faults", "next_fault", "filter", "sort", "failures", "held", "log", "pause_session",
                 "checkpoint", "checkpoints", "operations"),
    "dashboard": ("open", "back", "pause", "xsync", "checkpoint", "failures", "log", "held", "faults", "next_fault",
                  "filter", "sort", "verify", "checkpoints", "operations", "options", "export"),
    "brick": ("back", "next_panel", "pause", "xsync", "failures", "log", "held", "checkpoint", "verify", "checkpoints",
              "operations", "export"),
    "failures": ("open", "back", "retry", "retry_all", "dismiss", "filter", "copy", "log", "export"),
    "checkpoints": ("back", "checkpoint", "clear_checkpoint", "failures", "log", "held"),
    "log": ("back", "search", "next_match", "previous", "follow", "wrap", "level", "log_brick", "copy", "failures"),
    "operations": ("back", "filter", "copy", "log", "failures", "held"),
    "held": ("back", "approve", "reject", "copy", "log", "failures"),
    "options": ("set_option", "back", "copy", "operations", "log"),
    "help": ("back",),
}  # fmt: skip
"""What the footer of each screen offers, the most useful first; as many as fit are shown."""

ALWAYS = ("help", "quit", "palette")
REPLAY = ("play", "step_on", "step_back", "faster", "slower")

GROUPS = {"act": "do", "see": "see", "look": "look", "move": "move", "replay": "recording", "other": "other"}
"""Titles of the groups of actions, in the order in which they are shown."""

BY_ID: Mapping[str, Action] = {action.id: action for action in ACTIONS}

_SHOWN = {
    "slash": "/", "exclamation_mark": "!", "question_mark": "?", "colon": ":", "escape": "esc", "full_stop": ".",
    "comma": ",", "plus": "+", "minus": "-", "ctrl+p": "^p", "ctrl+q": "^q", "ctrl+c": "^c",
}  # fmt: skip


def shown_keys(action: Action, keys: Mapping[str, str], all_of_them: bool = False) -> str:
    """The key of an action as a person knows it: `/`, `esc`; with `all_of_them` every one."""
    names = keys.get(action.id, action.keys).split(",")
    return " ".join(_SHOWN.get(name.strip(), name.strip()) for name in (names if all_of_them else names[:1]))


def possible(action: Action, context: Context) -> bool:
    """Does the action exist on this screen at all, for this person?"""
    if context.screen not in action.screens or action.id == context.screen or (action.changes and context.read_only):
        return False
    return action.group != "replay" or context.replay


def why_not(action: Action, context: Context) -> str | None:
    """Why the action cannot be done now; None if it can."""
    if action.changes and context.read_only:
        return "the console is read-only"
    if context.screen not in action.screens:
        return "not on this screen"
    return action.check(context) if action.check else None

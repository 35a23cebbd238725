"""`docs/keys.md`, made from the registry of actions: `python -m georep_tui.tui.keydoc > docs/keys.md`."""

from __future__ import annotations

from georep_tui.tui.actions import ACTIONS, EVERYWHERE, FOOTER, GROUPS, Action, shown_keys
from georep_tui.view.glossary import STATES, TERMS

_TITLES = {
    "act": "Doing", "see": "Seeing", "look": "Looking", "move": "Moving", "replay": "While a recording is played",
    "other": "Always",
}  # fmt: skip
_WORDS = {
    "act": "Each is confirmed in proportion to its danger, begins at the harmless answer, and is written to the "
    "operations log with who, when and result. With `--read-only` none of these is offered.",
    "move": "Arrows, page up and down, home and end move in any list; the mouse selects, two clicks open, a click on a "
    "column's head sorts.",
}
_BEGIN = """# Keys of the console

`?` shows those of the screen you are on, with the reason where something is not possible now; `:` finds every action by
its words. This page is made from the same list (`python -m georep_tui.tui.keydoc`).

Keys can be changed in `~/.config/georep-tui/config.toml`, by the names in the last column:

    [keys]
    pause = "ctrl+a"
    help = "f1,question_mark"
"""


def page() -> str:
    """The whole page."""
    parts = [_BEGIN]
    for group in GROUPS:
        parts.append(f"\n## {_TITLES[group]}\n")
        if group in _WORDS:
            parts.append(f"\n{_WORDS[group]}\n")
        parts.append("\n| key | what | where | name |\n|---|---|---|---|\n")
        parts += [_row(action) for action in ACTIONS if action.group == group]
    parts.append("\n## States\n\n| state | meaning |\n|---|---|\n")
    parts += [f"| {state} | {text} |\n" for state, text in STATES]
    parts.append("\n## Words\n\n| word | meaning |\n|---|---|\n")
    parts += [f"| {term} | {text} |\n" for term, text in TERMS]
    return "".join(parts)


def _row(action: Action) -> str:
    keys = " ".join(f"`{key}`" for key in shown_keys(action, {}, all_of_them=True).split())
    return f"| {keys} | {action.help} | {_where(action)} | `{action.id}` |\n"


def _where(action: Action) -> str:
    missing = EVERYWHERE - action.screens
    if not missing:
        return "everywhere"
    if len(missing) <= 2:
        return f"everywhere but {' and '.join(sorted(missing))}"
    return ", ".join(name for name in FOOTER if name in action.screens)


if __name__ == "__main__":
    print(page(), end="")

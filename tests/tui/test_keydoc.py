"""`docs/keys.md` is what the registry of actions says."""

from __future__ import annotations

from pathlib import Path

from georep_tui.tui.actions import ACTIONS, FOOTER, GROUPS
from georep_tui.tui.keydoc import page

KEYS = Path(__file__).resolve().parents[2] / "docs" / "keys.md"


def test_the_page_of_keys_is_that_of_the_actions() -> None:
    """Made anew with `python -m georep_tui.tui.keydoc > docs/keys.md`."""
    assert KEYS.read_text(encoding="utf-8") == page()


def test_every_action_is_on_the_page() -> None:
    """None is in a group that the page does not have; every screen has a footer."""
    assert {action.group for action in ACTIONS} == set(GROUPS)
    assert all(f"| `{action.id}` |" in page() for action in ACTIONS)
    assert {name for action in ACTIONS for name in action.screens} == set(FOOTER)

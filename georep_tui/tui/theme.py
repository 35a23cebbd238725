"""Our themes: dark, light, and one of the strongest contrast. Colours of states differ in lightness too."""

from __future__ import annotations

from textual.theme import Theme

DARK = Theme(
    name="georep-dark",
    primary="#5fafd7",
    secondary="#87afd7",
    accent="#5fd7d7",
    success="#87d75f",
    warning="#ffd75f",
    error="#ff6b6b",
    foreground="#d0d4da",
    background="#12161c",
    surface="#171c24",
    panel="#222a35",
    dark=True,
)
LIGHT = Theme(
    name="georep-light",
    primary="#005f87",
    secondary="#3a5a7a",
    accent="#00707a",
    success="#1f7a1f",
    warning="#8a5a00",
    error="#b00020",
    foreground="#1c2430",
    background="#fafafa",
    surface="#f0f2f5",
    panel="#dde3ea",
    dark=False,
)
CONTRAST = Theme(
    name="georep-contrast",
    primary="#00ffff",
    secondary="#ffffff",
    accent="#00ffff",
    success="#00ff00",
    warning="#ffff00",
    error="#ff5050",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#303030",
    dark=True,
)
OURS = (DARK, LIGHT, CONTRAST)

"""The command palette: every action, those possible here and now first; the others are dim and say why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content

from georep_tui.tui.actions import ACTIONS, GROUPS, Action, Context, shown_keys, why_not
from georep_tui.tui.screens.base import ConsoleScreen

if TYPE_CHECKING:
    from georep_tui.tui.app import Console


class ActionProvider(Provider):
    """Our actions for Textual's palette."""

    async def discover(self) -> Hits:
        """All of them, before anything is typed."""
        for action, why in self._actions():
            yield DiscoveryHit(self._title(action, why), self._run(action), text=action.label, help=action.help)

    async def search(self, query: str) -> Hits:
        """Those that match what is typed, in their label or their help."""
        matcher = self.matcher(query)
        for action, why in self._actions():
            score = max(matcher.match(action.label), 0.8 * matcher.match(action.help))
            if score > 0:
                score = score if why is None else score * 0.5
                yield Hit(score, self._title(action, why), self._run(action), text=action.label, help=action.help)

    def _actions(self) -> Iterator[tuple[Action, str | None]]:
        console = cast("Console", self.app)
        place = self.screen if isinstance(self.screen, ConsoleScreen) else console.place
        context = place.context() if place else Context("")
        offered = [(one, why_not(one, context)) for one in ACTIONS if one.id != "palette" and self._offered(one, context)]
        order = list(GROUPS)
        offered.sort(key=lambda pair: (pair[1] is not None, order.index(pair[0].group)))
        yield from offered

    @staticmethod
    def _offered(action: Action, context: Context) -> bool:
        return not (action.changes and context.read_only) and (action.group != "replay" or context.replay)

    def _title(self, action: Action, why: str | None) -> Content:
        keys = shown_keys(action, cast("Console", self.app).config.keys)
        if why is None:
            return Content.assemble((action.label, "bold"), f"  {keys}")
        return Content.assemble((f"{action.label}  {keys}  not now: {why}", "dim"))

    def _run(self, action: Action) -> Callable[[], None]:
        console = cast("Console", self.app)
        return lambda: console.action_do(action.id)

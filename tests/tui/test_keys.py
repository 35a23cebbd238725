"""Each key does what the help says of it, on each screen it is offered."""

from __future__ import annotations

from typing import Any

import pytest
from textual.command import CommandPalette
from textual.screen import ModalScreen

from georep_tui.tui.actions import ACTIONS, BY_ID, possible, why_not
from georep_tui.tui.app import Console, ExitChoice
from georep_tui.settings import ConsoleConfig
from georep_tui.tui.screens.dialogs import Choose, Pick, Typed
from georep_tui.tui.screens.leaving import LeaveDialog
from georep_tui.tui.widgets.grid import Grid
from georep_tui.tui.widgets.roll import Roll
from georep_tui.tui.widgets.search import Search
from tests.tui import scenes
from tests.tui.scenes import NOW, Stage, session, snapshot
from tests.tui.stand import console, fed, press, run, settled, text_of, until
from tests.tui.test_images import mixed

PLACES: dict[str, tuple[str, ...]] = {
    "overview": (), "dashboard": ("enter",), "brick": ("enter", "enter"), "failures": ("enter", "f"),
    "checkpoints": ("enter", "k"), "log": ("enter", "l"), "operations": ("enter", "o"), "held": ("enter", "h"),
    "options": ("enter", "O"), "help": ("enter", "question_mark"),
}  # fmt: skip


def name_of(app: Any) -> str:
    """The screen a person is at."""
    assert app.place is not None
    return str(app.place.NAME)


async def has_effect(app: Console, pilot: Any, stage: Stage, place: str, key: str) -> None:
    """A key pressed on a screen changes something that can be seen, or gives an order; then the screen is as it was."""
    home = app.screen

    def now() -> tuple[Any, ...]:
        return (app.screen, text_of(app), app.theme, len(stage.told), app.focused)

    before = now()
    await press(app, pilot, key)
    await until(lambda: now() != before, what=f"an effect of {key} on {place}")
    while app.screen is not home and home in app.screen_stack:
        await press(app, pilot, "escape")
    if app.screen is not home:  # it went from one of its kind to another
        while name_of(app) != "overview":
            await press(app, pilot, "escape")
        await press(app, pilot, *PLACES[place])
    if isinstance(app.focused, Search):
        await press(app, pilot, "escape")
    app.clear_notifications()
    await settled(app, pilot)


@pytest.mark.parametrize("place", PLACES)
def test_every_offered_key_has_an_effect_or_a_reason(
    place: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key that the screen offers does nothing: the screen, a dialog, a toast, an order, or the drawing changes."""

    monkeypatch.chdir(tmp_path)

    async def play() -> None:
        stage = mixed()
        async with console(stage, (120, 40), embedded=True, toasts=True) as (app, pilot):
            await press(app, pilot, *PLACES[place])
            context = app.context()
            # what leaves the screen for good comes last
            keys = sorted((one.keys.split(",")[0] for one in ACTIONS if possible(one, context)), key=lambda key: key == "escape")
            for key in keys:
                await has_effect(app, pilot, stage, place, key)

    run(play)


@pytest.mark.parametrize(("key", "screen"), [
    ("f", "failures"), ("h", "held"), ("k", "checkpoints"), ("l", "log"), ("o", "operations"), ("O", "options"),
    ("question_mark", "help"),
])  # fmt: skip
def test_keys_that_go_somewhere(key: str, screen: str) -> None:
    """They go there, esc and backspace come back."""

    async def play() -> None:
        async with console(mixed()) as (app, pilot):
            for back in ("escape", "backspace"):
                await press(app, pilot, "enter", key)
                assert name_of(app) == screen
                await press(app, pilot, back)
                assert name_of(app) == "dashboard"
                await press(app, pilot, back)
                assert name_of(app) == "overview"

    run(play)


def test_enter_and_escape_lead_in_and_out() -> None:
    """Overview → session → brick and back; from the overview esc leads nowhere."""

    async def play() -> None:
        async with console(mixed()) as (app, pilot):
            names = []
            for key in ("enter", "enter", "escape", "escape", "escape"):
                await press(app, pilot, key)
                names.append(name_of(app))
            assert names == ["dashboard", "brick", "dashboard", "overview", "overview"]

    run(play)


def test_one_session_opens_by_itself() -> None:
    """With a single session the console begins at it."""

    async def play() -> None:
        async with console(Stage()) as (app, pilot):
            assert name_of(app) == "dashboard"
            await press(app, pilot, "escape")
            assert name_of(app) == "overview"

    run(play)


@pytest.mark.parametrize(("doc", "method"), [(scenes.brick(1), "pause"), (scenes.paused(1), "resume")])
def test_p_says_the_wanted_state_never_toggle(doc: scenes.Doc, method: str) -> None:
    """`p` pauses what runs and resumes what is paused, by the brick's id."""

    async def play() -> None:
        stage = Stage(snapshot(session("web", [doc])))
        async with console(stage) as (app, pilot):
            await press(app, pilot, "p")
            assert (method, {"session": "web", "brick": "b1"}) in stage.told

    run(play)


def test_shift_p_pauses_all_after_asking_and_resumes_at_once() -> None:
    """Pausing everything is confirmed; resuming is not."""

    async def play() -> None:
        stage = mixed()
        async with console(stage) as (app, pilot):
            await press(app, pilot, "P")
            assert isinstance(app.screen, Choose)
            await press(app, pilot, "enter")
            assert not stage.told, "the focus is on no"
            await press(app, pilot, "P", "right", "enter")
            assert stage.told == [("pause", {"session": "web"})]
            stage.show(session("web", [scenes.paused(1), scenes.paused(2)]))
            await fed(app, pilot)
            await press(app, pilot, "P")
            assert stage.told[-1] == ("resume", {"session": "web"})

    run(play)


@pytest.mark.parametrize(("key", "method", "params"), [
    ("x", "xsync", {"session": "web", "brick": "b2"}), ("X", "xsync", {"session": "web"}),
    ("S", "stop", {"session": "web"}),
])  # fmt: skip
def test_dangerous_keys_ask_with_the_focus_on_no(key: str, method: str, params: dict[str, Any]) -> None:
    """Esc and enter do nothing; the question names session, node and brick; only a chosen yes does it."""

    async def play() -> None:
        stage = Stage(snapshot(session("web", [scenes.brick(2)])))
        async with console(stage) as (app, pilot):
            await press(app, pilot, key)
            shown = text_of(app)
            assert "web" in shown and "m2:/bricks/web2" in shown
            await press(app, pilot, "escape")
            await press(app, pilot, key, "enter")
            assert not stage.told
            await press(app, pilot, key, "right", "enter")
            assert stage.told == [(method, params)]

    run(play)


def test_x_says_what_it_would_cost() -> None:
    """From the last hybrid crawl; where there was none, that it is not known."""

    async def play() -> None:
        stage = Stage(snapshot(session("web", [scenes.brick(2)])))
        async with console(stage) as (app, pilot):
            await press(app, pilot, "x")
            assert "about 20,412 objects" in text_of(app) and "16m40s" in text_of(app)
            await press(app, pilot, "escape")
            stage.show(session("web", [scenes.brick(2, crawls=[])]))
            await fed(app, pilot)
            await press(app, pilot, "x")
            assert "not known yet" in text_of(app)

    run(play)


def test_c_sets_a_checkpoint_now_or_at_a_time() -> None:
    """`now` goes to the engine as such; a time as unix seconds; nonsense is refused while it is typed."""

    async def play() -> None:
        stage = Stage()
        async with console(stage) as (app, pilot):
            await press(app, pilot, "c", "enter")
            assert stage.told[-1] == ("checkpoint", {"session": "web", "time": "now"})
            await press(app, pilot, "c", "ctrl+u", *"soon")
            assert "not a time" in text_of(app)
            await press(app, pilot, "enter")
            assert isinstance(app.screen, Typed)
            await press(app, pilot, "ctrl+u", *"06:00", "enter")
            assert stage.told[-1] == ("checkpoint", {"session": "web", "time": int(NOW - NOW % 86400 + 6 * 3600)})
            await press(app, pilot, "c", "escape")
            assert len([one for one in stage.told if one[0] == "checkpoint"]) == 2

    run(play)


def test_v_verifies_in_the_way_chosen_and_tells_the_result() -> None:
    """Metadata, content or repair; the result comes when the job is done."""

    async def play() -> None:
        stage = Stage()
        stage.answers = {
            "verify": {"job": "j1"},
            "verify_status": {"running": False, "checked": 812, "different": 2, "repaired": 0, "error": None},
        }
        async with console(stage, toasts=True) as (app, pilot):
            await press(app, pilot, "v", "enter")
            assert not stage.told, "cancel comes first"
            await press(app, pilot, "v", "right", "right", "enter")
            assert stage.told[0] == ("verify", {"session": "web", "brick": "b1", "content": True, "repair": False})
            await until(lambda: any(method == "verify_status" for method, _ in stage.told))
            await until(lambda: "812 objects checked, 2 differences" in text_of(app))

    run(play)


def test_failures_are_retried_and_dismissed_with_a_reason() -> None:
    """`r` the selected ones, `R` all, `d` only with a reason; a group stands for its members."""

    async def play() -> None:
        stage = mixed()
        async with console(stage) as (app, pilot):
            await press(app, pilot, "end", "up", "f", "r")
            assert stage.told[-1] == ("retry", {"session": "home", "ids": ["b5-1", "b5-2", "b5-3"]}) or (
                "retry", {"session": "home", "ids": ["b5-1", "b5-2", "b5-3"]}) in stage.told  # fmt: skip
            await press(app, pilot, "down", "r")
            assert ("retry", {"session": "home", "ids": ["b5-1"]}) in stage.told
            await press(app, pilot, "R")
            assert ("retry", {"session": "home", "ids": None}) in stage.told
            await press(app, pilot, "d", "enter")
            assert isinstance(app.screen, Typed), "a reason is needed"
            await press(app, pilot, *"known", "enter")
            assert ("dismiss", {"session": "home", "ids": ["b5-1"], "reason": "known"}) in stage.told

    run(play)


def test_enter_opens_and_closes_groups_of_failures() -> None:
    """The members of a group come and go."""

    async def play() -> None:
        async with console(mixed()) as (app, pilot):
            await press(app, pilot, "end", "up", "f")
            assert "report 2.odt" in text_of(app)
            await press(app, pilot, "enter")
            assert "report 2.odt" not in text_of(app)

    run(play)


def test_approval_of_held_deletes_needs_the_typed_count_and_is_bound_to_the_id() -> None:
    """SAFE-1: another number is refused; the id is the one that was shown, whatever is held by then."""

    async def play() -> None:
        stage = Stage(snapshot(session("web", [scenes.held(6)])))
        async with console(stage) as (app, pilot):
            await press(app, pilot, "h", "a", *"512", "enter")
            assert isinstance(app.screen, Typed) and not stage.told
            changed = scenes.held(6)
            changed["held"] = {**changed["held"], "id": "h-other", "deletes": 9000}
            stage.show(session("web", [changed]))
            await fed(app, pilot)
            await press(app, pilot, "0", "enter")
            assert stage.told == [("approve", {"session": "web", "brick": "b6", "id": "h-7f3a"})]

    run(play)


def test_rejection_of_held_deletes_asks() -> None:
    """Enter alone is no."""

    async def play() -> None:
        stage = Stage(snapshot(session("web", [scenes.held(6)])))
        async with console(stage) as (app, pilot):
            await press(app, pilot, "h", "r", "enter")
            assert not stage.told
            await press(app, pilot, "r", "right", "enter")
            assert stage.told == [("reject", {"session": "web", "brick": "b6", "id": "h-7f3a"})]

    run(play)


def test_options_change_while_it_runs() -> None:
    """Enter asks for the value, with what is allowed."""

    async def play() -> None:
        stage = mixed()
        async with console(stage) as (app, pilot):
            await press(app, pilot, "enter", "O", "enter")
            assert "1 to 64" in text_of(app)
            await press(app, pilot, "ctrl+u", *"8", "enter")
            assert ("config_set", {"session": "web", "name": "sync_jobs", "value": "8"}) in stage.told

    run(play)


def test_d_clears_a_checkpoint_after_asking() -> None:
    """On the page of checkpoints."""

    async def play() -> None:
        stage = Stage()
        async with console(stage) as (app, pilot):
            await press(app, pilot, "k", "d", "enter")
            assert "checkpoint" not in [method for method, _ in stage.told]
            await press(app, pilot, "d", "right", "enter")
            assert ("checkpoint", {"session": "web", "time": "clear"}) in stage.told

    run(play)


def test_filter_faults_next_and_sort() -> None:
    """`/` narrows and esc widens, `!` leaves what is not OK, `n` goes round, `s` sorts and turns round."""

    async def play() -> None:
        async with console(mixed()) as (app, pilot):
            await press(app, pilot, "enter")
            grid = app.screen.query_one("#table", Grid)
            assert grid.keys == ["b1", "b6", "b3", "b7", "b2"], "worst first"
            await press(app, pilot, "slash", *"web3")
            assert grid.keys == ["b3"]
            await press(app, pilot, "escape")
            assert len(grid.keys) == 5 and isinstance(app.focused, Grid)
            await press(app, pilot, "exclamation_mark")
            assert "b2" not in grid.keys
            await press(app, pilot, "exclamation_mark", "home", "n", "n")
            assert grid.cursor == "b3"
            await press(app, pilot, "s")
            assert isinstance(app.screen, Pick)
            await press(app, pilot, "down", "down", "enter")
            assert grid.order.key == "brick" and grid.keys == ["b1", "b2", "b3", "b6", "b7"]
            await press(app, pilot, "s", "enter")
            assert grid.keys == ["b7", "b6", "b3", "b2", "b1"]

    run(play)


def test_log_follows_searches_and_narrows() -> None:
    """Space holds, `/` searches, `n` and `N` go on, `L` by level, `b` by brick."""

    async def play() -> None:
        async with console(mixed()) as (app, pilot):
            await press(app, pilot, "enter", "l")
            roll = app.screen.query_one("#lines", Roll)
            assert roll.following and "line 59" in text_of(app)
            await press(app, pilot, "space")
            assert not roll.following
            await press(app, pilot, "slash", *"line 7:", "enter")
            assert "line 7:" in text_of(app) and "line 59" not in text_of(app)
            await press(app, pilot, "n", "N", "L", "L", "L")
            assert all("ERROR" in "".join(cell.text for cell in line) for line in roll.lines)
            await press(app, pilot, "L", "b", "down", "enter")
            assert {cell.text.strip() for line in roll.lines for cell in line if cell.role == "accent"} <= {"/bricks/web1"}

    run(play)


def test_tab_goes_through_the_panels_and_opens_them_on_a_small_screen() -> None:
    """On 80×24 the panel with the focus is the open one."""

    async def play() -> None:
        async with console(mixed()) as (app, pilot):
            await press(app, pilot, "enter", "end", "enter")
            heights = []
            for _ in range(5):
                await press(app, pilot, "tab")
                focused = app.focused
                assert isinstance(focused, Roll)
                heights.append(focused.size.height)
            assert min(heights) >= 5

    run(play)


def test_palette_finds_and_does() -> None:
    """`:` and ctrl+p open it; what is typed finds an action; one that is not possible says why."""

    async def play() -> None:
        for key in ("colon", "ctrl+p"):
            async with console(mixed(), toasts=True) as (app, pilot):
                await press(app, pilot, "enter", key)
                assert isinstance(app.screen, CommandPalette)
                await pilot.press(*"operations")
                await until(lambda app=app: "what people did here" in text_of(app))
                await press(app, pilot, "enter")
                await until(lambda app=app: name_of(app) == "operations")

    run(play)


def test_help_lists_all_keys_of_the_screen() -> None:
    """Each action that exists on a screen is on its help, with all its keys; one that cannot be done says why."""

    async def play() -> None:
        async with console(mixed(), (160, 100)) as (app, pilot):
            for place, keys in PLACES.items():
                if place == "help":
                    continue
                while name_of(app) != "overview":
                    await press(app, pilot, "escape")
                await press(app, pilot, *keys)
                context = app.context()
                await press(app, pilot, "question_mark")
                shown = " ".join(text_of(app).split())
                for action in ACTIONS:
                    if possible(action, context):
                        assert " ".join(action.help.split()) in shown, (place, action.id)
                        why = why_not(action, context)
                        assert why is None or f"(not now: {why})" in shown, (place, action.id)

    run(play)


def test_y_copies_the_selected_row() -> None:
    """Of a failure everything that is known."""

    async def play() -> None:
        async with console(mixed()) as (app, pilot):
            await press(app, pilot, "end", "up", "f", "down", "y")
            assert app.clipboard.startswith("b5-1\t/bricks/web5\tprojects/report 1.odt")
            await press(app, pilot, "escape", "y")
            assert "home" in app.clipboard

    run(play)


def test_e_writes_a_bundle_without_secrets(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshot, events, log, failures, operations, options, versions; mode 0600."""
    import os
    import tarfile

    monkeypatch.chdir(tmp_path)

    async def play() -> None:
        stage = mixed()
        stage.answers["config_get"] = {"options": [{"name": "proxy_password", "value": "hunter2", "text": "hunter2"}]}
        async with console(stage, toasts=True) as (app, pilot):
            await press(app, pilot, "enter", "e")
            await until(lambda: list(tmp_path.glob("georep-tui-incident-web-*.tar.gz")))
            await until(lambda: "incident bundle" in text_of(app) and "✔" in text_of(app))
            await settled(app, pilot)

    run(play)
    (path,) = tmp_path.glob("*.tar.gz")
    assert os.stat(path).st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        names = {name.split("/")[1] for name in archive.getnames()}
        texts = [archive.extractfile(member).read() for member in archive.getmembers()]  # type: ignore[union-attr]
    assert names == {"snapshot.json", "events.jsonl", "log.txt", "failures.json", "held.json", "operations.json",
                     "options.json", "versions.json"}  # fmt: skip
    assert not any(b"hunter2" in text for text in texts)


@pytest.mark.parametrize("key", ["q", "ctrl+c", "ctrl+q"])
@pytest.mark.parametrize(("answer", "choice"), [
    (("enter",), ExitChoice.LEAVE), (("right", "enter"), ExitChoice.STOP), (("escape",), None),
    (("right", "right", "enter"), None),
])  # fmt: skip
def test_quitting_an_embedded_engine_asks(key: str, answer: tuple[str, ...], choice: ExitChoice | None) -> None:
    """Leave is the default, stop and stay beside it; esc stays."""

    async def play() -> None:
        async with console(mixed(), embedded=True) as (app, pilot):
            await press(app, pilot, "enter", key)
            assert isinstance(app.screen, LeaveDialog)
            for one in answer:
                await pilot.press(one)
            await pilot.pause()
            assert app.return_value is choice
            if choice is None:
                await press(app, pilot)
                assert name_of(app) == "dashboard" and not isinstance(app.screen, ModalScreen)

    run(play)


def test_quitting_from_afar_does_not_ask() -> None:
    """The engine is elsewhere; the screen just closes."""

    async def play() -> None:
        async with console(mixed()) as (app, pilot):
            await pilot.press("q")
            await pilot.pause()
            assert app.return_value is ExitChoice.LEAVE

    run(play)


def test_keys_can_be_others() -> None:
    """`[keys]` of the configuration: the new key works, the old one does not, footer and help say the new one."""

    async def play() -> None:
        stage = Stage()
        config = ConsoleConfig(refresh=0.2, keys={"pause": "ctrl+a", "help": "f1"})
        async with console(stage, config=config) as (app, pilot):
            await press(app, pilot, "p")
            assert not stage.told
            assert "f1 help" in text_of(app)
            await press(app, pilot, "ctrl+a")
            assert stage.told[0][0] == "pause"

    run(play)


def test_no_action_is_without_words() -> None:
    """Each has a key, a label for the footer and a sentence for the help; ids are what they are called by."""
    for action in ACTIONS:
        assert action.keys and action.label and len(action.help) > 7 and BY_ID[action.id] is action


def test_search_is_gone_when_it_is_not_used() -> None:
    """The line takes no place once a filter stands."""

    async def play() -> None:
        async with console(mixed()) as (app, pilot):
            await press(app, pilot, "slash", "m")
            assert app.screen.query_one(Search).display
            await press(app, pilot, "enter")
            assert not app.screen.query_one(Search).display

    run(play)

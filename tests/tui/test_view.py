"""The pure functions: texts, units, bars, tables, verdicts."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from georep_tui.view import signs
from georep_tui.view.asks import checkpoint_wrong, crawl_cost, parse_checkpoint
from georep_tui.view.events import event_line, parse_event
from georep_tui.view.notices import notices
from georep_tui.view.progress import batch_fraction, brick_eta, brick_fraction, crawl_text
from georep_tui.view.snapshot import parse
from georep_tui.view.spark import bar, percent, sparkline
from georep_tui.view.table import Column, Order, Row, arrange, layout
from georep_tui.view.text import cut, cut_middle, escape, fit, plain, width, wrap
from georep_tui.view.units import age, clock, count, duration, moment, rate, size
from georep_tui.view.bricks import state_cell
from georep_tui.view.status import check, status_lines
from georep_tui.view.verdict import Thresholds, judge_brick, judge_session, judged, limits_of
from tests.tui import scenes
from tests.tui.scenes import NOW, ZONE, session, snapshot

ANY = st.text(st.characters(codec=None), max_size=40)


@given(ANY)
@example("\U000e0020 a tag nobody sees")
def test_escape_leaves_nothing_that_acts(text: str) -> None:
    """No control, no surrogate, no mark of direction; printable ASCII stays; escaping twice changes nothing."""
    shown = escape(text)
    assert all(char.isprintable() or char == "\u00a0" or char.isspace() for char in shown)
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or 0xD800 <= ord(char) < 0xE000 for char in shown)
    assert escape(shown) == shown
    shown.encode()


@given(ANY, st.integers(0, 50))
def test_cutting_never_passes_the_width_and_says_that_it_cut(text: str, columns: int) -> None:
    """At the end or in the middle, wide characters included."""
    text = escape(text)
    for shown in (cut(text, columns), cut_middle(text, columns)):
        assert width(shown) <= columns
        assert shown == text or "…" in shown or columns == 0
    assert width(fit(text, columns)) == columns == width(fit(text, columns, right=True))


@given(ANY, st.integers(5, 40), st.integers(1, 5))
def test_wrapping_keeps_to_its_room(text: str, columns: int, lines: int) -> None:
    """So many lines of so many columns."""
    wrapped = wrap(escape(text), columns, lines)
    assert len(wrapped) <= lines and all(width(line) <= columns for line in wrapped)


@pytest.mark.parametrize(("seconds", "text"), [
    (None, "–"), (0, "0 s"), (0.031, "31 ms"), (1.24, "1.2 s"), (9.96, "10 s"), (59.6, "1m00s"), (200, "3m20s"),
    (7500, "2h05m"), (273600, "3d04h"), (-5, "-5.0 s"),
])  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    """As people read them, in six columns."""
    assert duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (0, "0 B"), (1023, "1.0 KiB"), (1024, "1.0 KiB"), (402113, "393 KiB"),
                                             (5203344, "5.0 MiB"), (1 << 60, "1024 PiB")])  # fmt: skip
def test_sizes(value: float | None, text: str) -> None:
    """In powers of 1024."""
    assert size(value) == text
    assert rate(value) == (f"{text}/s" if value is not None else "–")


@given(st.floats(0, 1e15))
def test_numbers_fit_their_columns(number: float) -> None:
    """A count in seven columns, a size in nine, whatever it is."""
    assert len(count(number)) <= 7 and len(size(min(number, 1e15))) <= 9


@pytest.mark.parametrize(("seconds", "text"), [(3, "now"), (27, "25 s"), (240, "4 min"), (7200, "2 h"), (400000, "4 d")])
def test_ages(seconds: float, text: str) -> None:
    """Coarse, so that they seldom change."""
    assert age(seconds) == text


def test_moments() -> None:
    """The time today, the date before."""
    assert clock(NOW, ZONE) == "05:24:47"
    assert moment(NOW - 3600, NOW, ZONE) == "04:24:47"
    assert moment(NOW - 86400 * 2, NOW, ZONE) == "20 Nov 05:24"
    assert moment(NOW - 86400 * 700, NOW, ZONE).startswith("2024-")
    assert moment(0, NOW, ZONE) == "never" and moment(None, NOW, ZONE) == "–"
    assert clock(1e30, ZONE) == "00:00:00"


@given(st.floats(0, 1), st.integers(1, 40))
def test_a_bar_is_full_only_at_the_end_and_empty_only_at_the_beginning(fraction: float, columns: int) -> None:
    """And as wide as it should be."""
    drawn = bar(fraction, columns)
    assert width(drawn) == columns
    assert (drawn == "█" * columns) == (fraction >= 1)
    assert (drawn == "░" * columns) == (fraction <= 0)
    assert (percent(fraction) == "100%") == (fraction >= 1)


@given(st.lists(st.none() | st.floats(0, 1e9), max_size=300), st.integers(0, 60))
def test_sparklines_keep_their_width_and_their_peak(values: list[float | None], columns: int) -> None:
    """Folding never loses the highest value."""
    drawn = sparkline(values, columns)
    assert len(drawn) <= columns
    if columns and any(value and value > 1e-300 for value in values):
        assert "█" in drawn


def test_progress_converges_and_never_says_done_too_early() -> None:
    """STA-3: what is done of entries, files and bytes; 99 % until the commit is through."""
    steps = []
    for done in range(0, 101, 10):
        doc = scenes.brick(1)
        doc["batch"] = {**doc["batch"], "entries": [done, 100], "files": [done, 100], "bytes": [done * 1000, 100_000]}
        brick = parse(snapshot(session("web", [doc]))).sessions[0].bricks[0]
        steps.append(batch_fraction(brick.batch))
    assert steps == sorted(steps, key=float) and steps[0] == 0 and steps[-1] == 0.99
    hybrid = parse(snapshot(session("web", [scenes.hybrid(1)]))).sessions[0].bricks[0]
    assert brick_fraction(hybrid) == pytest.approx(6200 / 20412) and brick_eta(hybrid) == 230.0
    assert crawl_text(hybrid.crawl) == "hybrid crawl · 6,200 of 20,412 objects (30%) · 3m50s left (by objects)"


COLUMNS = (Column("a", "a", 5, drop=0), Column("b", "b", 5, flex=1, drop=1), Column("c", "c", 5, drop=2),
           Column("w", "w", 5, since=60))  # fmt: skip


@given(st.integers(1, 300))
def test_layout_fits(total: int) -> None:
    """Columns that do not fit go, the most dispensable first; the rest is shared."""
    placed = layout(COLUMNS, total)
    used = sum(one.width for one in placed) + len(placed) - 1
    assert used <= total or [one.column.key for one in placed] == ["a"]
    assert placed[0].column.key == "a"
    assert ("w" in [one.column.key for one in placed]) == (total >= 60)


def _row(key: str, weight: int, value: float | None = None, text: str = "") -> Row:
    return Row(key, {}, values={"v": value}, weight=(weight,), text=text or key, faulty=weight > 0)


def test_rows_are_arranged() -> None:
    """Worst first, ties by name; by a column with what is unknown last; filtered; or held."""
    rows = [_row("a", 0, 3), _row("b", 2, None), _row("c", 1, 1), _row("d", 0, 2)]

    def keys(*given: object, **more: object) -> list[str]:
        return [row.key for row in arrange(rows, *given, **more)]  # type: ignore[arg-type]

    assert keys() == ["b", "c", "a", "d"]
    assert keys(Order("v")) == ["c", "d", "a", "b"]
    assert keys(Order("v", backwards=True)) == ["a", "d", "c", "b"]
    assert keys(faults=True) == ["b", "c"] and keys(needle="A") == ["a"]
    assert keys(keep=["d", "a", "x"]) == ["d", "a", "b", "c"]


def test_snapshots_take_over_what_did_not_change() -> None:
    """Objects of an equal document are the same objects."""
    first = parse(snapshot(session("web", [scenes.brick(1), scenes.brick(2)])))
    second = parse(snapshot(session("web", [scenes.brick(1), scenes.faulty(2)])), first)
    assert second.sessions[0].bricks[0] is first.sessions[0].bricks[0]
    assert second.sessions[0].bricks[1] is not first.sessions[0].bricks[1]
    with pytest.raises(ValueError, match="version"):
        parse({"version": 2, "sessions": []})


def test_additions_and_omissions_are_read() -> None:
    """Readers ignore what they do not know; what is missing is unknown."""
    doc = snapshot(session("web"))
    doc["sessions"][0]["bricks"] = [{"id": "b1", "new": 1, "batch": {"id": 3, "kinds": {"rename": 2}, "in_flight": [
        {"path": "a", "bytes": [1, 2], "bytes_per_s": 3.0}]}}]  # fmt: skip
    brick = parse(doc).sessions[0].bricks[0]
    assert brick.lag is None and brick.pending is None and brick.batch is not None
    assert brick.batch.kinds == (("rename", 2),) and brick.batch.in_flight[0].total == 2


def test_thresholds_raise_a_verdict_and_never_lower_it() -> None:
    """Lag and failures beyond a person's thresholds; the engine's critical stays."""
    doc = snapshot(session("web", [scenes.brick(1, lag_seconds=100.0), scenes.faulty(2)]))
    taken = parse(doc)
    one, two = taken.sessions[0].bricks
    source = taken.source("m1")
    assert judge_brick(one, source, NOW, Thresholds(lag_warning=200)).verdict == "ok"
    assert judge_brick(one, source, NOW, Thresholds(lag_warning=90)).verdict == "warning"
    assert judge_brick(one, source, NOW, Thresholds(lag_warning=9, lag_critical=90)).verdict == "critical"
    assert judge_brick(two, source, NOW, Thresholds(lag_warning=1e9)).verdict == "critical"
    found = judge_session(taken.sessions[0], taken, NOW, Thresholds(lag_warning=90))
    assert found.verdict == "critical" and found.reasons[0].code == "ssh"
    assert {reason.code for reason in found.reasons} == {"ssh", "lag"}


def test_pending_is_all_that_waits_and_not_the_batch() -> None:
    """What an engine counts is shown; of one that does not count, its batch; what nobody knows is unknown."""
    (copying, gsyncd, dead) = parse(snapshot(session("web", [scenes.first_copy(1), scenes.brick(2), scenes.died(3)]))).sessions[0].bricks
    assert (copying.pending, gsyncd.pending, dead.pending) == (23624, 3, None)
    code, line = check(snapshot(session("web", [scenes.first_copy(1)])))
    assert code == 1 and line.startswith("GEOREP WARNING: web: first copy: 6,376 of 30,000 files, 20 %, 1.2 of 5.8")
    assert "'lag'=U" in line and "'pending'=23624;" in line


def test_who_died_is_called_so_with_the_command_that_starts_it() -> None:
    """In the console's cell, the plain status, and the line for a monitoring system."""
    document = snapshot(session("web", [scenes.died(1)], ended=True), session("mail", [scenes.quiet(2)]))
    taken = parse(document)
    web = next(s for s in taken.sessions if s.name == "web")
    judged_ = judge_session(web, taken, NOW, Thresholds())
    assert (judged_.verdict, judged_.stale) == ("critical", None)
    assert plain(state_cell(web.state, judged_)) == "✖ died"
    lines = status_lines(document)
    assert lines[0].startswith("✖ web: CRITICAL, died, ") and "(start it again: georep-tui run web --no-ui)" in lines[2]
    code, line = check(document)
    assert (code, line.partition(" | ")[0]) == (2, "GEOREP CRITICAL: web: died, last seen 05:20:11; georep-tui run web --no-ui")
    assert "'web pending'=U" in line and "'mail pending'=0" in line


def test_a_passive_set_says_who_is_active() -> None:
    """A node with passive bricks only is well, exit code 0."""
    document = snapshot(session("vol", [{**scenes.passive(1), "active_elsewhere": "n1:/bricks/a"}], lag_seconds=None))
    taken = parse(document)
    assert judge_session(taken.sessions[0], taken, NOW, Thresholds()).verdict == "ok"
    code, line = check(document)
    assert (code, line.partition(" | ")[0]) == (0, "GEOREP OK: vol: passive: n1:/bricks/a is active")
    assert any("passive: n1:/bricks/a is active" in line for line in status_lines(document))


def test_every_state_has_a_sign_of_its_own() -> None:
    """So that it reads without colour."""
    states = ("Active", "Passive", "Initializing...", "Faulty", "Held", "Paused", "Stopped")
    assert len({signs.state(state).sign for state in states}) == len(states)
    assert all(width(signs.state(state).sign) == 1 for state in states)
    assert signs.worst("ok", "warning", "unknown") == "unknown" and signs.worst() == "ok" and signs.worst("?") == "unknown"


def test_checkpoints_are_read_as_typed() -> None:
    """now, unix seconds, the next such time, ISO 8601."""
    assert parse_checkpoint("now", NOW) == NOW
    assert parse_checkpoint("1795325087", NOW) == NOW
    assert parse_checkpoint("05:30", NOW, ZONE) == NOW - 47 + 6 * 60
    assert parse_checkpoint("05:00", NOW, ZONE) > NOW
    assert parse_checkpoint("2026-11-22T05:24:47+00:00", NOW) == NOW
    for wrong in ("", "soon", "99:99", "2999-01-01"):
        assert checkpoint_wrong(wrong, NOW, ZONE)
    assert checkpoint_wrong("now", NOW, ZONE) is None


def test_the_cost_of_a_crawl() -> None:
    """From the last finished hybrid crawl; else it is said to be unknown."""
    bricks = parse(snapshot(session("web", [scenes.brick(1), scenes.brick(2, crawls=[])]))).sessions[0].bricks
    assert "20,412" in " ".join(plain(line) for line in crawl_cost(bricks[:1]))
    assert "of 1 of 2 bricks" in " ".join(plain(line) for line in crawl_cost(bricks))
    assert "not known" in " ".join(plain(line) for line in crawl_cost(bricks[1:]))


@pytest.mark.parametrize("name", ["batch done", "faulty", "held", "failure added", "failure cleared", "failure dismissed",
                                  "checkpoint set", "checkpoint cleared", "checkpoint completed", "config set", "operation",
                                  "pause", "resume", "start", "stop", "gap", "secondary restored", "something new"])  # fmt: skip
def test_every_event_has_words(name: str) -> None:
    """Whatever fields it brings, or does not."""
    for fields in ({}, {"count": 3, "id": 1, "who": "anna", "text": "words", "files": [1, 2], "seconds": 0.2}):
        event = parse_event({"event": name, "seq": 1, "time": NOW, **fields})
        assert event.text and plain(event_line(event, "m1:/b", ZONE)).startswith("05:24:47")


def test_notices_are_about_changes_only() -> None:
    """Nothing at first, nothing for what stays; the worst first."""
    before = parse(snapshot(session("web", [scenes.brick(1), scenes.brick(2)])))
    after = parse(snapshot(session("web", [scenes.brick(1, failures=2), scenes.faulty(2)])), before)
    assert notices(None, after) == [] and notices(after, after) == []
    found = notices(before, after)
    assert [one.severity for one in found] == ["error", "warning"] and "2 new failures" in found[1].title


def test_thresholds_are_the_engines_unless_a_person_chose_lower_ones() -> None:
    """A session whose engine warns late is not warned about by the console's defaults; `--check` says the same."""
    theirs = {"lag_warning": 3600.0, "lag_critical": 7200.0, "failures_warning": 1, "failures_critical": 100}
    web = scenes.session("web", [scenes.brick(1, lag_seconds=120.0)], lag_seconds=120.0, thresholds=theirs)
    document = scenes.snapshot(web)
    taken = parse(document)
    (session,) = taken.sessions
    default, own = Thresholds(), Thresholds(lag_warning=90, lag_critical=1e6, chosen=frozenset({"lag_warning", "lag_critical"}))
    assert judge_session(session, taken, NOW, limits_of(session, default)).verdict == "ok"
    assert check(judged(document, default))[0] == 0
    limits = limits_of(session, own)
    assert (limits.lag_warning, limits.lag_critical) == (90, 7200), "never later than the engine"
    assert judge_session(session, taken, NOW, limits).verdict == "warning"
    code, line = check(judged(document, own))
    assert code == 1 and "2m00s behind" in line


def test_a_series_keeps_the_last_points() -> None:
    """Oldest first, what is not known as None, and never more than its bound."""
    from georep_tui.tui.picture import POINTS, Series

    series = Series()
    for value in (3.0, None, 5.0):
        series.append(value)
    assert list(series) == [3.0, None, 5.0] and len(series) == 3
    for value in range(POINTS + 10):
        series.append(float(value))
    assert list(series) == [float(value) for value in range(10, POINTS + 10)] and len(series) == POINTS

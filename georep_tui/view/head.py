"""The heads of a session's and a brick's page: the verdict and why, then the numbers that matter, in a few lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import tzinfo

from georep_tui.view import signs
from georep_tui.view.bricks import failures_role, lag_role
from georep_tui.view.progress import batch_fraction, crawl_text, phase_text
from georep_tui.view.sessions import (
    bricks_text,
    bytes_rate,
    checkpoint_line,
    pending_of,
    safe_text,
    stale_text,
    verdict_line,
)
from georep_tui.view.snapshot import Brick, Session
from georep_tui.view.spark import bar, percent, sparkline
from georep_tui.view.text import UNKNOWN, Cell, Line, escape, fit
from georep_tui.view.units import count, duration, moment, plural, rate, size
from georep_tui.view.verdict import Judged, Thresholds

Values = Sequence[float | None]


def session_head(
    session: Session, judged: Judged, now: float, limits: Thresholds, *, rates: Values = (), lags: Values = (),
    columns: int = 80, zone: tzinfo | None = None, reasons: int = 2, acting: bool = True,
) -> list[Line]:  # fmt: skip
    """The head of a session's page; `acting` where a person may change something."""
    spark = max(8, min(40, columns // 2 - 26))
    stale = stale_text(judged)
    role = "unknown" if stale else ""
    pending, files = pending_of(session), _sum(brick.files_rate for brick in session.bricks)
    lines: list[Line] = [verdict_line(judged, safe_text(session.state, session.lag, judged, session.bricks), columns), *hint_lines(judged, reasons)]
    lines += [
        (label("bricks"), *bricks_text(session, stale=bool(stale)), Cell(stale, "unknown")),
        (
            label("lag"), Cell(fit(duration(session.lag), 11), role or lag_role(session.lag, limits)),
            Cell(sparkline(lags, spark), "accent"), Cell("  failures ", "muted"),
            Cell(count(session.failures), failures_role(session.failures, limits)),
            Cell("  pending ", "muted"), Cell(count(pending), role),
        ),
        (
            label("rate"), Cell(fit(rate(bytes_rate(session)), 11), role),
            Cell(sparkline(rates, spark), "accent"), Cell(f"  {count(files)} files/s", "muted"),
        ),
        (label("checkpoint"), *checkpoint_line(session, now, zone, acting=acting)),
    ]  # fmt: skip
    if session.raw.get("arrival"):
        lines.append((label("arrival"), Cell(escape(str(session.raw["arrival"])), "muted")))
    return lines


def brick_head(
    brick: Brick, judged: Judged, now: float, limits: Thresholds, *, rates: Values = (), lags: Values = (),
    columns: int = 80, zone: tzinfo | None = None, reasons: int = 2,
) -> list[Line]:  # fmt: skip
    """The head of a brick's page."""
    spark = max(8, min(40, columns // 2 - 26))
    role = "unknown" if judged.stale is not None else ""
    sign = signs.state(brick.status)
    if role:
        sign = signs.Sign("?", sign.word, role)
    to = f"{brick.secondary_user}@{brick.secondary}" if brick.secondary_user else brick.secondary
    state = [Cell(f"{sign.sign} {brick.status}", sign.role), Cell(stale_text(judged), "unknown")]
    if brick.paused_by:
        state.append(Cell(f" by {escape(brick.paused_by)} {moment(brick.paused_since, now, zone)}", "muted"))
    synced = UNKNOWN if brick.last_synced is None else moment(brick.last_synced, now, zone)
    ago = f" ({duration(max(0.0, now - brick.last_synced))} ago)" if brick.last_synced else ""
    return [
        verdict_line(judged, safe_text(brick.status, brick.lag, judged, (brick,)), columns),
        *hint_lines(judged, reasons, brick, now, zone),
        (label("state"), *state, Cell("  to ", "muted"), Cell(escape(to))),
        (label("crawl"), Cell(crawl_text(brick.crawl), role)),
        (
            label("lag"), Cell(fit(duration(brick.lag), 11), role or lag_role(brick.lag, limits)),
            Cell(sparkline(lags, spark), "accent"), Cell("  last synced ", "muted"), Cell(synced + ago, role),
        ),
        (
            label("rate"), Cell(fit(rate(brick.bytes_rate), 11), role), Cell(sparkline(rates, spark), "accent"),
            Cell(f"  {count(brick.files_rate)} files/s  {count(brick.entries_rate)} entries/s", "muted"),
        ),
        (
            label("pending"), Cell(count(brick.pending)), Cell("  batch: entry ", "muted"), Cell(count(brick.entry)),
            Cell("  data ", "muted"), Cell(count(brick.data)), Cell("  meta ", "muted"), Cell(count(brick.meta)),
            Cell("  failures ", "muted"), Cell(count(brick.failures), failures_role(brick.failures, limits)),
            Cell("  backlog ", "muted"), Cell(_backlog(brick)),
        ),
        (
            label("secondary"), Cell(f"{size(brick.free_bytes)} and {count(brick.free_inodes)} inodes free", role),
            Cell(f"  on {escape(brick.secondary_node)}" if brick.secondary_node else "", "muted"),
        ),
    ]  # fmt: skip


def hint_lines(
    judged: Judged, most: int, brick: Brick | None = None, now: float = 0.0, zone: tzinfo | None = None
) -> list[Line]:
    """What to do about the first reason, then the other reasons, `most` lines of them at most."""
    if judged.verdict == "ok" or not judged.reasons:
        return []
    lines: list[Line] = []
    if judged.reasons[0].hint:
        lines.append((Cell("  → ", "muted"), Cell(escape(judged.reasons[0].hint), "strong")))
    if brick and brick.fault and brick.fault.retry_at and brick.status == "Faulty":
        when = f"attempt {brick.fault.attempt or '?'}, the next at {moment(brick.fault.retry_at, now, zone)}"
        lines.append((Cell("    ", "muted"), Cell(when, "muted")))
    for reason in judged.reasons[1:most]:
        hint = f" → {reason.hint}" if reason.hint else ""
        lines.append((Cell("  · ", "muted"), Cell(escape(reason.text)), Cell(escape(hint), "muted")))
    return lines


def batch_lines(brick: Brick, columns: int, *, stale: bool = False) -> list[Line]:
    """The batch going on: its phase and bar, what is done of each, its operations by kind; muted if that is old."""
    batch = brick.batch
    if batch is None:
        return [(Cell("between batches: nothing is on its way", "muted"),)]
    fraction = batch_fraction(batch)
    wide = max(10, min(40, columns - 40))
    lines: list[Line] = [
        (
            Cell(f"batch {batch.id}  ", "strong"), Cell(phase_text(batch), "accent"), Cell("  "),
            Cell(bar(fraction, wide), "unknown" if stale else "busy"), Cell(f" {percent(fraction)}"),
            Cell(f"  {duration(batch.eta)} left" if batch.eta is not None else "", "muted"),
        ),
        (
            Cell("entries ", "muted"), Cell(_pair(batch.entries)), Cell("  files ", "muted"), Cell(_pair(batch.files)),
            Cell("  bytes ", "muted"), Cell(_bytes(batch.bytes)),
            Cell(f"  {plural(batch.changelogs[1], 'changelog')}", "muted"),
        ),
    ]  # fmt: skip
    if batch.kinds:
        kinds = [Cell("kinds ", "muted")]
        for name, number in sorted(batch.kinds, key=lambda kind: -kind[1]):
            if number:
                kinds += [Cell(f"{escape(name)} ", "muted"), Cell(f"{count(number)}  ")]
        lines.append(tuple(kinds))
    return lines


def _backlog(brick: Brick) -> str:
    if brick.backlog_changelogs is None:
        return UNKNOWN
    return f"{plural(brick.backlog_changelogs, 'changelog')}, {size(brick.backlog_bytes)}"


def _bytes(pair: tuple[int, int]) -> str:
    # A batch whose contents' sizes are not known beforehand says 0 as the total.
    return f"{size(pair[0])}/{size(pair[1])}" if pair[1] else size(pair[0])


def label(text: str) -> Cell:
    """A label in the first column of a head."""
    return Cell(f"{text:<11}", "muted")


def _pair(pair: tuple[int, int]) -> str:
    return f"{count(pair[0])}/{count(pair[1])}"


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None

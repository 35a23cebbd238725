"""The commands that ask something of running sessions: each returns its exit code. Raise SourceError."""

from __future__ import annotations

import datetime as dt
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from georep_tui import output
from georep_tui.output import DONE, INCOMPLETE
from georep_tui.settings import ConsoleConfigError, load_config
from georep_tui.sources.base import Source, SourceError
from georep_tui.view.asks import CRAWL_BY_GSYNCD
from georep_tui.view.logs import LEVELS
from georep_tui.view.status import check, list_rows, status_lines
from georep_tui.view.text import cut, escape
from georep_tui.view.units import plural, size, stamp
from georep_tui.view.verdict import Thresholds, judged

POLL = 0.5
"""Seconds between two questions of a command that waits."""

ENDED = ("gone", "closed", "no-session")


def the_session(source: Source, name: str) -> dict[str, Any]:
    """The session of that name or id. Raises SourceError."""
    for session in source.command("snapshot", {"session": name})["sessions"]:
        if name in (session["name"], session["id"]):
            return dict(session)
    raise SourceError(f"session {name} is not running", hint="georep-tui list", code="no-session")


def _thresholds() -> Thresholds:
    """A person's own, as the console has them. Raises SourceError."""
    try:
        return load_config().thresholds
    except ConsoleConfigError as e:
        raise SourceError(str(e), code="usage") from e


def status(source: Source, name: str, *, as_json: bool, watch: bool, check_: bool, every: float = 2.0) -> int:
    """`status`: the picture as text, JSON, or one line for a monitoring system; again and again with `watch`."""
    shown: list[str] = []
    thresholds = _thresholds()
    while True:
        document = _only(source.snapshot(), name)
        if not as_json or check_:
            document = judged(document, thresholds)
        code = DONE
        if check_:
            code, line = check(document)
            lines = [line]
        elif as_json:
            lines = []
        else:
            lines = status_lines(document) or [
                "no session is running here; begin one: georep-tui run PRIMARY… SECONDARY"
            ]
        if as_json:
            (output.say_json_line if watch else output.say_json)(document)
        elif lines != shown:
            if watch and sys.stdout.isatty():
                sys.stdout.write("\x1b[H\x1b[2J")
            elif shown:
                output.say()
            for line in lines:
                output.say(line)
            sys.stdout.flush()
            shown = lines
        if not watch:
            return code
        time.sleep(every)


def _only(document: dict[str, Any], name: str) -> dict[str, Any]:
    if not name:
        return document
    found = [s for s in document["sessions"] if name in (s["name"], s["id"])]
    if not found:
        raise SourceError(f"session {name} is not running", hint="georep-tui list", code="no-session")
    return {**document, "sessions": found}


def not_running(session: str, error: SourceError, state_dir: str) -> int:
    """`--check` without an answer: a known session that does not run is critical, else it cannot be told."""
    from georep_tui.places import known_session, state_base

    stopped = error.code == "no-session" and session and known_session(state_base(state_dir), session) is not None
    word, code = ("CRITICAL", 2) if stopped else ("UNKNOWN", 3)
    output.say(cut(escape(f"GEOREP {word}: {error.text}").replace("|", "/"), 80))
    return code


def list_sessions(document: Mapping[str, Any], stopped: Sequence[tuple[str, str, str]], *, as_json: bool) -> int:
    """`list`: what runs, and what is known but does not (name, primary, secondary)."""
    if as_json:
        output.say_json({
            "sessions": [
                *({k: s[k] for k in ("id", "name", "kind", "state", "verdict", "lag_seconds", "failures", "primary",
                                     "secondary")} | {"running": True} for s in document["sessions"]),
                *({"name": n, "primary": p, "secondary": s, "state": "Stopped", "running": False}
                  for n, p, s in stopped),
            ]
        })  # fmt: skip
        return DONE
    rows = [*list_rows(document), *((escape(n), "Stopped", "–", "–", "–", escape(p), escape(s)) for n, p, s in stopped)]
    if not rows:
        output.say("no session is running or known here; begin one: georep-tui run PRIMARY… SECONDARY")
        return DONE
    head = ("session", "state", "verdict", "lag", "failures", "primary", "secondary")
    for line in output.table(rows, head, right=(3, 4)):
        output.say(line)
    return DONE


def order(source: Source, method: str, name: str, brick: str, *, yes: bool = False) -> int:
    """`pause`, `resume`, `xsync`, `stop`, `start`; `yes` answers what would be asked. Exit code 1 where a node failed."""
    if method == "xsync" and the_session(source, name).get("engine") == "gsyncd" and not yes:
        _agree(name)
    params: dict[str, Any] = {"session": name} | ({"brick": brick} if brick else {})
    if method == "stop":
        try:
            result = source.command(method, params)
            if result.get("stopped"):
                output.say(f"{escape(name)}: stopped")
                return DONE
        except SourceError as e:
            if e.code != "gone":  # it may be gone before its answer is out
                raise
        return _stopped(source, name)
    result = source.command(method, params | ({"wait": True} if method == "xsync" else {}))
    words = str(result.get("words") or _DONE[method])
    for one in result.get("bricks") or ():
        output.say(f"{escape(str(one))}: {escape(words)}")
    return _failed(result)


_DONE = {
    "pause": "paused", "resume": "resumed", "start": "started", "xsync": "will be crawled after the batch that runs",
}  # fmt: skip


def _failed(result: Mapping[str, Any]) -> int:
    """Say at which nodes it was not done; the exit code."""
    failed = [one for one in result.get("nodes") or () if not one["done"]]
    for one in failed:
        output.error(f"{one['node']}: {one['error']}", one["hint"])
    return INCOMPLETE if failed else DONE


def _agree(name: str) -> None:
    """Explain what a crawl by gsyncd takes, and ask. Raises SourceError where the answer is not yes."""
    for line in CRAWL_BY_GSYNCD:
        output.say(line)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise SourceError(f"xsync of {name} restarts gsyncd's workers", hint="say so: --yes", code="usage")
    sys.stdout.write(f"Crawl {escape(name)}? (yes/no) ")
    sys.stdout.flush()
    if sys.stdin.readline().strip().lower() != "yes":
        raise SourceError("not done", code="usage")


def _stopped(source: Source, name: str) -> int:
    """Wait until the engine has gone."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            source.command("ping", {"session": name})
        except SourceError as e:
            if e.code in ENDED:
                output.say(f"{escape(name)}: stopped")
                return DONE
            raise
        time.sleep(0.1)
    raise SourceError(f"session {name} has not stopped within 60 s", hint="see its log", code="silent")


def checkpoint(source: Source, name: str, at: float | None, words: str, *, wait: bool) -> int:
    """`checkpoint`: set or clear it; with `wait`, until it is complete."""
    result = source.command("checkpoint", {"session": name, "time": "now" if words == "now" else at})
    failed = _failed(result)
    if result.get("time") is None:
        output.say(f"{escape(name)}: checkpoint cleared")
        return failed
    set_to = float(result["time"])
    output.say(f"{escape(name)}: checkpoint {stamp(set_to)} ({set_to:.0f})")
    sys.stdout.flush()
    while wait:
        point = the_session(source, name)["checkpoint"]
        if point["time"] is None or abs(point["time"] - set_to) >= 1:
            raise SourceError(f"the checkpoint of {name} was changed meanwhile", code="changed")
        if point["completed"]:
            before = point.get("failures_before") or 0
            output.say(
                f"{escape(name)}: checkpoint completed" + (f", {plural(before, 'failure')} before it" if before else "")
            )
            return INCOMPLETE if before else DONE
        time.sleep(POLL)
    return failed


def failures(
    source: Source, name: str, ids: Sequence[str], *, retry: bool, dismiss: bool, reason: str, as_json: bool
) -> int:
    """`failures`: the ledger; or try entries again, or dismiss them."""
    if retry:
        result = source.command("retry", {"session": name, "ids": list(ids) or None})
        output.say(f"{plural(int(result['retrying']), 'failure')} tried again now")
        return _failed(result)
    if dismiss:
        result = source.command("dismiss", {"session": name, "ids": list(ids) or None, "reason": reason})
        output.say(f"{plural(int(result['dismissed']), 'failure')} dismissed")
        return _failed(result)
    result = _ledger(source, name, ids)
    found = [f for f in result["failures"] if not ids or f["id"] in ids]
    missing = [i for i in ids if i not in {f["id"] for f in found}]
    if missing:
        raise SourceError(f"no failure {missing[0]!r} in the ledger", hint=f"georep-tui failures {name}", code="usage")
    if as_json:
        output.say_json({**result, "failures": found})
        return INCOMPLETE if found else DONE
    if result.get("note"):
        output.say(escape(str(result["note"])))
    for f in found:
        tries = f"{plural(int(f['tries']), 'try', 'tries')} since {stamp(float(f['first_time']))}"
        output.say(f"{f['id']}  {f['operation']}  {escape(str(f['path']))}: {escape(str(f['message']))} ({tries})")
        if f.get("hint"):
            output.say(f"      {escape(str(f['hint']))}")
    if not ids and int(result.get("total") or 0) > len(result["failures"]):
        output.say(f"and {int(result['total']) - len(result['failures'])} more")
    failed = _failed(result)
    if not found and not failed:
        output.say(f"{escape(name)}: no failures")
    return INCOMPLETE if found or failed else DONE


def _ledger(source: Source, name: str, ids: Sequence[str]) -> dict[str, Any]:
    """The entries of these ids, or all of them, asked for page by page."""
    if ids:
        return dict(source.command("failures", {"session": name, "ids": list(ids)}))
    result = dict(source.command("failures", {"session": name}))
    while after := result.get("next"):
        more = source.command("failures", {"session": name, "after": after})
        result |= {"failures": [*result["failures"], *more["failures"]], "total": more["total"], "next": more.get("next")}
    result.pop("next", None)
    return result


def held(source: Source, name: str, *, approve: str, reject: str, as_json: bool) -> int:
    """`held`: the deletes that wait for a person; or the answer to them."""
    if approve or reject:
        source.command("approve" if approve else "reject", {"session": name, "id": approve or reject})
        output.say(f"{escape(approve or reject)}: {'approved' if approve else 'rejected'}")
        return DONE
    result = source.command("held", {"session": name})
    if as_json:
        output.say_json(result)
        return INCOMPLETE if result["held"] else DONE
    for one in result["held"]:
        weight = "" if one.get("bytes") is None else f", {size(one['bytes'])}"
        output.say(f"{one['id']}  {escape(str(one['brick']))}: {escape(str(one['reason']))}")
        output.say(f"      {one['deletes']} of {one['of']} objects{weight}, since {stamp(float(one['since']))}")
        for path in one["sample"]:
            output.say(f"      {escape(str(path))}")
    if not result["held"]:
        output.say(f"{escape(name)}: nothing is held")
    return INCOMPLETE if result["held"] else DONE


def verify(source: Source, name: str, *, content: bool, repair: bool, brick: str, as_json: bool) -> int:
    """`verify`: compare both sides, wait for the result (SAFE-3)."""
    params: dict[str, Any] = {"session": name, "content": content, "repair": repair}
    job = source.command("verify", params | ({"brick": brick} if brick else {}))["job"]
    on_terminal = sys.stderr.isatty()
    while (state := source.command("verify_status", {"session": name, "job": job}))["running"]:
        if on_terminal:
            sys.stderr.write(f"\r{state['checked']:,} objects checked, {state['different']:,} different \x1b[K")
            sys.stderr.flush()
        time.sleep(POLL)
    if on_terminal:
        sys.stderr.write("\r\x1b[K")
    left = int(state["different"]) - int(state["repaired"])
    problem = state["error"]
    if as_json:
        output.say_json(state)
    else:
        for one in state["differences"]:
            output.say(f"{escape(str(one['path']))}: {escape(str(one['what']))}")
        if int(state["different"]) > len(state["differences"]):
            output.say(f"and {plural(int(state['different']) - len(state['differences']), 'more difference')}")
        mended = f", {plural(int(state['repaired']), 'object')} repaired" if repair else ""
        compared = f", content of {plural(int(state['content']), 'file')}" if content else ""
        words = plural(int(state["different"]), "difference")
        output.say(f"{plural(int(state['checked']), 'object')} checked{compared}: {words}{mended}")
    if problem:
        output.error(str(problem["text"]), str(problem.get("hint") or ""))
    return INCOMPLETE if left > 0 or problem else DONE


def logs(source: Source, name: str, *, follow: bool, level: str, brick: str, lines: int, as_json: bool) -> int:
    """`logs`: the last lines of the engine's log, and those to come."""
    if level not in LEVELS:
        raise SourceError(f"--level {level!r}", hint=f"one of {', '.join(LEVELS)}", code="usage")
    since, limit = 0, lines
    while True:
        params = {"session": name, "since": since, "limit": limit, "level": level, "brick": brick}
        try:
            found = source.command("logs", params)["lines"]
        except SourceError as e:
            if follow and e.code in ENDED:
                return DONE
            raise
        for line in found:
            if as_json:
                output.say_json_line(line)
            else:
                node = f"{escape(str(line['node']))} " if line.get("node") else ""
                where = node + (f"{escape(line['brick'])}: " if line["brick"] else "")
                when = dt.datetime.fromtimestamp(line["time"]).isoformat(" ", "milliseconds")
                output.say(f"{when} {line['level'].upper():7} {where}{escape(line['text'])}")
            since = int(line["n"])
        sys.stdout.flush()
        if not follow:
            return DONE
        limit = 1000
        time.sleep(POLL)


def show_options(options: Sequence[Mapping[str, Any]], one: str, *, as_json: bool) -> int:
    """`config`: every option with its value and origin, or one of them in full."""
    if as_json:
        output.say_json({"options": list(options)})
        return DONE
    if one:
        found = options[0]
        for key, value in (("value", found["text"]), ("from", found["origin"]), ("default", found["default"]),
                           ("allowed", found["allowed"]), ("live", "yes" if found["live"] else "no, workers restart"),
                           ("", found["help"])):  # fmt: skip
            output.say(f"{key:8} {escape(str(value))}".rstrip())
        return DONE
    for line in output.table([(o["name"], escape(str(o["text"])), escape(str(o["origin"]))) for o in options]):
        output.say(line)
    return DONE

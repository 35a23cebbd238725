"""Several sources shown and asked as one; a command goes to every node concerned, and its result says who did what."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from georep_tui.sources.base import Doc, Source, SourceError, unreachable
from georep_tui.sources.merging import Key, identity, joined, merged, options, renamed

ENDED = ("gone", "closed", "no-session")
KEPT_PLACES = 20_000
"""Lines of merged logs whose place on each node is remembered."""


@dataclass(frozen=True, slots=True)
class Part:
    """A session's part at one source: what it is called there, and which bricks it has."""

    source: Source
    node: str
    name: str
    id: str
    bricks: tuple[tuple[str, str, str], ...]
    """(id, path, node) of each."""

    def has(self, brick: str) -> str | None:
        """The brick that a word means here: its id, its path, or NODE:PATH; None where it means none."""
        for ident, path, node in self.bricks:
            if brick in (ident, path, f"{node}:{path}"):
                return ident
        return None


class Several:
    """Sources shown as one: their sessions side by side; a session seen from several nodes is put together."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = list(sources)
        self._parts: dict[str, dict[Key, list[Part]]] = {}
        self._ids: dict[Key, str] = {}
        self._namesakes: set[str] = set()
        self._jobs: dict[str, list[tuple[Part, str]]] = {}
        self._log_places: OrderedDict[int, dict[str, int]] = OrderedDict()
        self._log_number = 0

    # ---- looking -------------------------------------------------------------------------------------------------

    def snapshot(self) -> Doc:
        """All pictures in one. Raises SourceError only when no source has an answer."""
        answered: list[tuple[Source, str, Doc]] = []
        lost: list[Doc] = []
        parts: dict[str, dict[Key, list[Part]]] = {}
        error: SourceError | None = None
        for source in self.sources:
            place = str(getattr(source, "node", ""))
            try:
                answered.append((source, place, source.snapshot()))
            except SourceError as e:
                error = error or e
                if place:
                    lost.append(unreachable(place, e))
        self._tell_apart(answered)
        documents = []
        for source, place, picture in answered:
            document = picture
            for node in {s["node"] for s in picture["sources"]} & self._namesakes if place else ():
                document = renamed(document, node, place)
            documents.append(document)
            for session in document["sessions"]:
                self._remember(parts, source, session, place)
        if error is not None and not documents:
            raise error
        self._parts = parts
        whole = documents[0] if len(self.sources) == 1 else merged(documents, self._ids)
        for key in {key for keys in parts.values() for key in keys}:
            if key in self._ids:  # the id under which it is shown
                found = next(keys[key] for keys in parts.values() if key in keys)
                parts.setdefault(self._ids[key], {})[key] = found
        seen = {s["node"] for s in whole["sources"]}
        lost = [one for one in lost if one["node"] not in seen]
        return {**whole, "sources": [*whole["sources"], *lost]} if lost else whole

    def _tell_apart(self, answered: Sequence[tuple[Source, str, Doc]]) -> None:
        """Machines that call themselves the same are called as they are reached, from then on."""
        seen: dict[str, Source] = {}
        for source, _, document in answered:
            if getattr(source, "cluster_wide", False):
                continue
            for node in [s["node"] for s in document["sources"]]:
                if seen.setdefault(node, source) is not source:
                    self._namesakes.add(node)

    @staticmethod
    def _remember(parts: dict[str, dict[Key, list[Part]]], source: Source, session: Doc, place: str) -> None:
        key = identity(session)
        bricks = tuple((b["id"], b["brick"], b["node"]) for b in session["bricks"])
        node = place or (bricks[0][2] if bricks else "")
        part = Part(source, node, session["name"], session["id"], bricks)
        group = next((keys[key] for keys in parts.values() if key in keys), None)
        if group is None:
            group = []
        group.append(part)
        for word in {session["id"], session["name"]}:
            parts.setdefault(word, {})[key] = group

    def events(self) -> list[Doc]:
        """Everything new, in order of time."""
        found = [event for source in self.sources for event in source.events()]
        return sorted(found, key=lambda event: float(event.get("time") or 0))

    def close(self) -> None:
        """Let go of all."""
        for source in self.sources:
            source.close()

    # ---- acting --------------------------------------------------------------------------------------------------

    def command(self, method: str, params: Mapping[str, Any]) -> Any:
        """To every node that has bricks of the session; with a brick named, to that one's. Raises SourceError."""
        wanted = str(params.get("session") or "")
        if method == "snapshot":
            return self._fresh(wanted)
        if method == "verify_status" and str(params.get("job")) in self._jobs:
            return self._verify_status(str(params["job"]))
        parts = self._find(wanted)
        brick = str(params.get("brick") or "")
        if brick and len(parts) > 1:
            return self._one_brick(parts, brick, method, params)
        if len(parts) == 1:
            return self._ask(parts[0], method, params)
        if method in ("retry", "dismiss") and params.get("ids") is not None:
            return self._by_id(parts, method, params)
        if method in ("approve", "reject"):
            return self._first(parts, method, params)
        special: Mapping[str, Callable[[Sequence[Part], Mapping[str, Any]], Any]] = {
            "ping": self._ping, "logs": self._logs, "verify": self._verify, "config_get": self._options,
        }  # fmt: skip
        return special[method](parts, params) if method in special else self._all(parts, method, params)

    def _fresh(self, wanted: str) -> Doc:
        """The session's picture as its engines have it now: what was just ordered is in it."""
        parts = self._find(wanted)
        if len(parts) == 1:
            return self._cut_to(self._ask(parts[0], "snapshot", {}), parts[0].name)
        try:
            documents = [self._ask(part, "snapshot", {}) for part in parts]
        except SourceError:  # one is away: its last picture says so
            return self._cut_to(self.snapshot(), wanted)
        mine = [self._cut_to(d, p.name) for d, p in zip(documents, parts, strict=True)]
        return merged(mine, self._ids)

    @staticmethod
    def _cut_to(document: Doc, wanted: str) -> Doc:
        found = [s for s in document["sessions"] if wanted in ("", s["id"], s["name"])]
        if not found:
            raise SourceError(f"session {wanted} is not running", hint="georep-tui list", code="no-session")
        return {**document, "sessions": found}

    def _find(self, wanted: str) -> list[Part]:
        if wanted not in self._parts:
            self.snapshot()
        groups = self._parts.get(wanted)
        if not groups:
            raise SourceError(f"no session {wanted!r} is running", hint="georep-tui list", code="no-session")
        if len(groups) > 1:
            which = "; ".join(f"{parts[0].id} to {key[2]}" for key, parts in groups.items())
            raise SourceError(f"{len(groups)} sessions are called {wanted}", hint=f"say which by its id: {which}",
                              code="ambiguous")  # fmt: skip
        parts = next(iter(groups.values()))
        if all(getattr(p.source, "cluster_wide", False) for p in parts):
            return [next((p for p in parts if getattr(p.source, "reachable", True)), parts[0])]
        return parts

    @staticmethod
    def _ask(part: Part, method: str, params: Mapping[str, Any]) -> Any:
        return part.source.command(method, {**params, "session": part.name})

    def _one_brick(self, parts: Sequence[Part], brick: str, method: str, params: Mapping[str, Any]) -> Any:
        found = [(p, ident) for p in parts if (ident := p.has(brick))]
        if not found:
            raise SourceError(f"no node has a brick {brick!r}", hint="georep-tui status names them", code="no-brick")
        if len(found) > 1:
            names = ", ".join(f"{p.node}:{brick}" for p, _ in found)
            raise SourceError(f"several nodes have a brick {brick}", hint=f"say which: {names}", code="ambiguous")
        part, ident = found[0]
        return self._ask(part, method, {**params, "brick": ident})

    def _all(self, parts: Sequence[Part], method: str, params: Mapping[str, Any]) -> Any:
        """Everywhere. `nodes` in the result says what became of it at each. Raises SourceError when it failed at all."""
        answers: list[tuple[str, Any]] = []
        told: list[Doc] = []
        errors: list[SourceError] = []
        for part in parts:
            try:
                answer = self._ask(part, method, params) if method != "failures" else self._ledger(part, params)
            except SourceError as e:
                errors.append(e)
                told.append({"node": part.node, "done": False, "error": e.text, "hint": e.hint, "code": e.code})
            else:
                answers.append((part.node, answer))
                told.append({"node": part.node, "done": True, "error": None, "hint": "", "code": ""})
        if not answers:
            if len({e.text for e in errors}) == 1:
                raise errors[0]
            raise SourceError("; ".join(f"{t['node']}: {t['error']}" for t in told), hint=errors[0].hint,
                              code=errors[0].code)  # fmt: skip
        out = joined([*answers, ("", {})]) if len(answers) == 1 else joined(answers)
        return {**out, "nodes": told} if isinstance(out, dict) else out

    def _ledger(self, part: Part, params: Mapping[str, Any]) -> Doc:
        """The ledger of one node to its end: a page has its place in one ledger only."""
        answer: Doc = dict(self._ask(part, "failures", params))
        while (after := answer.pop("next", None)) and not params.get("limit"):
            more = self._ask(part, "failures", {**params, "after": after})
            answer |= {"failures": [*answer["failures"], *more["failures"]], "next": more.get("next")}
        return answer

    def _ping(self, parts: Sequence[Part], params: Mapping[str, Any]) -> Any:
        """An answer where any part lives; gone only when all have ended. Raises SourceError."""
        ended: SourceError | None = None
        unknown: SourceError | None = None
        for part in parts:
            try:
                return self._ask(part, "ping", params)
            except SourceError as e:
                if e.code in ENDED:
                    ended = e
                else:
                    unknown = e
        raise unknown or ended or SourceError("no node", code="no-session")

    def _options(self, parts: Sequence[Part], params: Mapping[str, Any]) -> Any:
        return options([(p.node, self._ask(p, "config_get", params)) for p in parts])

    def _first(self, parts: Sequence[Part], method: str, params: Mapping[str, Any]) -> Any:
        """Whoever knows the id: what is held, is held by one."""
        errors: list[SourceError] = []
        for part in parts:
            try:
                return self._ask(part, method, params)
            except SourceError as e:
                errors.append(e)
        raise next((e for e in errors if e.code != "not-held"), errors[0])

    def _by_id(self, parts: Sequence[Part], method: str, params: Mapping[str, Any]) -> Any:
        """Failures by their ids: each to the node that has it. Raises SourceError where nobody has one of them."""
        wanted = [str(i) for i in params["ids"]]
        answers: list[tuple[str, Any]] = []
        for part in parts:
            there = {str(f["id"]) for f in self._ask(part, "failures", {"ids": wanted})["failures"]}
            mine = [i for i in wanted if i in there]
            wanted = [i for i in wanted if i not in there]
            if mine:
                answers.append((part.node, self._ask(part, method, {**params, "ids": mine})))
        if wanted:
            raise SourceError(f"no failure {wanted[0]!r} in the ledger of any node", code="usage",
                              hint="georep-tui failures shows them")  # fmt: skip
        return joined(answers)

    # ---- what goes on for a while -----------------------------------------------------------------------------------

    def _verify(self, parts: Sequence[Part], params: Mapping[str, Any]) -> Any:
        jobs = [(part, str(self._ask(part, "verify", params)["job"])) for part in parts]
        name = "+".join(job for _, job in jobs)
        self._jobs[name] = jobs
        return {"job": name}

    def _verify_status(self, name: str) -> Any:
        states = [
            (part.node, self._ask(part, "verify_status", {"session": part.name, "job": job}))
            for part, job in self._jobs[name]
        ]  # fmt: skip
        whole = joined(states)
        error = next((s["error"] for _, s in states if s.get("error")), None)
        return {**whole, "job": name, "running": any(s["running"] for _, s in states), "error": error}

    def _logs(self, parts: Sequence[Part], params: Mapping[str, Any]) -> Any:
        """Lines of all nodes in order of time, numbered anew; a number stands for a place in each node's log."""
        since = int(params.get("since") or 0)
        limit = int(params.get("limit") or 1000)
        places = dict(self._log_places.get(since) or {})
        lines: list[tuple[float, str, Doc]] = []
        for part in parts:
            asked = {**params, "since": places.get(part.id, 0)}
            for line in self._ask(part, "logs", asked)["lines"]:
                lines.append((float(line["time"]), part.id, {**line, "node": part.node}))
        lines.sort(key=lambda one: one[0])
        dropped, kept = lines[:-limit] if since == 0 else [], lines[-limit:] if since == 0 else lines[:limit]
        for _, ident, line in dropped:
            places[ident] = max(places.get(ident, 0), int(line["n"]))
        out = []
        for _, ident, line in kept:
            places[ident] = max(places.get(ident, 0), int(line["n"]))
            self._log_number += 1
            self._log_places[self._log_number] = dict(places)
            out.append({**line, "n": self._log_number})
        while len(self._log_places) > KEPT_PLACES:
            self._log_places.popitem(last=False)
        return {"lines": out}

"""Prometheus: what a snapshot says, as metrics under --metrics HOST:PORT."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.model import EngineError
from engine.names import escaped

Doc = Mapping[str, Any]
_BRICK = ["session", "node", "brick"]
_STATUSES = ("Created", "Initializing...", "Active", "Passive", "Faulty", "Held", "Paused", "Stopped")
_VERDICTS = ("ok", "warning", "critical", "unknown")

_GAUGES = (
    ("last_synced_timestamp_seconds", "How far the secondary has got, in unix time.", ("last_synced",)),
    ("failures", "Objects in the failure ledger.", ("failures",)),
    ("as_of_timestamp_seconds", "The instant up to which everything is on the secondary, in unix time.", ("as_of",)),
    ("first_copy", "1 until a first full pass is through.", ("first_copy",)),
    ("recovering", "1 while what a crash left is repeated.", ("recovering",)),
    ("backlog_changelogs", "Changelogs that wait.", ("backlog", "changelogs")),
    ("backlog_bytes", "Bytes of changelogs that wait.", ("backlog", "bytes")),
    ("entries_per_second", "Entry operations done, over the last seconds.", ("rate", "entries_per_s")),
    ("files_per_second", "Files sent, over the last seconds.", ("rate", "files_per_s")),
    ("bytes_per_second", "Bytes sent, over the last seconds.", ("rate", "bytes_per_s")),
    ("checkpoint_timestamp_seconds", "The checkpoint, in unix time.", ("checkpoint_time",)),
    ("checkpoint_completed", "1 when the checkpoint is reached.", ("checkpoint_completed",)),
    ("held_deletes", "Deletes that wait for a person.", ("held", "deletes")),
    ("secondary_free_bytes", "Free bytes on the secondary.", ("secondary_free", "bytes")),
    ("secondary_free_inodes", "Free inodes on the secondary.", ("secondary_free", "inodes")),
)
_ALWAYS = (
    ("lag_seconds", "Age of the oldest change that is not on the secondary; NaN when nobody knows.", ("lag_seconds",)),
    ("pending", "Changes that are known and not on the secondary; NaN when nobody knows.", ("backlog", "changes")),
)
"""Gauges that never vanish: an alarm on one that is absent is none."""

_UP = ("Active", "Held", "Paused", "Passive")
"""States in which a session's engine is at work with its secondary, or stands by."""

_COUNTERS = (
    ("entries", "Entry operations done since the session was made."),
    ("files", "Files sent since the session was made."),
    ("bytes", "Bytes sent since the session was made."),
    ("crawls", "Crawls begun since the session was made."),
    ("turns", "Batches done since the session was made."),
    ("restarts", "Restarts of the worker since the session was made."),
)


class SnapshotCollector(Collector):
    """Makes metrics of the newest snapshot each time it is asked. What is unknown has no sample, but for a lag and
    what waits: these are NaN then."""

    def __init__(self, snapshot: Callable[[], Doc]) -> None:
        self._snapshot = snapshot

    def describe(self) -> list[Metric]:
        """Nothing in advance: a registry then does not ask for a snapshot when the collector is added."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics of now."""
        document = escaped(self._snapshot())
        yield from _engine(document)
        yield from _sessions(document["sessions"])
        yield from _bricks(document["sessions"])


def _engine(document: Doc) -> Iterator[Metric]:
    info = InfoMetricFamily("georep_engine", "The engine that is asked.", labels=["node"])
    for source in document["sources"]:
        info.add_metric([source["node"]], {"version": source["engine_version"] or ""})
    yield info


def _sessions(sessions: list[Doc]) -> Iterator[Metric]:
    verdict = GaugeMetricFamily("georep_session_verdict", "1 at the verdict of now.", labels=["session", "verdict"])
    lag = GaugeMetricFamily("georep_session_lag_seconds", "The lag of the brick furthest behind.", labels=["session"])
    failures = GaugeMetricFamily("georep_session_failures", "Failures of all bricks.", labels=["session"])
    up = GaugeMetricFamily("georep_session_up", "1 while every brick has its secondary, 0 when one does not.", labels=["session"])
    for session in sessions:
        name = [session["name"]]
        for word in _VERDICTS:
            verdict.add_metric([*name, word], float(session["verdict"] == word))
        lag.add_metric(name, _number(session["lag_seconds"]))
        failures.add_metric(name, _number(session["failures"]))
        up.add_metric(name, float(all(brick["status"] in _UP for brick in session["bricks"])))
    yield from (verdict, lag, failures, up)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _bricks(sessions: list[Doc]) -> Iterator[Metric]:
    bricks = [([s["name"], b["node"], b["brick"]], b) for s in sessions for b in s["bricks"]]
    status = GaugeMetricFamily("georep_brick_status", "1 at the status of now.", labels=[*_BRICK, "status"])
    batch = GaugeMetricFamily("georep_brick_batch_operations", "What is left of the running batch.", labels=[*_BRICK, "kind"])
    for labels, brick in bricks:
        for word in _STATUSES:
            status.add_metric([*labels, word], float(brick["status"] == word))
        for kind in ("entry", "data", "meta"):
            batch.add_metric([*labels, kind], brick[kind])
    yield from (status, batch)
    for name, help, path in _ALWAYS:
        gauge = GaugeMetricFamily(f"georep_brick_{name}", help, labels=_BRICK)
        for labels, brick in bricks:
            gauge.add_metric(labels, _number(_at(brick, path)))
        yield gauge
    for name, help, path in _GAUGES:
        gauge = GaugeMetricFamily(f"georep_brick_{name}", help, labels=_BRICK)
        for labels, brick in bricks:
            value = _at(brick, path)
            if value is not None:
                gauge.add_metric(labels, float(value))
        yield gauge
    for name, help in _COUNTERS:
        counter = CounterMetricFamily(f"georep_brick_{name}", help, labels=_BRICK)
        for labels, brick in bricks:
            counter.add_metric(labels, brick["totals"][name])
        yield counter


def _at(document: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if document is None:
            return None
        document = document.get(key)
    return document


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT` or `[ADDRESS]:PORT` in two. Raises EngineError."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or not port.isascii() or int(port) > 65535:
        raise EngineError(f"--metrics {text}: not an address", hint="HOST:PORT, as in 127.0.0.1:9560", code="usage")
    return host, int(port)


class MetricsServer:
    """Answers Prometheus at an address, in threads of its own, until closed. Raises EngineError if it cannot listen."""

    def __init__(self, address: str, snapshot: Callable[[], Doc]) -> None:
        host, port = parse_address(address)
        registry = CollectorRegistry()
        registry.register(SnapshotCollector(snapshot))
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as e:
            raise EngineError(
                f"--metrics {address}: {e.strerror or e}", hint="choose another HOST:PORT", code="usage"
            ) from e
        self.port = int(self._server.server_address[1])

    def close(self) -> None:
        """Stop answering and join the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None) -> None:
        self.close()

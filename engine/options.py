"""The options: their names, types, defaults and checks; a text from anywhere in, one frozen object out (section 11)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from engine.model import EngineError

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


class ConfigError(EngineError):
    """An option that does not exist, or a value it does not take: `name`, `value`, and what is `allowed`."""

    def __init__(self, name: str, value: object, allowed: str, *, text: str = "") -> None:
        super().__init__(text or f"{name}: {_shown(value)} is not allowed", hint=f"allowed: {allowed}", code="config")
        self.name = name
        self.value = value
        self.allowed = allowed


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return repr(text[:77] + "…" if len(text) > 78 else text)


@dataclass(frozen=True, slots=True)
class Options:
    """Every option with its value of now. Durations in seconds, sizes in bytes, shares from 0 to 1."""

    sync_method: str = "stream"
    sync_jobs: int = 3
    rollover_time: float = 1.0
    max_history_changelogs_in_batch: int = 100
    max_data_changelogs_in_batch: int = 100
    changelog_batch_size: int = 727040
    bandwidth_limit: int = 0
    delta_threshold: int = 8 * MIB
    max_rsync_retries: int = 10
    sync_xattrs: bool = True
    sync_acls: bool = True
    ignore_deletes: bool = False
    gfid_conflict_resolution: bool = True
    adopt: str = "metadata"
    keep_deleted: float = 0.0
    keep_unproven: float = 7 * DAY
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    delete_guard_share: float = 0.5
    delete_guard_window: float = HOUR
    delete_guard_minimum: int = 100
    scrub_interval: float = DAY
    scrub_rate: int = 2000
    recorder: str = "auto"
    change_detector: str = "changelog"
    change_interval: float = 5.0
    state_limit: int = 10 * GIB
    archive_retention: float = 30 * DAY
    changelog_archive_format: str = "%Y%m"
    checkpoint: int = 0
    secondary_timeout: int = 120
    connection_timeout: int = 60
    ssh_command: str = "ssh"
    ssh_options: str = ""
    ssh_port: int = 0
    rsync_command: str = "rsync"
    rsync_options: str = ""
    rsync_ssh_options: str = ""
    rsync_opt_ignore_missing_args: bool = True
    rsync_opt_existing: bool = True
    tar_command: str = "tar"
    replica_failover_interval: float = 1.0
    use_meta_volume: bool = False
    meta_volume_mnt: str = "/run/gluster/shared_storage"
    access_mount: bool = False
    secondary_access_mount: bool = False
    gluster_command: str = "gluster"
    gluster_params: str = "aux-gfid-mount acl"
    secondary_gluster_params: str = "aux-gfid-mount acl"
    control_group: str = ""
    readonly_group: str = ""
    lag_warning: float = 60.0
    lag_critical: float = 600.0
    failures_warning: int = 1
    failures_critical: int = 100
    log_level: str = "INFO"


Parser = Callable[[object], Any]
"""From a text (or a TOML value) to an option's value; raises ValueError."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option. `kind` names its type, `allowed` says in words what it takes; `live` ones need no restart."""

    name: str
    kind: str
    default: Any
    allowed: str
    live: bool
    help: str
    parse: Parser


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(?:i?b)?|b)?", re.IGNORECASE)
_SIZES = {"k": KIB, "m": MIB, "g": GIB, "t": GIB << 10}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d|w)?", re.IGNORECASE)
_DURATIONS = {"ms": 0.001, "s": 1.0, "m": MINUTE, "min": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
_BOOLS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def size(value: object) -> int:
    """Bytes from 4096, `8M`, `8MiB`, `1.5 GiB` (powers of 1024, in every spelling). Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("not a size")
    if isinstance(value, int):
        return value
    found = _SIZE.fullmatch(value.strip())
    if not found:
        raise ValueError("not a size")
    return int(float(found[1]) * _SIZES[found[2].lower()]) if found[2] else int(float(found[1]))


def duration(value: object) -> float:
    """Seconds from 30, `30s`, `5m`, `1h`, `24h`, `30d`, `2w`. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("not a duration")
    if isinstance(value, int | float):
        return float(value)
    found = _DURATION.fullmatch(value.strip())
    if not found:
        raise ValueError("not a duration")
    return float(found[1]) * _DURATIONS[(found[2] or "s").lower()]


def seconds(value: object) -> int:
    """A duration in whole seconds, up to the next. Raises ValueError."""
    return math.ceil(duration(value))


def share(value: object) -> float:
    """A share from 0.5 or `50%`. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("not a share")
    if isinstance(value, int | float):
        return float(value)
    text = value.strip()
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def boolean(value: object) -> bool:
    """true, yes, on, 1 or false, no, off, 0. Raises ValueError."""
    found = _BOOLS.get(str(value).strip().lower())
    if found is None:
        raise ValueError("neither true nor false")
    return found


def whole(value: object) -> int:
    """An integer. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("not a whole number")
    return int(value)


def words(value: object) -> tuple[str, ...]:
    """A list of patterns: a TOML array, or a text with commas between (`\\,` is a comma). Raises ValueError."""
    if isinstance(value, str):
        parts = [p.replace("\\,", ",").strip() for p in re.split(r"(?<!\\),", value)]
        return tuple(p for p in parts if p)
    if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
        return tuple(value)
    raise ValueError("not a list of texts")


def text(value: object) -> str:
    """A text of one line. Raises ValueError."""
    if not isinstance(value, str) or any(c in value for c in "\n\r\0"):
        raise ValueError("not a text of one line")
    return value


def _within(parse: Parser, low: float, high: float) -> Parser:
    def check(value: object) -> Any:
        found = parse(value)
        if not (math.isfinite(found) and low <= found <= high):
            raise ValueError(f"not within {low:g} and {high:g}")
        return found

    return check


def _one_of(*choices: str) -> Parser:
    def check(value: object) -> str:
        for choice in choices:
            if isinstance(value, str) and value.strip().lower() == choice.lower():
                return choice
        raise ValueError("not one of them")

    return check


def _command(value: object) -> str:
    found = text(value).strip()
    if not found:
        raise ValueError("empty")
    return found


def _strftime(value: object) -> str:
    found = _command(value)
    if found.startswith("/") or ".." in found.split("/"):
        raise ValueError("leads out of the archive")
    return found


_DEFAULTS = Options()
_MAX_SIZE = 1 << 60
_MAX_TIME = 100 * 365 * DAY


def _option(name: str, kind: str, allowed: str, parse: Parser, help: str, *, live: bool = False) -> Option:
    return Option(name, kind, getattr(_DEFAULTS, name), allowed, live, help, parse)


def _choice(name: str, choices: tuple[str, ...], help: str, *, live: bool = False) -> Option:
    return _option(name, "choice", ", ".join(choices), _one_of(*choices), help, live=live)


def _bool(name: str, help: str, *, live: bool = False) -> Option:
    return _option(name, "bool", "true or false", boolean, help, live=live)


def _int(name: str, low: int, high: int, help: str, *, live: bool = False, allowed: str = "") -> Option:
    said = allowed or f"a whole number from {low} to {high}"
    return _option(name, "int", said, _within(whole, low, high), help, live=live)


def _time(
    name: str, low: float, help: str, *, live: bool = False, high: float = _MAX_TIME, parse: Parser = duration
) -> Option:
    top = f"{low:g} s to {high:g} s" if high < _MAX_TIME else f"{low:g} s or more"
    return _option(name, "duration", f"{top}, as in 30s, 5m, 1h, 30d", _within(parse, low, high), help, live=live)


def _bytes(name: str, low: int, help: str, *, live: bool = False) -> Option:
    said = f"{low} bytes or more, as in 512K, 8M, 8MiB, 10GiB"
    return _option(name, "size", said, _within(size, low, _MAX_SIZE), help, live=live)


def _text(name: str, help: str, *, live: bool = False) -> Option:
    return _option(name, "text", "a text of one line", text, help, live=live)


_ALL = (
    _choice("sync_method", ("stream", "rsync", "tarssh"), "How file content is sent."),
    _int("sync_jobs", 1, 100, "How many transfers of content run at once, per brick.", live=True),
    _time("rollover_time", 0.05, "How long a slice of the recorder's journal is open at most (trees).", high=HOUR),
    _int("max_history_changelogs_in_batch", 1, 100_000, "Changelogs in one batch while catching up.", live=True),
    _int("max_data_changelogs_in_batch", 1, 100_000, "Changelogs in one batch whose content is sent together.",
         live=True),
    _bytes("changelog_batch_size", 1024, "Bytes of changelogs in one batch.", live=True),
    _bytes("bandwidth_limit", 0, "Bytes per second for all transfers together; 0 is no limit.", live=True),
    _bytes("delta_threshold", 0, "Files from this size on are compared block by block, and only differences sent.",
           live=True),
    _int("max_rsync_retries", 1, 1000, "Tries of one transfer before what is left goes into the failure ledger.",
         live=True),
    _bool("sync_xattrs", "Replicate extended attributes."),
    _bool("sync_acls", "Replicate POSIX ACLs."),
    _bool("ignore_deletes", "Leave on the secondary what is deleted on the primary."),
    _bool("gfid_conflict_resolution", "Put right names on the secondary that belong to another object."),
    _choice("adopt", ("metadata", "checksum"), "What makes a file that is already on the secondary count as equal."),
    _time("keep_deleted", 0, "How long deleted objects are kept on the secondary; 0 is not at all.", live=True),
    _time("keep_unproven", 0, "How long the secondary keeps what an approved removal or replacement took; 0 is not at all.",
          live=True),
    _option("include", "list", "patterns as rsync knows them, with commas between", words,
            "What is replicated even if an exclude pattern matches it."),
    _option("exclude", "list", "patterns as rsync knows them, with commas between", words,
            "What is not replicated; left alone on the secondary."),
    _option("delete_guard_share", "share", "0 to 1, or 0% to 100%", _within(share, 0.0, 1.0),
            "The share of the replica that may be deleted within the window before a person is asked.", live=True),
    _time("delete_guard_window", 1, "The time over which deletes are counted.", live=True),
    _int("delete_guard_minimum", 0, 1 << 40, "So many deletes within the window never ask.", live=True),
    _time("scrub_interval", 0, "How often everything is compared with the index for changes without event; 0 is off."),
    _int("scrub_rate", 1, 10_000_000, "Objects per second a scrub looks at.", live=True),
    _choice("recorder", ("auto", "fanotify", "inotify", "scan"), "How changes in a tree are noticed."),
    _choice("change_detector", ("changelog", "xsync"), "Where changes come from: the journal, or crawls alone."),
    _time("change_interval", 0.1, "The pause between looks for changes on a GlusterFS brick."),
    _bytes("state_limit", MIB, "The most the state directory of a session may take; then recording stops."),
    _time("archive_retention", 0, "How long processed changelogs are kept.", live=True),
    _option("changelog_archive_format", "text", "a strftime format, as in %Y%m", _strftime,
            "How archives of processed changelogs are named."),
    _int("checkpoint", 0, 1 << 40, "A checkpoint, in unix seconds; 0 is none.", live=True,
         allowed="unix seconds, 0 for none"),
    _time("secondary_timeout", 0, "A secondary silent for so long is given up; 0 is never.", parse=seconds),
    _time("connection_timeout", 1, "How long connecting may take.", parse=seconds),
    _option("ssh_command", "text", "a command with its words", _command, "The ssh to call."),
    _text("ssh_options", "Words for ssh, as on a command line."),
    _int("ssh_port", 0, 65535, "The port of ssh on the secondary; 0 is ssh's own choice.",
         allowed="a port from 1 to 65535, 0 for ssh's own choice"),
    _option("rsync_command", "text", "a command with its words", _command, "The rsync to call."),
    _text("rsync_options", "More words for rsync."),
    _text("rsync_ssh_options", "More words for the ssh that rsync calls."),
    _bool("rsync_opt_ignore_missing_args", "Give rsync --ignore-missing-args."),
    _bool("rsync_opt_existing", "Give rsync --existing."),
    _option("tar_command", "text", "a command with its words", _command, "The tar to call."),
    _time("replica_failover_interval", 0.1, "How often replicas elect the active one (GlusterFS)."),
    _bool("use_meta_volume", "Elect through a lock on the shared meta volume (GlusterFS)."),
    _text("meta_volume_mnt", "Where the meta volume is mounted (GlusterFS)."),
    _bool("access_mount", "Keep the primary's private mount reachable after the session ends (GlusterFS)."),
    _bool("secondary_access_mount", "The same for the secondary's mount (GlusterFS)."),
    _option("gluster_command", "text", "a command with its words", _command, "The gluster command to call."),
    _text("gluster_params", "Mount options of the primary's private mount (GlusterFS)."),
    _text("secondary_gluster_params", "Mount options of the secondary's mount (GlusterFS)."),
    _text("control_group", "Members of this group may watch and command through the socket."),
    _text("readonly_group", "Members of this group may watch through the socket."),
    _time("lag_warning", 0, "From this lag on the verdict is a warning.", live=True),
    _time("lag_critical", 0, "From this lag on the verdict is critical.", live=True),
    _int("failures_warning", 1, 1 << 40, "From so many failures on the verdict is a warning.", live=True),
    _int("failures_critical", 1, 1 << 40, "From so many failures on the verdict is critical.", live=True),
    _choice("log_level", ("DEBUG", "INFO", "WARNING", "ERROR"), "What is written to the log.", live=True),
)  # fmt: skip

OPTIONS: Mapping[str, Option] = {option.name: option for option in _ALL}
"""Every option by its name."""

assert {f.name for f in fields(Options)} == set(OPTIONS)


def find(name: str) -> Option:
    """The option of that name; `-` counts as `_`. Raises ConfigError, with the nearest name where one is near."""
    option = OPTIONS.get(name.strip().replace("-", "_"))
    if option is None:
        near = _nearest(name.strip().replace("-", "_"))
        raise ConfigError(
            name, None, "georep-tui config lists every option",
            text=f"no option is named {_shown(name)}" + (f"; did you mean {near}?" if near else ""),
        )  # fmt: skip
    return option


def _nearest(name: str) -> str:
    import difflib

    found = difflib.get_close_matches(name, OPTIONS, 1, 0.75)
    return found[0] if found else ""


def parse_value(name: str, raw: object) -> Any:
    """The value of option `name` from a text or a TOML value. Raises ConfigError with what is allowed."""
    option = find(name)
    try:
        return option.parse(raw)
    except (ValueError, OverflowError) as e:
        raise ConfigError(option.name, raw, option.allowed) from e


def parse_values(raw: Mapping[str, object]) -> dict[str, Any]:
    """Many of them. Raises ConfigError for the first that is wrong."""
    return {find(name).name: parse_value(name, value) for name, value in raw.items()}


def split_assignment(words_: str) -> tuple[str, str]:
    """`OPTION=VALUE` in two. Raises ConfigError without a `=`."""
    name, sign, value = words_.partition("=")
    if not sign:
        option = find(name)
        raise ConfigError(option.name, words_, option.allowed, text=f"{option.name}: a value is missing (OPTION=VALUE)")
    return name.strip(), value


def value_text(value: Any) -> str:
    """A value as it could be given again: in files, `--set` and `config`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(v.replace(",", "\\,") for v in value)
    if isinstance(value, float):
        return f"{value:.10g}"
    return str(value)

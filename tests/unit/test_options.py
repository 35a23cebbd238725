"""Options and where their values come from (section 11): every check, every layer, and the page that lists them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine.config import Config, ConfigFileError, read_session_file
from engine.options import OPTIONS, ConfigError, Options, parse_value, value_text

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("delta_threshold", "8M", 8 << 20), ("delta_threshold", "8MiB", 8 << 20), ("delta-threshold", 4096, 4096),
        ("state_limit", "1.5 GiB", 3 << 29), ("bandwidth_limit", "0", 0), ("rollover_time", "500ms", 0.5),
        ("keep_deleted", "30d", 2592000.0), ("scrub_interval", "24h", 86400.0), ("delete_guard_window", 60, 60.0),
        ("secondary_timeout", "2m", 120), ("delete_guard_share", "50%", 0.5), ("delete_guard_share", "0.25", 0.25),
        ("sync_xattrs", "off", False), ("sync_xattrs", True, True), ("sync_jobs", "100", 100),
        ("sync_method", "RSYNC", "rsync"), ("log_level", "debug", "DEBUG"),
        ("exclude", "*.tmp, a\\,b,", ("*.tmp", "a,b")),
        ("exclude", ["x,y"], ("x,y",)), ("ssh_options", "-F /x", "-F /x"),
    ],
)  # fmt: skip
def test_values(name: str, raw: object, value: object) -> None:
    found = parse_value(name, raw)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("sync_jobs", "0"), ("sync_jobs", "101"), ("sync_jobs", "many"), ("sync_jobs", True), ("sync_jobs", "1.5"),
        ("delete_guard_share", "101"), ("delete_guard_share", "101%"), ("delete_guard_share", "nan"),
        ("rollover_time", "-1"), ("rollover_time", "soon"), ("keep_deleted", "inf"), ("delta_threshold", "8X"),
        ("bandwidth_limit", "fast"), ("recorder", "oracle"), ("sync_xattrs", "maybe"), ("ssh_options", "a\nb"),
        ("ssh_command", " "), ("ssh_port", "65536"), ("changelog_archive_format", "../%Y"), ("exclude", [1]),
        ("scrub_rate", None),
    ],
)  # fmt: skip
def test_wrong_values(name: str, raw: object) -> None:
    """The name, the value and what is allowed, in one line."""
    with pytest.raises(ConfigError) as caught:
        parse_value(name, raw)
    error = caught.value
    assert error.name == name and error.value is raw and error.allowed == OPTIONS[name].allowed
    assert name in error.text and error.allowed in error.hint
    assert "\n" not in error.text + error.hint


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match="did you mean sync_jobs"):
        parse_value("sync-job", "3")


def test_every_value_can_be_given_again() -> None:
    for option in OPTIONS.values():
        assert option.parse(value_text(option.default)) == option.default, option.name
        assert option.help.endswith("."), option.name


def test_the_page_lists_every_option_with_its_default() -> None:
    page = (PROJECT / "docs" / "configuration.md").read_text()
    rows = {cells[1].strip(" `"): cells for line in page.splitlines() if len(cells := line.split("|")) == 7}
    for option in OPTIONS.values():
        assert option.name in rows, f"{option.name} is missing in docs/configuration.md"
        _, _, default, allowed, live, text, _ = rows.pop(option.name)
        shown = default.strip()
        assert option.parse("" if shown == "(none)" else shown) == option.default, option.name
        assert (allowed.strip(), live.strip() == "yes", text.strip()) == (option.allowed, option.live, option.help)
    assert set(rows) == {"option", "---"}


def test_precedence(tmp_path: Path) -> None:
    """--set, environment, kept, session file, user's file, system's file, default; each says where it is from."""
    user, system, session = tmp_path / "georep-tui/config.toml", tmp_path / "system.toml", tmp_path / "web.toml"
    user.parent.mkdir()
    lines = [f"sync_jobs = {{0}}\n{name} = 7\n" for name in ("scrub_rate", "max_rsync_retries")]
    system.write_text("[options]\n" + lines[0].format(10) + "failures_critical = 9\n")
    user.write_text("[options]\n" + lines[1].format(20) + "failures_critical = 8\n")
    session.write_text('[primary]\npath="/p"\n[secondary]\npath="/s"\n[options]\nsync_jobs = 30\n')
    env = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": "/nowhere"}

    def made(*sets: str, **more: str) -> Config:
        return Config(str(tmp_path), sets=sets, session_file=read_session_file(str(session)), environment=env | more,
                      system_file=str(system))  # fmt: skip

    def seen(config: Config) -> tuple[object, str]:
        row = next(r for r in config.describe() if r["name"] == "sync_jobs")
        return row["value"], row["origin"]

    config = made()
    assert seen(config) == (30, str(session))
    assert config.options.scrub_rate == config.options.max_rsync_retries == 7
    assert config.options.failures_critical == 8
    assert config.options.sync_method == "stream"
    assert config.set("sync-jobs", "40", "ann") is True
    assert seen(config) == (40, "config")
    assert config.set("sync_method", "rsync", "ann") is False
    assert seen(made()) == (40, "config")
    assert seen(made(GEOREP_SYNC_JOBS="50")) == (50, "environment")
    assert seen(made("sync_jobs=60", GEOREP_SYNC_JOBS="50")) == (60, "--set")
    with pytest.raises(ConfigError, match="fixed by --set"):
        made("sync_jobs=60").set("sync_jobs", "70", "ann")
    assert config.reset("sync_jobs") is True
    assert seen(config) == seen(made()) == (30, str(session))
    assert oct(os.stat(tmp_path / "config.json").st_mode & 0o777) == "0o600"


def test_wrong_places_are_named(tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    with pytest.raises(ConfigError, match="environment: sync_jobs"):
        Config(environment={"GEOREP_SYNC_JOBS": "x"})
    with pytest.raises(ConfigError, match="a value is missing"):
        Config(sets=["sync_jobs"], environment=env)
    system = tmp_path / "system.toml"
    for text, says in (("[options]\nsync_jobs = 0\n", "system.toml: sync_jobs"), ("[options\n", "line 1"),
                       ("[option]\n", "unknown 'option'"), ("options = 3\n", "must be a table")):  # fmt: skip
        system.write_text(text)
        with pytest.raises((ConfigError, ConfigFileError), match=says):
            Config(environment=env, system_file=str(system))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigFileError, match=r"config\.json"):
        Config(str(tmp_path), environment=env, system_file=str(tmp_path / "none"))


def test_session_files(tmp_path: Path) -> None:
    path = tmp_path / "web.toml"

    def read(text: str) -> tuple[str, tuple[str, ...], str]:
        path.write_text(text)
        found = read_session_file(str(path))
        return found.name, found.primaries, found.secondary

    assert read('[primary]\npath="/p"\n[secondary]\naddress="b@dr:/s"') == ("web", ("/p",), "b@dr:/s")
    bricks = '[session]\nname="w"\n[primary.bricks]\na="/p"\nb="/q"\n'
    assert read(bricks + '[secondary]\nhost="dr"\nuser="b"\npath="/s"') == ("w", ("/p=a", "/q=b"), "b@dr:/s")
    assert read('[primary]\nvolume="m1::v"\n[secondary]\nhost="dr"\nvolume="v"')[1:] == (("m1::v",), "dr::v")
    assert read('[primary]\npath="/p"\n[secondary]\nhost="::1"\nport=22\npath="/a%b"')[2] == "ssh://[::1]:22/a%25b"
    for wrong in ('[primary]\npath="/p"', '[secondary]\npath="/s"', '[primary]\npath=3\n[secondary]\npath="/s"',
                  '[primary]\npath="/p"\n[secondary]\npath="/s"\nvolume="v"', '[session]\nadopt=1',
                  '[session]\ncolour="red"',
                  '[primary]\npath="/p"\nvolume="a::b"\n[secondary]\npath="/s"'):  # fmt: skip
        path.write_text(wrong)
        with pytest.raises(ConfigFileError, match=r"web\.toml"):
            read_session_file(str(path))


def test_defaults_are_what_an_empty_place_gives(tmp_path: Path) -> None:
    config = Config(environment={"XDG_CONFIG_HOME": str(tmp_path)}, system_file=str(tmp_path / "none"))
    assert config.options == Options()
    assert json.loads(json.dumps(config.describe()))
    assert {row["origin"] for row in config.describe()} == {"default"}

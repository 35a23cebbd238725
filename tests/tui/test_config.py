"""The console's own settings: what is taken, what is refused, and how."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from georep_tui.settings import ConsoleConfig, ConsoleConfigError, config_path, load_config

WHOLE = """
[console]
theme = "georep-light"
refresh = 1
mouse = false
[keys]
pause = "f5"
[options]
lag_warning = 30
sync_jobs = 4
[thresholds]
lag_critical = 90.5
failures_warning = 2
"""


def test_all_settings(tmp_path: Path) -> None:
    """Thresholds of `[options]` count where `[thresholds]` says nothing else; the engine's own options are left alone."""
    file = tmp_path / "config.toml"
    file.write_text(WHOLE)
    config = load_config(str(file))
    assert (config.theme, config.refresh, config.mouse, config.keys) == ("georep-light", 1.0, False, {"pause": "f5"})
    assert (config.thresholds.lag_warning, config.thresholds.lag_critical) == (30.0, 90.5)
    assert config.thresholds.failures_warning == 2


def test_thresholds_are_written_as_options_are(tmp_path: Path) -> None:
    """`5m` in `[options]` is for the engine and for the console; what a person set is known as such."""
    file = tmp_path / "config.toml"
    file.write_text("[options]\nlag_warning = '5m'\n[thresholds]\nstale = '20s'\nfailures_critical = 7\n")
    limits = load_config(str(file)).thresholds
    assert (limits.lag_warning, limits.stale, limits.failures_critical) == (300.0, 20.0, 7)
    assert limits.chosen == {"lag_warning", "stale", "failures_critical"}


def test_without_a_file_the_defaults(tmp_path: Path) -> None:
    """And where it is looked for."""
    assert load_config(str(tmp_path / "none")) == ConsoleConfig()
    assert config_path({"XDG_CONFIG_HOME": "/x"}) == "/x/georep-tui/config.toml"
    assert config_path({"HOME": "/h"}) == "/h/.config/georep-tui/config.toml"


@pytest.mark.parametrize(("text", "said"), [
    ("[console]\ncolour = 1", "console.colour"), ("[console]\ntheme = 1", "theme"), ("[console]\nrefresh = 0.01", "refresh"),
    ("[console]\nrefresh = true", "refresh"), ("[keys]\npause = 3", "keys.pause"), ("keys = 3", "keys"),
    ("[thresholds]\nlag = 3", "thresholds.lag"), ("[thresholds]\nlag_warning = 'x'", "lag_warning"), ("[", "config.toml"),
    ("[thresholds]\nlag_warning = -1", "lag_warning"),
])  # fmt: skip
def test_wrong_settings_are_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    """With the file, the setting, and what is allowed."""
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(ConsoleConfigError) as error:
        load_config(str(file))
    assert said in str(error.value) and str(file) in str(error.value)


def test_settings_and_view_load_no_textual() -> None:
    """Headless commands use both."""
    code = """
import sys, pkgutil, importlib, georep_tui.view, georep_tui.settings, georep_tui.tui.bundle, georep_tui.sources.replay
for one in pkgutil.iter_modules(georep_tui.view.__path__): importlib.import_module("georep_tui.view." + one.name)
sys.exit("textual" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

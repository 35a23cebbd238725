"""A session remembers its file and what it said: `run NAME` after `run FILE.toml` forgets no option (CRW-10, CHG-6)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.system.runner import Product, wait_until
from tests.system.settings import LOCAL, Maker, Setting, write


@dataclass
class ByWords(Product):
    """The same, run by words of its own: a file, or a name."""

    given: list[str] = field(default_factory=list)

    def run_words(self, *more: str) -> list[str]:
        return self.words("run", *self.given, "--no-ui", "--state-dir", str(self.base / "state"), *more)


def _file(setting: Setting, options: str = "ignore_deletes = true\nexclude = ['*.tmp']\n") -> Path:
    path = setting.base / "web.toml"
    path.write_text(
        f"[session]\nname = 'web'\n[primary]\npath = '{setting.primary}'\n[secondary]\npath = '{setting.secondary}'\n"
        f"[options]\n{options}"
    )
    return path


def _product(setting: Setting, *words: str) -> ByWords:
    product = ByWords(setting.base / "product", [], "", name="web")
    product.given = list(words)
    return product


def _round(product: ByWords, setting: Setting, number: int, *, kept: bool) -> None:
    """Run, delete a file and make an excluded one: are both kept from the secondary?"""
    product.start()
    product.active()
    write(setting.primary / f"{number}.tmp", "out")
    (setting.primary / f"goes-{number}").unlink()
    write(setting.primary / f"last-{number}", "x")
    wait_until((setting.secondary / f"last-{number}").exists, 20)
    if not kept:
        wait_until(lambda: not (setting.secondary / f"goes-{number}").exists(), 20)
        wait_until((setting.secondary / f"{number}.tmp").exists, 20)
    assert (setting.secondary / f"goes-{number}").exists() == kept
    assert (setting.secondary / f"{number}.tmp").exists() != kept
    assert product.stop() == 0


def _said(product: ByWords) -> list[str]:
    return [line for line in product.log.read_text().splitlines() if "web.toml" in line]


@pytest.fixture
def begun(make: Maker) -> tuple[Setting, ByWords, Path]:
    """A session that ran once from its file."""
    setting = make(LOCAL)
    for number in range(4):
        write(setting.primary / f"goes-{number}", "x")
    file = _file(setting)
    product = _product(setting, str(file))
    done = product.once()
    assert done.returncode == 0, done.stderr
    return setting, product, file


def _gone(file: Path) -> None:
    file.unlink()


def _other_options(file: Path) -> None:
    file.write_text(file.read_text().split("[options]")[0])


def _no_toml(file: Path) -> None:
    file.write_text("[session\n")


def _comment(file: Path) -> None:
    file.write_text("# a word\n" + file.read_text())


@pytest.mark.parametrize(
    ("happens", "words"),
    [(None, ()), (_comment, ()), (_gone, ("web.toml, from which this session ran, cannot be used now (no such file)", "put it back")),
     (_other_options, ("web.toml was changed since", "for what it says now: georep-tui run /")),
     (_no_toml, ("is not TOML", "put it back"))],
    ids=["as-it-was", "comment", "gone", "changed", "no-toml"],
)  # fmt: skip
def test_by_its_name(
    begun: tuple[Setting, ByWords, Path], happens: Callable[[Path], None] | None, words: tuple[str, ...]
) -> None:
    """What the file forbade stays forbidden, and one line says what became of the file."""
    setting, product, file = begun
    if happens:
        happens(file)
    product.given = ["web"]
    with product:
        _round(product, setting, 0, kept=True)
    said = _said(product)
    assert len(said) == (1 if words else 0), said
    assert all(word in said[0] for word in words)
    shown = json.loads(product.command("config", "web", "ignore_deletes", "--json", "--state-dir", str(product.base / "state")).stdout)
    (option,) = shown["options"]
    assert option["value"] is True
    assert option["origin"] == str(file) + (" (as it was)" if words else "")


def test_by_its_addresses_and_from_a_changed_file(begun: tuple[Setting, ByWords, Path]) -> None:
    """Named by its two sides it is the same session; only its file, run again, changes what it said."""
    setting, product, file = begun
    product.given = [str(setting.primary), str(setting.secondary), "--name", "web"]
    with product:
        _round(product, setting, 1, kept=True)
        file.write_text(file.read_text().split("[options]")[0])
        product.given = [str(file), "--dry-run"]
        product.start()
        assert product.process is not None and product.process.wait(60) == 0
        product.kill()
        product.given = ["web"]
        _round(product, setting, 2, kept=True)
        assert len(_said(product)) == 1, "a dry run is no run: the file is still another"
        product.given = [str(file)]
        (setting.primary / "goes-1").unlink(missing_ok=True)
        _round(product, setting, 3, kept=False)
        product.given = ["web"]
        product.start()
        product.active()
        assert _said(product) == []


def test_what_it_said_cannot_be_read(begun: tuple[Setting, ByWords, Path]) -> None:
    """Without knowing what is forbidden nothing is begun; the file makes it whole again."""
    setting, product, file = begun
    (said,) = product.base.rglob("said.json")
    said.write_text("{")
    (setting.primary / "goes-0").unlink()
    product.given = ["web"]
    done = product.once()
    assert done.returncode == 2
    assert "said.json" in done.stderr and "georep-tui run FILE.toml" in done.stderr
    assert (setting.secondary / "goes-0").exists()
    product.given = [str(file)]
    assert product.once().returncode == 0
    assert (setting.secondary / "goes-0").exists()

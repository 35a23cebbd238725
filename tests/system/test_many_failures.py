"""`failures` with more entries than one answer holds: all are shown, found, tried again, dismissed (ERR-3)."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from engine.ledger import Failure, Ledger
from tests.system.runner import Product, wait_until
from tests.system.settings import LOCAL, Maker

MANY = 1_500


def _filled(product: Product, count: int, path_bytes: int = 20) -> list[Path]:
    """Put `count` entries that wait for a person into each brick's ledger, while the session does not run."""
    product.start()
    product.active()
    assert product.stop() == 0
    found = sorted(product.base.rglob("failures.db"))
    for number, path in enumerate(found):
        ledger = Ledger(str(path))
        ledger.add_many(
            Failure.only_there((number << 32 | n).to_bytes(16, "big"), (b"%d/" % n).ljust(path_bytes, b"x"), time.time())
            for n in range(count)
        )
        ledger.close()
    return found


def _shown(product: Product) -> int:
    return int(product.session().get("failures") or 0)


@pytest.mark.parametrize(("count", "path_bytes"), [(MANY, 20), (300, 4000)])
def test_err_3_dismiss_without_an_id_is_all(make: Maker, count: int, path_bytes: int) -> None:
    """ERR-3: 1,500 entries are 1,500 dismissed, none left; and before it all of them are listed, each by its id too.

    With paths of 4,000 bytes an answer holds some 150 of them.
    """
    product = make(LOCAL).product
    with product:
        _filled(product, count, path_bytes)
        product.start()
        product.active()
        listed = product.failures()
        assert len(listed) == len({f["id"] for f in listed}) == count
        last = listed[-1]["id"]
        done = product.command("failures", product.name, last)
        assert done.returncode == 1
        assert done.stdout.startswith(f"{last}  EXTRA")
        one = product.command("failures", product.name, last, "--dismiss", "--reason", "seen")
        assert one.stdout == "1 failure dismissed\n", one.stderr
        done = product.command("failures", product.name, "--dismiss", "--reason", "known")
        assert (done.returncode, done.stdout) == (0, f"{count - 1:,} failures dismissed\n"), done.stderr
        assert product.command("failures", product.name).stdout == f"{product.name}: no failures\n"
        assert _shown(product) == 0
        log = "".join(p.read_text() for p in product.base.rglob("engine.log*"))
        assert log.count("(known): EXTRA") == count - 1, "each of them is in the log with who and why"


def test_err_3_of_several_bricks_all_are_meant(make: Maker) -> None:
    """ERR-3: two bricks with 1,500 entries each: 3,000 listed, 3,000 tried again; what agrees leaves, all of it."""
    setting = make(LOCAL)
    other = setting.base / "primary2"
    other.mkdir()
    product = setting.product
    product.primaries = [f"{setting.primary}=one", f"{other}=two"]
    with product:
        assert len(_filled(product, MANY)) == 2
        product.start()
        product.active()
        assert len(product.failures()) == 2 * MANY
        done = product.command("failures", product.name)
        assert sum("EXTRA" in line for line in done.stdout.splitlines()) == 2 * MANY
        assert "more" not in done.stdout
        done = product.command("failures", product.name, "--retry")
        assert (done.returncode, done.stdout) == (0, "3,000 failures tried again now\n"), done.stderr
        # neither side has any of these objects: they agree
        wait_until(lambda: _shown(product) == 0, 60, "all have left the ledger")


def test_err_3_what_is_not_there_is_refused_whole(make: Maker) -> None:
    """ERR-3: one wrong id among right ones: nothing is dismissed."""
    product = make(LOCAL).product
    with product:
        _filled(product, 3)
        product.start()
        product.active()
        known = [f["id"] for f in product.failures()]
        done = product.command("failures", product.name, *known, "nowhere-1", "--dismiss", "--reason", "x")
        assert done.returncode == 2
        assert "1 of the ids are not in the ledger" in done.stderr
        assert _shown(product) == 3
        shown = json.loads(product.command("failures", product.name, "--json").stdout)
        assert shown["total"] == len(shown["failures"]) == 3

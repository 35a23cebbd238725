"""Options and markers all tests share. Nothing here needs a terminal, a home directory or the network."""

from __future__ import annotations

import signal

import pytest

OPEN: tuple[str, ...] = ()
"""Cases that do not hold yet: skipped visibly, with this reason, unless `--open` asks for them."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="full sizes: more seeds, operations, crashes and gigabytes")
    parser.addoption("--open", action="store_true", help="also the cases that are known not to hold yet")


def pytest_configure() -> None:
    """A terminated run cleans up as an interrupted one does: processes, mounts, users."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    long, open_ = config.getoption("--long"), config.getoption("--open")
    for item in items:
        if "long" in item.keywords and not long:
            item.add_marker(pytest.mark.skip(reason="runs with --long"))
        if item.nodeid.startswith(OPEN) and not open_:
            item.add_marker(pytest.mark.skip(reason="does not hold yet: run with --open"))


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Were the full sizes asked for?"""
    return bool(request.config.getoption("--long"))

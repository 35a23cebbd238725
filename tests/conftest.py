"""Options and markers all tests share. Nothing here needs a terminal, a home directory or the network."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="full sizes: more seeds, operations, crashes and gigabytes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    skip = pytest.mark.skip(reason="runs with --long")
    for item in items:
        if "long" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Were the full sizes asked for?"""
    return bool(request.config.getoption("--long"))

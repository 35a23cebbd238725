"""Options and markers all tests share. Nothing here needs a terminal, a home directory or the network."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="full sizes: more seeds, operations, crashes and gigabytes")


def pytest_configure() -> None:
    """A terminated run cleans up as an interrupted one does: processes, mounts, users."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Tests of GlusterFS all to one worker: one daemon serves them, and some kill it. All others one by one."""

    def _split_scope(self, nodeid: str) -> str:
        return "gluster" if nodeid.startswith("tests/gluster/") else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Scheduling:
    return _Scheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    long = config.getoption("--long")
    for item in items:
        if "long" in item.keywords and not long:
            item.add_marker(pytest.mark.skip(reason="runs with --long"))


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Were the full sizes asked for?"""
    return bool(request.config.getoption("--long"))

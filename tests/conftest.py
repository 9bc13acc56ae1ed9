"""What takes long is left to `pytest --all`: the default `pytest` is to end within minutes, and says what it has left."""

from __future__ import annotations

from collections import Counter

import pytest

LEFT = pytest.StashKey[Counter[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the tests that are marked long, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left = [] if config.getoption("--all") else [item for item in items if item.get_closest_marker("long")]
    if left:
        items[:] = [item for item in items if item not in left]
        config.hook.pytest_deselected(items=left)
    config.stash[LEFT] = Counter(str(item.path.relative_to(config.rootpath)) for item in left)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if left := config.stash.get(LEFT, None):
        files = ", ".join(f"{name} ({count})" for name, count in left.items())
        terminalreporter.write_line(f"{left.total()} long tests are left to pytest --all, of {files}")

"""What all tests share: hypothesis draws the same examples each time, and measures no time.

At the end the faults that were injected are told together, from whichever process of pytest they come.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from faults import Drivers, end_all

# A thousand drivers and workers are started: where this is set, each would compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

hypothesis.settings.register_profile("deterministic", derandomize=True, deadline=None, database=None, max_examples=100)
hypothesis.settings.register_profile("long", deadline=None, max_examples=2_000)  # --hypothesis-profile=long
hypothesis.settings.load_profile("deterministic")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where a test makes its searches; nothing of them outlives it."""
    yield tmp_path
    end_all(tmp_path)


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drivers]:
    """What runs commands of which a test says where they fail, see faults.py."""
    found = Drivers(tmp_path_factory.mktemp("drivers"))
    yield found
    found.end()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Sum up what tests recorded as "kills" and "faults": how many there were, by victim."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    for name in ("kills", "faults"):
        found: Counter[str] = Counter()
        for report in reports:
            for recorded, counts in report.user_properties if report.when == "call" else ():
                if recorded == name:
                    found.update(counts)
        if found:
            shares = ", ".join(f"{count} of {victim}" for victim, count in sorted(found.items()))
            what = "random SIGKILLs" if name == "kills" else "faults at chosen points"
            terminalreporter.write_line(f"{found.total()} {what}: {shares}")

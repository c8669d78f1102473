"""One fault at every point where a search changes its directory: a kill, a full disk, a broken one; then it goes on.

A search of two jobs has some fifty such points; see faulty.py for what they are. Whatever happens at one of them, the
search that goes on is the one that an undisturbed twin was.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faults import (
    Account,
    Drivers,
    Results,
    assert_no_run_overlapped,
    assert_nothing_lives,
    temporary_files,
    text_of,
    witnessed,
)
from faulty import Fault

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="this system shows no processes in /proc")
JOBS = 2
PARTS = 3  # of the points, so that the processes of pytest share them
BRIEFLY = {"driver.LONGEST_WAIT_S": 0.05, "worker.PAUSE_S": 0.02, "presence.WATCH_S": 0.2}
ERRORS = {"EIO": "Input/output error", "EROFS": "Read-only file system", "EACCES": "Permission denied"}
part = pytest.mark.parametrize("part", range(PARTS))


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drivers]:
    found = Drivers(tmp_path_factory.mktemp("drivers"), PACE="0")
    yield found
    found.end()


@pytest.fixture(scope="module")
def twin(drivers: Drivers, tmp_path_factory: pytest.TempPathFactory) -> Account:
    """A search to which nothing happens."""
    root = search(tmp_path_factory.mktemp("twin"))
    drivers.complete(Fault(str(root)), "run", root)
    found = Account.of(root)
    found.assert_whole(JOBS, 1)
    assert sum(found.discarded.values()) > 0  # else nothing would be written to rejected.jsonl
    return found


def search(root: Path) -> Path:
    return witnessed(root, budget={"evaluations": JOBS}).root


def points(
    drivers: Drivers, folder: Path, fault: Fault, part: int, record: Callable[[str, object], None]
) -> Iterator[tuple[Fault, str]]:
    """A search for each event at which a fault like this can happen, one in PARTS: the fault, and what it is called.

    What happens to their searches is recorded.
    """
    root, trace = search(folder / "traced"), folder / "trace"
    drivers.complete(replace(fault, root=str(root), trace=str(trace)), "run", root)
    events = text_of(trace).splitlines()
    assert events
    numbers, happened, what = range(1 + part, len(events) + 1, PARTS), 0, f"{fault.kind} in a {fault.role}"
    for number in numbers:
        root = search(folder / f"{number}")
        chosen = replace(fault, root=str(root), at=number)
        yield chosen, f"{what} at {number}, {events[number - 1]}"
        happened += not chosen.is_ahead()
    assert happened >= len(numbers) - 1  # there may be one heartbeat less than in the search that was traced
    record("faults", {what: happened})


def assert_goes_on(drivers: Drivers, root: Path, twin: Account, most_attempts: int) -> None:
    """What a fault left is a search that resumes, is its twin in the end, and has nothing left to do then."""
    results = Results(root)
    results.look()
    drivers.complete(Fault(str(root), constants=BRIEFLY), "status", root)
    drivers.complete(Fault(str(root), constants=BRIEFLY), "run", root)
    results.look()
    found = Account.of(root)
    found.assert_whole(JOBS, most_attempts)
    found.assert_as(twin)
    assert_no_run_overlapped(root)
    assert_nothing_lives(root)
    assert len(temporary_files(root)) <= 1


@part
@pytest.mark.parametrize(("role", "links"), [("driver", True), ("nursery", True), ("worker", True), ("worker", False)])
def test_a_process_killed_at_any_point_loses_and_doubles_nothing(
    drivers: Drivers, twin: Account, folder: Path, role: str, links: bool, part: int, record_property: Any
) -> None:
    """Also where there are no hard links, by which a name is taken together with the file's content."""
    kill = Fault("", role, "kill", links=links, constants=BRIEFLY)
    for fault, where in points(drivers, folder, kill, part, record_property):
        code = drivers.run(fault, "run", fault.root)
        assert code in (0, -signal.SIGKILL if role == "driver" else 0), f"{where}: {drivers.said}"
        assert_goes_on(drivers, Path(fault.root), twin, 2)


@part
def test_a_driver_that_finds_the_disk_full_at_any_point_says_so_and_goes_on(
    drivers: Drivers, twin: Account, folder: Path, part: int, record_property: Any
) -> None:
    """Before its first job it ends, with a sentence; then it waits. Only what is a cache is left out in silence."""
    full = Fault("", "driver", "ENOSPC", constants=BRIEFLY)
    for fault, where in points(drivers, folder, full, part, record_property):
        code = drivers.run(replace(fault, times=1 + fault.at % 2 * 2), "run", fault.root)
        said = drivers.said
        assert "No space left on device" in said or "state/finished" in where, where
        if code:
            assert_one_sentence(code, said, where)
            assert not list(Path(fault.root).glob("jobs/*/job.json")), where
        elif "No space left" in said:
            assert said.count("waiting for better times") == said.count("The search goes on") == 1, f"{where}: {said}"
        assert_goes_on(drivers, Path(fault.root), twin, 1)


@pytest.mark.parametrize(("part", "kind"), list(enumerate(ERRORS)))
def test_a_driver_whose_disk_breaks_at_any_point_ends_with_a_sentence_and_resumes(
    drivers: Drivers, twin: Account, folder: Path, kind: str, part: int, record_property: Any
) -> None:
    """Each kind of error at one of PARTS points; only what is a cache is left out in silence."""
    broken = Fault("", "driver", kind, constants=BRIEFLY)
    for fault, where in points(drivers, folder, broken, part, record_property):
        code, said = drivers.run(fault, "run", fault.root), drivers.said
        if code:
            assert_one_sentence(code, said, where)
            assert ERRORS[kind] in said, f"{where}: {said}"
        else:
            assert "state/" in where, f"{where}: {said}"
        assert_goes_on(drivers, Path(fault.root), twin, 2)


def assert_one_sentence(code: int, said: str, where: str) -> None:
    *_, last = said.strip().splitlines()
    assert code == 1, f"{where}: {said}"
    assert last.startswith("error: "), f"{where}: {said}"
    assert said.count("error: ") == 1, f"{where}: {said}"


@part
@pytest.mark.parametrize("kind", ["ENOSPC", "EIO"])
def test_a_worker_whose_writes_fail_at_any_point_loses_nothing(
    drivers: Drivers, twin: Account, folder: Path, kind: str, part: int, record_property: Any
) -> None:
    """On a full disk it waits for room; where the disk is broken, another worker does the work again."""
    fails = Fault("", "worker", kind, constants=BRIEFLY)
    for fault, where in points(drivers, folder, fails, part, record_property):
        times = 1 + fault.at % 2 * 2 if kind == "ENOSPC" else 1
        code = drivers.run(replace(fault, times=times), "run", fault.root)
        assert code == 0, f"{where}: {drivers.said}"
        assert_goes_on(drivers, Path(fault.root), twin, 1 if kind == "ENOSPC" else 2)

"""Heartbeats seen from another host: what counts as silence, and what does not."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hyperpower_runner.job_files import JobFiles
from hyperpower_runner.launchers.heartbeats import Heartbeats

LOOK_S = 10.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture
def files(tmp_path: Path) -> JobFiles:
    files = JobFiles(tmp_path)
    files.heartbeat.touch()
    return files


def watch(heartbeats: Heartbeats, files: JobFiles, clock: Clock, seconds: float, *, beats: bool = False) -> float:
    """Ask each second; returns the last answer."""
    for _ in range(int(seconds)):
        clock.now_s += 1
        if beats:
            os.utime(files.heartbeat, (clock.now_s, clock.now_s))
        silent_s = heartbeats.silent_s(files)
    return silent_s


def test_a_worker_is_silent_since_its_heartbeat_was_last_seen_to_change(files: JobFiles, clock: Clock) -> None:
    heartbeats = Heartbeats(LOOK_S)
    assert heartbeats.silent_s(files) == 0
    assert watch(heartbeats, files, clock, 100, beats=True) <= LOOK_S
    assert 100 <= watch(heartbeats, files, clock, 100) <= 100 + LOOK_S
    assert watch(heartbeats, files, clock, LOOK_S, beats=True) <= LOOK_S
    heartbeats.forget(files)
    assert heartbeats.silent_s(files) == 0


def test_while_nobody_looked_no_silence_was_heard(files: JobFiles, clock: Clock) -> None:
    """This process was stopped, or waited for a file system that was away: the worker must first get to beat."""
    heartbeats = Heartbeats(LOOK_S)
    watch(heartbeats, files, clock, 50, beats=True)
    watch(heartbeats, files, clock, LOOK_S)  # the last beat is seen
    clock.now_s += 300
    assert heartbeats.silent_s(files) <= 4 * LOOK_S
    assert watch(heartbeats, files, clock, 150) >= 150  # but a worker that goes on being silent is gone

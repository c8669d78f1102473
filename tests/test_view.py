"""How numbers, durations and outcomes are shown."""

from __future__ import annotations

import errno
import io
import math
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from searching import make_experiment

from hyperpower_runner import view
from hyperpower_runner.config import parse
from hyperpower_runner.history import History
from hyperpower_runner.job_files import append_json_line
from hyperpower_runner.summary import Summary
from hyperpower_runner.trial import Job, Recommendation, Result, Status, Trial

CONFIG = parse(
    {
        "objective": {"command": ["true"]},
        "variables": {"x": {"type": "FLOAT", "min": 0, "max": 1}},
        "constraints": {"power_w": 10},
        "budget": {"evaluations": 5, "hours": 2},
    }
)


def trial(
    number: int, status: Status, reason: str | None = None, epoch: float | None = None, **metrics: float
) -> Trial:
    result = Result(status, dict(metrics), reason, epoch, ended_s=60.0 * number)
    return Trial(Job(job_id=number, params={"x": 0.123456789, "kind": "relu"}, seed=0), result)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0.0, "0"),
        (0.0301, "0.0301"),
        (1234567.0, "1,234,567"),
        (0.123456789, "0.12346"),
        (1e300, "1e+300"),
    ],
)
def test_numbers(value: float | None, shown: str) -> None:
    assert view.show_number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        *((-3, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (7260, "2 h 01 min")),
        *((math.inf, "-"), (-math.inf, "-"), (math.nan, "-")),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert view.show_duration(seconds) == shown


def test_outcomes_carry_the_epoch_the_error_and_the_reason() -> None:
    ended = trial(1, Status.TERMINATED, "the loss became nan", 3, error=0.9)
    assert view.show_outcome(ended) == "terminated after epoch 3, error 0.9: the loss became nan"
    assert view.show_outcome(trial(2, Status.COMPLETED, error=0.03)) == "completed, error 0.03"
    assert view.show_outcome(trial(3, Status.FAILED, "exit code 1")) == "failed: exit code 1"


def test_the_best_so_far_is_marked_only_where_it_meets_the_constraints() -> None:
    console = Console(file=io.StringIO(), width=200)
    lines = view.Lines(CONFIG, console)
    for ended in (
        trial(1, Status.COMPLETED, error=0.1, power_w=11),
        trial(2, Status.COMPLETED, error=0.5, power_w=9),
        trial(3, Status.COMPLETED, error=0.6, power_w=9),
        trial(4, Status.TERMINATED, error=0.01, power_w=9),
        trial(5, Status.COMPLETED, error=0.2, power_w=9),
    ):
        lines.ended(ended)
    written = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert ["best so far" in line for line in written] == [False, True, False, False, True]


def test_what_is_left_of_the_budget() -> None:
    history = History((trial(1, Status.COMPLETED, error=0.5, power_w=9), trial(2, Status.CANCELLED)))
    summary = Summary(CONFIG, history, {}, 0, 1800.0)
    assert view.show_budget(summary) == "1 of 5 evaluations started, 1 h 30 min left of 2 h, 30 min 00 s elapsed"
    assert view.show_best(summary) == "job 1: error 0.5, power_w 9  (x=0.12346 kind=relu)"
    assert view.show_best(Summary(CONFIG, History(), {}, 0, 0.0)) == "none yet"


@pytest.mark.parametrize("width", [60, 100, 200])
def test_running_jobs_show_their_epochs_also_where_params_are_wider_than_the_terminal(
    tmp_path: Path, width: int
) -> None:
    experiment = make_experiment(tmp_path)
    job = Job(
        job_id=12, params={"kind": "[/b]", **{f"a_long_name_{index}": 0.5 for index in range(13)}}, seed=0, epochs=10
    )
    experiment.write_job(job)
    for line in ({"epoch": 6, "error": 0.5}, {"epoch": 7, "error": 0.25, "loss": float("nan")}):
        append_json_line(experiment.job_files(12).progress, line)
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    live = view.LiveView(experiment, CONFIG, console)
    history = History((Trial(job),))
    live.console.print(live._panel(Summary(CONFIG, history, {12: Status.RUNNING}, 3, 60.0)))
    written = console.file.getvalue()  # type: ignore[attr-defined]
    row = next(line for line in written.splitlines() if line.split()[:1] == ["12"])
    assert {"7/10", "0.25", "nan"} <= set(row.split())
    assert "1 running, 3 rejected" in written
    assert all(len(line) <= width for line in written.splitlines())


@pytest.mark.parametrize("created_s", [0.0, -math.inf, math.inf, math.nan])
def test_whatever_a_script_does_to_its_files_running_jobs_are_shown(tmp_path: Path, created_s: float) -> None:
    experiment = make_experiment(tmp_path)
    job = Job(job_id=12, params={"x": 0.5}, seed=0, created_s=created_s)
    experiment.write_job(job)
    os.mkfifo(experiment.job_files(12).progress)
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    live = view.LiveView(experiment, CONFIG, console)
    live.tick(lambda: Summary(CONFIG, History((Trial(job),)), {12: Status.RUNNING}, 0, 60.0))
    live.console.print(live.live.renderable)
    row = next(line for line in console.file.getvalue().splitlines() if line.split()[:1] == ["12"])  # type: ignore[attr-defined]
    assert row.split()[-4:] == ["-", "-", "-", "x=0.5"]


class Gone(io.StringIO):
    """A terminal that may be gone, as whoever reads along closed its window."""

    is_gone = False

    def write(self, text: str) -> int:
        if self.is_gone and text:
            raise OSError(errno.EIO, "Input/output error")
        return super().write(text)


@pytest.mark.parametrize("gone_at", ["enter", "tick", "exit"])
def test_a_view_whose_terminal_is_gone_ends_nothing_and_keeps_nothing(tmp_path: Path, gone_at: str) -> None:
    terminal = Gone()
    console = Console(file=terminal, width=80, force_terminal=True, color_system=None)
    view_of_it = view.LiveView(make_experiment(tmp_path), CONFIG, console)
    terminal.is_gone = gone_at == "enter"
    with view_of_it as live:
        terminal.is_gone |= gone_at == "tick"
        live.note("first")
        live.tick(lambda: Summary(CONFIG, History(), {}, 0, 60.0))
        terminal.is_gone = True
    length = len(terminal.getvalue())
    terminal.is_gone = False
    live.note("after")
    assert terminal.getvalue()[length:].strip() == "after"


@pytest.mark.parametrize(
    "measurement", [{"reason": 5}, {"reason": ["x"], "mismatch": {}}, {"mismatch": True}, 7, "text"]
)
def test_what_is_no_measurement_of_this_program_is_passed_over(measurement: Any) -> None:
    console = Console(file=io.StringIO(), width=200)
    result = Result(Status.COMPLETED, {"error": 0.5, "power_w": 9}, extra={"measurement": measurement})
    view.Lines(CONFIG, console).ended(Trial(Job(job_id=1, params={}, seed=0), result))
    assert len(console.file.getvalue().splitlines()) == 1  # type: ignore[attr-defined]


def test_what_the_surrogate_prefers_is_said_in_words() -> None:
    preferred = Recommendation({"x": 0.5, "kind": "relu"}, 0.0312344, 0.02, 0.05, {"power_w": 9.5})
    assert view.show_preferred(preferred, "error").splitlines() == [
        "The posterior mean of the surrogate, which sees through noise, prefers a point not tried yet:",
        "  error                0.031234 expected, 0.02 to 0.05 with a probability of 90 %",
        "  power_w              9.5 predicted",
        "params",
        "  x                    0.5",
        "  kind                 relu",
    ]
    tried = Recommendation({"x": 0.5}, 0.03, 0.02, 0.05, job_id=7)
    assert "prefers the point of job 7:" in view.show_preferred(tried, "error")
    assert "prefers no point" in view.show_preferred(None, "error")


def test_sampling_that_had_not_converged_is_said_and_nothing_else() -> None:
    fits = [{}, {"converged": True}, {"converged": False}]
    trials = tuple(Trial(Job(number, {}, 0, surrogate=fit)) for number, fit in enumerate(fits))
    shown = view.show_sampling(Summary(CONFIG, History(trials), {}, 0, 0.0))
    assert shown == "sampling had not converged for 1 of 2 suggestions"
    assert view.show_sampling(Summary(CONFIG, History(trials[:2]), {}, 0, 0.0)) == ""

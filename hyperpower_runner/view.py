"""What `run` shows while it works: a live view on a terminal, plain lines elsewhere, both on stderr.

It is told by the driver (`driver.Observer`) and reads the progress files of running jobs. It decides nothing.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hyperpower_runner.config import ExperimentConfig
from hyperpower_runner.errors import did_you_mean, printable, shortened
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.hardware.models import HardwareModels
from hyperpower_runner.hardware.platforms import measured_by
from hyperpower_runner.job_files import as_number, last_json_line
from hyperpower_runner.summary import Summary
from hyperpower_runner.supervision.reported import MEASUREMENT
from hyperpower_runner.trial import Recommendation, Status, Trial

STYLES = {Status.COMPLETED: "green", Status.TERMINATED: "yellow", Status.CANCELLED: "dim"}


def show_number(value: float | None) -> str:
    """A number as people read it: five significant digits, integers and large ones in full."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) < 1e15 and value == int(value) else f"{value:.5g}"


def show_metric(name: str, value: float | None) -> str:
    """A number with what its metric's name says of its unit: bytes in the unit that suits them."""
    if value is None or not name.endswith("_bytes"):
        return show_number(value)
    exponent = next((exponent for exponent in (9, 6, 3) if abs(value) >= 10**exponent), 0)
    return f"{value / 10**exponent:.4g} {['B', 'kB', 'MB', 'GB'][exponent // 3]}"


def show_params(params: dict[str, Any]) -> str:
    """Params in one line, numbers shortened."""
    items = ((name, f"{value:.5g}" if isinstance(value, float) else value) for name, value in params.items())
    return printable(" ".join(f"{name}={value}" for name, value in items))


def show_duration(seconds: float) -> str:
    """A duration as people read it; "-" where it is not finite."""
    if not math.isfinite(seconds):
        return "-"
    seconds = max(0.0, seconds)
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, hours = int(seconds // 60) % 60, int(seconds // 3600)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {int(seconds) % 60:02d} s"


def show_outcome(trial: Trial) -> str:
    """One clause on how a job ended."""
    assert trial.result is not None
    status, value = trial.result.status, trial.metrics.get(trial.job.metric)
    reached = f", {trial.job.metric} {show_number(value)}" if value is not None else ""
    at = (
        f" after epoch {trial.result.epoch:g}" if status is Status.TERMINATED and trial.result.epoch is not None else ""
    )
    reason = f": {trial.result.reason}" if trial.result.reason else ""
    return f"{status.value}{at}{reached}{reason}"


def show_unmet(trial: Trial, constraints: Mapping[str, float]) -> str:
    """The constraints that a trial is known to exceed, with its values."""
    values = ((metric, trial.constrained_value(metric), bound) for metric, bound in constraints.items())
    return ", ".join(
        f"{metric} {show_metric(metric, value)} > {show_metric(metric, bound)}"
        for metric, value, bound in values
        if value is not None and value > bound
    )


def show_hardware(trial: Trial, constraints: Mapping[str, float]) -> str:
    """The constrained metrics of a trial, measured beside predicted."""
    parts = []
    for metric in constraints:
        measured = trial.metrics.get(metric)
        predicted = trial.job.predictions.get(metric, trial.hindsight.get(metric))
        if measured is not None and predicted is not None:
            parts.append(f"{metric} {show_metric(metric, measured)} ({show_metric(metric, predicted)} predicted)")
        elif measured is not None:
            parts.append(f"{metric} {show_metric(metric, measured)}")
        elif predicted is not None:
            parts.append(f"{metric} {show_metric(metric, predicted)} predicted")
    return "".join(f", {part}" for part in parts)


@contextlib.contextmanager
def _shown_if_possible(console: Console) -> Iterator[None]:
    """Drop what cannot be shown: whoever read along has gone, or the disk is full; the search goes on."""
    try:
        yield
    except OSError:
        console.quiet = True  # else rich keeps what it could not write, and tries again with all that comes
        with console:
            pass
        console.quiet = False


class Lines:
    """An observer that writes one line for each thing that happens.

    best: the incumbent's value, which whoever resumes a search sets.
    """

    def __init__(self, config: ExperimentConfig, console: Console) -> None:
        self.config = config
        self.console = console
        self.best: float | None = None
        self._warned: set[str] = set()

    def started(self, trial: Trial, adopted: bool) -> None:
        verb = "taken over" if adopted else "started"
        self._write(Text.assemble(self._name(trial), f" {verb}: {show_params(trial.job.params)}"))

    def ended(self, trial: Trial) -> None:
        assert trial.result is not None
        outcome = show_outcome(trial) + show_hardware(trial, self.config.constraints)
        text = Text.assemble(self._name(trial), " ", (outcome, STYLES.get(trial.result.status, "red")))
        value = trial.objective
        if (
            value is not None
            and trial.is_feasible(self.config.constraints)
            and (self.best is None or value < self.best)
        ):
            self.best = value
            text.append("  best so far", style="bold green")
        elif value is not None:
            unmet = show_unmet(trial, self.config.constraints)
            text.append(f"  exceeds {unmet}" if unmet else "", style="yellow")
        self._write(text)
        self._warn_of_measurement(trial)
        self._warn_of_unknown(trial)

    def _warn_of_measurement(self, trial: Trial) -> None:
        """Say once why completed jobs' networks could not be measured, or were measured on another platform."""
        measurement = trial.result.extra.get(MEASUREMENT) if trial.result else None
        if not isinstance(measurement, dict):
            return
        for key, what in (("reason", "its network was not measured, predictions stand: "), ("mismatch", "")):
            found = measurement.get(key)
            if not found or not isinstance(found, str):  # a script may write its result.json itself
                continue
            kind = re.sub(r"[0-9]+", "", found)  # reasons name jobs and processes
            if kind not in self._warned:
                self._warned.add(kind)
                self.note(f"job {trial.job_id}: {what}{found}")

    def _warn_of_unknown(self, trial: Trial) -> None:
        """Say once of each constrained metric that a completed job did not report: no such job can become the best."""
        for metric in self.config.constraints:
            if trial.objective is not None and trial.constrained_value(metric) is None and metric not in self._warned:
                self._warned.add(metric)
                self.note(
                    f'constraints.{metric}: job {trial.job.job_id} reported no "{metric}" and no model predicts it, so'
                    f" it cannot become the best{did_you_mean(metric, trial.metrics)}"
                )

    def note(self, text: str) -> None:
        self._write(Text(text, style="yellow"))

    def tick(self, summary: Callable[[], Summary]) -> None:
        """Nothing: lines are written when something happens."""

    def _name(self, trial: Trial) -> tuple[str, str]:
        return f"{time.strftime('%H:%M:%S')}  job {trial.job.job_id}", "bold"

    def _write(self, text: Text) -> None:
        with _shown_if_possible(self.console):
            if self.console.is_terminal:
                self.console.print(text)
            else:  # where nothing is coloured or wrapped, rich would do nothing else in fifty times as long
                self.console.file.write(f"{text.plain}\n")
                self.console.file.flush()


class LiveView(Lines):
    """An observer that keeps a panel below the lines: counts, the best so far, running jobs, and what is left."""

    def __init__(self, experiment: Experiment, config: ExperimentConfig, console: Console) -> None:
        super().__init__(config, console)
        self.experiment = experiment
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self._has_begun = False

    def __enter__(self) -> LiveView:
        with _shown_if_possible(self.console):
            self.live.start()
            self._has_begun = True
        return self

    def __exit__(self, *error: object) -> None:
        if self._has_begun:
            with _shown_if_possible(self.console):
                self.live.stop()

    def tick(self, summary: Callable[[], Summary]) -> None:
        with _shown_if_possible(self.console):
            self.live.update(self._panel(summary()), refresh=True)

    def _panel(self, summary: Summary) -> RenderableType:
        counts = ", ".join(f"{count:,} {status}" for status, count in summary.counts.items() if count)
        lines: list[RenderableType] = [
            Text(""),
            Text.assemble(("jobs    ", "bold"), counts or "none yet"),
            Text.assemble(("best    ", "bold"), show_best(summary)),
            Text.assemble(("budget  ", "bold"), show_budget(summary)),
        ]
        if self.config.simulated:
            lines.insert(1, Text.assemble(("device  ", "bold"), show_platform(self.config)))
        if summary.unfinished:
            lines.append(self._running(summary))
        return Group(*lines)

    def _running(self, summary: Summary) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), expand=True)
        for heading in ("job", "for", "epoch", self.config.optimize, "loss"):
            table.add_column(Text(heading), justify="right", no_wrap=True)
        table.add_column("params", no_wrap=True, overflow="ellipsis", ratio=1)  # takes the room that the others leave
        for job_id in sorted(summary.unfinished):
            job = summary.history.trial(job_id).job
            last = last_json_line(self.experiment.job_files(job_id).progress) or {}
            reported = [_show_field(last.get(name)) for name in ("epoch", self.config.optimize, "loss")]
            if job.epochs and last:
                reported[0] += f"/{job.epochs}"
            age = show_duration(time.time() - job.created_s)
            # As Text, because params and reports may hold what rich takes for markup.
            table.add_row(*map(Text, (str(job_id), age, *reported, show_params(job.params))))
        return table


def show_holder(holder: Mapping[str, Any]) -> str:
    """What drives the directory, and when it was last seen where it is on a host that cannot be seen from here."""
    who = f"process {holder['pid']} on {holder['host']}"
    if "seen_s" not in holder:
        return f"{holder.get('doing', 'search')}, {who}"
    seen = f"{who}, last seen {show_duration(holder['seen_s'])} ago"
    return f"{holder.get('doing', 'search')}, {seen}" if holder["beats"] else f"not running ({seen})"


def show_silence(silent_s: Mapping[int, float]) -> str:
    """Which of the jobs on hosts that cannot be seen from here has given no sign of life for longest.

    silent_s: for how long each has not, by id.
    """
    job_id = max(silent_s, key=lambda each: silent_s[each])
    last = f"{show_duration(silent_s[job_id])} ago"
    if len(silent_s) == 1:
        return f"job {job_id} cannot be seen from here; its last sign of life was {last}"
    return (
        f"{len(silent_s)} jobs cannot be seen from here; the longest silent is job {job_id}, last sign of life {last}"
    )


def show_platform(config: ExperimentConfig) -> str:
    """The device that budgets are about, and whether there is one at all."""
    text = ", ".join(f"{key} {value}" for key, value in config.platform.items()) or "by hardware/models.json"
    return f"SIMULATED, not measured: {text}" if config.simulated else text


def describe_constraint(config: ExperimentConfig, models: HardwareModels, metric: str) -> str:
    """How it will be known whether a budget is met, in one clause; models: with their margins."""
    if metric in models.models:
        margin = models.margins.get(metric)
        how = f"is predicted before a job runs ({models.describe(metric)})"
        how += f", with a margin of {100 * (margin - 1):.2g} %" if margin is not None else ""
        return how if config.hardware_aware else f"{how}, and not applied: hardware-aware is false"
    if config.measure_jobs and metric in measured_by(config.platform):
        return "has no model: it is measured after each job only; to know it before, profile and fit this platform"
    meter = config.platform.get("meter")
    lacking = f'and the meter "{meter}" does not measure it' if meter else "and platform.meter names no meter"
    return f"has no model, {lacking}: only jobs that report it themselves can meet it"


def show_best(summary: Summary) -> str:
    """The incumbent in one line: its objective, and what is known of its constrained metrics."""
    best = summary.best
    if best is None:
        unmet = summary.counts["completed"] > 0 and summary.config.constraints
        return "no completed job is known to meet the constraints" if unmet else "none yet"
    value = f"{summary.config.optimize} {show_number(best.objective)}"
    hardware = show_hardware(best, summary.config.constraints)
    return f"job {best.job.job_id}: {value}{hardware}  ({show_params(best.job.params)})"


def show_preferred(preferred: Recommendation | None, optimize: str) -> str:
    """What the surrogate would choose, in a block of lines that says what it is."""
    if preferred is None:
        return (
            "The posterior mean of the surrogate prefers no point: too little is known, or nothing feasible was found."
        )
    where = "a point not tried yet" if preferred.job_id is None else f"the point of job {preferred.job_id}"
    low, high = show_number(preferred.low), show_number(preferred.high)
    lines = [f"The posterior mean of the surrogate, which sees through noise, prefers {where}:"]
    lines += [
        f"  {optimize:<20} {show_number(preferred.expected)} expected, {low} to {high} with a probability of 90 %"
    ]
    lines += [f"  {name:<20} {show_metric(name, value)} predicted" for name, value in preferred.predictions.items()]
    lines += (
        [] if preferred.converged else ["  (the sampling of its hyper-parameters had not converged: take it with care)"]
    )
    return "\n".join([*lines, *_params_lines(preferred.params)])


def show_trial(trial: Trial) -> str:
    """A trial in a block of lines: its id, its metrics, its params."""
    lines = [f"job {trial.job_id}"]
    lines += [f"  {name:<20} {show_metric(name, value)}" for name, value in trial.metrics.items()]
    unmeasured = {**trial.job.predictions, **trial.hindsight}
    lines += [
        f"  {name:<20} {show_metric(name, value)} predicted"
        for name, value in unmeasured.items()
        if trial.metrics.get(name) is None
    ]
    return "\n".join([*lines, *_params_lines(trial.params)])


def _params_lines(params: Mapping[str, Any]) -> list[str]:
    return ["params", *(f"  {name:<20} {value}" for name, value in params.items())]


def show_sampling(summary: Summary) -> str:
    """One clause on suggestions whose hyper-parameters were not sampled to convergence, or '' where there is none."""
    count = summary.surrogate
    if not count["not_converged"]:
        return ""
    return f"sampling had not converged for {count['not_converged']} of {count['fitted']} suggestions"


def show_budget(summary: Summary) -> str:
    """What of the budget is used, and the time spent."""
    config, parts = summary.config, []
    if config.evaluations is not None:
        started = len(summary.history) - summary.history.counts.get(Status.CANCELLED, 0)
        parts.append(f"{started} of {config.evaluations} evaluations started")
    if config.hours is not None:
        parts.append(f"{show_duration(config.hours * 3600 - summary.elapsed_s)} left of {config.hours:g} h")
    return ", ".join([*parts, f"{show_duration(summary.elapsed_s)} elapsed"])


def _show_field(value: object) -> str:
    """One field of progress.jsonl, which a script may have filled with anything."""
    return show_number(as_number(value)) if value is None or as_number(value) is not None else shortened(str(value))

"""What `profile` and `fit` show: progress with the time left, and tables of what was measured and fitted.

It decides nothing. Whatever stems from a simulated platform says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as ProgressBar

from hyperpower_runner.config import ExperimentConfig
from hyperpower_runner.hardware.measurement import Protocol, Window
from hyperpower_runner.hardware.profile import Point, Profile, shown
from hyperpower_runner.hardware.profiling import Progress
from hyperpower_runner.view import show_duration, show_metric, show_params

LINE_EVERY = 10  # measurements, where there is no terminal
WORTHLESS = 0.9  # of a constant's error, from which on a model is hardly one
SHOWN = ("power_w", "memory_bytes")
NAMED = ("meter", "name", "batch-size", "dtype", "framework", "driver")


class ProfileLines:
    """An observer: a progress bar on a terminal, now and then a line elsewhere, both on stderr."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.label = "simulated " if config.simulated else ""
        self.console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self.bar = ProgressBar(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.task = self.bar.add_task(f"{self.label}measuring", total=None, left="")
        self._lines = 0

    def __enter__(self) -> ProfileLines:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def measured(self, point: Point, window: Window, progress: Progress) -> None:
        known = [(name, value) for name in SHOWN if (value := window.metrics.get(name)) is not None]
        found = ", ".join(f"{name} {show_metric(name, value)}" for name, value in known)
        self._advance(progress, f"structure {point.point_id}: {found}{_flagged(window.flags)}")

    def failed(self, point: Point, progress: Progress) -> None:
        self.note(f"structure {point.point_id} could not be measured: {point.failed} ({show_params(point.params)})")
        self._advance(progress, "")

    def note(self, text: str) -> None:
        self.console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=not self.console.is_terminal)

    def _advance(self, progress: Progress, line: str) -> None:
        done, left_s = progress.done + 1, progress.left_s
        left = "" if left_s is None else f"{show_duration(left_s)} left"
        self.bar.update(self.task, completed=done, total=max(done, progress.expected), left=left)
        self._lines += 1
        if not self.console.is_terminal and line and self._lines % LINE_EVERY == 1:
            text = f"{done}/{progress.expected} {self.label}measurements, {line}{', ' if left else ''}{left}"
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def profile_json(profile: Profile, protocol: Protocol) -> dict[str, Any]:
    """What `profile --json` prints: counts, the platform, and the range of each metric."""
    estimates = [point.estimate(protocol) for point in profile.measured]
    flags = [{*point.flags, *estimate.flags} for point, estimate in zip(profile.measured, estimates, strict=True)]
    names = sorted({name for estimate in estimates for name in estimate.metrics})
    metrics = {}
    for name in names:
        known = [value for estimate in estimates if (value := estimate.metrics.get(name)) is not None]
        if known:
            low, middle, high = np.quantile(known, [0, 0.5, 1])
            metrics[name] = {"min": low, "median": middle, "max": high, "structures": len(known)}
    platform = dict(profile.measured[-1].platform) if profile.measured else {}
    return {
        "structures": len(profile.measured),
        "failed": sum(point.failed is not None for point in profile.points),
        "flagged": sum(map(bool, flags)),
        "flags": dict(Counter(flag for found in flags for flag in sorted(found))),
        "platform": platform,
        "metrics": metrics,
    }


def profile_text(content: Mapping[str, Any]) -> str:
    """The object of `profile_json` as people read it."""
    counts = f"{content['structures']} structures measured, {content['failed']} failed, {content['flagged']} flagged"
    if content["flags"]:
        counts += f" ({', '.join(content['flags'])})"
    lines = [f"{platform_text(content['platform'])}: {counts}"]
    lines += [f"  {'metric':<24}{'min':>16}{'median':>16}{'max':>16}"]
    for name, found in content["metrics"].items():
        numbers = "".join(f"{show_metric(name, found[key]):>16}" for key in ("min", "median", "max"))
        lines.append(f"  {name:<24}{numbers}")
    return "\n".join(lines)


def models_text(content: Mapping[str, Any]) -> str:
    """The content of models.json as a table: the form of each metric, its error, and that of a constant."""
    lines = [
        platform_text(content["platform"]),
        f"  {'metric':<24}{'form':<16}{'RMSPE':>16}{'constant':>10}{'structures':>12}",
    ]
    for metric, found in content["models"].items():
        rmspe = f"{100 * found['rmspe']:.2f} +- {100 * found['spread']:.2f} %"
        constant = f"{100 * found['rmspe_constant']:.1f} %"
        lines.append(f"  {metric:<24}{found['form']:<16}{rmspe:>16}{constant:>10}{found['structures']:>12}")
    for metric, found in content["models"].items():
        if found["rmspe"] > WORTHLESS * found["rmspe_constant"]:
            lines.append(f"  {metric}: hardly better than a constant, so a budget on it decides little")
        scores = ", ".join(f"{form} {_score(score)}" for form, score in found["forms"].items() if form != found["form"])
        if scores:
            lines.append(f"  {metric} by other forms: {scores}")
    return "\n".join(lines)


def _score(score: Mapping[str, Any]) -> str:
    return f"not fitted ({score['left_out']})" if "left_out" in score else f"{100 * score['rmspe']:.2f} %"


def platform_text(platform: Mapping[str, Any]) -> str:
    """The platform in one clause, which says where it is simulated."""
    named = {key: platform[key] for key in NAMED if platform.get(key) is not None}
    label = "SIMULATED, not measured: " if platform.get("simulated") else ""
    return label + shown(named)


def _flagged(flags: tuple[str, ...]) -> str:
    return f" ({', '.join(flags)})" if flags else ""

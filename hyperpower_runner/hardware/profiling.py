"""Profiling (paper 3.3): measure randomly drawn structures on a platform, in an order that hides no heating.

    draw L structures -> rounds, each in an order of its own -> a fresh process for each measurement (`bench`)
      -> trace -> window (`measurement`) -> hardware/profile.jsonl

Between them the device is watched: at rest every `idle_every` measurements, and on a reference network every
`reference_every`, whose power tells of drift. What the file holds is the only state, so a killed profiling goes on
where it was. It decides what is measured when; what a trace is worth is decided in `measurement`.
"""

from __future__ import annotations

import itertools
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any
from typing import Protocol as Interface

import numpy as np

from hyperpower_runner import processes
from hyperpower_runner.config import ExperimentConfig
from hyperpower_runner.errors import InfeasibleError, InferenceError, ProfileError
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.hardware.bench import Bench, inference_job
from hyperpower_runner.hardware.from_profile import FOLDS
from hyperpower_runner.hardware.measurement import Protocol, Window, assess, enough, idle_power
from hyperpower_runner.hardware.platforms import disagreement
from hyperpower_runner.hardware.profile import (
    DRIFT,
    Point,
    Profile,
    append_event,
    append_point,
    read_profile,
)
from hyperpower_runner.hardware.traces import Trace
from hyperpower_runner.space import Array, Space
from hyperpower_runner.trial import Job, Params

STRUCTURES, ORDER, NOISE = 2, 3, 4  # second words of seeds, so that no two draws share one
REFERENCE = 0  # the id of the reference network among the points
LOOKS = 5  # at the reference network: the mean of the last ones is held against that of the first
MOST_DRAWN = 4_000_000
MOST_REPEATED = 100_000  # draws of known structures, before there are no more
CHUNK = 4096
MOST_FAILURES = 5  # in a row, before the script is taken to be broken


class Observer(Interface):
    """Is told what happens; must not change anything."""

    def measured(self, point: Point, window: Window, progress: Progress) -> None: ...

    def failed(self, point: Point, progress: Progress) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class Progress:
    """How far profiling is: measurements done and expected, and the seconds that the rest is expected to take."""

    done: int
    expected: int
    left_s: float | None


class Profiler:
    """Profiles one platform. The caller holds the experiment's lock, and closes the bench."""

    def __init__(
        self,
        experiment: Experiment,
        config: ExperimentConfig,
        bench: Bench,
        protocol: Protocol,
        samples: int,
        observer: Observer,
    ) -> None:
        self.experiment = experiment
        self.config = config
        self.bench = bench
        self.features = experiment.read_features(config)
        self.protocol = protocol
        self.samples = samples
        self.file = experiment.profile_file
        self.scratch = experiment.state / "profiling"  # for the folders of the inference processes
        self.observer = observer
        self.idle_power_w: float | None = None
        self._references_w: list[float] = []
        self._since_idle = self._since_reference = self._failures = self._runs = 0
        self._drifted = False
        self._spent_s = 0.0

    def run(self) -> Profile:
        """Measure until every structure is known well enough, or it is asked to stop; returns the whole profile."""
        self.file.parent.mkdir(exist_ok=True)
        profile = self._profile()
        for complaint in profile.complaints:
            self.observer.note(complaint)
        points = {point.point_id: point for point in self._structures()}
        if len(points) < FOLDS:
            raise ProfileError(
                f"the space has {len(points)} feasible structures, but models are fitted to {FOLDS} or more; widen its"
                " structural variables"
            )
        if len(points) < self.samples:
            self.observer.note(f"the space has {len(points)} feasible structures, not {self.samples}: all are measured")
        self._reference = next(iter(points.values())).params
        self._references_w = [seen.power_w for seen in profile.references if seen.params == self._reference]
        for number in range(1, self.protocol.most_repeats + 1):
            todo = [key for key, point in points.items() if self._wants(point, number)]
            for place, key in enumerate(sorted(todo, key=lambda key: self._order(number, key))):
                if self.experiment.stop_request() is not None:
                    return self._profile()
                self._watch()
                points[key] = self._measure_point(points[key], self._progress(points, todo[place:], number))
        shutil.rmtree(self.scratch, ignore_errors=True)
        return self._profile()

    def _order(self, number: int, key: int) -> float:
        """Where a structure comes in a round, drawn anew for each round."""
        return float(np.random.default_rng([self.config.seed, ORDER, number, key]).random())

    def _profile(self) -> Profile:
        return read_profile(self.file, self.config.space).on({**self.config.platform, **self.bench.platform})

    def _structures(self) -> list[Point]:
        """The points to measure: the structures drawn for this space, with what is known of them already."""
        space = self.config.space
        profile, everything = self._profile(), read_profile(self.file, space)
        known = {structure_key(space, space.from_params(point.params)): point for point in profile.points}
        taken = {point.point_id for point in everything.points}
        beyond = itertools.count(max(taken, default=0) + self.samples)  # for places that other points have
        points = []
        for place, values in enumerate(draw_structures(space, self.samples, self.config.seed), start=1):
            point = known.get(structure_key(space, values))
            if point is None:
                point = Point(place if place not in taken else next(beyond), space.to_params(values))
            if point.quick and not self.protocol.quick:
                point = replace(point, windows=(), quick=False)  # short windows are not mixed with full ones
            points.append(replace(point, failed=None))  # whoever profiles again has mended what failed
        return points

    def _wants(self, point: Point, number: int) -> bool:
        if point.failed is not None:
            return False
        return len(point.windows) < number and not enough(point.windows, self.protocol)

    def _measure_point(self, point: Point, progress: Progress) -> Point:
        """Measure a structure once more, and write down what is known of it now."""
        features = self._features(point.params)
        try:
            window, platform = self._measure(point.point_id, len(point.windows) + 1, point.params)
        except InferenceError as error:
            self._failures += 1
            if self._failures >= MOST_FAILURES:
                raise ProfileError(
                    f"{self._failures} structures in a row could not be measured; the last: {error}"
                ) from None
            point = replace(point, failed=str(error))
            self.observer.failed(point, progress)
        else:
            self._failures = 0
            changed = disagreement(platform, point.platform)
            if changed:
                self.observer.note(f"structure {point.point_id} is measured anew: {changed}")
            point = replace(
                point,
                windows=(window,) if changed else (*point.windows, window),
                platform=platform,
                features=features,
                idle_power_w=self.idle_power_w,
                flags=(DRIFT,) if self._drifted else () if changed else point.flags,
                quick=self.protocol.quick,
            )
            self.observer.measured(point, window, progress)
        append_point(self.file, point, self.protocol, time.time())
        return point

    def _measure(self, key: int, repeat: int, params: Params) -> tuple[Window, dict[str, Any]]:
        words, begun_s = [self.config.seed, NOISE, key, repeat], time.monotonic()
        job = profile_job(self.config, key, params)
        measured = measure_network(self.bench, job, self.protocol, self.scratch / f"{key:06d}-{repeat}", words)
        self._runs += 1
        self._spent_s += time.monotonic() - begun_s
        return measured

    def _watch(self) -> None:
        """See to the device at rest, and to the reference network, whenever their time has come."""
        if "power_w" not in self.bench.metrics:
            return
        if self._since_idle == 0:
            self.idle_power_w = idle_power(self.bench.idle(self.protocol.idle_s))
            platform = {**self.config.platform, **self.bench.platform}
            content = {"power_w": self.idle_power_w, "platform": platform, "time_s": time.time()}
            append_event(self.file, "idle", content)
        if self._since_reference == 0:
            self._see_reference()
        self._since_idle = (self._since_idle + 1) % self.protocol.idle_every
        self._since_reference = (self._since_reference + 1) % self.protocol.reference_every

    def _see_reference(self) -> None:
        try:
            window, platform = self._measure(REFERENCE, self._runs, self._reference)
        except InferenceError:
            return  # its own turn as a structure comes, and tells of it
        power_w = window.metrics.get("power_w") if window.usable else None
        content = {"params": self._reference, "power_w": power_w, "platform": platform, "time_s": time.time()}
        append_event(self.file, "reference", content)
        if power_w is None:
            return
        self._references_w.append(power_w)
        first, last = (fmean(looks) for looks in (self._references_w[:LOOKS], self._references_w[-LOOKS:]))
        drifted = abs(last - first) > self.protocol.drift * first
        if drifted and not self._drifted:
            self.observer.note(
                f"the reference network draws {last:.4g} W now, {first:.4g} W at first: the device drifts; points"
                ' are flagged "drift" until it is back'
            )
        self._drifted = drifted

    def _features(self, params: Params) -> dict[str, float]:
        if self.features is None:
            return {}
        values = self.config.space.from_params(params)[np.newaxis]
        return {name: float(column[0]) for name, column in self.features.columns(self.config.space, values).items()}

    def _progress(self, points: Mapping[int, Point], todo: list[int], number: int) -> Progress:
        """What is done, and what is left if every structure needs no more than the usual number of repeats."""
        later = sum(
            max(0, self.protocol.repeats - max(number, len(p.windows))) for p in points.values() if not p.failed
        )
        left = len(todo) + later
        done = sum(len(point.windows) for point in points.values())
        left_s = left * self._spent_s / self._runs if self._runs else None
        return Progress(done, done + left, left_s)


def profile_job(config: ExperimentConfig, key: int, params: Params) -> Job:
    """The job of one network, from which `inference_job` asks for its inference step."""
    return Job(
        job_id=key,
        params=params,
        seed=config.seed,
        command=list(config.command),
        env=dict(config.env),
        metric=config.optimize,
        epochs=config.epochs,
        threads=config.threads_of_job(processes.cores()),
        platform=dict(config.platform),
    )


def measure_network(
    bench: Bench, job: Job, protocol: Protocol, folder: Path, words: list[int]
) -> tuple[Window, dict[str, Any]]:
    """One measurement in a fresh process, again while its window is of no use and a longer warm-up may help.

    words: of the seed of the job. Also returns the platform that the window belongs to. Raises InferenceError and
    MeterError as `Bench.run` does.
    """
    warm_up_s = protocol.warm_up_s
    for redo in range(protocol.most_redos + 1):
        seed = int(np.random.SeedSequence([*words, redo]).generate_state(1)[0])
        trace = bench.run(inference_job(replace(job, seed=seed), protocol, warm_up_s), folder, protocol.sample_hz)
        _check_task(job, trace)
        window = assess(trace, protocol, bench.metrics)
        if window.usable:
            break
        last = redo + 2 > protocol.most_redos
        warm_up_s = protocol.longest_warm_up_s if last else min(2 * warm_up_s, protocol.longest_warm_up_s)
    return window, _provenance(job, bench, trace)


def _provenance(job: Job, bench: Bench, trace: Trace) -> dict[str, Any]:
    """What a measurement must carry: the platform as config.json and the bench name it, and what the script said."""
    said = dict(trace.provenance)
    for name, key in (("batch_size", "batch-size"), ("device", "runs-on")):  # "device" is config.json's
        if name in said:
            said[key] = said.pop(name)
    return {**job.platform, **bench.platform, "threads": job.threads, **said}


def _check_task(job: Job, trace: Trace) -> None:
    """Refuse the numbers of a script that trains, because it does not know the task."""
    if job.metric in trace.said:
        raise InferenceError(
            f'the script reported "{job.metric}", so it was trained: where job.json says "task": "profile", it must run'
            ' its inference for job.json\'s "seconds" instead'
        )


def draw_structures(space: Space, count: int, seed: int) -> list[Array]:
    """Points of distinct structures, values of shape (D,), uniform among those that meet the known constraints.

    More of them begin with the same ones. There are fewer where the space has no more. Raises ProfileError where
    nothing is structural, InfeasibleError where nothing meets the known constraints.
    """
    structural = [variable for variable in space.by_dimension if variable.structural]
    if not structural:
        raise ProfileError(
            'no variable is structural, so all networks would be the same; set "structural": true where a variable'
            " shapes the network"
        )
    distinct = math.prod(variable.choices or math.inf for variable in structural)
    rng = np.random.default_rng([seed, STRUCTURES])
    found: dict[bytes, Array] = {}
    repeats = 0  # in a row
    for values in _allowed(space, rng):
        for row, structure in zip(values, space.structures(values), strict=True):
            key = structure.tobytes()
            repeats = repeats + 1 if key in found else 0
            found.setdefault(key, row)
            if len(found) >= min(count, distinct) or repeats >= MOST_REPEATED:
                return list(found.values())
    if not found:
        raise InfeasibleError(
            f"known-constraints: none of {MOST_DRAWN:,} points drawn from the space meets them; relax one"
        )
    return list(found.values())


def _allowed(space: Space, rng: np.random.Generator) -> Iterator[Array]:
    for _ in range(MOST_DRAWN // CHUNK):
        values = space.sample(rng, CHUNK)
        yield values[space.holds(values).all(axis=0)]


def structure_key(space: Space, values: Array) -> bytes:
    """Equal for points, values of shape (D,), of the same structure."""
    return space.structures(values[np.newaxis]).tobytes()

"""Profiling with a bench that is a formula: which structures, in which order, how often, and resumed after a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperpower_runner import processes
from hyperpower_runner.config import parse
from hyperpower_runner.errors import InfeasibleError, InferenceError, MeterError, ProfileError
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.hardware.measurement import Protocol, Window
from hyperpower_runner.hardware.profile import Point, Profile
from hyperpower_runner.hardware.profiling import Profiler, Progress, draw_structures, structure_key
from hyperpower_runner.hardware.traces import Sample, Trace
from hyperpower_runner.space import Space
from hyperpower_runner.trial import Job, params_key

CONFIG: dict[str, Any] = {
    "objective": {"command": ["true"]},
    "variables": {
        "units": {"type": "INT", "min": 1, "max": 40},
        "depth": {"type": "INT", "min": 1, "max": 5},
        "rate": {"type": "FLOAT", "min": 0.1, "max": 1},
    },
    "platform": {"meter": "host", "batch-size": 32},
}
PROTOCOL = Protocol(warm_up_s=2.0, window_s=2.0, idle_s=2.0)


class Formula:
    """A bench whose power is a formula of the params, exact unless told otherwise."""

    metrics = frozenset({"power_w", "memory_bytes"})

    def __init__(self, **platform: Any) -> None:
        self.platform: Mapping[str, Any] = {"meter": "host", "name": "formula", **platform}
        self.jobs: list[Job] = []
        self.idles = 0
        self.die_after: int | None = None
        self.noise = 0.0
        self.drift = 0.0
        self.unsettled: set[float] = set()
        self.broken: set[int] = set()
        self.reported: dict[str, float] = {}

    def preflight(self) -> None: ...

    def close(self) -> None: ...

    def idle(self, seconds: float) -> Trace:
        self.idles += 1
        return steady(20.0, seconds)

    def run(self, job: Job, folder: Path, sample_hz: float) -> Trace:
        warm_up_s = (job.seconds or 0.0) - (job.window_s or 0.0)
        if self.die_after is not None and len(self.jobs) >= self.die_after:
            raise MeterError("the device has gone")
        self.jobs.append(job)
        if job.params["units"] in self.broken:
            raise InferenceError("the script ended with exit code 1")
        noise = 1 + self.noise * np.random.default_rng(job.seed).standard_normal()
        power = (power_of(job.params) + self.drift * len(self.jobs)) * noise
        trace = steady(power, job.seconds or 0.0, job.params["units"] * 1e6)
        if warm_up_s in self.unsettled:
            rising = [replace(s, power_w=(s.power_w or 0) * (1 + s.time_s / 10)) for s in trace.samples]
            trace = replace(trace, samples=tuple(rising))
        said = frozenset(self.reported)
        return replace(trace, reported=self.reported, provenance={"framework": "formula 1"}, said=said)


def power_of(params: Mapping[str, Any]) -> float:
    return float(30 + params["units"] + 5 * params["depth"])


def steady(power_w: float, seconds: float, memory_bytes: float | None = None) -> Trace:
    times = np.arange(0, seconds + 0.01, 0.05)
    return Trace(tuple(Sample(float(t), power_w, memory_bytes=memory_bytes) for t in times), 0.0, seconds, 0.01)


class Notes:
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.progress: list[Progress] = []
        self.failures: list[Point] = []

    def measured(self, point: Point, window: Window, progress: Progress) -> None:
        self.progress.append(progress)

    def failed(self, point: Point, progress: Progress) -> None:
        self.failures.append(point)

    def note(self, text: str) -> None:
        self.notes.append(text)


def profile(
    root: Path, bench: Formula, samples: int = 12, protocol: Protocol = PROTOCOL, **changes: Any
) -> tuple[Profile, Notes]:
    root.mkdir(exist_ok=True)
    config, notes = parse({**CONFIG, **changes}), Notes()
    return Profiler(Experiment(root), config, bench, protocol, samples, notes).run(), notes


def structures(jobs: list[Job]) -> list[bytes]:
    return [params_key(job.params) for job in jobs if job.job_id]  # the reference network has the id 0


def test_every_structure_is_measured_as_often_as_the_protocol_says(tmp_path: Path) -> None:
    bench = Formula()
    found, _ = profile(tmp_path, bench)
    assert len(found.measured) == 12
    assert len({params_key(point.params) for point in found.points}) == 12
    for point in found.points:
        estimate = point.estimate(PROTOCOL)
        assert len(point.windows) == PROTOCOL.repeats
        assert estimate.metrics["power_w"] == pytest.approx(power_of(point.params))
        assert estimate.metrics["memory_bytes"] == point.params["units"] * 1e6
        assert estimate.metrics["energy_j"] == pytest.approx(power_of(point.params) * 0.01)
        platform = {"meter": "host", "batch-size": 32, "name": "formula", "framework": "formula 1"}
        assert point.platform == {**platform, "threads": processes.cores()}
        assert point.idle_power_w == pytest.approx(20.0)


def test_each_round_has_an_order_of_its_own_and_each_measurement_its_own_seed(tmp_path: Path) -> None:
    bench = Formula()
    profile(tmp_path, bench)
    jobs = structures(bench.jobs)
    rounds = [jobs[:12], jobs[12:24], jobs[24:]]
    assert all(sorted(one) == sorted(rounds[0]) for one in rounds)
    assert len({tuple(one) for one in rounds}) == 3
    assert len({job.seed for job in bench.jobs}) == len(bench.jobs)


def test_the_script_is_asked_for_inference_over_warm_up_and_window(tmp_path: Path) -> None:
    bench = Formula()
    profile(tmp_path, bench)
    content = bench.jobs[0].to_json()
    assert (content["task"], content["seconds"], content["warm_up_steps"]) == ("profile", 4.0, 50)
    assert content["platform"]["batch-size"] == 32
    assert Job.from_json(json.loads(json.dumps(content))) == bench.jobs[0]


def test_an_imprecise_structure_is_repeated_up_to_the_most(tmp_path: Path) -> None:
    bench = Formula()
    bench.noise = 0.2
    found, _ = profile(tmp_path, bench)
    counts = [len(point.windows) for point in found.points]
    assert max(counts) == PROTOCOL.most_repeats
    assert min(counts) >= PROTOCOL.repeats


def test_a_window_that_was_not_settled_is_measured_again_with_a_longer_warm_up(tmp_path: Path) -> None:
    bench = Formula()
    bench.unsettled = {2.0}
    found, _ = profile(tmp_path, bench)
    assert {job.seconds for job in bench.jobs} == {4.0, 6.0}
    assert all(window.usable for point in found.points for window in point.windows)


def test_a_window_that_stays_useless_is_kept_with_its_flags(tmp_path: Path) -> None:
    bench = Formula()
    bench.unsettled = {2.0, 4.0, 30.0}
    found, _ = profile(tmp_path, bench)
    assert all("all-discarded" in point.estimate(PROTOCOL).flags for point in found.points)
    line = json.loads((tmp_path / "hardware" / "profile.jsonl").read_text().splitlines()[-1])
    assert "all-discarded" in line["flags"]


def test_the_idle_device_and_the_reference_network_are_seen_in_between(tmp_path: Path) -> None:
    bench = Formula()
    profile(tmp_path, bench, samples=15)
    references = [job for job in bench.jobs if not job.job_id]
    assert bench.idles == -(-45 // PROTOCOL.idle_every)
    assert len(references) == -(-45 // PROTOCOL.reference_every)
    assert len({params_key(job.params) for job in references}) == 1


def test_a_drifting_device_is_told_of_and_its_points_are_flagged(tmp_path: Path) -> None:
    bench = Formula()
    bench.drift = 0.5
    found, notes = profile(tmp_path, bench)
    assert len([note for note in notes.notes if "drifts" in note]) == 1
    assert any("drift" in point.flags for point in found.points)
    assert not any("drift" in point.flags for point in profile(tmp_path / "steady", Formula())[0].points)


@pytest.mark.parametrize("die_after", [0, 1, 7, 20, 39])
def test_what_a_killed_profiling_has_measured_is_not_measured_again(tmp_path: Path, die_after: int) -> None:
    whole = Formula()
    twin, _ = profile(tmp_path / "twin", whole)
    first, second = Formula(), Formula()
    first.die_after = die_after
    with pytest.raises(MeterError, match="has gone"):
        profile(tmp_path, first)
    found, _ = profile(tmp_path, second)
    assert [(p.params, len(p.windows)) for p in found.points] == [(p.params, len(p.windows)) for p in twin.points]
    assert sorted(structures(first.jobs + second.jobs)) == sorted(structures(whole.jobs))


def test_a_torn_last_line_costs_one_measurement(tmp_path: Path) -> None:
    profile(tmp_path, Formula())
    file = tmp_path / "hardware" / "profile.jsonl"
    file.write_bytes(file.read_bytes()[:-100])
    bench = Formula()
    found, notes = profile(tmp_path, bench)
    assert len(structures(bench.jobs)) == 1
    assert any("is passed over: it is torn" in note for note in notes.notes)
    assert all(len(point.windows) == PROTOCOL.repeats for point in found.points)


def test_more_samples_go_on_from_the_ones_there_are(tmp_path: Path) -> None:
    few, _ = profile(tmp_path, Formula())
    bench = Formula()
    many, _ = profile(tmp_path, bench, samples=20)
    assert many.points[:12] == few.points
    assert len(structures(bench.jobs)) == 8 * PROTOCOL.repeats


def test_points_of_another_platform_are_kept_but_do_not_count(tmp_path: Path) -> None:
    profile(tmp_path, Formula(name="other"))
    found, notes = profile(tmp_path, Formula())
    assert len(found.points) == 12
    assert {point.platform["name"] for point in found.points} == {"formula"}
    assert any("measured on" in note and "name other" in note for note in notes.notes)
    again, _ = profile(tmp_path, Formula(name="other"))
    assert len(again.measured) == 12


def test_a_structure_that_fails_is_passed_over_and_tried_again_the_next_time(tmp_path: Path) -> None:
    bench = Formula()
    profile(tmp_path / "look", bench)
    bad = bench.jobs[5].params["units"]
    bench = Formula()
    bench.broken = {bad}
    found, notes = profile(tmp_path, bench)
    assert notes.failures
    assert {point.failed for point in notes.failures} == {"the script ended with exit code 1"}
    assert len(found.measured) == 12 - len(notes.failures)
    mended, _ = profile(tmp_path, Formula())
    assert len(mended.measured) == 12
    assert all(point.failed is None for point in mended.points)


def test_a_script_that_always_fails_ends_the_profiling(tmp_path: Path) -> None:
    bench = Formula()
    bench.broken = set(range(1, 41))
    with pytest.raises((ProfileError, InferenceError), match="exit code 1"):
        profile(tmp_path, bench)


def test_a_script_that_trains_instead_is_found_out(tmp_path: Path) -> None:
    bench = Formula()
    bench.reported = {"error": 0.1}
    with pytest.raises((ProfileError, InferenceError), match='"task": "profile"'):
        profile(tmp_path, bench)


def test_what_else_a_script_reports_is_profiled_like_power(tmp_path: Path) -> None:
    bench = Formula()
    bench.reported = {"cache_misses": 7.0}
    found, _ = profile(tmp_path, bench)
    assert found.points[0].estimate(PROTOCOL).metrics["cache_misses"] == 7.0


def test_progress_counts_up_to_what_is_expected(tmp_path: Path) -> None:
    _, notes = profile(tmp_path, Formula())
    assert [progress.done for progress in notes.progress] == list(range(36))
    assert all(progress.expected == 36 for progress in notes.progress)
    assert notes.progress[-1].left_s is not None


SPACE = parse(CONFIG).space


def test_structures_are_distinct_and_begin_alike_however_many_there_are() -> None:
    few, many = draw_structures(SPACE, 10, 0), draw_structures(SPACE, 60, 0)
    assert len({structure_key(SPACE, values) for values in many}) == 60
    np.testing.assert_array_equal(few, many[:10])
    assert not np.array_equal(few, draw_structures(SPACE, 10, 1))


def space_of(**content: Any) -> Space:
    return parse({**CONFIG, **content}).space


def test_a_space_with_fewer_structures_gives_them_all() -> None:
    assert len(draw_structures(SPACE, 1000, 0)) == 200
    constrained = space_of(**{"known-constraints": ["units * depth <= 10"]})
    drawn = draw_structures(constrained, 1000, 0)
    assert len(drawn) == sum(u * d <= 10 for u in range(1, 41) for d in range(1, 6))
    assert constrained.holds(np.array(drawn)).all()


def test_nothing_structural_and_nothing_allowed_are_refused() -> None:
    with pytest.raises(ProfileError, match='"structural": true'):
        draw_structures(space_of(variables={"rate": {"type": "FLOAT", "min": 0, "max": 1}}), 10, 0)
    with pytest.raises(InfeasibleError, match="relax"):
        draw_structures(space_of(**{"known-constraints": ["units > 1000"]}), 10, 0)

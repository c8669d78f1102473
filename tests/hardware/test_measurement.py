"""What is concluded from traces, on traces that were constructed: each flaw alone, and none at all."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from hyperpower_runner.hardware.measurement import (
    NOTED,
    QUICK,
    Protocol,
    Window,
    assess,
    enough,
    idle_power,
    quickened,
    summarise,
)
from hyperpower_runner.hardware.traces import Sample, Trace

PROTOCOL = Protocol()
BEGIN_S, END_S = 100.0, 111.0  # 3 s of warm-up, 8 s of window
WINDOW_S = END_S - PROTOCOL.window_s


def times(begin_s: float = BEGIN_S - 2, end_s: float = END_S + 1, hz: float = 20.0) -> list[float]:
    """From the set-up, through the run, to some time after its end."""
    return [begin_s + number / hz for number in range(round((end_s - begin_s) * hz) + 1)]


def constant(power_w: float = 100.0, **fields: Any) -> Sample:
    return Sample(0.0, power_w=power_w, **fields)


def trace(make: Callable[[float], Sample], at: Sequence[float] | None = None, **fields: Any) -> Trace:
    """A trace whose samples are made from their times."""
    samples = tuple(replace(make(time_s), time_s=time_s) for time_s in (times() if at is None else at))
    return Trace(samples, **{"begin_s": BEGIN_S, "end_s": END_S, "step_s": 0.5, **fields})


def steady(time_s: float) -> Sample:
    return constant(
        100.0, energy_j=5000 + 100 * time_s, memory_bytes=2e9, clock_mhz=1500, temperature_c=60, throttled=()
    )


def test_a_steady_run_has_every_metric_and_no_flag() -> None:
    window = assess(trace(steady, reported={"top5": 0.5}), PROTOCOL)
    assert window.flags == ()
    assert window.usable
    assert window.metrics == pytest.approx(
        {"power_w": 100.0, "memory_bytes": 2e9, "latency_s": 0.5, "energy_j": 50.0, "top5": 0.5}
    )
    assert (window.clock_mhz, window.temperature_c) == (1500, 60)


@given(
    power=st.floats(0.5, 2000),
    hz=st.sampled_from([20.0, 50.0]),
    tick_every=st.integers(1, 4),
    offset=st.floats(0, 1e9),
    jitter=st.lists(st.floats(0, 0.4), min_size=40, max_size=40),
)
def test_constant_power_is_found_by_both_estimators(
    power: float, hz: float, tick_every: int, offset: float, jitter: list[float]
) -> None:
    at = [time_s + jitter[number % 40] / hz for number, time_s in enumerate(times(hz=hz))]
    ticked = [at[number - number % tick_every] for number in range(len(at))]  # the counter is seen when it ticks
    energy = {time_s: offset + power * tick for time_s, tick in zip(at, ticked, strict=True)}
    window = assess(trace(lambda time_s: constant(power, energy_j=energy[time_s]), at), PROTOCOL)
    assert window.power_by_samples_w == pytest.approx(power, rel=1e-12)
    assert window.power_by_energy_w == pytest.approx(power, rel=1e-5)  # the counter's own precision at 1e9 J
    assert window.flags == ()


@given(st.sets(st.sampled_from(["power_w", "energy_j", "memory_bytes", "clock_mhz", "temperature_c", "throttled"])))
def test_what_is_not_supported_is_none_all_through_and_never_zero(missing: set[str]) -> None:
    unsupported: dict[str, Any] = dict.fromkeys(missing)
    window = assess(trace(lambda time_s: replace(steady(time_s), **unsupported)), PROTOCOL)
    no_power = {"power_w", "energy_j"} <= missing
    assert (window.power_by_samples_w is None) == ("power_w" in missing)
    assert (window.power_by_energy_w is None) == ("energy_j" in missing)
    assert (window.metrics["power_w"] is None) == (window.metrics["energy_j"] is None) == no_power
    assert (window.metrics["memory_bytes"] is None) == ("memory_bytes" in missing)
    assert (window.clock_mhz is None) == ("clock_mhz" in missing)
    assert (window.temperature_c is None) == ("temperature_c" in missing)
    assert 0 not in window.metrics.values()
    assert window.flags == (("no-power",) if no_power else ())
    assert window.usable


def test_power_is_missed_only_where_it_was_to_be_measured() -> None:
    memory_only = trace(lambda time_s: Sample(time_s, memory_bytes=1e8))
    assert assess(memory_only, PROTOCOL, frozenset({"memory_bytes"})).flags == ()
    assert assess(memory_only, PROTOCOL).flags == ("no-power",)


def test_without_a_step_time_there_is_no_energy() -> None:
    metrics = assess(trace(steady, step_s=None), PROTOCOL).metrics
    assert (metrics["latency_s"], metrics["energy_j"]) == (None, None)
    assert metrics["power_w"] is not None


def test_what_the_meter_measures_stands_against_what_the_script_reports() -> None:
    said = {"power_w": 1.0, "memory_bytes": 2.0}
    assert assess(trace(steady, reported=said), PROTOCOL).metrics["power_w"] == pytest.approx(100)
    unmeasured = assess(trace(lambda time_s: Sample(time_s), reported=said), PROTOCOL)
    assert unmeasured.metrics["memory_bytes"] == 2.0  # the meter has none, so what the script says of itself stands
    assert unmeasured.metrics["power_w"] == 1.0


def test_samples_outside_the_run_do_not_enter() -> None:
    def loud_outside(time_s: float) -> Sample:
        inside = WINDOW_S <= time_s <= END_S
        late = time_s > END_S
        return Sample(
            0.0,
            power_w=100.0 if inside or BEGIN_S + 1 <= time_s < WINDOW_S else 900.0,
            energy_j=100 * time_s if inside else 1e9 * time_s,
            memory_bytes=9e9 if late else 2e9,
            clock_mhz=1500 if inside else 300,
            temperature_c=60 if inside else 0,
            throttled=() if inside else ("thermal",),
        )

    window = assess(trace(loud_outside), PROTOCOL)
    assert window.flags == ()
    assert window.metrics["power_w"] == pytest.approx(100)
    assert window.metrics["memory_bytes"] == 2e9
    assert (window.clock_mhz, window.temperature_c) == (1500, 60)


def test_memory_is_the_largest_of_the_whole_run_its_set_up_included() -> None:
    window = assess(trace(lambda time_s: replace(steady(time_s), memory_bytes=3e9 if time_s < 99 else 2e9)), PROTOCOL)
    assert window.metrics["memory_bytes"] == 3e9


def test_samples_in_any_order_say_the_same() -> None:
    ordered = trace(steady)
    assert assess(replace(ordered, samples=ordered.samples[::-1]), PROTOCOL) == assess(ordered, PROTOCOL)


def test_late_samples_weigh_no_less() -> None:
    """Power rises in a staircase; a mean over samples would be drawn to where they are dense."""
    at = sorted({*times(), *(WINDOW_S + number / 200 for number in range(400))})
    power = np.interp(at, [WINDOW_S, END_S], [50, 150])
    by_time = dict(zip(at, power, strict=True))
    window = assess(trace(lambda time_s: constant(float(by_time[time_s])), at), PROTOCOL)
    assert window.power_by_samples_w == pytest.approx(100, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "make", "fields"),
    [
        ("too-short", steady, {"end_s": BEGIN_S + 3 + 7}),
        ("unsettled", lambda t: replace(steady(t), power_w=98.0 if t < BEGIN_S + 2 else 100.0), {}),
        ("power-slope", lambda t: constant(100 + 0.3 * (t - WINDOW_S) * (t > WINDOW_S)), {}),
        ("clock-moved", lambda t: replace(steady(t), clock_mhz=1400 if 106 < t < 107 else 1500), {}),
        ("throttled-thermal", lambda t: replace(steady(t), throttled=("thermal",) if 106 < t < 106.2 else ()), {}),
        ("counter-stood-still", lambda t: replace(steady(t), energy_j=100 * (t if t < 105 else max(105, t - 1))), {}),
        ("counter-reset", lambda t: replace(steady(t), energy_j=100 * (t if t < 105 else t - 105)), {}),
        ("gap", lambda t: replace(steady(t), power_w=None, energy_j=None) if 105 < t < 106 else steady(t), {}),
    ],
)
def test_each_flaw_has_its_flag_alone_and_calls_for_a_redo(
    name: str, make: Callable[[float], Sample], fields: dict[str, Any]
) -> None:
    window = assess(trace(make, **fields), PROTOCOL)
    assert window.flags == (name,)
    assert not window.usable
    assert window.metrics["power_w"] == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize(
    "make",
    [
        lambda t: replace(steady(t), power_w=99.5 if t < BEGIN_S + 2 else 100.0),
        lambda t: replace(steady(t), power_w=60.0 if t < BEGIN_S + 1 else 100.0),
        lambda t: constant(100 + 0.2 * (t - WINDOW_S) * (t > WINDOW_S)),
        lambda t: replace(steady(t), clock_mhz=1480 if 106 < t < 107 else 1500),
        lambda t: replace(steady(t), energy_j=100 * (t - t % 0.5)),
        lambda t: replace(steady(t), energy_j=100 * (t if t < WINDOW_S - 2 else t - 50)),  # a reset before the window
    ],
)
def test_what_is_within_the_limits_has_no_flag(make: Callable[[float], Sample]) -> None:
    assert assess(trace(make), PROTOCOL).flags == ()


def test_samples_that_are_missing_altogether_are_a_gap_at_the_edges_too() -> None:
    for begin_s, end_s in ((105, 106), (WINDOW_S - 0.1, WINDOW_S + 1), (END_S - 1, END_S + 2)):
        at = [time_s for time_s in times() if not begin_s < time_s < end_s]
        window = assess(trace(steady, at), PROTOCOL)
        assert "gap" in window.flags
        assert window.power_by_energy_w is None
        assert window.metrics["power_w"] == pytest.approx(100)


def test_a_counter_that_wraps_or_never_moves_gives_way_to_the_samples() -> None:
    for counter in (lambda t: 100 * t % 1060, lambda t: 77.0, lambda t: 0.0, lambda t: 5 * (t > 107)):
        window = assess(trace(lambda t, c=counter: replace(steady(t), energy_j=c(t))), PROTOCOL)  # type: ignore[misc]
        assert not window.usable
        assert window.power_by_energy_w is None
        assert window.metrics["power_w"] == pytest.approx(100)


def test_a_counter_alone_gives_power_and_shows_drift() -> None:
    rising = trace(lambda t: Sample(t, energy_j=100 * t + 2 * max(0.0, t - WINDOW_S) ** 2))
    window = assess(rising, PROTOCOL)
    assert window.flags == ("power-slope",)
    assert window.power_by_samples_w is None
    assert window.metrics["power_w"] == pytest.approx(100 + 2 * 8, rel=0.01)
    assert assess(trace(lambda t: Sample(t, energy_j=100 * t)), PROTOCOL).flags == ()


def test_the_ends_of_the_counter_are_on_ticks() -> None:
    """The counter ticks each 0.3 s, so that the window's edges are within ticks: untreated, that is an error of 4 %."""
    window = assess(trace(lambda t: replace(steady(t), energy_j=100 * 0.3 * math.floor(t / 0.3 + 1e-9))), PROTOCOL)
    assert window.metrics["power_w"] == pytest.approx(100, rel=1e-9)


def test_estimators_that_differ_are_noted_and_the_counter_is_taken() -> None:
    window = assess(trace(lambda t: replace(steady(t), power_w=94.0)), PROTOCOL)
    assert window.flags == ("estimators-differ",)
    assert window.usable
    assert (window.metrics["power_w"], window.power_by_samples_w) == pytest.approx((100, 94))
    assert assess(trace(lambda t: replace(steady(t), power_w=96.0)), PROTOCOL).flags == ()


def test_each_reason_for_throttling_is_named() -> None:
    window = assess(trace(lambda t: replace(steady(t), throttled=("thermal", "power-cap"))), PROTOCOL)
    assert window.flags == ("throttled-power-cap", "throttled-thermal")


@pytest.mark.parametrize("end_s", [BEGIN_S, BEGIN_S + 2, BEGIN_S + 3.01, BEGIN_S - 5])
def test_a_run_that_ends_before_its_window_is_too_short(end_s: float) -> None:
    window = assess(trace(steady, end_s=end_s), PROTOCOL)
    assert "too-short" in window.flags
    assert not window.usable


def test_a_run_seen_to_begin_a_little_late_is_long_enough() -> None:
    assert assess(trace(steady, begin_s=BEGIN_S + 0.2), PROTOCOL).flags == ()


def test_a_trace_without_samples_has_no_numbers() -> None:
    window = assess(Trace((), BEGIN_S, END_S), PROTOCOL)
    assert window.flags == ("gap", "no-power")
    assert set(window.metrics.values()) == {None}


def test_a_longer_warm_up_moves_the_window_not_its_length() -> None:
    window = assess(
        trace(lambda t: replace(steady(t), power_w=90.0 if t < WINDOW_S - 3 else 100.0), begin_s=80.0), PROTOCOL
    )
    assert window.flags == ()


def test_noise_is_no_trend() -> None:
    rng = np.random.default_rng(0)

    def noisy(time_s: float) -> Sample:
        return Sample(0.0, power_w=100 * (1 + 0.05 * rng.standard_normal()))

    flags = [flag for _ in range(60) for flag in assess(trace(noisy), PROTOCOL).flags]
    assert flags.count("unsettled") <= 12  # each is seen at two standard errors
    assert flags.count("power-slope") <= 8


@pytest.mark.parametrize("tick_s", [0.0973, 0.107, 0.0833])
def test_ticks_that_are_seen_late_do_not_blur_the_energy(tick_s: float) -> None:
    def counted(time_s: float) -> Sample:
        return Sample(0.0, energy_j=100 * math.floor(time_s / tick_s) * tick_s)

    assert assess(trace(counted), PROTOCOL).power_by_energy_w == pytest.approx(100, rel=0.003)


def test_a_warm_up_of_a_second_is_judged_by_its_halves() -> None:
    def rising(time_s: float) -> Sample:
        return constant(100 if time_s < 110 - 2 - 0.5 else 103)

    short = replace(QUICK, warm_up_s=1.0)
    assert assess(trace(rising, begin_s=107.0, end_s=110.0), short).flags == ("unsettled",)


def test_the_rise_of_the_power_is_over_before_the_quick_warm_up_is_judged() -> None:
    def risen(time_s: float) -> Sample:
        return constant(100 * (1 - math.exp(-(time_s - 105) / 0.2)))

    assert assess(trace(risen, begin_s=105.0, end_s=110.0), QUICK).flags == ()


@given(st.integers(0, 2**32 - 1), st.floats(0, 5), st.integers(1, 300))
def test_any_samples_can_be_assessed_and_kept(seed: int, spread_s: float, count: int) -> None:
    rng = np.random.default_rng(seed)

    def some(value: float) -> float | None:
        return value if rng.random() < 0.8 else None

    at = BEGIN_S + np.cumsum(rng.exponential(spread_s / 10, count))
    samples = [Sample(float(t), some(rng.normal(50, 30)), some(rng.exponential()), some(1.0), some(2.0)) for t in at]
    original = Trace(tuple(samples), BEGIN_S, END_S, reported={"a": 1.0})
    window = assess(original, PROTOCOL)
    assert Window.from_json(json.loads(json.dumps(window.to_json(), allow_nan=False))) == window
    assert Trace.from_json(json.loads(json.dumps(original.to_json(), allow_nan=False))) == original


def test_the_power_at_rest_is_the_mean_of_all_samples_or_the_counters() -> None:
    at_rest = Trace(tuple(Sample(t, power_w=20.0 + t % 2) for t in range(11)), 0.0, 10.0)
    assert idle_power(at_rest) == pytest.approx(20.5)
    assert idle_power(Trace(tuple(Sample(t, energy_j=7.0 * t) for t in range(11)), 0.0, 10.0)) == pytest.approx(7)
    assert idle_power(Trace(tuple(Sample(t, energy_j=7.0 * (t % 5)) for t in range(11)), 0.0, 10.0)) is None
    assert idle_power(Trace((), 0.0, 10.0)) is None


def window(power_w: float | None = None, *, flags: tuple[str, ...] = (), **metrics: float | None) -> Window:
    return Window({"power_w": power_w, **metrics}, flags=flags)


@given(st.lists(st.floats(1, 1000), min_size=2, max_size=9))
def test_the_half_width_is_the_t_based_one(values: list[float]) -> None:
    estimate = summarise([window(value) for value in values], PROTOCOL)
    mean, error = np.mean(values), scipy.stats.sem(values)
    low, _ = scipy.stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error) if error > 0 else (mean, mean)
    assert estimate.metrics["power_w"] == pytest.approx(mean)
    assert estimate.half_widths["power_w"] == pytest.approx(mean - low, abs=1e-9 * mean)
    assert estimate.counts["power_w"] == len(values)


def test_of_one_value_no_half_width_is_known() -> None:
    estimate = summarise([window(10.0, memory_bytes=None)], PROTOCOL)
    assert estimate.metrics == {"power_w": 10.0, "memory_bytes": None}
    assert estimate.half_widths == {"power_w": None, "memory_bytes": None}
    assert estimate.counts == {"power_w": 1, "memory_bytes": 0}
    assert estimate.flags == ()
    assert summarise([], PROTOCOL).metrics == {}


def test_usable_windows_alone_enter_while_there_are_any() -> None:
    windows = [window(10.0, flags=("estimators-differ",)), window(99.0, flags=("gap",)), window(10.0)]
    estimate = summarise(windows, PROTOCOL)
    assert estimate.metrics["power_w"] == 10.0
    assert estimate.flags == ("estimators-differ",)
    spoiled = summarise([window(10.0, flags=("gap",)), window(10.1, flags=("gap", "power-slope"))], PROTOCOL)
    assert spoiled.metrics["power_w"] == pytest.approx(10.05)
    assert spoiled.flags == ("gap", "power-slope", "all-discarded", "imprecise")
    assert spoiled.counts == {"power_w": 2}


def test_repeats_go_on_until_the_half_width_is_small() -> None:
    assert not enough([], PROTOCOL)
    assert not enough([window(10.0)] * 2, PROTOCOL)
    assert enough([window(10.0), window(10.05), window(9.95)], PROTOCOL)  # half-width 1.2 %
    wide = [window(10.0), window(10.3), window(9.7)]
    assert not enough(wide, PROTOCOL)
    assert "imprecise" in summarise(wide, PROTOCOL).flags
    assert not enough(wide * 2, PROTOCOL)
    assert enough([*wide, *wide, window(10.0)], PROTOCOL)  # most_repeats


def test_discarded_windows_are_no_repeats_unless_there_are_no_others() -> None:
    bad = window(10.0, flags=("gap",))
    assert not enough([window(10.0)] * 2 + [bad] * 3, PROTOCOL)
    assert enough([window(10.0)] * 3 + [bad] * 2, PROTOCOL)
    assert enough([bad] * 3, PROTOCOL)  # as well known as it will be
    assert enough([window(10.0)] + [bad] * 6, PROTOCOL)


def test_without_power_memory_decides_and_with_nothing_the_number_of_repeats() -> None:
    assert enough([window(memory_bytes=1e9, latency_s=t) for t in (1.0, 2.0, 3.0)], PROTOCOL)
    assert not enough([window(memory_bytes=b) for b in (1e9, 2e9, 3e9)], PROTOCOL)
    assert not enough([window(latency_s=t) for t in (1.0, 2.0, 3.0)], PROTOCOL)
    assert enough([window()] * 3, PROTOCOL)
    assert enough([window(0.0)] * 3, PROTOCOL)


def test_the_quick_protocol_measures_once_and_says_so() -> None:
    assert QUICK.quick
    assert QUICK.to_json()["quick"] is True
    assert enough([window(10.0)], QUICK)
    hasty = replace(PROTOCOL, window_s=1.0, slope=0.5)
    assert (quickened(hasty).window_s, quickened(hasty).slope, quickened(hasty).warm_up_s) == (1.0, 0.5, 3.0)
    assert Protocol(**QUICK.to_json()) == QUICK
    assert not PROTOCOL.quick


def test_the_flags_are_the_ones_in_the_table() -> None:
    from hyperpower_runner.hardware import measurement

    rows = [line.split() for line in (measurement.__doc__ or "").splitlines()]
    table = {row[0]: row[1] for row in rows if len(row) > 2 and row[1] in ("redo", "noted")}
    assert {flag for flag, what in table.items() if what == "noted"} == NOTED
    assert len(table) == 10

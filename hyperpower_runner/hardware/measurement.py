"""What follows from a trace: power, memory, latency and energy of one network, and whether to believe them.

It knows the protocol (which part of a trace counts, what spoils it, how often to repeat) and nothing of devices, clocks
or processes: everything here is a function of recorded samples. What was not measured is None and never 0.

The flags of a window, and whether they are a cause to discard it and measure again:

    too-short            redo   the run ended before the warm-up and 90 % of the window were over
    unsettled            redo   the mean power of the last second of the warm-up differs from that of the second before
    gap                  redo   no sample for longer than 5 sample periods and 10 % of the window
    power-slope          redo   a straight line through the power rises or falls by more than `slope` over the window
    clock-moved          redo   the clock was further than `clock` from its median
    throttled-REASON     redo   the device held back its clock, by the reason that the meter names (throttled-thermal)
    counter-stood-still  redo   the energy counter did not change for longer than such a gap, or changed less than twice
    counter-reset        redo   the energy counter went down: a reset, or a wrap that the meter could not undo
    estimators-differ    noted  energy counter and power samples differ by more than `agreement`; the counter is taken
    no-power             noted  power was expected, but neither a power sample nor two ticks of a counter were seen
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from statistics import StatisticsError, fmean, linear_regression, median, stdev, variance
from typing import Any

from hyperpower_runner.hardware.traces import Sample, Trace

NOTED = frozenset({"estimators-differ", "no-power"})
DECISIVE = ("power_w", "memory_bytes", "latency_s")  # the first that is known is repeated until it is precise
CONFIDENCE = 0.95
BEYOND_NOISE = 2.0  # standard errors by which a change exceeds what noisy samples show of themselves
COMPLETE = 0.9  # of window_s: when a run has begun is seen a sample late
LONGEST_GAP_PERIODS = 5
LONGEST_GAP_SHARE = 0.1  # of the window

OF_WINDOW = ("power_by_energy_w", "power_by_samples_w", "clock_mhz", "temperature_c")

Curve = list[tuple[float, float]]  # time in s, power in W


@dataclass(frozen=True)
class Protocol:
    """How a network is measured; every number can be set, and is recorded beside what was measured with it.

    warm_up_s, warm_up_steps: the least warm-up; longest_warm_up_s: the most, when the power does not settle.
    window_s: the part that counts, at the end of the run. sample_hz: how often the meter is read.
    idle_s, idle_every: for how long, and every how many configurations, the idle device is measured.
    reference_every: after how many configurations a reference network shows drift.
    repeats, most_repeats, half_width: repeat until the relative 95 % half-width is that small.
    agreement, settled, slope, clock: relative limits of the flags above; drift: that of the reference network.
    most_redos: how often a window to discard is measured again before it is kept with its flags.
    quick: true for a time-boxed protocol, whose numbers are worth less.
    """

    warm_up_s: float = 3.0
    warm_up_steps: int = 50
    longest_warm_up_s: float = 30.0
    window_s: float = 8.0
    sample_hz: float = 20.0
    idle_s: float = 10.0
    idle_every: int = 20
    reference_every: int = 10
    repeats: int = 3
    most_repeats: int = 7
    half_width: float = 0.02
    agreement: float = 0.05
    settled: float = 0.01
    slope: float = 0.02
    clock: float = 0.02
    drift: float = 0.02
    most_redos: int = 2
    quick: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


QUICKER = {"warm_up_s": 3.0, "warm_up_steps": 10, "longest_warm_up_s": 6.0, "window_s": 2.0, "idle_s": 2.0}


def quickened(protocol: Protocol) -> Protocol:
    """The time-boxed form of a protocol: shorter, every network once, and recorded as such."""
    shorter: dict[str, Any] = {name: min(value, getattr(protocol, name)) for name, value in QUICKER.items()}
    return replace(protocol, **shorter, repeats=1, most_repeats=1, quick=True)


QUICK = quickened(Protocol())


@dataclass(frozen=True)
class Window:
    """What one trace gave.

    metrics: power_w (gross), memory_bytes (the largest of the run), latency_s and energy_j (of one inference step), and
        what the script reported; where it reports one of these four names, the meter's own value stands, if it has one.
    power_by_energy_w, power_by_samples_w: the two estimators of power; power_w is the first, where it is sound.
    clock_mhz, temperature_c: means over the window.
    """

    metrics: dict[str, float | None]
    power_by_energy_w: float | None = None
    power_by_samples_w: float | None = None
    clock_mhz: float | None = None
    temperature_c: float | None = None
    flags: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """True where no flag calls for another measurement."""
        return NOTED.issuperset(self.flags)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "flags": list(self.flags)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Window:
        """Read what `to_json` wrote; raises KeyError or TypeError where it is none."""
        known = {name: _number(content[name]) for name in OF_WINDOW if name in content}
        flags = content.get("flags", [])
        if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
            raise TypeError(f"flags are {flags!r}")
        return cls({name: _number(value) for name, value in content["metrics"].items()}, **known, flags=tuple(flags))


@dataclass(frozen=True)
class Estimate:
    """What several windows of one network say together, by metric.

    metrics: means over the windows where the metric is known, None where it is in none. half_widths: of the t-based
    95 % confidence interval, None for fewer than two values. counts: of values.
    flags: those of the windows that entered; "all-discarded" where every window was to be discarded; "imprecise" where
        the half-width that decides on repeats (see `enough`) is wider than the protocol wants.
    """

    metrics: dict[str, float | None] = field(default_factory=dict)
    half_widths: dict[str, float | None] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    flags: tuple[str, ...] = ()


def assess(trace: Trace, protocol: Protocol, measures: Collection[str] = ("power_w",)) -> Window:
    """Judge the last `window_s` of a run; samples before its begin or after its end never enter, but for the memory of
    its set-up.

    measures: what the meter can measure; power is missed only where it is among them.
    """
    begin_s, end_s = trace.begin_s, trace.end_s
    start_s = max(end_s - protocol.window_s, begin_s + protocol.warm_up_s)
    upto_end = sorted((sample for sample in trace.samples if sample.time_s <= end_s), key=lambda sample: sample.time_s)
    run = [sample for sample in upto_end if sample.time_s >= begin_s]
    inside = [sample for sample in run if sample.time_s >= start_s]
    patience_s = max(LONGEST_GAP_PERIODS / protocol.sample_hz, LONGEST_GAP_SHARE * protocol.window_s)

    flags = []
    if end_s - start_s < COMPLETE * protocol.window_s:
        flags.append("too-short")
    if _is_unsettled(run, begin_s, start_s, protocol.settled):
        flags.append("unsettled")
    if _has_gap(inside, start_s, end_s, patience_s):
        flags.append("gap")
    flags += _counter_flags(inside, patience_s)
    counter_is_sound = not {"gap", "counter-reset", "counter-stood-still"}.intersection(flags)
    by_energy = _power_by_energy(run, start_s) if counter_is_sound else None
    by_samples = _mean_power(_power_samples(inside))
    power = by_energy if by_energy is not None else by_samples
    if by_energy is not None and by_samples is not None and _differ(by_samples, by_energy, protocol.agreement):
        flags.append("estimators-differ")
    if power is None and "power_w" in measures:
        flags.append("no-power")
    if _slopes(_power_points(inside), start_s, end_s, protocol.slope):
        flags.append("power-slope")
    clocks = [sample.clock_mhz for sample in inside if sample.clock_mhz is not None]
    if clocks and any(_differ(clock, median(clocks), protocol.clock) for clock in clocks):
        flags.append("clock-moved")
    flags += sorted({f"throttled-{reason}" for sample in inside for reason in sample.throttled or ()})

    latency = trace.step_s
    own: dict[str, float | None] = {
        "power_w": power,
        "memory_bytes": max((s.memory_bytes for s in upto_end if s.memory_bytes is not None), default=None),
        "latency_s": latency,
        "energy_j": power * latency if power is not None and latency is not None else None,
    }
    metrics = {**own, **trace.reported, **{name: value for name, value in own.items() if value is not None}}
    temperatures = (sample.temperature_c for sample in inside)
    return Window(metrics, by_energy, by_samples, _mean(clocks), _mean(temperatures), tuple(flags))


def idle_power(trace: Trace) -> float | None:
    """The mean power in W over a whole trace without a run: of its samples, or else of its energy counter."""
    inside = [sample for sample in trace.samples if trace.begin_s <= sample.time_s <= trace.end_s]
    by_samples = _mean_power(_power_samples(inside))
    if by_samples is not None or "counter-reset" in _counter_flags(inside, math.inf):
        return by_samples
    return _power_by_energy(inside, trace.begin_s)


def summarise(windows: Sequence[Window], protocol: Protocol) -> Estimate:
    """Join the windows of one network: the usable ones, or all of them, flagged, where none is usable.

    The half-width is t(0.975; n - 1) * s / sqrt(n), with s the sample standard deviation of n values.
    """
    entering = [window for window in windows if window.usable] or list(windows)
    flags = list(dict.fromkeys(flag for window in entering for flag in window.flags))
    if windows and not any(window.usable for window in windows):
        flags.append("all-discarded")
    metrics: dict[str, float | None] = {}
    half_widths: dict[str, float | None] = {}
    counts: dict[str, int] = {}
    for name in dict.fromkeys(name for window in entering for name in window.metrics):
        values = [value for window in entering if (value := window.metrics.get(name)) is not None]
        metrics[name] = fmean(values) if values else None
        half_widths[name] = _half_width(values)
        counts[name] = len(values)
    spread = _relative_half_width(metrics, half_widths)
    if spread is not None and spread > protocol.half_width:
        flags.append("imprecise")
    return Estimate(metrics, half_widths, counts, tuple(flags))


def enough(windows: Sequence[Window], protocol: Protocol) -> bool:
    """Whether to stop repeating one network.

    Stop at `repeats` of the windows that enter `summarise` once the relative half-width is small, at `most_repeats`
    windows in any case. What must be known that well is the first of power_w, memory_bytes and latency_s that is known
    at all.
    """
    if len(windows) >= protocol.most_repeats:
        return True
    if (sum(window.usable for window in windows) or len(windows)) < protocol.repeats:
        return False
    estimate = summarise(windows, protocol)
    spread = _relative_half_width(estimate.metrics, estimate.half_widths)
    return spread is not None and spread <= protocol.half_width


def _relative_half_width(metrics: Mapping[str, float | None], half_widths: Mapping[str, float | None]) -> float | None:
    """That of the metric that decides; 0 where there is nothing to narrow, None where it takes more values to say."""
    for name in DECISIVE:
        mean = metrics.get(name)
        if mean is not None:
            half_width = half_widths[name]
            return half_width / abs(mean) if half_width and mean else half_width
    return 0.0


def _half_width(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    from scipy.special import stdtrit  # here, because every command imports this module and must start fast

    quantile = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2))
    return quantile * stdev(values) / math.sqrt(len(values))


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise TypeError(f"{value!r} is not a finite number")
    return float(value)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _differ(value: float, reference: float, relative: float) -> bool:
    return abs(value - reference) > relative * abs(reference)


def _power_samples(samples: Sequence[Sample]) -> Curve:
    return [(sample.time_s, sample.power_w) for sample in samples if sample.power_w is not None]


def _counter(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    return [(sample.time_s, sample.energy_j) for sample in samples if sample.energy_j is not None]


def _ticks(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    """Where the energy counter was seen to change: its readings between two ticks belong to no known time."""
    counter = _counter(samples)
    return [now for before, now in pairwise(counter) if now[1] != before[1]]


def _power_by_energy(run: Sequence[Sample], start_s: float) -> float | None:
    """Estimator 1: the rise of the energy counter from tick to tick of the window.

    Each tick is seen up to one sample late, so the least-squares line through all of them is several times as exact as
    the difference between the first and the last; where the power is linear in time, both have its mean.
    """
    ticks = [tick for tick in _ticks(run) if tick[0] >= start_s]
    if len(ticks) < 2 or ticks[-1][0] <= ticks[0][0]:
        return None
    return linear_regression([time_s for time_s, _ in ticks], [energy_j for _, energy_j in ticks]).slope


def _mean_power(points: Curve) -> float | None:
    """Estimator 2: the mean over time by the trapezoidal rule, so that samples taken late weigh no less."""
    if not points:
        return None
    duration_s = points[-1][0] - points[0][0]
    if duration_s <= 0:
        return fmean(power for _, power in points)
    return math.fsum((t1 - t0) * (p0 + p1) / 2 for (t0, p0), (t1, p1) in pairwise(points)) / duration_s


def _power_points(samples: Sequence[Sample]) -> Curve:
    """Power over time: its samples, or, where there are none, from tick to tick of the energy counter."""
    points = _power_samples(samples)
    if points:
        return points
    ticks = _ticks(samples)
    return [((t0 + t1) / 2, (e1 - e0) / (t1 - t0)) for (t0, e0), (t1, e1) in pairwise(ticks) if t1 > t0]


def _is_unsettled(run: Sequence[Sample], begin_s: float, start_s: float, settled: float) -> bool:
    """Compare the last second of the warm-up with the one before; in a shorter warm-up, its halves."""
    span_s = min(1.0, (start_s - begin_s) / 2)
    points = _power_points(run)
    last = [power for time_s, power in points if start_s - span_s <= time_s < start_s]
    before = [power for time_s, power in points if start_s - 2 * span_s <= time_s < start_s - span_s]
    if not last or not before:
        return False
    error = math.sqrt(sum(variance(part) / len(part) for part in (last, before) if len(part) > 1))
    return abs(fmean(last) - fmean(before)) > max(settled * abs(fmean(before)), BEYOND_NOISE * error)


def _has_gap(inside: Sequence[Sample], start_s: float, end_s: float, patience_s: float) -> bool:
    """Whether samples are missing; a sample that holds neither power nor energy, where others do, is missing too."""
    telling = [sample for sample in inside if sample.power_w is not None or sample.energy_j is not None] or inside
    times = [start_s, *(sample.time_s for sample in telling), end_s]
    return any(later - earlier > patience_s for earlier, later in pairwise(times))


def _counter_flags(inside: Sequence[Sample], patience_s: float) -> list[str]:
    """What is wrong with the energy counter; nothing where there is none."""
    counter = _counter(inside)
    flags = []
    if any(now < before for (_, before), (_, now) in pairwise(counter)):
        flags.append("counter-reset")
    stood_still = len(counter) > 1 and len(_ticks(inside)) < 2
    since_s, standing = -math.inf, math.nan
    for time_s, energy in counter:
        if energy != standing:
            since_s, standing = time_s, energy
        stood_still = stood_still or time_s - since_s > patience_s
    return [*flags, "counter-stood-still"] if stood_still else flags


def _slopes(points: Curve, start_s: float, end_s: float, slope: float) -> bool:
    """Whether the least-squares line through the power changes by more than `slope` of its mean over the window."""
    try:
        line = linear_regression([time_s for time_s, _ in points], [power for _, power in points])
    except StatisticsError:  # fewer than two points, or all at one time
        return False
    residuals = [power - line.slope * time_s - line.intercept for time_s, power in points]
    middle_s = fmean(time_s for time_s, _ in points)
    spread = math.fsum((time_s - middle_s) ** 2 for time_s, _ in points)
    error = math.sqrt(math.fsum(r * r for r in residuals) / max(1, len(points) - 2) / spread)
    least = max(slope * abs(fmean(power for _, power in points)) / (end_s - start_s), BEYOND_NOISE * error)
    return abs(line.slope) > least

"""Platforms that are simulated: what a GTX 1070 and a Tegra TX1 could draw and occupy, for machines without sensors.

Nothing runs and no time passes. It is a sketch of physics with constants of the right size, fitted to no measurement:
it knows a network by the counts of its script's `features(params)` only, and whatever it gives is called simulated.
With B images in a batch, float32, and W = B * macs, T = B * activations + parameters (what a step computes and moves):

    power_w       idle + compute * W / (W + W_half) + traffic * T / (T + T_half)
                  The more work there is in one step, the smaller is the share of it in which the units wait for kernels
                  to be started and filled.
    memory_bytes  context + 4 * T + scratch * W / (W + W_half)
                  A framework that keeps every layer's output, and a convolution library that takes more scratch memory
                  where there is more to do, up to a limit. None on the TX1, which has no sensor (paper, footnote 1).
    latency_s     overhead + W / rate + 4 * T / bandwidth, of one step; energy_j = power_w * latency_s

Each network departs from this by a factor that its counts do not explain, as real ones do; it is the same in every
measurement of the network. What a measurement adds to it is a function of the job's seed and params.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpower_runner.errors import MeterError, did_you_mean
from hyperpower_runner.hardware.traces import Sample, Trace
from hyperpower_runner.trial import Job, params_text

Array = NDArray[np.float64]
Hook = Callable[[dict[str, Any]], Mapping[str, Any]]

COUNTS = ("parameters", "macs", "activations")
DEFAULT_BATCH = 2048  # images; with it, both devices are busy with networks of a few million macs
BYTES = 4  # of a float32
IDLE_HZ = 20.0
TICK_S = 0.1
PHASE_S = 0.013  # samples and ticks do not fall together
STEP_S = 0.01  # of the integration of power


@dataclass(frozen=True)
class Device:
    """The constants of one platform.

    name: as shown. idle_w, compute_w, traffic_w: the parts of gross power, in W. half_macs, half_moved: W_half in macs
    and T_half in numbers. context_bytes, scratch_bytes: of memory; the first is None without a sensor.
    macs_per_s, bytes_per_s, overhead_s: of latency. power_step_w: what the power sensor resolves.
    clock_mhz: while it works. counts_energy: whether there is an energy counter.
    """

    name: str
    idle_w: float
    compute_w: float
    traffic_w: float
    half_macs: float
    half_moved: float
    context_bytes: float | None
    scratch_bytes: float
    macs_per_s: float
    bytes_per_s: float
    overhead_s: float
    power_step_w: float
    clock_mhz: float
    counts_energy: bool


# Of the GTX 1070: 3.25e12 macs/s and 256 GB/s are its peaks, 150 W its board limit; convolutions this small reach half
# of the one and 70 % of the other. It has no energy counter (they came with Volta): the simulated one has, so that both
# estimators of power are exercised. Of the TX1: 0.26e12 macs/s, 25.6 GB/s, 15 W or so; its INA3221 has no counter.
# Idle power and context are those of the quiet device with a process on it. Watts, context, scratch and the halves are
# set so that the paper's budgets (section 5) part the paper's spaces and its models fit them as well as in its table 1;
# benchmarks/simulated.py prints how well.
DEVICES = {
    "simulated-gtx1070": Device(
        name="simulated GTX 1070",
        idle_w=10.0,
        compute_w=120.0,
        traffic_w=38.0,
        half_macs=1e10,
        half_moved=1e8,
        context_bytes=150e6,
        scratch_bytes=1.3e9,
        macs_per_s=1.6e12,
        bytes_per_s=180e9,
        overhead_s=2e-4,
        power_step_w=0.1,
        clock_mhz=1683.0,
        counts_energy=True,
    ),
    "simulated-tegra-tx1": Device(
        name="simulated Tegra TX1",
        idle_w=1.2,
        compute_w=14.5,
        traffic_w=4.8,
        half_macs=1e10,
        half_moved=1e8,
        context_bytes=None,
        scratch_bytes=0.0,
        macs_per_s=1.3e11,
        bytes_per_s=18e9,
        overhead_s=1e-3,
        power_step_w=0.04,
        clock_mhz=998.0,
        counts_energy=False,
    ),
}

METRICS = {
    meter: frozenset({"power_w"} if device.context_bytes is None else {"power_w", "memory_bytes"})
    for meter, device in DEVICES.items()
}

# What the counts of a network do not explain: standard deviations of its factors.
DEVIATION = {"power_w": 0.015, "latency_s": 0.015, "memory_bytes": 0.01}
MEASUREMENT_SD = {"power_w": 0.007, "latency_s": 0.003, "memory_bytes": 0.001}  # of one measurement, all its samples
SAMPLE_SD = 0.007  # of one reading of power
MEMORY_STEP_BYTES = 2**21  # drivers hand out memory in such pieces
WARM_UP_S = 0.2  # time constant with which power rises when work begins
DRIFT = 0.01  # by how much power rises in the end as the device heats up
DRIFT_S = 90.0  # time constant of the heating
COLD_C, HEATING_C_PER_W = 38.0, 0.25


def true_values(
    name: str, features: Mapping[str, Any], batch: int = DEFAULT_BATCH, *, deviation: bool = True
) -> dict[str, Any]:
    """What a perfect meter would see of one inference step on the platform `name`, without any noise.

    features: counts of one network, or arrays of shape (n,) of n networks; so are power_w, memory_bytes (where there is
    a sensor), latency_s and energy_j that it returns. deviation: with what the counts of a network do not explain.
    """
    device = DEVICES[name]
    parameters, macs, activations = (np.asarray(features[count], dtype=np.float64) for count in COUNTS)
    work, moved = batch * macs, batch * activations + parameters
    values = {
        "power_w": device.idle_w
        + device.compute_w * work / (work + device.half_macs)
        + device.traffic_w * moved / (moved + device.half_moved),
        "latency_s": device.overhead_s + work / device.macs_per_s + BYTES * moved / device.bytes_per_s,
    }
    if device.context_bytes is not None:
        scratch = device.scratch_bytes * work / (work + device.half_macs)
        values["memory_bytes"] = device.context_bytes + BYTES * moved + scratch
    if deviation:
        for metric, value in values.items():
            values[metric] = value * _deviation(f"{name} {metric}", DEVIATION[metric], parameters, macs, activations)
    values["energy_j"] = values["power_w"] * values["latency_s"]
    return {metric: value if value.ndim else float(value) for metric, value in values.items()}


def _deviation(salt: str, sd: float, *counts: Array) -> Array:
    """A factor for each network, uniform around 1 with standard deviation sd: a hash of its counts (splitmix64)."""
    mixed = np.asarray(int.from_bytes(hashlib.sha256(salt.encode()).digest()[:8], "big"), dtype=np.uint64)
    for count in counts:
        mixed = np.atleast_1d(mixed ^ count.view(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    uniform = (mixed >> np.uint64(11)) / 2.0**53
    factors: Array = 1 + sd * math.sqrt(12) * (uniform - 0.5)
    return factors.reshape(np.broadcast_shapes(*(count.shape for count in counts)))


class SimulatedBench:
    """A bench (see `hardware.bench.Bench`) on which nothing runs: traces are computed, in simulated seconds from 0."""

    def __init__(self, device: str, features: Hook, platform: Mapping[str, Any]) -> None:
        self._meter = device
        self._device = DEVICES[device]
        self._features = features
        self._batch = platform.get("batch-size") or DEFAULT_BATCH
        given = {key: value for key, value in platform.items() if value is not None}
        self.platform: Mapping[str, Any] = {
            **given,
            "meter": device,
            "name": self._device.name,
            "simulated": True,
            "batch-size": self._batch,
            "dtype": "float32",
        }
        self.metrics = METRICS[device]

    def preflight(self) -> None:
        """A simulated device is always there, and nobody else uses it."""

    def idle(self, seconds: float) -> Trace:
        """The device at rest, with a process on it that does nothing; the same in every call."""
        rng = _generator(self._meter, "idle")
        samples = self._samples(rng, seconds, IDLE_HZ, 0.0, self._device.context_bytes)
        return Trace(samples, 0.0, seconds, provenance={**self._provenance(), "idle": True})

    def run(self, job: Job, folder: Path, sample_hz: float) -> Trace:
        """What a meter would have seen of `job` over its seconds. `folder` stays as it is.

        Raises MeterError where the script's features do not hold what the simulation needs.
        """
        truth = true_values(self._meter, self._counts(job), self._batch)
        rng = _generator(self._meter, f"{job.seed} {params_text(job.params)}")
        gains = {metric: 1 + sd * rng.standard_normal() for metric, sd in MEASUREMENT_SD.items()}
        seen = {metric: truth[metric] * gain for metric, gain in gains.items() if metric in truth}
        seconds = job.seconds or 0.0
        dynamic_w = seen["power_w"] - self._device.idle_w
        samples = self._samples(rng, seconds, sample_hz, dynamic_w, seen.get("memory_bytes"))
        return Trace(samples, 0.0, seconds, step_s=seen["latency_s"], provenance=self._provenance())

    def close(self) -> None:
        """Nothing is held open."""

    def _provenance(self) -> dict[str, Any]:
        return {"framework": "simulated", "simulated": True, "batch_size": self._batch, "dtype": "float32"}

    def _counts(self, job: Job) -> dict[str, float]:
        """The counts of the network, checked; raises MeterError."""
        counts = dict(self._features(dict(job.params)))
        for name in COUNTS:
            value = counts.get(name)
            if value is None:
                found = ", ".join(counts) or "nothing"
                raise MeterError(
                    f"{self._meter} needs {name}, but the script's features(params) returned {found}; add it"
                )
            if not isinstance(value, int | float | np.number) or not 0 <= value <= sys.float_info.max:
                raise MeterError(
                    f"{self._meter} needs {name} as a finite number of at least 0, but the script's features(params)"
                    f" returned {value!r}"
                )
        return {name: float(counts[name]) for name in COUNTS}

    def _samples(
        self, rng: np.random.Generator, seconds: float, sample_hz: float, dynamic_w: float, memory_bytes: float | None
    ) -> tuple[Sample, ...]:
        """Readings at `sample_hz` of a device that begins to draw `dynamic_w` above its idle power at time 0."""
        device = self._device
        times_s = np.arange(PHASE_S, seconds, 1 / sample_hz)
        power_w = self._power(times_s, dynamic_w) * (1 + SAMPLE_SD * rng.standard_normal(times_s.size))
        power_w = np.round(power_w / device.power_step_w) * device.power_step_w
        temperature_c = COLD_C + HEATING_C_PER_W * dynamic_w * (1 - np.exp(-times_s / DRIFT_S))
        energy_j = self._energy(times_s, dynamic_w)
        if memory_bytes is not None:
            memory_bytes = math.ceil(memory_bytes / MEMORY_STEP_BYTES) * float(MEMORY_STEP_BYTES)
        return tuple(
            Sample(
                time_s=float(times_s[i]),
                power_w=round(float(power_w[i]), 3),
                energy_j=round(float(energy_j[i]), 3) if device.counts_energy else None,
                memory_bytes=memory_bytes,
                clock_mhz=device.clock_mhz,
                temperature_c=float(np.round(temperature_c[i])),
                throttled=(),
            )
            for i in range(times_s.size)
        )

    def _power(self, times_s: Array, dynamic_w: float) -> Array:
        """Gross power in W: a first-order rise when work begins, and a slow one with the temperature."""
        risen = dynamic_w * (1 - np.exp(-times_s / WARM_UP_S))
        heated = 1 + DRIFT * (1 - np.exp(-times_s / DRIFT_S)) if dynamic_w else 1.0
        return (self._device.idle_w + risen) * heated

    def _energy(self, times_s: Array, dynamic_w: float) -> Array:
        """The energy counter in J, which stands still between its ticks."""
        ticks = np.floor(times_s / TICK_S).astype(int)
        steps_per_tick = round(TICK_S / STEP_S)
        steps = np.arange(int(ticks[-1]) * steps_per_tick if ticks.size else 0, dtype=np.float64)
        counter: Array = np.zeros(steps.size + 1)
        np.cumsum(self._power((steps + 0.5) * STEP_S, dynamic_w) * STEP_S, out=counter[1:])
        readings: Array = counter[ticks * steps_per_tick]
        return readings


def make(platform: Mapping[str, Any], features: Hook | None) -> SimulatedBench:
    """The bench that `platform` of config.json names; features: the hook of the experiment's script, or None.

    Without "batch-size" a batch has 2048 images. Raises MeterError where the simulation cannot be what is asked for.
    """
    name = platform.get("meter")
    if name not in DEVICES:
        raise MeterError(
            f"there is no simulated platform {name!r}{did_you_mean(str(name), DEVICES)}; known are {', '.join(DEVICES)}"
        )
    if platform.get("dtype") not in (None, "float32"):
        raise MeterError(
            f'{name}: "dtype" is {platform["dtype"]!r}, but float32 is all that it simulates; leave it out'
        )
    if features is None:
        raise MeterError(
            f"{name} runs nothing: the simulated platform needs the script to define features(params) with parameters,"
            " macs and activations"
        )
    return SimulatedBench(name, features, platform)


def _generator(*words: str) -> np.random.Generator:
    """A generator that is a function of the words."""
    digest = hashlib.sha256("\n".join(words).encode()).digest()
    return np.random.default_rng([int.from_bytes(digest[i : i + 4], "big") for i in range(0, 32, 4)])

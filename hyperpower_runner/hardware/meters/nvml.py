"""NVIDIA's devices through NVML; the only module that imports `pynvml`, and only once a meter is made.

Which readings a device supports is found out once, by trying; what it does not support is None in every sample. Memory
is the growth of what the device has in use (total - free): the figures by process, which NVML offers too, carry the
host's pids and are wrong in containers. The growth holds the CUDA context (290-670 MB), as it must for a budget.
Sensors see a part of the time only and carry a stable gain error of some percent (arXiv 2312.02741).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hyperpower_runner.errors import MeterError, shortened
from hyperpower_runner.hardware.traces import Sample

LEFT_BEHIND_S = 3.0  # for the memory of a process that has just ended to be given back
POLL_S = 0.1
SMALLEST_CONTEXT_BYTES = 256 << 20  # a CUDA context takes more than that
OTHERWISE = 'or choose another meter ("rapl", "host", or a simulated platform)'

# The bits that hold back the clock, as in nvml.h; not 1 (idle), 2 (clocks that somebody set), 256 (a display's clock).
REASONS = {
    4: "power-cap",
    8: "hw-slowdown",
    16: "sync-boost",
    32: "thermal",
    64: "thermal",
    128: "power-brake",
    512: "board-limit",
    1024: "reliability",
}


class NvmlMeter:
    """Gross power of one board (W), its energy counter (J), clock and temperature; memory in use beyond that at rest.

    device: an index, a UUID ("GPU-...") or a PCI bus id ("0000:3B:00.0"); None for the only one there is.
    """

    def __init__(self, device: int | str | None = None, *, left_behind_s: float = LEFT_BEHIND_S) -> None:
        self._nvml = _start_nvml()
        self._left_behind_s = left_behind_s
        self._rest_bytes: int | None = None
        self._name = "the NVIDIA device"
        self._open = True
        try:
            self._handle = self._find(device)
            self._refuse_mig()
            self._power = self._first_that_answers(self._instant_power_w, self._average_power_w)
            self._energy = self._first_that_answers(self._energy_j)
            self._memory = self._first_that_answers(self._in_use_bytes)
            self._clock = self._first_that_answers(self._clock_mhz)
            self._temperature = self._first_that_answers(self._temperature_c)
            self._throttled = self._first_that_answers(self._event_reasons, self._throttle_reasons)
            self.platform: Mapping[str, Any] = self._describe()
            measured = {"power_w": self._power or self._energy, "memory_bytes": self._memory}
            self.metrics = frozenset(name for name, reading in measured.items() if reading is not None)
            if not self.metrics:
                raise MeterError(f"{self._name} tells NVML neither power nor memory; use another device, {OTHERWISE}")
        except BaseException:
            self.close()
            raise

    def preflight(self) -> None:
        """Refuse a device that others use; what is in use at rest is taken off all later readings."""
        self._refuse_mig()
        patient_until = time.monotonic() + self._left_behind_s
        while (complaint := self._foreign_use()) is not None:
            if time.monotonic() >= patient_until:
                raise MeterError(complaint)
            time.sleep(POLL_S)
        self._rest_bytes = self._read(self._memory)

    def attach(self, pid: int) -> None:
        """Whatever the device has in use from now on is the process': nobody else was there."""

    def sample(self) -> Sample:
        return Sample(
            time_s=time.monotonic(),
            power_w=self._read(self._power),
            energy_j=self._read(self._energy),
            memory_bytes=self._occupied_bytes(),
            clock_mhz=self._read(self._clock),
            temperature_c=self._read(self._temperature),
            throttled=self._read(self._throttled),
        )

    def close(self) -> None:
        if self._open:
            self._open = False
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()

    # One reading each, in the units of `Sample`; they raise NVMLError where the device does not support them.

    def _instant_power_w(self) -> float | None:
        field = (self._nvml.NVML_FI_DEV_POWER_INSTANT, self._nvml.NVML_POWER_SCOPE_GPU)
        (value,) = self._nvml.nvmlDeviceGetFieldValues(self._handle, [field])
        if value.nvmlReturn != self._nvml.NVML_SUCCESS:
            raise self._nvml.NVMLError(value.nvmlReturn)
        return value.value.uiVal / 1e3 or None  # a board that answers draws power

    def _average_power_w(self) -> float | None:
        return self._nvml.nvmlDeviceGetPowerUsage(self._handle) / 1e3 or None

    def _energy_j(self) -> float | None:
        return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3 or None

    def _in_use_bytes(self) -> int:
        memory = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
        return int(memory.total - memory.free)

    def _clock_mhz(self) -> float:
        return float(self._nvml.nvmlDeviceGetClockInfo(self._handle, self._nvml.NVML_CLOCK_SM))

    def _temperature_c(self) -> float:
        return float(self._nvml.nvmlDeviceGetTemperature(self._handle, self._nvml.NVML_TEMPERATURE_GPU))

    def _event_reasons(self) -> tuple[str, ...]:
        return _words(self._nvml.nvmlDeviceGetCurrentClocksEventReasons(self._handle))

    def _throttle_reasons(self) -> tuple[str, ...]:  # their name before driver 535
        return _words(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle))

    def _occupied_bytes(self) -> float | None:
        """The growth since `preflight`; None before it, and until a process has taken anything at all."""
        in_use = self._read(self._memory)
        if in_use is None or self._rest_bytes is None or in_use <= self._rest_bytes:
            return None
        return float(in_use - self._rest_bytes)

    def _first_that_answers(self, *readings: Callable[[], Any]) -> Callable[[], Any] | None:
        return next((reading for reading in readings if self._read(reading) is not None), None)

    def _read(self, reading: Callable[[], Any] | None) -> Any:
        """What a reading says, None where it is not to be had; raises MeterError when the device has gone."""
        try:
            return reading() if reading is not None else None
        except self._nvml.NVMLError as error:
            self._raise_if_lost(error)
            return None

    def _raise_if_lost(self, error: Any) -> None:
        if error.value in (self._nvml.NVML_ERROR_GPU_IS_LOST, self._nvml.NVML_ERROR_RESET_REQUIRED):
            raise MeterError(
                f"the driver has lost {self._name} ({error}); reset it with nvidia-smi --gpu-reset, or restart the"
                " machine, and measure again"
            ) from None

    def _find(self, device: int | str | None) -> Any:
        nvml = self._nvml
        present = dict(self._present())
        known = "; ".join(present.values()) or f"none: use a machine with one, {OTHERWISE}"
        if device is None and len(present) == 1:
            (device,) = present
        if device is None:
            raise MeterError(
                f'which NVIDIA device to measure must be said as "device" of the platform; there are: {known}'
            )
        self._name = f"the NVIDIA device {device}"
        try:
            if isinstance(device, int) or device.isdecimal():
                return nvml.nvmlDeviceGetHandleByIndex(int(device))
            if device.startswith("GPU-"):
                return nvml.nvmlDeviceGetHandleByUUID(device)
            return nvml.nvmlDeviceGetHandleByPciBusId(device)
        except nvml.NVMLError as error:
            if error.value == nvml.NVML_ERROR_NO_PERMISSION:
                raise MeterError(
                    f"you may not read {self._name}; ask for access to /dev/nvidia*, or use another device: {known}"
                ) from None
            self._raise_if_lost(error)
            raise MeterError(f"{self._name} is not there ({error}); there are: {known}") from None

    def _present(self) -> Iterator[tuple[int, str]]:
        """The index of every device, and how to name it to the user."""
        for index in range(self._read(self._nvml.nvmlDeviceGetCount) or 0):
            with contextlib.suppress(self._nvml.NVMLError):
                handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                name, uuid = self._nvml.nvmlDeviceGetName(handle), self._nvml.nvmlDeviceGetUUID(handle)
                yield index, f"{index} ({name}, {uuid}, {self._nvml.nvmlDeviceGetPciInfo(handle).busId})"

    def _describe(self) -> dict[str, Any]:
        nvml, handle = self._nvml, self._handle

        def cuda() -> str:
            version = nvml.nvmlSystemGetCudaDriverVersion()
            return f"{version // 1000}.{version % 1000 // 10}"

        readings: dict[str, Callable[[], Any]] = {
            "name": lambda: nvml.nvmlDeviceGetName(handle),
            "uuid": lambda: nvml.nvmlDeviceGetUUID(handle),
            "pci_bus_id": lambda: nvml.nvmlDeviceGetPciInfo(handle).busId,
            "driver": nvml.nvmlSystemGetDriverVersion,
            "cuda_driver": cuda,
            "power_limit_w": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3,
            "max_sm_clock_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
            "max_memory_clock_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM),
        }
        known = {name: value for name, reading in readings.items() if (value := self._read(reading)) is not None}
        return {"meter": "nvml", "name": "NVIDIA device", **known}

    def _refuse_mig(self) -> None:
        mode = self._read(lambda: self._nvml.nvmlDeviceGetMigMode(self._handle))
        if mode is not None and mode[0] == self._nvml.NVML_DEVICE_MIG_ENABLE:
            raise MeterError(
                f"{self._name} is divided by MIG, and NVML tells no power of a part; end it with nvidia-smi -mig 0, use"
                f" another device, {OTHERWISE}"
            )

    def _foreign_use(self) -> str | None:
        """A sentence about who else uses the device, or None; a process of another container shows as memory only."""
        running = self._read(lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)) or []
        pids = sorted(process.pid for process in running if process.pid != os.getpid())
        if pids:
            listed = shortened(", ".join(map(str, pids)))
            return (
                f"{self._name} is used by other processes (pids {listed}); wait for them, end them, or use another one"
            )
        if self._read(lambda: self._nvml.nvmlDeviceGetGraphicsRunningProcesses(self._handle)):
            return None  # a display is allowed; what it occupies cannot be told from a process that is not seen
        memory = self._read(
            lambda: self._nvml.nvmlDeviceGetMemoryInfo(self._handle, version=self._nvml.nvmlMemory_v2)
        )  # only this version tells what the driver keeps for itself
        unseen = memory.total - memory.free - memory.reserved if memory is not None else 0
        if unseen > SMALLEST_CONTEXT_BYTES:
            return (
                f"{self._name} has {unseen / 2**20:.0f} MiB in use though no process is seen, perhaps one of another"
                " container; wait for it, end it, or use another device"
            )
        return None


def _start_nvml() -> Any:
    try:
        import pynvml
    except ModuleNotFoundError:
        raise MeterError('meter "nvml" needs the module pynvml; pip install nvidia-ml-py') from None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        advice = {
            pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "NVIDIA's driver is not installed here: install it, in a container"
            " pass the devices on (docker run --gpus all)",
            pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "NVIDIA's driver is installed but not loaded: load it with modprobe"
            " nvidia, or restart the machine",
            pynvml.NVML_ERROR_NO_PERMISSION: "you may not use NVIDIA's driver: ask for access to /dev/nvidia*",
            pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "NVIDIA's driver and its library are of different versions, as"
            " after an update: restart the machine",
        }.get(error.value, "see whether nvidia-smi works")
        raise MeterError(f'meter "nvml": NVML cannot be started ({error}); {advice}, {OTHERWISE}') from None
    return pynvml


def _words(bits: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for bit, word in REASONS.items() if bits & bit))

"""NVML through a module that stands in for pynvml, with every way in which it may fail; and a real device, if any."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pynvml
import pytest

from hyperpower_runner.errors import MeterError
from hyperpower_runner.hardware.meters.nvml import NvmlMeter
from hyperpower_runner.hardware.traces import Sample

GIB = 1 << 30
MIB = 1 << 20


class Board:
    """The state of one device; what is in `fails` raises the error of that number instead of answering."""

    def __init__(self, index: int = 0) -> None:
        self.name = f"NVIDIA Test {index}"
        self.uuid = f"GPU-{index}{index}{index}"
        self.bus = f"00000000:0{index}:00.0"
        self.instant_mw = 120_000
        self.average_mw = 90_000
        self.energy_mj = 5_000_000
        self.in_use = 600 * MIB
        self.reserved = 590 * MIB
        self.reasons = 0
        self.mig = 0
        self.compute: list[int] = []
        self.graphics: list[int] = []
        self.fails: dict[str, int] = {}


class Fake(ModuleType):
    """pynvml's own constants and errors, with the functions of `boards`."""

    def __init__(self, *boards: Board) -> None:
        super().__init__("pynvml")
        vars(self).update({name: value for name, value in vars(pynvml).items() if not name.startswith("nvml")})
        self.nvmlMemory_v2 = pynvml.nvmlMemory_v2
        self.boards = list(boards)
        self.opened = 0
        self.init_error: int | None = None
        answers: dict[str, Callable[..., Any]] = {
            "nvmlDeviceGetName": lambda board: board.name,
            "nvmlDeviceGetUUID": lambda board: board.uuid,
            "nvmlDeviceGetPciInfo": lambda board: SimpleNamespace(busId=board.bus),
            "nvmlDeviceGetPowerUsage": lambda board: board.average_mw,
            "nvmlDeviceGetFieldValues": self.field_values,
            "nvmlDeviceGetTotalEnergyConsumption": lambda board: board.energy_mj,
            "nvmlDeviceGetMemoryInfo": self.memory_info,
            "nvmlDeviceGetClockInfo": lambda board, kind: 1500 if kind == pynvml.NVML_CLOCK_SM else 0,
            "nvmlDeviceGetMaxClockInfo": lambda board, kind: 1980 if kind == pynvml.NVML_CLOCK_SM else 2619,
            "nvmlDeviceGetTemperature": lambda board, kind: 55,
            "nvmlDeviceGetCurrentClocksEventReasons": lambda board: board.reasons,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda board: board.reasons,
            "nvmlDeviceGetEnforcedPowerLimit": lambda board: 700_000,
            "nvmlDeviceGetMigMode": lambda board: [board.mig, board.mig],
            "nvmlDeviceGetComputeRunningProcesses": lambda board: [SimpleNamespace(pid=pid) for pid in board.compute],
            "nvmlDeviceGetGraphicsRunningProcesses": lambda board: [SimpleNamespace(pid=pid) for pid in board.graphics],
        }
        for name, answer in answers.items():
            setattr(self, name, self.failing(name, answer))

    def failing(self, name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def call(board: Board, *args: Any, **kwargs: Any) -> Any:
            if name in board.fails:
                raise pynvml.NVMLError(board.fails[name])
            return answer(board, *args, **kwargs)

        return call

    def field_values(self, board: Board, fields: list[tuple[int, int]]) -> list[Any]:
        assert fields == [(186, 0)]
        code = board.fails.get("field 186", pynvml.NVML_SUCCESS)
        return [SimpleNamespace(nvmlReturn=code, value=SimpleNamespace(uiVal=board.instant_mw))]

    def memory_info(self, board: Board, version: int | None = None) -> Any:
        if version is not None and "memory v2" in board.fails:
            raise pynvml.NVMLError(board.fails["memory v2"])
        reserved = {"reserved": board.reserved} if version else {}
        return SimpleNamespace(total=80 * GIB, free=80 * GIB - board.in_use, used=0, **reserved)

    def nvmlInit(self) -> None:  # noqa: N802
        if self.init_error is not None:
            raise pynvml.NVMLError(self.init_error)
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.opened -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.65.06"

    def nvmlSystemGetCudaDriverVersion(self) -> int:  # noqa: N802
        return 13020

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.boards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Board:  # noqa: N802
        if index >= len(self.boards):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self.checked(self.boards[index])

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Board:  # noqa: N802
        return self.by("uuid", uuid)

    def nvmlDeviceGetHandleByPciBusId(self, bus: str) -> Board:  # noqa: N802
        return self.by("bus", bus)

    def by(self, attribute: str, value: str) -> Board:
        for board in self.boards:
            if getattr(board, attribute) == value:
                return self.checked(board)
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def checked(self, board: Board) -> Board:
        if "handle" in board.fails:
            raise pynvml.NVMLError(board.fails["handle"])
        return board


Install = Callable[..., Fake]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    def put(*boards: Board) -> Fake:
        fake = Fake(*boards)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return put


def test_a_sample_has_every_reading_in_its_unit(install: Install) -> None:
    board = Board()
    board.reasons = 4 | 32 | 64 | 1 | 2
    fake = install(board)
    meter = NvmlMeter()
    meter.preflight()
    meter.attach(1)
    board.in_use += 3 * GIB
    before_s = time.monotonic()
    sample = meter.sample()
    assert before_s <= sample.time_s <= time.monotonic()
    assert (sample.power_w, sample.energy_j, sample.memory_bytes) == (120.0, 5000.0, 3 * GIB)
    assert (sample.clock_mhz, sample.temperature_c) == (1500, 55)
    assert sample.throttled == ("power-cap", "thermal")  # neither idle nor clocks that somebody set
    assert meter.metrics == {"power_w", "memory_bytes"}
    meter.close()
    meter.close()
    assert fake.opened == 0


def test_the_platform_says_which_device_it_is(install: Install) -> None:
    install(Board())
    assert NvmlMeter().platform == {
        "meter": "nvml",
        "name": "NVIDIA Test 0",
        "uuid": "GPU-000",
        "pci_bus_id": "00000000:00:00.0",
        "driver": "580.65.06",
        "cuda_driver": "13.2",
        "power_limit_w": 700.0,
        "max_sm_clock_mhz": 1980,
        "max_memory_clock_mhz": 2619,
    }


@pytest.mark.parametrize("device", [1, "1", "GPU-111", "00000000:01:00.0"])
def test_a_device_is_found_by_index_uuid_and_bus(install: Install, device: int | str) -> None:
    install(Board(0), Board(1))
    assert NvmlMeter(device).platform["uuid"] == "GPU-111"


@pytest.mark.parametrize("device", [2, "2", "GPU-222", "00000000:02:00.0", "MIG-1"])
def test_a_device_that_is_not_there_is_answered_with_those_that_are(install: Install, device: int | str) -> None:
    fake = install(Board(0), Board(1))
    with pytest.raises(MeterError, match=f"device {device} is not there") as caught:
        NvmlMeter(device)
    assert "0 (NVIDIA Test 0, GPU-000, 00000000:00:00.0); 1 (NVIDIA Test 1, GPU-111" in str(caught.value)
    assert fake.opened == 0


def test_of_several_devices_none_is_taken_unasked(install: Install) -> None:
    install(Board(0), Board(1))
    with pytest.raises(MeterError, match=r'must be said as "device" .*0 .NVIDIA Test 0'):
        NvmlMeter()
    install()
    with pytest.raises(MeterError, match="there are: none: use a machine with one"):
        NvmlMeter()


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "install it, in a container pass the devices on"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "load it with modprobe nvidia"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "ask for access to /dev/nvidia"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "restart the machine"),
        (pynvml.NVML_ERROR_UNKNOWN, "see whether nvidia-smi works"),
    ],
)
def test_where_nvml_does_not_start_it_says_what_to_do(install: Install, code: int, advice: str) -> None:
    install(Board()).init_error = code
    with pytest.raises(MeterError, match=advice) as caught:
        NvmlMeter()
    assert "or choose another meter" in str(caught.value)


def test_without_the_module_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(MeterError, match="pip install nvidia-ml-py"):
        NvmlMeter()


def test_without_permission_for_a_device_it_says_so(install: Install) -> None:
    board = Board(0)
    board.fails["handle"] = pynvml.NVML_ERROR_NO_PERMISSION
    install(board, Board(1))
    with pytest.raises(MeterError, match=r"may not read the NVIDIA device 0; .* 1 \(NVIDIA Test 1"):
        NvmlMeter(0)


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND])
@pytest.mark.parametrize("how", ["field 186", "nvmlDeviceGetFieldValues"])
def test_without_instant_power_the_average_is_taken(install: Install, how: str, code: int) -> None:
    board = Board()
    board.fails[how] = code
    install(board)
    assert NvmlMeter().sample().power_w == 90.0


@pytest.mark.parametrize(
    ("missing", "field"),
    [
        (("nvmlDeviceGetTotalEnergyConsumption",), "energy_j"),
        (("nvmlDeviceGetFieldValues", "nvmlDeviceGetPowerUsage"), "power_w"),
        (("nvmlDeviceGetMemoryInfo",), "memory_bytes"),
        (("nvmlDeviceGetClockInfo",), "clock_mhz"),
        (("nvmlDeviceGetTemperature",), "temperature_c"),
        (("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"), "throttled"),
    ],
)
def test_what_a_device_does_not_support_is_none_and_the_rest_is_there(
    install: Install, missing: tuple[str, ...], field: str
) -> None:
    board = Board()
    board.fails.update(dict.fromkeys(missing, pynvml.NVML_ERROR_NOT_SUPPORTED))
    install(board)
    meter = NvmlMeter()
    meter.preflight()
    board.fails.clear()  # support is found out once
    board.in_use += GIB
    assert [name for name, value in vars(meter.sample()).items() if value is None] == [field]
    assert ("memory_bytes" in meter.metrics) == (field != "memory_bytes")
    assert "power_w" in meter.metrics  # by one of the two estimators


def test_zeros_of_a_sensor_that_is_none_are_no_measurements(install: Install) -> None:
    board = Board()
    board.instant_mw = board.average_mw = board.energy_mj = 0
    install(board)
    meter = NvmlMeter()
    assert (meter.sample().power_w, meter.sample().energy_j) == (None, None)
    assert meter.metrics == {"memory_bytes"}


def test_a_device_that_tells_nothing_is_refused(install: Install) -> None:
    board = Board()
    for name in ("FieldValues", "PowerUsage", "TotalEnergyConsumption", "MemoryInfo"):
        board.fails[f"nvmlDeviceGet{name}"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    fake = install(board)
    with pytest.raises(MeterError, match="tells NVML neither power nor memory"):
        NvmlMeter()
    assert fake.opened == 0


def test_the_older_name_of_the_throttle_reasons_serves_too(install: Install) -> None:
    board = Board()
    board.fails["nvmlDeviceGetCurrentClocksEventReasons"] = pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
    board.reasons = 8 | 128
    install(board)
    assert NvmlMeter().sample().throttled == ("hw-slowdown", "power-brake")


def test_a_reading_that_fails_once_is_missing_in_that_sample_only(install: Install) -> None:
    board = Board()
    install(board)
    meter = NvmlMeter()
    board.fails["field 186"] = pynvml.NVML_ERROR_TIMEOUT
    assert meter.sample().power_w is None
    board.fails.clear()
    assert meter.sample().power_w == 120.0


def test_memory_is_none_before_the_preflight_and_until_something_is_taken(install: Install) -> None:
    board = Board()
    install(board)
    meter = NvmlMeter()
    assert meter.sample().memory_bytes is None
    meter.preflight()
    assert meter.sample().memory_bytes is None
    board.in_use -= MIB
    assert meter.sample().memory_bytes is None
    board.in_use += 2 * MIB
    assert meter.sample().memory_bytes == MIB


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED])
def test_a_device_that_is_lost_ends_the_measurement(install: Install, code: int) -> None:
    board = Board()
    install(board)
    meter = NvmlMeter(0)
    board.fails["nvmlDeviceGetTemperature"] = code
    with pytest.raises(MeterError, match=r"the driver has lost the NVIDIA device 0 .*nvidia-smi --gpu-reset"):
        meter.sample()
    board.fails = {"handle": code}
    with pytest.raises(MeterError, match="the driver has lost the NVIDIA device 0"):
        NvmlMeter(0)


def test_a_device_divided_by_mig_is_refused_when_it_is_opened_and_before_each_run(install: Install) -> None:
    board = Board()
    fake = install(board)
    meter = NvmlMeter()
    board.mig = 1
    with pytest.raises(MeterError, match="divided by MIG"):
        meter.preflight()
    with pytest.raises(MeterError, match=r"divided by MIG.* nvidia-smi -mig 0"):
        NvmlMeter()
    assert fake.opened == 1
    board.fails["nvmlDeviceGetMigMode"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    NvmlMeter().preflight()


def test_a_device_that_others_use_is_refused_with_their_pids(install: Install) -> None:
    board = Board()
    board.compute = [4242, os.getpid(), 17]
    install(board)
    with pytest.raises(MeterError, match=r"used by other processes \(pids 17, 4242\); wait for them"):
        NvmlMeter(left_behind_s=0).preflight()
    board.compute = [os.getpid()]
    NvmlMeter(left_behind_s=0).preflight()


def test_memory_in_use_without_a_process_is_one_that_is_not_seen(install: Install) -> None:
    board = Board()
    board.in_use = board.reserved + 450 * MIB
    install(board)
    meter = NvmlMeter(left_behind_s=0)
    with pytest.raises(MeterError, match="450 MiB in use though no process is seen, perhaps one of another container"):
        meter.preflight()
    board.graphics = [99]  # a display
    meter.preflight()
    board.graphics = []
    board.fails["memory v2"] = pynvml.NVML_ERROR_FUNCTION_NOT_FOUND  # then the driver's own part is not known
    meter.preflight()


def test_what_the_last_run_left_behind_is_waited_for(install: Install) -> None:
    board = Board()
    board.compute = [4242]
    fake = install(board)
    looks = []

    def look(board: Board) -> list[Any]:
        looks.append(board)
        return [] if len(looks) > 2 else [SimpleNamespace(pid=4242)]

    vars(fake)["nvmlDeviceGetComputeRunningProcesses"] = look
    NvmlMeter(left_behind_s=30).preflight()
    assert len(looks) == 3


@pytest.mark.gpu
def test_a_real_device_is_measured() -> None:
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        pytest.skip(f"NVML finds no device here ({error})")
    if not count:
        pytest.skip("NVML finds no device here")
    meter = NvmlMeter(0)
    samples: list[Sample] = []
    while len(samples) < 20:
        samples.append(meter.sample())
        time.sleep(0.05)
    meter.close()
    assert meter.platform["name"]
    powers = [sample.power_w for sample in samples if sample.power_w is not None]
    assert powers or "power_w" not in meter.metrics
    assert all(1 < power < 2000 for power in powers)
    energies = [sample.energy_j for sample in samples if sample.energy_j is not None]
    assert energies == sorted(energies)
    assert all(10 < sample.temperature_c < 110 for sample in samples if sample.temperature_c is not None)

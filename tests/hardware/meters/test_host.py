"""The memory of process trees, real ones and constructed ones."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hyperpower_runner.errors import MeterError
from hyperpower_runner.hardware.meters.host import HostMeter, cpu_name, peak_resident_bytes

MIB = 1 << 20
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc")


def make_process(proc: Path, pid: int, status: str, children: str = "") -> None:
    (proc / str(pid) / "task" / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "status").write_text(status)
    (proc / str(pid) / "task" / str(pid) / "children").write_text(children)


def test_the_peaks_of_a_process_and_of_all_below_it_are_added_up(tmp_path: Path) -> None:
    make_process(tmp_path, 10, "Name:\tsh\nVmHWM:\t    1024 kB\nVmRSS:\t     512 kB\n", "11 12 ")
    make_process(tmp_path, 11, "VmHWM:\t 2048 kB\n", "13 ")
    make_process(tmp_path, 12, "State:\tZ (zombie)\n")
    make_process(tmp_path, 13, "VmHWM:\t 4096 kB\n", "999 ")  # 999 has ended since
    make_process(tmp_path, 20, "VmHWM:\t 9999 kB\n")
    assert peak_resident_bytes(10, tmp_path) == 7 * MIB
    assert peak_resident_bytes(12, tmp_path) is None
    assert peak_resident_bytes(999, tmp_path) is None


def test_where_proc_does_not_exist_memory_is_none_and_preflight_says_so(tmp_path: Path) -> None:
    meter = HostMeter(tmp_path / "nowhere")
    meter.attach(os.getpid())
    assert meter.sample().memory_bytes is None
    with pytest.raises(MeterError, match=r"which this system has not; profile on Linux"):
        meter.preflight()


@needs_proc
def test_what_a_child_of_a_process_allocates_is_seen_after_it_was_freed_too() -> None:
    script = "import time; block = b'x' * (100 << 20); del block; print(flush=True); time.sleep(60)"
    shell = f'"{sys.executable}" -c "{script}"; true'  # with a command after it, the shell stays the parent
    meter = HostMeter()
    meter.preflight()
    assert meter.sample().memory_bytes is None  # nothing attached yet
    with subprocess.Popen(["/bin/sh", "-c", shell], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        meter.attach(process.pid)
        sample = meter.sample()
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), 9)
    assert sample.memory_bytes is not None
    assert 100 * MIB < sample.memory_bytes < 250 * MIB
    assert sample.power_w is None
    assert sample.time_s <= time.monotonic()
    assert meter.sample().memory_bytes is None  # it has ended
    meter.close()


def test_the_platform_names_the_processor(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A Processor @ 3 GHz\nmodel name\t: Other\n")
    assert HostMeter(tmp_path).platform == {"meter": "host", "name": "A Processor @ 3 GHz"}
    assert cpu_name(tmp_path / "nowhere")
    assert HostMeter(tmp_path).metrics == {"memory_bytes"}

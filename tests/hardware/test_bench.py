"""The bench: real scripts as inference steps, whose processes are measured, judged and ended."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperpower_runner import processes
from hyperpower_runner.errors import InferenceError, MeterError
from hyperpower_runner.hardware.bench import Bench, DeviceBench, inference_job, make_bench
from hyperpower_runner.hardware.measurement import Protocol, assess, idle_power
from hyperpower_runner.hardware.meters.host import HostMeter
from hyperpower_runner.hardware.platforms import METERS, measured_by
from hyperpower_runner.hardware.traces import Sample, Trace
from hyperpower_runner.job_files import append_json_line
from hyperpower_runner.trial import Job

SHORT = Protocol(warm_up_s=0.2, warm_up_steps=3, window_s=0.6, sample_hz=50)
MIB = 1 << 20


class CountingMeter:
    """Draws 50 W for ever; remembers what it was asked."""

    def __init__(self) -> None:
        self.metrics = frozenset({"power_w"})
        self.platform: Mapping[str, Any] = {"meter": "counting", "name": "none"}
        self.calls: list[str] = []
        self.pid = 0
        self.fails_after = 10**9

    def preflight(self) -> None:
        self.calls.append("preflight")

    def attach(self, pid: int) -> None:
        self.calls.append("attach")
        self.pid = pid

    def sample(self) -> Sample:
        self.fails_after -= 1
        if self.fails_after < 0:
            raise MeterError("the device has gone; plug it in again")
        now_s = time.monotonic()
        return Sample(now_s, power_w=50.0, energy_j=50 * now_s)

    def close(self) -> None:
        self.calls.append("close")


INFERENCE = """
    import json, sys, time
    job = json.load(open(sys.argv[-1]))
    with open(sys.argv[-1].replace("job.json", "progress.jsonl"), "a") as progress:
        progress.write('{"inference": true}\\n')
    begun, steps = time.monotonic(), 0
    while time.monotonic() - begun < job["seconds"] or steps < job["warm_up_steps"]:
        time.sleep(0.01)
        steps += 1
    print(json.dumps({"steps": steps, "duration_s": time.monotonic() - begun, "framework": "time 1.0"}))
"""


def script(root: Path, text: str, name: str = "infer.py") -> None:
    (root / name).write_text(textwrap.dedent(text))
    (root / name).chmod(0o755)


def a_job(*command: str, **fields: Any) -> Job:
    return Job(
        job_id=7, params={"x": 1}, seed=1, command=[*command] or ["python", "infer.py"], task="profile", **fields
    )


def measure(bench: Bench, root: Path, job: Job | None = None, protocol: Protocol = SHORT) -> Trace:
    asked = inference_job(job or a_job(), protocol, protocol.warm_up_s)
    return bench.run(asked, root / "profiling" / "1", protocol.sample_hz)


def is_running(pid: int) -> bool:
    return bool(processes.is_alive({**processes.own_identity(), "pid": pid, "start_ticks": processes._ticks(pid)}))


def assert_ends(pid: int) -> None:
    for _ in range(1000):
        if not is_running(pid):
            return
        time.sleep(0.01)
    raise AssertionError(f"{pid} is still running")


def test_an_inference_step_is_measured_from_its_begin_to_what_it_prints(tmp_path: Path) -> None:
    script(tmp_path, INFERENCE)
    meter = CountingMeter()
    trace = measure(DeviceBench(meter, tmp_path), tmp_path)
    assert meter.calls == ["preflight", "attach"]
    assert trace.step_s is not None
    assert 0.01 <= trace.step_s < 0.1
    assert trace.provenance == {"framework": "time 1.0"}
    assert trace.reported == {}
    assert trace.end_s - trace.begin_s == pytest.approx(0.8, abs=0.5)
    assert trace.samples[0].time_s < trace.begin_s  # the set-up is sampled too
    metrics = assess(trace, SHORT).metrics
    assert metrics["power_w"] == pytest.approx(50)
    assert metrics["energy_j"] == pytest.approx(50 * trace.step_s)
    content = json.loads((tmp_path / "profiling" / "1" / "job.json").read_text())
    assert (content["task"], content["seconds"], content["warm_up_steps"]) == ("profile", pytest.approx(0.8), 3)
    assert content["params"] == {"x": 1}


def test_time_spent_on_ending_is_no_inference(tmp_path: Path) -> None:
    script(tmp_path, textwrap.dedent(INFERENCE) + "sys.stdout.flush(); time.sleep(1.5)")
    trace = measure(DeviceBench(CountingMeter(), tmp_path), tmp_path)
    assert trace.samples[-1].time_s - trace.end_s > 1


def test_a_script_in_another_language_that_says_little_is_measured(tmp_path: Path) -> None:
    script(tmp_path, "#!/bin/sh\necho warming up\nsleep 1.2\necho '{}'\n", "infer.sh")
    trace = measure(DeviceBench(CountingMeter(), tmp_path), tmp_path, a_job("./infer.sh"))
    assert trace.step_s is None
    assert trace.end_s - trace.begin_s == pytest.approx(0.8)  # the seconds asked for, before its end
    assert trace.samples[-1].time_s <= trace.end_s
    metrics = assess(trace, SHORT).metrics
    assert metrics["power_w"] == pytest.approx(50)
    assert metrics["latency_s"] is None


def test_a_script_ends_with_whoever_measures_it(tmp_path: Path) -> None:
    script(tmp_path, "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)")
    script(
        tmp_path,
        """
        import pathlib, sys
        from hyperpower_runner.hardware.bench import DeviceBench, inference_job
        from hyperpower_runner.hardware.measurement import Protocol
        from hyperpower_runner.hardware.meters.host import HostMeter
        from hyperpower_runner.trial import Job
        root = pathlib.Path(sys.argv[1])
        job = inference_job(Job(1, {}, 1, command=["python", "infer.py"]), Protocol(), 3.0)
        DeviceBench(HostMeter(), root).run(job, root / "profiling", 20.0)
        """,
        "measure.py",
    )
    measuring = subprocess.Popen([sys.executable, str(tmp_path / "measure.py"), str(tmp_path)])
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
        time.sleep(0.02)
    pid = int((tmp_path / "pid").read_text())
    assert is_running(pid)
    measuring.kill()
    measuring.wait()
    assert_ends(pid)


def test_what_a_script_says_is_told_apart(tmp_path: Path) -> None:
    said = {
        "steps": 200,
        "duration_s": 0.5,
        "torch_allocated_bytes": 1024,
        "batch_size": 32,
        "dtype": "float32",
        "device": 0,
        "note": "mine",
        "fused": True,
        "nothing": None,
        "infinite": "Infinity",
    }
    script(tmp_path, f"import json\nprint('chatter')\nprint({json.dumps(said)!r})\nprint()")
    trace = measure(DeviceBench(CountingMeter(), tmp_path), tmp_path)
    assert trace.step_s == 0.0025
    assert trace.reported == {"torch_allocated_bytes": 1024}
    assert trace.provenance == {"batch_size": 32, "dtype": "float32", "device": 0, "note": "mine", "fused": True}
    assert Trace.from_json(json.loads(json.dumps(trace.to_json()))) == trace


@pytest.mark.parametrize("said", ['{"steps": 0, "duration_s": 1}', '{"steps": 5}', '{"duration_s": 5}', "{}"])
def test_without_steps_and_their_duration_no_step_time_is_known(tmp_path: Path, said: str) -> None:
    script(tmp_path, f"print({said!r})")
    assert measure(DeviceBench(CountingMeter(), tmp_path), tmp_path).step_s is None


@pytest.mark.parametrize("said", ["{", "[1]", "5", "", "done"])
def test_a_script_that_tells_nobody_of_its_inference_is_not_believed(tmp_path: Path, said: str) -> None:
    script(tmp_path, f"print({said!r})")
    with pytest.raises(InferenceError, match=r"neither wrote a line to progress.jsonl nor ended with a JSON object"):
        measure(DeviceBench(CountingMeter(), tmp_path), tmp_path)


def test_the_script_finds_what_the_worker_would_give_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    script(
        tmp_path,
        """
        import json, os, sys
        assert sys.argv[-1] == os.environ["HYPERPOWER_JOB"] and os.path.isabs(sys.argv[-1])
        assert sys.stdin.read() == "" and os.getpgid(0) == os.getpid()
        names = ("OMP_NUM_THREADS", "MINE", "CUDA_VISIBLE_DEVICES")
        print(json.dumps({"cwd": os.getcwd(), **{name: os.environ[name] for name in names}}))
        """,
    )
    bench = DeviceBench(CountingMeter(), tmp_path, env={"CUDA_VISIBLE_DEVICES": "GPU-1", "MINE": "no"})
    said = measure(bench, tmp_path, a_job(threads=3, env={"MINE": "yes"})).provenance
    assert said["cwd"] == str(tmp_path.resolve())
    assert (said["MINE"], said["CUDA_VISIBLE_DEVICES"]) == ("yes", "GPU-1")
    assert said.get("OMP_NUM_THREADS", "3") == "3"


def test_memory_of_a_script_that_allocates_is_measured(tmp_path: Path) -> None:
    script(tmp_path, "block = b'x' * (100 << 20)\n" + textwrap.dedent(INFERENCE))
    bench = DeviceBench(HostMeter(), tmp_path)
    allocating = assess(measure(bench, tmp_path), SHORT, bench.metrics)
    script(tmp_path, INFERENCE)
    small = assess(measure(bench, tmp_path), SHORT, bench.metrics)
    grown = (allocating.metrics["memory_bytes"] or 0) - (small.metrics["memory_bytes"] or 0)
    assert grown == pytest.approx(100 * MIB, rel=0.05)
    assert small.metrics["power_w"] is None
    assert "no-power" not in small.flags


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import sys; sys.exit('no such dataset')", r"ended with exit code 1; .* it said \"...no such dataset\""),
        ("print('lost'); raise SystemExit(3)", r"exit code 3; .*\"...lost\""),
        ("import os; os.kill(os.getpid(), 9)", r"was killed by signal 9; .*it said nothing"),
        ("import sys; sys.exit('x' * 9999)", r"\"...x{300}\"$"),
        ("import sys; sys.exit('a\\nb\\x1b[31m')", r"a\\nb\\x1b\[31m"),
    ],
)
def test_a_script_that_fails_is_quoted(tmp_path: Path, text: str, reason: str) -> None:
    script(tmp_path, text)
    with pytest.raises(InferenceError, match=reason) as caught:
        measure(DeviceBench(CountingMeter(), tmp_path), tmp_path)
    assert "the inference step of job 7 " in str(caught.value)


@pytest.mark.parametrize("command", ["./missing.sh", "no-such-program-here", "./infer.py"])
def test_a_command_that_cannot_be_started_is_named(tmp_path: Path, command: str) -> None:
    (tmp_path / "infer.py").write_text("not executable")
    with pytest.raises(InferenceError, match=r"could not be started .*correct objective\.command") as caught:
        measure(DeviceBench(CountingMeter(), tmp_path), tmp_path, a_job(command))
    assert command in str(caught.value)


LEAVES_A_CHILD = """
    import subprocess, time
    child = subprocess.Popen(["sleep", "600"])  # holds stdout open
    open("child.pid", "w").write(str(child.pid))
    print('{"steps": 1, "duration_s": 1}', flush=True)
"""


@pytest.mark.parametrize("then", ["", "time.sleep(600)"])
def test_no_process_is_left_behind_neither_at_the_end_nor_at_the_deadline(tmp_path: Path, then: str) -> None:
    script(tmp_path, textwrap.dedent(LEAVES_A_CHILD) + then)
    meter = CountingMeter()
    bench = DeviceBench(meter, tmp_path, set_up_s=3.0)
    if then:
        with pytest.raises(InferenceError, match=r"did not end within 3\.8 s, 0\.8 s of it for inference"):
            measure(bench, tmp_path)
    else:
        assert measure(bench, tmp_path).step_s == 1
    assert not is_running(meter.pid)
    assert_ends(int((tmp_path / "child.pid").read_text()))


@pytest.mark.parametrize("error", [KeyboardInterrupt, MeterError])
def test_no_process_is_left_behind_by_an_interrupt_or_a_device_that_goes(
    tmp_path: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path, "import time; time.sleep(600)")
    meter = CountingMeter()
    meter.fails_after = 3
    if error is KeyboardInterrupt:
        looks = itertools.count()

        def interrupted() -> Sample:
            if next(looks) == 3:
                raise KeyboardInterrupt
            return Sample(time.monotonic())

        monkeypatch.setattr(meter, "sample", interrupted)
    with pytest.raises(error):
        measure(DeviceBench(meter, tmp_path), tmp_path)
    assert meter.pid > 0
    assert not is_running(meter.pid)


def test_a_measurement_again_in_the_same_folder_does_not_take_the_first_ones_begin(tmp_path: Path) -> None:
    script(tmp_path, "import time; time.sleep(0.8)\n" + textwrap.dedent(INFERENCE))
    bench = DeviceBench(CountingMeter(), tmp_path)
    for _ in range(2):
        trace = measure(bench, tmp_path)
        assert trace.begin_s - trace.samples[0].time_s > 0.7


def test_much_output_blocks_nothing_and_its_last_line_counts(tmp_path: Path) -> None:
    text = (
        "import sys\nfor i in range(200_000): print(i, 'lines')\nprint('x', file=sys.stderr)\nprint('{\"answer\": 42}')"
    )
    script(tmp_path, text)
    assert measure(DeviceBench(CountingMeter(), tmp_path), tmp_path).reported == {"answer": 42}
    assert (tmp_path / "profiling" / "1" / "output.log").read_text() == "x\n"


def test_a_script_that_closes_its_output_is_measured_to_its_end(tmp_path: Path) -> None:
    script(tmp_path, "import os, time\nprint({}, flush=True)\nos.close(1)\ntime.sleep(0.5)")
    trace = measure(DeviceBench(CountingMeter(), tmp_path), tmp_path)
    assert trace.samples[-1].time_s - trace.samples[0].time_s > 0.3
    assert len(trace.samples) < 200  # at sample_hz, not as fast as can be


def test_a_script_of_this_package_is_measured(tmp_path: Path) -> None:
    script(
        tmp_path,
        """
        import time
        from hyperpower_runner import objective
        def inference(job):
            return lambda: time.sleep(0.01)
        objective.run(lambda job: 1 / 0, inference)
        """,
    )
    job = replace(a_job(), platform={"batch-size": 64})
    trace = measure(DeviceBench(CountingMeter(), tmp_path), tmp_path, job)
    assert trace.step_s is not None
    assert 0.01 <= trace.step_s < 0.1
    assert 0.4 < trace.end_s - trace.begin_s < 2


def test_a_device_at_rest_is_sampled_without_a_process(tmp_path: Path) -> None:
    meter = CountingMeter()
    bench = DeviceBench(meter, tmp_path, sample_hz=100)
    trace = bench.idle(0.3)
    assert meter.calls == ["preflight"]
    assert idle_power(trace) == pytest.approx(50)
    assert 3 <= len(trace.samples) <= 32
    assert trace.provenance == {"idle": True}
    bench.preflight()
    bench.close()
    assert meter.calls == ["preflight", "preflight", "close"]
    assert (bench.platform, bench.metrics) == (meter.platform, meter.metrics)


def test_a_platform_names_its_bench(tmp_path: Path) -> None:
    assert make_bench({"meter": "host"}, tmp_path).metrics == {"memory_bytes"}
    append_json_line(tmp_path / "gpu.jsonl", Trace((Sample(0.0, 50.0),), 0.0, 1.0).to_json())
    assert make_bench({"meter": "replay", "trace": "gpu.jsonl"}, tmp_path).platform["name"] == "gpu.jsonl"


@pytest.mark.parametrize(
    ("platform", "reason"),
    [
        ({}, "names no meter; allowed are nvml, rapl, jetson, host, replay, simulated-gtx1070"),
        ({"meter": "nvlm"}, 'names the meter "nvlm", which there is not; .*; did you mean "nvml"'),
        ({"meter": "simulated-gtx1080"}, 'did you mean "simulated-gtx1070"'),
        ({"meter": 7}, 'names the meter "7"'),
    ],
)
def test_a_platform_without_a_known_meter_is_refused(tmp_path: Path, platform: dict[str, Any], reason: str) -> None:
    with pytest.raises(MeterError, match=reason) as caught:
        make_bench(platform, tmp_path)
    assert all(meter in str(caught.value) for meter in METERS)


def test_what_a_platform_can_measure_is_known_without_it(tmp_path: Path) -> None:
    assert measured_by({"meter": "nvml"}) == {"power_w", "memory_bytes", "latency_s", "energy_j"}
    assert measured_by({"meter": "host"}) == {*make_bench({"meter": "host"}, tmp_path).metrics, "latency_s"}
    assert measured_by({"meter": "abacus"}) == measured_by({}) == set()
    for meter in METERS:
        if meter.startswith("simulated-"):
            bench = make_bench({"meter": meter}, tmp_path, lambda params: {})
            assert bench.metrics == measured_by({"meter": meter}) - {"latency_s", "energy_j"}


def test_a_device_that_is_not_on_this_machine_is_an_error_not_another_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyperpower_runner.hardware.meters import jetson, rapl

    monkeypatch.setattr(jetson.JetsonMeter.__init__, "__defaults__", (tmp_path, None))
    monkeypatch.setattr(rapl.RaplMeter.__init__, "__defaults__", (tmp_path,))
    for meter, reason in (("jetson", "INA3221"), ("rapl", "processor package")):
        with pytest.raises(MeterError, match=reason):
            make_bench({"meter": meter}, tmp_path)


def test_a_script_is_pinned_to_the_device_that_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperpower_runner.hardware.meters import nvml

    class Board(CountingMeter):
        def __init__(self, device: object) -> None:
            super().__init__()
            self.platform = {"meter": "nvml", "uuid": f"GPU-{device}"}

    monkeypatch.setattr(nvml, "NvmlMeter", Board)
    script(tmp_path, """import os, json; print(json.dumps({"seen": os.environ["CUDA_VISIBLE_DEVICES"]}))""")
    assert measure(make_bench({"meter": "nvml", "device": 3}, tmp_path), tmp_path).provenance == {"seen": "GPU-3"}
    assert os.environ.get("CUDA_VISIBLE_DEVICES") != "GPU-3"

"""Measuring the networks of completed jobs: on which device, in which process, and one at a time."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from searching import Recorder, drive, make_experiment, results, write_models
from seen import processes_of

from hyperpower_runner import job_files, processes
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.hardware import measuring
from hyperpower_runner.hardware.measuring import measure
from hyperpower_runner.hardware.meters.simulated import true_values
from hyperpower_runner.job_files import read_json, write_json
from hyperpower_runner.locks import device_lock
from hyperpower_runner.trial import Job, Status

SIMULATED = {"meter": "simulated-gtx1070"}
HOST = {"meter": "host"}
COUNTS = {"parameters": 1e4, "macs": 4e5, "activations": 2e3}
COUNTED = f"""
    import json, sys
    def features(params):
        return {{name: count * params["n"] for name, count in {COUNTS}.items()}}
    if __name__ == "__main__":
        print(json.dumps({{"error": json.load(open(sys.argv[-1]))["params"]["x"]}}))
"""
# An inference step of any language: it writes down when it ran, beside config.json.
INFERENCE = """
    import json, os, sys, time
    job = json.load(open(sys.argv[-1]))
    if job["task"] == "profile":
        begun, held = time.time(), b"x" * (job["params"]["n"] << 20)
        time.sleep(job["seconds"] + 0.15)
        open("spans", "a").write(json.dumps([begun, time.time()]) + "\\n")
        said = {"seconds_asked": job["seconds"], "threads_asked": int(os.environ.get("OMP_NUM_THREADS", 0))}
        print(json.dumps({**said, "steps": 100, "duration_s": 1.0, "framework": "mine 1"}))
    else:
        print(json.dumps({"error": job["params"]["x"]}))
"""
SHORT = {"window-s": 0.2, "warm-up-s": 0.05, "warm-up-steps": 0, "longest-warm-up-s": 0.1}


def host_experiment(root: Path, script: str = INFERENCE, **changes: Any) -> Experiment:
    return make_experiment(root, script, **{"platform": HOST, "profiling": SHORT, **changes})


def write_job(experiment: Experiment, n: int = 20, **fields: Any) -> Experiment:
    experiment.write_job(Job(1, {"x": 0.5, "n": n}, seed=3, command=["python", "-S", "train.py"], **fields))
    return experiment


def begin_measuring(experiment: Experiment, job_id: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hyperpower_runner.hardware.measuring", str(experiment.root), f"{job_id:06d}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def measured(experiment: Experiment, job_id: int = 1) -> dict[str, Any]:
    """What the process says, as its one object on stdout."""
    process = begin_measuring(experiment, job_id)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    content = json.loads(stdout)
    assert isinstance(content, dict)
    return content


def catches(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


# --- one job


def test_a_simulated_platform_gives_what_it_would_show_of_the_jobs_network(tmp_path: Path) -> None:
    experiment = write_job(make_experiment(tmp_path, COUNTED, platform=SIMULATED), n=2)
    content = measured(experiment)
    truth = true_values("simulated-gtx1070", {name: 2 * count for name, count in COUNTS.items()})
    assert content["metrics"]["power_w"] == pytest.approx(truth["power_w"], rel=0.03)
    assert content["metrics"]["memory_bytes"] == pytest.approx(truth["memory_bytes"], rel=0.01)
    assert content["metrics"]["latency_s"] == pytest.approx(truth["latency_s"], rel=0.02)
    assert content["metrics"]["energy_j"] == pytest.approx(truth["energy_j"], rel=0.04)
    assert content["flags"] == []
    assert content["platform"]["simulated"] is True
    assert content["platform"]["batch-size"] == 2048
    assert "reason" not in content
    assert measured(experiment) == content  # it is a function of the job


def test_what_a_platform_has_no_sensor_for_is_absent(tmp_path: Path) -> None:
    platform = {"meter": "simulated-tegra-tx1"}
    content = measured(write_job(make_experiment(tmp_path, COUNTED, platform=platform)))
    assert "memory_bytes" not in content["metrics"]
    assert content["metrics"]["power_w"] > 0


def test_the_memory_of_a_real_inference_step_is_measured_in_a_quick_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    profiling = {"warm-up-s": 0.1, "window-s": 8}
    experiment = write_job(host_experiment(tmp_path, profiling=profiling), n=50)
    content = measured(experiment)
    assert 0 < content["metrics"]["memory_bytes"] - (50 << 20) < 60e6
    assert "power_w" not in content["metrics"]
    assert "energy_j" not in content["metrics"]
    assert content["metrics"]["seconds_asked"] == pytest.approx(2.1)  # 2 s count, however long windows are to be
    assert content["metrics"]["threads_asked"] == processes.cores()
    assert content["metrics"]["latency_s"] == 0.01
    assert content["platform"]["meter"] == "host"
    assert content["platform"]["framework"] == "mine 1"
    assert content["flags"] == []
    assert not (experiment.state / "measuring" / "000001").exists()


def test_a_window_of_no_use_is_measured_again_and_then_only_its_memory_counts(tmp_path: Path) -> None:
    script = INFERENCE.replace('time.sleep(job["seconds"] + 0.15)', "time.sleep(0.1)")
    content = measured(write_job(host_experiment(tmp_path, script)))
    assert "too-short" in content["flags"]
    assert "too-short" in content["reason"]
    assert set(content["metrics"]) == {"memory_bytes"}
    assert len((tmp_path / "spans").read_text().splitlines()) == 3  # most-redos is 2


@pytest.mark.parametrize(
    ("script", "platform", "part"),
    [
        ("print('{\"error\": 0.5}')", HOST, '"task": "profile"'),
        ("import sys; sys.exit('no inference here')", HOST, "no inference here"),
        ("print('{\"error\": 0.5}')", SIMULATED, "features(params)"),
        ("def features(params): return 1 / 0", SIMULATED, "ZeroDivisionError"),
        ("pass", {"meter": "rapid"}, 'did you mean "rapl"?'),
        ("pass", {}, "names no meter"),
    ],
)
def test_what_cannot_be_measured_has_a_reason_and_no_metrics(
    tmp_path: Path, script: str, platform: dict[str, Any], part: str
) -> None:
    experiment = write_job(make_experiment(tmp_path, script))
    config = json.loads(experiment.config_file.read_text())
    experiment.config_file.write_text(json.dumps({**config, "platform": platform, "profiling": SHORT}))
    content = measured(experiment)
    assert part in content["reason"]
    assert "\n" not in content["reason"]
    assert "metrics" not in content


def test_a_job_that_is_not_there_and_a_config_that_is_broken_have_a_reason(tmp_path: Path) -> None:
    experiment = write_job(host_experiment(tmp_path))
    assert "no such file" in measured(experiment, 7)["reason"]
    experiment.config_file.write_text("{")
    assert str(experiment.config_file) in measured(experiment)["reason"]


def test_the_power_of_a_machine_on_which_other_jobs_run_is_not_that_of_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "workers_beside", lambda: [4711])
    shared = measure(write_job(make_experiment(tmp_path / "shared", COUNTED, platform={"meter": "rapl"})), 1)
    assert shared == {"reason": "other jobs run on the same device; with one at a time on this machine it is measured"}
    alone = measure(write_job(make_experiment(tmp_path / "own", COUNTED, platform=SIMULATED)), 1)
    assert alone["metrics"]["power_w"] > 0


def test_what_the_system_lacks_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(path: str, flags: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)

    monkeypatch.setattr(job_files, "regular", fail)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    measuring.main(str(write_job(host_experiment(tmp_path)).root), "1")
    assert "Too many open files" in json.loads(capsys.readouterr().out)["reason"]


def test_what_a_library_prints_is_not_taken_for_the_answer(tmp_path: Path) -> None:
    """Not all that is printed goes through sys.stdout; a script's import may bring such a library."""
    noisy = "import os; os.write(1, b'loading the library\\n')\n"
    experiment = make_experiment(
        tmp_path, noisy + "def features(params):\n    return " + repr(COUNTS), platform=SIMULATED
    )
    process = begin_measuring(write_job(experiment))
    stdout, _ = process.communicate(timeout=60)
    assert json.loads(stdout.splitlines()[-1])["metrics"]["power_w"] > 0


# --- models and measurements of two platforms


def test_models_of_what_was_measured_need_no_comment(tmp_path: Path) -> None:
    experiment = write_job(make_experiment(tmp_path, COUNTED, platform=SIMULATED))
    write_json_models(experiment, {"meter": "simulated-gtx1070", "batch-size": 2048, "framework": "simulated"})
    assert "mismatch" not in measured(experiment)


def test_models_of_another_framework_than_the_one_that_was_measured_are_told_of(tmp_path: Path) -> None:
    """What the script says of its framework is known only when it was run."""
    experiment = write_job(host_experiment(tmp_path))
    write_json_models(experiment, {"meter": "host", "framework": "mine 0"})
    content = measured(experiment)
    assert "framework mine 1 instead of mine 0" in content["mismatch"]
    assert content["metrics"]["memory_bytes"] > 20 << 20


def test_models_that_cannot_be_read_do_not_cost_the_measurement(tmp_path: Path) -> None:
    experiment = write_job(make_experiment(tmp_path, COUNTED, platform=SIMULATED))
    write_models(experiment, power_w={"form": "paper", "weights": {"width": 1.0}})
    assert measured(experiment)["metrics"]["power_w"] > 0


def write_json_models(experiment: Experiment, platform: dict[str, Any]) -> None:
    experiment.models_file.parent.mkdir()
    models = {"memory_bytes": {"form": "paper", "weights": {"n": 1.0}}}
    write_json(experiment.models_file, {"platform": platform, "models": models})


# --- one at a time


def spans(root: Path) -> list[list[float]]:
    return sorted(json.loads(line) for line in (root / "spans").read_text().splitlines())


def test_jobs_that_end_together_are_measured_one_after_the_other(tmp_path: Path) -> None:
    together: dict[str, Any] = {"budget": {"evaluations": 3}, "max-concurrent": 3}
    experiment = host_experiment(tmp_path, **together)
    drive(experiment)
    found = results(experiment)
    assert [result.status for result in found.values()] == [Status.COMPLETED] * 3
    for job_id, result in found.items():
        n = experiment.read_history().trials[job_id - 1].params["n"]
        assert 0 < (result.metrics["memory_bytes"] or 0) - (n << 20) < 60e6
    begun = spans(tmp_path)
    assert len(begun) == 3
    for (_, ended), (later, _) in itertools.pairwise(begun):
        assert ended <= later


def test_whoever_waits_for_the_device_measures_when_it_is_free(tmp_path: Path) -> None:
    experiment = write_job(host_experiment(tmp_path))
    with device_lock(HOST):
        process = begin_measuring(experiment)
        time.sleep(1.5)
        assert process.poll() is None
        assert not (tmp_path / "spans").exists()
        freed = time.time()
    stdout, _ = process.communicate(timeout=60)
    assert json.loads(stdout)["metrics"]["memory_bytes"] > 0
    assert spans(tmp_path)[0][0] >= freed


def test_whoever_waits_for_the_device_can_be_stopped(tmp_path: Path) -> None:
    experiment = write_job(host_experiment(tmp_path))
    with device_lock(HOST):
        process = begin_measuring(experiment)
        while not catches(process.pid, signal.SIGTERM):
            time.sleep(0.01)
        time.sleep(0.5)  # it has begun to wait
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate(timeout=10)
    assert "asked to stop" in json.loads(stdout)["reason"]
    assert not (tmp_path / "spans").exists()


def test_a_measurement_that_is_stopped_leaves_no_process_and_frees_the_device(tmp_path: Path) -> None:
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('begun', 'w'); time.sleep(600)"
    experiment = write_job(host_experiment(tmp_path, script))
    process = begin_measuring(experiment)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=10)
    assert "asked to stop" in json.loads(stdout)["reason"]
    assert processes_of(tmp_path) == []
    begun = time.monotonic()
    with device_lock(HOST):
        assert time.monotonic() - begun < 1


def test_measuring_in_this_process_is_the_same(tmp_path: Path) -> None:
    experiment = write_job(make_experiment(tmp_path, COUNTED, platform=SIMULATED))
    assert json.loads(json.dumps(measure(experiment, 1))) == measured(experiment)


# --- which jobs are measured


@pytest.mark.parametrize(
    ("platform", "expected"),
    [(SIMULATED, True), ({**SIMULATED, "measure-jobs": False}, False), ({}, False), ({"batch-size": 8}, False)],
)
def test_the_platform_of_config_json_says_whether_jobs_are_measured(
    tmp_path: Path, platform: dict[str, Any], expected: bool
) -> None:
    experiment = make_experiment(tmp_path, COUNTED, platform=platform, budget={"evaluations": 1})
    drive(experiment)
    job, result = read_json(experiment.job_files(1).job), results(experiment)[1]
    assert job is not None
    assert job["measure"] is expected
    assert job["platform"] == {name: value for name, value in platform.items() if name != "measure-jobs"}
    assert ("measurement" in result.extra) is expected
    assert ("power_w" in result.metrics) is expected


def test_measured_metrics_decide_what_is_feasible(tmp_path: Path) -> None:
    """No model predicts anything here: only what was measured can tell."""
    experiment = make_experiment(
        tmp_path, COUNTED, platform=SIMULATED, budget={"evaluations": 6}, constraints={"power_w": 85}
    )
    driver, _ = drive(experiment, Recorder())
    measured_w = {trial.job_id: trial.metrics["power_w"] for trial in driver.history}
    within = [trial for trial in driver.history if (measured_w[trial.job_id] or 0) <= 85]
    assert 0 < len(within) < 6
    best = driver.search.best()
    assert best is not None
    assert best.job_id == min(within, key=lambda trial: trial.params["x"]).job_id
    assert driver.summary().violations == {"predicted": 0, "measured": 6 - len(within)}


def test_where_one_window_does_not_tell_the_side_of_a_budget_more_are_made(tmp_path: Path) -> None:
    def under(name: str, **constraints: float) -> dict[str, Any]:
        return measured(
            write_job(make_experiment(tmp_path / name, COUNTED, platform=SIMULATED, constraints=constraints))
        )

    first = under("unbounded")
    power_w = first["metrics"]["power_w"]
    near, far = under("near", power_w=1.005 * power_w), under("far", power_w=1.2 * power_w)
    assert (first["windows"], far["windows"], near["windows"]) == (1, 1, 3)
    assert near["half_width"]["power_w"] > 0
    assert near["metrics"]["power_w"] == pytest.approx(power_w, rel=0.03)

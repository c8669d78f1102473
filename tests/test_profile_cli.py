"""From a profile to a search through the real command line: what is printed, what is written, and what a kill costs."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from searching import command_line, make_experiment, run_command

from hyperpower_runner.experiment import Experiment
from hyperpower_runner.hardware.meters.simulated import true_values
from hyperpower_runner.hardware.platforms import METERS
from hyperpower_runner.job_files import read_json, read_json_lines
from hyperpower_runner.trial import params_key

SAMPLES = 30
FORMS = ("--form", "linear", "--form", "power_w=log-quadratic", "--form", "memory_bytes=computed")
SIMULATED: dict[str, Any] = {
    "variables": {
        "units": {"type": "INT", "min": 10, "max": 120},
        "kernel": {"type": "INT", "min": 2, "max": 5},
        "rate": {"type": "FLOAT", "min": 0.01, "max": 1},
    },
    "platform": {"meter": "simulated-gtx1070"},
    "constraints": {"power_w": 85, "memory_bytes": "1.2 GB"},
}
# It prints where results are to be printed: what commands print with --json must be one object all the same.
COUNTED = """
    import json, sys
    print("this line is printed when the script is imported")
    def features(params):
        print("and this one when it is asked")
        units, weights = params["units"], params["units"] * params["kernel"] ** 2
        return {"parameters": 10 * weights, "macs": 8000 * weights, "activations": 300 * units}
    if __name__ == "__main__":
        job = json.load(open(sys.argv[-1]))
        print(json.dumps({"error": job["params"]["rate"]}))
"""
# Memory in proportion to units, and a process that lives a little longer than it was asked to.
ALLOCATING = """
    import json, os, sys, time
    job = json.load(open(sys.argv[-1]))
    if job["task"] == "profile":
        with open("started", "a") as log:
            log.write(json.dumps([os.getpid(), job["params"]["units"]]) + "\\n")
        held = b"x" * (job["params"]["units"] << 20)
        if job["params"]["units"] % {fails} == 0:
            sys.exit("no such network")
        time.sleep(job["seconds"] + 0.15)
        print(json.dumps({{"steps": 100, "duration_s": 1.0}}))
    else:
        print(json.dumps({{"error": job["params"]["rate"]}}))
"""
HOST: dict[str, Any] = {
    "variables": {
        "units": {"type": "INT", "min": 1, "max": 99},
        "rate": {"type": "FLOAT", "min": 0, "max": 1},
    },
    "platform": {"meter": "host", "measure-jobs": False},
    "profiling": {
        "samples": 10, "warm-up-s": 0.05, "warm-up-steps": 0, "window-s": 0.2, "repeats": 1, "most-repeats": 1,
    },
}  # fmt: skip


def simulated_experiment(root: Path, **changes: Any) -> Experiment:
    return make_experiment(root, COUNTED, **{**SIMULATED, **changes})


def host_experiment(root: Path, *, fails: int = 1000, **changes: Any) -> Experiment:
    return make_experiment(root, ALLOCATING.format(fails=fails), **{**HOST, **changes})


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def points_of(experiment: Experiment) -> list[dict[str, Any]]:
    return [line for line in read_json_lines(experiment.profile_file) if line["kind"] == "point"]


def started(root: Path) -> list[tuple[int, int]]:
    """The inference processes that were started: pid, and the structure's units."""
    log = root / "started"
    return [(int(pid), int(units)) for pid, units in map(json.loads, lines_of(log))] if log.exists() else []


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def answered(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    answer = run_command(*words)
    assert answer.returncode == code, answer.stderr
    assert "Traceback" not in answer.stderr
    return answer


def asked_for_json(*words: str | Path) -> dict[str, Any]:
    content = json.loads(answered(*words, "--json").stdout)
    assert isinstance(content, dict)
    return content


def sentence_of(*words: str | Path) -> str:
    """The one sentence with which a command is refused."""
    answer = answered(*words, code=1)
    assert answer.stdout == ""
    (sentence,) = answer.stderr.splitlines()
    assert sentence.startswith("error: ")
    return sentence


# --- a search on a simulated platform, from the profile to the best


class Pipeline:
    """The whole of it, run once: what each command printed, as text and with --json."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.experiment = simulated_experiment(root, budget={"evaluations": 5})
        self.texts: dict[str, str] = {}
        self.objects: dict[str, dict[str, Any]] = {}
        for command in (
            ["profile", "--samples", str(SAMPLES)],
            ["fit", *FORMS],
            ["validate"],
            ["run"],
            ["status"],
            ["best"],
        ):
            name, *options = command
            self.texts[name] = answered(name, root, *options).stdout
            self.objects[name] = asked_for_json(name, root, *options)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline(tmp_path_factory.mktemp("a search"))


def test_the_profile_counts_its_structures_and_shows_the_range_of_each_metric(pipeline: Pipeline) -> None:
    found = pipeline.objects["profile"]
    assert (found["structures"], found["failed"], found["flagged"]) == (SAMPLES, 0, 0)
    assert set(found["metrics"]) == {"power_w", "memory_bytes", "latency_s", "energy_j"}
    for metric in found["metrics"].values():
        assert 0 < metric["min"] < metric["median"] < metric["max"]
        assert metric["structures"] == SAMPLES
    assert found["file"] == str(pipeline.experiment.profile_file)
    assert found["platform"]["simulated"] is True
    assert found["platform"]["batch-size"] == 2048
    text = pipeline.texts["profile"]
    assert f"{SAMPLES} structures measured, 0 failed" in text
    assert all(metric in text for metric in found["metrics"])


def test_the_profile_holds_what_the_platform_would_show_of_distinct_structures(pipeline: Pipeline) -> None:
    last = {point["id"]: point for point in points_of(pipeline.experiment)}
    assert len(last) == SAMPLES
    assert len({(point["params"]["units"], point["params"]["kernel"]) for point in last.values()}) == SAMPLES
    for point in last.values():
        assert point["repeats"] >= 3
        assert point["quick"] is False
        units, weights = point["params"]["units"], point["params"]["units"] * point["params"]["kernel"] ** 2
        counts = {"parameters": 10 * weights, "macs": 8000 * weights, "activations": 300 * units}
        truth = true_values("simulated-gtx1070", counts)
        assert point["metrics"]["power_w"] == pytest.approx(truth["power_w"], rel=0.03)
        assert point["metrics"]["memory_bytes"] == pytest.approx(truth["memory_bytes"], rel=0.01)
        assert point["features"]["macs"] == counts["macs"]


def test_fit_prints_each_models_error_beside_that_of_a_constant(pipeline: Pipeline) -> None:
    found = pipeline.objects["fit"]
    assert set(found) >= {"power_w", "memory_bytes", "latency_s", "energy_j"}
    assert {metric: found[metric]["form"] for metric in ("power_w", "memory_bytes", "latency_s")} == {
        "power_w": "log-quadratic",
        "memory_bytes": "computed",
        "latency_s": "linear",
    }
    for metric in ("power_w", "memory_bytes"):
        assert 0 < found[metric]["rmspe"] < 0.3 * found[metric]["rmspe_constant"]
        assert found[metric]["samples"] == SAMPLES
    text = pipeline.texts["fit"]
    assert "RMSPE" in text
    assert "constant" in text
    line = next(line for line in text.splitlines() if line.split()[:2] == ["power_w", "log-quadratic"])
    assert f"{100 * found['power_w']['rmspe']:.2f}" in line
    assert f"{100 * found['power_w']['rmspe_constant']:.1f} %" in line
    content = read_json(pipeline.experiment.models_file)
    assert content is not None
    for metric, model in content["models"].items():
        assert {key: found[metric][key] for key in model} == model
    assert content["schema"] == 1


def test_validate_says_what_is_predicted_and_how_well(pipeline: Pipeline) -> None:
    found = pipeline.objects["validate"]
    assert found["valid"] is True
    assert found["predicted"] == ["memory_bytes", "power_w"]
    assert found["simulated"] is True
    text = pipeline.texts["validate"]
    assert "power_w <= 85 is predicted before a job runs (form log-quadratic, RMSPE" in text
    assert "SIMULATED, not measured" in text


def test_the_search_starts_only_what_is_predicted_to_fit_and_measures_what_completed(pipeline: Pipeline) -> None:
    status = pipeline.objects["status"]
    assert status["counts"]["completed"] == 5
    assert status["counts"]["rejected"] > 0
    assert status["violations"]["predicted"] == 0
    history = pipeline.experiment.read_history()
    for trial in history:
        assert set(trial.job.predictions) >= {"power_w", "memory_bytes"}
        assert trial.job.predictions["power_w"] <= 85
        assert trial.metrics["power_w"] == pytest.approx(trial.job.predictions["power_w"], rel=0.3)
        assert trial.metrics["energy_j"] is not None
        assert trial.result is not None
        assert trial.result.extra["measurement"]["platform"]["meter"] == "simulated-gtx1070"
        assert trial.result.extra["measurement"]["flags"] == []
    best = min(
        (trial for trial in history if trial.is_feasible(pipeline.experiment.read_config().constraints)),
        key=lambda trial: trial.params["rate"],
    )
    assert pipeline.objects["best"]["job_id"] == best.job_id
    assert pipeline.objects["best"]["metrics"] == best.metrics
    assert pipeline.objects["run"]["best"] == status["best"]
    assert status["best"]["job_id"] == best.job_id


@pytest.mark.parametrize("command", ["profile", "fit", "validate", "run", "status", "best"])
def test_the_word_simulated_is_in_every_output(pipeline: Pipeline, command: str) -> None:
    assert "simulated" in pipeline.texts[command].lower()
    assert "simulated" in json.dumps(pipeline.objects[command])


def test_the_word_simulated_is_in_every_line_of_the_profile(pipeline: Pipeline) -> None:
    unlabelled = [line for line in lines_of(pipeline.experiment.profile_file) if "simulated" not in line]
    assert not unlabelled, unlabelled[0]


def test_the_word_simulated_is_in_the_models_the_jobs_the_results_and_the_rejections(pipeline: Pipeline) -> None:
    experiment = pipeline.experiment
    assert '"simulated": true' in experiment.models_file.read_text()
    folders = sorted(experiment.jobs.iterdir())
    assert len(folders) == 5
    for folder in folders:
        assert "simulated" in (folder / "job.json").read_text()
        assert '"simulated": true' in (folder / "result.json").read_text()
    lines = lines_of(experiment.rejected_file)
    assert lines
    assert all("simulated" in line for line in lines)


def test_profiling_again_measures_nothing_and_says_the_same(pipeline: Pipeline) -> None:
    before = pipeline.experiment.profile_file.read_bytes()
    assert asked_for_json("profile", pipeline.root, "--samples", str(SAMPLES)) == pipeline.objects["profile"]
    points = [line for line in before.splitlines() if b'"point"' in line]
    assert pipeline.experiment.profile_file.read_bytes().splitlines()[: len(before.splitlines())] == before.splitlines()
    assert len(points_of(pipeline.experiment)) == len(points)


def test_fitting_again_writes_the_same_file(pipeline: Pipeline) -> None:
    before = pipeline.experiment.models_file.read_bytes()
    answered("fit", pipeline.root, *FORMS)
    assert pipeline.experiment.models_file.read_bytes() == before


# --- models of something else


CHANGES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "another platform": ({"platform": {"meter": "simulated-tegra-tx1"}}, ["simulated-gtx1070", "simulated-tegra-tx1"]),
    "another batch size": (
        {"platform": {"meter": "simulated-gtx1070", "batch-size": 64}},
        ["batch-size", "2048", "64"],
    ),
    "another dtype": ({"platform": {"meter": "simulated-gtx1070", "dtype": "float16"}}, ["dtype", "float16"]),
    "another name of a variable": (
        {"variables": {**SIMULATED["variables"], "kernel": None, "kernels": SIMULATED["variables"]["kernel"]}},
        ['"kernel"', "kernels"],
    ),
    "a structural variable that is none now": (
        {"variables": {**SIMULATED["variables"], "kernel": {"type": "INT", "min": 2, "max": 5, "structural": False}}},
        ['"kernel"'],
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_models_of_something_else_are_refused_in_one_sentence(pipeline: Pipeline, tmp_path: Path, kind: str) -> None:
    changes, parts = CHANGES[kind]
    config = {**SIMULATED, **changes}
    config["variables"] = {name: entry for name, entry in config["variables"].items() if entry is not None}
    experiment = simulated_experiment(tmp_path, **config)
    shutil.copytree(pipeline.experiment.models_file.parent, experiment.models_file.parent)
    for command in ("validate", "run"):
        sentence = sentence_of(command, tmp_path)
        assert str(experiment.models_file) in sentence
        assert all(part in sentence for part in parts)
    assert not experiment.jobs.exists()


def test_points_of_another_batch_size_are_not_fitted_and_kept(pipeline: Pipeline, tmp_path: Path) -> None:
    platform = {**SIMULATED["platform"], "batch-size": 64}
    experiment = simulated_experiment(tmp_path, platform=platform)
    shutil.copytree(pipeline.experiment.models_file.parent, experiment.models_file.parent)
    experiment.models_file.unlink()
    before = experiment.profile_file.read_bytes()
    answer = answered("fit", tmp_path, code=1)
    assert f"{SAMPLES} points are passed over: they were measured on" in answer.stderr
    assert "hyperpower-runner profile" in answer.stderr.splitlines()[-1]
    assert not experiment.models_file.exists()
    assert asked_for_json("profile", tmp_path, "--samples", "12")["structures"] == 12
    assert experiment.profile_file.read_bytes().startswith(before)
    assert asked_for_json("fit", tmp_path, "--form", "linear")["power_w"]["samples"] == 12
    # Without its batch size, config.json names both platforms, and no model is of both.
    simulated_experiment(tmp_path)
    sentence = answered("fit", tmp_path, code=1).stderr.splitlines()[-1]
    assert "batch-size 64" in sentence
    assert "batch-size 2048" in sentence


# --- what is refused


def test_too_few_samples_are_refused_in_one_sentence(tmp_path: Path) -> None:
    experiment = simulated_experiment(tmp_path)
    for samples in ("5", "9", "0", "-3"):
        sentence = sentence_of("profile", tmp_path, "--samples", samples)
        assert f"{samples} samples are too few" in sentence
        assert "10 structures or more" in sentence
        assert "--samples" in sentence
    simulated_experiment(tmp_path, profiling={"samples": 5})
    assert "profiling.samples" in sentence_of("profile", tmp_path)
    assert not experiment.profile_file.exists()


@pytest.mark.parametrize(
    "words", [["profile", ".", "--samples", "many"], ["profile"], ["fit", ".", "--forms", "paper"]]
)
def test_wrong_usage_exits_with_2(words: list[str]) -> None:
    answer = run_command(*words)
    assert answer.returncode == 2
    assert "Usage" in answer.stderr
    assert answer.stdout == ""


@pytest.mark.parametrize("command", ["profile", "fit"])
def test_help_shows_an_example(command: str) -> None:
    assert f"Example: hyperpower-runner {command}" in answered(command, "--help").stdout


def test_without_a_meter_profile_names_the_choices(tmp_path: Path) -> None:
    experiment = simulated_experiment(tmp_path, platform={})
    sentence = sentence_of("profile", tmp_path)
    assert "names no meter" in sentence
    assert all(meter in sentence for meter in METERS)
    assert not experiment.profile_file.exists()


@pytest.mark.parametrize("command", ["profile", "validate", "run"])
def test_a_misspelt_meter_is_refused_with_the_nearest_spelling_before_anything_runs(
    tmp_path: Path, command: str
) -> None:
    experiment = simulated_experiment(tmp_path, platform={"meter": "simulated-gtx1080"})
    sentence = sentence_of(command, tmp_path)
    assert '"simulated-gtx1080"' in sentence
    assert 'did you mean "simulated-gtx1070"?' in sentence
    assert not experiment.profile_file.exists()
    assert not experiment.jobs.exists()


def test_a_simulated_platform_needs_the_scripts_features(tmp_path: Path) -> None:
    make_experiment(tmp_path, **SIMULATED)
    sentence = sentence_of("profile", tmp_path)
    assert "features(params)" in sentence
    assert all(count in sentence for count in ("parameters", "macs", "activations"))
    make_experiment(tmp_path, "def features(params):\n    return {'parameters': 1.0}\n", **SIMULATED)
    assert "macs" in answered("profile", tmp_path, code=1).stderr.splitlines()[-1]


def test_fit_before_profile_says_what_to_do(tmp_path: Path) -> None:
    experiment = simulated_experiment(tmp_path)
    sentence = sentence_of("fit", tmp_path)
    assert "nothing to fit" in sentence
    assert "hyperpower-runner profile" in sentence
    assert not experiment.models_file.exists()


@pytest.mark.parametrize(
    ("form", "parts"),
    [
        ("liner", ['"liner"', 'did you mean "linear"?']),
        ("power_w=liner", ['"liner"', 'did you mean "linear"?']),
        ("power=linear", ['"power"', 'did you mean "power_w"?']),
        ("power_w=", ["--form"]),
    ],
)
def test_a_wrong_form_is_refused_and_the_models_stand(pipeline: Pipeline, form: str, parts: list[str]) -> None:
    before = pipeline.experiment.models_file.read_bytes()
    answer = answered("fit", pipeline.root, "--form", form, code=1)
    assert all(part in answer.stderr.splitlines()[-1] for part in parts)
    assert pipeline.experiment.models_file.read_bytes() == before


def test_a_space_without_structure_is_refused(tmp_path: Path) -> None:
    simulated_experiment(tmp_path, variables={"rate": {"type": "FLOAT", "min": 0, "max": 1}})
    assert '"structural": true' in sentence_of("profile", tmp_path)


def test_only_one_command_at_a_time_works_in_a_directory(tmp_path: Path) -> None:
    experiment = host_experiment(tmp_path)
    with experiment.lock():
        assert f"process {os.getpid()}" in sentence_of("profile", tmp_path)


# --- quick


def test_quick_is_recorded_and_measures_once(tmp_path: Path) -> None:
    experiment = simulated_experiment(tmp_path)
    answered("profile", tmp_path, "--samples", "12", "--quick")
    points = points_of(experiment)
    assert len(points) == 12
    assert all(point["quick"] is True and point["repeats"] == 1 for point in points)


def test_what_was_measured_quickly_is_never_taken_for_more(tmp_path: Path) -> None:
    """A window of --quick either stays recorded as such, or makes room for full ones."""
    experiment = simulated_experiment(tmp_path)
    answered("profile", tmp_path, "--samples", "12", "--quick")
    quick = {point["id"]: point["windows"] for point in points_of(experiment)}
    answered("profile", tmp_path, "--samples", "12")
    last = {point["id"]: point for point in points_of(experiment)}
    assert last.keys() == quick.keys()
    for key, point in last.items():
        recorded = point["quick"] or all(window.get("quick") for window in point["windows"] if window in quick[key])
        assert recorded, point


# --- a real meter: the memory of processes on this machine


def test_memory_of_a_real_process_is_profiled_and_modelled_and_power_is_absent(tmp_path: Path) -> None:
    script = """
        from hyperpower_runner import objective
        def evaluate(job):
            return {"error": job.params["rate"]}
        def inference(job):
            held = b"x" * (job.params["units"] << 20)
            return lambda: len(held)
        objective.run(evaluate, inference)
    """
    profiling = {**HOST["profiling"], "samples": 12, "window-s": 0.6, "warm-up-steps": 5}
    config = {**HOST, "objective": {"command": ["python", "train.py"]}, "profiling": profiling}
    experiment = make_experiment(tmp_path, script, **config)
    profile = answered("profile", tmp_path)
    assert "power_w" not in profile.stdout
    found = asked_for_json("profile", tmp_path)
    assert found["structures"] == 12
    assert "power_w" not in found["metrics"]
    assert found["platform"]["meter"] == "host"
    assert "simulated" not in json.dumps(found)
    for point in points_of(experiment):
        assert point["metrics"].get("power_w") is None
        assert point["metrics"].get("energy_j") is None
        assert 0 < point["metrics"]["memory_bytes"] - (point["params"]["units"] << 20) < 60e6
        assert point["platform"]["framework"].startswith("Python")
    models = asked_for_json("fit", tmp_path, "--form", "linear")
    assert "power_w" not in models
    assert "energy_j" not in models
    memory = models["memory_bytes"]
    assert memory["rmspe"] < 0.03
    assert memory["rmspe"] < 0.1 * memory["rmspe_constant"]
    assert memory["weights"]["units"] == pytest.approx(1 << 20, rel=0.05)


def test_a_shell_script_that_honours_the_task_is_profiled(tmp_path: Path) -> None:
    script = """#!/bin/sh
# One key stands on each line of job.json.
value() { sed -n "s/^ *\\"$1\\": \\"*\\([^\\",]*\\).*/\\1/p" "$2"; }
for job; do :; done
if [ "$(value task "$job")" = profile ]; then
    sleep "$(value seconds "$job")"
    sleep 0.15
    echo "{\\"steps\\": 50, \\"duration_s\\": 0.5, \\"registers\\": $((7 * $(value units "$job")))}"
else
    echo "{\\"error\\": $(value rate "$job")}"
fi
"""
    experiment = make_experiment(tmp_path, **{**HOST, "objective": {"command": ["./train.sh"]}})
    (tmp_path / "train.sh").write_text(script)
    (tmp_path / "train.sh").chmod(0o755)
    found = asked_for_json("profile", tmp_path)
    assert found["structures"] == 10
    assert found["metrics"]["latency_s"]["median"] == pytest.approx(0.01)
    assert all(point["metrics"]["registers"] == 7 * point["params"]["units"] for point in points_of(experiment))
    model = asked_for_json("fit", tmp_path, "--form", "registers=paper", "--form", "linear")["registers"]
    assert model["form"] == "paper"
    assert model["weights"] == {"units": pytest.approx(7.0)}
    assert asked_for_json("run", tmp_path)["counts"]["completed"] == 4


def test_structures_that_fail_are_counted_told_of_and_tried_again(tmp_path: Path) -> None:
    experiment = host_experiment(tmp_path, fails=4)
    first = answered("profile", tmp_path, "--json")
    tried = [units for _, units in started(tmp_path)]
    broken = sorted(units for units in tried if units % 4 == 0)
    assert broken
    found = json.loads(first.stdout)
    assert found["structures"] == 10 - len(broken)
    assert found["failed"] == len(broken)
    assert first.stderr.count("could not be measured") == len(broken)
    assert "no such network" in first.stderr
    assert "are passed over" not in first.stderr
    again = answered("profile", tmp_path, "--json")
    assert sorted(units for _, units in started(tmp_path)[len(tried) :]) == broken
    assert json.loads(again.stdout)["failed"] == len(broken)
    assert "are passed over" not in again.stderr
    host_experiment(tmp_path)  # mended
    mended = answered("profile", tmp_path, "--json")
    assert (json.loads(mended.stdout)["structures"], json.loads(mended.stdout)["failed"]) == (10, 0)
    assert "are passed over" not in mended.stderr
    assert len({point["id"] for point in points_of(experiment)}) == 10


def test_a_script_that_trains_whatever_it_is_asked_is_found_out(tmp_path: Path) -> None:
    make_experiment(tmp_path, "import time; time.sleep(0.05); print('{\"error\": 0.5}')", **HOST)
    assert '"task": "profile"' in answered("profile", tmp_path, code=1).stderr.splitlines()[-1]


# --- interrupted, killed, torn


def begin_profiling(experiment: Experiment, *options: str, after: int = 3) -> subprocess.Popen[str]:
    """Start to profile, and wait until some structures were measured and the next one is being measured."""
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}
    process = subprocess.Popen(
        command_line("profile", experiment.root, *options),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    wait_until(lambda: len(points_of(experiment)) >= after and len(started(experiment.root)) > after)
    return process


def complete(experiment: Experiment, samples: int) -> None:
    """Assert that each structure was measured exactly once, and none for a second time."""
    points = points_of(experiment)
    assert Counter(point["id"] for point in points) == Counter(range(1, samples + 1))
    assert len({params_key(point["params"]) for point in points}) == samples
    assert all(len(point["windows"]) == 1 for point in points)
    measured = {point["params"]["units"] for point in points}
    runs = Counter(units for _, units in started(experiment.root))
    assert measured == set(runs)
    assert sum(runs.values()) <= samples + 1  # the one that was being measured
    assert not any(lives(pid) for pid, _ in started(experiment.root))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_profiling_keeps_what_it_has_and_names_the_command_that_goes_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    experiment = host_experiment(tmp_path / "my search")
    process = begin_profiling(experiment, "--samples", "11", "--quick")
    before = len(points_of(experiment))
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    left = [pid for pid, _ in started(experiment.root) if lives(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert process.returncode == 130
    assert not left
    assert stdout == ""
    assert "Traceback" not in stderr
    assert str(experiment.profile_file) in stderr
    assert before <= len(points_of(experiment)) < 11
    resume = next(line.partition(": ")[2] for line in stderr.splitlines() if line.startswith("Resume with: "))
    program, *words = shlex.split(resume)
    assert program == "hyperpower-runner"
    assert "--samples 11" in resume  # without them, it would be another profile that goes on
    assert "--quick" in resume
    assert asked_for_json(*words)["structures"] == 11
    complete(experiment, 11)
    assert all(point["quick"] for point in points_of(experiment))


def test_the_stop_command_ends_a_profiling_after_the_measurement_that_it_makes(tmp_path: Path) -> None:
    experiment = host_experiment(tmp_path)
    process = begin_profiling(experiment)
    status = asked_for_json("status", tmp_path)
    assert status["driver"]["pid"] == process.pid
    assert "asked process" in answered("stop", tmp_path).stderr.lower()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Resume with: hyperpower-runner profile" in stderr
    assert 3 < len(points_of(experiment)) < 10
    assert len(started(tmp_path)) == len(points_of(experiment))  # none was cut short
    assert asked_for_json("profile", tmp_path)["structures"] == 10
    complete(experiment, 10)


def test_nothing_is_profiled_beside_jobs_that_run(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, "import time; open('begun', 'w').close(); time.sleep(600)", **HOST)
    driver = subprocess.Popen(command_line("run", tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until((tmp_path / "begun").exists)
    assert f"process {driver.pid}" in sentence_of("profile", tmp_path)
    driver.kill()
    driver.wait()
    assert "jobs [1] are still running" in sentence_of("profile", tmp_path)
    experiment.job_files(1).stop.write_text("end of the test\n")
    wait_until(lambda: experiment.read_result(1) is not None)


def test_a_killed_profiling_goes_on_where_it_was(tmp_path: Path) -> None:
    experiment = host_experiment(tmp_path)
    process = begin_profiling(experiment)
    process.kill()
    process.communicate()
    wait_until(lambda: not any(lives(pid) for pid, _ in started(tmp_path)), 2)  # the last one ends with it
    assert asked_for_json("profile", tmp_path)["structures"] == 10
    complete(experiment, 10)
    assert not (experiment.state / "profiling").exists()


def test_torn_and_foreign_lines_are_told_of_and_cost_nothing_else(tmp_path: Path) -> None:
    experiment = host_experiment(tmp_path)
    answered("profile", tmp_path)
    runs, file = len(started(tmp_path)), experiment.profile_file
    text = file.read_text()
    other = {"schema": 1, "kind": "point", "id": 77, "params": {"width": 3}, "windows": [], "platform": {}}
    file.write_text(text + "[1, 2]\n" + json.dumps(other) + "\n" + '{"schema": 1, "kind": "poi')
    lines = len(text.splitlines())
    again = answered("profile", tmp_path, "--json")
    assert json.loads(again.stdout)["structures"] == 10
    assert len(started(tmp_path)) == runs
    fitted = answered("fit", tmp_path, "--form", "linear", "--json")
    assert json.loads(fitted.stdout)["memory_bytes"]["samples"] == 10
    for answer in (again, fitted):
        for number in (lines + 1, lines + 2, lines + 3):
            assert f"line {number} is passed over" in answer.stderr
        assert "width" in answer.stderr
    # A line that was torn in the middle of a measurement's: that structure, and no other, is measured again.
    file.write_bytes(text.encode()[:-60])
    assert asked_for_json("profile", tmp_path)["structures"] == 10
    assert len(started(tmp_path)) == runs + 1
    assert started(tmp_path)[-1][1] == json.loads(text.splitlines()[-1])["params"]["units"]


def test_a_profile_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    experiment = simulated_experiment(tmp_path)
    experiment.profile_file.parent.mkdir()
    experiment.profile_file.write_text('{"schema": 99, "kind": "point"}\n')
    for command in ("profile", "fit"):
        sentence = sentence_of(command, tmp_path)
        assert "newer" in sentence
        assert str(experiment.profile_file) in sentence


# --- searches and measurements


def test_a_budget_that_nothing_can_tell_of_is_told_before_the_search(tmp_path: Path) -> None:
    host_experiment(tmp_path, constraints={"power_w": 85, "memory_bytes": "1 GB"}, platform={"meter": "host"})
    shown = answered("run", tmp_path).stderr
    assert 'constraints.power_w has no model, and the meter "host" does not measure it' in shown
    assert "constraints.memory_bytes has no model: it is measured after each job only" in shown
    assert "profile and fit" in shown
    best = answered("best", tmp_path, code=1)  # power was never known, so it is never met
    assert "none of 4 completed jobs" in best.stderr


def test_why_networks_are_not_measured_is_said_once(tmp_path: Path) -> None:
    script = """
        from hyperpower_runner import objective
        objective.run(lambda job: {"error": job.params["x"]})
    """
    objective = {"command": ["python", "train.py"]}
    make_experiment(tmp_path, script, objective=objective, platform={"meter": "host"}, budget={"evaluations": 3})
    answer = answered("run", tmp_path)
    assert "3 completed" in answer.stdout
    assert answer.stderr.count("was not measured, predictions stand") == 1
    assert "inference step" in answer.stderr


def test_jobs_that_ran_before_there_were_models_are_judged_by_them(tmp_path: Path) -> None:
    """By every command alike: `run`, which shows the best so far, `status` and `best`."""
    platform = {**SIMULATED["platform"], "measure-jobs": False}
    experiment = simulated_experiment(tmp_path, platform=platform, budget={"evaluations": 8})
    answered("run", tmp_path)
    assert "none of 8 completed jobs is known to meet" in answered("best", tmp_path, code=1).stderr
    answered("profile", tmp_path, "--samples", "12", "--quick")
    answered("fit", tmp_path, "--form", "computed")
    models = experiment.read_models(experiment.read_config())
    within = []
    for trial in experiment.read_history():
        predicted = models.predict_point(models.space.from_params(trial.params))
        if predicted["power_w"] <= 85 and predicted["memory_bytes"] <= 1.2e9:
            within.append(trial)
    assert 0 < len(within) < 8
    expected = min(within, key=lambda trial: trial.params["rate"]).job_id
    run = asked_for_json("run", tmp_path)  # the budget is used up: it only says what there is
    assert run["best"]["job_id"] == expected
    assert asked_for_json("best", tmp_path)["job_id"] == expected
    status = asked_for_json("status", tmp_path)
    assert status["best"]["job_id"] == expected
    assert status["violations"] == {"predicted": 0, "measured": 0}


def test_models_of_another_device_are_refused_before_anything_runs(pipeline: Pipeline, tmp_path: Path) -> None:
    experiment = simulated_experiment(tmp_path)
    shutil.copytree(pipeline.experiment.models_file.parent, experiment.models_file.parent)
    content = json.loads(experiment.models_file.read_text())
    content["platform"]["name"] = "another card"
    experiment.models_file.write_text(json.dumps(content))
    for command in ("validate", "run"):
        sentence = answered(command, tmp_path, code=1).stderr.splitlines()[-1]  # the script prints, too
        assert "its models are of another device (name simulated GTX 1070 instead of another card)" in sentence
    assert not experiment.jobs.exists()


def test_a_meter_that_a_budget_depends_on_and_that_is_not_there_ends_the_search_before_it_begins(
    tmp_path: Path,
) -> None:
    experiment = simulated_experiment(tmp_path, platform={"meter": "jetson"}, constraints={"power_w": 10})
    for command in ("validate", "run"):
        assert "constraints.power_w depends on it" in sentence_of(command, tmp_path)
    assert not experiment.jobs.exists()


@pytest.mark.parametrize("command", ["status", "validate"])
def test_simulated_models_say_so_also_where_the_config_names_no_platform(
    pipeline: Pipeline, tmp_path: Path, command: str
) -> None:
    experiment = simulated_experiment(tmp_path, platform={})
    shutil.copytree(pipeline.experiment.models_file.parent, experiment.models_file.parent)
    assert "SIMULATED" in answered(command, tmp_path).stdout
    assert asked_for_json(command, tmp_path)["simulated"] is True

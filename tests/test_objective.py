"""The script side, as real scripts: what they are given, what they leave behind, and what they are told when wrong."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hyperpower_runner import job_files
from hyperpower_runner.errors import ObjectiveError
from hyperpower_runner.job_files import read_json_lines, write_json
from hyperpower_runner.objective import read_job
from hyperpower_runner.trial import Job

SCRIPT = '''"""Train a toy: the error falls with the epochs."""
import json
from hyperpower_runner import objective

def evaluate(job):
    print("a line of the script's own, without an end", end="")
    losses = job.params.get("losses") or [1 / (epoch + 1) for epoch in range(job.epochs)]
    done = 0
    for epoch, loss in enumerate(losses, start=1):
        job.report(epoch=epoch, error=0.9, loss=loss, rate=job.params["rate"])
        done = epoch
        if job.should_stop():
            break
    told = {"seed": job.seed, "threads": job.threads, "id": job.job_id, "metric": job.metric, "by": job.predict()}
    return {"error": 0.9, "epochs_done": done, "told": json.dumps(told)}

def inference(job):
    return lambda: job.params["rate"] * 2

if __name__ == "__main__":
    objective.run(evaluate, inference)
'''


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return path


def write_script(folder: Path, body: str, begin: str = "") -> Path:
    """A script whose `evaluate(job)` has the given body."""
    lines = ["from hyperpower_runner import objective", begin, "def evaluate(job):"]
    lines += [f"    {line}" for line in body.splitlines()]
    path = folder / "script.py"
    path.write_text("\n".join([*lines, "objective.run(evaluate)", ""]))
    return path


def write_job(folder: Path, **fields: Any) -> Path:
    job = Job(**{"job_id": 12, "params": {"rate": 0.5}, "seed": 7, "epochs": 3, "threads": 2, **fields})
    path = folder / "jobs" / "000012" / "job.json"
    path.parent.mkdir(parents=True)
    write_json(path, job.to_json())
    return path


def run_python(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name != "HYPERPOWER_JOB"}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env={**known, **environment}, timeout=60)


def delivered(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert run.returncode == 0, run.stderr
    content = json.loads(run.stdout.splitlines()[-1])
    assert isinstance(content, dict)
    return content


def refusal(run: subprocess.CompletedProcess[str]) -> str:
    """The one line with which a run ended, which is no traceback."""
    assert run.returncode == 1
    assert run.stdout == ""
    (line,) = run.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_job_is_evaluated_and_its_metrics_are_the_last_line(script: Path) -> None:
    job = write_job(script.parent, predictions={"power_w": 80.5}, metric="loss")
    metrics = delivered(run_python(script, job))
    told = json.loads(metrics.pop("told"))
    assert metrics == {"error": 0.9, "epochs_done": 3}
    assert told == {"seed": 7, "threads": 2, "id": 12, "metric": "loss", "by": {"power_w": 80.5}}


def test_each_report_is_a_line_of_the_progress(script: Path) -> None:
    job = write_job(script.parent)
    delivered(run_python(script, job))
    lines = list(read_json_lines(job.parent / "progress.jsonl"))
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["loss"] for line in lines] == [1, 1 / 2, 1 / 3]
    assert [(line["error"], line["rate"]) for line in lines] == [(0.9, 0.5)] * 3
    times = [line["time_s"] for line in lines]
    assert times == sorted(times)
    assert [line["id"] for line in lines] == [12] * 3  # so that it is no other job's, should it get there


def test_the_job_may_come_by_the_environment(script: Path) -> None:
    job = write_job(script.parent)
    assert delivered(run_python(script, HYPERPOWER_JOB=str(job)))["epochs_done"] == 3


def test_a_folder_named_like_a_parameter_is_still_a_path(script: Path) -> None:
    folder = script.parent / "rate=0.1"
    folder.mkdir()
    assert delivered(run_python(script, write_job(folder)))["epochs_done"] == 3


def test_a_diverging_training_is_told_to_stop(script: Path) -> None:
    params = {"rate": 0.5, "losses": [1.0, 0.5, 1e9, 0.1, 0.1]}
    job = write_job(script.parent, params=params, stopping_rule={"loss_factor": 5.0})
    assert delivered(run_python(script, job))["epochs_done"] == 3


def test_a_training_that_stays_at_chance_level_is_told_to_stop(script: Path) -> None:
    params = {"rate": 0.5, "losses": [2.3] * 6}
    job = write_job(script.parent, params=params, stopping_rule={"classes": 10, "after_epochs": 4})
    assert delivered(run_python(script, job))["epochs_done"] == 4


def test_without_a_stopping_rule_nothing_is_stopped(script: Path) -> None:
    job = write_job(script.parent, params={"rate": 0.5, "losses": [1.0, 1e9, 1e9]}, stopping_rule=None)
    assert delivered(run_python(script, job))["epochs_done"] == 3


def test_a_point_that_cannot_be_written_ends_no_training_and_is_told_once(script: Path) -> None:
    job = write_job(script.parent)
    (job.parent / "progress.jsonl").mkdir()
    run = run_python(script, job)
    assert delivered(run)["epochs_done"] == 3
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"warning: {job.parent}/progress.jsonl: points are left out (")


def test_the_rule_sees_points_that_cannot_be_written(script: Path) -> None:
    params = {"rate": 0.5, "losses": [1.0, 0.5, 1e9, 0.1, 0.1]}
    job = write_job(script.parent, params=params, stopping_rule={"loss_factor": 5.0})
    (job.parent / "progress.jsonl").mkdir()
    assert delivered(run_python(script, job))["epochs_done"] == 3


def test_a_script_may_report_and_ask_as_often_as_it_likes(script: Path) -> None:
    losses = [1.0] * 20_000  # would take minutes if each question looked at all points
    job = write_job(script.parent, params={"rate": 0.5, "losses": losses}, stopping_rule={})
    assert delivered(run_python(script, job))["epochs_done"] == 20_000


def test_a_stop_file_stops_after_the_next_report(script: Path) -> None:
    job = write_job(script.parent)
    (job.parent / "stop").write_text("please")
    assert delivered(run_python(script, job))["epochs_done"] == 1


def test_a_loss_of_nan_is_strict_json_in_the_progress(tmp_path: Path) -> None:
    script = write_script(tmp_path, 'job.report(epoch=1, loss=float("nan"))\nreturn 0.5')
    job = write_job(tmp_path)
    run_python(script, job)
    (line,) = read_json_lines(job.parent / "progress.jsonl")
    assert line["loss"] == "NaN"
    assert line["error"] is None


def test_numbers_of_other_libraries_are_reported_and_delivered_as_plain_ones(tmp_path: Path) -> None:
    body = "job.report(epoch=np.int64(2), error=np.float32(0.5), loss=np.array([0.25]).mean())\n"
    body += 'return {"error": np.float32(0.5), "count": np.int64(3), "all": np.zeros(3)}'
    script = write_script(tmp_path, body, "import numpy as np")
    job = write_job(tmp_path)
    assert delivered(run_python(script, job)) == {"error": 0.5, "count": 3.0, "all": "array([0., 0., 0.])"}
    (line,) = read_json_lines(job.parent / "progress.jsonl")
    assert (line["epoch"], line["error"], line["loss"]) == (2, 0.5, 0.25)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("0.25", {"loss": 0.25}),
        ("7", {"loss": 7.0}),
        ("float('nan')", {"loss": "NaN"}),
        ("None", {"loss": None}),
        ("{'loss': 1, 'power_w': None}", {"loss": 1.0, "power_w": None}),
        ("{'loss': 1, 'note': 'hi', 'ok': True}", {"loss": 1.0, "note": "hi", "ok": True}),
        ("{'loss': 10 ** 400}", {"loss": str(10**400)}),
        ("{}", {}),
    ],
)  # fmt: skip
def test_what_evaluate_returns_is_one_json_object(tmp_path: Path, value: str, found: dict[str, Any]) -> None:
    script = write_script(tmp_path, f"return {value}")
    assert delivered(run_python(script, write_job(tmp_path, metric="loss"))) == found


def test_an_exception_of_the_script_is_its_own(tmp_path: Path) -> None:
    run = run_python(write_script(tmp_path, "return 1 / 0"), write_job(tmp_path))
    assert run.returncode == 1
    assert "ZeroDivisionError" in run.stderr
    assert run.stdout == ""


def test_parameters_can_be_tried_by_hand(script: Path) -> None:
    run = run_python(script, "rate=0.25", "losses=[1.0, 0.5]", "--seed", 3)
    metrics = delivered(run)
    assert metrics["epochs_done"] == 2
    assert json.loads(metrics["told"])["seed"] == 3
    reports = [json.loads(line) for line in run.stderr.splitlines()]
    assert [report["loss"] for report in reports] == [1.0, 0.5]
    assert reports[0]["rate"] == 0.25


def test_values_given_by_hand_have_their_json_type(tmp_path: Path) -> None:
    script = write_script(tmp_path, "return {'seen': repr(job.params)}")
    seen = delivered(run_python(script, "a=3", "b=0.5", "c=-1e-3", "d=sgd", "e=[1, 2]", "f=true", "g=x=y", "h="))[
        "seen"
    ]
    expected = {"a": 3, "b": 0.5, "c": -0.001, "d": "sgd", "e": [1, 2], "f": True, "g": "x=y", "h": ""}
    assert seen == repr(expected)


def test_epochs_are_given_by_hand_too(script: Path) -> None:
    assert delivered(run_python(script, "rate=1", "--epochs", 5))["epochs_done"] == 5


def test_missing_epochs_are_explained(tmp_path: Path) -> None:
    script = write_script(tmp_path, "return job.epochs")
    message = refusal(run_python(script, "rate=1"))
    assert '"epochs"' in message
    assert "config.json" in message
    assert "--epochs" in message


def test_inference_runs_its_step_for_so_long(script: Path) -> None:
    metrics = delivered(run_python(script, "rate=1", "--inference", "0.05"))
    assert metrics["steps"] >= 1
    assert metrics["duration_s"] >= 0.05
    assert metrics.keys() == {"steps", "duration_s", "framework"}


def test_the_steps_of_the_warm_up_come_before_the_window(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import time\nfrom hyperpower_runner import objective\n"
        "objective.run(lambda job: 1 / 0, lambda job: lambda: time.sleep(0.02))\n"
    )
    content = {
        "id": 1,
        "params": {},
        "seed": 0,
        "task": "profile",
        "seconds": 0.3,
        "window_s": 0.2,
        "warm_up_steps": 15,
    }
    (tmp_path / "job.json").write_text(json.dumps(content))
    metrics = delivered(run_python(script, str(tmp_path / "job.json")))
    assert 1 <= metrics["steps"] <= 11  # of 0.02 s in 0.2 s, although 15 came before
    assert metrics["duration_s"] == pytest.approx(0.2, abs=0.1)
    assert 0.02 <= metrics["duration_s"] / metrics["steps"] < 0.04


def test_a_script_without_an_inference_step_says_so(tmp_path: Path) -> None:
    script = write_script(tmp_path, "return 1")
    assert "no inference step" in refusal(run_python(script, "rate=1", "--inference", "0.01"))


def test_help_explains_the_script_and_its_arguments(script: Path) -> None:
    run = run_python(script, "--help")
    assert run.returncode == 0
    for part in ("Train a toy", "JOB_JSON", "NAME=VALUE", "--epochs", "--seed", "--inference", "HYPERPOWER_JOB"):
        assert part in run.stdout


def test_a_script_may_have_options_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(
        "import argparse\nfrom hyperpower_runner import objective\n"
        "parser = argparse.ArgumentParser(description='Mine.')\nparser.add_argument('--width', type=int)\n"
        "objective.run(lambda job: job.options.width, parser=parser)\n"
    )
    assert delivered(run_python(path, "--width", 4, write_job(tmp_path))) == {"error": 4.0}
    assert "Mine." in run_python(path, "--help").stdout


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "no job: give the path of a job.json"),
        (["missing.json"], "missing.json: there is no such file"),
        (["rate=1", "other"], "2 arguments: rate=1 other"),
        (["torn.json"], "cannot be read as JSON"),
        (["list.json"], "a JSON object was expected"),
        (["config.json"], "config.json: is not a job file"),
        (["newer.json"], "use a newer hyperpower_runner"),
    ],
)
def test_a_wrong_call_is_answered_in_one_sentence(
    script: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], part: str
) -> None:
    files = {"torn": '{"id": 1', "list": "[]", "config": '{"seed": 3}', "newer": '{"schema": 99}'}
    for name, text in files.items():
        (script.parent / f"{name}.json").write_text(text)
    monkeypatch.chdir(script.parent)
    assert part in refusal(run_python(script, *words))


def test_a_job_that_the_system_cannot_read_now_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, flags: int) -> int:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    monkeypatch.setattr(job_files, "regular", fail)
    with pytest.raises(ObjectiveError, match=r"job\.json: cannot be read .*Stale file handle"):
        read_job(tmp_path / "job.json")


def test_an_unknown_option_is_a_usage_error(script: Path) -> None:
    run = run_python(script, "rate=1", "--epoch-count", "3")
    assert run.returncode == 2
    assert "usage:" in run.stderr


# --- Spearmint's main(job_id, params)


def run_main(folder: Path, main: str, **fields: Any) -> subprocess.CompletedProcess[str]:
    path = folder / "spear.py"
    path.write_text(main)
    return run_python("-m", "hyperpower_runner.objective", path, write_job(folder, **fields))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("params['x'][0] * 2", {"loss": 3.0}),
        ("params['x'] * 2", {"loss": 3.0}),
        ("np.float64('nan')", {"loss": "NaN"}),
        ("None", {"loss": "NaN"}),
        ("{'loss': params['x'], 'other': 4}", {"loss": 1.5, "other": 4.0}),
        ("{'loss': np.nan}", {"loss": "NaN"}),
    ],
)
def test_main_may_return_a_number_nan_or_numbers_by_task(tmp_path: Path, value: str, found: dict[str, Any]) -> None:
    main = f"import numpy as np\ndef main(job_id, params):\n    print('busy', end='')\n    return {value}\n"
    assert delivered(run_main(tmp_path, main, params={"x": 1.5}, metric="loss")) == found


def test_main_is_given_arrays_by_name_and_lists_of_options(tmp_path: Path) -> None:
    main = (
        "import json\n"
        "def main(job_id, params):\n"
        "    seen = {n: [type(v).__name__, getattr(v, 'dtype', None) and v.dtype.kind, list(map(str, v))]\n"
        "            for n, v in params.items()}\n"
        "    open('seen.json', 'w').write(json.dumps([job_id, seen]))\n"
        "    return 0\n"
    ).replace("'seen.json'", repr(str(tmp_path / "seen.json")))
    params = {"x": 1.5, "n": 3, "w": [0.5, 2.0], "m": [1, 2], "k": "sgd", "ks": ["a", "b"], "flag": True, "e": 16}
    kinds = {name: {"type": "ENUM" if name in ("k", "ks", "flag", "e") else "FLOAT"} for name in params}
    (tmp_path / "config.json").write_text(json.dumps({"variables": kinds}))
    delivered(run_main(tmp_path, main, params=params))
    assert json.loads((tmp_path / "seen.json").read_text()) == [
        12,
        {
            "x": ["ndarray", "f", ["1.5"]],
            "n": ["ndarray", "i", ["3"]],
            "w": ["ndarray", "f", ["0.5", "2.0"]],
            "m": ["ndarray", "i", ["1", "2"]],
            "k": ["list", None, ["sgd"]],
            "ks": ["list", None, ["a", "b"]],
            "flag": ["list", None, ["True"]],
            "e": ["list", None, ["16"]],
        },
    ]


def test_main_may_import_what_lies_beside_it_and_use_dataclasses(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("NUMBER = 7\n")
    main = (
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\nimport pickle\nimport beside\n"
        "@dataclass\nclass Point:\n    x: float\n"
        "def main(job_id, params):\n    return pickle.loads(pickle.dumps(Point(beside.NUMBER))).x\n"
    )
    assert delivered(run_main(tmp_path, main)) == {"error": 7.0}


def test_the_branin_of_this_repository_has_its_known_minimum(tmp_path: Path) -> None:
    branin = Path(__file__).parents[1] / "objectives" / "branin.py"
    job = write_job(tmp_path, params={"x": math.pi, "y": 2.275})
    assert delivered(run_python("-m", "hyperpower_runner.objective", branin, job))["error"] == pytest.approx(
        0.397887, abs=1e-6
    )


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("missing.py", None, "there is no such file"),
        ("main.txt", "def main(): pass", "cannot be imported as Python"),
        ("empty.py", "", "has no function main(job_id, params)"),
        ("value.py", "main = 3", "has no function main(job_id, params)"),
    ],
)
def test_a_main_file_that_is_none_is_refused_in_one_sentence(
    tmp_path: Path, name: str, text: str | None, part: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    message = refusal(run_python("-m", "hyperpower_runner.objective", tmp_path / name, write_job(tmp_path)))
    assert part in message
    assert name in message


def test_a_missing_job_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "spear.py").write_text("def main(job_id, params): return 0")
    run = run_python("-m", "hyperpower_runner.objective", tmp_path / "spear.py", tmp_path / "job.json")
    assert "job.json: there is no such file" in refusal(run)


def test_the_wrong_number_of_arguments_shows_the_usage() -> None:
    run = run_python("-m", "hyperpower_runner.objective", "only.py")
    assert run.returncode == 1
    assert "usage: python -m hyperpower_runner.objective MAIN_FILE JOB_JSON" in run.stderr


def test_importing_the_script_side_loads_the_standard_library_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import hyperpower_runner.objective;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    loaded = set(run_python("-c", code).stdout.split())
    assert "hyperpower_runner" in loaded
    assert loaded - {"hyperpower_runner"} <= sys.stdlib_module_names
    assert not loaded & {"numpy", "torch", "pydantic", "argparse", "subprocess", "difflib"}

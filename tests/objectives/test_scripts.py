from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperpower_runner import config
from hyperpower_runner.job_files import JobFiles, read_json_lines, write_json

ROOT = Path(__file__).parents[2]
OBJECTIVES = ROOT / "objectives"
TEMPLATE = ROOT / "hyperpower_runner" / "templates" / "cnn"
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch, the extra `cnn`, is not installed")

PARAMS = {"conv1_features": 8, "conv2_features": 8, "fc_units": 32, "learning_rate": 0.02, "momentum": 0.9}
BY_HAND = [f"{name}={value}" for name, value in PARAMS.items()]


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=120)


def run_job(folder: Path, params: dict[str, Any], *command: str | Path, **fields: Any) -> dict[str, Any]:
    """Run a script on a job.json as the driver writes it; returns the metrics that it prints."""
    path = JobFiles(folder).job
    write_json(path, {"id": 1, "params": params, "seed": 3, "threads": 1, **fields})
    ended = run(*command, path, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    metrics: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return metrics


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("mnist_cnn.py", ["conv1_features, conv2_features", "20 to 80", "--sample", "--images", "--data", "by hand"]),
        (
            "cifar10_cnn.py",
            ["conv{1,2,3}_kernel", "pool{1,2,3}_kernel", "1 to 3", "--images", "--batch-size", "by hand"],
        ),
        ("make_mnist_sample.py", ["mnist_sample.npz"]),
    ],
)
def test_help_explains_the_script_without_waiting_for_torch(tmp_path: Path, script: str, words: list[str]) -> None:
    (tmp_path / "torch.py").write_text("raise AssertionError('--help imports torch')")
    ended = run("env", f"PYTHONPATH={tmp_path}", sys.executable, OBJECTIVES / script, "--help")
    assert ended.returncode == 0, ended.stderr
    assert [word for word in words if word not in ended.stdout] == []


def branin(x: float, y: float) -> float:
    """As published (Dixon and Szegoe, 1978), in its usual constants."""
    a, b, c, r, s, t = 1, 5.1 / (4 * math.pi**2), 5 / math.pi, 6, 10, 1 / (8 * math.pi)
    return a * (y - b * x**2 + c * x - r) ** 2 + s * (1 - t) * math.cos(x) + s


MINIMA = [(-math.pi, 12.275), (math.pi, 2.275), (9.42478, 2.475)]
POINTS = [*MINIMA, *map(tuple, np.random.default_rng(0).uniform((-5, 0), (10, 15), (3, 2)).tolist()), (1e-7, 0)]


@pytest.mark.parametrize(("x", "y"), POINTS)
def test_branin_in_python_and_in_bash(tmp_path: Path, x: float, y: float) -> None:
    params = {"x": x, "y": y}
    spearmint = (sys.executable, "-m", "hyperpower_runner.objective", OBJECTIVES / "branin.py")
    in_python = run_job(tmp_path, params, *spearmint, metric="branin")
    in_bash = run_job(tmp_path, params, "bash", OBJECTIVES / "branin.sh", metric="branin")
    assert in_python == {"branin": pytest.approx(branin(x, y), rel=1e-12)}
    assert in_bash == {"branin": pytest.approx(branin(x, y), rel=1e-9)}
    if (x, y) in MINIMA:
        assert in_bash["branin"] == pytest.approx(0.397887, abs=1e-6)


def test_branin_in_bash_says_what_is_wrong(tmp_path: Path) -> None:
    write_json(tmp_path / "job.json", {"id": 1, "params": {"x": 1.0, "z": 1.0}})
    ended = run("bash", OBJECTIVES / "branin.sh", tmp_path / "job.json")
    assert ended.returncode == 1
    assert ended.stderr == f"error: {tmp_path}/job.json: one x and one y were expected\n"
    assert run("bash", OBJECTIVES / "branin.sh", "--help").returncode == 0
    assert run("bash", OBJECTIVES / "branin.sh").returncode == 2


@needs_torch
def test_mnist_by_hand_with_the_embedded_sample() -> None:
    script = OBJECTIVES / "mnist_cnn.py"
    ended = run(sys.executable, script, "--sample", "--images", "400", "--epochs", "2", *BY_HAND)
    assert ended.returncode == 0, ended.stderr
    metrics = json.loads(ended.stdout.splitlines()[-1])
    curve = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [point["epoch"] for point in curve] == [1, 2]
    assert metrics["error"] == curve[-1]["error"]
    assert metrics["epochs_trained"] == 2


@needs_torch
def test_a_wrong_param_or_option_is_one_sentence() -> None:
    script = OBJECTIVES / "mnist_cnn.py"
    ended = run(sys.executable, script, "--sample", "--epochs", "1", "fc_unit=300", *BY_HAND)
    assert ended.returncode == 1
    assert ended.stderr == ('error: a network of 2 convolution blocks has no param fc_unit; did you mean "fc_units"?\n')
    ended = run(sys.executable, script, "--images", "0", *BY_HAND)
    assert ended.returncode == 2
    assert "--images: a whole number of at least 1 was expected, found '0'" in ended.stderr


@needs_torch
@pytest.mark.parametrize("script", ["mnist_cnn.py", "cifar10_cnn.py"])
def test_inference_needs_no_images(script: str) -> None:
    arguments = ["--data", "/nowhere", "--batch-size", "4", "--inference", "0.1", *BY_HAND]
    ended = run(sys.executable, OBJECTIVES / script, *arguments)
    assert ended.returncode == 0, ended.stderr
    metrics = json.loads(ended.stdout.splitlines()[-1])
    assert metrics["steps"] >= 1
    assert metrics["duration_s"] >= 0.1


@needs_torch
@pytest.mark.slow
def test_template_runs_from_a_copy_of_its_folder(tmp_path: Path) -> None:
    shutil.copytree(TEMPLATE, tmp_path, dirs_exist_ok=True)
    content = json.loads((tmp_path / "config.json").read_text())
    config.parse(content)
    params = {name: variable["min"] for name, variable in content["variables"].items()}
    params |= {"learning_rate": 0.02, "momentum": 0.9}
    twice = [run_job(tmp_path, params, sys.executable, "train.py", epochs=1) for _ in range(2)]
    assert twice[0] == twice[1]
    assert twice[0]["error"] < 0.3
    assert twice[0]["parameters"] == (20 * 25 + 20) + (20 * 500 + 20) + (320 * 200 + 200) + 2010
    assert [point["epoch"] for point in read_json_lines(JobFiles(tmp_path).progress)] == [1, 1]
    assert run_job(tmp_path, params, sys.executable, "train.py", "--inference", "0.1")["steps"] >= 1


def test_template_is_small_enough_to_read() -> None:
    assert len((TEMPLATE / "train.py").read_text().splitlines()) <= 100
    assert {path.name for path in TEMPLATE.iterdir()} >= {"train.py", "config.json", "README.md", "mnist_sample.npz"}

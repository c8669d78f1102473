"""What `clean` deletes, what it leaves alone, and what becomes of one that is interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from searching import drive, make_experiment, run_command

from hyperpower_runner.cleaning import delete, jobs_left, others_left
from hyperpower_runner.errors import ExperimentError
from hyperpower_runner.experiment import Experiment

OWN = (
    "jobs/000001/job.json",
    "jobs/000001/checkpoint.pt",  # the script's, in the folder of its job
    "jobs/000002/.job.json.0123456789ab",
    "jobs/000003/attempt-1.json",
    "jobs/000003/progress-1.jsonl",
    "jobs/1234567/job.json",
    "rejected.jsonl",
    "stop",
    "state/finished.jsonl",
    "state/.finished.jsonl.new",
    "state/.driver.json.0123456789ab",
    "state/measuring/000001/job.json",
    "state/profiling/000001-2/output.log",
)
OTHERS = (
    "config.json",
    "jobs/nightly/precious",
    "jobs/000007/precious",
    "jobs/000008",
    "jobs/0000001/job.json",
    "state/terraform/precious",
    "state/profiling/precious/a",
    "hardware/profile.jsonl",
)


def files_in(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def make_files(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")


def clean(experiment: Experiment) -> set[str]:
    gone = delete(experiment, jobs_left(experiment), others_left(experiment))
    assert len(gone) == len(set(gone))
    return {str(path.relative_to(experiment.root)) for path in gone}


def test_what_others_put_there_stays(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path)
    make_files(tmp_path, *OWN, *OTHERS)
    (tmp_path / "jobs/000004").mkdir()
    assert clean(experiment) == {
        *("jobs/000001", "jobs/000002", "jobs/000003", "jobs/000004", "jobs/1234567", "rejected.jsonl", "stop"),
        *("state/finished.jsonl", "state/.finished.jsonl.new", "state/.driver.json.0123456789ab"),
        *("state/measuring", "state/profiling/000001-2"),
    }
    assert files_in(tmp_path) == set(OTHERS)
    assert not (tmp_path / "jobs/000004").exists()
    assert clean(experiment) == set()


def test_what_is_only_called_so_stays(tmp_path: Path) -> None:
    make_files(tmp_path, "rejected.jsonl/precious", "state/finished.jsonl/precious", "state/measuring", "elsewhere")
    (tmp_path / "stop").symlink_to("elsewhere")
    assert clean(Experiment(tmp_path)) == set()
    assert len(files_in(tmp_path)) == 5


def test_of_links_what_they_lead_to_stays_but_jobs_on_another_disk_go(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path / "search")
    make_files(tmp_path / "scratch", "000001/job.json", "precious")
    make_files(tmp_path / "moved", "job.json")
    experiment.jobs.symlink_to(tmp_path / "scratch")
    (experiment.jobs / "000002").symlink_to(tmp_path / "moved")
    assert clean(experiment) == {"jobs/000001", "jobs/000002"}
    assert experiment.jobs.is_symlink()
    assert files_in(tmp_path / "scratch") == {"precious"}
    assert files_in(tmp_path / "moved") == {"job.json"}


@pytest.fixture
def finished(tmp_path: Path) -> Experiment:
    experiment = make_experiment(tmp_path)
    drive(experiment)
    (experiment.jobs / "000002" / "checkpoint.pt").touch()
    return experiment


@pytest.mark.parametrize("deletions", range(5))
def test_jobs_of_which_a_part_was_deleted_are_no_search_to_go_on_with(
    finished: Experiment, monkeypatch: pytest.MonkeyPatch, deletions: int
) -> None:
    rmtree, left = shutil.rmtree, [deletions]

    def delete_and_be_killed(path: Path, **options: Any) -> None:
        if not left[0]:
            (path / "job.json").unlink(missing_ok=True)  # some of it
            raise KeyboardInterrupt
        left[0] -= 1
        rmtree(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", delete_and_be_killed)
        with pytest.raises(KeyboardInterrupt):
            clean(finished)
    with pytest.raises(ExperimentError, match=r"are but a part.*finish it with: hyperpower-runner clean "):
        finished.read_history()
    clean(finished)
    assert not finished.jobs.exists()
    assert not finished.read_history()


def test_a_search_is_refused_until_an_interrupted_clean_is_finished(finished: Experiment) -> None:
    root = finished.root
    finished.deleted.mkdir()
    refused = run_command("run", root)
    assert (refused.returncode, "finish it with: hyperpower-runner clean" in refused.stderr) == (1, True)
    (root / "config.json").rename(root / "kept.json")
    completed = run_command("clean", root, "--yes")
    assert (completed.returncode, completed.stderr) == (0, "")
    assert completed.stdout.splitlines() == [str(root / "state/finished.jsonl"), str(root / "jobs")]
    (root / "kept.json").rename(root / "config.json")
    assert "is used up" in run_command("run", root).stderr


@pytest.mark.parametrize("name", ["rejected.jsonl", "stop", "state/finished.jsonl", "jobs/000001/job.json"])
def test_nothing_is_deleted_without_asking(tmp_path: Path, name: str) -> None:
    make_experiment(tmp_path)
    make_files(tmp_path, name)
    what = "1 job" if name.startswith("jobs") else name
    asked = run_command("clean", tmp_path)
    assert f"Delete {what} of {tmp_path} for good?" in asked.stderr
    assert (asked.returncode, (tmp_path / name).exists()) == (1, True)


def test_a_job_that_came_back_after_an_interrupted_clean_is_deleted_too(finished: Experiment) -> None:
    moved = finished.deleted / "000001"
    moved.mkdir(parents=True)
    (moved / "result.json").touch()
    completed = run_command("clean", finished.root, "--yes")
    assert completed.returncode == 0, completed.stderr
    assert not finished.jobs.exists()


def test_where_nothing_is_left_nothing_is_asked_or_made(tmp_path: Path) -> None:
    make_experiment(tmp_path)
    done = run_command("clean", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"{tmp_path}: there is nothing to delete.\n")
    assert files_in(tmp_path) == {"config.json", "train.py", "driver.lock"}
    assert not (tmp_path / "state").exists()


def test_a_directory_of_another_program_is_refused(tmp_path: Path) -> None:
    make_files(tmp_path, "jobs/nightly/precious", "state/precious", "stop")
    refused = run_command("clean", tmp_path, "--yes")
    assert refused.stderr == (
        f"error: {tmp_path}: is not an experiment directory, it holds neither a config.json nor jobs\n"
    )
    assert files_in(tmp_path) == {"jobs/nightly/precious", "state/precious", "stop"}

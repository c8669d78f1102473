"""The command line as users meet it: what is printed where, and the exit codes."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from searching import CONFIG, all_params, command_line, make_experiment, run_command, write_models

from hyperpower_runner import __version__, cli, methods, processes
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.history import History
from hyperpower_runner.job_files import write_json
from hyperpower_runner.trial import Job, Recommendation

COMMANDS = ("init", "validate", "run", "status", "best", "stop", "clean", "schema")


def test_help_lists_every_command_with_an_example() -> None:
    answer = run_command("--help")
    assert answer.returncode == 0
    assert all(f" {command} " in answer.stdout for command in COMMANDS)
    for command in COMMANDS[:-1]:
        assert f"Example: hyperpower-runner {command}" in run_command(command, "--help").stdout


def test_the_version_is_printed() -> None:
    assert run_command("--version").stdout.strip() == __version__


@pytest.mark.parametrize(
    "words", [["rnu", "."], ["run"], ["run", ".", "--evaluations", "0"], ["run", ".", "--hours", "-1"]]
)
def test_wrong_usage_exits_with_2(words: list[str]) -> None:
    answer = run_command(*words)
    assert answer.returncode == 2
    assert "Usage" in answer.stderr
    assert answer.stdout == ""


@pytest.mark.parametrize("template", ["python", "shell"])
def test_a_new_experiment_runs_as_it_is(tmp_path: Path, template: str) -> None:
    root = tmp_path / "my search"  # names with spaces are names
    made = run_command("init", root, "--template", template)
    assert made.returncode == 0
    assert str(root / "config.json") in made.stdout.splitlines()
    assert run_command("validate", root).returncode == 0
    ran = run_command("run", root, "--evaluations", "3")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(run_command("status", root, "--json").stdout)["counts"]["failed"] == 0
    again = run_command("init", root)
    assert again.returncode == 1
    assert "is not an empty directory" in again.stderr


def test_run_prints_its_result_on_stdout_and_its_progress_on_stderr(tmp_path: Path) -> None:
    make_experiment(tmp_path, constraints={"error": 0.99})
    answer = run_command("run", tmp_path)
    assert answer.returncode == 0
    assert answer.stdout.splitlines()[0].startswith("jobs        4 completed")
    assert "violations  0 predicted" in answer.stdout
    lines = answer.stderr.splitlines()
    assert sum(" started: x=" in line for line in lines) == 4
    assert sum(" completed, error " in line for line in lines) == 4
    assert sum("best so far" in line for line in lines) >= 1
    assert lines[-1] == "The budget of 4 evaluations is used up."
    assert "\x1b" not in answer.stdout + answer.stderr


def test_json_is_one_object_on_stdout(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, constraints={"error": 0.99})
    ran = json.loads(run_command("run", tmp_path, "--json").stdout)
    status = json.loads(run_command("status", tmp_path, "--json").stdout)
    assert status.pop("driver") is None
    assert ran["counts"] == status["counts"]
    assert status["counts"] == {
        "pending": 0, "running": 0, "completed": 4, "terminated": 0, "failed": 0, "timed-out": 0, "lost": 0,
        "cancelled": 0, "rejected": 0,
    }  # fmt: skip
    assert status["violations"] == {"predicted": 0, "measured": 0}
    assert status["budget"] == {"evaluations": 4, "hours": None}
    assert status["elapsed_s"] > 0
    best = json.loads(run_command("best", tmp_path, "--json").stdout)
    lowest = min(all_params(experiment).items(), key=lambda item: item[1]["x"])
    assert (best["job_id"], best["params"]) == lowest
    assert best["metrics"]["error"] == lowest[1]["x"]
    assert best.pop("preferred", "absent") != "absent"
    assert (best.pop("platform"), best.pop("simulated")) == ({}, False)
    assert status["best"] == best


def test_status_and_best_of_a_search_that_has_not_begun(tmp_path: Path) -> None:
    make_experiment(tmp_path)
    status = json.loads(run_command("status", tmp_path, "--json").stdout)
    assert status["best"] is None
    assert sum(status["counts"].values()) == 0
    best = run_command("best", tmp_path)
    assert best.returncode == 1
    assert "no best yet" in best.stderr
    assert not (tmp_path / "jobs").exists()


def test_without_a_feasible_job_best_names_the_constraint(tmp_path: Path) -> None:
    make_experiment(tmp_path, constraints={"power_w": 10})  # never measured: never feasible
    run_command("run", tmp_path)
    best = run_command("best", tmp_path)
    assert best.returncode == 1
    assert "none of 4 completed jobs is known to meet power_w <= 10" in best.stderr


def test_a_resumed_search_calls_best_only_what_beats_the_jobs_before(tmp_path: Path) -> None:
    make_experiment(tmp_path)
    run_command("run", tmp_path, "--evaluations", "3")
    lowest = min(point["x"] for point in all_params(Experiment(tmp_path)).values())
    shown = run_command("run", tmp_path, "--evaluations", "12").stderr
    assert sum(" completed" in line for line in shown.splitlines()) == 9
    values = [float(line.split("error ")[1].split()[0]) for line in shown.splitlines() if "best so far" in line]
    assert all(value < lowest for value in values)
    assert len(values) < 9


def test_options_of_run_replace_the_budget(tmp_path: Path) -> None:
    make_experiment(tmp_path)
    run_command("run", tmp_path, "--evaluations", "2")
    assert json.loads(run_command("status", tmp_path, "--json").stdout)["counts"]["completed"] == 2
    run_command("run", tmp_path, "--evaluations", "6", "--max-concurrent", "3")
    assert json.loads(run_command("status", tmp_path, "--json").stdout)["counts"]["completed"] == 6
    assert "hours is used up" in run_command("run", tmp_path, "--evaluations", "9", "--hours", "0").stderr


def test_failures_in_a_row_end_with_the_tail_of_the_last_log(tmp_path: Path) -> None:
    make_experiment(tmp_path, "raise MemoryError('the device is full')", budget={"evaluations": 50})
    answer = run_command("run", tmp_path)
    assert answer.returncode == 1
    assert "MemoryError: the device is full" in answer.stderr
    assert "jobs/000005/output.log" in answer.stderr
    assert answer.stderr.splitlines()[-1].startswith(
        "error: 5 jobs in a row failed. The last failure is job 5: it ended"
    )


def test_clean_asks_and_deletes_only_what_the_search_left(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    write_models(experiment, power_w={"form": "paper", "weights": {"n": 1.0}})
    run_command("run", tmp_path)
    refused = run_command("clean", tmp_path)  # no terminal to answer on
    assert refused.returncode == 1
    assert (tmp_path / "jobs").exists()
    assert run_command("clean", tmp_path, "--yes").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "driver.lock") == [
        "config.json",
        "hardware",
        "train.py",
    ]


def broken(**changes: Any) -> str:
    return json.dumps({**CONFIG, **changes})


BROKEN = {
    "a missing brace": ("{", "line 1, column 2"),
    "an empty file": ("", "the file is empty"),
    "a misspelt key": (broken(budgets={}), 'unknown key "budgets"; did you mean "budget"?'),
    "a missing script": (broken(objective={"command": ["python", "trian.py"]}), 'did you mean "train.py"?'),
    "a missing script of its own": (broken(objective={"command": ["./go.sh"]}), 'there is no script "./go.sh"'),
    "a script that is not executable": (broken(objective={"command": ["./train.py"]}), "run chmod +x on it"),
    "a program that is not there": (broken(objective={"command": ["pyhton", "train.py"]}), 'no program "pyhton"'),
    "a missing main-file": (broken(objective=None, **{"main-file": "main.py"}), 'there is no script "main.py"'),
    "constraints that exclude everything": (broken(**{"known-constraints": ["x > 1"]}), '"x > 1" holds at none'),
    "constraints that exclude each other": (
        broken(**{"known-constraints": ["x < 0.4", "x > 0.6"]}),
        "meets all of them",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_config_is_one_sentence_and_nothing_runs(tmp_path: Path, kind: str) -> None:
    text, expected = BROKEN[kind]
    make_experiment(tmp_path)
    (tmp_path / "config.json").write_text(text)
    for command in ("validate", "run"):
        answer = run_command(command, tmp_path)
        assert answer.returncode == 1
        assert len(answer.stderr.splitlines()) == 1
        assert expected in answer.stderr
        assert str(tmp_path / "config.json") in answer.stderr
        assert answer.stdout == ""
    assert not (tmp_path / "jobs").exists()


def test_a_directory_without_a_config_says_what_to_do(tmp_path: Path) -> None:
    for root, expected in ((tmp_path, "holds no config.json"), (tmp_path / "none", "is not a directory")):
        answer = run_command("run", root)
        assert answer.returncode == 1
        assert expected in answer.stderr
        assert "hyperpower-runner init" in answer.stderr


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("hardware/models.json", "{", "cannot be read as JSON"),
        ("hardware/models.json", '{"models": {"power_w": {"form": "deep", "weights": {}}}}', "form is 'deep'"),
        ("hardware/models.json", '{"schema": 99, "models": {}}', "schema number is 99"),
        ("jobs/000001/job.json", "[]", "a JSON object was expected"),
        ("jobs/000001/job.json", "{}", "is not a job file"),
        ("jobs/000001/result.json", '{"status": "done"}', "is not a result"),
        ("jobs/000001/result.json", '{"schema": 99}', "use a newer"),
    ],
)
def test_a_broken_file_of_the_directory_is_one_sentence(tmp_path: Path, name: str, content: str, expected: str) -> None:
    make_experiment(tmp_path)
    run_command("run", tmp_path, "--evaluations", "1")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    answer = run_command("run", tmp_path)
    assert answer.returncode == 1
    assert expected in answer.stderr
    assert str(tmp_path / name) in answer.stderr
    assert "Traceback" not in answer.stderr


def test_budgets_that_the_models_cannot_meet_are_named(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, constraints={"power_w": 0.5})
    write_models(experiment, power_w={"form": "paper", "weights": {"n": 1.0}})
    answer = run_command("run", tmp_path)
    assert answer.returncode == 1
    assert "constraints.power_w: at most 0.5 is allowed" in answer.stderr
    assert "predict 1 or more" in answer.stderr


def test_the_schema_names_the_keys_of_config_json() -> None:
    properties = json.loads(run_command("schema").stdout)["properties"]
    assert {"variables", "known-constraints", "max-concurrent", "early-termination"} <= set(properties)


def test_the_live_view_on_a_terminal_shows_jobs_best_budget_and_epochs(tmp_path: Path) -> None:
    script = """
        import time
        from hyperpower_runner import objective
        def evaluate(job):
            for epoch in range(1, job.epochs + 1):
                job.report(epoch=epoch, error=0.125, loss=0.5)
                time.sleep(0.8)
            return {"error": 0.125}
        objective.run(evaluate)
    """
    objective = {"command": ["python", "train.py"], "epochs": 4}
    make_experiment(tmp_path, script, objective=objective, budget={"evaluations": 2, "hours": 3})
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen(command_line("run", tmp_path), stdout=slave, stderr=slave, stdin=slave, env=environment)
    os.close(slave)
    shown = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # the terminal is gone with the process
            break
        if not chunk:
            break
        shown += chunk
    os.close(master)
    assert process.wait(60) == 0
    text = shown.decode()
    for expected in (
        "1 running",
        "1 completed",
        "1 of 2 evaluations started",
        "left of 3 h",
        "3/4",
        "job 1: error 0.125",
    ):
        assert expected in text, expected


def test_importing_the_command_line_is_light() -> None:
    """--help must not pay for numpy, pydantic or torch."""
    code = "import sys, hyperpower_runner.cli; print([m for m in ('numpy', 'pydantic', 'torch') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_driver_that_waits_can_be_seen_by_status(tmp_path: Path) -> None:
    make_experiment(tmp_path, "open('begun', 'w'); import time; time.sleep(600)")
    process = subprocess.Popen(command_line("run", tmp_path), stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    status = json.loads(run_command("status", tmp_path, "--json").stdout)
    assert status["driver"]["pid"] == process.pid
    assert status["counts"]["running"] == 1
    busy = run_command("clean", tmp_path, "--yes")
    assert busy.returncode == 1
    assert f"process {process.pid}" in busy.stderr
    process.kill()
    process.communicate()
    assert "jobs [1] go on" in run_command("stop", tmp_path).stderr
    orphaned = run_command("clean", tmp_path, "--yes")
    assert "jobs [1] are still running" in orphaned.stderr
    (tmp_path / "jobs" / "000001" / "stop").write_text("end of the test\n")
    while json.loads(run_command("status", tmp_path, "--json").stdout)["counts"]["cancelled"] == 0:
        time.sleep(0.2)


def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    make_experiment(tmp_path)
    (tmp_path / "jobs").write_text("a file where the folder should be")
    answer = run_command("run", tmp_path)
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    assert str(tmp_path / "jobs") in answer.stderr


def test_a_search_can_be_stopped_looked_at_and_cleaned_whatever_its_config_says(tmp_path: Path) -> None:
    make_experiment(tmp_path)
    run_command("run", tmp_path)
    (tmp_path / "train.py").unlink()  # as on a machine that has only the results
    assert run_command("status", tmp_path).returncode == 0
    assert run_command("best", tmp_path).returncode == 0
    (tmp_path / "config.json").write_text("{")
    assert "no driver is running" in run_command("stop", tmp_path).stderr
    assert run_command("clean", tmp_path, "--yes").returncode == 0
    assert not (tmp_path / "jobs").exists()
    nothing = run_command("clean", tmp_path / "nowhere", "--yes")
    assert nothing.returncode == 1
    assert "is not an experiment directory" in nothing.stderr


def test_the_log_shown_is_that_of_the_last_failure(tmp_path: Path) -> None:
    script = """
        import json, sys, time
        job = json.load(open(sys.argv[-1]))
        if job["id"] == 1:
            time.sleep(2); print("I AM FINE"); print('{"error": 1}')
        else:
            sys.exit("I am broken")
    """
    make_experiment(tmp_path, script, **{"max-concurrent": 2, "max-consecutive-failures": 2}, budget={"evaluations": 9})
    answer = run_command("run", tmp_path)
    assert "I am broken" in answer.stderr
    assert "I AM FINE" not in answer.stderr


@pytest.mark.parametrize("hours", ["inf", "1e300"])
def test_hours_without_end_are_refused(tmp_path: Path, hours: str) -> None:
    make_experiment(tmp_path)
    assert run_command("run", tmp_path, "--hours", hours).returncode == 2


def test_spaces_too_large_to_count_and_names_no_terminal_has_are_shown(tmp_path: Path) -> None:
    variables = {"n": {"type": "INT", "min": 0, "max": 2147483647, "size": 500}}
    make_experiment(tmp_path, 'print(\'{"error": 1, "\\\\ud800": 2}\')', variables=variables, budget={"evaluations": 1})
    assert json.loads(run_command("validate", tmp_path, "--json").stdout)["points"] is None
    run_command("run", tmp_path)
    best = run_command("best", tmp_path)
    assert best.returncode == 0
    assert "Traceback" not in best.stderr
    assert "\\ud800" in best.stdout


def test_a_link_that_leads_to_itself_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    answer = run_command("run", tmp_path / "loop")
    assert answer.returncode == 1
    assert len(answer.stderr.splitlines()) == 1


def test_a_search_without_one_completed_job_ends_with_the_last_log(tmp_path: Path) -> None:
    make_experiment(tmp_path, "import sys; sys.exit('no data')", budget={"evaluations": 2})
    answer = run_command("run", tmp_path)
    assert answer.returncode == 1
    assert "no data" in answer.stderr
    assert "The budget of 2 evaluations is used up. The last failure is job 2" in answer.stderr


def test_what_to_do_after_a_failure_fits_what_failed(tmp_path: Path) -> None:
    script = "import os, signal, time; os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)"
    lost = make_experiment(tmp_path / "lost", script, budget={"evaluations": 1}, **{"max-retries": 0})
    slow = make_experiment(
        tmp_path / "slow", "import time; time.sleep(60)", budget={"evaluations": 1}, **{"timeout-s": 0.3}
    )
    broken = make_experiment(tmp_path / "broken", "import sys; sys.exit('no data')", budget={"evaluations": 1})
    advice = {lost: "find out what ended its worker", slow: "make the script faster", broken: "mend the script"}
    for experiment, expected in advice.items():
        last = run_command("run", experiment.root).stderr.splitlines()[-1]
        assert [other for other in advice.values() if other in last] == [expected], last


def test_all_that_a_search_writes_its_group_may_write_too(tmp_path: Path) -> None:
    """Where the umask says so: else nobody but who began a search could resume it."""
    script = """
        from hyperpower_runner import objective
        def evaluate(job):
            job.report(epoch=1, error=0.5)
            return {"error": 0.5}
        if __name__ == "__main__":
            objective.run(evaluate)
    """
    changes = {"objective": {"command": ["python", "train.py"]}, "budget": {"evaluations": 1}}
    experiment = make_experiment(tmp_path, script, constraints={"power_w": 2}, **changes)
    write_models(experiment, power_w={"form": "paper", "weights": {"n": 1.0}})
    before = os.umask(0o002)
    try:
        assert run_command("run", tmp_path).returncode == 0
    finally:
        os.umask(before)
    files = experiment.job_files(1)
    written = [experiment.rejected_file, experiment.lock_file]
    written += [path for folder in (experiment.jobs, experiment.state) for path in [folder, *folder.rglob("*")]]
    assert {files.output, files.progress, files.result} < set(written)
    assert [path for path in written if not path.stat().st_mode & stat.S_IWGRP] == []


def test_a_search_goes_on_without_its_terminal(tmp_path: Path) -> None:
    script = """
        import os, time
        while not os.path.exists("gone"):
            time.sleep(0.01)
        print('{"error": 0.5}')
    """
    make_experiment(tmp_path, script, budget={"evaluations": 2})
    ours, theirs = pty.openpty()
    with (tmp_path / "stdout").open("w") as stdout:
        search = subprocess.Popen(
            command_line("run", tmp_path),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=theirs,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm"},
        )
    os.close(theirs)
    shown = b""
    while b"running" not in shown:
        shown += os.read(ours, 65536)
    os.close(ours)
    search.send_signal(signal.SIGHUP)  # as whoever leads the session is told
    (tmp_path / "gone").touch()
    assert search.wait(60) == 0
    assert (tmp_path / "stdout").read_text().startswith("jobs        2 completed")


def test_status_says_when_jobs_on_other_hosts_gave_their_last_sign_of_life(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    for job_id, host, seen_s_ago in ((1, "elsewhere", 7200), (2, "elsewhere", 10), (3, None, 7200)):
        experiment.write_job(Job(job_id, {"x": 0.5, "n": job_id}, seed=0))
        files, worker = experiment.job_files(job_id), processes.own_identity()
        write_json(files.attempt(1), {**worker, "host": host or worker["host"]})
        files.heartbeat.touch()
        for path in (files.heartbeat, files.attempt(1)):
            os.utime(path, times=(0, time.time() - seen_s_ago))
    content = json.loads(run_command("status", tmp_path, "--json").stdout)
    assert content["counts"]["running"] == 3
    assert content["silent_s"].keys() == {"1", "2"}
    assert 7200 <= content["silent_s"]["1"] < 7200 + 600
    text = run_command("status", tmp_path).stdout
    assert "elsewhere   2 jobs cannot be seen from here; the longest silent is job 1, last sign of life 2 h 0" in text
    shutil.rmtree(experiment.job_files(2).folder)
    text = run_command("status", tmp_path).stdout
    assert "elsewhere   job 1 cannot be seen from here; its last sign of life was 2 h 0" in text
    shutil.rmtree(experiment.job_files(1).folder)
    assert "elsewhere" not in run_command("status", tmp_path).stdout


def test_a_metric_that_no_job_reports_is_warned_of_once_and_what_exceeds_a_bound_is_said(tmp_path: Path) -> None:
    make_experiment(tmp_path, constraints={"eror": 1, "error": 0.0})
    shown = run_command("run", tmp_path).stderr
    assert shown.count('reported no "eror"') == 1
    assert 'did you mean "error"?' in shown
    assert shown.count("exceeds error 0.") == 4


def test_validate_refuses_what_run_would(tmp_path: Path) -> None:
    make_experiment(tmp_path)
    run_command("run", tmp_path)
    make_experiment(tmp_path, optimize="loss")
    assert "optimize is" in run_command("validate", tmp_path).stderr


def shown_best(root: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What `best` prints, run in this process."""
    cli.app(["best", str(root), *options], standalone_mode=False)
    return capsys.readouterr().out


def test_best_shows_what_the_surrogate_prefers_beside_the_best_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = make_experiment(tmp_path, constraints={"power_w": 40})
    write_models(experiment, power_w={"form": "paper", "weights": {"n": 1.0}})
    run_command("run", tmp_path)
    asked: list[History] = []

    def recommend(config: object, models: Any, history: History, rng: object) -> Recommendation:
        assert set(models.models) == {"power_w"}
        asked.append(history)
        return Recommendation({"x": 0.0, "n": 4}, 0.01, -0.02, 0.04, {"power_w": 4.0})

    monkeypatch.setattr(methods, "recommend", recommend, raising=False)
    content = json.loads(shown_best(tmp_path, capsys, "--json"))
    assert content["params"] == all_params(experiment)[content["job_id"]]
    assert content["metrics"]["error"] == content["params"]["x"]
    assert content["predictions"] == {"power_w": content["params"]["n"]}
    assert content["preferred"] == {
        "params": {"x": 0.0, "n": 4}, "expected": 0.01, "low": -0.02, "high": 0.04, "predictions": {"power_w": 4.0},
        "job_id": None,
        "converged": True,
    }  # fmt: skip
    assert [trial.job for trial in asked[0]] == [trial.job for trial in experiment.read_history()]
    best, preferred = shown_best(tmp_path, capsys).split("\n\n")
    assert best.splitlines()[0] == f"job {content['job_id']}"
    assert preferred.startswith("The posterior mean of the surrogate")
    assert "a point not tried yet" in preferred
    assert "0.01 expected, -0.02 to 0.04 with a probability of 90 %" in preferred


def test_where_the_surrogate_prefers_nothing_best_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_experiment(tmp_path)
    run_command("run", tmp_path)
    monkeypatch.setattr(methods, "recommend", lambda *arguments: None, raising=False)
    assert json.loads(shown_best(tmp_path, capsys, "--json"))["preferred"] is None
    assert "prefers no point" in shown_best(tmp_path, capsys)


def test_status_asks_no_surrogate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_experiment(tmp_path)
    run_command("run", tmp_path)
    monkeypatch.setattr(methods, "recommend", lambda *arguments: pytest.fail("status is to be fast"), raising=False)
    cli.app(["status", str(tmp_path), "--json"], standalone_mode=False)
    content = json.loads(capsys.readouterr().out)
    assert "preferred" not in content["best"]
    assert content["surrogate"] == {"fitted": 0, "not_converged": 0}

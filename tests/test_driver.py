"""The driver: budgets, slots, failures, kills and resumes, with real workers and real scripts."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from searching import (
    REPORT_X,
    Recorder,
    all_params,
    command_line,
    drive,
    make_experiment,
    results,
    run_command,
    write_models,
)

from hyperpower_runner import driver as driver_module
from hyperpower_runner import processes
from hyperpower_runner.driver import Why
from hyperpower_runner.errors import ConfigError, InfeasibleError, LockedError
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.history import History
from hyperpower_runner.job_files import read_json, read_json_lines, write_json
from hyperpower_runner.launchers import WorkerState
from hyperpower_runner.launchers.local import LocalLauncher
from hyperpower_runner.methods.rand import Rand
from hyperpower_runner.slots import Slots
from hyperpower_runner.summary import Summary
from hyperpower_runner.trial import Job, Status, Suggestion

SLOW = """
    import json, sys, time
    job = json.load(open(sys.argv[-1]))
    time.sleep({seconds})
    print(json.dumps({{"error": job["params"]["x"]}}))
"""


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def start_driver(experiment: Experiment, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command_line("run", experiment.root, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_search_keeps_to_its_budget_of_evaluations(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, budget={"evaluations": 5}, **{"max-concurrent": 3})
    _, ending = drive(experiment)
    assert ending.why is Why.BUDGET
    assert [result.status for result in results(experiment).values()] == [Status.COMPLETED] * 5
    _, ending = drive(experiment)  # nothing is left to do
    assert ending.why is Why.BUDGET
    assert len(results(experiment)) == 5


def test_spearmints_max_finished_jobs_is_a_budget_too(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, budget={}, **{"max-finished-jobs": 3})
    drive(experiment)
    assert len(results(experiment)) == 3


def test_the_slots_are_filled_and_never_overfilled(tmp_path: Path) -> None:
    script = SLOW.format(seconds=0.3)
    experiment = make_experiment(tmp_path, script, budget={"evaluations": 7}, **{"max-concurrent": 3})
    drive(experiment)
    spans = [(result.started_s, result.ended_s) for result in results(experiment).values()]
    at_once = [sum(begin <= moment < end for begin, end in spans) for moment, _ in spans]
    assert max(at_once) == 3


def test_a_budget_of_hours_starts_no_job_after_its_end_and_lets_the_running_one_finish(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, SLOW.format(seconds=0.5), budget={"hours": 1.0 / 3600})
    _, ending = drive(experiment)
    assert ending.why is Why.BUDGET
    jobs = [trial.job for trial in experiment.read_history()]
    first_s = jobs[0].created_s
    assert all(job.created_s < first_s + 1.5 for job in jobs)
    assert {result.status for result in results(experiment).values()} == {Status.COMPLETED}
    assert jobs[0].deadline == pytest.approx(first_s + 1.0, abs=0.5)
    before = len(jobs)
    drive(experiment)  # the hours of the first run count
    assert len(results(experiment)) == before


def test_the_driver_wakes_when_a_worker_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a wait of an hour between looks, a driver that slept through the end of a job would hang here."""
    monkeypatch.setattr(driver_module, "LONGEST_WAIT_S", 3600.0)
    experiment = make_experiment(tmp_path, **{"polling-time": 3600.0})
    drive(experiment)
    assert len(results(experiment)) == 4


def test_failed_jobs_do_not_end_a_search_but_a_row_of_them_does(tmp_path: Path) -> None:
    failing = "import sys; print('out of memory', file=sys.stderr); sys.exit(7)"
    experiment = make_experiment(tmp_path, failing, budget={"evaluations": 20}, **{"max-consecutive-failures": 3})
    _, ending = drive(experiment)
    assert ending.why is Why.FAILURES
    assert [result.status for result in results(experiment).values()] == [Status.FAILED] * 3
    sometimes = """
        import json, sys
        job = json.load(open(sys.argv[-1]))
        if job["id"] % 3: sys.exit(1)
        print('{"error": 1}')
    """
    other = make_experiment(tmp_path / "other", sometimes, budget={"evaluations": 9}, **{"max-consecutive-failures": 3})
    _, ending = drive(other)
    assert ending.why is Why.BUDGET
    assert len(results(other)) == 9


def test_a_resumed_search_forgets_the_row_of_failures(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, "raise SystemExit(1)", **{"max-consecutive-failures": 2})
    drive(experiment)
    (tmp_path / "train.py").write_text("print('{\"error\": 1}')")
    _, ending = drive(experiment)
    assert ending.why is Why.BUDGET
    assert len(results(experiment)) == 4


def test_the_same_config_gives_the_same_search_and_another_seed_another(tmp_path: Path) -> None:
    searches = [
        make_experiment(tmp_path / str(seed) / name, seed=seed) for seed, name in ((1, "a"), (1, "b"), (2, "c"))
    ]
    for experiment in searches:
        drive(experiment)
    first, twin, other = map(all_params, searches)
    assert first == twin
    assert first != other
    seeds = [trial.job.seed for trial in searches[0].read_history()]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("method", ["rand", "rand-walk"])
def test_a_killed_and_resumed_search_has_the_jobs_of_its_uninterrupted_twin(tmp_path: Path, method: str) -> None:
    script = SLOW.format(seconds=0.1)
    changes = {"method": method, "budget": {"evaluations": 10}, "seed": 7}
    twin = make_experiment(tmp_path / "twin", script, **changes)
    drive(twin)
    killed = make_experiment(tmp_path / "killed", script, **changes)
    for finished in (2, 5):  # killed twice, in the middle
        process = start_driver(killed)
        wait_until(lambda: len(results(killed)) >= finished)  # noqa: B023
        process.kill()
        process.communicate()
    drive(killed)
    assert all_params(killed) == all_params(twin)
    assert {job_id: result.metrics["error"] for job_id, result in results(killed).items()} == {
        job_id: result.metrics["error"] for job_id, result in results(twin).items()
    }
    assert [trial.job.seed for trial in killed.read_history()] == [trial.job.seed for trial in twin.read_history()]


def test_a_worker_outlives_its_driver_and_its_result_is_ingested_once(tmp_path: Path) -> None:
    script = "open('runs', 'a').write('x')\n" + "import time; time.sleep(1); print('{\"error\": 0.5}')"
    experiment = make_experiment(tmp_path, script, budget={"evaluations": 1})
    process = start_driver(experiment)
    wait_until((tmp_path / "runs").exists)
    process.kill()
    process.communicate()
    recorder = Recorder()
    drive(experiment, recorder)
    assert recorder.events == [("adopted", 1), ("ended", 1)]
    assert (tmp_path / "runs").read_text() == "x"
    assert results(experiment)[1].metrics["error"] == 0.5


def test_a_job_that_was_written_but_never_launched_is_run_on_resume(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, budget={"evaluations": 2})
    drive(experiment)
    files = experiment.job_files(2)
    params = all_params(experiment)
    for path in files.folder.iterdir():
        if path != files.job:
            path.unlink()
    drive(experiment)
    assert results(experiment)[2].status is Status.COMPLETED
    assert all_params(experiment) == params


def test_a_folder_without_a_job_is_used_again(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, budget={"evaluations": 1})
    (tmp_path / "jobs" / "000001").mkdir(parents=True)
    drive(experiment)
    assert list(results(experiment)) == [1]


KILLS_ITS_WORKER = """
    import json, os, signal, sys, time
    job = json.load(open(sys.argv[-1]))
    attempts = open("attempts", "a"); attempts.write(f"{os.getpid()}\\n"); attempts.close()
    if len(open("attempts").read().split()) <= TIMES:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    print('{"error": 0.5}')
"""


def test_a_job_whose_worker_vanished_is_tried_again_and_its_old_script_is_ended(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, KILLS_ITS_WORKER.replace("TIMES", "1"), budget={"evaluations": 1})
    recorder = Recorder()
    drive(experiment, recorder)
    assert results(experiment)[1].status is Status.COMPLETED
    assert any("attempt 2 of 3" in note for note in recorder.notes)
    first = int((tmp_path / "attempts").read_text().split()[0])
    ticks = processes._ticks(first)
    assert not processes.is_alive({**processes.own_identity(), "pid": first, "start_ticks": ticks})


def test_a_job_whose_workers_all_vanish_is_lost_and_the_search_goes_on(tmp_path: Path) -> None:
    script = KILLS_ITS_WORKER.replace("TIMES", "2")
    experiment = make_experiment(tmp_path, script, budget={"evaluations": 2}, **{"max-retries": 1})
    drive(experiment)
    assert [result.status for result in results(experiment).values()] == [Status.LOST, Status.COMPLETED]
    assert "vanished 2 times" in (results(experiment)[1].reason or "")
    for pid in map(int, (tmp_path / "attempts").read_text().split()):
        identity = {**processes.own_identity(), "pid": pid, "start_ticks": processes._ticks(pid)}
        wait_until(lambda: not processes.is_alive(identity))  # noqa: B023


def test_a_second_driver_is_refused_by_the_name_of_the_first(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    with experiment.lock():
        with pytest.raises(LockedError, match=rf"process {os.getpid()} on "), experiment.lock():
            pass
        answer = run_command("run", tmp_path)
    assert answer.returncode == 1
    assert f"process {os.getpid()} on {os.uname().nodename}" in answer.stderr
    assert "Traceback" not in answer.stderr
    drive(experiment)  # the lock is free again
    assert len(results(experiment)) == 4


def test_ctrl_c_lets_running_jobs_finish_and_says_how_to_resume(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, SLOW.format(seconds=1), budget={"evaluations": 50}, **{"max-concurrent": 2})
    process = start_driver(experiment)
    wait_until(lambda: len(list(experiment.jobs.glob("*/attempt-1.json"))) >= 2)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"hyperpower-runner run {tmp_path}" in shown
    assert "Traceback" not in shown
    statuses = [result.status for result in results(experiment).values()]
    assert statuses == [Status.COMPLETED] * len(all_params(experiment))
    assert len(statuses) < 10


def test_a_second_ctrl_c_cancels_the_running_jobs(tmp_path: Path) -> None:
    script = "open('begun', 'a').write('x'); import time; time.sleep(600)"
    experiment = make_experiment(tmp_path, script, budget={"evaluations": 50}, **{"max-concurrent": 2})
    process = start_driver(experiment)
    wait_until(lambda: (tmp_path / "begun").exists() and (tmp_path / "begun").read_text() == "xx")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert [result.status for result in results(experiment).values()] == [Status.CANCELLED] * 2
    # Cancelled jobs do not use up the budget, and the search goes on behind them.
    (tmp_path / "train.py").write_text("print('{\"error\": 1}')")
    answer = run_command("run", tmp_path, "--evaluations", "3", "--json")
    assert json.loads(answer.stdout)["counts"] | {"completed": 3, "cancelled": 2} == json.loads(answer.stdout)["counts"]


def test_the_stop_command_ends_a_search_and_a_stale_request_does_not(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, SLOW.format(seconds=0.3), budget={"evaluations": 500})
    experiment.request_stop("from long ago", cancel=True)
    process = start_driver(experiment)
    wait_until(lambda: len(results(experiment)) >= 1)
    answer = run_command("stop", tmp_path)
    assert answer.returncode == 0
    assert str(process.pid) in answer.stderr
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Stopped on request" in shown
    assert {result.status for result in results(experiment).values()} == {Status.COMPLETED}
    again = run_command("stop", tmp_path)
    assert again.returncode == 1
    assert "no driver is running" in again.stderr


def test_stop_now_cancels_the_running_jobs(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, "open('begun', 'w'); import time; time.sleep(600)")
    process = start_driver(experiment)
    wait_until((tmp_path / "begun").exists)
    run_command("stop", tmp_path, "--now")
    process.communicate(timeout=60)
    assert [result.status for result in results(experiment).values()] == [Status.CANCELLED]


def test_predicted_violators_never_run_and_are_counted(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, budget={"evaluations": 8}, constraints={"power_w": 10})
    write_models(experiment, power_w={"form": "paper", "weights": {"n": 1.0}})
    driver, _ = drive(experiment)
    params = all_params(experiment).values()
    assert all(point["n"] <= 10 for point in params)
    assert driver.summary().violations == {"predicted": 0, "measured": 0}
    assert all(trial.job.predictions == {"power_w": trial.job.params["n"]} for trial in experiment.read_history())
    lines = list(read_json_lines(experiment.rejected_file))
    assert sum(line["discarded"] for line in lines) == driver.summary().counts["rejected"] > 8
    for line in lines:
        assert len(line["first"]) == min(100, line["discarded"])
        assert all(item["predictions"]["power_w"] == item["params"]["n"] > 10 for item in line["first"])


def test_a_tight_budget_does_not_flood_the_disk(tmp_path: Path) -> None:
    variables = {"n": {"type": "INT", "min": 1, "max": 100000}}
    experiment = make_experiment(tmp_path, "print('{\"error\": 1}')", variables=variables, constraints={"power_w": 10})
    write_models(experiment, power_w={"form": "paper", "weights": {"n": 1.0}})
    drive(experiment)
    lines = list(read_json_lines(experiment.rejected_file))
    assert max(line["discarded"] for line in lines) > 1000
    assert max(len(line["first"]) for line in lines) == 100
    assert experiment.rejected_file.stat().st_size < 100_000


def test_the_constraint_unaware_counterpart_runs_violators_and_counts_them(tmp_path: Path) -> None:
    script = REPORT_X.replace('"error": job', '"power_w": job["params"]["n"] + 0.5, "error": job')
    changes: dict[str, Any] = {"constraints": {"power_w": 10}, "hardware-aware": False, "budget": {"evaluations": 12}}
    experiment = make_experiment(tmp_path, script, **changes)
    write_models(experiment, power_w={"form": "paper", "weights": {"n": 1.0}})
    driver, _ = drive(experiment)
    above = [point["n"] for point in all_params(experiment).values() if point["n"] > 10]
    at_the_limit = [point["n"] for point in all_params(experiment).values() if point["n"] == 10]
    assert above
    summary = driver.summary()
    assert summary.violations == {"predicted": len(above), "measured": len(above) + len(at_the_limit)}
    assert summary.counts["rejected"] == 0
    assert summary.best is None or summary.best.job.params["n"] < 10


def test_a_finite_space_is_searched_once_and_then_the_search_is_complete(tmp_path: Path) -> None:
    variables = {"a": {"type": "INT", "min": 0, "max": 2}, "b": {"type": "ENUM", "options": ["u", "v"]}}
    experiment = make_experiment(
        tmp_path, "print('{\"error\": 1}')", variables=variables, budget={"evaluations": 50}, **{"max-concurrent": 2}
    )
    _, ending = drive(experiment)
    assert ending.why is Why.EXHAUSTED
    found = [tuple(point.values()) for point in all_params(experiment).values()]
    assert sorted(found) == [(a, b) for a in (0, 1, 2) for b in "uv"]


def test_a_config_that_no_longer_fits_its_jobs_is_refused(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    drive(experiment)
    make_experiment(tmp_path, variables={"x": {"type": "FLOAT", "min": 0, "max": 1}})
    with pytest.raises(ConfigError, match="job 1 does not fit its variables"):
        drive(experiment)
    make_experiment(tmp_path, budget={"evaluations": 5})  # a larger budget is fine
    drive(experiment)
    assert len(results(experiment)) == 5


def test_a_moved_directory_goes_on(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path / "old", budget={"evaluations": 2})
    drive(experiment)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = Experiment(tmp_path / "new")
    (moved.root / "config.json").write_text(
        (moved.config_file.read_text()).replace('"evaluations": 2', '"evaluations": 3')
    )
    drive(moved)
    assert len(results(moved)) == 3


def test_a_driver_whose_directory_is_moved_ends_and_goes_on_at_the_new_place(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path / "old", SLOW.format(seconds=0.5), budget={"evaluations": 3})
    process = start_driver(experiment)
    wait_until(experiment.job_files(2).attempt(1).exists)
    (tmp_path / "old").rename(tmp_path / "new")
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "was moved while its search ran; run it where it is now" in shown
    assert not (tmp_path / "old").exists()
    moved = Experiment(tmp_path / "new")
    drive(moved)
    assert {job_id: result.status for job_id, result in results(moved).items()} == dict.fromkeys(
        (1, 2, 3), Status.COMPLETED
    )


def test_jobs_that_an_earlier_driver_asked_to_end_are_nobody_elses_doing(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, budget={"evaluations": 8})
    for job_id in range(1, 8):
        experiment.write_job(Job(job_id=job_id, params={"x": job_id / 10, "n": job_id}, seed=0, command=["false"]))
        files = experiment.job_files(job_id)
        write_json(files.attempt(1), {**processes.own_identity(), "start_ticks": 1})
        files.request_stop("the search was cancelled")
    _, ending = drive(experiment)
    assert ending.why is Why.BUDGET
    assert sum(result.status is Status.COMPLETED for result in results(experiment).values()) == 8


def test_a_search_ends_when_somebody_else_cancels_all_its_jobs(tmp_path: Path) -> None:
    script = "open('jobs/%06d/stop' % json.load(open(sys.argv[-1]))['id'], 'w'); time.sleep(600)"
    experiment = make_experiment(tmp_path, f"import json, sys, time; {script}", budget={"evaluations": 100})
    completed = run_command("run", tmp_path)
    assert completed.returncode == 1
    assert "error: 5 jobs in a row were cancelled by somebody else, or failed. Find out who" in completed.stderr
    assert {result.status for result in results(experiment).values()} == {Status.CANCELLED}
    assert len(results(experiment)) == 5


def test_the_view_is_given_the_running_jobs(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, SLOW.format(seconds=0.2), budget={"evaluations": 2})
    recorder = Recorder()
    seen: list[int] = []

    def look(summary: Summary) -> None:
        seen.append(len(summary.unfinished))
        assert summary.counts["pending"] + summary.counts["running"] == len(summary.unfinished)

    recorder.on_tick = look
    drive(experiment, recorder)
    assert seen[0] == 1
    assert seen[-1] == 0


def test_the_view_is_given_running_jobs_whatever_their_script_wrote_into_its_folder(tmp_path: Path) -> None:
    script = """
        import os, sys, time
        with open(os.path.join(os.path.dirname(sys.argv[-1]), "attempt-1.json"), "w") as claim:
            claim.write("{")
        while not os.path.exists("seen"):
            time.sleep(0.01)
        print('{"error": 0.5}')
    """
    experiment, recorder = make_experiment(tmp_path, script, budget={"evaluations": 1}), Recorder()
    statuses = list[Status]()

    def look(summary: Summary) -> None:
        statuses.extend(summary.unfinished.values())
        claim = experiment.job_files(1).attempt(1)
        if claim.exists() and claim.read_text() == "{" and len(statuses) > 1:
            (tmp_path / "seen").touch()

    recorder.on_tick = look
    _, ending = drive(experiment, recorder)
    assert ending.why is Why.BUDGET
    assert statuses[-1] is Status.RUNNING
    assert results(experiment)[1].status is Status.COMPLETED


def test_deleting_the_caches_loses_nothing(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, budget={"evaluations": 2})
    drive(experiment)
    before = json.loads(run_command("status", tmp_path, "--json").stdout)
    for path in experiment.state.iterdir():
        path.unlink()
    experiment.state.rmdir()
    assert json.loads(run_command("status", tmp_path, "--json").stdout) == before
    assert read_json(experiment.holder_file) is None


def test_time_between_two_drivers_is_not_taken_from_the_hours(tmp_path: Path) -> None:
    """A job that is tried again after a pause counts with its last attempt, not from when it was first asked for."""
    experiment = make_experiment(tmp_path, budget={"evaluations": 2, "hours": 1.0})
    drive(experiment)
    for path in experiment.job_files(2).folder.iterdir():  # as if it had been asked for a day ago and never run
        if path.name != "job.json":
            path.unlink()
    job = json.loads(experiment.job_files(2).job.read_text())
    experiment.job_files(2).job.write_text(json.dumps({**job, "created_s": job["created_s"] - 86400}))
    driver, ending = drive(experiment)
    assert ending.sentence == "The budget of 2 evaluations is used up."
    assert driver.summary().elapsed_s < 3600


def test_a_running_job_of_an_earlier_driver_counts_from_its_beginning(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, SLOW.format(seconds=3), budget={"hours": 2.5 / 3600})
    process = start_driver(experiment)
    wait_until(experiment.job_files(1).attempt(1).exists)
    time.sleep(1.5)
    process.kill()
    process.communicate()
    _, ending = drive(experiment)
    assert ending.why is Why.BUDGET
    assert len(results(experiment)) == 1


def test_two_interrupts_while_the_last_jobs_run_are_an_interruption(tmp_path: Path) -> None:
    script = "open('begun', 'w'); import time; time.sleep(600)"
    experiment = make_experiment(tmp_path, script, budget={"evaluations": 1})
    process = start_driver(experiment)
    wait_until((tmp_path / "begun").exists)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Ctrl-C again cancels them" in shown
    assert "Cancelling 1 running jobs." in shown
    assert "Resume with" in shown


def test_a_silent_worker_of_another_host_does_not_hold_a_cancelled_search(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, budget={"evaluations": 2})
    drive(experiment)
    files = experiment.job_files(2)
    files.result.unlink()
    write_json(files.attempt(1), {**processes.own_identity(), "host": "elsewhere"})
    _, ending = drive(experiment, interrupted=lambda: 2)
    assert ending.why is Why.INTERRUPTED
    assert files.stop.exists()  # the worker will see it, should it live
    assert 2 not in results(experiment)


def test_a_resumed_search_never_runs_more_jobs_at_a_time_than_it_may(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, SLOW.format(seconds=0.3), budget={"evaluations": 4}, **{"max-concurrent": 4})
    drive(experiment)
    for job_id in range(1, 5):  # as if all four workers had died
        files = experiment.job_files(job_id)
        files.result.unlink()
        write_json(files.attempt(1), {**processes.own_identity(), "start_ticks": 1})
    make_experiment(tmp_path, SLOW.format(seconds=0.3), budget={"evaluations": 4})
    drive(experiment)
    spans = sorted((result.started_s, result.ended_s) for result in results(experiment).values())
    assert len(spans) == 4
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
    assert experiment.job_files(4).last_attempt() == 2


def test_a_lost_job_is_not_started_again_when_the_hours_are_used_up(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, SLOW.format(seconds=0.6), budget={"evaluations": 2})
    drive(experiment)
    files = experiment.job_files(2)
    files.result.unlink()
    write_json(files.attempt(1), {**processes.own_identity(), "start_ticks": 1})
    make_experiment(tmp_path, budget={"evaluations": 2, "hours": 0.5 / 3600})
    _, ending = drive(experiment)
    assert "hours is used up" in ending.sentence
    assert 2 not in results(experiment)
    make_experiment(tmp_path, budget={"evaluations": 2})
    drive(experiment)
    assert results(experiment)[2].status is Status.COMPLETED


def test_an_attempt_claimed_by_the_worker_of_a_dead_driver_is_not_made_twice(tmp_path: Path) -> None:
    """The claim comes between the look at the folder and the launch: the worker launched for it must go home."""
    script = "open('runs', 'a').write('x'); import time; time.sleep(0.5); print('{\"error\": 1}')"
    experiment = make_experiment(tmp_path, script, budget={"evaluations": 1})
    drive(experiment)
    files = experiment.job_files(1)
    for path in files.folder.iterdir():
        if path.name != "job.json":
            path.unlink()
    (tmp_path / "runs").unlink()
    slots = Slots(experiment, LocalLauncher(), 2, lambda text: None)
    assert slots.adopt(1) is False
    other = LocalLauncher()
    other.submit(files, 1)
    wait_until(files.attempt(1).exists)
    slots.start_waiting()
    found: dict[int, Any] = {}
    while not found:
        slots.wait(1.0)
        found = dict(slots.ended())
    assert found[1].status is Status.COMPLETED
    assert (tmp_path / "runs").read_text() == "x"
    assert not files.attempt(2).exists()
    wait_until(lambda: other.poll({1: files}, 0)[1] is WorkerState.GONE)


def test_another_metric_to_optimise_is_another_search(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path)
    drive(experiment)
    make_experiment(tmp_path, optimize="loss")
    with pytest.raises(ConfigError, match='job 1 was run for "error", but optimize is "loss"'):
        drive(experiment)


def test_a_space_in_which_nothing_more_is_found_ends_the_search_without_losing_the_running_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*arguments: object) -> Any:
        raise InfeasibleError("nothing was found")

    experiment = make_experiment(tmp_path, SLOW.format(seconds=0.3))
    recorder = Recorder()
    recorder.on_tick = lambda summary: monkeypatch.setattr(Rand, "suggest", nothing)
    _, ending = drive(experiment, recorder)
    assert ending.why is Why.INFEASIBLE
    assert str(experiment.config_file) in ending.sentence
    assert [result.status for result in results(experiment).values()] == [Status.COMPLETED]


def test_sampling_that_had_not_converged_is_noted_once_and_kept_in_the_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suggest = Rand.suggest

    def fitted(rand: Rand, history: History, rng: np.random.Generator) -> Suggestion:
        return replace(suggest(rand, history, rng), surrogate={"converged": len(history) == 0, "acceptance": 0.1})

    monkeypatch.setattr(Rand, "suggest", fitted)
    experiment, recorder = make_experiment(tmp_path), Recorder()
    driver, _ = drive(experiment, recorder)
    (note,) = (note for note in recorder.notes if "had not converged" in note)
    assert note.startswith("job 2: ")
    fits = [trial.job.surrogate for trial in experiment.read_history()]
    assert fits == [{"converged": converged, "acceptance": 0.1} for converged in (True, False, False, False)]
    assert driver.summary().surrogate == {"fitted": 4, "not_converged": 3}
    assert json.loads(run_command("status", tmp_path, "--json").stdout)["surrogate"]["not_converged"] == 3
    assert "surrogate   sampling had not converged for 3 of 4 suggestions" in run_command("status", tmp_path).stdout


def test_a_job_carries_what_its_worker_needs(tmp_path: Path) -> None:
    objective = {"command": ["python", "-S", "train.py"], "env": {"A": "1"}, "epochs": 7}
    changes: dict[str, Any] = {"optimize": "loss", "timeout-s": 60, "budget": {"evaluations": 1, "hours": 1.0}}
    experiment = make_experiment(tmp_path, "print('{\"loss\": 1}')", objective=objective, **changes)
    drive(experiment)
    (job,) = (trial.job for trial in experiment.read_history())
    assert (job.command, job.env, job.epochs, job.metric) == (objective["command"], {"A": "1"}, 7, "loss")
    assert job.timeout_s == 60
    assert (job.threads or 0) >= 1
    assert job.stopping_rule is not None
    assert job.deadline == pytest.approx(job.created_s + 3600, abs=1)

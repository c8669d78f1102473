"""The worker: one script from its start to its result, however the script behaves."""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from seen import processes_of
from working import end, make_job, result_of, run_worker, start_worker, wait_for, wait_until

from hyperpower_runner import processes
from hyperpower_runner.hardware.meters.simulated import true_values
from hyperpower_runner.job_files import JobFiles, append_json_line, read_json, write_json
from hyperpower_runner.launchers import WorkerState
from hyperpower_runner.launchers.local import LocalLauncher
from hyperpower_runner.trial import Result, Status


def test_a_finished_script_is_completed_with_its_metrics_times_host_and_log(tmp_path: Path) -> None:
    files = make_job(
        tmp_path,
        """
        import sys
        print("hello"); print("a warning", file=sys.stderr)
        print('{"error": 0.25, "power_w": null, "note": "kept"}')
        """,
    )
    result = run_worker(files)
    assert result.status is Status.COMPLETED
    assert result.metrics["error"] == 0.25
    assert result.metrics["power_w"] is None
    assert result.metrics["duration_s"] == pytest.approx(result.ended_s - result.started_s, abs=0.01)
    assert result.extra == {"note": "kept"}
    assert result.exit_code == 0
    assert result.host
    assert {"hello", "a warning"} <= set(files.log_tail().splitlines())


def test_the_script_runs_in_the_experiment_directory_and_finds_its_job_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    script = """
        import json, os, sys
        assert sys.argv[-1] == os.environ["HYPERPOWER_JOB"] and json.load(open(sys.argv[-1]))["params"] == {"x": 0.5}
        threads, mine = os.environ["OMP_NUM_THREADS"], os.environ["MINE"]
        print(json.dumps({"error": 0, "cwd": os.getcwd(), "threads": threads, "mine": mine}))
    """
    files = make_job(tmp_path, script, threads=3, env={"MINE": "yes"})
    result = run_worker(files)
    assert result.extra == {"cwd": str(tmp_path.resolve()), "threads": "3", "mine": "yes"}
    assert result.status is Status.COMPLETED


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import sys; sys.exit(3)", "exit code 3"),
        ("raise RuntimeError('no data')", "exit code 1"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("pass", "printed nothing"),
        ("print('accuracy: 98 %')", 'not a JSON object such as {"error": 0.1}, but "accuracy: 98 %"'),
        ("print('0.5')", "not a JSON object"),
        ("print('[0.5]')", "not a JSON object"),
        ("print('{\"error\": 0.', end='')", "not a JSON object"),
        ("print('{\"error\": NaN}')", '"error" as nan, which is not a finite number'),
        ('print(\'{"error": "NaN"}\')', "which is not a finite number"),
        ("print('{\"error\": 1e999}')", "which is not a finite number"),
        ("print('{\"error\": null}')", "which is not a finite number"),
        ('print(\'{"error": "low"}\')', "which is not a finite number"),
        ("print('{\"error\": true}')", "which is not a finite number"),
        ("print('{\"accuracy\": 0.9}')", 'it reported accuracy, but not "error"'),
        ("print('{\"error\": 0.1}'); print('bye')", 'but "bye"'),
        ("print('{\"error\": 0.1}' + ' ' * 10 + '}' * 2_000_000)", "not a JSON object"),
        ("import sys; sys.stdout.buffer.write(bytes(range(128, 256)))", "not a JSON object"),
    ],
)
def test_a_script_without_a_usable_metric_is_failed_with_its_reason(tmp_path: Path, script: str, reason: str) -> None:
    result = run_worker(make_job(tmp_path, script))
    assert result.status is Status.FAILED
    assert reason in (result.reason or "")
    assert "error" not in result.metrics or result.metrics["error"] is None or result.exit_code == 0


def test_the_last_line_counts_also_behind_much_output(tmp_path: Path) -> None:
    files = make_job(tmp_path, "for i in range(200_000): print(i, 'lines of output')\nprint('{\"error\": 0.125}')")
    assert run_worker(files).metrics["error"] == 0.125
    assert files.output.stat().st_size > 4_000_000


@pytest.mark.parametrize("command", [["./missing.sh"], ["no-such-program-here"], ["./train.py"]])
def test_a_command_that_cannot_be_started_is_failed_and_named(tmp_path: Path, command: list[str]) -> None:
    result = run_worker(make_job(tmp_path, "not a script", command=command))
    assert result.status is Status.FAILED
    assert "could not be started" in (result.reason or "")
    assert command[0] in (result.reason or "")


def test_a_script_over_its_time_is_timed_out(tmp_path: Path) -> None:
    result = run_worker(make_job(tmp_path, "import time; time.sleep(600)", timeout_s=0.3))
    assert result.status is Status.TIMED_OUT
    assert "0.3 s" in (result.reason or "")
    assert result.exit_code == -signal.SIGTERM


def test_time_in_which_a_scheduler_suspended_a_job_is_none_of_its_own(tmp_path: Path) -> None:
    script = """
        import os, time
        open("begun", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.01)
        print('{"error": 0.5}')
    """
    files = make_job(tmp_path, script, timeout_s=5.0)
    process = start_worker(files, patches={"worker.SUSPENDED_S": 1.5})
    try:
        wait_for(tmp_path / "begun")
        process.send_signal(signal.SIGSTOP)
        time.sleep(5.5)
        process.send_signal(signal.SIGCONT)
        time.sleep(1.0)  # in which the script would be ended
        (tmp_path / "go").touch()
        assert process.wait(60) == 0
    finally:
        end(process)
    assert result_of(files).status is Status.COMPLETED


def test_a_script_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    result = run_worker(
        make_job(tmp_path, script, timeout_s=1.0), patches={"supervision.process_tree.TERM_GRACE_S": 0.2}
    )
    assert result.status is Status.TIMED_OUT
    assert result.exit_code == -signal.SIGKILL


def test_children_that_a_script_leaves_behind_end_with_it(tmp_path: Path) -> None:
    script = """
        import subprocess
        child = subprocess.Popen(["sleep", "600"])  # holds stdout open
        open("child.pid", "w").write(str(child.pid))
        print('{"error": 0.5}', flush=True)
    """
    result = run_worker(make_job(tmp_path, script))
    assert result.status is Status.COMPLETED
    pid = int((tmp_path / "child.pid").read_text())
    assert not processes.is_alive({**processes.own_identity(), "pid": pid, "start_ticks": processes._ticks(pid)})


REPORTING = """
    import sys, time
    from hyperpower_runner import objective
    def evaluate(job):
        for epoch, loss in enumerate({curve}, start=1):
            job.report(epoch=epoch, error=0.9, loss=loss)
            if {looks} and job.should_stop():
                break
            time.sleep({sleep})
        return {{"error": 0.875}}
    objective.run(evaluate)
"""


def reporting(curve: str, *, looks: bool = True, sleep: str = "0") -> str:
    return REPORTING.format(curve=curve, looks=looks, sleep=sleep)


def test_a_diverging_training_is_terminated_with_epoch_reason_and_error(tmp_path: Path) -> None:
    files = make_job(tmp_path, reporting("[2.3] * 2 + [float('nan')] * 8"), stopping_rule={"after_epochs": 2})
    result = run_worker(files)
    assert result.status is Status.TERMINATED
    assert result.epoch == 3
    assert result.reason == "the loss became nan"
    assert result.metrics["error"] == 0.875
    assert len(files.progress.read_text().splitlines()) == 3


def test_a_diverging_script_that_does_not_look_is_ended(tmp_path: Path) -> None:
    script = reporting("[1.0, 100.0]", looks=False, sleep="epoch // 2 * 600")
    files = make_job(tmp_path, script, stopping_rule={"loss_factor": 5.0})
    result = run_worker(files, patches={"worker.DIVERGED_GRACE_S": 0.1, "worker.WATCH_S": 0.05})
    assert result.status is Status.TERMINATED
    assert result.epoch == 2
    assert result.metrics["error"] == 0.9  # the last one reported, as the script delivered none
    assert result.exit_code == -signal.SIGTERM


def test_without_a_rule_nothing_is_terminated(tmp_path: Path) -> None:
    result = run_worker(make_job(tmp_path, reporting("[float('nan')] * 10"), stopping_rule=None))
    assert result.status is Status.COMPLETED
    assert result.epoch == 10


def test_a_request_to_stop_reaches_the_script_which_may_return_what_it_has(tmp_path: Path) -> None:
    files = make_job(tmp_path, reporting("[1.0] * 10", sleep="0.3"))
    process = start_worker(files)
    wait_for(files.progress)
    files.stop.write_text("enough\n")
    process.wait(60)
    content = read_json(files.result)
    assert content is not None
    assert (content["status"], content["reason"], content["metrics"]["error"]) == ("cancelled", "enough", 0.875)


SLEEPS = "import time; open('begun', 'w').close(); time.sleep(600)"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_worker_told_to_end_ends_its_script_and_leaves_no_result(tmp_path: Path, number: signal.Signals) -> None:
    files = make_job(tmp_path, SLEEPS)
    process = start_worker(files)
    try:
        wait_for(tmp_path / "begun")
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    finally:
        end(process)
    assert not files.result.exists()
    assert processes_of(tmp_path) == []
    assert f"told to end by {number.name}" in files.log_tail()
    (tmp_path / "train.py").write_text("print('{\"error\": 0.5}')")
    assert run_worker(files, attempt=2).status is Status.COMPLETED


def test_a_signal_to_the_script_and_then_to_its_worker_leaves_no_result_either(tmp_path: Path) -> None:
    """Slurm tells all processes of a job to end, in any order; the script did not fail."""
    files = make_job(tmp_path, SLEEPS)
    process = start_worker(files)
    try:
        wait_for(tmp_path / "begun")
        (script,) = processes_of(files.job)
        os.kill(script, signal.SIGTERM)
        wait_until(lambda: not processes_of(files.job))
        process.terminate()
        assert process.wait(60) == 143
    finally:
        end(process)
    assert not files.result.exists()


def test_a_script_gets_a_grace_to_end_by_itself_with_all_that_it_started(tmp_path: Path) -> None:
    script = """
        import os, signal, sys, time
        def save(number, frame):
            time.sleep(0.5 if name == "child" else 0)
            open(f"saved {name}", "w").close(); os._exit(0)
        name = "child" if os.fork() == 0 else "parent"
        if name == "child":
            os.setsid()
        signal.signal(signal.SIGTERM, save)
        open(f"begun {name}", "w").close()
        time.sleep(600)
    """
    files = make_job(tmp_path, script)
    process = start_worker(files)
    try:
        for name in ("parent", "child"):
            wait_for(tmp_path / f"begun {name}")
        process.terminate()
        assert process.wait(60) == 143
    finally:
        end(process)
    assert (tmp_path / "saved parent").exists()
    assert (tmp_path / "saved child").exists()


def test_a_worker_told_to_end_with_a_request_to_stop_writes_cancelled(tmp_path: Path) -> None:
    files = make_job(tmp_path, SLEEPS)
    process = start_worker(files)
    try:
        wait_for(tmp_path / "begun")
        files.stop.write_text("no longer wanted\n")
        process.terminate()
        assert process.wait(60) == 0
    finally:
        end(process)
    result = result_of(files)
    assert (result.status, result.reason) == (Status.CANCELLED, "no longer wanted")
    assert result.exit_code == -signal.SIGTERM


def request_stop_unseen(files: JobFiles) -> None:
    """Ask a job to stop; its folder looks as before, as it may on a shared file system that caches it."""
    wait_for(files.heartbeat)
    seen = files.folder.stat()
    files.stop.write_text("no longer wanted\n")
    os.utime(files.folder, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def test_a_request_that_a_cached_folder_does_not_show_is_found_now_and_then(tmp_path: Path) -> None:
    files = make_job(tmp_path, SLEEPS)
    process = start_worker(files, patches={"supervision.job_watch.SURE_S": 0.3, "worker.STOP_GRACE_S": 0.0})
    try:
        wait_for(tmp_path / "begun")
        request_stop_unseen(files)
        assert process.wait(60) == 0
    finally:
        end(process)
    assert result_of(files).reason == "no longer wanted"


def test_a_request_that_a_cached_folder_does_not_show_is_found_when_a_signal_comes(tmp_path: Path) -> None:
    files = make_job(tmp_path, SLEEPS)
    process = start_worker(files, patches={"worker.WATCH_S": 3600.0, "worker.LONGEST_WATCH_S": 3600.0})
    try:
        wait_for(tmp_path / "begun")
        request_stop_unseen(files)
        process.terminate()
        assert process.wait(60) == 0
    finally:
        end(process)
    assert result_of(files).reason == "no longer wanted"


def test_a_job_that_was_cancelled_before_it_began_is_not_run(tmp_path: Path) -> None:
    files = make_job(tmp_path, "open('begun', 'w').close()")
    files.stop.write_text("changed my mind\n")
    result = run_worker(files)
    assert (result.status, result.reason) == (Status.CANCELLED, "changed my mind")
    assert not (tmp_path / "begun").exists()


def test_a_worker_that_was_given_up_ends_its_script_and_writes_nothing(tmp_path: Path) -> None:
    files = make_job(tmp_path, SLEEPS)
    process = start_worker(files)
    try:
        wait_for(tmp_path / "begun")
        write_json(files.attempt(2), {"host": "elsewhere"})
        assert process.wait(60) == 0
    finally:
        end(process)
    assert not files.result.exists()
    assert processes_of(tmp_path) == []
    assert "another one begun" in files.log_tail()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_by_which_a_scheduler_announces_the_end_is_passed_on(tmp_path: Path, number: signal.Signals) -> None:
    script = f"""
        import signal, sys
        def save(*_):
            print('{{"error": 0.25}}')
            sys.exit()
        signal.signal({int(number)}, save)
        open("begun", "w").close()
        signal.pause()
    """
    files = make_job(tmp_path, script)
    process = start_worker(files)
    try:
        wait_for(tmp_path / "begun")
        process.send_signal(number)
        assert process.wait(60) == 0
    finally:
        end(process)
    result = result_of(files)
    assert (result.status, result.metrics["error"]) == (Status.COMPLETED, 0.25)


def test_a_script_that_ends_by_a_signal_that_was_passed_on_is_tried_again(tmp_path: Path) -> None:
    files = make_job(tmp_path, SLEEPS)
    process = start_worker(files)
    try:
        wait_for(tmp_path / "begun")
        process.send_signal(signal.SIGUSR1)
        assert process.wait(60) == 1
    finally:
        end(process)
    assert not files.result.exists()
    assert "it was killed by SIGUSR1" in files.log_tail()


def test_a_worker_begins_as_it_should_whatever_it_was_forked_by(tmp_path: Path) -> None:
    script = """
        import json, signal
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        usual = all(signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler) for number in numbers)
        print(json.dumps({"error": 0.5, "usual": usual, "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, []))}))
    """
    before = """
import signal
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1])
"""
    result = run_worker(make_job(tmp_path, script), before=before)
    assert result.status is Status.COMPLETED
    assert result.extra == {"usual": True}
    assert result.metrics["blocked"] == 0


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "there is no such file"),
        ("", "cannot be read as JSON"),
        ("[]", "a JSON object was expected"),
        ('{"id": 1}', "is not a job file"),
        ('{"id": 1, "params": {}, "seed": 1, "command": []}', "is not a job file"),
        ('{"id": 1, "params": {}, "seed": 1, "command": ["true", 1]}', "is not a job file"),
        ('{"id": 1, "params": {}, "seed": 1, "command": ["true"], "timeout_s": "long"}', "is not a job file"),
        ('{"id": 1, "params": {}, "seed": 1, "command": ["true"], "stopping_rule": [1]}', "is not a job file"),
        ('{"id": 1, "params": {}, "seed": 1, "command": ["true"], "stopping_rule": {"classes": -3}}', "classes is -3"),
        ('{"id": 1, "params": {}, "seed": 1, "command": ["true"], "stopping_rule": {"loss_fall": "x"}}', "loss_fall"),
    ],
)
def test_a_missing_or_broken_job_is_one_sentence_and_exit_code_1(tmp_path: Path, text: str | None, part: str) -> None:
    files = make_job(tmp_path, "")
    files.job.unlink()
    if text is not None:
        files.job.write_text(text)
    process = start_worker(files)
    try:
        assert process.wait(60) == 1
    finally:
        end(process)
    (line,) = files.output.read_text().splitlines()
    assert line.startswith(f"{files.job}: ")
    assert part in line
    assert not files.result.exists()


def test_a_result_that_cannot_be_written_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    files = make_job(tmp_path, "import os; os.rename('jobs', 'moved'); print('{\"error\": 0.5}')")
    process = start_worker(files)
    try:
        assert process.wait(60) == 1
    finally:
        end(process)
    lines = (tmp_path / "moved" / "000001" / "output.log").read_text().splitlines()
    assert "it cannot be run to its end" in lines[-1]
    assert not any("Traceback" in line for line in lines)


def test_times_survive_a_clock_that_jumps(tmp_path: Path) -> None:
    before = """
import time
wall, begun = time.time, time.monotonic()
time.time = lambda: wall() - (3600 if time.monotonic() > begun + 0.5 else 0)
"""
    result = run_worker(make_job(tmp_path, "import time; time.sleep(1); print('{\"error\": 1}')"), before=before)
    assert 1 <= result.ended_s - result.started_s < 600
    assert 1 <= (result.metrics["duration_s"] or 0) < 600


def test_a_failed_script_is_explained_by_the_last_line_of_its_stderr(tmp_path: Path) -> None:
    script = "import sys; print('noise', file=sys.stderr); raise ValueError('no\x1b[31m data' + '!' * 5000)"
    result = run_worker(make_job(tmp_path, script))
    assert result.status is Status.FAILED
    assert (result.reason or "").startswith("it ended with exit code 1: ValueError: no\\x1b[31m data!!")
    assert (result.reason or "").endswith("see its output.log")
    assert len(result.reason or "") < 400
    quiet = run_worker(make_job(tmp_path / "other", "import sys; sys.exit(3)"))
    assert quiet.reason == "it ended with exit code 3; see its output.log"


def test_each_job_costs_few_looks_at_a_shared_file_system(tmp_path: Path) -> None:
    """A job that is old is looked at every few seconds only, a signal is heeded at once all the same."""
    files = make_job(tmp_path, SLEEPS)
    patches: dict[str, object] = {"worker.WATCH_S": 3600.0, "worker.LONGEST_WATCH_S": 3600.0}
    process = start_worker(files, patches=patches)
    try:
        wait_for(tmp_path / "begun")
        process.terminate()
        assert process.wait(60) == 143  # would take an hour
    finally:
        end(process)


def test_an_attempt_is_run_by_one_worker_only(tmp_path: Path) -> None:
    files = make_job(tmp_path, "open('runs', 'a').write('x'); import time; time.sleep(0.3); print('{\"error\": 1}')")
    workers = [start_worker(files) for _ in range(4)]
    assert [process.wait(60) for process in workers] == [0, 0, 0, 0]
    assert (tmp_path / "runs").read_text() == "x"
    first = files.result.read_bytes()
    start_worker(files, attempt=2).wait(60)  # the result is there already
    assert files.result.read_bytes() == first
    assert (tmp_path / "runs").read_text() == "x"


def test_a_claim_that_is_being_made_is_another_ones(tmp_path: Path) -> None:
    files = make_job(tmp_path, "open('runs', 'w').close()")
    files.attempt(1).touch()  # as where there are no hard links, for a moment
    process = start_worker(files)
    try:
        assert process.wait(60) == 0
    finally:
        end(process)
    assert not (tmp_path / "runs").exists()
    assert files.output.read_text() == ""


def test_the_claim_names_the_worker_and_the_heartbeat_is_touched(tmp_path: Path) -> None:
    files = make_job(tmp_path, "import time; open('begun', 'w').close(); time.sleep(600)")
    process = start_worker(files)
    wait_for(tmp_path / "begun")
    claim = read_json(files.attempt(1))
    assert claim is not None
    assert claim["pid"] == process.pid
    assert processes.is_alive(claim)
    assert files.heartbeat.exists()
    process.terminate()
    process.wait(60)
    assert processes.is_alive(claim) is False


def test_result_json_is_strict_json(tmp_path: Path) -> None:
    files = make_job(tmp_path, 'print(\'{"error": 0.5, "loss": Infinity}\')')
    run_worker(files)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    content = json.loads(files.result.read_text(), parse_constant=refuse)
    assert content["metrics"]["loss"] is None


def test_a_diverged_script_that_delivers_nan_keeps_the_error_it_reached(tmp_path: Path) -> None:
    script = reporting("[1.0, float('nan')]").replace("0.875", "float('nan')")
    result = run_worker(make_job(tmp_path, script, stopping_rule={}))
    assert result.status is Status.TERMINATED
    assert result.metrics["error"] == 0.9


def test_the_curve_of_a_lost_attempt_is_not_held_against_the_next(tmp_path: Path) -> None:
    files = make_job(tmp_path, reporting("[2.3, 1.0, 0.5]"), stopping_rule={"classes": 10, "after_epochs": 2})
    write_json(files.attempt(1), {**processes.own_identity(), "start_ticks": 1})
    for epoch in range(1, 4):
        append_json_line(files.progress, {"epoch": epoch, "error": 0.9, "loss": 0.1})
    start_worker(files, attempt=2).wait(60)
    result = Result.from_json(read_json(files.result) or {})
    assert result.status is Status.COMPLETED
    assert len(files.progress.read_text().splitlines()) == 3
    assert files.progress.with_name("progress-1.jsonl").exists()


def test_what_the_worker_measures_can_be_minimised(tmp_path: Path) -> None:
    result = run_worker(make_job(tmp_path, "print('{\"error\": 0.5}')", metric="duration_s"))
    assert result.status is Status.COMPLETED
    assert result.metrics["duration_s"]


def test_a_reason_is_one_short_line_whatever_the_script_printed(tmp_path: Path) -> None:
    script = "import json; print(json.dumps({'error': 'a' * 500_000, 'x\\ny\\x1b[31m': 1}))"
    result = run_worker(make_job(tmp_path, script))
    assert len(result.reason or "") < 200
    other = tmp_path / "other"
    result = run_worker(make_job(other, "print('{\"x\\\\ny\\\\u001b[31m\": 1}')"))
    assert (result.reason or "").isprintable()


def test_a_script_without_a_first_line_that_names_a_program_is_told_so(tmp_path: Path) -> None:
    for name, text, expected in (("a.sh", "echo hi\n", "#!/bin/bash"), ("b.sh", "#!/bin/bash\r\necho\r\n", "Windows")):
        root = tmp_path / name[0]
        files = make_job(root, "", command=[f"./{name}"])
        (root / name).write_text(text)
        (root / name).chmod(0o755)
        assert expected in (run_worker(files).reason or "")


def test_a_module_beside_the_user_does_not_replace_one_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make_job(tmp_path, "print('{\"error\": 0.5}')")
    (tmp_path / "socket.py").write_text("raise RuntimeError('not the one of Python')")
    monkeypatch.chdir(tmp_path)
    launcher = LocalLauncher()
    launcher.submit(files, 1)
    while launcher.poll({1: files}, 1.0)[1] is not WorkerState.GONE:
        pass
    content = read_json(files.result)
    assert content is not None, files.log_tail()
    assert content["status"] == "completed"


# --- measuring what a completed job has trained


SIMULATED = {"meter": "simulated-gtx1070"}
COUNTED = """
    import json, sys
    def features(params):
        return {"parameters": 1e6, "macs": 4e6, "activations": 2e4}
    if __name__ == "__main__":
        print(json.dumps({"error": 0.25}))
"""


def make_measured_job(root: Path, script: str, platform: dict[str, Any], **fields: Any) -> JobFiles:
    """A job that shall be measured, in an experiment that has a config.json to say on what."""
    files = make_job(root, script, **{"measure": True, "platform": platform, **fields})
    config: dict[str, Any] = {
        "objective": {"command": ["python", "train.py"]},
        "variables": {"x": {"type": "FLOAT", "min": 0, "max": 1}},
        "platform": platform,
    }
    if platform["meter"] == "host":  # where time passes
        config["profiling"] = {"window-s": 0.3, "warm-up-s": 0.1, "warm-up-steps": 1}
    (root / "config.json").write_text(json.dumps(config))
    return files


def measurement(result: Result) -> dict[str, Any]:
    content = result.extra["measurement"]
    assert isinstance(content, dict)
    return content


def test_the_network_of_a_completed_job_is_measured_on_its_platform(tmp_path: Path) -> None:
    files = make_measured_job(tmp_path, COUNTED, SIMULATED)
    result = run_worker(files)
    assert result.status is Status.COMPLETED
    truth = true_values("simulated-gtx1070", {"parameters": 1e6, "macs": 4e6, "activations": 2e4})
    for metric in ("power_w", "memory_bytes", "latency_s", "energy_j"):
        assert result.metrics[metric] == pytest.approx(truth[metric], rel=0.05)
    assert result.metrics["error"] == 0.25
    assert measurement(result)["platform"]["meter"] == "simulated-gtx1070"
    assert measurement(result)["platform"]["simulated"] is True
    assert measurement(result)["flags"] == []
    assert (result.metrics["duration_s"] or 0) <= result.ended_s - result.started_s  # which has the measurement in it
    assert read_json(files.result) == {"schema": 1, "id": 1, **result.to_json()}


def test_the_measurement_stands_against_what_a_script_reports_which_is_kept(tmp_path: Path) -> None:
    script = COUNTED.replace(
        '{"error": 0.25}',
        '{"error": 0.25, "power_w": 12.5, "memory_bytes": None, "note": "mine", "measurement": {"reason": 5}}',
    )
    result = run_worker(make_measured_job(tmp_path, script, SIMULATED))
    assert result.metrics["power_w"] == pytest.approx(
        true_values("simulated-gtx1070", {"parameters": 1e6, "macs": 4e6, "activations": 2e4})["power_w"], rel=0.05
    )
    assert measurement(result)["reported"] == {"power_w": 12.5, "memory_bytes": None}
    assert (result.metrics["memory_bytes"] or 0) > 1e8  # it said that it does not know
    assert result.extra["note"] == "mine"
    assert result.extra["measurement_"] == {"reason": 5}
    assert "reason" not in measurement(result)
    assert measurement(result)["platform"]["simulated"] is True


@pytest.mark.parametrize(
    ("script", "fields", "status"),
    [
        ("import sys; sys.exit(3)", {}, Status.FAILED),
        ("print('no metric')", {}, Status.FAILED),
        ("import time; time.sleep(600)", {"timeout_s": 0.3}, Status.TIMED_OUT),
        (
            "from hyperpower_runner import objective\n"
            "def evaluate(job):\n"
            "    job.report(epoch=1, error=0.9, loss=float('nan'))\n"
            "    return 0.9\n"
            "objective.run(evaluate)",
            {"stopping_rule": {}},
            Status.TERMINATED,
        ),
    ],
)
def test_a_job_that_did_not_complete_is_not_measured(
    tmp_path: Path, script: str, fields: dict[str, Any], status: Status
) -> None:
    hook = 'def features(params):\n    open("measured", "w")\n    return {}\n'
    result = run_worker(make_measured_job(tmp_path, hook + script, SIMULATED, **fields))
    assert result.status is status
    assert "measurement" not in result.extra
    assert "power_w" not in result.metrics
    assert not (tmp_path / "measured").exists()


def test_a_cancelled_job_is_not_measured(tmp_path: Path) -> None:
    files = make_measured_job(tmp_path, SLEEPS, SIMULATED)
    process = start_worker(files)
    wait_for(tmp_path / "begun")
    files.stop.write_text("enough\n")
    process.terminate()
    process.wait(60)
    result = Result.from_json(read_json(files.result) or {})
    assert result.status is Status.CANCELLED
    assert "measurement" not in result.extra


def test_a_job_that_shall_not_be_measured_is_not(tmp_path: Path) -> None:
    result = run_worker(make_measured_job(tmp_path, COUNTED, SIMULATED, measure=False))
    assert result.status is Status.COMPLETED
    assert set(result.metrics) == {"error", "duration_s"}
    assert result.extra == {}


def test_the_peak_memory_of_the_inference_step_is_measured_not_that_of_the_training(tmp_path: Path) -> None:
    script = """
        from hyperpower_runner import objective
        def evaluate(job):
            return {"error": len(b"x" * (300 << 20)) / 1e12}
        def inference(job):
            held = b"x" * (80 << 20)
            return lambda: len(held)
        objective.run(evaluate, inference)
    """
    result = run_worker(make_measured_job(tmp_path, script, {"meter": "host"}))
    assert result.status is Status.COMPLETED
    assert 80 << 20 < (result.metrics["memory_bytes"] or 0) < 160 << 20
    assert result.metrics.get("power_w") is None
    assert result.metrics.get("energy_j") is None
    assert (result.metrics["latency_s"] or 0) > 0
    assert measurement(result)["platform"]["meter"] == "host"
    assert not list((tmp_path / "state" / "measuring").iterdir())


def test_a_script_without_an_inference_step_is_completed_with_the_reason(tmp_path: Path) -> None:
    script = "from hyperpower_runner import objective; objective.run(lambda job: 0.25)"
    result = run_worker(make_measured_job(tmp_path, script, {"meter": "host"}))
    assert result.status is Status.COMPLETED
    assert result.reason is None
    assert set(result.metrics) == {"error", "duration_s"}
    assert "no inference step" in measurement(result)["reason"]


def test_a_platform_that_is_not_there_is_a_reason(tmp_path: Path) -> None:
    result = run_worker(make_measured_job(tmp_path, COUNTED, {"meter": "replay"}))
    assert result.status is Status.COMPLETED
    assert set(result.metrics) == {"error", "duration_s"}
    assert "trace" in measurement(result)["reason"]


@pytest.mark.parametrize(
    "instead",
    [
        "exit 3",
        "kill -9 $$",
        "true",
        "echo garbage",
        "printf '\\377\\376'",
        "echo '[1, 2]'",
        "echo 81.5",
        "echo null",
        """echo '{"metrics": {"power_w": 81.5}' """,
        """echo '{"metrics": 81.5}'""",
        """echo '{"metrics": [["power_w", 81.5]]}'""",
        "head -c 200000 /dev/zero | tr '\\0' '['",
    ],
)
def test_a_measuring_process_that_fails_or_prints_garbage_costs_no_job(tmp_path: Path, instead: str) -> None:
    files = make_measured_job(tmp_path, COUNTED, SIMULATED)
    stand_in = tmp_path / "bin" / "python"  # which is the interpreter that both the script and measuring are run by
    stand_in.parent.mkdir()
    real = sys.executable
    stand_in.write_text(f'#!/bin/sh\ncase "$*" in *hardware.measuring*) {instead}; exit;; esac\nexec \'{real}\' "$@"\n')
    stand_in.chmod(0o755)
    result = run_worker(files, before=f"sys.executable = {str(stand_in)!r}")
    assert result.status is Status.COMPLETED
    assert set(result.metrics) == {"error", "duration_s"}
    assert result.metrics["error"] == 0.25
    assert "measuring ended with exit code" in measurement(result)["reason"]


def test_what_a_library_prints_while_it_is_imported_does_not_cost_the_measurement(tmp_path: Path) -> None:
    noisy = "import os; os.write(1, b'loading the library\\n')\n" + textwrap.dedent(COUNTED)
    result = run_worker(make_measured_job(tmp_path, noisy, SIMULATED))
    assert result.status is Status.COMPLETED
    assert (result.metrics.get("power_w") or 0) > 0, result.extra


@pytest.mark.parametrize("how", ["the stop file", "SIGTERM"])
def test_a_worker_told_to_stop_while_measuring_ends_soon_with_a_completed_job(tmp_path: Path, how: str) -> None:
    script = """
        import json, os, signal, subprocess, sys, time
        if json.load(open(sys.argv[-1]))["task"] == "profile":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            child = subprocess.Popen(["sleep", "600"])
            with open("pids", "w") as file:
                file.write(f"{os.getpid()} {child.pid}\\n")
            os.rename("pids", "begun")
            time.sleep(600)
        print('{"error": 0.25}')
    """
    files = make_measured_job(tmp_path, script, {"meter": "host"})
    process = start_worker(files)
    wait_for(tmp_path / "begun")
    begun = time.monotonic()
    if how == "SIGTERM":
        process.send_signal(signal.SIGTERM)
    else:
        files.stop.write_text("enough\n")
    process.wait(60)
    assert time.monotonic() - begun < 5
    result = Result.from_json(read_json(files.result) or {})
    assert result.status is Status.COMPLETED
    assert set(result.metrics) == {"error", "duration_s"}
    assert "stop" in measurement(result)["reason"]
    assert processes_of(tmp_path) == []
    for pid in map(int, (tmp_path / "begun").read_text().split()):
        assert processes._ticks(pid) is None


def test_a_measurement_that_takes_too_long_is_ended_and_says_so(tmp_path: Path) -> None:
    script = """
        import json, sys, time
        if json.load(open(sys.argv[-1]))["task"] == "profile":
            time.sleep(600)
        print('{"error": 0.25}')
    """
    files = make_measured_job(tmp_path, script, {"meter": "host"})
    result = run_worker(files, patches={"worker.LONGEST_MEASUREMENT_S": 2.0})
    assert result.status is Status.COMPLETED
    assert "2 s" in measurement(result)["reason"]  # nobody asked it to stop
    assert processes_of(tmp_path) == []


def test_workers_measure_one_at_a_time(tmp_path: Path) -> None:
    script = """
        import json, sys, time
        job = json.load(open(sys.argv[-1]))
        if job["task"] == "profile":
            begun = time.time()
            time.sleep(job["seconds"] + 0.15)
            open("spans", "a").write(json.dumps([begun, time.time()]) + "\\n")
            print('{"steps": 10, "duration_s": 1.0}')
        else:
            print('{"error": 0.25}')
    """
    first = make_measured_job(tmp_path, script, {"meter": "host"})
    second = JobFiles(first.folder.with_name("000002"))
    second.folder.mkdir()
    write_json(second.job, {**(read_json(first.job) or {}), "id": 2})
    workers = [start_worker(files) for files in (first, second)]
    assert [process.wait(60) for process in workers] == [0, 0]
    spans = sorted(json.loads(line) for line in (tmp_path / "spans").read_text().splitlines())
    assert len(spans) == 2
    assert spans[0][1] <= spans[1][0]
    for files in (first, second):
        assert ((read_json(files.result) or {})["metrics"]["memory_bytes"] or 0) > 0


def test_the_heartbeat_goes_on_while_measuring(tmp_path: Path) -> None:
    script = """
        import json, sys, time
        if json.load(open(sys.argv[-1]))["task"] == "profile":
            open("begun", "w").close(); time.sleep(600)
        print('{"error": 0.25}')
    """
    files = make_measured_job(tmp_path, script, {"meter": "host"})
    process = start_worker(files, patches={"worker.HEARTBEAT_S": 0.2})
    wait_for(tmp_path / "begun")
    os.utime(files.heartbeat, (0, 0))
    wait_until(lambda: files.heartbeat.stat().st_mtime > 0)
    process.terminate()
    process.wait(60)


def test_a_worker_that_is_killed_while_measuring_loses_no_training_and_leaves_no_process(tmp_path: Path) -> None:
    script = """
        import json, os, sys, time
        if json.load(open(sys.argv[-1]))["task"] == "profile":
            again = os.path.exists("begun")
            with open("pid", "w") as file:
                file.write(str(os.getpid()))
            os.rename("pid", "begun")
            time.sleep(0.6 if again else 600)
            print('{"steps": 10, "duration_s": 0.5}')
        else:
            open("trainings", "a").write("x")
            print('{"error": 0.25, "note": "kept"}')
    """
    files = make_measured_job(tmp_path, script, {"meter": "host"})
    process = start_worker(files)
    wait_for(tmp_path / "begun")
    process.kill()
    process.wait(60)
    killed_s = time.time()
    assert not files.result.exists()
    deadline = time.monotonic() + 5
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(tmp_path) == []
    start_worker(files, attempt=2).wait(60)
    result = Result.from_json(read_json(files.result) or {})
    assert result.status is Status.COMPLETED
    assert (tmp_path / "trainings").read_text() == "x"
    assert result.metrics["error"] == 0.25
    assert result.extra["note"] == "kept"
    assert (result.metrics["memory_bytes"] or 0) > 0
    assert result.started_s < result.ended_s <= killed_s  # nobody worked until the second attempt
    files.result.unlink()  # whoever does that wants another training
    start_worker(files, attempt=3).wait(60)
    assert (tmp_path / "trainings").read_text() == "xx"

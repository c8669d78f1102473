"""Power loss: after every fsync of a search, what is durable by then is rebuilt, and the search is resumed from it.

The worst case is rebuilt: a name is there if its directory was fsynced since it was given, a file's content is that of
its last fsync, and empty, or zeros, where there was none.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from searching import all_params, drive, make_experiment, results

from hyperpower_runner.experiment import Experiment
from hyperpower_runner.trial import Status

JOBS = 3
SCRIPT = """
    import json, os, sys
    job = json.load(open(sys.argv[-1]))
    descriptor = os.open("../record", os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, (json.dumps({"script": job["id"]}) + "\\n").encode())
    open(os.path.join(os.path.dirname(sys.argv[-1]), "progress.jsonl"), "a").write('{"epoch": 1, "error": 0.5}\\n')
    print(json.dumps({"error": job["params"]["x"]}))
"""
MODELS = {"power_w": {"form": "linear", "weights": {"n": 1.0}, "intercept": 0.0}}
Event = dict[str, Any]


class Disk:
    """What is durable after some of the recorded events."""

    def __init__(self, events: list[Event]) -> None:
        self.contents = {event["inode"]: base64.b64decode(event["content"]) for event in events if "content" in event}
        self.names = {event["inode"]: event["names"] for event in events if "names" in event}
        self.kinds = {event["inode"] for event in events if "names" in event}

    def rebuild(self, inode: int, target: Path, original: Path, lost: bytes) -> None:
        """Write a directory as it would be found; `lost` is in files that were never fsynced."""
        target.mkdir()
        for name, inner in self.names.get(inode, {}).items():
            was = original / name
            if inner in self.contents:
                (target / name).write_bytes(self.contents[inner])
            elif inner in self.kinds or was.is_dir():
                self.rebuild(inner, target / name, was, lost)
            elif name != "driver.lock":
                (target / name).write_bytes(lost)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, list[Event]]:
    """A search, and what each of its fsyncs made durable."""
    folder = tmp_path_factory.mktemp("power")
    bounds = {"constraints": {"power_w": 40}, "budget": {"evaluations": JOBS}, "early-termination": False}
    experiment = make_experiment(folder / "search", SCRIPT, **bounds)
    (experiment.root / "hardware").mkdir()
    experiment.models_file.write_text(json.dumps({"schema": 1, "models": MODELS}))
    record = folder / "record"
    record.touch()
    words = [sys.executable, str(Path(__file__).parent / "power.py"), str(record), "run", str(experiment.root)]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    return experiment, [json.loads(line) for line in record.read_text().splitlines()]


def disk_after(experiment: Experiment, events: list[Event]) -> Callable[[Path, bytes], Experiment]:
    """Rebuild what is durable after these events; config.json, the script and the models always were."""
    root = experiment.root

    def rebuild(target: Path, lost: bytes) -> Experiment:
        disk, inode = Disk(events), root.stat().st_ino
        disk.names.setdefault(inode, {})
        for name in ("config.json", "train.py"):
            disk.names[inode][name] = (root / name).stat().st_ino
            disk.contents[(root / name).stat().st_ino] = (root / name).read_bytes()
        disk.names[inode].pop("hardware", None)
        disk.rebuild(inode, target, root, lost)
        (target / "hardware").mkdir()
        (target / "hardware" / "models.json").write_bytes(experiment.models_file.read_bytes())
        return Experiment(target)

    return rebuild


@pytest.mark.parametrize("lost", [b"", b"\0" * 64], ids=["empty", "zeros"])
def test_a_search_goes_on_from_what_any_power_loss_leaves(
    recorded: tuple[Experiment, list[Event]], tmp_path: Path, lost: bytes
) -> None:
    experiment, events = recorded
    wanted, rejected = all_params(experiment), dict(experiment.read_rejections())
    assert len(wanted) == JOBS
    assert rejected
    fsyncs = [number for number, event in enumerate(events) if "inode" in event]
    assert len(fsyncs) > 6 * JOBS
    for number in fsyncs:
        (tmp_path / "record").touch()
        left = disk_after(experiment, events[: number + 1])(tmp_path / f"search-{number}", lost)
        before = {path: path.read_bytes() for path in left.jobs.glob("*/result.json")}
        drive(left)
        assert all_params(left) == wanted, f"after event {number}, {events[number]['path']}"
        assert [result.status for result in results(left).values()] == [Status.COMPLETED] * JOBS
        assert dict(left.read_rejections()) == rejected
        assert {path: path.read_bytes() for path in before} == before


def test_nothing_goes_on_before_what_it_rests_on_is_durable(
    recorded: tuple[Experiment, list[Event]], tmp_path: Path
) -> None:
    experiment, events = recorded
    for number, event in enumerate(events):
        if "script" not in event:
            continue
        job_id = event["script"]
        left = disk_after(experiment, events[:number])(tmp_path / f"search-{number}", b"")
        assert left.job_files(job_id).job.exists()  # else another job might get its claim
        assert left.job_files(job_id).last_attempt() == 1  # else a job that ends the machine were tried for ever
        assert sorted(results(left)) == list(range(1, job_id))  # each result before the next job begins
    assert [event["script"] for event in events if "script" in event] == [1, 2, 3]
    left = disk_after(experiment, events)(tmp_path / "end", b"")
    assert sorted(results(left)) == [1, 2, 3]

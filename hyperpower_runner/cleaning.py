"""What a search left in its directory, told from what others put there, and how it is deleted.

A folder of a job is moved into one that is to be deleted, and deleted there. While that one exists, of which an
interrupted deletion takes care, the jobs beside it are but a part, and are not read as a history (see `experiment`). It
neither asks nor looks whether anything runs.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from hyperpower_runner.experiment import Experiment
from hyperpower_runner.job_files import make_folder

TEMPORARY = r"\.{}\.[0-9a-f]{{12}}"  # of `job_files.write_text`
JOB_FILE = r"((job|result|trained|launch|attempt-\d+)\.json|progress(-\d+)?\.jsonl|output\.log|heartbeat|stop)"
OF_A_JOB = re.compile(f"{JOB_FILE}|{TEMPORARY.format(JOB_FILE)}")
OF_STATE = re.compile(rf"driver\.json|finished\.jsonl|\.finished\.jsonl\.new|{TEMPORARY.format('driver.json')}")
SCRATCH = {"measuring": re.compile(r"\d{6,}"), "profiling": re.compile(r"\d{6,}-\d+")}  # in state/: folders of networks


def jobs_left(experiment: Experiment) -> list[Path]:
    """The folders of jobs: with a job.json, or with nothing that this program does not write."""
    return [folder for job_id in experiment.job_ids() if _is_of_a_job(folder := experiment.job_files(job_id).folder)]


def others_left(experiment: Experiment) -> list[Path]:
    """What else a search left: rejected candidates, a request to stop, caches; not what the lock takes away."""
    found = [path for path in (experiment.rejected_file, experiment.stop_file) if _is_own_file(path)]
    for path in _entries(experiment.state):
        if path != experiment.holder_file and OF_STATE.fullmatch(path.name) and _is_own_file(path):
            found.append(path)
        elif path.name in SCRATCH and path.is_dir():
            inside = _entries(path)
            found += [each for each in inside if SCRATCH[path.name].fullmatch(each.name) and each.is_dir()]
            found += [path] if not inside and not path.is_symlink() else []
    return [*found, *([experiment.deleted] if experiment.deleted.is_dir() else [])]


def delete(experiment: Experiment, jobs: Iterable[Path], others: Iterable[Path]) -> list[Path]:
    """Delete what `jobs_left` and `others_left` found; returns it, or the directory that has gone with all of it.

    Raises OSError. Where it is interrupted, the next `delete` goes on with what it finds.
    """
    gone = [*(jobs := list(jobs)), *(others := list(others))]
    if jobs:
        make_folder(experiment.deleted)
        for left in _entries(experiment.deleted):  # by a deletion that was interrupted
            _delete(left)
    for folder in jobs:
        moved = experiment.deleted / folder.name
        folder.rename(moved)
        _delete(moved)
    for path in others:
        if path != experiment.deleted:
            _delete(path)
    if experiment.deleted.exists():  # last: until then, the rest is a part
        shutil.rmtree(experiment.deleted)
    for directory in (experiment.jobs, *(experiment.state / name for name in SCRATCH)):
        inside = [path for path in gone if path.parent == directory]
        with contextlib.suppress(OSError):  # it is not there, a link, or holds what others put into it
            directory.rmdir()
            gone = [*(path for path in gone if path not in inside), directory]
    return gone


def _is_of_a_job(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    names = [path.name for path in folder.iterdir()]
    return "job.json" in names or all(OF_A_JOB.fullmatch(name) for name in names)


def _is_own_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _delete(path: Path) -> None:
    """Delete a file, or a directory with all in it; of a link, what it leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()

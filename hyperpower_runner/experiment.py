"""The experiment directory: where every file lies, and how it is read.

    config.json, jobs/000001/..., rejected.jsonl, hardware/models.json, state/, driver.lock, stop

What is on disk is the only state of a search; a trial's status is derived from it. It does not decide anything.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hyperpower_runner import processes
from hyperpower_runner.config import ExperimentConfig, parse_text
from hyperpower_runner.errors import ConfigError, ExperimentError, did_you_mean, shortened
from hyperpower_runner.finished import FinishedJobs, Stamp, stamp_of
from hyperpower_runner.hardware import models as hardware_models
from hyperpower_runner.hardware.features import Features, load_features
from hyperpower_runner.hardware.platforms import is_simulated
from hyperpower_runner.hardware.profile import Profile, read_profile
from hyperpower_runner.history import History
from hyperpower_runner.job_files import (
    SCHEMA,
    JobFiles,
    append_json_line,
    make_folder,
    read_json,
    read_json_and_look,
    read_json_lines,
    write_json,
)
from hyperpower_runner.locks import HeldDirectory
from hyperpower_runner.trial import Job, Rejection, Result, Status, Trial
from hyperpower_runner.untrusted import open_regular

REJECTION = re.compile(  # a whole line of rejected.jsonl
    rb'\{"schema": %d, "id": (\d{1,9}), "platform": \{[^{}]*\}, "discarded": (\d{1,9}), ' % SCHEMA
    + rb'"first": \[(?:.*"predictions": \{[^{}]*\}\})?\]\}\n'
)
MOST_DISCARDED = 10**15  # candidates, for one job: more cannot have been looked at
LONGEST_CAUSE = 200  # of what is wrong with a file
INTERPRETERS = ("python", "python3", "bash", "sh", "Rscript", "julia", "node", "perl", "ruby")


class Experiment(HeldDirectory):
    """An experiment directory."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.config_file = root / "config.json"
        self.jobs = root / "jobs"
        self.deleted = self.jobs / ".deleted-by-clean"  # there while jobs are deleted, see `cleaning`
        self.rejected_file = root / "rejected.jsonl"
        self.profile_file = root / "hardware" / "profile.jsonl"
        self.models_file = root / "hardware" / "models.json"
        self.finished = FinishedJobs(self.state / "finished.jsonl", self.jobs)

    # --- what the user wrote

    def read_config(self, *, runnable: bool = True) -> ExperimentConfig:
        """Read and check config.json, which must say what to run if `runnable`; raises ConfigError."""
        where = str(self.config_file)
        try:
            with open_regular(self.config_file) as file:
                text = file.read().decode("utf-8-sig")
        except FileNotFoundError:
            missing = "holds no config.json" if self.root.is_dir() else "is not a directory"
            raise ConfigError(f"{self.root}: {missing}; make an experiment with: hyperpower-runner init DIR") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{where}: cannot be read ({error})") from None
        return parse_text(text, where, runnable=runnable)

    def check_command(self, config: ExperimentConfig) -> None:
        """Raise ConfigError unless the program, and the script that an interpreter is given, can be run here."""
        command, where = config.command, str(self.config_file)
        program = command[0]
        if "/" in program:
            self._check_script(program, where)
            if not os.access(self.root / program, os.X_OK):
                raise ConfigError(f'{where}: objective.command: "{program}" is not executable; run chmod +x on it')
        elif shutil.which(program, path=processes.search_path()) is None:
            raise ConfigError(f'{where}: objective.command: there is no program "{program}" on the PATH')
        if Path(program).name in INTERPRETERS:
            words = list(command[1:])
            if words[:2] == ["-m", "hyperpower_runner.objective"]:
                words = words[2:]
            if words and not words[0].startswith("-"):
                self._check_script(words[0], where)

    def _check_script(self, script: str, where: str) -> None:
        path = self.root / script
        if path.is_dir():
            raise ConfigError(f'{where}: objective.command: "{script}" is a directory; name the script in it')
        if not path.is_file():
            beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            raise ConfigError(
                f'{where}: there is no script "{script}" in {path.parent}{did_you_mean(path.name, beside)}'
            )

    def read_models(self, config: ExperimentConfig) -> hardware_models.HardwareModels:
        """Read hardware/models.json; a set that predicts nothing where there is none."""
        content = read_json(self.models_file)
        if content is None:
            return hardware_models.HardwareModels(config.space)
        where, features = str(self.models_file), self.read_features(config)
        return hardware_models.from_json(content, config.space, config.platform, where, features)

    def has_simulated_models(self) -> bool:
        """Whether hardware/models.json is of a simulated platform; False where it cannot be read, told later."""
        try:
            platform = (read_json(self.models_file) or {}).get("platform")
        except ExperimentError:
            return False
        return isinstance(platform, dict) and is_simulated(platform)

    def read_features(self, config: ExperimentConfig) -> Features | None:
        """The hook `features(params)` of the objective's script, where that is in Python and has one."""
        scripts = [word for word in config.command if word.endswith(".py")]
        return load_features(self.root / scripts[0]) if scripts else None

    def read_profile(self, config: ExperimentConfig) -> Profile:
        """Read hardware/profile.jsonl: what was measured on the platform of config.json, and complaints of the rest."""
        return read_profile(self.profile_file, config.space).on(config.platform)

    # --- jobs

    def job_files(self, job_id: int) -> JobFiles:
        return JobFiles(self.jobs / f"{job_id:06d}")

    def write_job(self, job: Job) -> None:
        """Make a job's folder with its job.json; raises ExperimentError where something of a job is there."""
        files = self.job_files(job.job_id)
        make_folder(self.jobs)
        files.folder.mkdir(exist_ok=True)
        if files.result.exists() or files.last_attempt():
            raise ExperimentError(f"{files.folder}: holds what is left of another job; delete this folder, then resume")
        # A job that a power loss takes away before its worker claims it (see `worker.main`) is proposed again.
        if not write_json(files.job, job.to_json(), exclusive=True, named=False):
            raise ExperimentError(f"{files.job}: was written by another driver; see who runs this search with status")

    def restore_job(self, job: Job) -> None:
        """Write the job.json of a job without a result again where it has vanished."""
        files = self.job_files(job.job_id)
        make_folder(files.folder)
        if not files.job.exists():
            write_json(files.job, job.to_json())

    def read_history(self) -> History:
        """Read all jobs and their results, by job id: finished ones as `finished` knows them, the others from files.

        What `finished` did not know, it can write down when the one who holds the lock finds the time for `keep`.
        Raises ExperimentError, also where `clean` did not delete all jobs.
        """
        if self.deleted.exists():
            raise ExperimentError(
                f"{self.deleted}: clean has not deleted all jobs yet, so those that are left are but a part; where it"
                f" was interrupted, finish it with: hyperpower-runner clean {shlex.quote(str(self.root))}"
            )
        with _without_looking_for_garbage():
            known, shared = self.finished.read(), dict[str, Any]()
            trials = list(known.values())
            for job_id in self.job_ids():
                if job_id not in known:
                    trial, stamp = self._read_trial(job_id, shared)
                    trials += [trial] if trial is not None else []
                    self.finished.unkept += [(stamp, trial)] if trial is not None and stamp is not None else []
            return History(trials)

    def read_trial(self, job_id: int) -> Trial | None:
        """Read one job; None for a folder that a driver was about to fill when it was killed."""
        return self._read_trial(job_id, {})[0]

    def _read_trial(self, job_id: int, shared: dict[str, Any]) -> tuple[Trial | None, Stamp | None]:
        """Likewise, and the stamp of its files if it has ended; shared: what jobs have in common, once in memory."""
        path = self._job_file(job_id, "job.json")
        content, look = read_json_and_look(path)
        if content is None:
            files = self.job_files(job_id)
            left = "a result" if files.result.exists() else "the claim of a worker" if files.last_attempt() else None
            if left is not None:
                raise ExperimentError(f"{files.folder}: holds {left} but no job.json; restore it or delete the folder")
            return None, None
        try:
            job = Job.from_json(_with_shared(content, shared))
            _check_id(job.job_id, job_id)
        except (KeyError, TypeError, ValueError) as error:
            found = shortened(repr(error), LONGEST_CAUSE)
            raise ExperimentError(f"{path}: is not a job file ({found}); restore it or delete its folder") from None
        result, ended_look = self._read_result(job_id)
        return Trial(job, result), stamp_of(look, ended_look)

    def read_result(self, job_id: int) -> Result | None:
        return self._read_result(job_id)[0]

    def _read_result(self, job_id: int) -> tuple[Result | None, os.stat_result | None]:
        path = self._job_file(job_id, "result.json")
        content, look = read_json_and_look(path)
        if content is None:
            return None, None
        try:
            _check_id(content.get("id", job_id), job_id)
            return Result.from_json(content), look
        except (KeyError, TypeError, ValueError) as error:
            found = shortened(repr(error), LONGEST_CAUSE)
            raise ExperimentError(
                f"{path}: is not a result ({found}); restore it, or delete it for one more attempt at the job"
            ) from None

    def write_result(self, job_id: int, result: Result) -> Result:
        """Write a result for a job whose worker cannot; returns the one that stands, as the worker may be first.

        For a job whose folder was deleted none is written: the next driver shall not find a result without its job.
        """
        files = self.job_files(job_id)
        if not files.job.exists():
            return result
        write_json(files.result, {"id": job_id, **result.to_json()}, exclusive=True)
        return self.read_result(job_id) or result

    def status(self, trial: Trial) -> Status:
        """Where a job stands, derived from its files."""
        if trial.result is not None:
            return trial.result.status
        return Status.RUNNING if self.may_run(trial.job.job_id) else Status.PENDING

    def working_spans(self, history: History, now_s: float) -> list[tuple[float, float]]:
        """When jobs ran, as (begin, end) in seconds since the epoch; of a job tried again, the last attempt.

        A job on another host ran for as long as that was seen: its host may be gone for days.
        """
        spans = [(trial.result.started_s, trial.result.ended_s) for trial in history if trial.result is not None]
        for trial in history.unfinished:
            worker, signs = self._worker(trial.job_id), self.job_files(trial.job_id).signs_s()
            if worker is not None and signs is not None:
                (begun_s, seen_s), age_s = signs, processes.age_s(worker)
                if age_s is not None and not now_s - age_s <= begun_s <= now_s:  # somebody has set the clock since
                    begun_s = now_s - age_s
                spans.append((begun_s, now_s if age_s is not None else seen_s))
        return spans

    def may_run(self, job_id: int) -> bool:
        """Whether a worker of this job lives, or cannot be seen from this host."""
        return self._worker(job_id) is not None

    def _worker(self, job_id: int) -> dict[str, Any] | None:
        """Who claimed the latest attempt at a job; None where it is dead, or there was none."""
        files = self.job_files(job_id)
        identity = files.claim(files.last_attempt())
        return identity if identity is not None and processes.works_in(files.folder, identity) is not False else None

    def silent_s(self, job_id: int, now_s: float) -> float | None:
        """For how many seconds a worker that cannot be seen from this host has given no sign of life.

        None where there is no worker, or one that can be seen. now_s: in seconds since the epoch.
        """
        worker, files = self._worker(job_id), self.job_files(job_id)
        signs_s = files.signs_s()
        if worker is None or signs_s is None or processes.works_in(files.folder, worker) is not None:
            return None
        return max(0.0, now_s - signs_s[1])

    def unfinished(self) -> list[int]:
        """The jobs without a result."""
        files = {job_id: self.job_files(job_id) for job_id in self.job_ids()}
        return [job_id for job_id, each in files.items() if not each.result.exists() and each.job.exists()]

    def count(self) -> int:
        """How many jobs there are."""
        return len(self.job_ids())

    def _job_file(self, job_id: int, name: str) -> str:
        """A path as text, since making it a `Path` takes longer than reading a small file."""
        return f"{self.jobs}/{job_id:06d}/{name}"

    def job_ids(self) -> list[int]:
        """The jobs that have a folder, whatever is in it."""
        try:
            names = [entry.name for entry in os.scandir(self.jobs)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(int(name) for name in names if name.isdecimal() and name == f"{int(name):06d}")

    # --- candidates that never ran

    def append_rejection(self, job_id: int, rejection: Rejection, platform: Mapping[str, Any]) -> None:
        discarded, first = rejection.discarded, list(rejection.first)
        line = {"schema": SCHEMA, "id": job_id, "platform": dict(platform), "discarded": discarded, "first": first}
        append_json_line(self.rejected_file, line, durable=True)

    def read_rejections(self) -> Mapping[int, int]:
        """How many candidates were discarded, by job id; a line written again by a resumed driver counts once."""
        discarded = {}
        for line in read_json_lines(self.rejected_file, _counted):
            job_id, count = line.get("id"), line.get("discarded")
            if isinstance(job_id, int) and isinstance(count, int) and 0 <= count <= MOST_DISCARDED:
                discarded[job_id] = count
        return discarded


def _counted(line: bytes) -> dict[str, Any] | None:
    """How many candidates a line of rejected.jsonl counts, without reading them: of many jobs there are gigabytes."""
    found = REJECTION.fullmatch(line)
    return {"id": int(found[1]), "discarded": int(found[2])} if found else None


def _with_shared(content: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """The content of a job.json, where what stood in another one already is that one's object."""
    return {
        name: shared.setdefault(repr(value), value) if isinstance(value, dict | list) and name != "params" else value
        for name, value in content.items()
    }


@contextlib.contextmanager
def _without_looking_for_garbage() -> Iterator[None]:
    """For a block that keeps all it makes: among a million new objects, to look for cycles takes as long as they do."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _check_id(found: object, folder: int) -> None:
    """Raise ValueError for a file that was copied from another job's folder."""
    if type(found) is not int or found != folder:
        raise ValueError(f"its id is {found!r}, but its folder is that of job {folder}")

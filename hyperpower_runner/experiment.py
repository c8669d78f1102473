"""The experiment directory: where every file lies, how it is read, and the lock of the one driver.

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
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from hyperpower_runner import presence, processes
from hyperpower_runner.config import ExperimentConfig, parse_text
from hyperpower_runner.errors import ConfigError, ExperimentError, LockedError, did_you_mean
from hyperpower_runner.finished import FinishedJobs
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
    read_json_lines,
    write_json,
)
from hyperpower_runner.trial import Job, Rejection, Result, Status, Trial

INTERPRETERS = ("python", "python3", "bash", "sh", "Rscript", "julia", "node", "perl", "ruby")


class Experiment:
    """An experiment directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config_file = root / "config.json"
        self.jobs = root / "jobs"
        self.rejected_file = root / "rejected.jsonl"
        self.profile_file = root / "hardware" / "profile.jsonl"
        self.models_file = root / "hardware" / "models.json"
        self.state = root / "state"
        self.holder_file = self.state / "driver.json"
        self.finished = FinishedJobs(self.state / "finished.jsonl", self.jobs)
        self.lock_file = root / "driver.lock"
        self.stop_file = root / "stop"

    # --- what the user wrote

    def read_config(self, *, runnable: bool = True) -> ExperimentConfig:
        """Read and check config.json, which must say what to run if `runnable`; raises ConfigError."""
        where = str(self.config_file)
        try:
            text = self.config_file.read_text(encoding="utf-8-sig")
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
        make_folder(files.folder)
        if files.result.exists() or files.last_attempt():
            raise ExperimentError(f"{files.folder}: holds what is left of another job; delete this folder, then resume")
        if not write_json(files.job, job.to_json(), exclusive=True):
            raise ExperimentError(f"{files.job}: was written by another driver; see who runs this search with status")

    def restore_job(self, job: Job) -> None:
        """Write the job.json of a job without a result again where it has vanished."""
        files = self.job_files(job.job_id)
        make_folder(files.folder)
        if not files.job.exists():
            write_json(files.job, job.to_json())

    def read_history(self, *, keep: bool = False) -> History:
        """Read all jobs and their results, by job id: finished ones as `finished` knows them, the others from files.

        keep: whether to write down there what it did not know, as only the one who holds the lock may.
        """
        with _without_looking_for_garbage():
            known, fresh = self.finished.read(), []
            trials = list(known.values())
            for job_id in self._job_ids():
                if job_id not in known:
                    stamp = self.finished.stamp(job_id)  # before the files are read, lest a change between be missed
                    trial = self.read_trial(job_id)
                    trials += [trial] if trial is not None else []
                    fresh += [(stamp, trial)] if trial is not None and trial.ended and stamp is not None else []
            if keep:
                self.finished.keep(fresh)
            return History(trials)

    def read_trial(self, job_id: int) -> Trial | None:
        """Read one job; None for a folder that a driver was about to fill when it was killed."""
        path = self._job_file(job_id, "job.json")
        content = read_json(path)
        if content is None:
            files = self.job_files(job_id)
            left = "a result" if files.result.exists() else "the claim of a worker" if files.last_attempt() else None
            if left is not None:
                raise ExperimentError(f"{files.folder}: holds {left} but no job.json; restore it or delete the folder")
            return None
        try:
            job = Job.from_json(content)
            _check_id(job.job_id, job_id)
        except (KeyError, TypeError, ValueError) as error:
            raise ExperimentError(f"{path}: is not a job file ({error!r}); restore it or delete its folder") from None
        return Trial(job, self.read_result(job_id))

    def read_result(self, job_id: int) -> Result | None:
        path = self._job_file(job_id, "result.json")
        content = read_json(path)
        if content is None:
            return None
        try:
            _check_id(content.get("id", job_id), job_id)
            return Result.from_json(content)
        except (KeyError, TypeError, ValueError) as error:
            raise ExperimentError(
                f"{path}: is not a result ({error!r}); restore it, or delete it to have the job run again"
            ) from None

    def write_result(self, job_id: int, result: Result) -> Result:
        """Write a result for a job whose worker cannot; returns the one that stands, as the worker may be first."""
        write_json(self.job_files(job_id).result, {"id": job_id, **result.to_json()}, exclusive=True)
        return self.read_result(job_id) or result

    def status(self, trial: Trial) -> Status:
        """Where a job stands, derived from its files."""
        if trial.result is not None:
            return trial.result.status
        return Status.RUNNING if self.may_run(trial.job.job_id) else Status.PENDING

    def working_spans(self, history: History, now_s: float) -> list[tuple[float, float]]:
        """When jobs ran, as (begin, end) in seconds since the epoch; of a job tried again, the last attempt."""
        spans = [(trial.result.started_s, trial.result.ended_s) for trial in history if trial.result is not None]
        for trial in history.unfinished:
            if self.may_run(trial.job_id):
                files = self.job_files(trial.job_id)
                spans.append((files.attempt(files.last_attempt()).stat().st_mtime, now_s))
        return spans

    def may_run(self, job_id: int) -> bool:
        """Whether a worker of this job lives, or cannot be seen from this host."""
        files = self.job_files(job_id)
        attempt = files.last_attempt()
        identity = read_json(files.attempt(attempt)) if attempt else None
        return identity is not None and processes.is_alive(identity) is not False

    def live_jobs(self) -> list[int]:
        """The jobs without a result that have a worker which may live."""
        return [job_id for job_id in self.unfinished() if self.may_run(job_id)]

    def unfinished(self) -> list[int]:
        """The jobs without a result."""
        files = {job_id: self.job_files(job_id) for job_id in self._job_ids()}
        return [job_id for job_id, each in files.items() if not each.result.exists() and each.job.exists()]

    def count(self) -> int:
        """How many jobs there are."""
        return len(self._job_ids())

    def _job_file(self, job_id: int, name: str) -> str:
        """A path as text, since making it a `Path` takes longer than reading a small file."""
        return f"{self.jobs}/{job_id:06d}/{name}"

    def _job_ids(self) -> list[int]:
        try:
            names = [entry.name for entry in os.scandir(self.jobs)]
        except FileNotFoundError:
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
        for line in read_json_lines(self.rejected_file):
            job_id, count = line.get("id"), line.get("discarded")
            if isinstance(job_id, int) and isinstance(count, int):
                discarded[job_id] = count
        return discarded

    # --- the driver

    @contextlib.contextmanager
    def lock(
        self, doing: str = "search", note: Callable[[str], None] = lambda text: None
    ) -> Iterator[Callable[[], bool]]:
        """Hold the directory as its one driver; raises LockedError naming the process that holds it.

        doing: what for, in a word that others are told: "search", "profiling", or "cleaning"; note: is told where it
        must be watched whether the last holder, on another host, still beats. Yields a function that says whether
        another driver has overtaken this one, which the kernel prevents where its locks reach.
        """
        lock = filelock.FileLock(self.lock_file)
        try:
            lock.acquire(timeout=0.5, poll_interval=0.05)  # not 0: `holder` takes it for a moment
        except filelock.Timeout:
            raise self._locked(self._read_holder()) from None
        except NotImplementedError as error:
            raise LockedError(f"{self.lock_file}: this file system has no locks ({error}); use another one") from None
        try:
            self._check_last_holder(note)
            self.clear_stop()  # before anybody can know whom to stop
            make_folder(self.state)
            with presence.shown(self.holder_file, {**presence.of(self.root), "doing": doing}) as overtaken:
                yield overtaken
        finally:
            lock.release()

    def _check_last_holder(self, note: Callable[[str], None]) -> None:
        """Raise LockedError where the last holder lives, although its lock cannot be seen."""
        holder = self._read_holder()
        alive = presence.lives(holder, self.root) if holder else False
        if holder and alive is None:
            note(
                f"Process {holder['pid']} on {holder['host']} left no word that its {holder.get('doing', 'search')}"
                f" ended; watching for {presence.WATCH_S:g} s whether it still beats"
            )
            alive = presence.beats(self.holder_file)
        if holder and alive:
            raise self._locked(holder)

    def _locked(self, holder: Mapping[str, Any] | None) -> LockedError:
        who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
        what = (holder or {}).get("doing", "search")
        return LockedError(
            f"{self.root}: its {what} is already run by {who}; wait for it, or end it with:"
            f" hyperpower-runner stop {shlex.quote(str(self.root))}"
        )

    @contextlib.contextmanager
    def device_lock(
        self, platform: Mapping[str, Any], note: Callable[[str], None] = lambda text: None
    ) -> Iterator[None]:
        """Hold the device that "platform" of config.json names: of a user's processes here, one at a time measures.

        A simulated platform is none, and can be held by all at once. note: is told where another process holds it.
        """
        if is_simulated(platform):
            yield
            return
        words = ["hyperpower-runner", str(os.getuid()), platform.get("meter"), platform.get("device", "")]
        name = re.sub(r"[^A-Za-z0-9.-]", "_", "-".join(map(str, words)))
        lock = filelock.FileLock(Path(tempfile.gettempdir()) / f"{name}.lock")
        try:
            lock.acquire(timeout=0.5, poll_interval=0.05)
        except filelock.Timeout:
            note(f"Waiting for another process that measures on this device ({lock.lock_file}).")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def holder(self) -> dict[str, Any] | None:
        """The process that drives the search now, wherever it runs.

        The kernel's lock says whether there is one. Of one on another host, where locks may not reach, its file says
        so: "seen_s" is how many seconds ago it beat by this host's clock, "beats" whether that is not long ago.
        """
        holder = self._read_holder()
        if self.lock_file.exists():
            lock = filelock.FileLock(self.lock_file)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                return self._read_holder() or {"pid": "?", "host": "?"}  # it may have come a moment ago
            except (OSError, NotImplementedError):  # a directory that may only be read, or without locks
                pass
            else:
                lock.release()
        alive = presence.lives(holder, self.root) if holder else False
        if holder and alive is None:
            seen_s = presence.age_s(self.holder_file)
            return {**holder, "seen_s": seen_s, "beats": seen_s < 3 * presence.WATCH_S}
        return holder if alive else None

    def _read_holder(self) -> dict[str, Any] | None:
        try:
            holder = read_json(self.holder_file)
        except ExperimentError:
            return None
        return holder if holder is not None and "pid" in holder and "host" in holder else None

    def request_stop(self, reason: str, *, cancel: bool = False) -> None:
        """Ask the driver, wherever it runs, to start no more jobs, or also to cancel the running ones."""
        write_json(self.stop_file, {"reason": reason, "cancel": cancel})

    def stop_request(self) -> dict[str, Any] | None:
        """The request to stop, or None; any file of that name is one, also one that `touch` made."""
        try:
            return read_json(self.stop_file)
        except ExperimentError:
            return {}

    def clear_stop(self) -> None:
        self.stop_file.unlink(missing_ok=True)

    def clean(self) -> list[Path]:
        """Delete what a search leaves behind, and return it; config.json, hardware/ and the user's files stay."""
        removed = [path for path in (self.jobs, self.state, self.rejected_file, self.stop_file) if path.exists()]
        for path in removed:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        return removed


@contextlib.contextmanager
def _without_looking_for_garbage() -> Iterator[None]:
    """For a block that keeps all it makes: to look for cycles among a million new objects takes as long as making them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _check_id(found: object, folder: int) -> None:
    """Raise ValueError for a file that was copied from another job's folder."""
    if found != folder:
        raise ValueError(f"its id is {found!r}, but its folder is that of job {folder}")

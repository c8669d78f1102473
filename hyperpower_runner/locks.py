"""Who may drive a directory, and who may measure on a device: one process at a time.

The kernel's locks say so where they reach; a directory's holder also shows itself in a file that beats (`presence`). It
knows nothing of what is done while a lock is held.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from hyperpower_runner import presence
from hyperpower_runner.errors import ExperimentError, LockedError, printable, shortened
from hyperpower_runner.hardware.platforms import is_simulated
from hyperpower_runner.job_files import make_folder, read_json, touched_ns, write_json

STOPPABLE = ("search", "profiling")  # which look at the file `stop`
TASKS = (*STOPPABLE, "cleaning", "stopping")  # what a directory is held for
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK)  # of file systems without flock
LARGEST_PID = 2**32


class HeldDirectory:
    """A directory that one process at a time drives, which others can ask to stop."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.holder_file = self.state / "driver.json"
        self.lock_file = root / "driver.lock"
        self.stop_file = root / "stop"

    @contextlib.contextmanager
    def lock(
        self, doing: str = "search", note: Callable[[str], None] = lambda text: None
    ) -> Iterator[Callable[[], bool]]:
        """Hold the directory as its one driver; raises LockedError naming the process that holds it.

        doing: what for, a word of TASKS that others are told; note: is told where it must be watched whether the last
        holder, on another host, still beats. Yields a function that says whether another driver has overtaken this one,
        which the kernel prevents where its locks reach. Where the file system has none, the holder's file alone says
        who holds the directory.
        """
        lock = _lock_on(self.lock_file)
        try:
            _acquire(lock, 0.5)  # not 0: `holder` takes it for a moment
        except filelock.Timeout:
            raise self._locked(self._read_holder()) from None
        try:
            asked_ns = touched_ns(self.stop_file)
            self._check_last_holder(note)
            if doing in STOPPABLE and touched_ns(self.stop_file) == asked_ns:  # else it was asked of this one meanwhile
                self.clear_stop()
            make_folder(self.state)
            try:
                with presence.shown(self.holder_file, {**presence.of(self.root), "doing": doing}) as overtaken:
                    yield overtaken
            finally:
                if doing == "cleaning":
                    with contextlib.suppress(OSError):  # something is kept in it
                        self.state.rmdir()
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
        end = f", or end it with: hyperpower-runner stop {shlex.quote(str(self.root))}" if what in STOPPABLE else ""
        return LockedError(f"{self.root}: its {what} is already run by {who}; wait for it{end}")

    def holder(self) -> dict[str, Any] | None:
        """The process that drives the search now, wherever it runs.

        The kernel's lock says whether there is one. Of one on another host, where locks may not reach, its file says
        so: "seen_s" is how many seconds ago it beat by this host's clock, "beats" whether that is not long ago.
        """
        holder = self._read_holder()
        if self.lock_file.exists():
            lock = _lock_on(self.lock_file)
            try:
                _acquire(lock, 0.0)
            except filelock.Timeout:
                return self._read_holder() or {"pid": "?", "host": "?"}  # it may have come a moment ago
            except OSError:  # a directory that may only be read
                pass
            else:
                lock.release()
        alive = presence.lives(holder, self.root) if holder else False
        if holder and alive is None:
            seen_s = presence.age_s(self.holder_file)
            return {**holder, "seen_s": seen_s, "beats": seen_s < 3 * presence.WATCH_S}
        return holder if alive else None

    def _read_holder(self) -> dict[str, Any] | None:
        """What the process wrote of itself that holds, or held, the directory; None where its file says nothing."""
        try:
            holder = read_json(self.holder_file) or {}
        except ExperimentError:
            return None
        pid, host, doing = holder.get("pid"), holder.get("host"), holder.get("doing")
        if type(pid) is not int or abs(pid) > LARGEST_PID or not isinstance(host, str):
            return None
        shown = {"host": printable(shortened(host)), "doing": doing if doing in TASKS else TASKS[0]}
        return {**{key: value for key, value in holder.items() if key not in ("seen_s", "beats")}, **shown}

    def request_stop(self, reason: str, *, cancel: bool = False) -> None:
        """Ask the driver, wherever it runs, to start no more jobs, or also to cancel the running ones."""
        self._check_stop_file()
        write_json(self.stop_file, {"reason": reason, "cancel": cancel})

    def stop_request(self) -> dict[str, Any] | None:
        """The request to stop, or None; any file of that name is one, also one that `touch` made."""
        try:
            return read_json(self.stop_file)
        except ExperimentError:
            return {}
        except OSError:  # which passes, and the request, if there is one, stays
            return None

    def clear_stop(self) -> None:
        self._check_stop_file()
        self.stop_file.unlink(missing_ok=True)

    def _check_stop_file(self) -> None:
        if self.stop_file.is_dir():
            raise ExperimentError(
                f"{self.stop_file}: is a directory, but requests to stop are a file of this name; rename the directory"
            )


@contextlib.contextmanager
def device_lock(platform: Mapping[str, Any], note: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Hold the device that "platform" of config.json names: of a user's processes here, one at a time measures.

    A simulated platform is none, and can be held by all at once. note: is told where another process holds it.
    """
    if is_simulated(platform):
        yield
        return
    words = ["hyperpower-runner", str(os.getuid()), platform.get("meter"), platform.get("device", "")]
    name = re.sub(r"[^A-Za-z0-9.-]", "_", "-".join(map(str, words)))
    lock = _lock_on(Path(tempfile.gettempdir()) / f"{name}.lock")
    try:
        held = _acquire(lock, 0.5)
    except filelock.Timeout:
        note(f"Waiting for another process that measures on this device ({lock.lock_file}).")
        held = _acquire(lock, -1)
    if not held:
        raise LockedError(
            f"{lock.lock_file}: its file system has no locks, by which one process at a time measures on a device; set"
            " TMPDIR to a directory of another one"
        )
    try:
        yield
    finally:
        lock.release()


def _lock_on(path: Path) -> filelock.BaseFileLock:
    """The kernel's lock on a file; not a marker in its place, which a killed process would leave for ever."""
    return filelock.FileLock(path, fallback_to_soft=False)


def _acquire(lock: filelock.BaseFileLock, timeout_s: float) -> bool:
    """Take a lock, waiting for ever if `timeout_s` is negative; False where the file system has none.

    Raises filelock.Timeout where another process keeps it, OSError where its file cannot be written.
    """
    try:
        lock.acquire(timeout=timeout_s, poll_interval=0.05)
    except filelock.Timeout:  # which is an OSError
        raise
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise OSError(error.errno, error.strerror, lock.lock_file) from None  # some versions do not name it
        return False
    return True

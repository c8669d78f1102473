"""The learning curve that a script appends to progress.jsonl, read as it grows, and what the stopping rule says of it.

Whatever a script writes there costs little: a line that is no point of this job's curve is passed over, and of a file
that is too long the rest is not read. It does not know what is done about a decision.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hyperpower_runner.job_files import LONGEST_LINE, AppendedLines, as_number
from hyperpower_runner.stopping import CONTINUE, CurvePoint, Decision, StoppingRule, WatchedCurve

LOOK_BYTES = 2 * LONGEST_LINE  # read in one look, so that others of the worker's duties do not wait for long
MOST_BYTES = 16 << 20  # of the file, beyond which nothing more is read


class LearningCurve:
    """The curve of one job.

    metric: the one that the search minimises. epoch: the last one reported; reached: the last finite value of the
    metric; is_full: whether the file became longer than is read.
    """

    def __init__(self, path: Path, job_id: int, metric: str, rule: StoppingRule | None) -> None:
        self.path = path
        self.epoch: float | None = None
        self.reached: float | None = None
        self.is_full = False
        self._job_id = job_id
        self._metric = metric
        self._watched = WatchedCurve(rule) if rule is not None else None
        self._lines = AppendedLines(path)
        self._size = 0  # when it was last looked at
        self._is_behind = False

    @property
    def decision(self) -> Decision:
        """What the rule says of the points read so far."""
        return self._watched.decision if self._watched is not None else CONTINUE

    def look(self) -> bool:
        """Read what was added, of which a long piece is left for the next look; False where nothing was to be read."""
        try:
            size = self.path.stat().st_size
        except OSError:  # there is none yet, or a shared file system is away
            return False
        if self.is_full or (size == self._size and not self._is_behind):
            return False
        try:
            begun = self._lines.offset
            lines = self._lines.new(LOOK_BYTES)
        except OSError:
            return False
        has_read = self._lines.offset != begun
        self._is_behind = has_read and self._lines.offset < size
        self._size, self.is_full = size, size > MOST_BYTES
        for line in lines:
            self._take(line)
        return has_read

    def read_out(self) -> None:
        """Read to the end, or to where reading ends."""
        while self.look():
            pass

    def _take(self, line: dict[str, Any]) -> None:
        epoch = as_number(line.get("epoch"))
        if epoch is None or not math.isfinite(epoch) or line.get("id", self._job_id) != self._job_id:
            return
        self.epoch = epoch
        value = as_number(line.get(self._metric))
        self.reached = value if value is not None and math.isfinite(value) else self.reached
        if self._watched is not None:
            self._watched.add(CurvePoint(epoch, as_number(line.get("error")), as_number(line.get("loss"))))

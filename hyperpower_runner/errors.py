"""The errors that this package raises on purpose, and nothing about how they are shown.

HyperPowerError             what the user can act on; the command line prints it as one sentence and exits with 1
├── ConfigError             config.json (or a dict in its form) says something that is not allowed
├── ExpressionError         a known constraint is not in the expression language
├── ParamsError             params that are not a point of the search space
├── InfeasibleError         no feasible point could be found in the space
├── SpaceExhaustedError     every feasible point has been tried: the search ends
├── SearchError             a search was told what is no result of one of its jobs
├── MeterError              a device that is not there, may not be read, is busy, or went away
├── InferenceError          an objective's inference step could not be run to its end
├── ProfileError            hardware/profile.jsonl holds what cannot be used, or too little of it
├── ModelsError             hardware/models.json does not fit the space or is not a models file
├── ExperimentError         a file of an experiment directory is missing, unreadable or of a newer schema
├── LockedError             another driver holds the experiment
├── LaunchError             a job could not be started
└── ObjectiveError          a wrapper script was called or written wrongly

Every message is one sentence that names the file or the key, what was found, what is allowed, and what to do next.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

# Errors of the system that may pass: it is short of something, or a file server is away.
PASSING = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.ENOMEM, errno.ENFILE, errno.EMFILE),
    *(errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ESHUTDOWN, errno.EHOSTDOWN),
)


class HyperPowerError(Exception):
    """Base of every error that a user can act on; its message is one line, whatever it quotes."""

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


class ConfigError(HyperPowerError):
    """config.json (or a dict in its form) says something that is not allowed."""


class ExpressionError(HyperPowerError):
    """A known constraint is not in the expression language."""


class ParamsError(HyperPowerError):
    """Params that are not a point of the search space."""


class InfeasibleError(HyperPowerError):
    """No feasible point could be found in the space."""


class SpaceExhaustedError(HyperPowerError):
    """Every feasible point has been tried."""


class SearchError(HyperPowerError):
    """A search was told what is no result of one of its jobs."""


class MeterError(HyperPowerError):
    """A device that is not there, may not be read, is busy, or went away."""


class InferenceError(HyperPowerError):
    """An objective's inference step could not be run to its end."""


class ProfileError(HyperPowerError):
    """hardware/profile.jsonl holds what cannot be used, or too little of it."""


class ModelsError(HyperPowerError):
    """hardware/models.json does not fit the space, or is not a models file."""


class ExperimentError(HyperPowerError):
    """A file of an experiment directory is missing, unreadable, or written by a newer version."""


class LockedError(HyperPowerError):
    """Another driver holds the experiment."""


class LaunchError(HyperPowerError):
    """A job could not be started."""


class ObjectiveError(HyperPowerError):
    """A wrapper script was called or written wrongly."""


def shortened(text: str, most: int = 80) -> str:
    """Return the beginning of a text that may be too long to quote in a sentence."""
    return text if len(text) <= most else text[:most] + "..."


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """Return '; did you mean "..."?' for the nearest known spelling, or '' when none is near."""
    import difflib  # here, because wrapper scripts import this module and must start fast

    spellings = {name.lower(): name for name in known}
    near = difflib.get_close_matches(found.lower(), spellings, n=1, cutoff=0.6)
    return f'; did you mean "{spellings[near[0]]}"?' if near else ""


def printable(text: str) -> str:
    """Return a text as one line that no terminal obeys: line ends and control characters are escaped."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)

"""What "scheduler-args" of config.json may say: options of sbatch, as the words of a command line.

It knows which of them the launcher sets itself, and nothing of the cluster: whether there is such a partition, only
Slurm can say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hyperpower_runner.errors import ConfigError, shortened

KEY = "scheduler-args"
OWN = (  # those by which the launcher finds its jobs and their output, and those that ask for something else than a job
    *("job-name", "output", "error", "open-mode", "chdir", "requeue", "no-requeue", "wrap", "parsable"),
    *("array", "wait", "test-only", "clusters", "help", "usage", "version"),
)
OWN_LETTERS = {
    **{"J": "job-name", "o": "output", "e": "error", "D": "chdir", "a": "array", "W": "wait"},
    **{"M": "clusters", "h": "help", "V": "version"},
}


def words_of(arguments: Mapping[str, str | bool | int | float] | Sequence[str]) -> tuple[str, ...]:
    """Turn {"partition": "low", "exclusive": true}, or the words themselves, into words; raises ConfigError."""
    words: list[str] = []
    if isinstance(arguments, Mapping):
        for name, value in arguments.items():
            words += _words_of_option(name, value)
    else:
        words += arguments
    for word in words:
        name = _name(word)
        own = OWN_LETTERS.get(name) or next((own for own in OWN if len(name) > 1 and own.startswith(name)), None)
        if own is not None:
            raise ConfigError(f"{KEY}: the option {own} is for the launcher itself to set; delete it")
        if "\0" in word or word == "--":
            raise ConfigError(f"{KEY}: {shortened(word)!r} is no option of sbatch; delete it")
    return tuple(words)


def say_time(words: Sequence[str]) -> bool:
    """Whether these options limit the time of a job."""
    names = [_name(word) for word in words]
    return any(name == "t" or (len(name) > 2 and "time".startswith(name)) for name in names)


def _words_of_option(name: str, value: str | bool | int | float) -> list[str]:
    """One option: true is given without a value, false not at all."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name):
        raise ConfigError(
            f'{KEY}: "{shortened(name)}" is no option of sbatch; write its name as in {{"partition": "low"}}'
        )
    if value is False:
        return []
    if len(name) == 1:
        return [f"-{name}"] if value is True else [f"-{name}", str(value)]
    return [f"--{name}"] if value is True else [f"--{name}={value}"]


def _name(word: str) -> str:
    """The option that a word begins, "" where it begins none: "partition" for --partition=low, "p" for -plow."""
    return word[2:].partition("=")[0] if word.startswith("--") else word[1:2] if word.startswith("-") else ""

"""What "scheduler-args" of config.json may say: options of sbatch, as the words of a command line.

It knows which of them the launcher sets itself, and nothing of the cluster: whether there is such a partition, only
Slurm can say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from hyperpower_runner.errors import ConfigError, shortened

KEY = "scheduler-args"
OWN = (  # those by which the launcher finds its jobs and their output, and those that ask for something else than a job
    *("job-name", "output", "error", "open-mode", "chdir", "requeue", "no-requeue", "wrap", "parsable"),
    *("array", "wait", "test-only", "clusters", "help", "usage", "version"),
)
OWN_LETTERS = {
    **{"J": "job-name", "o": "output", "e": "error", "D": "chdir", "a": "array", "W": "wait"},
    **{"M": "clusters", "h": "help", "u": "usage", "V": "version"},
}
FLAGS = (  # which take no value, or none that is a word of its own; all others are taken to have one
    *("contiguous", "exclusive", "get-user-env", "help", "hold", "ignore-pbs", "nice", "no-kill", "no-requeue"),
    *("overcommit", "oversubscribe", "parsable", "propagate", "quiet", "reboot", "requeue", "spread-job", "stepmgr"),
    *("test-only", "usage", "use-min-nodes", "verbose", "version", "wait"),
)
FLAG_LETTERS = "hHOQsuvVW"  # which another letter may follow: -HJname is -H -J name


def words_of(arguments: Mapping[str, str | bool | int | float] | Sequence[str]) -> tuple[str, ...]:
    """Turn {"partition": "low", "exclusive": true}, or the words themselves, into words; raises ConfigError."""
    words: list[str] = []
    if isinstance(arguments, Mapping):
        for name, value in arguments.items():
            words += _words_of_option(name, value)
    else:
        words += arguments
    for name in _names(words):
        own = OWN_LETTERS.get(name) or next((own for own in OWN if len(name) > 1 and own.startswith(name)), None)
        if own is not None:
            raise ConfigError(f"{KEY}: the option {own} is for the launcher itself to set; delete it")
    for word in words:
        if "\0" in word or word == "--":
            raise ConfigError(f"{KEY}: {shortened(word)!r} is no option of sbatch; delete it")
    return tuple(words)


def say_time(words: Sequence[str]) -> bool:
    """Whether these options limit the time of a job."""
    return any(name == "t" or (len(name) > 2 and "time".startswith(name)) for name in _names(words))


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


def _names(words: Sequence[str]) -> Iterator[str]:
    """The options in words, without values: "partition" for --partition=low, "H" and "J" for -HJname."""
    rest = iter(words)
    for word in rest:
        if word.startswith("--"):
            name, equals, _ = word[2:].partition("=")
            yield name
            if not equals and not any(flag.startswith(name) for flag in FLAGS):
                next(rest, None)
        elif word.startswith("-"):
            flags = len(word[1:]) - len(word[1:].lstrip(FLAG_LETTERS))
            yield from word[1 : 1 + flags]
            with_value = word[1 + flags :]
            yield from with_value[:1]
            if len(with_value) == 1 and with_value != "k":  # whose value, if any, follows at once
                next(rest, None)

"""Options of sbatch: as an object or as words, without those that are the launcher's own."""

from __future__ import annotations

from typing import Any

import pytest

from hyperpower_runner.errors import ConfigError
from hyperpower_runner.sbatch_options import say_time, words_of


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, ()),
        ([], ()),
        ({"partition": "low", "gres": "gpu:1", "time": "2:00"}, ("--partition=low", "--gres=gpu:1", "--time=2:00")),
        ({"exclusive": True, "overcommit": False, "nice": -5}, ("--exclusive", "--nice=-5")),
        ({"p": "low", "n": 4, "H": True}, ("-p", "low", "-n", "4", "-H")),
        ({"constraint": "[a|b]", "comment": "two words"}, ("--constraint=[a|b]", "--comment=two words")),
        (["-p", "low", "--mem=4G", "-n2"], ("-p", "low", "--mem=4G", "-n2")),
        ({"wait-all-nodes": 1, "export": "NONE"}, ("--wait-all-nodes=1", "--export=NONE")),
        (["--comment", "-Jx", "-C", "-o", "-HpJ"], ("--comment", "-Jx", "-C", "-o", "-HpJ")),  # these are values
    ],
)  # fmt: skip
def test_an_object_and_words_say_the_same(arguments: Any, words: tuple[str, ...]) -> None:
    assert words_of(arguments) == words


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ({"job-name": "mine"}, "job-name"),
        ({"J": "mine"}, "job-name"),
        (["-Jmine"], "job-name"),
        (["-HJmine"], "job-name"),
        (["-HsJ", "mine"], "job-name"),
        (["-k", "-Jmine"], "job-name"),
        (["--exclusive", "-Jmine"], "job-name"),
        (["--nice=5", "-Jmine"], "job-name"),
        (["-plow", "-Jmine"], "job-name"),
        (["-Hu"], "usage"),
        (["--job=mine"], "job-name"),  # sbatch lets names be cut short
        ({"output": "log"}, "output"),
        (["-o", "log"], "output"),
        ({"e": "log"}, "error"),
        ({"chdir": "/"}, "chdir"),
        (["--array=1-9"], "array"),
        (["-a", "1-9"], "array"),
        ({"wait": True}, "wait"),
        ({"requeue": True}, "requeue"),
        ({"no-requeue": True}, "no-requeue"),
        ({"wrap": "true"}, "wrap"),
        ({"parsable": True}, "parsable"),
        ({"open-mode": "truncate"}, "open-mode"),
        ({"test-only": True}, "test-only"),
        ({"clusters": "other"}, "clusters"),
        (["-M", "other"], "clusters"),
        (["--help"], "help"),
        (["-V"], "version"),
    ],
)
def test_what_the_launcher_sets_itself_is_refused(arguments: Any, option: str) -> None:
    with pytest.raises(ConfigError, match=f"scheduler-args: the option {option} is for the launcher itself to set"):
        words_of(arguments)


@pytest.mark.parametrize("name", ["--partition", "", "a b", "ü", "-p", "a=b"])
def test_what_is_no_name_of_an_option_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r'no option of sbatch; write its name as in \{"partition": "low"\}'):
        words_of({name: "x"})


@pytest.mark.parametrize("word", ["--", "--comment=a\0b", "a\0b"])
def test_words_that_no_program_can_be_given_are_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="is no option of sbatch; delete it"):
        words_of([word])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--time=5"], True),
        (["--time", "5"], True),
        (["-t", "5"], True),
        (["-t5"], True),
        (["-Ht5"], True),
        (["--comment", "-t5"], False),
        (["--tim=5"], True),
        (["--time-min=5"], False),
        (["--ti=5"], False),
        (["--partition=time", "-n", "t"], False),
        ([], False),
    ],
)
def test_a_limit_of_time_is_recognised(words: list[str], said: bool) -> None:
    assert say_time(words) is said

"""config.json: every key arrives, and each way to get it wrong is one sentence that helps."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperpower_runner.config import ExperimentConfig, parse, parse_text
from hyperpower_runner.config_file import ConfigFile, json_schema
from hyperpower_runner.errors import ConfigError
from hyperpower_runner.space import Variable
from hyperpower_runner.stopping import StoppingRule

SMALLEST: dict[str, Any] = {
    "objective": {"command": ["python", "train.py"]},
    "variables": {"n": {"type": "INT", "min": 1, "max": 9}},
}


def with_variable(name: str = "n", **entry: Any) -> dict[str, Any]:
    return {**SMALLEST, "variables": {name: entry}}


def refusal(content: object) -> str:
    """The sentence with which a config is refused, as a file would be."""
    text = content if isinstance(content, str) else json.dumps(content)
    with pytest.raises(ConfigError) as caught:
        parse_text(text, "my/config.json")
    return str(caught.value)


SYNTAX = {
    "an empty file": ("", ["empty", "line 1"]),
    "blanks": (" \n\n ", ["empty"]),
    "a file cut after a line break": ('{"seed": 1,\n', ["line 2", "ends"]),
    "a file cut within a text": ('{"seed', ["line 1", '{"seed']),
    "a trailing comma": ('{\n "seed": 1,\n}', ["line "]),
    "a missing comma": ('{\n "seed": 1\n "method": "rand"}', ["line 3", '"method"']),
    "single quotes": ("{'seed': 1}", ["line 1", "{'seed'"]),
    "a comment": ('{"seed": 1} // mine', ["line 1", "// mine"]),
    "python's True": ('{"hardware-aware": True}', ["True"]),
    "a list": ("[1, 2]", ["object", "list"]),
    "a number": ("3", ["object", "int"]),
    "null": ("null", ["object"]),
    "a key twice": ('{"seed": 1, "seed": 2}', ['"seed"', "twice"]),
    "a variable twice": ('{"variables": {"n": {}, "n": {}}}', ['"n"', "twice"]),
    "a number with thousands of digits": ('{"seed": ' + "1" * 5000 + "}", ["digits"]),
    "brackets without end": ("[" * 100_000, []),
    "a line separator": ('{"seed": \u2028 x}', ["line 1"]),
}

BROKEN: dict[str, tuple[dict[str, Any], list[str]]] = {
    "an unknown key": ({**SMALLEST, "frobnicate": 1}, ['"frobnicate"', "allowed", "known-constraints"]),
    "a misspelt key": ({**SMALLEST, "max-concurent": 2}, ['"max-concurent"', '"max-concurrent"']),
    "snake case": ({**SMALLEST, "max_concurrent": 2}, ['"max_concurrent"', '"max-concurrent"']),
    "a misspelt key of a variable": (with_variable(type="INT", mim=1, max=3), ['"mim"', "variables.n", '"min"']),
    "a misspelt key of the objective": (
        {**SMALLEST, "objective": {"comand": ["x"]}},
        ['"comand"', "objective", '"command"'],
    ),
    "a misspelt key of the budget": ({**SMALLEST, "budget": {"evaluation": 3}}, ['"evaluation"', '"evaluations"']),
    "a misspelt key of early termination": (
        {**SMALLEST, "early-termination": {"clases": 10}},
        ['"clases"', "early-termination", '"classes"'],
    ),
    "an unknown key named like a type": ({**SMALLEST, "str": 1}, ['"str"', "allowed"]),
    "an unknown key with a bracket": ({**SMALLEST, "n[0]": 1}, ['"n[0]"', "allowed"]),
    "an unknown key with a line break": ({**SMALLEST, "a\nb": 1}, ["a\\nb", "allowed"]),
    "an empty key": ({**SMALLEST, "": 1}, ['""', "allowed"]),
    "a misspelt key of a variable named float": (
        with_variable("float", type="INT", mim=1, max=3),
        ['"mim"', "variables.float", '"min"'],
    ),
    "a key that only Spearmint has": ({**SMALLEST, "database": {}}, ['"database"', "Spearmint"]),
    "a chooser": ({**SMALLEST, "chooser": "x"}, ['"chooser"', '"method"']),
    "no variables": ({"objective": {"command": ["x"]}}, ['"variables"', "missing"]),
    "empty variables": ({**SMALLEST, "variables": {}}, ["variables", "{}", "empty"]),
    "variables as a list": ({**SMALLEST, "variables": [1]}, ["variables", "[1]", "object"]),
    "a variable as a number": ({**SMALLEST, "variables": {"n": 3}}, ["variables.n", "3", "object"]),
    "a variable without a type": (with_variable(min=1, max=2), ['"type"', "missing", "variables.n"]),
    "an unknown type": (with_variable(type="INTEGER", min=1, max=2), ["variables.n.type", '"INTEGER"', '"INT"?']),
    "a type in lower case": (with_variable(type="int", min=1, max=2), ["variables.n.type", '"int"', '"INT"?']),
    "a variable without min": (with_variable(type="INT", max=2), ["variables.n.min", "missing"]),
    "a variable without max": (with_variable(type="FLOAT", min=2), ["variables.n.max", "missing"]),
    "min above max": (with_variable(type="FLOAT", min=3, max=2), ["variables.n.min", "3", "2", "swap"]),
    "min as a text": (with_variable(type="INT", min="1", max=2), ["variables.n.min", '"1"', "number"]),
    "min as a boolean": (with_variable(type="INT", min=True, max=2), ["variables.n.min", "true", "number"]),
    "min that is not a number": (with_variable(type="FLOAT", min=float("nan"), max=2), ["variables.n.min", "NaN"]),
    "max without end": (with_variable(type="FLOAT", min=0, max=float("inf")), ["variables.n.max", "Infinity"]),
    "a max beyond a float": (with_variable(type="FLOAT", min=0, max=10**400), ["variables.n.max", "number"]),
    "a range too wide for its width": (
        with_variable(type="FLOAT", min=-1e308, max=1e308),
        ["variables.n.min", "1e+308", "1e+300"],
    ),
    "a fractional end of an INT": (with_variable(type="INT", min=0.5, max=2), ["variables.n.min", "0.5", "integer"]),
    "an INT that is too large": (with_variable(type="INT", min=0, max=2**31), ["variables.n.max", "2147483647"]),
    "a log scale through zero": (
        with_variable(type="FLOAT", min=0, max=1, scale="log"),
        ["variables.n.min", "0", '"log"', '"linear"'],
    ),
    "an unknown scale": (
        with_variable(type="INT", min=1, max=2, scale="lgo"),
        ["variables.n.scale", '"lgo"', '"log"?'],
    ),
    "size zero": (
        with_variable(type="INT", min=1, max=2, size=0),
        ["variables.n.size", "0", "greater than or equal to 1"],
    ),
    "a fractional size": (with_variable(type="INT", min=1, max=2, size=1.5), ["variables.n.size", "1.5", "integer"]),
    "an ENUM without options": (with_variable(type="ENUM"), ["variables.n.options", "[]"]),
    "empty options": (with_variable(type="ENUM", options=[]), ["variables.n.options", "[]"]),
    "an option twice": (with_variable(type="ENUM", options=["a", "b", "a"]), ["variables.n.options", "twice", "'a'"]),
    "an option twice, as two kinds of number": (with_variable(type="ENUM", options=[1, 1.0]), ["options", "twice"]),
    "an option that is a list": (with_variable(type="ENUM", options=[["a"]]), ["variables.n.options.0", '["a"]']),
    "an option that is null": (with_variable(type="ENUM", options=["a", None]), ["variables.n.options.1", "null"]),
    "an ENUM with a range": (with_variable(type="ENUM", options=["a"], min=1), ["variables.n.min", "options"]),
    "an ENUM with a scale": (with_variable(type="ENUM", options=["a"], scale="log"), ["variables.n.scale", '"log"']),
    "an INT with options": (with_variable(type="INT", min=1, max=2, options=[1]), ["variables.n.options", "ENUM"]),
    "structural as a number": (with_variable(type="INT", min=1, max=2, structural=1), ["variables.n.structural", "1"]),
    "a variable name with a bracket": (with_variable("n[0]", type="INT", min=1, max=2), ['"n[0]"', "not allowed"]),
    "a variable name with a line break": (with_variable("a\nb", type="INT", min=1, max=2), ["a\\nb", "not allowed"]),
    "an empty variable name": (with_variable("", type="INT", min=1, max=2), ['""', "not allowed"]),
    "nothing to run": ({"variables": SMALLEST["variables"]}, ["objective", "command", "main-file"]),
    "two things to run": ({**SMALLEST, "main-file": "b.py"}, ["objective", "main-file", "keep one"]),
    "an empty command": ({**SMALLEST, "objective": {"command": []}}, ["objective.command", "[]"]),
    "a command as a text": ({**SMALLEST, "objective": {"command": "python a"}}, ["objective.command", '"python a"']),
    "a command with a number": ({**SMALLEST, "objective": {"command": ["a", 3]}}, ["objective.command.1", "3"]),
    "an environment with a number": (
        {**SMALLEST, "objective": {"command": ["a"], "env": {"X": 3}}},
        ["objective.env.X", "3", "string"],
    ),
    "no epochs": ({**SMALLEST, "objective": {"command": ["a"], "epochs": 0}}, ["objective.epochs", "0"]),
    "another language": ({**SMALLEST, "language": "MATLAB"}, ["language", '"MATLAB"', "'PYTHON'"]),
    "an unknown method": ({**SMALLEST, "method": "random"}, ["method", '"random"', '"rand"?']),
    "a misspelt method": ({**SMALLEST, "method": "hw-ieic"}, ["method", '"hw-ieic"', '"hw-ieci"?']),
    "an unknown scheduler": ({**SMALLEST, "scheduler": "pbs"}, ["scheduler", '"pbs"', "'local' or 'slurm'"]),
    "a misspelt scheduler": ({**SMALLEST, "scheduler": "Slurm"}, ["scheduler", '"Slurm"', '"slurm"?']),
    "options of Slurm without it": (
        {**SMALLEST, "scheduler-args": {"partition": "low"}},
        ["scheduler-args", '"local"', '"scheduler": "slurm"'],
    ),
    "an option of the launcher": (
        {**SMALLEST, "scheduler": "slurm", "scheduler-args": {"job-name": "a"}},
        ["scheduler-args", "job-name", "launcher"],
    ),
    "an option of sbatch that is a list": (
        {**SMALLEST, "scheduler": "slurm", "scheduler-args": {"partition": ["a"]}},
        ["scheduler-args.partition", '["a"]'],
    ),
    "options as one text": (
        {**SMALLEST, "scheduler": "slurm", "scheduler-args": "--partition=low"},
        ["scheduler-args", '"--partition=low"', "an object"],
    ),
    "an option that is no text": (
        {**SMALLEST, "scheduler": "slurm", "scheduler-args": ["-n", 2]},
        ["scheduler-args.1", "2", "string"],
    ),
    "a step of zero": ({**SMALLEST, "method-args": {"sigma-0": 0}}, ["method-args.sigma-0", "0"]),
    "no initial points": ({**SMALLEST, "method-args": {"initial-points": 0}}, ["method-args.initial-points", "0"]),
    "half an initial point": (
        {**SMALLEST, "method-args": {"initial-points": 1.5}},
        ["method-args.initial-points", "1.5", "integer"],
    ),
    "an unknown likelihood": ({**SMALLEST, "likelihood": "GAUSIAN"}, ["likelihood", '"GAUSIAN"', '"GAUSSIAN"?']),
    "an unknown likelihood of a task": (
        {**SMALLEST, "tasks": {"error": {"likelihood": "STEP"}}},
        ["tasks.error.likelihood", '"STEP"', "NOISELESS"],
    ),
    "hardware-aware as a text": ({**SMALLEST, "hardware-aware": "yes"}, ["hardware-aware", '"yes"', "boolean"]),
    "early termination as true": ({**SMALLEST, "early-termination": True}, ["early-termination", "true", "false"]),
    "one class": ({**SMALLEST, "early-termination": {"classes": 1}}, ["early-termination.classes", "1", "2"]),
    "no evaluations": ({**SMALLEST, "budget": {"evaluations": 0}}, ["budget.evaluations", "0"]),
    "a negative budget": ({**SMALLEST, "budget": {"evaluations": -5}}, ["budget.evaluations", "-5", "greater than 0"]),
    "negative hours": ({**SMALLEST, "budget": {"hours": -1.5}}, ["budget.hours", "-1.5", "greater than 0"]),
    "hours that are not a number": ({**SMALLEST, "budget": {"hours": float("nan")}}, ["budget.hours", "NaN"]),
    "a budget as a number": ({**SMALLEST, "budget": 50}, ["budget", "50", "object"]),
    "no jobs at a time": ({**SMALLEST, "max-concurrent": 0}, ["max-concurrent", "0"]),
    "half a job at a time": ({**SMALLEST, "max-concurrent": 1.5}, ["max-concurrent", "1.5", "integer"]),
    "jobs at a time as a boolean": ({**SMALLEST, "max-concurrent": True}, ["max-concurrent", "true", "integer"]),
    "a polling time of zero": ({**SMALLEST, "polling-time": 0}, ["polling-time", "0"]),
    "a negative time limit": ({**SMALLEST, "timeout-s": -1}, ["timeout-s", "-1"]),
    "a negative seed": ({**SMALLEST, "seed": -1}, ["seed", "-1"]),
    "negative retries": ({**SMALLEST, "max-retries": -1}, ["max-retries", "-1"]),
    "a negative power budget": ({**SMALLEST, "constraints": {"power_w": -85}}, ["constraints.power_w", "-85"]),
    "a negative error": ({**SMALLEST, "constraints": {"error": -0.1}}, ["constraints.error", "-0.1"]),
    "a bound that is not a number": (
        {**SMALLEST, "constraints": {"power_w": float("nan")}},
        ["constraints.power_w", "NaN"],
    ),
    "a bound of nothing": ({**SMALLEST, "constraints": {"power_w": None}}, ["constraints.power_w", "null", "number"]),
    "a bound without a max": (
        {**SMALLEST, "constraints": {"power_w": {}}},
        ['"max" is missing in constraints.power_w'],
    ),
    "a bound in an unknown unit": ({**SMALLEST, "constraints": {"memory_bytes": "1 GiBi"}}, ['"1 GiBi"', "GiB"]),
    "a bound in the unit of something else": ({**SMALLEST, "constraints": {"power_w": "85 GB"}}, ['"85 GB"', "kW"]),
    "a bound as a text without a unit": (
        {**SMALLEST, "constraints": {"power_w": "85"}},
        ["constraints.power_w", '"85"'],
    ),
    "a bound that is a unit only": ({**SMALLEST, "constraints": {"power_w": "W"}}, ["constraints.power_w", '"W"']),
    "a bound beyond a float": ({**SMALLEST, "constraints": {"power_w": "1e999 W"}}, ['"1e999 W"', "number"]),
    "a negative bound with a unit": ({**SMALLEST, "constraints": {"power_w": "-85 W"}}, ['"-85 W"', "number"]),
    "two points in a number": ({**SMALLEST, "constraints": {"power_w": "1.2.3 W"}}, ['"1.2.3 W"', "number"]),
    "constraints as a list": ({**SMALLEST, "constraints": ["a"]}, ["constraints", '["a"]', "object"]),
    "an unknown variable in a constraint": (
        {**with_variable("fc_units", type="INT", min=1, max=9), "known-constraints": ["fc_unit <= 3"]},
        ["known-constraints", '"fc_unit"', '"fc_units"?'],
    ),
    "a constraint outside the language": (
        {**SMALLEST, "known-constraints": ["open(n) < 1"]},
        ["known-constraints", '"open"'],
    ),
    "a constraint that compares nothing": ({**SMALLEST, "known-constraints": ["n + 1"]}, ['"n + 1"', "compare"]),
    "a constraint as a number": ({**SMALLEST, "known-constraints": [3]}, ["known-constraints.0", "3", "string"]),
    "constraints as a text": ({**SMALLEST, "known-constraints": "n < 3"}, ["known-constraints", '"n < 3"', "list"]),
    "two tasks": ({**SMALLEST, "tasks": {"a": {}, "b": {}}}, ["tasks", "2"]),
    "a task that is a constraint": (
        {**SMALLEST, "tasks": {"a": {"type": "CONSTRAINT"}}},
        ["tasks.a.type", '"CONSTRAINT"'],
    ),
    "a task and another metric": ({**SMALLEST, "tasks": {"a": {}}, "optimize": "b"}, ["optimize", '"b"', '"a"']),
    "a newer schema": ({**SMALLEST, "schema": 99}, ["schema", "99"]),
    "a device that is a list": ({**SMALLEST, "platform": {"device": [0]}}, ["platform.device", "[0]"]),
    "a batch size of zero": ({**SMALLEST, "platform": {"batch-size": 0}}, ["platform.batch-size", "0"]),
}


@pytest.mark.parametrize(("text", "parts"), SYNTAX.values(), ids=SYNTAX.keys())
def test_text_that_is_no_config_is_refused_in_one_sentence(text: str, parts: list[str]) -> None:
    assert_helpful(refusal(text), parts)


@pytest.mark.parametrize(("content", "parts"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_config_is_refused_in_one_sentence(content: dict[str, Any], parts: list[str]) -> None:
    assert_helpful(refusal(content), parts)


def assert_helpful(message: str, parts: list[str]) -> None:
    assert message.startswith("my/config.json: ")
    assert message.isprintable()
    assert len(message) < 700
    for word in ("pydantic", "Traceback", "File]", "Error", "validation"):
        assert word not in message
    for part in parts:
        assert part in message


def test_a_dict_is_refused_like_a_file() -> None:
    with pytest.raises(ConfigError, match='unknown key "sead"'):
        parse({**SMALLEST, "sead": 1})


FULL = {
    "schema": 1,
    "$schema": "config.schema.json",
    "experiment-name": "my search",
    "objective": {"command": ["bash", "run.sh", "-v"], "env": {"A": "1"}, "epochs": 7},
    "variables": {
        "units": {"type": "INT", "min": 20, "max": 700, "size": 2, "scale": "log", "structural": False},
        "rate": {"type": "FLOAT", "min": 0.001, "max": 0.1, "scale": "log", "structural": True},
        "kind": {"type": "ENUM", "options": ["sgd", 3, 0.5, True]},
    },
    "optimize": "loss",
    "constraints": {"power_w": 85, "memory_bytes": "1.15 GB"},
    "known-constraints": ["units[0] <= units[1]", "rate < 0.05"],
    "method": "rand-walk",
    "method-args": {"sigma-0": 0.2, "initial-points": 7},
    "hardware-aware": False,
    "early-termination": {"after-epochs": 3, "classes": 5, "chance-margin": 0.1, "loss-fall": 0.01, "loss-factor": 9},
    "budget": {"evaluations": 50, "hours": 2.5},
    "platform": {"meter": "nvml", "device": 1, "batch-size": 128, "dtype": "float16"},
    "profiling": {"samples": 60, "window-s": 4, "repeats": 2, "most-repeats": 5},
    "tasks": {"loss": {"type": "OBJECTIVE", "likelihood": "NOISELESS"}},
    "likelihood": "NOISELESS",
    "scheduler": "slurm",
    "scheduler-args": {"partition": "low", "exclusive": True},
    "max-concurrent": 4,
    "max-finished-jobs": 40,
    "polling-time": 3,
    "timeout-s": 600,
    "max-retries": 1,
    "max-consecutive-failures": 9,
    "seed": 17,
}


def test_every_key_reaches_the_config() -> None:
    config = parse_text(json.dumps(FULL))
    assert config.name == "my search"
    assert config.command == ("bash", "run.sh", "-v")
    assert config.env == {"A": "1"}
    assert config.epochs == 7
    assert config.space.variables == (
        Variable("units", "INT", 20, 700, size=2, scale="log", structural=False),
        Variable("rate", "FLOAT", 0.001, 0.1, scale="log", structural=True),
        Variable("kind", "ENUM", options=("sgd", 3, 0.5, True)),
    )
    assert [constraint.text for constraint in config.space.constraints] == FULL["known-constraints"]
    assert config.optimize == "loss"
    assert config.constraints == {"power_w": 85, "memory_bytes": 1.15e9}
    assert config.method == "rand-walk"
    assert config.sigma_0 == 0.2
    assert config.initial_points == 7
    assert config.noiseless is True
    assert config.hardware_aware is False
    assert config.stopping_rule == StoppingRule(3, 5, 0.1, 0.01, 9)
    assert config.evaluations == 40  # the smaller one
    assert config.hours == 2.5
    assert config.platform == {"meter": "nvml", "device": 1, "batch-size": 128, "dtype": "float16"}
    assert config.scheduler == "slurm"
    assert config.scheduler_args == ("--partition=low", "--exclusive")
    assert config.max_concurrent == 4
    assert config.polling_time_s == 3
    assert config.timeout_s == 600
    assert config.max_retries == 1
    assert config.max_consecutive_failures == 9
    assert config.seed == 17


def test_the_full_config_of_this_test_leaves_no_key_out() -> None:
    known = {field.alias or name for name, field in ConfigFile.model_fields.items()}
    assert known - FULL.keys() == {"language", "main-file"}


def test_what_is_left_out_has_its_documented_default() -> None:
    config = parse(SMALLEST)
    assert config.optimize == "error"
    assert config.method == "hw-ieci"
    assert config.initial_points == 4
    assert config.noiseless is False
    assert config.hardware_aware is True
    assert config.stopping_rule == StoppingRule()
    assert (config.evaluations, config.hours, config.timeout_s, config.epochs) == (None, None, None, None)
    assert (config.max_concurrent, config.max_retries, config.max_consecutive_failures, config.seed) == (1, 2, 5, 0)
    assert config.space.constraints == ()
    assert (config.scheduler, config.scheduler_args) == ("local", ())


@pytest.mark.parametrize(("entry", "structural"), [
    ({"type": "INT", "min": 1, "max": 2}, True),
    ({"type": "ENUM", "options": ["a"]}, True),
    ({"type": "FLOAT", "min": 1, "max": 2}, False),
])  # fmt: skip
def test_integers_and_choices_shape_the_network_unless_said_otherwise(entry: dict[str, Any], structural: bool) -> None:
    assert parse(with_variable(**entry)).space.variables[0].structural is structural
    for said in (True, False):
        assert parse(with_variable(**entry, structural=said)).space.variables[0].structural is said


SPEARMINT = {
    "language": "PYTHON",
    "main-file": "branin.py",
    "experiment-name": "simple-braninhoo-example",
    "likelihood": "NOISELESS",
    "variables": {
        "X": {"type": "FLOAT", "size": 1, "min": -5, "max": 10},
        "Y": {"type": "FLOAT", "size": 1, "min": 0, "max": 15},
    },
}


def test_the_simple_branin_config_of_spearmint_is_accepted() -> None:
    config = parse(SPEARMINT)
    assert config.name == "simple-braninhoo-example"
    assert config.command == ("python", "-m", "hyperpower_runner.objective", "branin.py")
    assert config.space.variables == (
        Variable("X", "FLOAT", -5, 10, structural=False),
        Variable("Y", "FLOAT", 0, 15, structural=False),
    )
    assert config.optimize == "error"


def test_a_single_task_of_spearmint_names_the_metric() -> None:
    assert parse({**SPEARMINT, "tasks": {"branin": {"type": "OBJECTIVE"}}}).optimize == "branin"


def test_the_budget_is_what_either_key_says() -> None:
    assert parse({**SMALLEST, "max-finished-jobs": 7}).evaluations == 7
    assert parse({**SMALLEST, "budget": {"evaluations": 9}}).evaluations == 9


@pytest.mark.parametrize("method", ["rand", "rand-walk", "hw-cwei", "hw-ieci"])
def test_every_method_is_accepted(method: str) -> None:
    assert parse({**SMALLEST, "method": method}).method == method


@pytest.mark.parametrize(("keys", "noiseless"), [
    ({"likelihood": "NOISELESS"}, True),
    ({"likelihood": "GAUSSIAN"}, False),
    ({"tasks": {"error": {"likelihood": "NOISELESS"}}}, True),
    ({"likelihood": "NOISELESS", "tasks": {"error": {}}}, True),
    ({"likelihood": "NOISELESS", "tasks": {"error": {"likelihood": "GAUSSIAN"}}}, False),
])  # fmt: skip
def test_the_likelihood_of_a_task_counts_more_than_that_of_all(keys: dict[str, Any], noiseless: bool) -> None:
    assert parse({**SMALLEST, **keys}).noiseless is noiseless


def test_a_config_for_asking_alone_needs_nothing_to_run() -> None:
    content = {"variables": SMALLEST["variables"]}
    assert parse(content, runnable=False).command == ()
    assert parse_text(json.dumps(content), runnable=False).command == ()
    assert parse(SMALLEST, runnable=False) == parse(SMALLEST)
    with pytest.raises(ConfigError, match="keep one of them"):
        parse({**SMALLEST, "main-file": "b.py"}, runnable=False)


def test_early_termination_can_be_off() -> None:
    assert parse({**SMALLEST, "early-termination": False}).stopping_rule is None


def test_an_unaware_search_applies_no_hardware_limits() -> None:
    limits = {"power_w": 85.0}
    assert parse({**SMALLEST, "constraints": limits}).hardware_limits == limits
    assert parse({**SMALLEST, "constraints": limits, "hardware-aware": False}).hardware_limits == {}
    assert parse({**SMALLEST, "constraints": limits, "hardware-aware": False}).constraints == limits


@pytest.mark.parametrize(("metric", "text", "bound"), [
    ("memory_bytes", "1.15 GB", 1.15e9),
    ("memory_bytes", "1.15GB", 1.15e9),
    ("memory_bytes", " 2  GiB ", 2 * 2**30),
    ("memory_bytes", "680 MB", 6.8e8),
    ("memory_bytes", "1e3 B", 1000),
    ("memory_bytes", ".5 kB", 500),
    ("peak_memory_bytes", "1. KiB", 1024),
    ("power_w", "85 W", 85),
    ("power_w", "10000 mW", 10),
    ("power_w", "0 W", 0),
    ("energy_j", "0.5 Wh", 1800),
    ("duration_s", "20 ms", 0.02),
    ("error", "25 %", 0.25),
    ("error", "2.5e1%", 0.25),
    ("my_own", "50 %", 0.5),
])  # fmt: skip
def test_bounds_may_be_written_with_a_unit(metric: str, text: str, bound: float) -> None:
    assert parse({**SMALLEST, "constraints": {metric: text}}).constraints[metric] == pytest.approx(bound, rel=1e-15)


def test_bounds_of_ones_own_metrics_may_be_negative() -> None:
    assert parse({**SMALLEST, "constraints": {"log_likelihood": -3}}).constraints == {"log_likelihood": -3}


def test_single_points_and_the_outermost_ranges_are_accepted() -> None:
    for low, high, kind in ((0.5, 0.5, "FLOAT"), (-(2**31) + 1, 2**31 - 1, "INT"), (-1e300, 1e300, "FLOAT")):
        variable = parse(with_variable(type=kind, min=low, max=high)).space.variables[0]
        assert (variable.low, variable.high) == (low, high)
    options = [True, 1, "1", 10**400]
    assert list(parse(with_variable(type="ENUM", options=options)).space.variables[0].options) == options


def test_the_json_schema_is_json_and_describes_every_key() -> None:
    schema = json.loads(json.dumps(json_schema(), allow_nan=False))
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["variables"]
    assert {"language", "main-file", *FULL} <= schema["properties"].keys()
    text = json.dumps(schema)
    for key in ("min", "max", "options", "size", "scale", "structural", "command", "env", "evaluations", "hours"):
        assert f'"{key}"' in text
    for key in (
        "after-epochs",
        "classes",
        "chance-margin",
        "loss-fall",
        "loss-factor",
        "batch-size",
        "sigma-0",
        "initial-points",
    ):
        assert f'"{key}"' in text
    assert "_" not in schema["properties"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from([*FULL, "language", "main-file", "n", "type", "min", "options", "command", "classes", "hours"])
CONFIG_LIKE = st.recursive(
    JSON | st.sampled_from(["INT", "FLOAT", "ENUM", "log", "rand", "n < 3", "85 W", 10**400, -1, 0, 1]),
    lambda inner: st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=4) | st.lists(inner, max_size=2),
    max_leaves=10,
)


def assert_config_or_refusal(text: str) -> None:
    try:
        config = parse_text(text)
    except ConfigError as error:
        assert_helpful(str(error).replace("config.json", "my/config.json", 1), [])
    else:
        assert isinstance(config, ExperimentConfig)


@given(st.text(max_size=40))
def test_arbitrary_text_gives_a_refusal_and_nothing_else(text: str) -> None:
    assert_config_or_refusal(text)


@given(CONFIG_LIKE)
def test_arbitrary_json_gives_a_config_or_a_refusal_and_nothing_else(content: Any) -> None:
    assert_config_or_refusal(json.dumps(content))


@given(st.sampled_from(sorted(FULL)), CONFIG_LIKE)
@settings(max_examples=200)
def test_a_config_with_one_arbitrary_value_gives_a_config_or_a_refusal(key: str, value: Any) -> None:
    assert_config_or_refusal(json.dumps({**FULL, key: value}))


@given(
    st.sampled_from(["variables", "objective", "budget", "early-termination", "platform", "method-args", "tasks"]),
    st.dictionaries(KEYS | st.text(max_size=4), CONFIG_LIKE, max_size=3),
)
def test_a_config_with_arbitrary_entries_gives_a_config_or_a_refusal(key: str, entries: dict[str, Any]) -> None:
    assert_config_or_refusal(json.dumps({**FULL, key: {**FULL[key], **entries}}))  # type: ignore[dict-item]


@given(st.dictionaries(st.sampled_from(["type", "min", "max", "options", "size", "scale"]), CONFIG_LIKE, max_size=4))
def test_a_variable_with_arbitrary_entries_gives_a_config_or_a_refusal(entries: dict[str, Any]) -> None:
    assert_config_or_refusal(json.dumps(with_variable(**{"type": "INT", "min": 1, "max": 3, **entries})))


def test_values_that_only_python_can_hold_are_refused_too() -> None:
    for value in (object(), {1, 2}, {(1, 2): 3}, b"x"):
        with pytest.raises(ConfigError, match="seed"):
            parse({**SMALLEST, "seed": value})

"""The house: which module may import which, and through which door each outside thing is reached."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hyperpower_runner

PACKAGE = Path(hyperpower_runner.__file__).parent

# A module imports only from rows above its own.
ROWS = [
    {"errors", "version", "untrusted"},
    {
        "expression",
        "stopping",
        "trial",
        "job_files",
        "processes",
        "templates",
        "hardware",
        "hardware.traces",
        "hardware.platforms",
        "sbatch_options",
    },
    {"history", "finished", "supervision.attempt", "hardware.measurement", "hardware.margins", "hardware.counting"},
    {f"supervision.{name}" for name in ("process_tree", "script_output", "job_watch", "learning_curve", "reported")},
    {"supervision", "supervision.attending"},
    {"space", "objective", "config_file"},
    {"hardware.profile", "hardware.features", "hardware.terms", "hardware.validation", "hardware.regression"},
    {"config", "hardware.models"},
    {"hardware.fitting", "surrogate.kernels", "surrogate.embedding", "surrogate.outputs", "surrogate.sampling"},
    {"hardware.from_profile"},
    {"surrogate.hyperparameters"},
    {"surrogate.posterior"},
    {"surrogate", "acquisition"},
    {"maximisation", "methods.candidates", "methods.observations"},
    {"methods.rand", "methods.fits"},
    {"methods.rand_walk", "methods.bayesian"},
    {"methods.hw_cwei", "methods.hw_ieci"},
    {"methods.recommendation"},
    {"methods"},
    {"presence"},
    {"locks"},
    {"experiment", "launchers", "summary", "hardware.meters"},
    {"hardware.meters.host", "hardware.meters.nvml", "hardware.meters.jetson"},
    {"hardware.meters.rapl", "hardware.meters.replay", "hardware.meters.simulated"},
    {"hardware.bench"},
    {"hardware.profiling"},
    {"launchers.heartbeats", "launchers.interrupts", "worker", "hardware.measuring"},
    {"launchers.local", "launchers.nursery", "launchers.slurm_commands"},
    {"launchers.slurm_queue"},
    {"launchers.slurm"},
    {"slots", "search", "cleaning"},
    {"hyperpower_runner", "driver", "view"},
    {"profile_view", "terminal"},
    {"control_commands", "checks"},
    {"device_commands"},
    {"cli"},
    {"__main__"},
]
PARTS_OF_WORKERS = (
    *("attempt", "attending", "process_tree", "script_output"),
    *("job_watch", "learning_curve", "reported"),
)
STANDARD_LIBRARY_ONLY = {
    *("errors", "stopping", "trial", "job_files", "processes", "objective", "worker", "templates"),
    *("launchers.nursery", "untrusted", "supervision", *(f"supervision.{name}" for name in PARTS_OF_WORKERS)),
}

# Who may reach out, by what is reached.
DOORS = {
    "subprocess": {"launchers.local", "launchers.slurm_commands", "supervision.process_tree", "hardware.bench"},
    "signal": {
        "launchers.local",
        "launchers.interrupts",
        "launchers.nursery",
        "worker",
        "supervision.process_tree",
        "supervision.attending",
        "supervision.reported",
        "processes",
        "hardware.bench",
        "hardware.measuring",
    },
    "pynvml": {"hardware.meters.nvml"},
    "sklearn": {"hardware.regression"},
    "filelock": {"locks"},
    "pydantic": {"config_file"},
    "typer": {"cli", "terminal", "device_commands", "control_commands"},
    "rich": {"cli", "view", "profile_view"},
    "shutil": {"experiment", "cleaning", "templates", "hardware.profiling", "hardware.measuring"},
    "pickle": set(),
    "random": set(),
    "logging": set(),
    "torch": {"hardware.counting"},
    "emcee": {"surrogate.sampling"},
    "multiprocessing": set(),
    "socket": {"slots"},
}
METERS = {"hardware.bench", *(f"hardware.meters.{name}" for name in ("nvml", "rapl", "jetson", "host"))}
CLOCKS = {
    *("driver", "slots", "worker", "presence", "cli", "view", "objective", "hardware.profiling"),
    *("processes", "supervision.process_tree", "supervision.attending"),
    *("launchers.heartbeats", "launchers.slurm", "launchers.slurm_commands", "launchers.slurm_queue"),
    *METERS,
}
CALLS = {
    "print": {"cli", "control_commands", "terminal", "objective", "worker", "hardware.measuring"},
    "input": set(),
    "eval": set(),
    "exec": set(),
    "time.time": CLOCKS,
    "time.sleep": CLOCKS,
    "time.monotonic": CLOCKS,
    "time.perf_counter": CLOCKS,
    "datetime.now": set(),
    "np.random.default_rng": {
        *("search", "hardware.profiling", "hardware.from_profile", "hardware.meters.simulated"),
    },
    "np.random.seed": set(),
    "os.system": set(),
    "os.fork": {"launchers.nursery"},
    "sys.exit": {"cli", "objective", "worker"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return name or "hyperpower_runner"


# What lies in templates/NAME/ are scripts that users copy; they are no part of the package.
SOURCES = {
    module_name(path): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent.parent != PACKAGE / "templates"
}
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}


def imported(name: str) -> Iterator[str]:
    """Every module that a module names in an import anywhere: in functions and under TYPE_CHECKING too."""
    for node in ast.walk(SOURCES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            module = node.module or ""
            for alias in node.names:
                inner = f"{module}.{alias.name}".removeprefix("hyperpower_runner.")
                yield f"hyperpower_runner.{inner}" if inner in RANK else module


def own(name: str) -> set[str]:
    """The modules of this package that a module imports."""
    found = {target for target in imported(name) if target.partition(".")[0] == "hyperpower_runner"}
    return {target.removeprefix("hyperpower_runner.") for target in found}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def test_every_module_has_its_row() -> None:
    assert set(SOURCES) == set(RANK)
    assert sum(len(row) for row in ROWS) == len(RANK)


@pytest.mark.parametrize("name", SOURCES)
def test_a_module_imports_only_from_the_rows_above_its_own(name: str) -> None:
    upward = {target for target in own(name) if RANK[target] >= RANK[name]}
    assert not upward, f"{name} imports {upward}"


@pytest.mark.parametrize("name", sorted(STANDARD_LIBRARY_ONLY))
def test_what_scripts_and_workers_import_needs_the_standard_library_only(name: str) -> None:
    outside = {target.partition(".")[0] for target in imported(name)} - sys.stdlib_module_names - {"hyperpower_runner"}
    # Spearmint's scripts are handed arrays, so that one function of objective imports numpy.
    assert outside <= ({"numpy"} if name == "objective" else set())
    assert own(name) <= STANDARD_LIBRARY_ONLY


@pytest.mark.parametrize("thing", DOORS)
def test_an_outside_thing_is_imported_by_its_door_only(thing: str) -> None:
    users = {name for name in SOURCES if thing in {target.partition(".")[0] for target in imported(name)}}
    assert users <= DOORS[thing]


@pytest.mark.parametrize("call", CALLS)
def test_an_outside_thing_is_called_by_its_door_only(call: str) -> None:
    users = {
        name
        for name, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and dotted(node.func) == call
    }
    assert users <= CALLS[call]


def test_clocks_and_generators_are_not_imported_under_other_names() -> None:
    for name, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert node.module not in ("time", "numpy.random", "datetime", "subprocess", "signal") or {
                    alias.name for alias in node.names
                } <= {"FrameType"}, f"{name} imports names from {node.module}"
            if isinstance(node, ast.Import):
                assert all(alias.asname in (None, "np") for alias in node.names), f"{name} renames an import"


def test_a_worker_prints_to_stderr_only() -> None:
    for node in ast.walk(SOURCES["worker"]):
        if isinstance(node, ast.Call) and dotted(node.func) == "print":
            assert "sys.stderr" in {dotted(keyword.value) for keyword in node.keywords if keyword.arg == "file"}


def test_only_the_ends_catch_the_base_of_the_errors() -> None:
    catchers = {
        name
        for name, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and node.type is not None and dotted(node.type) == "HyperPowerError"
    }
    assert catchers <= {"cli", "objective", "hardware.measuring"}


def test_the_errors_are_the_ones_drawn_in_their_docstring() -> None:
    from hyperpower_runner import errors

    drawn = {word for word in (errors.__doc__ or "").split() if word.endswith("Error")}
    classes = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert drawn == classes


def test_every_module_says_what_it_is_for() -> None:
    for name, tree in SOURCES.items():
        assert ast.get_docstring(tree), name

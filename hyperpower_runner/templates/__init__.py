"""New experiments: each folder here is one that runs as it is, and is copied by `hyperpower-runner init`."""

from __future__ import annotations

import shutil
from pathlib import Path

from hyperpower_runner.errors import ExperimentError

TEMPLATES = Path(__file__).parent


def write_template(name: str, directory: Path) -> list[Path]:
    """Copy a template into a new or empty directory; returns the files written. Raises ExperimentError."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ExperimentError(f"{directory}: is not an empty directory; name a new one, nothing was written")
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for source in sorted((TEMPLATES / name).iterdir()):
        if source.is_file():
            written.append(Path(shutil.copy(source, directory / source.name)))  # with its permissions
    return written

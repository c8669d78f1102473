"""What cross-validation says of a hardware model: its scores, and its ratios, from which margins come."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hyperpower_runner.errors import ModelsError, shortened


@dataclass(frozen=True)
class Score:
    """Root mean square relative error in cross-validation, and its standard deviation over folds."""

    rmspe: float
    spread: float


@dataclass(frozen=True)
class Validation:
    """What cross-validation, in folds of structures, says of a model.

    constant: the error of the best constant in the same folds. by_form: the score of each form that was tried, or why
        it could not be fitted. ratios: measured / predicted of each sample while its structure was left out, ascending;
        infinite where the prediction was not positive.
    """

    score: Score
    constant: float
    samples: int
    structures: int
    folds: int
    repeats: int
    by_form: Mapping[str, Score | str] = field(default_factory=dict)
    ratios: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "rmspe": self.score.rmspe,
            "spread": self.score.spread,
            "rmspe_constant": self.constant,
            "samples": self.samples,
            "structures": self.structures,
            "folds": self.folds,
            "repeats": self.repeats,
            "forms": {
                form: {"left_out": score} if isinstance(score, str) else {"rmspe": score.rmspe, "spread": score.spread}
                for form, score in self.by_form.items()
            },
            "ratios": [ratio if math.isfinite(ratio) else None for ratio in self.ratios],
        }


def from_json(content: Mapping[str, Any], where: str) -> Validation:
    """Read the scores of a model in models.json; raises ModelsError, naming `where`."""
    for key in ("rmspe", "spread", "rmspe_constant", "samples", "structures", "folds", "repeats"):
        finite(content.get(key), f"{where}: {key}")
    forms, ratios = content.get("forms", {}), content.get("ratios", [])
    if not isinstance(forms, dict) or not isinstance(ratios, list):
        raise ModelsError(f'{where}: "forms" must be an object and "ratios" a list; fit again')
    for ratio in ratios:
        if ratio is not None:
            finite(ratio, f"{where}: one of ratios")
    return Validation(
        Score(float(content["rmspe"]), float(content["spread"])),
        float(content["rmspe_constant"]),
        int(content["samples"]),
        int(content["structures"]),
        int(content["folds"]),
        int(content["repeats"]),
        {form: _score(score, f"{where}: forms.{shortened(form)}") for form, score in forms.items()},
        tuple(sorted(math.inf if ratio is None else float(ratio) for ratio in ratios)),
    )


def _score(content: Any, where: str) -> Score | str:
    if not isinstance(content, dict):
        raise ModelsError(f'{where}: must be an object with "rmspe" and "spread", or with "left_out"; fit again')
    if isinstance(content.get("left_out"), str):
        return str(content["left_out"])
    for key in ("rmspe", "spread"):
        finite(content.get(key), f"{where}.{key}")
    return Score(float(content["rmspe"]), float(content["spread"]))


def finite(value: Any, where: str) -> None:
    """Raise ModelsError unless a value of the file is a finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
        raise ModelsError(f"{where} is {shortened(repr(value))}, but must be a finite number")

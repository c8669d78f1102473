"""From a profile to hardware models: which points count, which metrics can be modelled, and by which form.

It chooses what is fitted; how, is the business of `fitting`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hyperpower_runner.config import ExperimentConfig
from hyperpower_runner.errors import ModelsError, ProfileError, did_you_mean
from hyperpower_runner.hardware.features import Features
from hyperpower_runner.hardware.fitting import fit_metric
from hyperpower_runner.hardware.models import FORMS, HardwareModels, LinearModel
from hyperpower_runner.hardware.platforms import IDENTITY
from hyperpower_runner.hardware.profile import DRIFT, Point, Profile, as_arrays, shown

FOLDS = 10  # of the cross-validation (3.3), and the fewest structures that it takes
FIT = 5  # second word of the seed of the folds


def fit_profile(
    profile: Profile,
    config: ExperimentConfig,
    features: Features | None,
    forms: Mapping[str, str],
    where: str,
    note: Callable[[str], None],
) -> HardwareModels:
    """Fit a model to each metric that was measured at enough structures.

    forms: the form to take by metric, "" for all that are not named; cross-validation chooses where there is none.
    note: is told what was passed over, and why. where: what messages call the profile.

    Raises ProfileError where there are too few points, or points of several platforms; ModelsError where a metric or a
    form is not known, or cannot be fitted.
    """
    for complaint in profile.complaints:
        note(complaint)
    points = _points(profile, where, note)
    values, outcomes = as_arrays(points, config.space, config.protocol)
    computed = features.columns(config.space, values) if features is not None else None
    _check_forms(forms, outcomes)
    models: dict[str, LinearModel] = {}
    for metric, column in outcomes.items():
        known = np.isfinite(column)
        if known.sum() < FOLDS:
            note(f"{metric} gets no model: it was measured at {known.sum()} structures, and {FOLDS} are needed")
            continue
        if (column[known] <= 0).any():
            note(f"{metric} gets no model: it is not above 0 at every structure, and relative errors need that")
            continue
        form = forms.get(metric, forms.get(""))
        note(f"fitting {metric} ...")
        models[metric] = fit_metric(
            config.space,
            values[known],
            {name: feature[known] for name, feature in computed.items()} if computed is not None else None,
            column[known],
            np.random.default_rng([config.seed, FIT]),
            forms=FORMS if form is None else (form,),
            folds=FOLDS,
            where=f"{where}: {metric}",
        )
    if not models:
        raise ProfileError(f"{where}: no metric was measured at {FOLDS} structures or more; profile more of them")
    return HardwareModels(config.space, models, _platform(points), features)


def _points(profile: Profile, where: str, note: Callable[[str], None]) -> list[Point]:
    """The points that count: those with a window of use, all of one platform."""
    if not profile.measured:
        raise ProfileError(f"{where}: there is nothing to fit; measure the platform with: hyperpower-runner profile")
    platforms = list({shown(_identity(point.platform)): None for point in profile.measured})
    if len(platforms) > 1:
        raise ProfileError(
            f"{where}: its points were measured on different platforms ({'; '.join(platforms)}), and a model belongs to"
            ' one; name it in "platform" of config.json, or move the others to another file'
        )
    sound = [point for point in profile.measured if any(window.usable for window in point.windows)]
    if len(sound) < len(profile.measured):
        note(
            f"{len(profile.measured) - len(sound)} structures are passed over: every window of them was to be discarded"
        )
    drifted = sum(DRIFT in point.flags for point in sound)
    if drifted:
        note(f"{drifted} structures were measured while the device drifted, and count all the same")
    if len(sound) < FOLDS:
        raise ProfileError(
            f"{where}: {len(sound)} structures were measured, but {FOLDS}-fold cross-validation takes {FOLDS} or more;"
            " profile more of them with: hyperpower-runner profile --samples N"
        )
    return sound


def _check_forms(forms: Mapping[str, str], metrics: Mapping[str, Any]) -> None:
    for metric, form in forms.items():
        if metric and metric not in metrics:
            known: Sequence[str] = sorted(metrics)
            raise ModelsError(f'--form {metric}={form}: "{metric}" was not measured, there are {", ".join(known)}'
                              f"{did_you_mean(metric, known)}")  # fmt: skip
        if form not in FORMS:
            raise ModelsError(f'--form: "{form}" is no form, there are {", ".join(FORMS)}{did_you_mean(form, FORMS)}')


def _identity(platform: Mapping[str, Any]) -> dict[str, Any]:
    return {key: platform[key] for key in IDENTITY if platform.get(key) is not None}


def _platform(points: Sequence[Point]) -> dict[str, Any]:
    """What all points say of the platform alike, and whether some were measured in short windows."""
    first, *others = (point.platform for point in points)
    shared = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    return {**shared, "quick": True} if any(point.quick for point in points) else shared

"""From a profile to models: which points count, which metrics are modelled and how, and what a file makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperpower_runner.config import ExperimentConfig, parse
from hyperpower_runner.errors import HyperPowerError, ModelsError, ProfileError
from hyperpower_runner.experiment import Experiment
from hyperpower_runner.hardware import from_profile
from hyperpower_runner.hardware.features import Features, load_features
from hyperpower_runner.hardware.from_profile import fit_profile
from hyperpower_runner.hardware.measurement import Window
from hyperpower_runner.hardware.models import FORMS, HardwareModels, LinearModel, from_json
from hyperpower_runner.hardware.profile import Point, Profile, append_point
from hyperpower_runner.hardware.profiling import draw_structures
from hyperpower_runner.job_files import read_json, write_json

CONFIG: dict[str, Any] = {
    "objective": {"command": ["python", "train.py"]},
    "variables": {
        "units": {"type": "INT", "min": 1, "max": 40},
        "depth": {"type": "INT", "min": 1, "max": 5},
        "kind": {"type": "ENUM", "options": ["relu", "tanh"]},
        "rate": {"type": "FLOAT", "min": 0.1, "max": 1},
    },
    "platform": {"meter": "nvml", "batch-size": 32},
}
PLATFORM = {"meter": "nvml", "name": "board", "batch-size": 32, "dtype": "float32", "framework": "torch 2"}
WHERE = "my/hardware/profile.jsonl"
COUNTS = """
def features(params):
    return {"parameters": params["units"] ** 2 * params["depth"] + 3, "macs": 50 * params["units"] * params["depth"]}
"""

Formula = Callable[[Mapping[str, Any]], float | None]


def config_of(**changes: Any) -> ExperimentConfig:
    return parse({**CONFIG, **changes})


def power_of(params: Mapping[str, Any]) -> float:
    """Linear in the numbers and the option, with an intercept; and what no variable explains, of 1 %."""
    wiggle = 1 + 0.01 * np.sin(7.0 * params["units"] + 3.0 * params["depth"])
    return float((30 + params["units"] + 5 * params["depth"] + 4 * (params["kind"] == "tanh")) * wiggle)


def memory_of(params: Mapping[str, Any]) -> float:
    """Linear in the parameters that `COUNTS` counts, and in no variable."""
    return float(4e4 * (params["units"] ** 2 * params["depth"] + 3) + 1e6)


def profile_of(
    count: int, platform: Mapping[str, Any] = PLATFORM, windows: int = 2, first_id: int = 1, **metrics: Formula
) -> Profile:
    """Drawn structures, each measured `windows` times, with metrics that are formulas of the params."""
    space = config_of().space
    points = []
    for place, values in enumerate(draw_structures(space, count, 0)):
        params = space.to_params(values)
        found = {name: formula(params) for name, formula in (metrics or {"power_w": power_of}).items()}
        points.append(Point(first_id + place, params, (Window(dict(found)),) * windows, platform))
    return Profile(tuple(points))


def fit(profile: Profile, features: Features | None = None, **forms: str) -> tuple[HardwareModels, list[str]]:
    """Fit, with forms by metric ("every" for all that are not named); the models and the notes."""
    notes: list[str] = []
    named = {"" if metric == "every" else metric: form for metric, form in forms.items()}
    return fit_profile(profile, config_of(), features, named, WHERE, notes.append), notes


def refusal(profile: Profile, **forms: str) -> str:
    with pytest.raises(HyperPowerError) as caught:
        fit(profile, None, **forms)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def linear_model(models: HardwareModels, metric: str) -> LinearModel:
    model = models.models[metric]
    assert isinstance(model, LinearModel)
    return model


def rmspe(model: LinearModel) -> float:
    assert model.validation is not None
    return model.validation.score.rmspe


@pytest.fixture
def plain_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare the forms that are fitted within milliseconds only."""
    monkeypatch.setattr(from_profile, "FORMS", ("paper", "linear", "computed"))


@pytest.fixture
def hook(tmp_path: Path) -> Features:
    (tmp_path / "train.py").write_text(COUNTS)
    features = load_features(tmp_path / "train.py")
    assert features is not None
    return features


# --- which points count


def test_nothing_measured_says_what_to_do() -> None:
    for profile in (Profile(), Profile((Point(1, {}, failed="it ended with exit code 1"),))):
        with pytest.raises(ProfileError) as caught:
            fit(profile)
        assert WHERE in str(caught.value)
        assert "hyperpower-runner profile" in str(caught.value)


@pytest.mark.parametrize("count", [1, 9])
def test_fewer_structures_than_folds_are_refused(count: int) -> None:
    sentence = refusal(profile_of(count))
    assert sentence.startswith(f"{WHERE}: {count} structures")
    assert "10-fold cross-validation takes 10 or more" in sentence
    assert "--samples" in sentence


def test_as_many_structures_as_folds_are_enough() -> None:
    models, _ = fit(profile_of(10), power_w="linear")
    assert linear_model(models, "power_w").validation is not None


@pytest.mark.parametrize(
    ("key", "value"),
    [("meter", "rapl"), ("name", "other board"), ("batch-size", 64), ("dtype", "float16"), ("framework", "torch 3")],
)
def test_points_of_several_platforms_are_refused_by_name(key: str, value: Any) -> None:
    one, other = profile_of(12), profile_of(12, {**PLATFORM, key: value}, first_id=100)
    sentence = refusal(Profile((*one.points, *other.points)))
    assert WHERE in sentence
    assert f"{key} {PLATFORM[key]}" in sentence
    assert f"{key} {value}" in sentence
    assert '"platform" of config.json' in sentence


def test_what_differs_between_measurements_but_not_between_platforms_is_no_other_platform() -> None:
    warm = [replace(point, platform={**PLATFORM, "driver": "550.1", "started": point.point_id})
            for point in profile_of(14).points]  # fmt: skip
    models, _ = fit(Profile(tuple(warm)), power_w="linear")
    assert models.platform == {**PLATFORM, "driver": "550.1"}  # what all points share, and no more


def test_structures_of_which_every_window_is_to_be_discarded_are_passed_over_with_a_note() -> None:
    points = profile_of(15).points
    hot = Window({"power_w": 1e6}, flags=("throttled-thermal",))
    spoiled = [replace(point, windows=(hot, hot)) for point in points[:3]]
    # One sound window is enough, and then it alone counts.
    half = replace(points[3], windows=(hot, *points[3].windows))
    models, notes = fit(Profile((*spoiled, half, *points[4:])), power_w="linear")
    assert linear_model(models, "power_w").to_json()["samples"] == 12
    assert [note for note in notes if "passed over" in note] == [
        "3 structures are passed over: every window of them was to be discarded"
    ]
    alone, _ = fit(Profile(points[3:]), power_w="linear")
    assert models.to_json() == alone.to_json()


def test_too_few_sound_structures_are_counted_without_the_discarded_ones() -> None:
    points = profile_of(12).points
    hot = Window({"power_w": 50.0}, flags=("power-slope",))
    spoiled = [replace(point, windows=(hot,)) for point in points[:3]]
    assert "9 structures" in refusal(Profile((*spoiled, *points[3:])))


def test_noted_flags_do_not_spoil_a_window() -> None:
    points = [replace(point, windows=tuple(replace(w, flags=("estimators-differ",)) for w in point.windows))
              for point in profile_of(12).points]  # fmt: skip
    models, notes = fit(Profile(tuple(points)), power_w="linear")
    assert linear_model(models, "power_w").to_json()["samples"] == 12
    assert not any("passed over" in note for note in notes)


def test_complaints_of_the_profile_are_passed_on() -> None:
    profile = replace(profile_of(12), complaints=("line 7 is passed over: it is torn",))
    _, notes = fit(profile, power_w="linear")
    assert notes[0] == "line 7 is passed over: it is torn"


def test_structures_that_failed_are_none_of_the_samples() -> None:
    profile = profile_of(12)
    failed = Point(99, profile.points[0].params, failed="it ended with exit code 1")
    models, _ = fit(Profile((*profile.points, failed)), power_w="linear")
    assert linear_model(models, "power_w").to_json()["samples"] == 12


# --- which metrics are modelled


def test_every_metric_that_was_measured_is_modelled_also_one_that_only_the_script_knows() -> None:
    profile = profile_of(
        20, power_w=power_of, memory_bytes=memory_of, cache_misses=lambda params: 3.0 * params["units"]
    )
    models, notes = fit(profile, every="linear")
    assert set(models.models) == {"power_w", "memory_bytes", "cache_misses"}
    assert not any("no model" in note for note in notes)
    predicted = models.predict_point(models.space.from_params({**profile.points[0].params, "units": 20}))
    assert predicted["cache_misses"] == pytest.approx(60.0)


def test_a_metric_that_too_few_structures_have_gets_a_note_and_no_model() -> None:
    profile = profile_of(
        20, power_w=power_of, memory_bytes=lambda params: memory_of(params) if params["depth"] == 1 else None
    )
    count = sum(point.params["depth"] == 1 for point in profile.points)
    assert 0 < count < 10
    models, notes = fit(profile, power_w="linear")
    assert set(models.models) == {"power_w"}
    assert f"memory_bytes gets no model: it was measured at {count} structures, and 10 are needed" in notes


def test_a_metric_that_some_structures_lack_is_fitted_to_the_others() -> None:
    profile = profile_of(
        40, power_w=power_of, memory_bytes=lambda params: memory_of(params) if params["depth"] > 2 else None
    )
    known = [point for point in profile.points if point.params["depth"] > 2]
    models, _ = fit(profile, power_w="linear", memory_bytes="linear")
    assert linear_model(models, "power_w").to_json()["samples"] == 40
    model = linear_model(models, "memory_bytes")
    assert model.to_json()["samples"] == len(known)
    assert model.ranges["depth"] == (3.0, 5.0)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_metric_that_is_not_positive_gets_a_note_and_no_model(value: float) -> None:
    profile = profile_of(
        20, power_w=power_of, balance=lambda params: value if params["units"] > 30 else 1.0 * params["units"]
    )
    models, notes = fit(profile, power_w="linear")
    assert set(models.models) == {"power_w"}
    assert any(note.startswith("balance gets no model") and "above 0" in note for note in notes)


def test_where_no_metric_can_be_modelled_that_is_an_error() -> None:
    sentence = refusal(profile_of(12, power_w=lambda params: None))
    assert WHERE in sentence
    assert "no metric" in sentence


# --- which form


def test_the_form_is_chosen_by_cross_validation_where_none_is_named() -> None:
    models, notes = fit(profile_of(40))
    model = linear_model(models, "power_w")
    assert model.form in FORMS
    assert model.form != "paper"  # it has neither the intercept nor the option
    assert model.validation is not None
    assert set(model.validation.by_form) == set(FORMS)  # those left out are there with their reason
    assert model.validation.by_form["computed"] == "there are no computed features"
    assert rmspe(model) < 0.02 < 0.1 < model.validation.constant
    assert "fitting power_w ..." in notes


def test_a_form_for_one_metric_leaves_the_others_to_cross_validation(plain_forms: None) -> None:
    profile = profile_of(40, power_w=power_of, latency_s=power_of)
    models, _ = fit(profile, power_w="paper")
    assert linear_model(models, "power_w").form == "paper"
    assert linear_model(models, "power_w").intercept == 0
    assert models.models["latency_s"] == fit(profile)[0].models["latency_s"]
    assert models.form("latency_s") == "linear"


def test_a_form_for_all_binds_those_that_are_not_named() -> None:
    profile = profile_of(20, power_w=power_of, latency_s=power_of, energy_j=power_of)
    models, _ = fit(profile, every="paper", energy_j="linear")
    assert {metric: models.form(metric) for metric in models.models} == {
        "power_w": "paper",
        "latency_s": "paper",
        "energy_j": "linear",
    }


def test_an_unknown_metric_or_form_is_refused_with_the_nearest_spelling() -> None:
    profile = profile_of(12, power_w=power_of, memory_bytes=memory_of)
    sentence = refusal(profile, power_ww="paper")
    assert '"power_ww"' in sentence
    assert "memory_bytes, power_w" in sentence
    assert 'did you mean "power_w"?' in sentence
    for named in ({"power_w": "liner"}, {"every": "liner"}):
        sentence = refusal(profile, **named)
        assert '"liner"' in sentence
        assert ", ".join(FORMS) in sentence
        assert 'did you mean "linear"?' in sentence


def test_a_form_is_checked_before_anything_is_fitted() -> None:
    notes: list[str] = []
    profile = profile_of(12, power_w=power_of, latency_s=power_of)
    with pytest.raises(ModelsError):
        fit_profile(profile, config_of(), None, {"power_w": "liner"}, WHERE, notes.append)
    assert not any("fitting" in note for note in notes)


def test_a_form_that_cannot_be_fitted_is_refused_with_its_metric_and_reason() -> None:
    sentence = refusal(profile_of(12), power_w="computed")
    assert f"{WHERE}: power_w" in sentence
    assert "there are no computed features" in sentence


# --- computed features


def test_features_are_used_where_the_script_computes_them_and_only_there(hook: Features, plain_forms: None) -> None:
    profile = profile_of(60, memory_bytes=memory_of)
    with_hook, without = fit(profile, hook)[0], fit(profile)[0]
    model = linear_model(with_hook, "memory_bytes")
    assert model.features
    assert set(model.features) <= {"parameters", "macs"}
    assert rmspe(model) < 1e-6 < rmspe(linear_model(without, "memory_bytes"))
    assert linear_model(without, "memory_bytes").features == ()
    assert without.features is None
    point = {"units": 7, "depth": 2, "kind": "relu", "rate": 0.5}
    assert with_hook.predict_point(with_hook.space.from_params(point))["memory_bytes"] == pytest.approx(
        memory_of(point)
    )


def test_features_are_those_of_the_script_of_today(tmp_path: Path, plain_forms: None) -> None:
    """The features written down beside a point may be those of an older script."""
    (tmp_path / "train.py").write_text(COUNTS)
    hook = load_features(tmp_path / "train.py")
    points = profile_of(40, memory_bytes=memory_of).points
    stale = [replace(point, features={"parameters": 1.0}) for point in points]
    assert fit(Profile(tuple(stale)), hook)[0].to_json() == fit(Profile(points), hook)[0].to_json()


# --- the same again, and from disk


def test_the_same_profile_gives_the_same_models_and_another_seed_other_folds() -> None:
    profile, forms = profile_of(30), {"": "log-quadratic"}
    first, again = (fit(profile, None, every="log-quadratic")[0].to_json() for _ in range(2))
    assert json.dumps(first) == json.dumps(again)
    other = fit_profile(profile, config_of(seed=1), None, forms, WHERE, lambda note: None).to_json()
    assert other["models"]["power_w"]["ratios"] != first["models"]["power_w"]["ratios"]


def test_the_order_of_the_points_on_disk_does_not_matter(tmp_path: Path) -> None:
    config, points = config_of(), profile_of(20).points
    contents = []
    for name, order in (("one", points), ("two", points[::-1])):
        experiment = Experiment(tmp_path / name)
        experiment.profile_file.parent.mkdir(parents=True)
        (experiment.root / "config.json").write_text(json.dumps(CONFIG))
        for point in order:
            append_point(experiment.profile_file, point, config.protocol, 0.0)
        contents.append(fit(experiment.read_profile(config), power_w="linear")[0].to_json())
    assert contents[0] == contents[1]


@pytest.mark.parametrize("form", FORMS)
def test_models_predict_the_same_after_a_round_trip_through_the_file(tmp_path: Path, form: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "train.py").write_text(COUNTS)
    experiment = Experiment(tmp_path)
    config = experiment.read_config()
    profile, features = profile_of(30, power_w=power_of, memory_bytes=memory_of), experiment.read_features(config)
    models = fit_profile(profile, config, features, {"": form}, WHERE, lambda note: None)
    experiment.models_file.parent.mkdir()
    write_json(experiment.models_file, models.to_json())
    read = experiment.read_models(config)
    values = config.space.sample(np.random.default_rng(0), 500)
    before, after = models.predict(values), read.predict(values)
    assert set(before) == set(after) == {"power_w", "memory_bytes"}
    for metric in before:
        np.testing.assert_array_equal(before[metric], after[metric])
        assert read.form(metric) == form
        assert read.ratios(metric) == models.ratios(metric)
        assert read.margin(metric, 0.9) == models.margin(metric, 0.9)
        np.testing.assert_array_equal(read.extrapolates(values)[metric], models.extrapolates(values)[metric])
    assert read.platform == PLATFORM
    assert read.to_json() == models.to_json()
    content = read_json(experiment.models_file)
    assert content is not None
    assert content["schema"] == 1


def test_models_of_one_platform_are_refused_on_another_after_the_round_trip() -> None:
    content = json.loads(json.dumps(fit(profile_of(20), power_w="linear")[0].to_json()))
    space = config_of().space
    assert from_json(content, space, {"meter": "nvml", "batch-size": 32}, "models.json").models
    for key, value in (("meter", "rapl"), ("batch-size", 64), ("dtype", "float16")):
        with pytest.raises(ModelsError, match=key):
            from_json(content, space, {"meter": "nvml", "batch-size": 32, key: value}, "models.json")


def test_ratios_are_those_of_structures_left_out() -> None:
    """One for each structure, ascending, around 1 and never as narrow as the noise that no variable explains."""
    models, _ = fit(profile_of(50), power_w="linear")
    ratios = models.ratios("power_w")
    assert len(ratios) == 50
    assert list(ratios) == sorted(ratios)
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.01)
    assert 0.005 < np.std(ratios) < 0.03

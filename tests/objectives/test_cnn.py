from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the networks need PyTorch, the extra `cnn`")

import architecture
import cnn
import datasets
import torch
from torch import Tensor, nn

from hyperpower_runner import objective
from hyperpower_runner.errors import ObjectiveError
from hyperpower_runner.job_files import JobFiles, read_json_lines
from hyperpower_runner.stopping import StoppingRule

MakeJob = Callable[..., objective.Job]  # see conftest.py

LENET = {"conv1_features": 20, "conv2_features": 50, "fc_units": 500}
SMALL = {"conv1_features": 8, "conv2_features": 8, "fc_units": 32}
TRAINING = {"learning_rate": 0.02, "momentum": 0.9, "weight_decay": 0.0005}
CIFAR10 = (3, 32, 32)
MNIST = (1, 28, 28)

# The structural part of the paper's thirteen variables (section 4), with their ranges.
RANGES = {
    **{f"conv{i}_features": (20, 80) for i in (1, 2, 3)},
    **{f"conv{i}_kernel": (2, 5) for i in (1, 2, 3)},
    **{f"pool{i}_kernel": (1, 3) for i in (1, 2, 3)},
    "fc_units": (200, 700),
}


def build(params: dict[str, Any], image_shape: tuple[int, int, int] = CIFAR10) -> nn.Sequential:
    return cnn.build(architecture.Architecture.from_params(params), image_shape)


def logits_shape_on_meta(params: dict[str, Any], image_shape: tuple[int, int, int]) -> torch.Size:
    """Build and run on the meta device, which computes shapes and nothing else."""
    with torch.device("meta"):
        logits: Tensor = build(params, image_shape)(torch.empty(2, *image_shape))
    return logits.shape


def progress(job_folder: Path) -> list[dict[str, Any]]:
    return list(read_json_lines(JobFiles(job_folder).progress))


def test_every_corner_of_the_space_builds_and_runs() -> None:
    for corner in itertools.product(*RANGES.values()):
        params = dict(zip(RANGES, corner, strict=True))
        assert logits_shape_on_meta(params, CIFAR10) == (2, 10), params


def test_points_within_the_space_build_and_run() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        params = {name: int(rng.integers(low, high, endpoint=True)) for name, (low, high) in RANGES.items()}
        assert logits_shape_on_meta(params, CIFAR10) == (2, 10), params
        assert logits_shape_on_meta(params, MNIST) == (2, 10), params


@pytest.mark.parametrize("end", [0, 1])
def test_extremes_compute_finite_logits(end: int) -> None:
    with torch.inference_mode():
        logits = build({name: bounds[end] for name, bounds in RANGES.items()})(torch.randn(2, *CIFAR10))
    assert logits.shape == (2, 10)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(("conv", "pool"), list(itertools.product(range(1, 8), range(1, 6))))
def test_any_number_of_blocks_builds_though_kernels_outgrow_their_maps(conv: int, pool: int) -> None:
    params: dict[str, Any] = {"fc_units": 5}
    for i in range(1, 9):
        params |= {f"conv{i}_features": 4, f"conv{i}_kernel": conv, f"pool{i}_kernel": pool}
    with torch.inference_mode():
        logits = build(params, (1, 9, 9))(torch.randn(2, 1, 9, 9))
    assert logits.shape == (2, 10)
    assert torch.isfinite(logits).all()


def test_parameter_count_of_lenet() -> None:
    by_hand = (20 * 25 + 20) + (50 * 20 * 25 + 50) + (4 * 4 * 50 * 500 + 500) + (500 * 10 + 10)
    assert by_hand == 431_080  # as Caffe's LeNet has
    assert cnn.parameter_count(build(LENET, MNIST)) == by_hand


def test_parameter_count_with_three_blocks_and_every_kind_of_pooling() -> None:
    params = {
        **{"conv1_features": 20, "conv1_kernel": 5, "pool1_kernel": 3},  # 32 -> 28 -> 13, overlapping
        **{"conv2_features": 30, "conv2_kernel": 2, "pool2_kernel": 1},  # 13 -> 12 -> 6, every second pixel
        **{"conv3_features": 40, "conv3_kernel": 3, "pool3_kernel": 2},  # 6 -> 4 -> 2
        "fc_units": 200,
    }
    by_hand = (20 * 75 + 20) + (30 * 80 + 30) + (40 * 270 + 40) + (40 * 4 * 200 + 200) + (200 * 10 + 10)
    model = build(params)
    assert cnn.parameter_count(model) == by_hand
    assert [name for name, _ in model.named_children() if name.startswith("pool")] == ["pool1", "pool2", "pool3"]
    assert all(layer.padding in (0, (0, 0)) for layer in model if isinstance(layer, nn.Conv2d | nn.MaxPool2d))


@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_pooling_has_stride_2_whatever_its_kernel(kernel: int) -> None:
    model = dict(build({**LENET, "pool1_kernel": kernel}, MNIST).named_children())
    maps = torch.randn(2, 20, 24, 24)
    pooled = model["pool1"](maps)
    assert pooled.shape[2:] == ((12, 12) if kernel < 3 else (11, 11))
    windows = maps.unfold(2, kernel, 2).unfold(3, kernel, 2)
    assert torch.equal(pooled, windows.amax(dim=(-2, -1)))


def test_padding_only_where_a_kernel_outgrows_its_map() -> None:
    params = {name: high for name, (_, high) in RANGES.items()}  # 32 -> 28 -> 13 -> 9 -> 4, then 5 on 4 and 3 on 2
    model = dict(build(params).named_children())
    paddings = {name: model[name].padding for name in ("conv1", "pool1", "conv2", "pool2", "conv3", "pool3")}
    assert paddings == {"conv1": (0, 0), "pool1": 0, "conv2": (0, 0), "pool2": 0, "conv3": (1, 1), "pool3": 1}


def test_relu_after_pooling_is_the_network_of_the_paper() -> None:
    torch.manual_seed(0)
    model = build({**LENET, "pool1_kernel": 3}, MNIST)
    layers = dict(model.named_children())
    order = ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "flatten", "fc", "relu", "output"]
    paper = nn.Sequential(*(nn.ReLU() if name.startswith("relu") else layers[name] for name in order))
    x, y = torch.randn(6, *MNIST), torch.arange(6)
    gradients = []
    for network in (model, paper):
        network.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
        gradients.append([weights.grad.clone() for weights in model.parameters() if weights.grad is not None])
    assert torch.equal(model(x), paper(x))
    assert len(gradients[0]) == 8
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"fc_units": 9}, "the param conv1_features is missing"),
        ({"conv1_features": 9}, "the param fc_units is missing"),
        ({**LENET, "conv1_kernels": 3}, 'has no param conv1_kernels; did you mean "conv1_kernel"?'),
        ({"conv1_feature": 9, "fc_units": 9}, 'has no param conv1_feature; did you mean "conv1_features"?'),
        ({**LENET, "conv4_features": 3}, 'of 3 convolution blocks has no param conv4_features; did you mean "conv3_'),
        ({**LENET, "conv3_kernel": 3}, "of 2 convolution blocks has no param conv3_kernel"),
        ({**LENET, "dropout": 0.5}, "has no param dropout; known are conv1_features, conv2_features"),
        ({**LENET, "fc_units": 0}, "fc_units must be a whole number of at least 1, found 0"),
        ({**LENET, "fc_units": 20.5}, "fc_units must be a whole number of at least 1, found 20.5"),
        ({**LENET, "fc_units": "many"}, "fc_units must be a finite number, found 'many'"),
        ({**LENET, "pool1_kernel": True}, "pool1_kernel must be a finite number, found True"),
    ],
)
def test_wrong_structure_is_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ObjectiveError) as refused:
        architecture.Architecture.from_params(params)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "the param learning_rate is missing"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"learning_rate": math.nan}, "learning_rate must be a finite number"),
        ({"learning_rate": 0.1, "momentum": 1.0}, "momentum must be below 1, found 1"),
        ({"learning_rate": 0.1, "weight_decay": -1e-3}, "weight_decay must not be negative, found -0.001"),
    ],
)
def test_wrong_training_params_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ObjectiveError, match=message):
        cnn.Sgd.from_params(params)


def test_absent_training_params_are_alexnets() -> None:
    assert cnn.Sgd.from_params({"learning_rate": 0.1}) == cnn.Sgd(0.1, momentum=0.9, weight_decay=0.0005)


def test_training_learns_and_reports_every_epoch(
    make_job: MakeJob, few_images: datasets.ImageSet, tmp_path: Path
) -> None:
    metrics = cnn.evaluate(make_job({**SMALL, **TRAINING}, epochs=5), few_images)
    curve = progress(tmp_path)
    assert [point["epoch"] for point in curve] == [1, 2, 3, 4, 5]
    assert metrics["error"] == curve[-1]["error"] < 0.5 < curve[0]["error"]
    assert metrics["loss"] == curve[-1]["loss"] < curve[0]["loss"]
    assert metrics["epochs_trained"] == 5
    assert metrics["parameters"] == 208 + 1608 + (4 * 4 * 8 * 32 + 32) + 330


def test_same_seed_same_numbers(make_job: MakeJob, few_images: datasets.ImageSet) -> None:
    losses = [
        cnn.evaluate(make_job({**SMALL, **TRAINING}, seed=seed, epochs=1), few_images)["loss"] for seed in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_divergence_stops_the_training(make_job: MakeJob, few_images: datasets.ImageSet, tmp_path: Path) -> None:
    params = {**SMALL, **TRAINING, "learning_rate": 1e6}
    job = make_job(params, epochs=20, stopping_rule=StoppingRule(classes=10).to_json())
    metrics = cnn.evaluate(job, few_images)
    decision = job.decision()
    assert decision.stop
    assert decision.reason is not None
    assert "loss" in decision.reason
    assert metrics["epochs_trained"] == decision.epoch == len(progress(tmp_path)) < 3
    assert 0 <= float(metrics["error"]) <= 1


def test_a_stop_that_somebody_asks_for_ends_the_training(
    make_job: MakeJob, few_images: datasets.ImageSet, tmp_path: Path
) -> None:
    JobFiles(tmp_path).stop.write_text("enough")
    assert cnn.evaluate(make_job({**SMALL, **TRAINING}, epochs=9), few_images)["epochs_trained"] == 1


def test_an_epoch_ends_soon_after_its_loss_is_not_finite() -> None:
    model, batches_run = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), []
    model.register_forward_hook(lambda *_: batches_run.append(1))
    x = torch.randn(300, 1, 2, 2)
    x[5] = math.nan
    loss = cnn.train_epoch(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        x,
        torch.zeros(300, dtype=torch.int64),
        torch.split(torch.arange(300), 1),
    )
    assert math.isnan(loss)
    assert len(batches_run) == cnn.FINITE_CHECK_BATCHES


def test_epoch_loss_is_the_mean_over_images_though_the_last_batch_is_smaller() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    x, y = torch.randn(10, 1, 2, 2), torch.arange(10) % 3
    standing_still = torch.optim.SGD(model.parameters(), lr=0.0)
    loss = cnn.train_epoch(model, standing_still, x, y, torch.split(torch.arange(10), 4))
    assert loss == pytest.approx(nn.functional.cross_entropy(model(x), y).item(), rel=1e-6)


def test_error_counts_over_all_batches() -> None:
    count = 2 * cnn.TEST_BATCH + 7
    scores = torch.randn(count, 10)
    y = torch.randint(0, 10, (count,))
    expected = float(np.mean(scores.numpy().argmax(axis=1) != y.numpy()))
    assert cnn.test_error(nn.Identity(), scores, y) == pytest.approx(expected)


def test_epochs_below_one_are_refused(make_job: MakeJob, few_images: datasets.ImageSet) -> None:
    with pytest.raises(ObjectiveError, match="epochs must be at least 1, found 0"):
        cnn.evaluate(make_job({**SMALL, **TRAINING}, epochs=0), few_images)


def test_inference_runs_a_whole_batch_without_gradients(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs: list[Tensor] = []
    build_network = cnn.build

    def observed(*arguments: Any) -> nn.Sequential:
        model = build_network(*arguments)
        model.register_forward_hook(lambda _model, _inputs, output: outputs.append(output))
        return model

    monkeypatch.setattr(cnn, "build", observed)
    step = cnn.inference(make_job(SMALL), MNIST)
    step()
    step()
    assert [output.shape for output in outputs] == [(32, 10), (32, 10)]
    assert torch.equal(*outputs)
    assert not outputs[0].requires_grad


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_inference_runs_in_the_dtype_of_the_platform_and_says_so(make_job: MakeJob, dtype: str) -> None:
    job = make_job(SMALL, platform={"dtype": dtype, "batch-size": 2})
    cnn.inference(job, MNIST)()
    assert job.facts == {"batch_size": 2, "dtype": dtype}


def test_inference_in_an_unknown_dtype_is_refused(make_job: MakeJob) -> None:
    with pytest.raises(ObjectiveError, match='"float99", but must be one of float32, float16, bfloat16'):
        cnn.inference(make_job(SMALL, platform={"dtype": "float99"}), MNIST)


@pytest.mark.parametrize(("platform", "images"), [({"batch-size": 6}, 6), ({"meter": "nvml"}, 32), ({}, 32)])
def test_inference_runs_the_batch_of_the_platform(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, platform: dict[str, Any], images: int
) -> None:
    inputs: list[Tensor] = []
    build_network = cnn.build

    def observed(*arguments: Any) -> nn.Sequential:
        model = build_network(*arguments)
        model.register_forward_pre_hook(lambda _model, batch: inputs.append(batch[0]))
        return model

    monkeypatch.setattr(cnn, "build", observed)
    cnn.inference(make_job(SMALL, platform=platform), MNIST)()
    assert [(batch.shape, batch.dtype) for batch in inputs] == [((images, *MNIST), torch.float32)]


def test_a_job_gets_the_threads_that_it_is_given(make_job: MakeJob) -> None:
    before = torch.get_num_threads()
    try:
        cnn.inference(make_job(SMALL, threads=1), MNIST)
        assert torch.get_num_threads() == 1
        cnn.inference(make_job(SMALL, threads=2), MNIST)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)

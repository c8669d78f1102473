from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import architecture
import cifar10_cnn
import mnist_cnn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpower_runner.errors import ObjectiveError

OBJECTIVES = Path(architecture.__file__).parent
MNIST = (1, 28, 28)
CIFAR10 = (3, 32, 32)
LENET = {"conv1_features": 20, "conv2_features": 50, "fc_units": 500}


def ranges(blocks: int, kernels: bool) -> dict[str, tuple[int, int]]:
    """The structural variables of the paper (section 4) for so many blocks."""
    found = {f"conv{i}_features": (20, 80) for i in range(1, blocks + 1)}
    if kernels:
        found |= {f"conv{i}_kernel": (2, 5) for i in range(1, blocks + 1)}
        found |= {f"pool{i}_kernel": (1, 3) for i in range(1, blocks + 1)}
    return {**found, "fc_units": (200, 700)}


SPACES = {
    "mnist": (mnist_cnn, MNIST, ranges(2, kernels=False)),
    "cifar10": (cifar10_cnn, CIFAR10, ranges(3, kernels=True)),
    "mnist with kernels": (mnist_cnn, MNIST, ranges(2, kernels=True)),
}


@st.composite
def wild(draw: st.DrawFn) -> tuple[dict[str, int], tuple[int, int, int]]:
    """Up to five blocks with any kernels, which may outgrow their maps, on images of any size."""
    params = {"fc_units": draw(st.integers(1, 300))}
    for i in range(1, draw(st.integers(1, 5)) + 1):
        params[f"conv{i}_features"] = draw(st.integers(1, 30))
        if draw(st.booleans()):
            params[f"conv{i}_kernel"] = draw(st.integers(1, 9))
        if draw(st.booleans()):
            params[f"pool{i}_kernel"] = draw(st.integers(1, 6))
    side = draw(st.integers(1, 20))
    return params, (draw(st.integers(1, 4)), side, side)


def counted_by_torch(params: dict[str, Any], image_shape: tuple[int, int, int], classes: int = 10) -> dict[str, float]:
    """Build and run the network on the meta device, and count what its layers hold, multiply and write."""
    import cnn
    import torch
    from torch import Tensor, nn

    macs = activations = 0

    def count(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs, activations
        if isinstance(layer, nn.Conv2d | nn.Linear):
            macs += output.numel() * layer.weight[0].numel()  # each output is a product with one row of weights
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.MaxPool2d):
            activations += output.numel()

    with torch.device("meta"), torch.inference_mode():
        model = cnn.build(architecture.Architecture.from_params(params), image_shape, classes)
        for layer in model:
            layer.register_forward_hook(count)
        model(torch.empty(1, *image_shape))
    return {"parameters": cnn.parameter_count(model), "macs": macs, "activations": activations}


def test_lenet_by_hand() -> None:
    assert architecture.features(LENET, MNIST) == {
        "parameters": 431_080,  # as Caffe's LeNet has
        "macs": 24 * 24 * 20 * 25 + 8 * 8 * 50 * 20 * 25 + 800 * 500 + 500 * 10,
        "activations": (24 * 24 + 12 * 12) * 20 + (8 * 8 + 4 * 4) * 50 + 500 + 10,
    }


@pytest.mark.parametrize("name", SPACES)
def test_counts_are_those_of_the_network_that_torch_builds(name: str) -> None:
    pytest.importorskip("torch", reason="the networks need PyTorch, the extra `cnn`")
    script, image_shape, bounds = SPACES[name]
    rng = np.random.default_rng(0)
    corners = [{variable: bound[end] for variable, bound in bounds.items()} for end in (0, 1)]
    points = [
        {variable: int(rng.integers(*bound, endpoint=True)) for variable, bound in bounds.items()} for _ in range(100)
    ]
    for params in (*corners, *points):
        assert script.features(params) == counted_by_torch(params, image_shape), params


@given(wild())
def test_counts_of_any_network_are_those_of_torch(case: tuple[dict[str, int], tuple[int, int, int]]) -> None:
    pytest.importorskip("torch", reason="the networks need PyTorch, the extra `cnn`")
    params, image_shape = case
    assert architecture.features(params, image_shape, classes=7) == counted_by_torch(params, image_shape, classes=7)


@pytest.mark.parametrize("name", SPACES)
@given(seed=st.integers(0, 1000), count=st.integers(0, 20), fixed=st.booleans(), dtype=st.sampled_from([int, float]))
def test_arrays_give_the_numbers_of_scalars(name: str, seed: int, count: int, fixed: bool, dtype: type) -> None:
    script, _, bounds = SPACES[name]
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        variable: rng.integers(*bound, size=count, endpoint=True).astype(dtype) for variable, bound in bounds.items()
    }
    if fixed:
        columns["conv2_features"] = 33
    at_once = script.features({**columns, "learning_rate": np.full(count, 0.01)})
    assert all(column.shape == (count,) and column.dtype == np.float64 for column in at_once.values())
    for row in range(count):
        params = {variable: np.broadcast_to(column, count)[row].item() for variable, column in columns.items()}
        one = script.features({**params, "learning_rate": 0.01})
        assert all(type(value) is float for value in one.values())
        assert one == {feature: column[row] for feature, column in at_once.items()}


def test_numpy_scalars_are_numbers() -> None:
    assert mnist_cnn.features({name: np.int64(value) for name, value in LENET.items()}) == mnist_cnn.features(LENET)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "the param conv1_features is missing"),
        ({"conv1_features": 8}, "the param fc_units is missing"),
        ({**LENET, "fc_unit": 3}, 'has no param fc_unit; did you mean "fc_units"?'),
        ({**LENET, "fc_units": np.array([3.0, 2.5])}, "fc_units must be whole numbers of at least 1, found 2.5"),
        ({**LENET, "fc_units": np.array([3.0, np.inf])}, "fc_units must be whole numbers of at least 1, found inf"),
        ({**LENET, "fc_units": np.array([3, 0])}, "fc_units must be whole numbers of at least 1, found 0"),
        ({**LENET, "fc_units": np.array(["3"])}, "fc_units must be numbers, found an array of <U1"),
        ({**LENET, "fc_units": np.array([True])}, "fc_units must be numbers, found an array of bool"),
        ({**LENET, "fc_units": "many"}, "fc_units must be a finite number, found 'many'"),
        ({**LENET, "fc_units": True}, "fc_units must be a finite number, found True"),
    ],
)
def test_wrong_structure_is_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ObjectiveError) as refused:
        architecture.features(params, MNIST)
    assert message in str(refused.value)


@pytest.mark.parametrize("script", ["mnist_cnn", "cifar10_cnn"])
def test_features_need_no_torch(tmp_path: Path, script: str) -> None:
    (tmp_path / "torch.py").write_text("raise AssertionError('torch is imported')")
    params = {**LENET, "conv3_features": 30}
    code = f"import {script}; print({script}.features({params}))"
    environment = {"PYTHONPATH": f"{tmp_path}:{OBJECTIVES}"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "'macs': " in ended.stdout

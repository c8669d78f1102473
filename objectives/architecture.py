"""The structure of an AlexNet variant (paper, section 4), read from params, and what it costs counted in closed form.

It knows neither PyTorch (cnn.py builds the network) nor images, nor which ranges a search draws from (config.json).
With i = 1, 2, ... for any number of convolution blocks:

    conv{i}_features   feature maps of block i; as many blocks as there are of these, at least one
    conv{i}_kernel     side of the convolution kernel (5)
    pool{i}_kernel     side of the max-pooling kernel (2); the stride is 2 whatever it is
    fc_units           units of the fully connected layer

Numbers in parentheses are AlexNet's, taken where a param is absent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpower_runner.errors import ObjectiveError, did_you_mean

CONV_KERNEL = 5
POOL_KERNEL = 2
# AlexNet's pooling has stride 2 whatever its kernel is, and the paper varies "the kernel size (1-3)" alone. Its models,
# linear in the kernel size, could not be good to 7 % if kernel 1 made every later map four times as large.
POOL_STRIDE = 2

TRAINING = ("learning_rate", "momentum", "weight_decay")

Whole = int | NDArray[Any]  # of one network, or int64 of shape (n,) of n networks


@dataclass(frozen=True)
class Block:
    """Convolution with `features` maps and a square kernel, ReLU, and max-pooling with stride 2.

    A pooling kernel of 1 keeps every second pixel of every second row.
    """

    features: int
    conv_kernel: int
    pool_kernel: int


@dataclass(frozen=True)
class Architecture:
    """What shapes the network: the structural part of params."""

    blocks: tuple[Block, ...]
    fc_units: int

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Architecture:
        """Read the structural params; raises ObjectiveError for one that is unknown, missing or out of range."""
        blocks, fc_units = _structure(params)
        return cls(tuple(Block(*map(int, block)) for block in blocks), int(fc_units))


def features(params: Mapping[str, Any], image_shape: tuple[int, int, int], classes: int = 10) -> dict[str, Any]:
    """Count what hardware models predict power and memory from, of the network that `cnn.build` makes of `params`.

    params: one network, of plain numbers, or n networks at once: values of shape (n,). image_shape: channels, side,
    side. Returns floats, or float64 of shape (n,), the same numbers in both cases:

        parameters    trainable numbers
        macs          multiplications with an addition, of one image
        activations   numbers that layers write, of one image: convolutions, poolings and linear layers (ReLU works in
                      place)

    How many layers there are is the same in a whole search space, so that no model could learn from it. Raises
    ObjectiveError as `Architecture.from_params` does.
    """
    blocks, fc_units = _structure(params)
    channels: Whole = image_shape[0]
    side: Whole = image_shape[1]
    parameters: Whole = 0
    macs: Whole = 0
    activations: Whole = 0
    for maps, conv_kernel, pool_kernel in blocks:
        weights = channels * conv_kernel * conv_kernel * maps
        side = convolved(side, conv_kernel)
        parameters = parameters + weights + maps
        macs = macs + weights * side * side
        activations = activations + maps * side * side
        side = pooled(side, pool_kernel)
        activations = activations + maps * side * side
        channels = maps
    inputs = channels * side * side
    parameters = parameters + (inputs + 1) * fc_units + (fc_units + 1) * classes
    macs = macs + inputs * fc_units + fc_units * classes
    activations = activations + fc_units + classes
    counts = {"parameters": parameters, "macs": macs, "activations": activations}
    shape = np.broadcast_shapes(*(np.shape(value) for block in (*blocks, (fc_units,)) for value in block))
    if shape == ():
        return {name: float(count) for name, count in counts.items()}
    return {name: np.broadcast_to(count, shape).astype(np.float64) for name, count in counts.items()}


def padding(side: Whole, kernel: Whole) -> Whole:
    """The least padding per border with which a kernel fits its map: 0 unless the kernel is the larger."""
    return np.maximum(0, (kernel - side + 1) // 2)


def convolved(side: Whole, kernel: Whole) -> Whole:
    """The side of a map after a convolution with stride 1."""
    return side + 2 * padding(side, kernel) - kernel + 1


def pooled(side: Whole, kernel: Whole) -> Whole:
    """The side of a map after max-pooling."""
    return (side + 2 * padding(side, kernel) - kernel) // POOL_STRIDE + 1


def finite_number(params: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """Read one number; raises ObjectiveError where it is missing, without a default, or not a finite number."""
    value = _present(params, name, default)
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ObjectiveError(f"{name} must be a finite number, found {value!r}")
    if not math.isfinite(value):
        raise ObjectiveError(f"{name} must be a finite number, found {value!r}")
    return value  # type: ignore[return-value]


def _structure(params: Mapping[str, Any]) -> tuple[list[tuple[Whole, Whole, Whole]], Whole]:
    """Features, convolution kernel and pooling kernel of each block; units of the fully connected layer."""
    numbers = range(1, 1 + sum(re.fullmatch(r"conv\d+_features", name) is not None for name in params))
    _check_names(params, numbers)
    blocks = [
        (
            _whole(params, f"conv{i}_features"),
            _whole(params, f"conv{i}_kernel", CONV_KERNEL),
            _whole(params, f"pool{i}_kernel", POOL_KERNEL),
        )
        for i in numbers
    ]
    return blocks, _whole(params, "fc_units")


def _check_names(params: Mapping[str, Any], numbers: range) -> None:
    maps = [f"conv{i}_features" for i in numbers] or ["conv1_features"]
    kernels = [f"{layer}{i}_kernel" for i in numbers for layer in ("conv", "pool")]
    known = [*maps, *kernels, "fc_units", *TRAINING]
    for name in params:
        if name not in known:
            near = did_you_mean(name, known) or f"; known are {', '.join(known)}"
            raise ObjectiveError(f"a network of {len(numbers)} convolution blocks has no param {name}{near}")
    for name in maps:
        _present(params, name, None)


def _whole(params: Mapping[str, Any], name: str, default: int | None = None) -> Whole:
    value = _present(params, name, default)
    if not isinstance(value, np.ndarray):
        value = finite_number(params, name, default)
        if value < 1 or value != int(value):
            raise ObjectiveError(f"{name} must be a whole number of at least 1, found {params[name]!r}")
        return int(value)
    if value.dtype.kind not in "iuf":
        raise ObjectiveError(f"{name} must be numbers, found an array of {value.dtype}")
    wrong = value[~(np.isfinite(value) & (value >= 1) & (value == np.floor(value)))]
    if wrong.size:
        raise ObjectiveError(f"{name} must be whole numbers of at least 1, found {wrong[0]}")
    return value.astype(np.int64)


def _present(params: Mapping[str, Any], name: str, default: float | None) -> Any:
    value = params.get(name, default)
    if value is None:
        raise ObjectiveError(f'the param {name} is missing; add it to "variables" in config.json')
    return value

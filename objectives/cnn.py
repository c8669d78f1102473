"""The AlexNet variants of the paper (section 4), from params to a network, and how one is trained, tested and run.

It reads params by naming convention and knows neither where images come from (datasets.py) nor which ranges a search
draws from (config.json). With i = 1, 2, ... for any number of convolution blocks:

    conv{i}_features   feature maps of block i; as many blocks as there are of these, at least one
    conv{i}_kernel     side of the convolution kernel (5)
    pool{i}_kernel     side of the max-pooling kernel (2): 1 is no pooling, 3 is AlexNet's overlapping pooling
    fc_units           units of the fully connected layer
    learning_rate      of SGD, constant over the training
    momentum           (0.9)
    weight_decay       (0.0005)

Numbers in parentheses are AlexNet's, taken where a param is absent. A block is convolution, ReLU and max-pooling with
stride min(kernel, 2); then come a fully connected layer, ReLU, and a linear one. Nothing is padded unless a kernel is
larger than its map, so every point of the paper's space builds.
"""

from __future__ import annotations

import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hyperpower_runner.errors import ObjectiveError, did_you_mean

if TYPE_CHECKING:
    from datasets import ImageSet

    from hyperpower_runner.objective import Job

CONV_KERNEL = 5
POOL_KERNEL = 2
MOMENTUM = 0.9
WEIGHT_DECAY = 0.0005
TEST_BATCH = 250
FINITE_CHECK_BATCHES = 50  # looking at the loss waits for the GPU; once in 50 batches costs nothing measurable


@dataclass(frozen=True)
class Block:
    """Convolution with `features` maps and a square kernel, ReLU, max-pooling (pool_kernel 1: none)."""

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
        numbers = range(1, 1 + sum(re.fullmatch(r"conv\d+_features", name) is not None for name in params))
        _check_names(params, numbers)
        blocks = tuple(
            Block(
                _whole(params, f"conv{i}_features"),
                _whole(params, f"conv{i}_kernel", CONV_KERNEL),
                _whole(params, f"pool{i}_kernel", POOL_KERNEL),
            )
            for i in numbers
        )
        return cls(blocks, _whole(params, "fc_units"))


@dataclass(frozen=True)
class Sgd:
    """How the network is trained: the other part of params."""

    learning_rate: float
    momentum: float
    weight_decay: float

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Sgd:
        """Read the training params; raises ObjectiveError for one that is missing or out of range."""
        sgd = cls(
            _real(params, "learning_rate"),
            _real(params, "momentum", MOMENTUM),
            _real(params, "weight_decay", WEIGHT_DECAY),
        )
        if sgd.learning_rate == 0:
            raise ObjectiveError("learning_rate must be above 0, found 0: nothing would be learnt")
        if sgd.momentum >= 1:
            raise ObjectiveError(f"momentum must be below 1, found {sgd.momentum:g}")
        return sgd


def _check_names(params: Mapping[str, Any], numbers: range) -> None:
    features = [f"conv{i}_features" for i in numbers] or ["conv1_features"]
    kernels = [f"{layer}{i}_kernel" for i in numbers for layer in ("conv", "pool")]
    known = [*features, *kernels, "fc_units", "learning_rate", "momentum", "weight_decay"]
    for name in params:
        if name not in known:
            near = did_you_mean(name, known) or f"; known are {', '.join(known)}"
            raise ObjectiveError(f"a network of {len(numbers)} convolution blocks has no param {name}{near}")
    for name in features:
        _number(params, name, None)


def _whole(params: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = _number(params, name, default)
    if value < 1 or value != int(value):
        raise ObjectiveError(f"{name} must be a whole number of at least 1, found {params[name]!r}")
    return int(value)


def _real(params: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = _number(params, name, default)
    if value < 0:
        raise ObjectiveError(f"{name} must not be negative, found {value:g}")
    return value


def _number(params: Mapping[str, Any], name: str, default: float | None) -> float:
    value = params.get(name, default)
    if value is None:
        raise ObjectiveError(f'the param {name} is missing; add it to "variables" in config.json')
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ObjectiveError(f"{name} must be a finite number, found {value!r}")
    return value


def build(architecture: Architecture, image_shape: tuple[int, int, int], classes: int = 10) -> nn.Sequential:
    """Build the network for square images of `image_shape` (channels, side, side).

    It maps float32 (n, *image_shape) to logits (n, classes). Layers are named conv1, pool1, relu1, ..., flatten, fc,
    relu, output; a pooling of 1 has no layer. ReLU is applied to the pooled map, a quarter as large: maximum and ReLU
    commute, so function and gradient are the same. Weights are drawn from torch's global generator. Works under
    `with torch.device("meta")`, where nothing is allocated or computed.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, side, _ = image_shape
    for i, block in enumerate(architecture.blocks, start=1):
        padding = _padding(block.conv_kernel, side)
        layers[f"conv{i}"] = nn.Conv2d(channels, block.features, block.conv_kernel, padding=padding)
        side = side + 2 * padding - block.conv_kernel + 1
        if block.pool_kernel > 1:
            padding = _padding(block.pool_kernel, side)
            layers[f"pool{i}"] = nn.MaxPool2d(block.pool_kernel, stride=2, padding=padding)
            side = (side + 2 * padding - block.pool_kernel) // 2 + 1
        layers[f"relu{i}"] = nn.ReLU(inplace=True)
        channels = block.features
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels * side * side, architecture.fc_units)
    layers["relu"] = nn.ReLU(inplace=True)
    layers["output"] = nn.Linear(architecture.fc_units, classes)
    return nn.Sequential(layers)


def _padding(kernel: int, side: int) -> int:
    """The least padding per border with which a kernel fits its map."""
    return max(0, math.ceil((kernel - side) / 2))


def parameter_count(model: nn.Module) -> int:
    """Trainable numbers in the network."""
    return sum(parameter.numel() for parameter in model.parameters())


def evaluate(job: Job, images: ImageSet) -> dict[str, float | str]:
    """Train the network that `job.params` describe on `images` for `job.epochs`, testing it after every epoch.

    Batches have `job.options.batch_size` images. The same job gives the same numbers on the same machine with the same
    number of threads. Returns the test error and the mean training loss of the last epoch, and what they took.
    """
    architecture, sgd = Architecture.from_params(job.params), Sgd.from_params(job.params)
    if job.epochs < 1:
        raise ObjectiveError(f"epochs must be at least 1, found {job.epochs}")
    device = choose_device(job.threads)
    torch.manual_seed(job.seed)
    model = place(build(architecture, images.shape, images.classes), device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=sgd.learning_rate, momentum=sgd.momentum, weight_decay=sgd.weight_decay
    )
    batch_order = torch.Generator().manual_seed(job.seed)
    train_x, test_x = (images.normalised(x, device) for x in (images.train_x, images.test_x))
    train_y, test_y = images.train_y.to(device), images.test_y.to(device)

    started_s = time.perf_counter()
    for epoch in range(1, job.epochs + 1):
        order = torch.randperm(len(train_x), generator=batch_order).to(device)
        loss = train_epoch(model, optimizer, train_x, train_y, torch.split(order, job.options.batch_size))
        error = test_error(model, test_x, test_y)
        job.report(epoch=epoch, error=error, loss=loss)
        if job.should_stop():
            break
    return {
        "error": error,
        "loss": loss,
        "parameters": parameter_count(model),
        "epochs_trained": epoch,
        "training_duration_s": time.perf_counter() - started_s,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def choose_device(threads: int | None) -> torch.device:
    """The GPU where there is one, with algorithms that repeat their results; else the CPU with so many threads."""
    if threads is not None:
        torch.set_num_threads(threads)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda")


def place(model: nn.Sequential, device: torch.device) -> nn.Sequential:
    """Move the network to the device; on a CPU with channels last, with which it trains in two thirds of the time."""
    if device.type == "cpu":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.to(device)


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, batches: tuple[Tensor, ...]
) -> float:
    """One pass of SGD over `batches` of indices into x (n, channels, side, side) and y (n,); returns the mean loss.

    Ends within the epoch once the loss is not finite, and returns that loss: no later batch can mend it.
    """
    model.train()
    loss_sum = torch.zeros((), device=x.device)
    seen = 0
    for number, index in enumerate(batches, start=1):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[index]), y[index])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss_sum += loss.detach() * len(index)
        seen += len(index)
        if number % FINITE_CHECK_BATCHES == 0 and not math.isfinite(loss_sum.item()):
            break
    return loss_sum.item() / seen


def test_error(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The fraction of images in x (n, channels, side, side) whose most likely class is not y (n,)."""
    model.eval()
    wrong = torch.zeros((), dtype=torch.int64, device=x.device)
    with torch.inference_mode():
        for images, classes in zip(torch.split(x, TEST_BATCH), torch.split(y, TEST_BATCH), strict=True):
            wrong += (model(images).argmax(dim=1) != classes).sum()
    return wrong.item() / len(y)


def inference(job: Job, image_shape: tuple[int, int, int], classes: int = 10) -> Callable[[], None]:
    """A function that runs the untrained network once over a fixed batch resident on the device, and waits for it.

    Power and memory do not depend on how well a network is trained (section 3.3, figure 3 left).
    """
    device = choose_device(job.threads)
    torch.manual_seed(job.seed)
    model = place(build(Architecture.from_params(job.params), image_shape, classes), device).eval()
    batch = torch.randn(job.options.batch_size, *image_shape, device=device)

    def step() -> None:
        with torch.inference_mode():
            model(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step

"""The AlexNet variants of the paper (section 4) as PyTorch networks, and how one is trained, tested and run.

It knows neither where images come from (datasets.py) nor which ranges a search draws from (config.json).
architecture.py reads the params that shape the network; those of its training are

    learning_rate      of SGD, constant over the training
    momentum           (0.9)
    weight_decay       (0.0005)

Numbers in parentheses are AlexNet's, taken where a param is absent. A block is convolution, ReLU and max-pooling with
stride 2; then come a fully connected layer, ReLU, and a linear one. Nothing is padded unless a kernel is larger than
its map, so every point of the paper's space builds.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from architecture import POOL_STRIDE, Architecture, convolved, finite_number, padding, pooled
from torch import Tensor, nn

from hyperpower_runner.errors import ObjectiveError

if TYPE_CHECKING:
    from datasets import ImageSet

    from hyperpower_runner.objective import Job

MOMENTUM = 0.9
WEIGHT_DECAY = 0.0005
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}  # of the inference step
TEST_BATCH = 250
FINITE_CHECK_BATCHES = 50  # looking at the loss waits for the GPU; once in 50 batches costs nothing measurable


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


def _real(params: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = finite_number(params, name, default)
    if value < 0:
        raise ObjectiveError(f"{name} must not be negative, found {value:g}")
    return value


def build(architecture: Architecture, image_shape: tuple[int, int, int], classes: int = 10) -> nn.Sequential:
    """Build the network for square images of `image_shape` (channels, side, side).

    It maps float32 (n, *image_shape) to logits (n, classes). Layers are named conv1, pool1, relu1, ..., flatten, fc,
    relu, output. Pooling has stride 2 with every kernel (see architecture.py): a kernel of 1 keeps every second pixel,
    3 is AlexNet's overlapping pooling. ReLU is applied to the pooled map, a quarter as large: maximum and ReLU commute,
    so function and gradient are the same. Weights are drawn from torch's global generator. Works under
    `with torch.device("meta")`, where nothing is allocated or computed.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, side, _ = image_shape
    for i, block in enumerate(architecture.blocks, start=1):
        conv_padding = int(padding(side, block.conv_kernel))
        layers[f"conv{i}"] = nn.Conv2d(channels, block.features, block.conv_kernel, padding=conv_padding)
        side = int(convolved(side, block.conv_kernel))
        pool_padding = int(padding(side, block.pool_kernel))
        layers[f"pool{i}"] = nn.MaxPool2d(block.pool_kernel, stride=POOL_STRIDE, padding=pool_padding)
        side = int(pooled(side, block.pool_kernel))
        layers[f"relu{i}"] = nn.ReLU(inplace=True)
        channels = block.features
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels * side * side, architecture.fc_units)
    layers["relu"] = nn.ReLU(inplace=True)
    layers["output"] = nn.Linear(architecture.fc_units, classes)
    return nn.Sequential(layers)


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

    The batch has as many images as the platform of config.json says ("batch-size"), else --batch-size, and numbers are
    of its "dtype", else float32. Power and memory do not depend on how well a network is trained (section 3.3, figure 3
    left).
    """
    batch_size, dtype = job.batch_size or job.options.batch_size, job.dtype or "float32"
    if dtype not in DTYPES:
        raise ObjectiveError(f'platform.dtype is "{dtype}", but must be one of {", ".join(DTYPES)}')
    job.describe(batch_size=batch_size, dtype=dtype)
    device = choose_device(job.threads)
    torch.manual_seed(job.seed)
    model = place(build(Architecture.from_params(job.params), image_shape, classes), device).eval().to(DTYPES[dtype])
    batch = torch.randn(batch_size, *image_shape, device=device).to(DTYPES[dtype])

    def step() -> None:
        with torch.inference_mode():
            model(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step

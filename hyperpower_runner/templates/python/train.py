"""A small network on two interleaved half-circles, in numpy: replace the training by yours.

Try one configuration by hand:  python train.py units=16 learning_rate=0.5 momentum=0.9 activation=tanh --epochs 30
"""

import numpy as np

from hyperpower_runner import objective


def two_moons(rng, count):
    """Points of shape (count, 2) and their class, 0 or 1."""
    angle, label = np.pi * rng.random(count), rng.integers(2, size=count)
    side = np.where(label == 1, -1.0, 1.0)
    points = np.stack([side * np.cos(angle) + label, side * np.sin(angle) + 0.5 * label], axis=1)
    return points + 0.2 * rng.standard_normal((count, 2)), label


def evaluate(job):
    """Train and test one configuration; returns its metrics."""
    rng = np.random.default_rng(job.seed)
    units, tanh = job.params["units"], job.params["activation"] == "tanh"
    x, y = two_moons(np.random.default_rng(1), 600)
    test_x, test_y = two_moons(np.random.default_rng(2), 600)
    weights = [rng.standard_normal((2, units)), np.zeros(units), rng.standard_normal(units) / units**0.5, np.zeros(1)]
    velocity = [np.zeros_like(weight) for weight in weights]

    def forward(points):
        hidden = points @ weights[0] + weights[1]
        hidden = np.tanh(hidden) if tanh else np.maximum(hidden, 0.0)
        return hidden, hidden @ weights[2] + weights[3]

    for epoch in range(1, job.epochs + 1):
        for batch in np.split(rng.permutation(len(x)), 20):
            hidden, logit = forward(x[batch])
            slope = (1 / (1 + np.exp(-np.clip(logit, -500, 500))) - y[batch]) / len(batch)
            back = np.outer(slope, weights[2]) * (1 - hidden**2 if tanh else hidden > 0)
            gradients = [x[batch].T @ back, back.sum(0), hidden.T @ slope, slope.sum(keepdims=True)]
            for weight, speed, gradient in zip(weights, velocity, gradients, strict=True):
                speed *= job.params["momentum"]
                speed -= job.params["learning_rate"] * gradient
                weight += speed
        logit = forward(x)[1]
        loss = float(np.mean(np.logaddexp(0, logit) - y * logit))
        error = float(np.mean((forward(test_x)[1] > 0) != test_y))
        job.report(epoch=epoch, error=error, loss=loss)  # the learning curve, for early termination and the live view
        if job.should_stop():  # diverging, or somebody asked
            break
    return {"error": error, "weight_bytes": sum(weight.nbytes for weight in weights)}


def inference(job):
    """One inference step, for profiling: a function without arguments."""
    rng = np.random.default_rng(job.seed)
    batch, weights = rng.random((job.batch_size or 256, 2)), rng.random((2, job.params["units"]))
    return lambda: np.tanh(batch @ weights)


if __name__ == "__main__":
    objective.run(evaluate, inference)

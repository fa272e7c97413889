"""The five image recipes as a tutorial writes them: torchvision dataset, DataLoader, the loop. Nothing of mnistbench.

    python benchmarks/plain_loops.py mlp_sigmoid_sgd --data FOLDER [--epochs 1] [--seed 0]

Prints one line of JSON: seconds of training on the loop's own clock, examples, test accuracy.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import datasets, transforms


@dataclass(frozen=True)
class Recipe:
    """One tutorial.

    Attributes:
        network: builds it.
        optimizer: builds it over the network's parameters.
        loss: of outputs and labels, mean over the batch.
        dataset: of torchvision.
        normalize: pixels with MNIST's mean and standard deviation.
    """

    network: Callable[[], nn.Module]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    batch_size: int
    shuffle: bool
    dataset: Any = datasets.MNIST
    normalize: bool = False


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def lenet_sigmoid() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.Sigmoid(), nn.Linear(120, 84), nn.Sigmoid(), nn.Linear(84, 10),
    )  # fmt: skip
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    return model


def mlp_sigmoid() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 128), nn.Sigmoid(), nn.Linear(128, 256), nn.Sigmoid(), nn.Linear(256, 10)
    )


def mlp_5() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(),
        nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.25),
        nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10), nn.LogSoftmax(1),
    )  # fmt: skip


RECIPES = {
    "lenet_rmsprop_8192": Recipe(
        lenet, lambda p: torch.optim.RMSprop(p, lr=1e-3), functional.cross_entropy, 8192, shuffle=False
    ),
    "mlp_sigmoid_sgd": Recipe(
        mlp_sigmoid, lambda p: torch.optim.SGD(p, lr=0.2), functional.cross_entropy, 64, shuffle=False
    ),
    "mlp_momentum": Recipe(
        mlp_5,
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.5),
        functional.cross_entropy,
        64,
        shuffle=True,
        normalize=True,
    ),
    "lenet_fashion": Recipe(
        lenet_sigmoid,
        lambda p: torch.optim.SGD(p, lr=0.9),
        functional.cross_entropy,
        256,
        shuffle=True,
        dataset=datasets.FashionMNIST,
    ),
    "cnn_dropout": Recipe(cnn, lambda p: torch.optim.SGD(p, lr=0.01), functional.nll_loss, 32, shuffle=True),
}


def train(recipe: Recipe, data: str, epochs: int, seed: int) -> dict[str, float]:
    """Train and evaluate as the tutorial does.

    Args:
        data: a folder that torchvision may write into; `MNIST/raw` and `FashionMNIST/raw` lie there.
        epochs: passes over the training data.
        seed: of Python, NumPy and torch.

    Returns:
        `train_seconds` (without evaluation), `examples`, `test_accuracy`.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    steps: list[Any] = [transforms.ToTensor()]
    if recipe.normalize:
        steps.append(transforms.Normalize((0.1307,), (0.3081,)))
    transform = transforms.Compose(steps)
    training = recipe.dataset(data, train=True, download=True, transform=transform)
    testing = recipe.dataset(data, train=False, download=True, transform=transform)
    loader = DataLoader(training, batch_size=recipe.batch_size, shuffle=recipe.shuffle)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = recipe.network().to(device)
    optimizer = recipe.optimizer(model.parameters())
    seconds, examples = 0.0, 0
    for _ in range(epochs):
        model.train()
        start = time.perf_counter()
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)  # noqa: PLW2901
            optimizer.zero_grad()
            loss = recipe.loss(model(images), labels)
            loss.backward()
            optimizer.step()
            examples += len(labels)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds += time.perf_counter() - start
    model.eval()
    right = 0
    with torch.no_grad():
        for images, labels in DataLoader(testing, batch_size=1000):
            right += int((model(images.to(device)).argmax(1) == labels.to(device)).sum())
    return {"train_seconds": seconds, "examples": examples, "test_accuracy": right / len(testing)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(json.dumps(train(RECIPES[arguments.recipe], arguments.data, arguments.epochs, arguments.seed)))

"""The three table recipes as a tutorial writes them: tensors in memory, slices of rows, the loop; no mnistbench.

    python benchmarks/plain_tables.py table_mini_batch [--seed 0]

Prints one line of JSON: seconds of training on the loop's own clock, and the accuracy on the rows held out.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

TABLE = Path(__file__).parents[1] / "mnistbench" / "grid" / "ready" / "table.csv"


def sum3(rows: int = 10_000) -> tuple[Tensor, Tensor]:
    """Three numbers, and in one of three columns whether they sum to less than 1, to 1 to 2, or to more."""
    inputs = torch.rand(rows, 3)
    total = inputs.sum(1)
    return inputs, torch.stack([total < 1, (total >= 1) & (total <= 2), total > 2], 1).float()


def table() -> tuple[Tensor, Tensor]:
    """Eight numbers a row, and a label of 0 or 1."""
    frame = pd.read_csv(TABLE, index_col=0).astype("float32")
    return torch.tensor(frame.iloc[:, :-1].values), torch.tensor(frame.iloc[:, -1:].values)


def small_mlp() -> nn.Module:
    """For `sum3`."""
    return nn.Sequential(
        nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3)
    )


def sigmoid_mlp() -> nn.Module:
    """For `table`."""
    return nn.Sequential(
        nn.Linear(8, 32), nn.Sigmoid(), nn.Linear(32, 8), nn.Sigmoid(), nn.Linear(8, 4), nn.Sigmoid(),
        nn.Linear(4, 1), nn.Sigmoid(),
    )  # fmt: skip


def train(recipe: str, seed: int) -> dict[str, float]:
    """Train on 70 % of the rows and judge the rest, as the tutorial does."""
    torch.manual_seed(seed)
    is_sum3 = recipe == "sum3_full_batch"
    inputs, labels = sum3() if is_sum3 else table()
    order = torch.randperm(len(inputs))
    cut = int(0.7 * len(inputs))
    training, testing = order[:cut], order[cut:]
    model = small_mlp() if is_sum3 else sigmoid_mlp()
    loss_of: nn.Module = nn.MSELoss() if is_sum3 else nn.BCELoss()
    if is_sum3:
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    epochs = {"sum3_full_batch": 1_000, "table_full_batch": 5_000, "table_mini_batch": 500}[recipe]
    size = 128 if recipe == "table_mini_batch" else cut
    rows, wanted = inputs[training], labels[training]
    start = time.perf_counter()
    for _ in range(epochs):
        for first in range(0, cut, size):
            loss = loss_of(model(rows[first : first + size]), wanted[first : first + size])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        found = model(inputs[testing])
    right = found.argmax(1) == labels[testing].argmax(1) if is_sum3 else (found >= 0.5) == (labels[testing] >= 0.5)
    return {"train_seconds": seconds, "test_accuracy": right.float().mean().item()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=["sum3_full_batch", "table_full_batch", "table_mini_batch"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(json.dumps(train(arguments.recipe, arguments.seed)))

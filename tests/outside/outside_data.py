"""A dataset as a user would give it to the tool: the first images of MNIST, few enough for many short trainings."""

from __future__ import annotations

import dataclasses
import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np

from mnistbench.data.arrays import Arrays, image_arrays


def _bytes(name: str, header: int) -> Any:
    folder = Path(os.environ["MNISTBENCH_DATA"]) / "MNIST" / "raw"
    return np.frombuffer(gzip.decompress((folder / f"{name}.gz").read_bytes()), np.uint8, offset=header)


def first_digits(train: int = 200, test: int = 50) -> tuple[Any, Any, Any, Any]:
    """Images uint8 [n, 28, 28] and labels; MNISTBENCH_DATA says where MNIST/raw lies."""
    kept = []
    for part, count in (("train", train), ("t10k", test)):
        kept.append(_bytes(f"{part}-images-idx3-ubyte", 16)[: count * 784].reshape(count, 28, 28).copy())
        kept.append(_bytes(f"{part}-labels-idx1-ubyte", 8)[:count].astype(int))
    train_images, train_labels, test_images, test_labels = kept
    return train_images, train_labels, test_images, test_labels


def odd_digits(train: int = 200, test: int = 50) -> Arrays:
    """The same images with one label, 1 for odd digits: for networks that end in one probability."""
    train_images, train_labels, test_images, test_labels = first_digits(train, test)
    arrays = image_arrays(
        "odd_digits", (train_images, train_labels % 2), (test_images, test_labels % 2), ["even", "odd"]
    )
    return dataclasses.replace(arrays, spec=dataclasses.replace(arrays.spec, classes=1))

"""An MNIST-shaped dataset without a download, made from the real handwritten digits inside scikit-learn.

The 1,797 originals of 8×8 are smoothed up to a 20×20 box in 28×28, as in MNIST, and each is seen many times under small
random affine warps. One in six originals of each class is kept for the test images and never seen in training. The
pixels come from integer arithmetic and a frozen generator, so that they are the same, bit for bit, on every machine.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits (1998), UCI Machine Learning Repository.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mnistbench.data.arrays import Arrays, image_arrays

Integers = npt.NDArray[np.int64]
Images = npt.NDArray[np.uint8]

SEED = 1797
CLASSES = 10
TRAIN_EXAMPLES, TEST_EXAMPLES = 60_000, 10_000
TEST_SHARE = 6
"""One in so many originals is a test original."""

SIDE = 28
BOX = 20
ORIGINAL_SIDE, ORIGINAL_MAX = 8, 16
FINE = 4
"""Fine pixels to a side of an original one: warps sample the smoothed original at this resolution."""
MARGIN = 10
CANVAS = ORIGINAL_SIDE * FINE + 2 * MARGIN
UNIT = 1 << 16
"""Coordinates on the canvas are integers in this fraction of a fine pixel."""

DEGREES, SHEAR, SCALE, SHIFT = 8.0, 0.1, 0.08, 1.5
"""Half-ranges of the warps: rotation, slant, size, and pixels of the 28×28 image."""


def make_digits() -> Arrays:
    """60,000 training and 10,000 test images; the classes are equally frequent. Takes about two seconds."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    canvases = smooth(bunch.images.astype(np.int64))
    random = np.random.RandomState(SEED)  # the legacy generator: its streams never change between NumPy versions
    train, test = split_originals(bunch.target, random)
    parts = []
    for originals, examples in ((train, TRAIN_EXAMPLES), (test, TEST_EXAMPLES)):
        chosen = deal(originals, bunch.target, examples, random)
        parts.append((warp(canvases, chosen, draw_warps(examples, random)), bunch.target[chosen].astype(np.uint8)))
    return image_arrays("digits", parts[0], parts[1], [str(digit) for digit in range(CLASSES)])


def split_originals(labels: Integers, random: np.random.RandomState) -> tuple[Integers, Integers]:
    """Indices of training and of test originals: disjoint, each class split alike."""
    train, test = [], []
    for digit in range(CLASSES):
        members = random.permutation(np.flatnonzero(labels == digit))
        kept = len(members) // TEST_SHARE
        test.append(members[:kept])
        train.append(members[kept:])
    return np.concatenate(train), np.concatenate(test)


def deal(originals: Integers, labels: Integers, examples: int, random: np.random.RandomState) -> Integers:
    """Which original each example shows: classes equally often, and within a class its originals, in random order."""
    each = [np.resize(originals[labels[originals] == digit], examples // CLASSES) for digit in range(CLASSES)]
    return random.permutation(np.concatenate(each))


def smooth(originals: Integers) -> npt.NDArray[np.int32]:
    """Originals [n, 8, 8] of 0 to 16 on canvases [n, 52, 52] of 0 to 255, by cubic interpolation (Catmull-Rom)."""
    position = (np.arange(ORIGINAL_SIDE * FINE) + 0.5) / FINE - 0.5
    below = np.floor(position).astype(np.int64)
    t = position - below
    cubic = np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]) / 2
    weights = np.zeros((len(position), ORIGINAL_SIDE + 4), np.int64)  # two more at each end, then cut off: black
    for tap in range(4):
        weights[np.arange(len(position)), below + tap + 1] = np.round(cubic[tap] * 1024)
    weights = weights[:, 2:-2]
    fine = weights @ originals @ weights.T
    brightness = fine * 255 // (ORIGINAL_MAX << 20)
    sharpened = np.clip((brightness - 40) * 13 // 8, 0, 255)  # 8×8 counts blur a pen's edge; MNIST's is crisp
    return np.pad(sharpened, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN))).astype(np.int32)


@dataclass(frozen=True)
class Warps:
    """Affine maps from the pixels of n images to canvases, in units of 1/65,536 fine pixel.

    Attributes:
        matrix: int32 [n, 2, 2], rows y and x.
        shift: int32 [n, 2].
    """

    matrix: npt.NDArray[np.int32]
    shift: npt.NDArray[np.int32]


def draw_warps(n: int, random: np.random.RandomState) -> Warps:
    """Rotation, slant, size in each direction and shift, each uniform in its range."""
    angle = np.deg2rad(random.uniform(-DEGREES, DEGREES, n))
    slant = random.uniform(-SHEAR, SHEAR, n)
    size = random.uniform(1 - SCALE, 1 + SCALE, (n, 2))
    shift = random.uniform(-SHIFT, SHIFT, (n, 2))
    cosine, sine = np.cos(angle), np.sin(angle)
    rows = [cosine + slant * sine, sine, slant * cosine - sine, cosine]
    matrix = np.stack(rows, axis=1).reshape(n, 2, 2) / size[:, :, None]
    fine_per_pixel = ORIGINAL_SIDE * FINE / BOX
    return Warps(*(np.round(part * fine_per_pixel * UNIT).astype(np.int32) for part in (matrix, shift)))


def warp(canvases: npt.NDArray[np.int32], chosen: Integers, warps: Warps, chunk: int = 500) -> Images:
    """Images [n, 28, 28] of the chosen canvases, by bilinear interpolation. Chunks keep the work in the cache."""
    half_pixels = 2 * np.arange(SIDE, dtype=np.int32) - (SIDE - 1)  # from the image's centre
    y, x = (grid.ravel() for grid in np.meshgrid(half_pixels, half_pixels, indexing="ij"))
    flat = canvases.reshape(-1)
    images = np.empty((len(chosen), SIDE * SIDE), np.uint8)
    for start in range(0, len(chosen), chunk):
        part = slice(start, start + chunk)
        matrix, shift = warps.matrix[part], warps.shift[part]
        row, column = (
            np.clip(
                (matrix[:, axis, :1] * y + matrix[:, axis, 1:] * x) // 2
                + shift[:, axis, None]
                + (CANVAS - 1) * UNIT // 2,
                0,
                (CANVAS - 1) * UNIT - 1,
            )
            for axis in (0, 1)
        )
        down, right = (row >> 8) & 255, (column >> 8) & 255
        at = chosen[part, None] * CANVAS**2 + (row >> 16) * CANVAS + (column >> 16)
        above = flat.take(at) * (256 - right) + flat.take(at + 1) * right
        below = flat.take(at + CANVAS) * (256 - right) + flat.take(at + CANVAS + 1) * right
        images[part] = (above * (256 - down) + below * down + (1 << 15)) >> 16
    return images.reshape(-1, SIDE, SIDE)

"""The dataset that needs no download."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mnistbench.data.arrays import Arrays, check, checksum
from mnistbench.data.digits import deal, draw_warps, make_digits, smooth, split_originals, warp


@pytest.fixture(scope="module")
def digits() -> Arrays:
    return make_digits()


def test_it_has_mnists_shape_and_equally_frequent_classes(digits: Arrays) -> None:
    check(digits)
    assert digits.train_inputs.shape == (60_000, 28, 28)
    assert digits.test_inputs.shape == (10_000, 28, 28)
    assert np.bincount(digits.train_labels).tolist() == [6_000] * 10
    assert np.bincount(digits.test_labels).tolist() == [1_000] * 10


def test_it_is_the_same_on_every_machine(digits: Arrays) -> None:
    """Pinned: results on digits are compared across machines by this checksum."""
    assert checksum(digits) == "390f4c29f5014385a93b0c9ff055465dd381962c0faa518640aebe5fb0e98f36"


def test_training_and_test_originals_are_disjoint() -> None:
    labels = load_digits().target
    train, test = split_originals(labels, np.random.RandomState(0))
    assert not set(train.tolist()) & set(test.tolist())
    assert len(train) + len(test) == len(labels)
    assert np.bincount(labels[test]).min() >= 28


def test_every_original_is_seen_about_equally_often() -> None:
    labels = load_digits().target
    train, _ = split_originals(labels, np.random.RandomState(0))
    seen = np.bincount(deal(train, labels, 60_000, np.random.RandomState(1)), minlength=len(labels))
    assert set(np.flatnonzero(seen)) == set(train.tolist())
    assert seen[train].min() >= 39 and seen[train].max() <= 42


def test_images_are_all_different(digits: Arrays) -> None:
    flat = digits.train_inputs.reshape(len(digits.train_inputs), -1)
    assert len({row.tobytes() for row in flat}) == len(flat)


def test_a_test_image_resembles_its_class_mean(digits: Arrays) -> None:
    """Labels belong to their images: the nearest class mean is right far more often than one time in ten."""
    train = digits.train_inputs[:6_000].reshape(6_000, -1).astype(np.float32)
    test = digits.test_inputs[:1_000].reshape(1_000, -1).astype(np.float32)
    means = np.stack([train[digits.train_labels[:6_000] == digit].mean(axis=0) for digit in range(10)])
    nearest = ((test[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == digits.test_labels[:1_000]).mean() > 0.7


def test_digits_lie_inside_the_frame_as_mnists_do(digits: Arrays) -> None:
    assert digits.train_inputs[:, [0, -1]].mean() < 0.01
    middle = digits.train_inputs[:, 8:20, 8:20].mean()
    assert middle > 4 * digits.train_inputs[:, [1, -2]].mean()
    assert 0.1 < digits.spec.mean < 0.2


def test_a_smoothed_original_keeps_its_brightness() -> None:
    """A flat original becomes a flat patch: the interpolation's weights add up to one."""
    flat = smooth(np.full((1, 8, 8), 16, np.int64))[0]
    assert (flat[20:30, 20:30] == 255).all()
    assert flat[:10].max() == 0


def test_another_chunk_gives_the_same_pixels() -> None:
    canvases = smooth(load_digits().images[:20].astype(np.int64))
    chosen = np.arange(20)
    warps = draw_warps(20, np.random.RandomState(3))
    assert np.array_equal(warp(canvases, chosen, warps, chunk=3), warp(canvases, chosen, warps))

"""Whatever lies under the name of an IDX file: an array, or a ValueError."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import read_idx

from mnistbench.data.images import ImageFiles

EXAMPLES = 1_000
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
)


@st.composite
def nearly_idx(draw: st.DrawFn) -> bytes:
    """A header and data that may or may not fit each other, cut or changed somewhere."""
    shape = draw(st.lists(st.integers(0, 8) | st.integers(0, 2**32 - 1), max_size=5))
    kind = draw(st.sampled_from([8, 8, 8, 9, 11, 13, 0, 255]))
    claimed = draw(st.sampled_from([len(shape), len(shape), draw(st.integers(0, 255))]))
    size = int(np.prod(shape, dtype=object)) if shape else 0
    data = draw(st.binary(min_size=min(size, 600), max_size=min(size, 600)) | st.binary(max_size=64))
    content = bytes([0, 0, kind, claimed]) + struct.pack(f">{len(shape)}I", *shape) + data
    if draw(st.booleans()):
        content = gzip.compress(content, mtime=0)
    if draw(st.integers(0, 3)) == 0:
        content = content[: draw(st.integers(0, len(content)))]
    if content and draw(st.integers(0, 3)) == 0:
        place = draw(st.integers(0, len(content) - 1))
        content = content[:place] + bytes([content[place] ^ (1 << draw(st.integers(0, 7)))]) + content[place + 1 :]
    return content


def read_or_refuse(content: bytes) -> np.ndarray | None:
    try:
        return read_idx(content)
    except ValueError:
        return None


@FUZZ
@given(st.binary(max_size=300))
def test_any_bytes(content: bytes) -> None:
    read_or_refuse(content)


@FUZZ
@given(nearly_idx())
def test_bytes_that_look_like_idx(content: bytes) -> None:
    array = read_or_refuse(content)
    if array is not None:
        assert array.dtype == np.uint8
        assert 1 <= array.ndim <= 3


def test_a_file_cut_at_any_place(mnist_files: tuple[Path, ImageFiles]) -> None:
    """A download that broke off is refused wherever it broke."""
    whole = (mnist_files[0] / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").read_bytes()
    for length in range(0, len(whole), 7):
        assert read_or_refuse(whole[:length]) is None


def test_a_file_with_any_byte_flipped(mnist_files: tuple[Path, ImageFiles]) -> None:
    """gzip's own checksum finds a flipped bit; only its header (name, time) may change without harm."""
    whole = (mnist_files[0] / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").read_bytes()
    right = read_or_refuse(whole)
    for place in range(0, len(whole), 11):
        flipped = whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :]
        array = read_or_refuse(flipped)
        if array is not None and not np.array_equal(array, right):
            pytest.fail(f"a flipped bit at {place} went unnoticed")

"""The IDX reader: right files, and files that lie."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_files import read_idx

from mnistbench.data.idx import parse_idx, unpack


def idx(*shape: int, data: bytes | None = None, kind: int = 8) -> bytes:
    """An IDX file of counting bytes, or of what is given."""
    content = bytes(i % 256 for i in range(int(np.prod(shape)))) if data is None else data
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + content


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 4, 6), (0,)])
def test_the_array_is_read(shape: tuple[int, ...]) -> None:
    array = read_idx(idx(*shape))
    assert array.shape == shape
    assert array.reshape(-1).tolist() == [i % 256 for i in range(int(np.prod(shape)))]


def test_a_packed_file_is_read() -> None:
    assert read_idx(gzip.compress(idx(2, 3))).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_the_real_file_is_read(data_dir: Path) -> None:
    labels = read_idx((data_dir / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").read_bytes())
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x08", "not an IDX file"),
        (b"PK\x03\x04 something else", "not an IDX file"),
        (b"\xef\xbb\xbf \n<HTML><body>404</body>", "a web page"),
        (idx(3, kind=13), "IDX type 13"),
        (idx(2, 2, 2, 2), "4 dimensions"),
        (b"\0\0\x08\0", "0 dimensions"),
        (b"\0\0\x08\x03" + b"\0\0\0\x01", "header is cut short"),
        (idx(3, data=b"ab"), r"tells \[3\], but 2 bytes"),
        (idx(3, data=b"abcd"), r"tells \[3\], but 4 bytes"),
        (idx(1 << 31, 1 << 31, 4, data=b""), "but 0 bytes"),  # the product is 0 modulo 2**64
        (gzip.compress(idx(4), mtime=0)[:-9], "gzip"),
        (gzip.compress(idx(4), mtime=0) + b"more", "something follows"),
        (b"\x1f\x8b" + b"\0" * 20, "damaged gzip"),
    ],
)
def test_a_file_that_lies_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_idx(content)


def test_a_gzip_bomb_is_unpacked_no_further_than_its_limit() -> None:
    """64 MB of zeros in 64 kB: stops after the limit, so that memory stays small."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    block = bytes(1 << 20)
    bomb = b"".join(packer.compress(block) for _ in range(64)) + packer.flush()
    assert len(bomb) < 1 << 20
    with pytest.raises(ValueError, match="more than the expected 1000 bytes"):
        unpack(bomb, limit=1000)


def test_what_fills_the_limit_exactly_is_unpacked() -> None:
    assert unpack(gzip.compress(b"x" * 1000), limit=1000) == b"x" * 1000


def test_the_array_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        parse_idx(idx(3))[0] = 1

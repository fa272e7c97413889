"""Read the IDX format of the MNIST family: a header that tells the shape, then the bytes.

Format: two zero bytes, a type (8 is uint8), the number of dimensions, each dimension as a big-endian uint32, the data.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import numpy.typing as npt

UINT8 = 8
MAX_DIMENSIONS = 3


def unpack(content: bytes, limit: int) -> bytes:
    """What a gzip stream holds, unpacked no further than `limit` bytes.

    Raises:
        ValueError: if it is damaged, cut short, followed by something else, or holds more than `limit`.
    """
    stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        data = stream.decompress(content, limit + 1)
    except zlib.error as error:
        raise ValueError(f"damaged gzip data ({error})") from None
    if len(data) > limit:
        raise ValueError(f"unpacks to more than the expected {limit} bytes")
    if not stream.eof:
        raise ValueError("gzip data is cut short")
    if stream.unused_data:
        raise ValueError("something follows the gzip data")
    return data


def parse_idx(data: bytes) -> npt.NDArray[np.uint8]:
    """The array that the bytes of an IDX file hold; read-only, [n] or [n, height] or [n, height, width].

    Raises:
        ValueError: if it is not IDX, not of uint8, or the header does not fit the data.
    """
    if looks_like_html(data):
        raise ValueError("a web page, not data")
    if len(data) < 4 or data[:2] != b"\0\0":
        raise ValueError("not an IDX file")
    kind, dimensions = data[2], data[3]
    if kind != UINT8:
        raise ValueError(f"IDX type {kind}, expected {UINT8} (uint8)")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise ValueError(f"IDX header tells {dimensions} dimensions, expected 1 to {MAX_DIMENSIONS}")
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise ValueError("IDX header is cut short")
    shape = tuple(int(size) for size in np.frombuffer(data, dtype=">u4", count=dimensions, offset=4))
    if len(data) - start != math.prod(shape):  # Python's integers: a product that overflows cannot fool it
        raise ValueError(f"IDX header tells {list(shape)}, but {len(data) - start} bytes follow it")
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def looks_like_html(data: bytes) -> bool:
    """Whether a server, or a network's login page, answered instead of the data."""
    return data[:200].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head"))

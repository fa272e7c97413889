"""The official files of a dataset: where they are, and files made alike for tests of how such files are read."""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mnistbench.data.digits import make_digits
from mnistbench.data.idx import parse_idx, unpack
from mnistbench.data.images import MNIST, ImageFiles
from mnistbench.data.sources import Search
from mnistbench.errors import UserError
from mnistbench.files.cache_folder import cache_folder

BESIDE = Path(__file__).parents[2] / "shared" / "data"
if BESIDE.is_dir():
    os.environ.setdefault("MNISTBENCH_DATA", str(BESIDE))


def read_idx(content: bytes) -> npt.NDArray[np.uint8]:
    """The array in the bytes of an IDX file, packed with gzip or not."""
    return parse_idx(unpack(content, 1 << 28) if content.startswith(b"\x1f\x8b") else content)


@functools.cache
def folder_with(files: ImageFiles) -> Path | None:
    """The folder that holds a dataset's packed files: looked for as a run does, and downloaded if need be."""
    for place in Search().places():
        if all((place.folder / files.folder / "raw" / f"{file.name}.gz").is_file() for file in files.files):
            return place.folder.absolute()
    try:
        files.download(cache_folder())
    except (UserError, OSError):
        return None
    return cache_folder()


def write_digits(root: Path) -> ImageFiles:
    """Write four packed IDX files under MNIST's names.

    Returns:
        MNIST's description with the checksums of these files.
    """
    raw = root / MNIST.folder / "raw"
    raw.mkdir(parents=True)
    files = []
    for file, (_, array) in zip(MNIST.files, make_digits().items(), strict=True):
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        content = header + array.astype(np.uint8).tobytes()
        packed = gzip.compress(content, 1, mtime=0)
        (raw / f"{file.name}.gz").write_bytes(packed)
        md5 = hashlib.md5(packed, usedforsecurity=False).hexdigest()
        files.append(replace(file, md5=md5, sha256=hashlib.sha256(content).hexdigest()))
    return replace(MNIST, files=tuple(files))

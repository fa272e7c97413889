"""The files of MNIST, Fashion-MNIST and KMNIST: find them in torchvision's layout, verify, read, download."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from mnistbench.data.arrays import Arrays, image_arrays
from mnistbench.data.download import NotFetched, Progress, fetch_files
from mnistbench.data.idx import looks_like_html, parse_idx, unpack
from mnistbench.errors import UserError

T = TypeVar("T")

is_file, is_folder = os.path.isfile, os.path.isdir
"""Whether one is seen there; unlike pathlib's these never raise, as for a name too long or a folder closed to us."""

SIDE = 28
CLASSES = 10
TRAIN_EXAMPLES, TEST_EXAMPLES = 60_000, 10_000


class Damaged(UserError):
    """A file under the right name that is not the right file."""


class DataNotFound(UserError):
    """The dataset is in no folder that was looked in, and could not be downloaded; a grid's `fallback` stands in.

    Attributes:
        warnings: what is there, but damaged or incomplete: the user should see it although a fallback stands in.
    """

    def __init__(self, message: str, warnings: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.warnings = tuple(warnings)


@dataclass(frozen=True)
class OfficialFile:
    """One of a dataset's four files.

    Attributes:
        name: without `.gz`.
        md5: of the `.gz`, as torchvision lists it; repeated here so that files on disk are read without importing
            torchvision and torch. A test holds the two against each other.
        sha256: of the unpacked file; None where it has never been seen: then only the `.gz` is accepted.
        shape: of its array.
    """

    name: str
    md5: str
    sha256: str | None
    shape: tuple[int, ...]

    @property
    def unpacked_bytes(self) -> int:
        """Header and data; nothing is read or unpacked beyond it."""
        return 4 + 4 * len(self.shape) + math.prod(self.shape)


@dataclass(frozen=True)
class DataFolder:
    """A folder to look in, and what to call it in front of the user."""

    label: str
    folder: Path

    @property
    def where(self) -> str:
        """Both, for messages."""
        return self.label if self.label == f"./{self.folder}" else f"{self.label} ({self.folder})"


@dataclass(frozen=True)
class Found:
    """What lies in a place."""

    place: DataFolder
    state: Literal["whole", "incomplete", "absent"]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageFiles:
    """A dataset of four IDX files.

    Attributes:
        folder: torchvision's name for the dataset: its class, and the folder under the data's root.
    """

    name: str
    folder: str
    class_names: tuple[str, ...]
    files: tuple[OfficialFile, ...]

    def find(self, place: DataFolder) -> Found:
        """Look for the files, by name alone."""
        missing = tuple(file.name for file in self.files if not self._candidates(file, place.folder))
        if len(missing) == len(self.files):
            return Found(place, "absent", missing)
        return Found(place, "incomplete" if missing else "whole", missing)

    def verify(self, place: DataFolder) -> None:
        """Compare the checksums of the four files, without unpacking them.

        Raises:
            Damaged: names every file that is not what it should be.
        """
        self._each(verified_content, place)

    def read(self, place: DataFolder) -> Arrays:
        """Verify and read the four files.

        Raises:
            Damaged: names every file that is not what it should be.
        """
        train_images, train_labels, test_images, test_labels = self._each(read_official, place)
        return image_arrays(self.name, (train_images, train_labels), (test_images, test_labels), list(self.class_names))

    def download(self, root: Path, progress: Progress | None = None) -> str:
        """Bring the `.gz` files into `root`, in torchvision's layout, from torchvision's mirrors.

        Returns:
            the host they came from.

        Raises:
            NotFetched: with a line for each mirror.
        """
        try:
            import torchvision.datasets
        except Exception as error:  # a torchvision that does not fit its torch fails with RuntimeError
            raise NotFetched(f"torchvision, which lists the mirrors, cannot be imported: {error}") from None
        listed = getattr(torchvision.datasets, self.folder)
        return fetch_files(listed.resources, listed.mirrors, root / self.folder / "raw", progress)

    def _candidates(self, file: OfficialFile, root: Path) -> list[Path]:
        raw = root / self.folder / "raw"
        return [path for path in (raw / f"{file.name}.gz", raw / file.name) if is_file(path)]

    def _each(self, read: Callable[[OfficialFile, Path], T], place: DataFolder) -> list[T]:
        """What `read` makes of each file; where the packed one is damaged, the unpacked one beside it will do."""
        made, wrong = [], []
        for file in self.files:
            failures = []
            for path in self._candidates(file, place.folder):
                try:
                    made.append(read(file, path))
                    break
                except Damaged as error:
                    failures.append(str(error))
            else:
                wrong += failures or [f"{place.folder / self.folder / 'raw' / file.name}: is gone"]
        if wrong:
            raise Damaged("\n".join(wrong))
        return made


def verified_content(file: OfficialFile, path: Path) -> bytes:
    """The bytes of one file, packed or not.

    Raises:
        Damaged: if it cannot be read, or its checksum is wrong.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(file.unpacked_bytes + 1)  # no .gz of these is larger than what it holds
    except OSError as error:
        raise Damaged(f"{path}: cannot be read: {error.strerror or error}") from None
    if looks_like_html(content):
        raise Damaged(f"{path}: a web page, not the file")
    if path.suffix == ".gz":
        right = hashlib.md5(content, usedforsecurity=False).hexdigest() == file.md5 or _is_packed_anew(file, content)
    elif file.sha256 is None:
        raise Damaged(f"{path}: no checksum is known for the unpacked file; put {file.name}.gz beside it")
    else:
        right = hashlib.sha256(content).hexdigest() == file.sha256
    if not right:
        raise Damaged(
            f"{path}: the checksum is wrong: damaged, cut short, or another file{_whose(path.suffix, content)}"
        )
    return content


def _whose(suffix: str, content: bytes) -> str:
    """Which official file it is, in words, if it is another one."""
    digest = (hashlib.md5(content, usedforsecurity=False) if suffix == ".gz" else hashlib.sha256(content)).hexdigest()
    found = [
        f" (it is {each.name} of {files.name})"
        for files in OFFICIAL
        for each in files.files
        if digest in (each.md5, each.sha256)
    ]
    return found[0] if found else ""


def _is_packed_anew(file: OfficialFile, content: bytes) -> bool:
    """Whether it holds the right bytes: another gzip, or another of its settings, packs them into others."""
    try:
        return hashlib.sha256(unpack(content, file.unpacked_bytes)).hexdigest() == file.sha256
    except ValueError:
        return False


def read_official(file: OfficialFile, path: Path) -> npt.NDArray[np.uint8]:
    """The array in one file, packed or not.

    Raises:
        Damaged: if its checksum, or what is in it, is wrong.
    """
    content = verified_content(file, path)
    try:
        array = parse_idx(unpack(content, file.unpacked_bytes) if path.suffix == ".gz" else content)
    except ValueError as error:
        raise Damaged(f"{path}: {error}") from None
    if array.shape != file.shape:
        raise Damaged(f"{path}: holds {list(array.shape)}, expected {list(file.shape)}")
    if array.ndim == 1 and array.max() >= CLASSES:
        raise Damaged(f"{path}: holds the label {array.max()}, expected 0 to {CLASSES - 1}")
    return array


def _official(md5s: Sequence[str], sha256s: Sequence[str | None] = (None,) * 4) -> tuple[OfficialFile, ...]:
    names = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    shapes = ((TRAIN_EXAMPLES, SIDE, SIDE), (TRAIN_EXAMPLES,), (TEST_EXAMPLES, SIDE, SIDE), (TEST_EXAMPLES,))
    return tuple(OfficialFile(*parts) for parts in zip(names, md5s, sha256s, shapes, strict=True))


MNIST = ImageFiles(
    name="mnist",
    folder="MNIST",
    class_names=tuple("0123456789"),
    files=_official(
        (
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
)
FASHION_MNIST = ImageFiles(
    name="fashion_mnist",
    folder="FashionMNIST",
    class_names=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    files=_official(
        (
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
)
KMNIST = ImageFiles(
    name="kmnist",
    folder="KMNIST",
    class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    files=_official(
        (
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        )
    ),
)
OFFICIAL = (MNIST, FASHION_MNIST, KMNIST)

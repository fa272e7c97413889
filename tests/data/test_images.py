"""Official files: in every place and form, and damaged in every way."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mnistbench.data.images import FASHION_MNIST, KMNIST, MNIST, Damaged, DataFolder, ImageFiles, read_official
from mnistbench.errors import UserError

TEST_LABELS = MNIST.files[3]


@pytest.fixture
def mnist(mnist_files: tuple[Path, ImageFiles]) -> ImageFiles:
    """What is known of the files in `copy`."""
    return mnist_files[1]


@pytest.fixture
def copy(mnist_files: tuple[Path, ImageFiles], tmp_path: Path) -> DataFolder:
    """A folder with the MNIST files, to be damaged."""
    shutil.copytree(mnist_files[0] / "MNIST" / "raw", tmp_path / "MNIST" / "raw", copy_function=shutil.copyfile)
    (tmp_path / "MNIST" / "raw").chmod(0o755)
    return DataFolder("--data", tmp_path)


def labels_path(place: DataFolder) -> Path:
    return place.folder / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"


@pytest.mark.parametrize("files", [MNIST, FASHION_MNIST, KMNIST], ids=lambda files: files.name)
def test_checksums_and_class_names_are_torchvisions(files: ImageFiles) -> None:
    """They are written down here so that reading needs no torchvision; they must stay the same."""
    import torchvision.datasets

    listed = getattr(torchvision.datasets, files.folder)
    assert [(f"{file.name}.gz", file.md5) for file in files.files] == listed.resources
    assert list(files.class_names) == [name.partition(" - ")[0] for name in listed.classes]


@pytest.mark.parametrize(
    ("folder", "files", "mean", "std"),
    [("data_dir", MNIST, 0.1307, 0.3081), ("fashion_dir", FASHION_MNIST, 0.286, 0.353)],
)
def test_the_real_files_are_read(
    request: pytest.FixtureRequest, folder: str, files: ImageFiles, mean: float, std: float
) -> None:
    arrays = files.read(DataFolder("--data", request.getfixturevalue(folder)))
    assert arrays.train_inputs.shape == (60_000, 28, 28)
    assert arrays.test_inputs.dtype == np.uint8
    assert (arrays.spec.mean, arrays.spec.std) == (mean, std)
    assert sorted(set(arrays.test_labels.tolist())) == list(range(10))


def test_unpacked_files_are_verified_and_give_the_same(copy: DataFolder, mnist: ImageFiles) -> None:
    packed = mnist.read(copy)
    for file in mnist.files:
        path = copy.folder / "MNIST" / "raw" / f"{file.name}.gz"
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    unpacked = mnist.read(copy)
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(packed.items(), unpacked.items(), strict=True))
    path = labels_path(copy).with_suffix("")
    path.write_bytes(path.read_bytes()[:-1] + b"\x05")
    with pytest.raises(Damaged, match="t10k-labels-idx1-ubyte: the checksum is wrong"):
        mnist.verify(copy)


def test_where_the_packed_file_is_damaged_the_unpacked_one_will_do(copy: DataFolder, mnist: ImageFiles) -> None:
    path = labels_path(copy)
    labels = gzip.decompress(path.read_bytes())
    path.with_suffix("").write_bytes(labels)
    path.write_bytes(b"")
    assert mnist.read(copy).test_labels.tolist() == list(labels[8:])


def test_what_another_gzip_packed_is_the_same_file(copy: DataFolder, mnist: ImageFiles) -> None:
    path = labels_path(copy)
    labels = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(labels, 4, mtime=12345))
    assert mnist.read(copy).test_labels.tolist() == list(labels[8:])
    path.write_bytes(gzip.compress(labels[:-1] + b"\x05", 4, mtime=12345))
    with pytest.raises(Damaged, match="the checksum is wrong"):
        mnist.verify(copy)


def test_a_file_of_another_dataset_is_called_what_it_is(data_dir: Path, fashion_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(data_dir / "MNIST" / "raw", tmp_path / "MNIST" / "raw", copy_function=shutil.copyfile)
    theirs = fashion_dir / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
    path = labels_path(DataFolder("--data", tmp_path))
    shutil.copyfile(theirs, path)
    with pytest.raises(Damaged, match=r"another file \(it is t10k-labels-idx1-ubyte of fashion_mnist\)$"):
        MNIST.verify(DataFolder("--data", tmp_path))
    path.with_suffix("").write_bytes(gzip.decompress(theirs.read_bytes()))
    path.unlink()
    with pytest.raises(Damaged, match=r"of fashion_mnist\)$"):
        MNIST.verify(DataFolder("--data", tmp_path))


def test_an_unpacked_file_whose_checksum_is_unknown_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "t10k-labels-idx1-ubyte"
    path.write_bytes(b"\0\0\x08\x01\0\0\x27\x10" + bytes(10_000))
    with pytest.raises(Damaged, match=r"put t10k-labels-idx1-ubyte\.gz beside it"):
        read_official(KMNIST.files[3], path)


def damages(content: bytes) -> dict[str, bytes]:
    middle = len(content) // 2
    return {
        "cut short": content[:-100],
        "bit-flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "empty": b"",
        "zero bytes": bytes(len(content)),
        "longer": content + b"x",
        "web page": b"<html><body>404 Not Found</body></html>",
    }


@pytest.mark.parametrize("damage", list(damages(b"0123")))
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_a_damaged_file_is_named(copy: DataFolder, mnist: ImageFiles, name: str, damage: str) -> None:
    path = copy.folder / "MNIST" / "raw" / name
    path.write_bytes(damages(path.read_bytes())[damage])
    for look in (mnist.verify, mnist.read):
        with pytest.raises(Damaged) as error:
            look(copy)
        assert str(error.value).startswith(f"{path}: ")
        assert ("web page" in str(error.value)) == (damage == "web page")
        assert len(str(error.value).splitlines()) == 1, "the three good files are not complained of"


def test_every_damaged_file_is_named_at_once(copy: DataFolder, mnist: ImageFiles) -> None:
    for file in mnist.files[1:]:
        (copy.folder / "MNIST" / "raw" / f"{file.name}.gz").write_bytes(b"?")
    with pytest.raises(Damaged) as error:
        mnist.read(copy)
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\0\0\x08\x01\0\0\x27\x10" + bytes([10]) * 10_000, "holds the label 10, expected 0 to 9"),
        (b"\0\0\x08\x01\0\0\x27\x0f" + bytes(9_999), r"holds \[9999\], expected \[10000\]"),
        (b"\0\0\x08\x01\0\0\x27\x11" + bytes(10_000), r"header tells \[10001\], but 10000 bytes follow"),
        (b"\0\0\x08\x03\0\0\x27\x10" + bytes(10_000), "header tells"),
        (b"\0\0\x0d\x01\0\0\x27\x10" + bytes(10_000), "IDX type 13"),
        (bytes(1 << 22), "unpacks to more than the expected 10008 bytes"),
    ],
    ids=["label out of range", "fewer", "header lies", "other shape", "other type", "gzip bomb"],
)
def test_content_is_checked_even_under_a_right_checksum(tmp_path: Path, content: bytes, reason: str) -> None:
    """A checksum vouches for the file, not for what is in it: a list of checksums can be wrong too."""
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(content))
    listed = replace(TEST_LABELS, md5=hashlib.md5(path.read_bytes()).hexdigest())
    with pytest.raises(UserError, match=reason):
        read_official(listed, path)


def test_a_folder_with_some_of_the_files_is_incomplete(copy: DataFolder, mnist: ImageFiles) -> None:
    labels_path(copy).unlink()
    found = mnist.find(copy)
    assert (found.state, found.missing) == ("incomplete", ("t10k-labels-idx1-ubyte",))
    assert FASHION_MNIST.find(copy).state == "absent"


def test_reading_local_files_imports_neither_torch_nor_torchvision(data_dir: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mnistbench.data.images import *; "
        f"MNIST.read(DataFolder('here', Path({str(data_dir)!r}))); print({{'torch', 'torchvision'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"

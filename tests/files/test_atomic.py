"""What a user is told where a file cannot be written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mnistbench.errors import UserError
from mnistbench.files.whole import write_whole, writing


def _long_name(folder: Path) -> None:
    write_whole(folder / ("n" * 300), "x")


def _file_as_folder(folder: Path) -> None:
    (folder / "file").touch()
    write_whole(folder / "file" / "record.json", "x")


def _folder_as_file(folder: Path) -> None:
    (folder / "folder").mkdir()
    write_whole(folder / "folder", "x")


def _folder_over_file(folder: Path) -> None:
    (folder / "file").touch()
    with writing(folder / "file"):
        (folder / "file").mkdir(parents=True, exist_ok=True)


def _link_to_itself(folder: Path) -> None:
    (folder / "loop").symlink_to("loop")
    write_whole(folder / "loop" / "x", "x")


def _read_only(folder: Path) -> None:
    with writing(folder):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.parametrize(
    ("write", "way_out"),
    [
        (_long_name, "choose a shorter name"),
        (_file_as_folder, "a file stands where a folder is needed"),
        (_folder_as_file, "a folder stands where a file is needed"),
        (_folder_over_file, "a file stands where a folder is needed"),
        (_link_to_itself, "choose another path"),
        (_read_only, "name a folder on another file system"),
    ],
)
def test_running_again_is_not_advised_where_it_never_helps(
    tmp_path: Path, write: Callable[[Path], None], way_out: str
) -> None:
    with pytest.raises(UserError) as caught:
        write(tmp_path)
    assert way_out in str(caught.value)
    assert "run again" not in str(caught.value)


def test_running_again_is_advised_once_a_full_disk_has_room(tmp_path: Path) -> None:
    said = r"No space left on device\. .*make room, and run again to go on"
    with pytest.raises(UserError, match=said), writing(tmp_path):
        Path("/dev/full").write_text("x")
    assert list(tmp_path.iterdir()) == []

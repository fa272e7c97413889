"""Prepared datasets in the cache: whole or not at all, whoever dies and whatever breaks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mnistbench.data import cache
from mnistbench.data.arrays import ARRAY_NAMES, Arrays, checksum, load
from mnistbench.data.cache import CacheEntry, entry_directory, find_or_make, read_entry, write_entry
from mnistbench.data.tables import sum3_arrays
from mnistbench.errors import UserError

WRITE = """
import os, signal, sys
from mnistbench.data import cache
from mnistbench.data.tables import sum3_arrays
name, count = sys.argv[1], int(sys.argv[2])
real = {"fsync": os.fsync, "rename": cache.Path.rename, "replace": cache.Path.replace}
seen = 0
def counted(call):
    def wrapped(*arguments):
        global seen
        seen += 1
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments)
    return wrapped
os.fsync = counted(os.fsync)
cache.Path.rename = counted(cache.Path.rename)
cache.Path.replace = counted(cache.Path.replace)
cache.find_or_make(name, lambda: sum3_arrays(1000, 0.3, 0))
print("whole")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prepared"


def made() -> Arrays:
    return sum3_arrays(1000, 0.3, 0)


def is_intact(entry: CacheEntry) -> bool:
    """Whether every byte of it is as it was written."""
    return checksum(load(entry.directory)) == entry.sha256


def never() -> Arrays:
    raise AssertionError("was made a second time")


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)


def test_what_was_made_is_found_again() -> None:
    first = find_or_make("t", made)
    again = find_or_make("t", never)
    assert again == first
    assert checksum(load(first.directory)) == first.sha256 == checksum(made())


def test_arrays_are_mapped_and_not_writable() -> None:
    arrays = load(find_or_make("t", made).directory)
    assert isinstance(arrays.train_inputs, np.memmap)
    assert not arrays.train_inputs.flags.writeable


def test_notes_are_kept_with_the_entry() -> None:
    from dataclasses import replace

    find_or_make("t", lambda: replace(made(), notes=("look at column a",)))
    assert find_or_make("t", never).notes == ("look at column a",)


@pytest.mark.parametrize("name", [f"{name}.npy" for name in ARRAY_NAMES] + ["entry.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "gone", "zeros"])
def test_a_damaged_entry_is_made_anew(name: str, damage: str) -> None:
    entry = find_or_make("t", made)
    path = entry.directory / name
    content = path.read_bytes()
    middle = len(content) // 2
    damaged = {
        "cut": content[:-1] if name.endswith("npy") else content[:-3],
        "flipped": content[:middle] + bytes([content[middle] ^ 0x81]) + content[middle + 1 :],
        "empty": b"",
        "zeros": bytes(len(content)),
    }
    path.unlink()
    if damage in damaged:
        path.write_bytes(damaged[damage])
    again = find_or_make("t", made)
    assert again.sha256 == entry.sha256
    assert is_intact(again)


def test_a_cache_that_was_copied_is_recognized_by_its_content(folder: Path, tmp_path: Path) -> None:
    entry = find_or_make("t", made)
    shutil.copytree(entry.directory, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in (tmp_path / "copy").iterdir():
        os.utime(path, ns=(1, 1))
    shutil.rmtree(entry.directory)
    (tmp_path / "copy").rename(entry.directory)
    assert find_or_make("t", never) == entry
    note = json.loads((entry.directory / "entry.json").read_text())
    assert all(stamp[1] == 1 for stamp in note["stamps"].values()), "noted, so that it is not hashed again"


def test_an_entry_of_another_version_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = find_or_make("t", made)
    monkeypatch.setattr(cache, "ENTRY_VERSION", 2)
    assert read_entry(entry.directory) is None
    assert find_or_make("t", made).sha256 == entry.sha256


def test_arrays_that_are_unfit_leave_nothing_behind(folder: Path) -> None:
    bad = made()
    bad.train_labels[5] = 7
    with pytest.raises(UserError, match="train labels run from 0 to 7, expected 0 to 2"):
        find_or_make("t", lambda: bad)
    assert [path.name for path in folder.iterdir()] == ["t.lock"]


def test_a_maker_that_fails_leaves_nothing_behind(folder: Path) -> None:
    def fails() -> Arrays:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        find_or_make("t", fails)
    assert [path.name for path in folder.iterdir()] == ["t.lock"]


@pytest.mark.slow
def test_kill_at_every_write_boundary_leaves_a_whole_entry_or_none(folder: Path) -> None:
    """SIGKILL before each fsync and each rename; what follows finds or makes a whole entry, and tidies up."""
    outcomes = []
    for boundary in range(1, 20):
        name = f"t{boundary}"
        process = python(WRITE, name, str(boundary))
        output, _ = process.communicate(timeout=60)
        entry = read_entry(entry_directory(name))
        assert entry is None or is_intact(entry)
        if "whole" in output:
            break
        assert process.returncode == -signal.SIGKILL
        outcomes.append(entry is None)
        assert is_intact(find_or_make(name, made))
        assert sorted(path.name for path in folder.glob(f"{name}.*")) == [f"{name}.lock"]
    assert len(outcomes) >= 6, "four arrays, their note, and the folder itself"
    assert all(outcomes)


@pytest.mark.slow
def test_two_processes_make_an_entry_once() -> None:
    """Four start together; the entry is whole for each, and only one made it."""
    code = """
import sys, time
from mnistbench.data.arrays import checksum, load
from mnistbench.data.cache import find_or_make
from mnistbench.data.tables import sum3_arrays
def make():
    print("made", end=" ")
    time.sleep(0.5)
    return sum3_arrays(1000, 0.3, 0)
entry = find_or_make("t", make, waiting=lambda: print("waited", end=" "))
print(checksum(load(entry.directory)) == entry.sha256)
"""
    processes = [python(code) for _ in range(4)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert all(output.endswith("True\n") for output in outputs)
    assert sum("made" in output for output in outputs) == 1


def test_a_full_disk_is_said_and_leaves_nothing_behind(folder: Path) -> None:
    """A real limit of the system on the size of files stands for the full disk."""
    code = """
import resource
from mnistbench.data.cache import find_or_make
from mnistbench.errors import UserError
from mnistbench.data.tables import sum3_arrays
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    find_or_make("t", lambda: sum3_arrays(10_000, 0.3, 0))
except UserError as error:
    print(error)
"""
    output, _ = python(code).communicate(timeout=60)
    assert "cannot be written: File too large" in output
    assert "MNISTBENCH_CACHE" in output
    assert [path.name for path in folder.iterdir()] == ["t.lock"]


def test_a_cache_folder_that_cannot_be_made_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="set MNISTBENCH_CACHE to a folder"):
        find_or_make("t", made)


def test_a_reader_keeps_its_arrays_while_the_entry_is_replaced() -> None:
    entry = find_or_make("t", made)
    arrays = load(entry.directory)
    before = arrays.train_inputs[:10].copy()
    write_entry(entry.directory, sum3_arrays(1000, 0.3, 1))
    assert np.array_equal(arrays.train_inputs[:10], before)


def test_loading_what_is_gone_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prepared data cannot be read"):
        load(tmp_path / "gone")

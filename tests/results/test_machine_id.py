"""The id of a machine: the same in each process, another on another machine, whatever the system says of itself."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import make_cell, make_environment, make_record

from mnistbench.axes.devices import cpu_model
from mnistbench.cli import look
from mnistbench.report import frame as frames
from mnistbench.results import this_machine
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.merging import merge_folders
from mnistbench.train import machine as reproducibility

SAYS = """
import sys
from pathlib import Path
from mnistbench.results import this_machine
this_machine.SYSTEM_ID_FILE = Path(sys.argv[1])
print(*this_machine.identify_machine())
"""
OWN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file in which this process finds the system's id; nothing is remembered from before."""
    path = tmp_path / "machine-id"
    path.write_text(OWN)
    monkeypatch.setattr(this_machine, "SYSTEM_ID_FILE", path)
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "cache"))
    forget()
    yield path
    forget()


def forget() -> None:
    """What this process remembers of its machine."""
    this_machine.identify_machine.cache_clear()
    this_machine._former_machine_id.cache_clear()


def said(system_id: Path, cache: Path) -> list[str]:
    """The id and its source, as a process of its own has them."""
    command = [sys.executable, "-c", SAYS, str(system_id)]
    environment = {**os.environ, "MNISTBENCH_CACHE": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()


@pytest.mark.parametrize("content", ["", "\n", "uninitialized\n", "0" * 32, b"\xff\xfe", None])
def test_where_the_system_has_no_id_a_random_one_is_kept(content: str | bytes | None, tmp_path: Path) -> None:
    """Images and containers that were never set up all say the same of themselves."""
    system_id = tmp_path / "machine-id"
    if content is not None:
        system_id.write_bytes(content if isinstance(content, bytes) else content.encode())
    first, again = (said(system_id, tmp_path / "cache") for _ in range(2))
    assert first == again, "each process has the same"
    assert first[1] == "cache"
    assert said(system_id, tmp_path / "another cache")[0] != first[0], "two machines have two"


def test_processes_that_start_at_once_agree_on_the_random_id(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SAYS, str(tmp_path / "none")]
    environment = {**os.environ, "MNISTBENCH_CACHE": str(tmp_path / "cache")}
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert len({process.communicate(timeout=120)[0] for process in running}) == 1


def test_where_nothing_can_be_kept_the_id_is_that_of_all_processes_until_the_next_boot(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.write_text("a file stands where the folder should be")
    first, again = (said(tmp_path / "none", cache) for _ in range(2))
    assert first == again
    assert first[1] == "boot"


def test_the_size_of_the_memory_is_no_part_of_it(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed page of memory made it another machine."""
    before = this_machine.machine_id()
    forget()
    monkeypatch.setattr(this_machine, "memory_bytes", lambda: 1)
    assert this_machine.machine_id() == before
    assert not (machine.parent / "cache").exists(), "an id of the system's own is kept nowhere else"


def test_a_record_and_doctor_say_what_the_id_stays_with(machine: Path) -> None:
    assert reproducibility.describe_environment().machine_id_source == "system"
    machine.unlink()
    forget()
    (found,) = (check.found for check in look.doctor_checks() if check.name == "machine id")
    assert "none of its own" in found
    assert not this_machine.kept_id_file().exists(), "doctor writes nothing"
    assert reproducibility.describe_environment().machine_id_source == "cache"


def former_id() -> str:
    """As releases before 0.2.0 computed it."""
    return hashlib.sha256(f"{OWN}/{cpu_model()}/{this_machine.memory_bytes()}".encode()).hexdigest()[:12]


def test_this_machines_records_of_an_earlier_release_are_this_machines(machine: Path, tmp_path: Path) -> None:
    """In tables and in merging; those of other machines stay apart."""
    ids = [former_id(), this_machine.machine_id(), "another mach"]
    folders = []
    for number, machine_id in enumerate(ids):
        folder = ResultsFolder(tmp_path / f"folder{number}")
        folder.create()
        environment = replace(make_environment(), machine_id=machine_id)
        folder.write(make_record(make_cell(), environment=environment))
        folders.append(folder)
    records = [record for folder in folders for record in folder.records()]
    for frame in (frames.results_frame(records), frames.epochs_frame(records)):
        assert set(frame["machine_id"]) == {this_machine.machine_id(), "another mach"}
    merged = ResultsFolder(tmp_path / "merged")
    assert merge_folders(folders, merged) == 2
    assert [path.stem.partition("@")[2] for path in sorted(merged.cells.iterdir())] == ["", "another"]


def test_what_an_earlier_release_wrote_where_the_system_has_no_id_is_not_taken_for_this_machine(
    machine: Path,
) -> None:
    """All such systems with one kind of processor and as much memory had one id."""
    machine.write_text("")
    forget()
    shared = hashlib.sha256(f"/{cpu_model()}/{this_machine.memory_bytes()}".encode()).hexdigest()[:12]
    assert this_machine.recognized(shared) == shared


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_hook_of_git_does_not_put_another_checkouts_commit_into_records(tmp_path: Path) -> None:
    """git sets GIT_DIR for its hooks, which goes before `git -C`."""
    other = tmp_path / "other"
    author = {f"GIT_{role}_{key}": "a@b" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    for arguments in (["init", "-q", str(other)], ["-C", str(other), "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", *arguments], check=True, env={**os.environ, **author}, timeout=60)
    code = "from mnistbench.train import machine; print(machine.git_state())"
    answers = set()
    for hook in ({}, {"GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other), "GIT_INDEX_FILE": "x"}):
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, env={**os.environ, **hook}, capture_output=True, text=True, check=True, timeout=60
        )
        answers.add(done.stdout)
    assert len(answers) == 1

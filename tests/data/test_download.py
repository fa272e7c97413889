"""Mirrors that fail in every way, served for real on this machine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from mirror_server import Answer, mirror, never_ends, sends, sends_files, stays_mute, trickles

from mnistbench.data import download
from mnistbench.data.download import NotFetched, fetch_files

CONTENT = b"the right bytes" * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()
PAGE = b"<!DOCTYPE html><html><body>Please log in to this network</body></html>"
CLOSED = "http://127.0.0.1:1/"


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(download, "WINDOW_SECONDS", 0.3)
    monkeypatch.setattr(download, "MAX_BYTES", 4 << 20)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_fetched_and_progress_is_told(tmp_path: Path) -> None:
    told = []
    with mirror(sends(CONTENT)) as good:
        host = fetch_files([("a.gz", MD5)], [good.address], tmp_path, lambda *what: told.append(what))
    assert (tmp_path / "a.gz").read_bytes() == CONTENT
    assert host == "127.0.0.1"
    assert told[-1] == ("downloading a.gz", len(CONTENT), len(CONTENT))


def test_a_file_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(CONTENT)
    with mirror(sends(CONTENT)) as good:
        fetch_files([("a.gz", MD5)], [good.address], tmp_path)
        assert good.asked == []


def test_a_damaged_file_is_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(CONTENT[:-1])
    with mirror(sends(CONTENT)) as good:
        fetch_files([("a.gz", MD5)], [good.address], tmp_path)
    assert (tmp_path / "a.gz").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (sends(PAGE), "a web page, not the file"),
        (sends(CONTENT[:-1]), "its checksum is wrong"),
        (sends(CONTENT[:100], announced=len(CONTENT)), "cut short, 14900 bytes are missing"),
        (sends(b""), "its checksum is wrong"),
        (sends(b"oops", status=500), "answers 500"),
        (sends(b"gone", status=404), "answers 404"),
        (never_ends, "more than 4 MB"),
        (stays_mute, "no answer in"),
        (trickles, "too slow"),
        (lambda request: request.wfile.write(b"\x00\xff not http\r\n\r\n"), "BadStatusLine"),
        (lambda request: request.connection.close(), "RemoteDisconnected"),
    ],
)
def test_the_next_mirror_is_tried_whatever_is_wrong_with_one(tmp_path: Path, answer: Answer, reason: str) -> None:
    with mirror(answer) as bad, mirror(sends(CONTENT)) as good:
        fetch_files([("a.gz", MD5)], [bad.address, good.address], tmp_path)
        assert (tmp_path / "a.gz").read_bytes() == CONTENT
        (tmp_path / "a.gz").unlink()
        with pytest.raises(NotFetched) as refused:
            fetch_files([("a.gz", MD5)], [bad.address], tmp_path)
    assert f"{bad.address}a.gz" in str(refused.value)
    assert reason in str(refused.value) or "ConnectionReset" in str(refused.value)
    assert names(tmp_path) == []


def test_a_mirror_that_cannot_be_reached_is_not_asked_for_the_next_file(tmp_path: Path) -> None:
    files = {"a.gz": CONTENT, "b.gz": CONTENT}
    with mirror(stays_mute) as mute, mirror(sends_files(files)) as good:
        fetch_files([("a.gz", MD5), ("b.gz", MD5)], [CLOSED, mute.address, good.address], tmp_path)
        assert mute.asked == ["/a.gz"]
    assert names(tmp_path) == ["a.gz", "b.gz"]


def test_what_was_fetched_stays_when_a_later_file_fails(tmp_path: Path) -> None:
    with mirror(sends_files({"a.gz": CONTENT})) as half, pytest.raises(NotFetched, match=r"b\.gz: answers 404"):
        fetch_files([("a.gz", MD5), ("b.gz", MD5)], [half.address], tmp_path)
    assert names(tmp_path) == ["a.gz"]


def test_every_mirror_is_named_with_its_reason(tmp_path: Path) -> None:
    with mirror(sends(PAGE)) as page, pytest.raises(NotFetched) as refused:
        fetch_files([("a.gz", MD5)], [CLOSED, page.address], tmp_path)
    first, second = str(refused.value).splitlines()
    assert first.startswith(CLOSED) and "refused" in first
    assert second.startswith(page.address) and "web page" in second

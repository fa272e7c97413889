"""Fetch files from the first mirror that gives them whole, in bounded time; kept only if the checksum fits."""

from __future__ import annotations

import hashlib
import http.client
import os
import queue
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from mnistbench.data.idx import looks_like_html
from mnistbench.errors import UserError

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, bytes done, and bytes in all (None where that is unknown)."""

ANSWER_SECONDS = 10.0
"""Until the first byte: name lookup, connecting and every address of the host included."""
WINDOW_SECONDS = 15.0
WINDOW_BYTES = 16_384
"""A mirror that brings less than this in a window is given up."""
MAX_BYTES = 64 << 20
"""The largest known file has 26 MB."""
CHUNK_BYTES = 1 << 16


class NotFetched(UserError):
    """No mirror gave the file; the message has a line for each mirror and its reason."""


class MirrorFailed(Exception):
    """Why one mirror gave nothing that can be used; `unreachable` if it did not even answer."""

    def __init__(self, reason: str, *, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.unreachable = unreachable


def fetch_files(
    files: Sequence[tuple[str, str]], mirrors: Sequence[str], folder: Path, progress: Progress | None = None
) -> str:
    """Bring each file into `folder` unless it is already there with the right checksum.

    Args:
        files: names and their MD5 checksums.
        mirrors: addresses that end in a slash, tried in turn; one that cannot be reached is not tried again.
        folder: written atomically; files that were fetched stay when a later one fails.

    Returns:
        the host which gave the last file, or nothing if all were there.

    Raises:
        NotFetched: if a file came from no mirror.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unreachable: dict[str, str] = {}
    host = ""
    for name, md5 in files:
        target = folder / name
        if target.is_file() and file_md5(target) == md5:
            continue
        failures = []
        for mirror in mirrors:
            if mirror in unreachable:
                failures.append(f"{mirror}{name}: {unreachable[mirror]}")
                continue
            try:
                fetch_file(f"{mirror}{name}", md5, target, progress)
                host = urlsplit(mirror).hostname or mirror
                break
            except MirrorFailed as failure:
                failures.append(f"{mirror}{name}: {failure}")
                if failure.unreachable:
                    unreachable[mirror] = str(failure)
        else:
            raise NotFetched("\n".join(failures))
    return host


def fetch_file(url: str, md5: str, target: Path, progress: Progress | None = None) -> None:
    """Download to a temporary file beside `target`, and rename it once its checksum is right.

    Raises:
        MirrorFailed: for any other outcome; nothing is left behind then.
        OSError: if `target` cannot be written.
    """
    descriptor, name = tempfile.mkstemp(prefix=f"{target.name}.", suffix=".part", dir=target.parent)
    part = Path(name)
    try:
        digest, start, done = hashlib.md5(usedforsecurity=False), b"", 0
        with os.fdopen(descriptor, "wb") as file:
            for chunk, total in _chunks(url):
                start = start or chunk[:200]
                done += len(chunk)
                if done > MAX_BYTES:
                    raise MirrorFailed(f"sends more than {MAX_BYTES >> 20} MB")
                digest.update(chunk)
                file.write(chunk)
                if progress:
                    progress(f"downloading {target.name}", done, total)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != md5:
            fault = "a web page, not the file" if looks_like_html(start) else "its checksum is wrong"
            raise MirrorFailed(f"sent {fault} ({done} bytes)")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def file_md5(path: Path) -> str:
    """MD5 of a file, as torchvision lists them."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


Message = tuple[bytes, int | None] | Exception | None


def _chunks(url: str) -> Iterator[tuple[bytes, int | None]]:
    """Pieces of the answer's body and its announced length.

    A thread talks to the network: a socket's own timeout bounds neither the lookup of the name nor a host with many
    addresses. A mirror that is given up keeps its thread until the system's timeout; a daemon, it touches nothing.
    """
    messages: queue.Queue[Message] = queue.Queue(maxsize=64)
    given_up = threading.Event()
    threading.Thread(target=_talk, args=(url, messages, given_up), daemon=True, name="download").start()
    try:
        message = _wait_for(messages, ANSWER_SECONDS)
        window_end, window_bytes = time.monotonic() + WINDOW_SECONDS, 0
        while message is not None:
            if isinstance(message, Exception):
                raise _explain(message) from message
            yield message
            window_bytes += len(message[0])
            if time.monotonic() > window_end:
                if window_bytes < WINDOW_BYTES:
                    raise MirrorFailed(f"too slow: {window_bytes} bytes in {WINDOW_SECONDS:g} s")
                window_end, window_bytes = time.monotonic() + WINDOW_SECONDS, 0
            message = _wait_for(messages, WINDOW_SECONDS)
    finally:
        given_up.set()


def _wait_for(messages: queue.Queue[Message], seconds: float) -> Message:
    try:
        return messages.get(timeout=seconds)
    except queue.Empty:
        raise MirrorFailed(f"no answer in {seconds:g} s", unreachable=True) from None


def _talk(url: str, messages: queue.Queue[Message], given_up: threading.Event) -> None:
    """Read the answer in this thread and hand it over, until it ends, fails, or nobody wants it any more."""
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "mnistbench"})
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            length = answer.headers.get("Content-Length")
            total = int(length) if length and length.isdecimal() else None
            done = 0
            while chunk := answer.read1(CHUNK_BYTES):
                done += len(chunk)
                if not _hand_over((chunk, total), messages, given_up):
                    return
            if total is not None and done < total:
                raise http.client.IncompleteRead(b"", total - done)
        _hand_over(None, messages, given_up)
    except Exception as error:  # whatever goes wrong with this mirror, the next one is tried
        _hand_over(error, messages, given_up)


def _hand_over(message: Message, messages: queue.Queue[Message], given_up: threading.Event) -> bool:
    while not given_up.is_set():
        try:
            messages.put(message, timeout=0.5)
            return True
        except queue.Full:
            continue
    return False


def _explain(error: Exception) -> MirrorFailed:
    if isinstance(error, urllib.error.HTTPError):
        return MirrorFailed(f"answers {error.code} {error.reason}")
    if isinstance(error, http.client.IncompleteRead):
        return MirrorFailed(f"cut short, {error.expected} bytes are missing")
    if isinstance(error, TimeoutError):  # of the socket, whichever clock ran out first
        return MirrorFailed(f"no answer in {ANSWER_SECONDS:g} s", unreachable=True)
    if isinstance(error, urllib.error.URLError):
        return MirrorFailed(f"cannot be reached ({error.reason})", unreachable=True)
    return MirrorFailed(f"{type(error).__name__}: {error}")

"""Whole messages over a socket between the parent and a worker: a length, then a pickle.

The parent never blocks on a worker that stopped in the middle of a message: it feeds what has come into an `Inbox`.
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Iterator
from typing import Any

_LENGTH = struct.Struct("!Q")
CHUNK_BYTES = 1 << 16


def send(channel: socket.socket, message: Any) -> None:
    """Send one message, waiting until the other side has taken it."""
    content = pickle.dumps(message)
    channel.sendall(_LENGTH.pack(len(content)) + content)


def receive(channel: socket.socket) -> Any:
    """Wait for one message.

    Raises:
        EOFError: if the other side is gone.
    """
    (length,) = _LENGTH.unpack(_exactly(channel, _LENGTH.size))
    return pickle.loads(_exactly(channel, length))


def _exactly(channel: socket.socket, count: int) -> bytes:
    content = bytearray()
    while len(content) < count:
        chunk = channel.recv(min(CHUNK_BYTES, count - len(content)))
        if not chunk:
            raise EOFError("the other side is gone")
        content += chunk
    return bytes(content)


class Inbox:
    """Puts messages together from pieces as they come."""

    def __init__(self) -> None:
        self._pieces = bytearray()

    def feed(self, piece: bytes) -> Iterator[Any]:
        """Take what has come; yield the messages that are whole now."""
        self._pieces += piece
        while len(self._pieces) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._pieces)
            end = _LENGTH.size + length
            if len(self._pieces) < end:
                return
            content = bytes(self._pieces[_LENGTH.size : end])
            del self._pieces[:end]
            yield pickle.loads(content)

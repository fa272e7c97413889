"""Take out of a text what must not be published with a result: absolute paths, credentials, control codes.

Worker output and error messages pass through here before they reach a record.
"""

from __future__ import annotations

import re

_CREDENTIALS = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s@]+@")
_QUERY_SECRET = re.compile(
    r"(?i)\b(?P<key>[\w-]*(?:token|secret|password|passwd|api_?key|access_?key)[\w-]*)(?P<between>\s*[=:]\s*)[^\s&,;'\"]+"
)
_PATH = re.compile(r"(?<![\w/:.<])(?:/[^\s/'\"<>|:;,()\[\]]+){2,}/?")
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def redact(text: str) -> str:
    """The text with paths cut to their last parts, credentials starred, and terminal control codes removed.

    Halves of characters (lone surrogates), which no file can hold, become question marks.
    """
    text = text.encode("utf-8", "replace").decode()
    text = _CONTROLS.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
    return _PATH.sub(_shortened, without_credentials(text))


def without_credentials(text: str) -> str:
    """The text with user and password in addresses, and values of keys that name a secret, replaced by `***`."""
    return _QUERY_SECRET.sub(r"\g<key>\g<between>***", _CREDENTIALS.sub(r"\g<scheme>***@", text))


def _shortened(match: re.Match[str]) -> str:
    parts = [part for part in match.group().split("/") if part]
    # The first parts name users and machines: /home/ann/…, /Users/ann/…, /mnt/nas/ann/….
    if len(parts) == 2 and parts[0] in ("home", "Users"):
        return "…"
    return "…/" + "/".join(parts[-2:] if len(parts) > 4 else parts[-1:])

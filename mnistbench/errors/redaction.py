"""Take out of a text what must not be published with a result: absolute paths, credentials, control codes.

Worker output and error messages pass through here before they reach a record. In doubt, more is hidden.
"""

from __future__ import annotations

import os
import re

HIDDEN = "***"
SECRET_NAME = re.compile(
    r"PASSWORD|PASSWD|TOKEN(?!IZ)|SECRET|CREDENTIAL|API_?KEY|ACCESS_KEY|MLFLOW_TRACKING_USERNAME", re.I
)
"""Environment variables whose values are hidden wherever they stand."""
SHORTEST_SECRET = 4
"""Shorter values of variables are not: hiding each `a` would garble every message."""

_SCHEME = r"(?P<scheme>(?<![\w+.-])[a-zA-Z][\w+.-]*:/{1,3})"
_TIGHT = r"(?:[^\s'\"<>]|['\"<>](?=\w))"
"""A letter of something without spaces; a quote belongs to it where a word goes on. How often it may come is bounded
below, since otherwise 16 kB of `http://a:` would take seconds."""
_ADDRESSES = [
    # user:password@host; the last @ ends it, so that passwords may hold @, / and :
    re.compile(rf"{_SCHEME}[^\s/:'\"<>]*:{_TIGHT}{{0,300}}@"),
    # the same with spaces in the password, where what follows the colon is no port
    re.compile(rf"{_SCHEME}[^\s/:@'\"<>]+:(?!\d{{1,5}}(?!\w))[^\n@'\"<>]{{1,100}}@(?=[\w\[])"),
    # token@host
    re.compile(rf"{_SCHEME}[^\s/:@?#'\"<>]+@"),
    # user:password@host without a scheme; one letter may be Python's `lambda x:x@w`, or a drive
    re.compile(rf"(?P<scheme>(?<![\w+.%:/@*-]))[\w.+%-]{{2,}}:(?!/){_TIGHT}{{0,300}}@(?=[\w\[])"),
]
_QUERY = re.compile(rf"\?(?=[\w.%-]+=){_TIGHT}+")
"""All of a query: signed addresses carry their secrets under many names."""

_SECRET_KEY = (
    r"[\w.-]{0,80}(?:token(?!iz)|secret|passw(?:or)?d|passphrase|passcode|pwd|credential"
    r"|(?:api|access|account|private|signing|encryption)[_-]?key|authorization|cookie|session[_-]?id"
    r"|(?<![a-z])auth(?![\w-])|(?<![a-z])pass(?=[\"']?[^\S\n]*=))[\w-]{0,80}"
)
_HEADER = r"(?:proxy-)?authorization|(?:set-)?cookie"
_QUOTED = r"b?(?P<quote>\"\"\"|'''|\\?[\"'])(?:(?!(?P=quote))(?:\\.|.))*(?:(?P=quote)|$)"
_BRACKETS = r"[\[({][^\])}\n]*[\])}]"
_BARE = r"(?:[^\s&,;'\"<>)}\]]|[&,;'\"<>)}\]](?=\w)(?!\w+\s*[=:]))+"
"""Up to what ends an element of a list, or begins the next `key=`."""
_SECRETS = [
    # a header goes on to the end of its line, or of the quotes around it
    re.compile(rf"(?i)(?<=['\"])(?P<key>{_HEADER})(?P<between>:[^\S\n]*)[^\n'\"]+"),
    re.compile(rf"(?i)(?<![\w'\"-])(?P<key>{_HEADER})(?P<between>:[^\S\n]*)\S.*"),
    # key = value, "key": "value", key 'value', environ['KEY'] = value
    re.compile(
        rf"(?im)(?P<key>(?<![\w.-]){_SECRET_KEY})(?P<between>[\\\"'\]]{{0,3}}[^\S\n]*(?:=>|[=:]{{1,2}})[^\S\n]*|[^\S\n]+(?=[\"']))"
        rf"(?:{_QUOTED}|{_BRACKETS}|{_BARE})"
    ),
    # --key value, also as a list of arguments; curl's -u user:password
    re.compile(rf"(?im)(?P<key>(?<![\w-])--?{_SECRET_KEY})(?P<between>[\"']?,?[^\S\n]+)(?:{_QUOTED}|{_BARE})"),
    re.compile(r"(?P<key>(?<![\w-])(?:-u|--user|--proxy-user))(?P<between>[\"']?[,=]?\s*[\"']?)[^\s:'\"]+:[^\s'\"]+"),
    # lines of netrc
    re.compile(r"(?im)(?P<key>(?:\blogin\s+\S+\s+|^[^\S\n]*)password)(?P<between>\s+)\S+(?=\s*$|\s+mac)"),
]
# Tokens that are known by how they begin: of AWS, GitHub, GitLab, Hugging Face, OpenAI, Slack, Google, PyPI, npm; JWT.
_TOKENS = re.compile(
    r"(?<![\w-])(?:(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_\w{16,}|sk-[\w-]{16,}"
    r"|xox[a-z]-[\w-]{10,}|AIza[\w-]{30,}|pypi-[\w-]{16,}|npm_\w{20,}|eyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?)"
    r"|(?<=\bBearer )[\w.~+/=-]{6,}|(?<=\bBasic )[A-Za-z0-9+/]{4,}={1,2}"
    r"|(?<=PRIVATE KEY-----)[^-]+"
)

_PATH_PART = r"[^\s/'\"<>|:;,()\[\]]+"
_PATHS = [
    # in quotes, where spaces belong to it
    re.compile(r"(?P<quote>['\"])(?:/|[A-Za-z]:[\\/]|\\\\)[^'\"\n]*[\\/][^'\"\n]*(?P=quote)"),
    # of Windows: a drive or a server
    re.compile(r"(?<!\w)(?:[A-Za-z]:|\\\\[\w.$-]+)(?:[\\/]+[^\s\\/'\"<>|:;,()\[\]*?]+){2,}[\\/]*"),
    # behind a word or a slash it is part of a relative path or an address, unless it names a user's folder
    re.compile(
        rf"(?:(?<![\w/.<…])(?!//)|(?<=://)|(?<=:///)|(?=/+(?:home|Users)/))(?:/+{_PATH_PART}){{2,}}/?",
    ),
]
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def redact(text: str) -> str:
    """The text with paths cut to their last parts, credentials starred, and terminal control codes removed.

    Halves of characters (lone surrogates), which no file can hold, become question marks.
    """
    text = text.encode("utf-8", "replace").decode()
    text = _CONTROLS.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
    text = without_credentials(text)
    for pattern in _PATHS:
        text = pattern.sub(_shortened, text)
    return text


def without_credentials(text: str) -> str:
    """The text with `***` in the place of secrets.

    These are: user and password in addresses, queries, values of keys and flags that name a secret, tokens of known
    forms, and the values of environment variables that name a secret.
    """
    variables = {value for name, value in os.environ.items() if SECRET_NAME.search(name)}
    text = without(text, {value for value in variables if len(value) >= SHORTEST_SECRET})
    for pattern in _ADDRESSES:
        text = pattern.sub(rf"\g<scheme>{HIDDEN}@", text)
    text = _TOKENS.sub(HIDDEN, _QUERY.sub(f"?{HIDDEN}", text))
    for pattern in _SECRETS:
        text = pattern.sub(_starred, text)
    return text


def without(text: str, secrets: set[str]) -> str:
    """The text with `***` in the place of each of these words."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    return text


def _starred(match: re.Match[str]) -> str:
    quote = match.groupdict().get("quote") or ""
    return f"{match['key']}{match['between']}{quote}{HIDDEN}{quote}"


def _shortened(match: re.Match[str]) -> str:
    quote = match.groupdict().get("quote") or ""
    parts = [part for part in re.split(r"[\\/]+", match.group().strip(quote or None)) if part]
    if parts[0].endswith(":"):
        parts = parts[1:]
    # The first parts name users and machines: /home/ann/…, /Users/ann/…, /mnt/nas/ann/….
    if len(parts) < 2 or (len(parts) == 2 and parts[0] in ("home", "Users")):
        return f"{quote}…{quote}"
    return f"{quote}…/{'/'.join(parts[-2:] if len(parts) > 4 else parts[-1:])}{quote}"

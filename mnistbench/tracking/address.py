"""Where the tracking server is, and how to speak of it: nothing that is printed or stored holds a credential.

No mlflow here; `server.py` does the talking.
"""

from __future__ import annotations

import base64
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from mnistbench.errors import UserError
from mnistbench.errors.redaction import HIDDEN, without, without_credentials

DATABASE_NAME = "mlflow.db"
CHOICE = "choose `Model training`"
"""A fresh browser is shown MLflow's pages for language models, where runs are hard to find."""
HTTP = ("http", "https")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def default_uri(cwd: Path | None = None) -> str:
    """`$MLFLOW_TRACKING_URI`, else the sqlite database that plain `mlflow ui` opens in this folder.

    The path is absolute and explicit: an old `./mlruns` folder would make MLflow choose its file store.
    """
    named = os.environ.get("MLFLOW_TRACKING_URI")
    return named or database_uri((cwd or Path.cwd()).resolve() / DATABASE_NAME)


def database_uri(path: Path) -> str:
    """The URI of a sqlite database; what would end or change a path in a URI is encoded."""
    return f"sqlite:///{_encoded(str(path))}"


def named_experiment(name: str | None) -> str | None:
    """The experiment that the user named: by a flag, else in `$MLFLOW_EXPERIMENT_NAME`; None if in neither.

    Raises:
        UserError: for a name that is empty.
    """
    if name is not None and not name.strip():
        raise UserError("--experiment names no experiment; leave it out for one that is called like the grid")
    return name or os.environ.get("MLFLOW_EXPERIMENT_NAME", "").strip() or None


def checked(uri: str) -> str:
    """The URI as MLflow is to get it; sqlite paths made absolute.

    Raises:
        UserError: if MLflow could not use it, with the way out. The message holds no credentials.
    """
    parts = _split(uri)
    kind = parts.scheme.partition("+")[0]
    if kind in HTTP:
        if not parts.hostname or any(character.isspace() for character in uri):
            raise UserError(f"tracking URI {shown(uri)!r} names no host; write it like http://127.0.0.1:5000")
        return uri
    if kind == "sqlite":
        path = uri.partition(":///")[2]
        if not path or "?" in path:
            raise UserError(
                f"tracking URI {shown(uri)!r} names no database file; write it like sqlite:///mlflow.db,"
                " with %3F for a question mark in its path"
            )
        return f"{parts.scheme}:///{_encoded(str(Path(unquote(path)).absolute()))}"
    if kind in DATABASES:
        return uri
    if kind in ("", "file"):
        raise UserError(
            f"tracking URI {shown(uri)!r} is a folder, and MLflow's file store is closed for writing; "
            "write it like sqlite:///mlflow.db, or http://127.0.0.1:5000 for a server"
        )
    raise UserError(f"tracking URI {shown(uri)!r}: there are http, https, {', '.join(DATABASES)}")


def sqlite_path(uri: str) -> Path | None:
    """The database file of a sqlite URI; None for all others."""
    is_sqlite = uri.partition(":")[0].partition("+")[0] == "sqlite"
    return Path(unquote(uri.partition(":///")[2])) if is_sqlite else None


def shown(uri: str) -> str:
    """The URI for people: without user, password and query, a sqlite file relative to the working folder."""
    if sqlite_path(uri) and (path := sqlite_path(uri.partition("?")[0])):
        return f"sqlite:///{_encoded(_near(path))}"
    try:
        parts = _split(uri)
        where = f"{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
    except (UserError, ValueError):
        return HIDDEN
    if "@" in uri and not parts.netloc:  # `user:password@host` is taken for a scheme and a path
        return HIDDEN
    return without_credentials(f"{parts.scheme}://{where}" if parts.scheme else where)


def place(uri: str, experiment: str) -> str:
    """Names an experiment at an address, whatever the credentials used there."""
    return f"{experiment} {uri if sqlite_path(uri) else shown(uri)}"


def redact(text: str, uri: str = "") -> str:
    """Hide what a message of MLflow's, of a database driver's or of a proxy's may quote.

    That is: the URI's user, password and query, in the forms in which they may be quoted; the values of environment
    variables that hold secrets; what stands before an `@` in any URL; the home folder's path.
    """
    text = without_credentials(without(text, _secrets_of(uri)))
    home = os.path.expanduser("~")  # noqa: PTH111  # "~" itself where there is no home
    return text.replace(home, "~") if len(home) > 1 else text


def reason(error: BaseException, uri: str) -> str:
    """Why the tracking server could not be used, in one short line without credentials."""
    text, where = f"{type(error).__name__}: {error}", shown(uri)
    for pattern, meaning in _MEANINGS.items():
        if re.search(pattern, text):
            return f"{where} {meaning}"
    line = " ".join(redact(str(error) or type(error).__name__, uri).split())
    return f"{where}: {line[:300]}"


def ui_command(uri: str, cwd: Path | None = None) -> str:
    """How to see the runs: the light way to start `mlflow ui` on loopback and where to look, or the server's page."""
    cwd = (cwd or Path.cwd()).resolve()
    if uri.startswith(HTTP):
        return f"{shown(uri)}, {CHOICE}"
    path = sqlite_path(uri)
    command = ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", _mlflow(cwd), "ui", "--workers 1"]
    if path is None:
        command.append('--backend-store-uri "$MLFLOW_TRACKING_URI"')
    elif path.absolute() != cwd / DATABASE_NAME or _has_old_file_store(cwd) or "MLFLOW_TRACKING_URI" in os.environ:
        absolute = path.absolute()  # and no `~`, which the shell leaves as it is between quotes
        near = absolute.relative_to(cwd) if absolute.is_relative_to(cwd) else absolute
        command.append(f"--backend-store-uri {_quoted(database_uri(near))}")
    return f"{' '.join(command)}  # http://127.0.0.1:5000, {CHOICE}"


def waiting_helps(error: BaseException) -> bool:
    """Whether doing the same again later can go well, without anybody mending anything here."""
    return _PASSING.search(reason(error, "")) is not None


_MEANINGS = {
    r"407 Proxy|error code 407": "is not reached: the proxy in between asks for credentials (HTTPS_PROXY, HTTP_PROXY)",
    r"ProxyError": "is not reached: the proxy in between does not work (HTTPS_PROXY, HTTP_PROXY, NO_PROXY)",
    r"[Cc]onnection refused|Errno 111|Errno 61\b": "refuses the connection: no server listens there",
    r"Name or service not known|nodename nor servname|name resolution|NameResolutionError": "is not found by its name",
    r"[Rr]ead timed out|ReadTimeout|TimeoutError|NoAnswer": "gives no answer in time",
    r"ConnectTimeout|[Cc]onnection.*timed out": "cannot be reached",
    r"too many 500|error code 500|INTERNAL_ERROR.*500|HTTP status 500": "answers with an internal error (500)",
    r"too many 50[234]": "is not available (502 to 504)",
    r"error code 401|UNAUTHENTICATED": "refuses the credentials (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD)",
    r"(?is)error code 403.*<html": "is not reached: a web server or proxy in front of it refuses the request (403)",
    r"error code 403|PERMISSION_DENIED": "knows this user and does not let them do that (403): ask for write access",
    r"database is locked": "is locked by another process",
    r"[Oo]ut-of-date database schema": "is of an older MLflow: run `mlflow db upgrade` on it",
    r"file is not a database|malformed": "is not a database that MLflow can read",
    r"Connection aborted|RemoteDisconnected|ConnectionResetError": "closed the connection",
    r"No module named .psycopg": "needs its driver: pip install 'mnistbench[postgres]', and postgresql+psycopg2://…",
}


_PASSING = re.compile(
    r"refuses the connection|no answer in time|cannot be reached|\(50|locked by another|closed the connection"
)


def _split(uri: str) -> SplitResult:
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError as error:
        # The message quotes what stands before the first slash, which may be the first half of a password.
        encode = "write / as %2F, @ as %40 and [ as %5B in user and password"
        raise UserError(f"tracking URI {HIDDEN}: {encode if '@' in uri else error}") from None
    return parts


def _secrets_of(uri: str) -> set[str]:
    authority = uri.partition("://")[2].partition("/")[0]
    match = re.match(r"[^\s]*@", uri.partition("://")[2]) if "@" in uri else None
    userinfo = match.group(0)[:-1] if match else ""
    user, _, password = userinfo.partition(":")
    query = [value for _, value in parse_qsl(uri.partition("?")[2])]
    plain = {user, password, userinfo, *query, authority.rpartition("@")[0]}
    plain |= {unquote(value) for value in plain}
    if userinfo:
        plain.add(base64.b64encode(unquote(userinfo).encode()).decode())
    return {value for value in plain if value}


def _near(path: Path, cwd: Path | None = None) -> str:
    absolute, cwd = path.absolute(), (cwd or Path.cwd()).resolve()
    if absolute.is_relative_to(cwd):
        return str(absolute.relative_to(cwd))
    home = Path(os.path.expanduser("~"))  # noqa: PTH111
    return f"~/{absolute.relative_to(home)}" if absolute.is_relative_to(home) and len(home.parts) > 1 else str(absolute)


def _mlflow(cwd: Path) -> str:
    """`mlflow` where the shell finds this environment's own, else the way to it, or to the Python that has it."""
    beside = Path(sys.executable).parent / "mlflow"
    first = shutil.which("mlflow")
    if first and Path(first) == beside:
        return "mlflow"
    program, ending = (beside, "") if beside.exists() else (Path(sys.executable), " -m mlflow")
    return f"{shlex.quote(str(program.relative_to(cwd) if program.is_relative_to(cwd) else program))}{ending}"


def _encoded(path: str) -> str:
    """SQLAlchemy decodes the path of a database, and takes what comes after a question mark for options."""
    return path.replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def _quoted(text: str) -> str:
    """For a shell, in quotes even where it needs none."""
    quoted = shlex.quote(text)
    return quoted if quoted != text else f"'{text}'"


def _has_old_file_store(cwd: Path) -> bool:
    return any(cwd.glob("mlruns/[0-9]*/meta.yaml"))

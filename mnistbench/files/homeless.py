"""A stand-in for the home folder of a user who has none: a container's user id without a passwd entry and without HOME.

Standard library only: it is called before anything else is loaded.
"""

from __future__ import annotations

import getpass
import os
import sys
import tempfile
from pathlib import Path

from mnistbench.errors import UserError


def home_for_nobody() -> Path:
    """A folder in the temporary directory that belongs to this user id alone.

    Raises:
        UserError: if somebody else has made a folder, or a link, of its name.
    """
    folder = Path(tempfile.gettempdir()) / f"mnistbench-home-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise UserError(f"there is no home folder, and {folder} cannot be made: set HOME ({error.strerror})") from None
    if folder.is_symlink() or status.st_uid != os.getuid():
        raise UserError(f"there is no home folder, and {folder} is another user's: set HOME")
    return folder


def ensure_home() -> None:
    """Give this process, and those that it starts, a home and a user name if the system has none for it.

    Raises:
        UserError: as `home_for_nobody`.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(home_for_nobody())
        print(f"note: there is no home folder; {os.environ['HOME']} stands in (HOME says another)", file=sys.stderr)
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid-{os.getuid()}"

"""Where what can be made again is kept: prepared data, measured choices, the gate's answers."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from mnistbench.files.homeless import home_for_nobody


def cache_folder() -> Path:
    """`$MNISTBENCH_CACHE`, else the place which the system gives to user caches; without a home, one that is temporary.

    Raises:
        UserError: if there is no home, and the temporary place is another user's.
    """
    if named := os.environ.get("MNISTBENCH_CACHE"):
        return Path(named).expanduser().absolute()
    try:
        return platformdirs.user_cache_path("mnistbench", appauthor=False)
    except RuntimeError:  # a user id without an entry in passwd, and no HOME
        return home_for_nobody() / "cache"

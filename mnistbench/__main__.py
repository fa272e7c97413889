"""`python -m mnistbench`."""

from __future__ import annotations

import io
import os
import sys
from importlib.util import find_spec


def main() -> int:
    """Hand the command line to `cli`, or, where only torch is installed, to `bare`, which runs resolved cells."""
    _mend_streams()
    if sys.argv[1:2] == ["run"] and not _complete():
        from mnistbench.cli import bare

        return bare.main(sys.argv[2:])
    from mnistbench.cli import app as cli

    return cli.main(sys.argv[1:])


def _mend_streams() -> None:
    """Put /dev/null where a standard stream is closed, before any other file gets its number.

    Letters that the output's encoding lacks are printed as `?`.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _complete() -> bool:
    """Whether the command line's own libraries are here; tried, since a package can be there and broken."""
    if find_spec("typer") is None:
        return False
    try:
        import pydantic  # noqa: F401
        import rich  # noqa: F401
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())

"""`python -m mnistbench`."""

from __future__ import annotations

import io
import os
import sys


def main() -> int:
    """Hand the command line to `cli`."""
    _mend_streams()
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


if __name__ == "__main__":
    sys.exit(main())

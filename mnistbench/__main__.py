"""`python -m mnistbench`."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> int:
    """Hand the command line to `cli`, or, where only torch is installed, to `bare`, which runs resolved cells."""
    if sys.argv[1:2] == ["run"] and not _complete():
        from mnistbench import bare

        return bare.main(sys.argv[2:])
    from mnistbench import cli

    return cli.main(sys.argv[1:])


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

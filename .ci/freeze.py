"""Print constraints.txt: the installed versions of our dependencies and theirs, and no word of where they came from."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEADER = """\
# Exact versions that `make` installs: our dependencies and theirs, with every extra. Python 3.11 and later.
# Renew with `make constraints`."""
NOT_OURS = {"pip"}


def installed(roots: list[str]) -> dict[str, str]:
    """Name -> version of everything that the roots need here."""
    versions: dict[str, str] = {}
    open_, seen = [Requirement(root) for root in roots], set()
    while open_:
        requirement = open_.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        versions[found.metadata["Name"]] = found.version
        for needed in map(Requirement, found.requires or []):
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras | {""}):
                open_.append(needed)
    return {name: version for name, version in versions.items() if canonicalize_name(name) not in NOT_OURS}


if __name__ == "__main__":
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    layers = [file.read_text(encoding="utf-8").splitlines() for file in Path("requirements").glob("*.txt")]
    roots = [line.partition("#")[0] for lines in layers for line in lines if not line.startswith("#")]
    roots += [root for extra in project["optional-dependencies"].values() for root in extra]
    print(HEADER)
    for name, version in sorted(installed([*roots, "setuptools"]).items(), key=lambda item: item[0].lower()):
        print(f"{name}=={version}")

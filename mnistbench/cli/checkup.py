"""What `doctor` looks at: versions, devices with a small matrix product on each, data, tracking."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mnistbench.errors import UserError
from mnistbench.kept.inspect import Check, matrix_product, torch_build, versions


def checks(*, data_dir: Path | None = None, tracking_uri: str | None = None) -> Iterator[Check]:
    """Each check as soon as it is done; none raises, and none writes."""
    from mnistbench.axes import devices
    from mnistbench.data import datasets

    yield from versions()
    yield torch_build()
    yield _machine()
    for device in devices.available():
        memory = f", {device.memory_bytes / 2**30:.1f} GiB" if device.memory_bytes else ""
        yield Check(name=f"device {device.name}", found=f"{device.model}{memory}")
        yield matrix_product(device.name)
    for place in datasets.survey(data_dir):
        yield Check(name=f"data {place.name}", found=place.where if place.found else "not here yet")
    yield _tracking(tracking_uri)


def _machine() -> Check:
    """Makes no id where there is none yet."""
    from mnistbench.results.this_machine import kept_id_file, machine_id, system_id

    if system_id() is not None:
        return Check(name="machine id", found=machine_id())
    try:
        where = f"in {kept_id_file()}"
    except (RuntimeError, UserError):
        where = "nowhere, for want of a home folder: it stays until the next boot (set MNISTBENCH_CACHE)"
    return Check(name="machine id", found=f"this system has none of its own; a random one is kept {where}")


def _tracking(uri: str | None) -> Check:
    from mnistbench.tracking.address import checked, default_uri, shown

    try:
        return Check(name="tracking", found=shown(checked(uri or default_uri())))
    except UserError as error:
        return Check(name="tracking", found=str(error), ok=False)

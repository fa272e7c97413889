"""What the trainings of this folder share: an empty cache, and the real images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _empty_cache(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Iterator[None]:
    """Nothing is remembered from elsewhere: choices are made, and gates are run, in these trainings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MNISTBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("MNISTBENCH_DATA", str(data_dir))
        yield

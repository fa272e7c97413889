"""What several test files share: the real MNIST files, and a cell to start from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from mnistbench.cell import Cell, Component, Training

# The same inputs each time: a suite that fails must fail again. HYPOTHESIS_MAX_EXAMPLES widens the fuzzing by hand.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# Workers are told how to allocate in their environment: what the shell says to glibc must not answer for them.
for name in [name for name in os.environ if name.startswith("MALLOC_")]:
    del os.environ[name]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real files; CI lays it beside the checkout."""
    named = os.environ.get("MNISTBENCH_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.fail(f"no MNIST files at {folder}: set MNISTBENCH_DATA to a folder that holds MNIST/raw")
    return folder


@pytest.fixture
def cell() -> Cell:
    """A small cell that trains in a second."""
    return Cell(
        dataset=Component(name="mnist"),
        architecture=Component(name="mlp"),
        optimizer=Component(name="sgd", options={"lr": 0.1}),
        batch_size=512,
        device="cpu",
        seed=0,
        training=Training(epochs=1),
    )

"""What several test files share: images, a cell to start from, and what happens where this machine lacks something.

A test that needs what is missing here calls `pytest.skip`; the summary names it. With `MNISTBENCH_NO_SKIPS` set, as CI
sets it, it fails instead.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings
from image_files import folder_with, write_digits

from mnistbench.cell import Cell, Component, Training
from mnistbench.data import images
from mnistbench.data.datasets import prepare
from mnistbench.data.images import ImageFiles

# The same inputs each time: a suite that fails must fail again. HYPOTHESIS_MAX_EXAMPLES widens the fuzzing by hand.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# Workers tell glibc how to allocate: what the shell says to it must not answer for them.
for name in [name for name in os.environ if name.startswith("MALLOC_")]:
    del os.environ[name]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make a failure of a skip where the machine is meant to have everything."""
    report = yield
    if report.skipped and os.environ.get("MNISTBENCH_NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"MNISTBENCH_NO_SKIPS is set, and this test was skipped: {report.longrepr[2]}"
    return report


def real_files(files: ImageFiles) -> Path:
    """The folder that holds a dataset's real files; the test is skipped where there is none."""
    folder = folder_with(files)
    if folder is None:
        pytest.skip(f"the real {files.folder} is not here and cannot be downloaded: set MNISTBENCH_DATA")
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real files of MNIST."""
    return real_files(images.MNIST)


@pytest.fixture(scope="session")
def fashion_dir() -> Path:
    """The folder with the real files of Fashion-MNIST."""
    return real_files(images.FASHION_MNIST)


@pytest.fixture(scope="session")
def digit_images() -> Component:
    """MNIST, or where it is not to be had the digits that need no download: for tests that any such images serve.

    Prepared, so that no command under test has to say that it prepares them.
    """
    folder = folder_with(images.MNIST)
    component = Component(name="mnist" if folder else "digits")
    if folder:
        os.environ["MNISTBENCH_DATA"] = str(folder)
    prepare(component)
    return component


@pytest.fixture(scope="session")
def mnist_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ImageFiles]:
    """A folder with MNIST's four files, and their checksums; where they are not to be had, with files made alike."""
    folder = folder_with(images.MNIST)
    if folder is not None:
        return folder, images.MNIST
    folder = tmp_path_factory.mktemp("made")
    return folder, write_digits(folder)


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

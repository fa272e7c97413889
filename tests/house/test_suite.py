"""The suite itself: what it says where this machine lacks something that a test needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("switch", "status", "line", "end"),
    [
        ({}, 0, "SKIPPED test_browser.py::test_page - Skipped: no browser", "1 passed, 1 skipped"),
        ({"MNISTBENCH_NO_SKIPS": "1"}, 1, "test was skipped: Skipped: no browser", "1 passed, 1 error"),
    ],
    ids=["elsewhere", "in CI"],
)
def test_a_skipped_test_is_named_or_fails(
    switch: dict[str, str], status: int, line: str, end: str, tmp_path: Path
) -> None:
    """A skip in a fixture, as most are."""
    (tmp_path / "test_browser.py").write_text(
        "import pytest\n\n@pytest.fixture\ndef browser():\n    pytest.skip('no browser')\n\n"
        "def test_page(browser):\n    pass\n\ndef test_other():\n    pass\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MNISTBENCH_NO_SKIPS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, "-p", "conftest", "."],
        cwd=tmp_path, env={**environment, **switch}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    assert line in done.stdout
    assert end in done.stdout.splitlines()[-1]

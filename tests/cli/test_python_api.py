"""The example in docs/python-api.md, run from top to bottom as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

DOC = Path(__file__).parents[2] / "docs" / "python-api.md"


def test_what_the_docs_name_is_there() -> None:
    named = re.findall(r"`(\w+)[^`]*` (?:in|of)\s+`(mnistbench[\w.]*)`", DOC.read_text(encoding="utf-8"))
    assert len(named) >= 4
    for name, module in named:
        assert hasattr(import_module(module), name), f"{module} has no {name}"


@pytest.mark.slow
@pytest.mark.usefixtures("digit_images")
def test_the_example_of_the_docs_runs(tmp_path: Path) -> None:
    """Every block of it, in one script without a guard: a cell's process does not run the script again."""
    blocks = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 5
    (tmp_path / "example.py").write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("api 4 cells") == 1
    assert "mlp(hidden=64)" in done.stdout
    assert float(done.stdout.split()[-1]) > 0.8
    assert (tmp_path / "results" / "api" / "report.html").is_file()
    assert not (tmp_path / "mlflow.db").exists()

"""A minute of `benchmarks/soak.py`: kills at random, full disks, dead tracking servers, with the real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(600)
def test_a_minute_of_kills_loses_nothing_and_doubles_nothing() -> None:
    """How many rounds are begun in a minute is for the machine to say; each that is begun comes to its end."""
    command = [sys.executable, str(SOAK), "--minutes", "1", "--seed", "0", "--kinds", "quick,full,mirrored,trained"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["kills"] >= 5
    assert figures["records"] >= 40
    faults = ("lost", "doubled", "broken", "left running", "left undone", "hung", "not mirrored", "mirrored twice")
    assert {name: figures[name] for name in faults} == dict.fromkeys(faults, 0)

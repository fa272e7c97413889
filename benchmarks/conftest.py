"""Makes pytest collect `bench_*.py`, and the scripts beside them importable."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

"""Preloaded by a server of workers in place of torch: its import does not end."""

from __future__ import annotations

import time

time.sleep(600)

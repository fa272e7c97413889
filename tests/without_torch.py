"""Preloaded by a server of workers in place of torch: stand-ins need none, and its import takes longer than a test."""

from __future__ import annotations

from mnistbench.train import machine as reproducibility


def _nowhere(device: str = "cpu") -> None:
    raise RuntimeError("no torch is loaded here")


reproducibility.describe_environment = _nowhere  # type: ignore[assignment]

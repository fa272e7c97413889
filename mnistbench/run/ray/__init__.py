"""Cells on the nodes of a Ray cluster; the only room that knows Ray."""

from mnistbench.run.ray.executor import RayExecutor

__all__ = ["RayExecutor"]

"""Datasets: found, verified, downloaded, made, and kept as arrays."""

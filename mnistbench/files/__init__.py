"""Whole files, the cache folder, locks, answers that were measured before."""

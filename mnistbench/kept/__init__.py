"""Kept models: find them, and look into networks."""

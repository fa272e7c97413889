"""The gate: is what was timed still the same training?"""

"""mnistbench: what training costs here, and what it reaches."""

__version__ = "0.1.0"

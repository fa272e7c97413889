"""What `runner.py` and `executors.py` put together: cells, workers, signals, and what one sees meanwhile."""

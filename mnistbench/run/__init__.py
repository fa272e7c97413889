"""A grid is run: what is missing, in which order, in which process."""

"""How a dataset gets from files, mirrors or a generator into four arrays in the user's cache."""

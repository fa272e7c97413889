"""A grid file becomes cells, or everything that is wrong with it."""

"""A grid file becomes a Grid, or everything that is wrong with it, each with its place."""

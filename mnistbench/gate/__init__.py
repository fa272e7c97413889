"""The parts of the equivalence gate: the plain path, the timed one, and what is compared."""

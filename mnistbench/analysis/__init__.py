"""Records to tables, intervals and verdicts."""

"""Numbers, times, shares and tables as text."""

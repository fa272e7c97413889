"""The report: one HTML file that answers the questions, works without a network, and says how far to believe it.

`page` reads results folders, `sections` has a file for each question, `charts` and `tables` hold what these share.
"""

from mnistbench.report.page import render

__all__ = ["render"]

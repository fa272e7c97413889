"""The report: one HTML file that answers the questions, works without a network, and says how far to believe it.

`page.render` reads results folders, `questions` asks the analysis, `charts` and `tables` show what it answers.
"""

from mnistbench.report.page import render

__all__ = ["render"]

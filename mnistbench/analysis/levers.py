"""What each speed lever buys: one added to `plain`, one left out of `fast` (rule 19)."""

from __future__ import annotations

import pandas as pd

from mnistbench.analysis.exhibit import Exhibit


def lever_effects(frame: pd.DataFrame) -> Exhibit:
    """Cells that differ from a bare profile (`plain`, `fast`) in levers only, against that profile.

    Columns: group, device, series (all but the execution), architecture_label, optimizer_label, batch_size, kind
    (`add-one`, `leave-one-out`, `profile` for fast against plain, `several`), profile, lever (`precision=bf16`, …), n,
    ratio (throughput with the lever set over the bare profile; below 1 in leave-one-out means that the lever left out
    was worth 1 ÷ ratio), low, high, floor, verdict, reason, peak_share (median, of the cell with the lever),
    break_even_examples (for compile and graphs: examples after which the start-up has paid for itself; inf when never,
    NaN where it does not apply).
    """
    raise NotImplementedError

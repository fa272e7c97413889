"""Sample images of a dataset with their labels, drawn into one picture."""

from __future__ import annotations

import math
from pathlib import Path

from mnistbench.cell import Component
from mnistbench.errors import UserError

COLUMNS = 10


def draw_samples(
    dataset: Component, target: Path, *, count: int = 40, seed: int = 0, data_dir: Path | None = None
) -> None:
    """Draw `count` training images, chosen by the seed, each under its label, and write them to `target`.

    Raises:
        UserError: if the dataset has no images, or the picture cannot be written.
    """
    import numpy as np
    from matplotlib.figure import Figure

    from mnistbench.data import datasets

    prepared = datasets.prepare(dataset, data_dir=data_dir)
    spec = prepared.spec
    if not spec.is_image:
        raise UserError(f"{spec.name} is a table of {spec.input_shape[0]} numbers a row: there are no images to draw")
    arrays = datasets.load(prepared.directory)
    chosen = np.random.default_rng(seed).choice(len(arrays.train_labels), size=count, replace=False)
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(columns * 0.9, rows * 1.15), layout="constrained")
    for place, index in enumerate(chosen):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(arrays.train_inputs[index], cmap="gray_r", vmin=0, vmax=255)
        axes.set_title(spec.class_names[int(arrays.train_labels[index])], fontsize=9, parse_math=False)
        axes.set_axis_off()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=120)
    except (OSError, ValueError) as error:  # ValueError: an ending that matplotlib cannot write
        raise UserError(f"{target}: the picture cannot be written ({error})") from None

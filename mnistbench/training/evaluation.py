"""What a network reaches, and what an example costs it: off the training clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnistbench.training.losses import predictions
from mnistbench.training.trainee import Trainee

if TYPE_CHECKING:
    from torch import Tensor

    from mnistbench.worker import Job

EVALUATION_BATCH = 1000


@dataclass(frozen=True)
class Evaluation:
    """What a network reaches on one part of the data.

    Attributes:
        loss: mean over the examples, None if it is not finite.
        confusion: rows are true classes, columns predicted ones.
    """

    loss: float | None
    accuracy: float
    confusion: list[list[int]]


def evaluate(trainee: Trainee, stored: Tensor, labels: Tensor) -> Evaluation:
    """Evaluate in evaluation mode, in batches of a size that does not depend on the cell's."""
    import torch

    trainee.model.eval()
    loss, predicted = 0.0, []
    with torch.no_grad():
        for some, wanted in zip(stored.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True):
            outputs = trainee.model(trainee.inputs(some)).float()
            loss += float(trainee.loss(outputs, wanted))
            predicted.append(predictions(outputs))
        classes = max(outputs.shape[1], 2)
        counts = torch.bincount(labels * classes + torch.cat(predicted), minlength=classes * classes)
    mean, table = loss / len(labels), counts.view(classes, classes)
    return Evaluation(mean if math.isfinite(mean) else None, int(table.trace()) / len(labels), table.tolist())


def flops_per_example(job: Job, trainee: Trainee) -> float | None:
    """Forward and backward of one example by torch's own counter; None where it cannot count."""
    import torch

    from mnistbench.training.choices import remembered

    def measure() -> dict[str, Any]:
        from torch.utils.flop_counter import FlopCounterMode

        examples = 4
        trainee.model.train()
        try:
            counter = FlopCounterMode(display=False)
            with counter, torch.enable_grad():
                outputs = trainee.model(trainee.inputs(trainee.test[0][:examples]))
                trainee.loss(outputs.float(), trainee.test[1][:examples]).backward()
            return {"flops": counter.get_total_flops() / examples}
        except Exception:  # a plug-in's layer that the counter does not know
            return {"flops": None}

    question = {
        "flops": str(trainee.model),
        "input_shape": list(trainee.test[0].shape[1:]),
        "loss": job.cell.training.loss,
        "torch": torch.__version__,
    }
    flops: float | None = remembered(question, measure)["flops"]
    return flops

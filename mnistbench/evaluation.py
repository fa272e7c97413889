"""What a network reaches, and what an example costs it: off the training clock."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mnistbench.losses import correct
from mnistbench.trainee import Trainee

if TYPE_CHECKING:
    from torch import Tensor

    from mnistbench.worker import Job

EVALUATION_BATCH = 1000


def evaluate(trainee: Trainee, stored: Tensor, labels: Tensor) -> tuple[float | None, float]:
    """Mean loss (None if it is not finite) and accuracy, in evaluation mode."""
    import torch

    trainee.model.eval()
    loss, right = 0.0, 0
    with torch.no_grad():
        for some, wanted in zip(stored.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True):
            outputs = trainee.model(trainee.inputs(some)).float()
            loss += float(trainee.loss(outputs, wanted))
            right += int(correct(outputs, wanted))
    mean = loss / len(labels)
    return (mean if math.isfinite(mean) else None), right / len(labels)


def confusion(trainee: Trainee) -> list[list[int]]:
    """Rows are true classes, columns predicted ones, on the test data."""
    import torch

    stored, labels = trainee.test
    trainee.model.eval()
    predicted = []
    with torch.no_grad():
        for some in stored.split(EVALUATION_BATCH):
            outputs = trainee.model(trainee.inputs(some))
            predicted.append((outputs[:, 0] > 0.5).long() if outputs.shape[1] == 1 else outputs.argmax(1))
        classes = max(outputs.shape[1], 2)
        counts = torch.bincount(labels * classes + torch.cat(predicted), minlength=classes * classes)
    rows: list[list[int]] = counts.view(classes, classes).tolist()
    return rows


def flops_per_example(job: Job, trainee: Trainee) -> float | None:
    """Forward and backward of one example by torch's own counter; None where it cannot count."""
    import torch

    from mnistbench.choices import remembered

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
        "flops": job.cell.architecture.to_json(),
        "input_shape": list(trainee.test[0].shape[1:]),
        "loss": job.cell.training.loss,
        "torch": torch.__version__,
    }
    flops: float | None = remembered(question, measure)["flops"]
    return flops

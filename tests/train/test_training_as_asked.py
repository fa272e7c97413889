"""Other people's networks and optimizers, as far as they need no package: what the training core must leave to them."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mnistbench.axes import losses
from mnistbench.axes.plugins import load_plugins
from mnistbench.cell import Cell, Component, Training
from mnistbench.cell.data_spec import DataSpec
from mnistbench.data.arrays import Arrays
from mnistbench.data.cache import write_entry
from mnistbench.errors import UserError
from mnistbench.results.records import CellRecord, Data
from mnistbench.run.worker import describe
from mnistbench.train import clocks as measurement
from mnistbench.train import evaluate as evaluation
from mnistbench.train import machine as reproducibility
from mnistbench.train.job import Job
from mnistbench.train.setup import make_trainee
from mnistbench.train.steps.written import why_not
from mnistbench.train.train import train_cell
from mnistbench.train.warmup import choose, warm_up

EXAMPLES = 210
PLUGIN = '''
import itertools
import os
import random
import numpy as np
import torch
from torch import nn


class Memory(nn.Module):
    """A recurrent network over rows."""

    def __init__(self, data):
        super().__init__()
        self.memory, self.last = nn.LSTM(8, 12, batch_first=True), nn.Linear(12, data.classes)

    def forward(self, x):
        return self.last(self.memory(x.flatten(1).unflatten(1, (-1, 8)))[0][:, -1])


class TwoHeads(nn.Module):
    """Returns a tuple in training alone."""

    def __init__(self, data):
        super().__init__()
        self.last = nn.Linear(64, data.classes)

    def forward(self, x):
        y = self.last(x.flatten(1))
        return (y, y) if self.training else y


class OneLayer(nn.Module):
    """What the networks below share."""

    def __init__(self, data):
        super().__init__()
        self.last = nn.Linear(64, data.classes)

    def forward(self, x):
        return self.last(x.flatten(1))


class Bfloat16(OneLayer):
    def __init__(self, data):
        super().__init__(data)
        self.to(torch.bfloat16)

    def forward(self, x):
        return super().forward(x.to(torch.bfloat16))


class Float64(OneLayer):
    def __init__(self, data):
        super().__init__(data)
        self.double()

    def forward(self, x):
        return super().forward(x.double())


class Frozen(OneLayer):
    def __init__(self, data):
        super().__init__(data)
        self.requires_grad_(False)


class WithoutGradient(OneLayer):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


class InPlace(OneLayer):
    def forward(self, x):
        x /= 16
        return super().forward(x)


class SilentEval(OneLayer):
    def eval(self):
        self.train(False)


class TakesThreads(nn.Module):
    def __init__(self, data):
        super().__init__()
        torch.set_num_threads(3)
        self.last = nn.Linear(64, data.classes)

    def forward(self, x):
        return self.last(x.flatten(1))


def ends_in(data, end: str = "nothing"):
    """A network with the output that is asked for."""
    ends = {"nothing": nn.Identity, "softmax": nn.Softmax, "log_softmax": nn.LogSoftmax}
    return nn.Sequential(nn.Flatten(), nn.Linear(64, data.classes), ends[end](*[1] * (end != "nothing")))


def unfit(data):
    """For images of 32×32 pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, data.classes))


class OwnTraining(nn.Sequential):
    """Says itself how it is trained, as Lightning's modules do."""

    def __init__(self, data):
        super().__init__(nn.Flatten(), nn.Linear(64, data.classes))

    def training_step(self, batch, number):
        raise AssertionError("never called")


class Counter(nn.Module):
    """Its outputs depend on how many forward passes it has done, in Python."""

    def __init__(self, data):
        super().__init__()
        self.last, self.calls = nn.Linear(64, data.classes), 0

    def forward(self, x):
        self.calls += 1
        return self.last(x.flatten(1)) * (1 + 0.1 * self.calls)


class OwnRate(torch.optim.SGD):
    """An optimizer that halves its own learning rate at each step."""

    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            group["lr"] *= 0.5
        return loss


def own_rate(parameters, lr: float = 0.1):
    return OwnRate(parameters, lr=lr)


class Sharpness(torch.optim.SGD):
    """As sharpness-aware minimization is published: gradients first, then `step` with a closure."""

    def __init__(self, parameters, lr: float = 0.05):
        super().__init__(parameters, lr=lr)

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is not None, "it needs a closure"
        moved = []
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    moved.append((p, 0.05 * p.grad / (p.grad.norm() + 1e-12)))
                    p.add_(moved[-1][1])
        with torch.enable_grad():
            closure()
        for p, by in moved:
            p.sub_(by)
        super().step()


def nothing_much(parameters, lr: float = 0.1):
    """Is no optimizer."""
    return [lr]


def lbfgs(parameters, lr: float = 0.02):
    return torch.optim.LBFGS(parameters, lr=lr, max_iter=3)


class Curvature(torch.optim.SGD):
    """Divides by the size of the Hessian's diagonal, which it finds by differentiating the gradients."""

    def __init__(self, parameters, lr: float = 0.01):
        super().__init__(parameters, lr=lr)

    def step(self, closure=None):
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in parameters]
        ones = [torch.ones_like(p) for p in parameters]
        curvature = torch.autograd.grad(gradients, parameters, ones)
        with torch.no_grad():
            for p, h in zip(parameters, curvature):
                p.sub_(self.param_groups[0]["lr"] * p.grad / (h.abs() + 1))


class Accumulates(torch.optim.SGD):
    """Steps each third time, over the sum of the gradients: its `zero_grad` clears them only then."""

    def __init__(self, parameters, lr: float = 0.05):
        self.calls = 0
        super().__init__(parameters, lr=lr)

    def zero_grad(self, set_to_none=True):
        if self.calls % 3 == 0:
            super().zero_grad(set_to_none)

    def step(self, closure=None):
        self.calls += 1
        if self.calls % 3 == 0:
            super().step(closure)


class Thaws(nn.Module):
    """Trains its first layer from the second epoch on, which it tells by the calls of `train()`."""

    def __init__(self, data):
        super().__init__()
        self.first, self.last, self.epoch = nn.Linear(64, 16), nn.Linear(16, data.classes), 0

    def train(self, mode=True):
        super().train(mode)
        if mode:
            self.epoch += 1
            self.first.requires_grad_(self.epoch > 1)
        return self

    def forward(self, x):
        return self.last(torch.tanh(self.first(x.flatten(1)))) * (1 + self.epoch)


class ThawsLate(Thaws):
    """Is frozen when its optimizer is made."""

    def __init__(self, data):
        super().__init__(data)
        self.first.requires_grad_(False)


class FrozenInEvaluation(OneLayer):
    def train(self, mode=True):
        return super().train(mode).requires_grad_(mode)


class Grows(OneLayer):
    """Makes a layer in its first forward pass, or in the first one in training."""

    def __init__(self, data, only_in_training: bool = False):
        super().__init__(data)
        self.only_in_training = only_in_training

    def forward(self, x):
        if not hasattr(self, "first") and (self.training or not self.only_in_training):
            self.first = nn.Linear(64, 64)
        x = x.flatten(1)
        return self.last(torch.tanh(self.first(x)) if hasattr(self, "first") else x)


ONE_AND_THE_SAME = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def one_and_the_same():
    return ONE_AND_THE_SAME


class ComplexOutputs(nn.Module):
    def __init__(self, data):
        super().__init__()
        self.last = nn.Linear(64, data.classes, dtype=torch.complex64)

    def forward(self, x):
        return self.last(x.flatten(1).to(torch.complex64))


class NoiseOfNumpy(OneLayer):
    """Draws from NumPy's generator and Python's, in evaluation too."""

    def forward(self, x):
        return super().forward(x * (1 + random.random() + np.random.random()))


class GradientsInside(OneLayer):
    """Follows a gradient in its forward pass, in evaluation too."""

    def forward(self, x):
        with torch.enable_grad():
            x = x.flatten(1).detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.last(x).square().sum(), x, create_graph=self.training)
        return self.last(x - 0.1 * slope)


class ExtraState(OneLayer):
    """Its state is more than tensors."""

    def __init__(self, data):
        super().__init__(data)
        self.passes = 0

    def get_extra_state(self):
        return {"passes": self.passes}

    def set_extra_state(self, state):
        self.passes = state["passes"]

    def forward(self, x):
        self.passes += self.training
        return super().forward(x) * (1 + 0.1 * self.passes)


class OwnGenerators(OneLayer):
    """Draws and counts in objects of its own."""

    def __init__(self, data):
        super().__init__(data)
        self.draws, self.numbers = torch.Generator().manual_seed(1), np.random.default_rng(1)
        self.passes = itertools.count()

    def forward(self, x):
        if self.training:
            x = x * torch.rand((), generator=self.draws) * self.numbers.random() * (1 + 0.1 * next(self.passes))
        return super().forward(x)


class GrowingBuffer(OneLayer):
    def __init__(self, data):
        super().__init__(data)
        self.register_buffer("means", torch.zeros(0))

    def forward(self, x):
        if self.training:
            self.means = torch.cat([self.means, x.mean()[None]])[-8:]
        if not hasattr(self, "scale"):
            self.register_buffer("scale", torch.tensor(0.5))
        return super().forward(x * self.scale) * (1 + self.means.sum())


class Sparse(nn.Module):
    def __init__(self, data):
        super().__init__()
        self.last = nn.EmbeddingBag(65, data.classes, mode="sum", sparse=True)

    def forward(self, x):
        return self.last(torch.where(x.flatten(1) > 0.5, torch.arange(64), 64))


class Complex(nn.Module):
    def __init__(self, data):
        super().__init__()
        self.last = nn.Linear(64, data.classes, dtype=torch.complex64)

    def forward(self, x):
        return self.last(x.flatten(1).to(torch.complex64)).abs()


def in_place(data):
    """A layer that writes into its input, behind one that is written out."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.SiLU(inplace=True), nn.Linear(16, data.classes))


def compiled(data):
    return torch.compile(OneLayer(data), backend="eager")


class InPlaceInTraining(OneLayer):
    def forward(self, x):
        return super().forward(x.mul_(0.5) if self.training else x)


class LooksAtInputs(torch.optim.SGD):
    """Divides by the size of what went into the layers, which its hooks see."""

    def __init__(self, model, lr: float = 0.05):
        super().__init__(model.parameters(), lr=lr)
        self.seen = {}
        self.layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
        for layer in self.layers:
            layer.register_forward_pre_hook(self.look)

    def look(self, layer, inputs):
        if layer.training:
            self.seen[layer] = self.seen.get(layer, 0) + inputs[0].detach().square().mean()

    def step(self, closure=None):
        for layer in self.layers:
            layer.weight.grad /= 1 + self.seen[layer]
        super().step(closure)


class Planned(torch.optim.SGD):
    """Refuses more steps than it was told."""

    def __init__(self, parameters, lr: float = 0.05, steps: int = 14):
        super().__init__(parameters, lr=lr)
        self.left = steps

    def step(self, closure=None):
        assert self.left, "longer than planned"
        self.left -= 1
        super().step(closure)


class WithoutRate(torch.optim.Optimizer):
    def __init__(self, parameters, size: float = 0.05):
        super().__init__(parameters, {"size": size})

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.sub_(self.param_groups[0]["size"] * p.grad)


def doubles_the_default(data):
    torch.set_default_dtype(torch.float64)
    return OneLayer(data)


class TwoFaces(torch.optim.SGD):
    """Trains at one point and evaluates at another, as schedule-free optimizers do."""

    def __init__(self, parameters, lr: float = 0.1):
        super().__init__(parameters, lr=lr)
        self.faces = []

    def train(self):
        self.faces.append("train")

    def eval(self):
        self.faces.append("eval")
        self.param_groups[0]["params"][0].data.zero_()


class Focal(nn.Module):
    """Lin et al. 2017, arXiv:1708.02002."""

    def __init__(self, gamma: float = 2.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, outputs, labels):
        loss = nn.functional.cross_entropy(outputs, labels, reduction="none")
        return ((1 - torch.exp(-loss)) ** self.gamma * loss).mean()


smooth = nn.CrossEntropyLoss(label_smoothing=0.1)
weighted = nn.CrossEntropyLoss(weight=torch.ones(10))


def margin(outputs, labels, margin: float = 1.0):
    return nn.functional.multi_margin_loss(outputs, labels, margin=margin)


def added_up(outputs, labels):
    return 0.01 * nn.functional.cross_entropy(outputs, labels, reduction="sum")


def below_zero(outputs, labels):
    return -outputs.log_softmax(1).exp().gather(1, labels[:, None]).mean()


def one_each(outputs, labels):
    return nn.functional.cross_entropy(outputs, labels, reduction="none")


class Centres(nn.Module):
    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.zeros(10))

    def forward(self, outputs, labels):
        return (outputs - self.centres).square().mean()


def restarts(step, total_steps, times: int = 2):
    return 1.0 - step * times % total_steps / total_steps


def not_a_number(step, total_steps):
    return None if step else 1
'''


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """210 real digits of 8x8 for training, 90 for testing."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    inputs, labels = (digits.images * 15).astype(np.uint8), digits.target.astype(np.int64)
    directory = tmp_path_factory.mktemp("prepared") / "digits"
    parts = {"train_inputs": inputs[:EXAMPLES], "train_labels": labels[:EXAMPLES], "test_inputs": inputs[EXAMPLES:300]}
    spec = DataSpec("digits", (1, 8, 8), 10, EXAMPLES, 90, mean=0.3, std=0.35)
    write_entry(directory, Arrays(**parts, test_labels=labels[EXAMPLES:300], spec=spec))
    return directory


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("plugin") / "other_people.py"
    file.write_text(PLUGIN)
    return file


MakeJob = Callable[..., Job]


@pytest.fixture
def make_job(data: Path, plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeJob:
    """A job with an empty cache; names with a colon come from the plug-in above."""
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "cache"))

    def make(architecture: str = "mlp", optimizer: str = "sgd", *, profile: str = "fast", **changes: Any) -> Job:
        options = {"hidden": [16]} if architecture == "mlp" else {}
        cell = Cell(
            dataset=Component(name="digits"),
            architecture=Component(name=architecture, options={**options, **changes.pop("network", {})}),
            optimizer=Component(name=optimizer, options=changes.pop("options", {})),
            batch_size=changes.pop("batch_size", 30),
            device="cpu",
            seed=0,
            training=changes.pop("training", Training(epochs=2)),
            execution=Component(name=profile),
        )
        cell = dataclasses.replace(cell, **changes)
        return Job(cell=cell, record_id="a", data_directory=str(data), data=Data(sha256="0"), plugins=(str(plugin),))

    return make


def train(job: Job) -> CellRecord:
    return train_cell(job, on_epoch=lambda epoch: None, process_started=time.perf_counter())


def by_hand(
    job: Job,
    step: Callable[[Any, Callable[[], Tensor]], float],
    loss_of: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    factor: Callable[[int], float] | None = None,
) -> list[float]:
    """Each epoch's mean loss of a loop that anyone would write, from the same weights in the same order.

    Args:
        step: of an optimizer, given a closure that computes the gradients; returns the loss.
        loss_of: outputs and labels.
        factor: of the learning rate at each step; without it nobody touches the rate.
    """
    from mnistbench.axes import architectures, optimizers
    from mnistbench.data import arrays

    loaded, plugins = arrays.load(Path(job.data_directory)), load_plugins(job.plugins)
    images = torch.from_numpy(np.array(loaded.train_inputs)).float().div(255).unsqueeze(1)
    labels = torch.from_numpy(np.array(loaded.train_labels))
    reproducibility.seed_everything(job.cell.seed)
    model = architectures.build(job.cell.architecture, loaded.spec, plugins)
    optimizer = optimizers.build_for(job.cell.optimizer, model, plugins)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, factor) if factor else None
    reproducibility.seed_everything(reproducibility.derived_seed(job.cell.seed, "training"))
    model.train()
    losses = []
    for epoch in range(1, job.cell.training.epochs + 1):
        total = 0.0
        for chosen in reproducibility.order_of_examples(EXAMPLES, 0, epoch, shuffle=True).split(job.cell.batch_size):

            def closure(chosen: Tensor = chosen) -> Tensor:
                optimizer.zero_grad()
                loss = loss_of(model(images[chosen]), labels[chosen])
                loss.backward(create_graph="Curvature" in job.cell.optimizer.name)
                return loss

            total += step(optimizer, closure) * len(chosen)
            if rate:
                rate.step()
        losses.append(total / EXAMPLES)
        model.eval()
        with torch.no_grad():
            model(torch.from_numpy(np.array(loaded.test_inputs)).float().div(255).unsqueeze(1))
        model.train()
    return losses


def plain_step(optimizer: Any, closure: Callable[[], Tensor]) -> float:
    loss = closure()
    optimizer.step()
    return loss.item()


def step_with_closure(optimizer: Any, closure: Callable[[], Tensor]) -> float:
    loss = closure()
    optimizer.step(closure)
    return loss.item()


def step_that_searches(optimizer: Any, closure: Callable[[], Tensor]) -> float:
    return optimizer.step(closure).item()  # LBFGS returns its first loss


@pytest.mark.parametrize("profile", ["plain", "fast"])
@pytest.mark.parametrize(
    ("architecture", "optimizer", "step"),
    [
        ("mlp", "other_people:own_rate", plain_step),
        ("mlp", "other_people:Sharpness", step_with_closure),
        ("mlp", "other_people:lbfgs", step_that_searches),
        ("mlp", "other_people:Curvature", plain_step),
        ("other_people:Counter", "adam", plain_step),
        ("other_people:Memory", "other_people:own_rate", plain_step),
        ("mlp", "other_people:Accumulates", plain_step),
        ("other_people:Thaws", "other_people:own_rate", plain_step),
        ("other_people:ExtraState", "other_people:Accumulates", plain_step),
        ("other_people:OwnGenerators", "other_people:own_rate", plain_step),
        ("other_people:GrowingBuffer", "sgd", plain_step),
        ("other_people:Sparse", "sgd", plain_step),
        ("other_people:in_place", "sgd", plain_step),
        ("mlp", "other_people:LooksAtInputs", plain_step),
        ("mlp", "other_people:Planned", plain_step),
    ],
)
def test_it_trains_as_the_loop_by_hand(
    make_job: MakeJob, architecture: str, optimizer: str, step: Any, profile: str
) -> None:
    """To the bit under `plain`, and up to rounding under `fast`."""
    job = make_job(architecture, optimizer, profile=profile)
    record = train(job)
    losses = [epoch.train_loss for epoch in record.epochs]
    wanted = by_hand(job, step)
    assert losses == (wanted if profile == "plain" else pytest.approx(wanted, rel=1e-5))
    assert record.checks["equivalence"] == ("reference" if profile == "plain" else "passed")


def _focal(outputs: Tensor, labels: Tensor, gamma: float) -> Tensor:
    right = outputs.softmax(1).gather(1, labels[:, None])
    return -((1 - right) ** gamma * right.log()).mean()


def _smooth(outputs: Tensor, labels: Tensor) -> Tensor:
    logs = outputs.log_softmax(1)
    return -(0.9 * logs.gather(1, labels[:, None])[:, 0] + 0.1 * logs.mean(1)).mean()


@pytest.mark.parametrize("profile", ["plain", "fast"])
@pytest.mark.parametrize("architecture", ["mlp", "other_people:OneLayer"])
@pytest.mark.parametrize(
    ("loss", "wanted"),
    [
        ({"name": "other_people:Focal"}, functools.partial(_focal, gamma=2.0)),
        ({"name": "other_people:Focal", "gamma": 0.5}, functools.partial(_focal, gamma=0.5)),
        ({"name": "other_people:smooth"}, _smooth),
        ({"name": "cross_entropy", "label_smoothing": 0.1}, _smooth),
        (
            {"name": "other_people:margin", "margin": 0.5},
            functools.partial(nn.functional.multi_margin_loss, margin=0.5),
        ),
        (
            {"name": "other_people:added_up"},
            lambda outputs, labels: 0.01 * nn.functional.nll_loss(outputs.log_softmax(1), labels, reduction="sum"),
        ),
        (
            {"name": "other_people:below_zero"},
            lambda outputs, labels: -outputs.softmax(1)[torch.arange(len(labels)), labels].mean(),
        ),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_a_loss_of_ones_own_trains_as_the_loop_by_hand(
    make_job: MakeJob, loss: dict[str, Any], wanted: Any, architecture: str, profile: str
) -> None:
    """210 examples in batches of 50: the last is smaller."""
    training = Training(epochs=2, loss=Component.from_json(loss))
    record = train(make_job(architecture, batch_size=50, profile=profile, training=training))
    job = make_job(architecture, batch_size=50, profile=profile, training=training)
    assert [epoch.train_loss for epoch in record.epochs] == pytest.approx(by_hand(job, plain_step, wanted), rel=1e-5)
    assert record.checks["equivalence"] == ("reference" if profile == "plain" else "passed")
    assert ("no mean" in record.checks.get("outputs", "")) == (loss["name"] == "other_people:added_up")


def test_a_loss_that_a_plug_in_made_once_serves_every_device(plugin: Path) -> None:
    plugins = load_plugins([str(plugin)])
    weights = plugins.modules["other_people"].weighted.weight
    losses.build(Component(name="other_people:weighted"), plugins, torch.device("meta"))
    assert weights.device.type == "cpu"
    assert float(
        losses.build(Component(name="other_people:weighted"), plugins)(torch.zeros(1, 10), torch.zeros(1).long())
    )


def test_the_test_loss_is_that_of_the_loss_of_ones_own(make_job: MakeJob) -> None:
    training = Training(epochs=1, loss=Component(name="other_people:Focal"))
    trainee = make_trainee(make_job(training=training), torch.device("cpu"))
    trainee.model.eval()
    with torch.no_grad():
        outputs = trainee.model(trainee.inputs(trainee.test[0]))
    assert evaluation.evaluate(trainee, *trainee.test).loss == pytest.approx(
        float(_focal(outputs, trainee.test[1], 2.0))
    )


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("one_each", r"the loss other_people:one_each gives \[64\] for a batch; a tensor of one number is needed"),
        ("Centres", "the loss other_people:Centres has a parameter `centres`, which no optimizer would train"),
    ],
)
def test_what_is_no_loss_is_refused_in_one_line(make_job: MakeJob, loss: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(make_job(training=Training(epochs=1, loss=Component(name=f"other_people:{loss}"))))


@pytest.mark.parametrize("profile", ["plain", "fast"])
def test_a_schedule_of_ones_own_multiplies_the_learning_rate_of_each_step(make_job: MakeJob, profile: str) -> None:
    schedule = Component(name="other_people:restarts", options={"times": 3})
    job = make_job(optimizer="adam", profile=profile, schedule=schedule)
    wanted = by_hand(job, plain_step, factor=lambda step: 1.0 - step * 3 % 14 / 14)
    assert [epoch.train_loss for epoch in train(job).epochs] == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(UserError, match="not_a_number gives None at step 1; the factor of `lr` is a number"):
        train(make_job(schedule=Component(name="other_people:not_a_number")))


@pytest.mark.parametrize("profile", ["plain", "fast"])
def test_what_a_datasets_own_option_means_is_its_own_affair(make_job: MakeJob, profile: str) -> None:
    """Pixels that a plug-in has normalized are not normalized again."""
    job = make_job(profile=profile, dataset=Component(name="other_people:digits", options={"normalize": True}))
    record = train(job)
    assert [epoch.train_loss for epoch in record.epochs] == pytest.approx(by_hand(job, plain_step), rel=1e-5)
    assert record.checks["equivalence"] == ("reference" if profile == "plain" else "passed")


def test_a_schedule_multiplies_each_groups_own_rate_and_constant_touches_none(make_job: MakeJob) -> None:
    from mnistbench.train.steps.update import Update

    model = nn.Sequential(nn.Linear(4, 3))
    update = Update(model, Component(name="sgd", options={"lr": 0.1}), fused=False)
    update.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 2.0})
    update._initial = [0.1, 2.0]
    update.gradients = [torch.zeros(3, 4), torch.zeros(3)]
    update(0.5)
    assert [group["lr"] for group in update.optimizer.param_groups] == [0.05, 1.0]
    update.optimizer.param_groups[0]["lr"] = 7.0
    update(0.5)
    assert update.optimizer.param_groups[0]["lr"] == 7.0


def test_what_is_no_optimizer_is_refused_in_one_line(make_job: MakeJob) -> None:
    with pytest.raises(UserError, match="other_people:nothing_much gives list, which has no `param_groups` and `step"):
        train(make_job(optimizer="other_people:nothing_much"))


def test_optimizers_with_two_faces_are_evaluated_with_the_right_one(make_job: MakeJob) -> None:
    job = make_job(optimizer="other_people:TwoFaces")
    trainee = choose(job, make_trainee(job, torch.device("cpu")))
    assert trainee.update.optimizer.faces == ["train"]  # type: ignore[attr-defined]
    train(job)  # its evaluation zeroes the first layer: the accuracy is that of a constant
    assert train(job).epochs[0].test_accuracy == pytest.approx(0.1, abs=0.06)


@pytest.mark.parametrize("name", ["Adadelta", "Adagrad", "Adam", "NAdam", "RAdam", "Rprop", "ASGD", "RMSprop"])
def test_warm_up_leaves_nothing_in_an_optimizer_whatever_it_starts_from(
    make_job: MakeJob, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mnistbench.train import warmup

    job = dataclasses.replace(make_job(optimizer=f"torch.optim:{name}"), plugins=("torch.optim",))
    warmed = train(job)
    monkeypatch.setattr(warmup, "_throw_away_steps", lambda trainee: None)
    cold = train(dataclasses.replace(job, resolved=warmed.execution_resolved))
    assert warmed.model is not None and cold.model is not None
    assert warmed.model.weights_sha256 == cold.model.weights_sha256


def test_a_network_that_counts_in_python_starts_at_zero(make_job: MakeJob) -> None:
    job = make_job("other_people:Counter")
    trainee = choose(job, make_trainee(job, torch.device("cpu")))
    warm_up(trainee, seed=0)
    assert trainee.model.calls == 0


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["resnet", "speedrun"])
def test_the_first_run_on_a_machine_trains_what_every_later_one_does(make_job: MakeJob, architecture: str) -> None:
    """Its kernels are chosen, its FLOPs counted, its gate passed: BatchNorm's statistics must not notice."""
    network = {"width": 4} if architecture == "resnet" else {"channels": [4, 8]}
    job = make_job(architecture, network=network, batch_size=EXAMPLES, training=Training(epochs=1))
    first = train(job)
    again = train(dataclasses.replace(job, resolved=first.execution_resolved))
    assert first.model is not None and again.model is not None
    assert first.model.weights_sha256 == again.model.weights_sha256
    assert first.epochs[0].test_loss == again.epochs[0].test_loss


class Own(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def shared_weight() -> nn.Sequential:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, second)


def hooked(name: str) -> nn.Sequential:
    layer = nn.Linear(4, 4)
    getattr(layer, f"register_{name}_hook")(lambda *given: None)
    return nn.Sequential(layer)


def other_forward() -> nn.Sequential:
    layer = nn.ReLU()
    layer.forward = lambda x: x  # type: ignore[method-assign, assignment]
    return nn.Sequential(nn.Linear(4, 4), layer)


TWICE = nn.Linear(4, 4)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU()), ""),
        (lambda: nn.Sequential(TWICE, nn.ReLU(), TWICE), "twice"),
        (shared_weight, "share a weight"),
        (lambda: nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 4)), "frozen"),
        (lambda: nn.Sequential(nn.Linear(4, 4).double()), "not fp32"),
        (lambda: nn.Sequential(Own(4, 4)), "not torch's own"),
        (other_forward, "not torch's own"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4)), "not torch's own"),
        (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))), "not torch's own"),
        (functools.partial(hooked, "forward"), "hook"),
        (functools.partial(hooked, "forward_pre"), "hook"),
        (functools.partial(hooked, "full_backward"), "hook"),
        (lambda: Own(4, 4), "no plain list"),
    ],
)
def test_the_written_step_steps_aside_for_what_a_list_of_layers_does_not_show(
    model: Callable[[], nn.Module], reason: str
) -> None:
    found = why_not(model())
    assert reason in found and bool(found) == bool(reason)


def test_flops_that_cannot_all_be_counted_are_not_shown(make_job: MakeJob) -> None:
    assert train(make_job("other_people:Memory")).model.train_flops_per_example is None  # type: ignore[union-attr]
    mlp = train(make_job()).model
    assert mlp is not None and mlp.train_flops_per_example == 2 * (64 * 16 * 2 + 16 * 10 * 3)


def test_flops_of_complex_numbers_are_not_taken_for_those_of_real_ones(make_job: MakeJob) -> None:
    assert train(make_job("other_people:Complex")).model.train_flops_per_example is None  # type: ignore[union-attr]


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_last_step_that_ruins_the_weights_is_divergence(make_job: MakeJob, epochs: int, tmp_path: Path) -> None:
    """No training loss shows it; and no weights that are no numbers are kept."""
    training = Training(epochs=epochs, save_model="last")
    job = make_job(options={"lr": 1e25}, batch_size=EXAMPLES, training=training)
    record = train(dataclasses.replace(job, weights_directory=str(tmp_path)))
    assert record.status == "diverged" and len(record.epochs) == 1
    assert record.error is not None and record.error.step == 1
    assert record.model is not None and record.model.weights == []


def test_outputs_that_are_no_numbers_are_no_answers(make_job: MakeJob) -> None:
    """An argmax of NaN is class 0, and a tenth of the digits are zeros."""
    trainee = make_trainee(make_job(), torch.device("cpu"))
    with torch.no_grad():
        next(trainee.model.parameters()).fill_(math.nan)
    found = evaluation.evaluate(trainee, *trainee.test)
    assert (found.loss, found.accuracy) == (None, 0.0)
    assert sum(map(sum, found.confusion)) == 0


@pytest.mark.parametrize(
    ("loss", "end", "message"),
    [
        ("nll", "nothing", "nll takes log-probabilities"),
        ("nll", "softmax", "nll takes log-probabilities"),
        ("nll", "log_softmax", ""),
        ("cross_entropy", "log_softmax", ""),
    ],
)
def test_outputs_are_held_against_the_loss_for_plug_ins_too(
    make_job: MakeJob, loss: Any, end: str, message: str
) -> None:
    job = make_job("other_people:ends_in", network={"end": end}, training=Training(epochs=1, loss=loss))
    if message:
        with pytest.raises(UserError, match=message):
            train(job)
    else:
        assert "outputs" not in train(job).checks


@pytest.mark.parametrize(
    ("network", "options", "words"),
    [
        ("ends_in", {"end": "softmax"}, "softmax of softmaxes"),
        ("OwnTraining", {}, "training_step is not called: loss and optimizer are those of the grid"),
    ],
)
def test_what_is_hardly_meant_is_pointed_out(
    make_job: MakeJob, network: str, options: dict[str, Any], words: str
) -> None:
    record = train(make_job(f"other_people:{network}", network=options))
    assert record.status == "finished"
    assert words in record.checks["outputs"]


def test_a_network_that_does_not_fit_the_data_is_told_what_it_was_given(make_job: MakeJob) -> None:
    with pytest.raises(RuntimeError) as caught:
        train(make_job("other_people:unfit"))
    assert "; it was given inputs of shape [64, 1, 8, 8]" in describe(caught.value).message


def test_a_tuple_in_training_alone_is_refused_in_one_clear_line(make_job: MakeJob) -> None:
    with pytest.raises(UserError, match=r"returns a tuple in training; one tensor \[n, classes\] is needed"):
        train(make_job("other_people:TwoHeads"))


@pytest.mark.parametrize("profile", ["plain", "fast"])
@pytest.mark.parametrize("network", ["Bfloat16", "Float64"])
def test_a_network_of_another_precision_trains(make_job: MakeJob, network: str, profile: str) -> None:
    record = train(make_job(f"other_people:{network}", profile=profile))
    assert record.status == "finished" and record.model is not None
    assert len(record.model.weights_sha256) == 64
    assert record.checks["equivalence"] == ("reference" if profile == "plain" else "passed")


def test_the_gate_leaves_a_double_precision_network_as_it_is(make_job: MakeJob) -> None:
    record = train(make_job("other_people:Float64"))
    assert record.checks["equivalence"] == "passed"


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("Frozen", "no parameter that requires a gradient"),
        ("WithoutGradient", "outputs in training carry no gradient"),
    ],
)
def test_what_cannot_learn_is_refused_in_one_clear_line(make_job: MakeJob, network: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(make_job(f"other_people:{network}"))


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        ("Grows", {}, "makes `first.weight` in its first forward pass, which no optimizer would train"),
        (
            "Grows",
            {"only_in_training": True},
            "`first.weight` needs a gradient now, and its optimizer was not",
        ),
        ("ThawsLate", {}, "`first.weight` needs a gradient now, and its optimizer was not"),
        ("one_and_the_same", {}, "gives the same `1.weight` each time it is called"),
        ("ComplexOutputs", {}, "gives complex64 outputs, of which there is no loss"),
    ],
)
def test_what_would_be_trained_in_another_way_than_it_is_meant_is_refused(
    make_job: MakeJob, network: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(make_job(f"other_people:{network}", network=options))


def test_the_parameters_of_a_record_are_those_that_train(make_job: MakeJob) -> None:
    record = train(make_job("other_people:FrozenInEvaluation"))
    assert record.model is not None and record.model.parameters == 64 * 10 + 10


def test_keeping_a_model_draws_nothing_that_the_network_would_have_drawn(make_job: MakeJob, tmp_path: Path) -> None:
    """From none of the three generators that a seed sets."""
    job = make_job("other_people:NoiseOfNumpy")
    kept = make_job("other_people:NoiseOfNumpy", training=Training(epochs=2, save_model="all"))
    losses = [
        [epoch.train_loss for epoch in train(each).epochs]
        for each in (job, dataclasses.replace(kept, weights_directory=str(tmp_path)))
    ]
    assert losses[0] == losses[1]


def test_a_network_that_computes_gradients_in_evaluation_is_kept(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job("other_people:GradientsInside", training=Training(epochs=1, save_model="last"))
    assert train(dataclasses.replace(job, weights_directory=str(tmp_path))).checks["kept_model"] == "passed"


def test_a_network_that_a_plug_in_compiles_is_kept(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job("other_people:compiled", training=Training(epochs=1, save_model="last"))
    assert train(dataclasses.replace(job, weights_directory=str(tmp_path))).checks["kept_model"] == "passed"


def test_rates_that_are_not_there_are_not_scaled_in_silence(make_job: MakeJob) -> None:
    job = make_job(optimizer="other_people:WithoutRate", options={"lr_scaling": "linear"})
    with pytest.raises(UserError, match="a group without `lr` cannot follow `lr_scaling`"):
        train(job)
    assert train(make_job(optimizer="other_people:WithoutRate")).status == "finished"


def test_another_default_type_of_numbers_is_refused_with_the_way_out(make_job: MakeJob) -> None:
    try:
        with pytest.raises(UserError, match="default type of numbers was set to float64 by a plug-in"):
            train(make_job("other_people:doubles_the_default"))
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_loss_of_double_precision_is_in_double_precision(make_job: MakeJob) -> None:
    trainee = make_trainee(make_job("other_people:Float64"), torch.device("cpu"))
    inputs, labels = next(iter(trainee.batches.epoch(1)))
    loss = nn.functional.cross_entropy(trainee.model(trainee.inputs(inputs)), labels)
    expected = torch.autograd.grad(loss, list(trainee.model.parameters()))
    trainee.step.gradients(inputs, labels)
    for found, wanted in zip(trainee.update.gradients, expected, strict=True):
        assert found is not None and torch.equal(found, wanted)


def test_a_network_that_would_change_the_data_is_refused(make_job: MakeJob, data: Path, tmp_path: Path) -> None:
    """Rows of numbers reach the network without a copy; pixels are made anew for each batch, and are no concern."""
    from mnistbench.data.arrays import load

    pixels = load(data)
    parts = {part: getattr(pixels, part).reshape(-1, 64).astype(np.float32) for part in ("train_inputs", "test_inputs")}
    spec = dataclasses.replace(pixels.spec, input_shape=(64,), mean=0.0, std=1.0)
    write_entry(tmp_path / "rows", dataclasses.replace(pixels, **parts, spec=spec))
    job = make_job("other_people:InPlace")
    assert train(job).status == "finished"
    with pytest.raises(UserError, match="writes into its input, which is the data"):
        train(dataclasses.replace(job, data_directory=str(tmp_path / "rows")))
    for shuffle in (True, False):  # batches that are drawn are copies
        ordered = make_job("other_people:InPlaceInTraining", training=Training(epochs=1, shuffle=shuffle))
        ordered = dataclasses.replace(ordered, data_directory=str(tmp_path / "rows"))
        if shuffle:
            assert train(ordered).checks["equivalence"] == "passed"
        else:
            with pytest.raises(UserError, match="writes into its input, which is the data"):
                train(ordered)


def test_a_network_whose_eval_returns_nothing_is_kept(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job("other_people:SilentEval", training=Training(epochs=1, save_model="last"))
    record = train(dataclasses.replace(job, weights_directory=str(tmp_path / "kept")))
    assert record.model is not None and record.model.weights and record.checks["kept_model"] == "passed"


def test_a_constructor_that_sets_the_threads_is_overruled_and_the_record_says_so(make_job: MakeJob) -> None:
    record = train(make_job("other_people:TakesThreads"))
    assert record.execution_resolved["threads"] == torch.get_num_threads() != 3
    assert "constructor set 3" in record.execution_resolved["stepped_aside"]["threads"]


def test_threads_asked_for_in_the_environment_are_overruled_and_the_record_says_so(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert "OMP_NUM_THREADS is 64" in train(make_job()).execution_resolved["stepped_aside"]["threads"]


def test_the_peak_of_memory_begins_anew(make_job: MakeJob) -> None:
    filled = np.ones(300 << 17)  # 300 MiB
    before = measurement.process_peak()
    del filled
    measurement.reset_process_peak()
    after = measurement.process_peak()
    assert before is not None and after is not None
    assert after < before - (200 << 20)
    record = train(dataclasses.replace(make_job(), own_process=False))
    assert record.memory is not None and record.memory.process_peak_bytes is None

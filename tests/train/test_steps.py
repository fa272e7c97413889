"""The written step, block by block and whole, against autograd in double precision of trust."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import nn

from mnistbench.axes.losses import LOSSES
from mnistbench.cell import Component
from mnistbench.train.batches import Inputs
from mnistbench.train.steps import blocks, tuning
from mnistbench.train.steps.autograd import AutogradStep
from mnistbench.train.steps.cuda_graph import GraphStep
from mnistbench.train.steps.tuning import apply, tune, tune_blocks
from mnistbench.train.steps.update import Update
from mnistbench.train.steps.written import WrittenStep

SGD = Component(name="sgd", options={"lr": 0.1})
AS_FLOATS = Inputs(None, torch.contiguous_format)


def lenet(activation: type[nn.Module] = nn.ReLU, pool: type[nn.Module] = nn.MaxPool2d) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), activation(), pool(2),
        nn.Conv2d(6, 16, 5), activation(), pool(2),
        nn.Flatten(), nn.Linear(400, 32), activation(), nn.Linear(32, 10),
    )  # fmt: skip


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 32), nn.Tanh(), nn.Linear(32, 10))


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(2304, 10), nn.LogSoftmax(dim=1),
    )  # fmt: skip


def odd_layers() -> nn.Sequential:
    """Layers without a block, and activations whose input must not be overwritten."""
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(1, 4, 3, stride=2, bias=False), nn.PReLU(), nn.Sigmoid(), nn.Tanh(),
        nn.MaxPool2d(3, stride=2), nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(144, 10, bias=False)),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Sequential]] = {
    "lenet max": lenet,
    "lenet average": lambda: lenet(nn.Sigmoid, nn.AvgPool2d),
    "lenet tanh max": lambda: lenet(nn.Tanh, nn.MaxPool2d),
    "mlp": mlp,
    "cnn": cnn,
    "odd layers": odd_layers,
}


def batch(examples: int = 70) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes with the black border that makes pooling windows tie, as MNIST has it."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (examples, 28, 28), dtype=torch.uint8, generator=generator)
    images[:, :6] = images[:, -6:] = 0
    return images, torch.randint(0, 10, (examples,), generator=generator)


def trusted_gradients(model: nn.Module, loss: str, images: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    """By autograd in float64."""
    exact = type(model)(*model) if isinstance(model, nn.Sequential) else model
    state = {name: value.double() for name, value in model.state_dict().items()}
    exact = exact.double()
    exact.load_state_dict(state)
    value = LOSSES[loss](exact(images.double().div(255).unsqueeze(1)), labels)
    found = torch.autograd.grad(value, list(exact.parameters()))
    model.float()
    return [gradient.float() for gradient in found]


def written(model: nn.Sequential, loss: str = "cross_entropy", chunk: int = 0) -> WrittenStep:
    update = Update(model, SGD, fused=True)
    return WrittenStep(model, LOSSES[loss], update, AS_FLOATS, chunk=chunk)


def kept(step: WrittenStep | GraphStep) -> list[torch.Tensor]:
    """The gradients that a step left for its update."""
    return [gradient for gradient in step._update.gradients if gradient is not None]


def assert_close(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm() + 1e-9


@pytest.mark.parametrize("chunk", [0, 32])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_autograd(name: str, chunk: int) -> None:
    """Also when the batch is cut into chunks whose last is smaller: 32, 32, 6."""
    torch.manual_seed(0)
    model = NETWORKS[name]()
    images, labels = batch()
    wanted = trusted_gradients(model, "cross_entropy", images, labels)
    step = written(model, chunk=chunk)
    step.gradients(images, labels)
    assert_close(kept(step), wanted)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_other_losses_go_through_autograd_at_the_end_only(loss: str) -> None:
    torch.manual_seed(0)
    model = mlp()
    images, labels = batch()
    wanted = trusted_gradients(model, loss, images, labels)
    step = written(model, loss)
    step.gradients(images, labels)
    assert_close(kept(step), wanted)


def test_nll_over_log_softmax_is_the_cross_entropy_of_the_logits() -> None:
    torch.manual_seed(0)
    model = cnn()
    images, labels = batch()
    wanted = trusted_gradients(model, "nll", images, labels)
    step = written(model, "nll")
    loss, right = step.gradients(images, labels)
    assert_close(kept(step), wanted)
    outputs = model(AS_FLOATS(images))
    torch.testing.assert_close(loss, LOSSES["nll"](outputs, labels))
    assert int(right) == int((outputs.argmax(1) == labels).sum())


POOLED_CHOICES = [
    dict(zip(("fold", "pool", "forward", "weight", "input"), values, strict=True))
    for values in itertools.product(
        ("no", "strided", "unshuffled"), blocks.LAYOUTS, blocks.LAYOUTS, blocks.LAYOUTS, blocks.LAYOUTS
    )
]


@pytest.mark.parametrize("pool", [nn.MaxPool2d, nn.AvgPool2d])
def test_every_choice_of_a_pooled_convolution_gives_the_same(pool: type[nn.Module]) -> None:
    """48 ways of computing one thing, with ties in the pooling windows."""
    torch.manual_seed(0)
    activation = None if pool is nn.MaxPool2d else blocks.Activation(nn.Sigmoid())
    layer = nn.Conv2d(3, 5, 5, padding=1)
    block = blocks.PooledConvolution(layer, activation, pool(2))
    x = torch.randn(4, 3, 12, 12)
    x[:, :, :6] = 0
    gradient = torch.randn(4, 5, 5, 5)
    leaf = x.clone().requires_grad_()
    plain = nn.Sequential(layer, *([nn.Sigmoid()] if activation else []), pool(2))
    y = plain(leaf)
    below, *weights = torch.autograd.grad(y, [leaf, *layer.parameters()], gradient)
    for choice in POOLED_CHOICES:
        block.choice = choice
        with torch.no_grad():
            assert_close([block.forward(x.clone())], [y.detach()])
            got = block.backward(gradient.clone(), wants_input=True)
        assert got is not None
        assert_close([got, *block.gradients], [below, *weights])
        assert all(gradient.is_contiguous() for gradient in block.gradients)


def test_an_image_of_odd_size_is_not_folded() -> None:
    """Its last row and column are in no window."""
    block = blocks.PooledConvolution(nn.Conv2d(1, 2, 3), None, nn.MaxPool2d(2))
    block.choice = {**block.choice, "fold": "strided"}
    x = torch.randn(2, 1, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(block.forward(x), nn.functional.max_pool2d(block.forward(x), 1))
        assert block.forward(x).shape == (2, 2, 3, 3)


def test_the_data_itself_is_never_overwritten() -> None:
    """A table's batch is a slice of the stored floats, and a first activation would write into it."""
    model = nn.Sequential(nn.ReLU(), nn.Linear(3, 2))
    stored = torch.randn(8, 3)
    before = stored.clone()
    written(model).gradients(stored, torch.zeros(8, dtype=torch.int64))
    assert torch.equal(stored, before)


def test_masks_of_dropout_differ_between_steps_and_chunks() -> None:
    """And keep as many feature maps as they should, within 4 standard errors."""
    torch.manual_seed(0)
    block = blocks.Dropout(nn.Dropout2d(0.25))
    x = torch.ones(64, 32, 4, 4)
    first, second = block.forward(x), block.forward(x)
    assert not torch.equal(first, second)
    kept = (first[:, :, 0, 0] > 0).float()
    assert abs(float(kept.mean()) - 0.75) < 4 * (0.75 * 0.25 / kept.numel()) ** 0.5
    assert torch.equal(first[:, :, 0, 0], first[:, :, 3, 3])
    assert float(first.max()) == pytest.approx(1 / 0.75)


def test_dropout_that_drops_nothing_draws_nothing() -> None:
    """As torch's: the gate silences it, and holds an optimizer that draws against the plain one from the same state."""
    before = torch.get_rng_state()
    assert torch.equal(blocks.Dropout(nn.Dropout(0.0)).forward(torch.ones(2, 3)), torch.ones(2, 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_tuning_leaves_weights_alone_and_can_be_replayed() -> None:
    torch.manual_seed(0)
    model = lenet()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    images, labels = batch(200)
    step = written(model)
    answer = tune(step, images, labels, chunk=None, kernels_for=lambda examples: tune_blocks(step, images[:examples]))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert set(answer["timings"]) == {"0", "128", "64"}
    step.gradients(images, labels)
    first = [gradient.clone() for gradient in kept(step)]
    other = written(model)
    apply(other, answer["chunk"], answer["kernels"])
    other.gradients(images, labels)
    assert all(torch.equal(a, b) for a, b in zip(first, kept(other), strict=True))


class Clocked(blocks.Block):
    """Moves a clock of its own: a millisecond a call, by the machine's present speed and the choice's."""

    def __init__(self, speed_at: Callable[[float], float], cost: dict[str, float]) -> None:
        super().__init__()
        self.now, self.speed_at, self.cost = 0.0, speed_at, cost

    def choices(self) -> dict[str, tuple[str, ...]]:
        return {"forward": ("usual", "other"), "input": ("usual", "other")}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.now += 1e-3 * self.cost[self.choice["forward"]] / self.speed_at(self.now)
        return x

    def backward(self, gradient: torch.Tensor, *, wants_input: bool) -> torch.Tensor:
        return gradient


@pytest.mark.parametrize(("cost", "chosen"), [(1.03, "usual"), (0.98, "usual"), (0.8, "other")])
@pytest.mark.parametrize("since", [0.002, 0.006, 0.009, 0.012, 0.02, 9.0])
def test_a_machine_that_becomes_twice_as_fast_meanwhile_chooses_no_kernel(
    monkeypatch: pytest.MonkeyPatch, cost: float, chosen: str, since: float
) -> None:
    block = Clocked(lambda now: 1.9 if now > since else 1.0, {"usual": 1.0, "other": cost})
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: block.now)
    tuning._tune_block(block, torch.zeros(1), torch.zeros(1), wants_input=False)
    assert block.choice == {"forward": chosen, "input": "usual"}


@pytest.mark.parametrize(
    "name", ["sgd", "adagrad", "rmsprop", "adam", "adamw", "adadelta", "adamax", "nadam", "radam", "muon"]
)
def test_updates_are_those_of_torchs_plain_optimizers(name: str) -> None:
    """Fused, flat or direct: ten steps with the same gradients end in the same weights."""
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01} if name == "sgd" else {"lr": 0.01}
    component = Component(name=name, options=options)
    torch.manual_seed(0)
    gradients = [[torch.randn_like(p) for p in mlp().parameters()] for _ in range(10)]
    ends = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = mlp()
        start = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        update = Update(model, component, fused=fused)
        for step, some in enumerate(gradients):
            update.gradients = [gradient.clone() for gradient in some]
            update(1 / (step + 1))
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert (ends[1] - ends[0]).norm() <= 1e-5 * (ends[0] - start).norm()


@pytest.mark.parametrize("name", ["sgd", "adam", "nadam", "adagrad", "radam"])
def test_a_renewed_optimizer_starts_over(name: str) -> None:
    component = Component(name=name, options={"lr": 0.05, "momentum": 0.9} if name == "sgd" else {"lr": 0.01})
    torch.manual_seed(0)
    model = mlp()
    update = Update(model, component, fused=True)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    gradients = [torch.randn_like(p) for p in model.parameters()]
    ends = []
    for _ in range(2):
        for _ in range(3):
            update.gradients = [gradient.clone() for gradient in gradients]
            update(0.5)
        ends.append([p.detach().clone() for p in model.parameters()])
        model.load_state_dict(state)
        update.renew()
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


class EagerGraph:
    """A stand-in for a CUDA graph: runs again what was recorded, and overwrites the tensors of the first run."""

    def __init__(self, launch: Callable[[], list[torch.Tensor]]) -> None:
        self.launch, self.replays = launch, 0
        self.tensors = [tensor.detach() for tensor in launch()]

    def replay(self) -> None:
        self.replays += 1
        for tensor, again in zip(self.tensors, self.launch(), strict=True):
            tensor.copy_(again.detach())


def test_a_graph_is_captured_once_per_batch_size_and_replayed_on_new_data() -> None:
    """The last partial batch has a graph of its own (rule 7)."""
    torch.manual_seed(0)
    model = mlp()
    graphs: list[EagerGraph] = []

    def record(launch: Callable[[], list[torch.Tensor]]) -> tuple[EagerGraph, list[torch.Tensor]]:
        graphs.append(EagerGraph(launch))
        return graphs[-1], graphs[-1].tensors

    update = Update(model, SGD, fused=False)
    eager = AutogradStep(model, LOSSES["cross_entropy"], update, AS_FLOATS, chunk=0, precision="fp32")
    step = GraphStep(eager, update, model, 70, record)
    images, labels = batch(70)
    for size in (70, 70, 20, 70):
        step.gradients(images[:size], labels[:size])
    assert [graph.replays for graph in graphs] == [3, 1]
    shifted = labels.roll(1)
    wanted = trusted_gradients(model, "cross_entropy", images, shifted)
    loss, _ = step.gradients(images, shifted)
    torch.testing.assert_close(loss, LOSSES["cross_entropy"](model(AS_FLOATS(images)), shifted))
    assert_close(kept(step), wanted)

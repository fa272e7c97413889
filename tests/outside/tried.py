"""What is tried: the optimizers and networks that people install, and the few that are refused, with the reason."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import Any, Literal

import bare_loop
from agreement import Case

with contextlib.suppress(ImportError):
    import heavyball.utils

    heavyball.utils.compile_mode = None  # minutes of compilation would tell nothing of the training

REFUSED = {"torch.optim:SparseAdam": "does not support dense gradients"}
"""Optimizers that end in an error, with words of it: this one has no network here whose gradients are sparse."""


@dataclass(frozen=True)
class Outsider:
    """An optimizer, and how it wants to be called.

    Attributes:
        package: to install it from; empty for torch's own.
        varying: what its two groups differ in beside their decay.
        losses: so many are compared.
        groups: `two` unless it makes its own, or allows none.
    """

    optimizer: str
    lr: float
    options: dict[str, Any]
    package: str = ""
    take_step: bare_loop.StepFunction = bare_loop.usual_step
    varying: str = "lr"
    network: str = "mlp"
    losses: int = 5
    groups: Literal["two", "its own", "none"] = "two"

    def label(self, *, grouped: bool) -> str:
        """Its name, and how it is given its parameters."""
        return f"{self.optimizer}, two groups" if grouped else self.optimizer

    def case(self, *, grouped: bool) -> Case:
        """This optimizer over one list of parameters, or over two groups."""
        optimizer, options = self.optimizer, self.options
        if grouped:
            options = {"optimizer": optimizer, "options": json.dumps(options), "varying": self.varying}
            optimizer = "outside_optimizers:grouped"
        return Case(self.network, optimizer, self.lr, options, take_step=self.take_step, losses=self.losses)


def _torch(name: str, lr: float, **options: Any) -> Outsider:
    return Outsider(f"torch.optim:{name}", lr, options)


OPTIMIZERS: list[Outsider] = [
    _torch("SGD", 0.1, momentum=0.9, nesterov=True, weight_decay=0.001),
    _torch("Adam", 0.01),
    _torch("AdamW", 0.01, amsgrad=True),
    _torch("Adamax", 0.01),
    _torch("NAdam", 0.01),
    _torch("RAdam", 0.01),
    _torch("Adagrad", 0.05, initial_accumulator_value=0.1, lr_decay=0.01),
    _torch("Adadelta", 1.0),
    _torch("RMSprop", 0.003, momentum=0.5, centered=True),
    _torch("Rprop", 0.001),
    _torch("ASGD", 0.1, t0=3.0, lambd=0.01),
    Outsider("torch.optim:LBFGS", 1.0, {"max_iter": 5}, take_step=bare_loop.searching_step, losses=2, groups="none"),
    _torch("Adafactor", 0.02),
    Outsider("torch.optim:Muon", 0.02, {}, network="matrices"),
    Outsider("outside_optimizers:OwnRate", 0.1, {}),
    Outsider("outside_optimizers:step_hook", 0.1, {}),
    Outsider("outside_optimizers:decay_by_network", 0.01, {}, groups="its own"),
    Outsider("lion_pytorch:Lion", 0.001, {"weight_decay": 0.1}, "lion-pytorch"),
    Outsider("schedulefree:SGDScheduleFree", 0.5, {"warmup_steps": 3}, "schedulefree"),
    Outsider("schedulefree:AdamWScheduleFree", 0.01, {"warmup_steps": 3}, "schedulefree"),
    Outsider("schedulefree:RAdamScheduleFree", 0.01, {}, "schedulefree"),
    Outsider("outside_optimizers:schedule_free_wrapper", 0.3, {}, "schedulefree", groups="its own"),
    Outsider("prodigyopt:Prodigy", 1.0, {}, "prodigyopt", varying="weight_decay"),
    Outsider("madgrad:MADGRAD", 0.01, {}, "madgrad"),
    Outsider("torch_optimizer:AdaBelief", 0.01, {}, "torch-optimizer"),
    Outsider("torch_optimizer:Lamb", 0.01, {}, "torch-optimizer"),
    Outsider("torch_optimizer:Yogi", 0.01, {}, "torch-optimizer"),
    Outsider("torch_optimizer:Ranger", 0.01, {}, "torch-optimizer"),
    Outsider("torch_optimizer:Adahessian", 0.05, {}, "torch-optimizer", bare_loop.second_order_step),
    Outsider("pytorch_optimizer:AdaBelief", 0.01, {}, "pytorch_optimizer"),
    Outsider("pytorch_optimizer:Yogi", 0.01, {}, "pytorch_optimizer"),
    Outsider("pytorch_optimizer:MADGRAD", 0.01, {}, "pytorch_optimizer"),
    Outsider("pytorch_optimizer:Ranger", 0.01, {}, "pytorch_optimizer"),
    Outsider("pytorch_optimizer:Lamb", 0.01, {}, "pytorch_optimizer"),
    Outsider("pytorch_optimizer:SOAP", 0.01, {}, "pytorch_optimizer"),
    Outsider("pytorch_optimizer:Prodigy", 1.0, {}, "pytorch_optimizer", varying="weight_decay"),
    Outsider("pytorch_optimizer:ScheduleFreeAdamW", 0.01, {}, "pytorch_optimizer"),
    Outsider("pytorch_optimizer:Adan", 0.01, {}, "pytorch_optimizer"),
    Outsider("pytorch_optimizer:AdaHessian", 0.05, {}, "pytorch_optimizer", bare_loop.second_order_step),
    Outsider("pytorch_optimizer:Gravity", 0.01, {}, "pytorch_optimizer"),
    Outsider("pytorch_optimizer:SophiaH", 0.01, {}, "pytorch_optimizer", bare_loop.second_order_step),
    Outsider("pytorch_optimizer:StableAdamW", 0.01, {}, "pytorch_optimizer"),
    Outsider("pytorch_optimizer:CAME", 0.01, {}, "pytorch_optimizer"),
    Outsider("pytorch_optimizer:AdEMAMix", 0.01, {}, "pytorch_optimizer"),
    Outsider("pytorch_optimizer:SGDP", 0.1, {"momentum": 0.9}, "pytorch_optimizer"),
    Outsider("outside_optimizers:sam", 0.1, {}, "pytorch_optimizer", bare_loop.two_sided_step),
    Outsider("outside_optimizers:lookahead", 0.1, {}, "pytorch_optimizer"),
    Outsider("outside_optimizers:muon_beside_adamw", 0.02, {}, "pytorch_optimizer", groups="its own"),
    Outsider("heavyball:AdamW", 0.01, {}, "heavyball"),
    Outsider("heavyball:SOAP", 0.01, {}, "heavyball"),
    Outsider("heavyball:PSGDKron", 0.01, {}, "heavyball"),
    Outsider("heavyball:Muon", 0.01, {}, "heavyball"),
    Outsider("outside_optimizers:heavyball_sam", 0.01, {}, "heavyball", bare_loop.searching_step),
    Outsider("timm.optim:Lamb", 0.01, {}, "timm"),
    Outsider("timm.optim:Lars", 0.5, {"momentum": 0.9}, "timm"),
    Outsider("timm.optim:AdamP", 0.01, {}, "timm"),
    Outsider("timm.optim:NAdamW", 0.01, {}, "timm"),
    Outsider("timm.optim:RMSpropTF", 0.003, {}, "timm"),
    Outsider("timm.optim:Adahessian", 0.05, {}, "timm", bare_loop.second_order_step),
]

OWN_NETWORKS = [
    "group_norm",
    "dropout_and_batch_norm",
    "functional_dropout",
    "odd_batch_norm",
    "LSTM",
    "Attention",
    "Mixer",
    "KAN",
    "TiedWeights",
    "shared_in_a_list",
    "twice_in_a_list",
    "lazy",
    "frozen",
    "MovingCentre",
    "Counter",
    "StochasticDepth",
    "hooks",
    "weight_norm",
    "own_layers",
    "own_list",
    "StaysInEval",
]
ALWAYS = {
    "dropout_and_batch_norm",
    "LSTM",
    "shared_in_a_list",
    "twice_in_a_list",
    "lazy",
    "frozen",
    "MovingCentre",
    "Counter",
    "StochasticDepth",
    "hooks",
    "weight_norm",
    "StaysInEval",
}
"""Networks that every run of the suite trains; the others wait for `make outside`."""

INSTALLED_NETWORKS = {
    "resnet18": "torchvision",
    "mobilenet": "torchvision",
    "vgg": "torchvision",
    "vit_tiny": "timm",
    "timm_mixer": "timm",
    "timm_resnet": "timm",
}
REFUSED_NETWORKS = {"TwoHeads": "returns a tuple"}
"""Networks that end in an error, with words of it: which loss a pair of outputs has is not for the tool to say."""


LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "torch.nn:CrossEntropyLoss": ("torch", {"label_smoothing": 0.1}),
    "torch.nn:MultiMarginLoss": ("torch", {"p": 2}),
    "torch.nn.functional:multi_margin_loss": ("torch", {"margin": 0.5}),
    "timm.loss:LabelSmoothingCrossEntropy": ("timm", {"smoothing": 0.2}),
    "timm.loss:PolyCrossEntropy": ("timm", {}),
    "timm.loss:AsymmetricLossSingleLabel": ("timm", {}),
    "timm.loss:BinaryCrossEntropy": ("timm", {"smoothing": 0.1}),
    "pytorch_optimizer:FocalCosineLoss": ("pytorch_optimizer", {"gamma": 1.0}),
    "pytorch_optimizer:BiTemperedLogisticLoss": ("pytorch_optimizer", {"t1": 0.8, "t2": 1.2}),
    "pytorch_optimizer:LDAMLoss": ("pytorch_optimizer", {"num_class_list": [10, 20, 30, 40, 50, 10, 10, 10, 10, 10]}),
}
"""Losses, with the package to install them from and their options."""


def loss_case(loss: str) -> Case:
    """A loss with the tool's own network and SGD."""
    return Case("mlp", "sgd", 0.05, loop_optimizer="torch.optim:SGD", loss=loss, loss_options=LOSSES[loss][1])


def network_case(network: str) -> Case:
    """A network with the tool's own SGD, momentum and decay."""
    return Case(
        network,
        "sgd",
        0.05,
        {"momentum": 0.9, "weight_decay": 0.001},
        loop_optimizer="torch.optim:SGD",
        is_large=network in INSTALLED_NETWORKS,
    )

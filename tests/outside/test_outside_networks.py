"""Networks that people write or install, each trained by the tool and by a bare loop with the same weights and order.

What needs an installed package, or much time, is marked `outside`; the rest is part of every run of the suite.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from agreement import ONE_STEP, SEVERAL_STEPS, compare
from tried import ALWAYS, INSTALLED_NETWORKS, OWN_NETWORKS, REFUSED_NETWORKS, network_case

from mnistbench.errors import UserError

pytestmark = pytest.mark.slow

NETWORKS = [
    pytest.param(network, marks=[] if network in ALWAYS else pytest.mark.outside)
    for network in [*OWN_NETWORKS, *INSTALLED_NETWORKS]
]


@pytest.mark.parametrize("network", NETWORKS)
def test_plain_gives_the_losses_of_the_bare_loop_to_the_last_bit(network: str) -> None:
    found = compare(network_case(network), "plain", SEVERAL_STEPS)
    assert found.tool == found.loop
    assert not found.gate.startswith("failed")


@pytest.mark.parametrize("network", NETWORKS)
def test_fast_gives_the_first_losses_of_the_bare_loop(network: str) -> None:
    found = compare(network_case(network), "fast", ONE_STEP)
    assert found.within, f"{found.errors} of {found.allowed} allowed"
    assert not found.gate.startswith("failed")


@pytest.mark.outside
@pytest.mark.parametrize("network", NETWORKS)
def test_fast_gives_the_losses_of_shuffled_epochs(network: str) -> None:
    """Several steps an epoch, the last batch a partial one."""
    found = compare(network_case(network), "fast", SEVERAL_STEPS)
    assert found.within, f"{found.errors} of {found.allowed} allowed"


@pytest.mark.parametrize("profile", ["plain", "fast"])
@pytest.mark.parametrize("network", REFUSED_NETWORKS)
def test_what_cannot_be_trained_says_why(network: str, profile: str) -> None:
    with pytest.raises(UserError, match=REFUSED_NETWORKS[network]):
        compare(network_case(network), profile, ONE_STEP)


@pytest.mark.parametrize("profile", ["plain", "fast"])
@pytest.mark.parametrize(
    ("optimizer", "loop_optimizer"),
    [("adam", "torch.optim:Adam"), ("nadam", "torch.optim:NAdam"), ("rmsprop", "torch.optim:RMSprop")],
)
def test_a_missing_gradient_moves_nothing_whatever_the_optimizer(
    optimizer: str, loop_optimizer: str, profile: str
) -> None:
    """Blocks are left out at random; the tool's own optimizers have a fused kernel, or one flat tensor."""
    case = replace(
        network_case("StochasticDepth"),
        optimizer=optimizer,
        loop_optimizer=loop_optimizer,
        lr=0.003,
        options={"weight_decay": 0.01},
    )
    found = compare(case, profile, SEVERAL_STEPS)
    assert found.equal if profile == "plain" else found.within


@pytest.mark.parametrize("profile", ["plain", "fast"])
def test_bce_on_one_probability(profile: str) -> None:
    case = replace(network_case("probability"), loss="bce", data={"name": "outside_data:odd_digits"})
    found = compare(case, profile, SEVERAL_STEPS)
    assert found.equal if profile == "plain" else found.within


@pytest.mark.parametrize("profile", ["plain", "fast"])
def test_squared_error_to_the_one_hot_label(profile: str) -> None:
    found = compare(replace(network_case("mlp"), loss="mse"), profile, SEVERAL_STEPS)
    assert found.equal if profile == "plain" else found.within


@pytest.mark.outside
@pytest.mark.parametrize("network", ["mlp", "LSTM", "Counter", "StochasticDepth"])
def test_a_compiled_network_trains_the_same(network: str) -> None:
    """One whose outputs depend on a count or on draws is compiled rightly, or not at all; dropout draws other masks."""
    found = compare(replace(network_case(network), levers={"compile": True}), "fast", ONE_STEP)
    assert found.within, f"{found.errors} of {found.allowed} allowed; gate: {found.gate}"

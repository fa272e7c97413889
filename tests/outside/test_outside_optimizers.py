"""Optimizers that people install, each trained by the tool and by a bare loop: over one list of parameters, and groups.

What needs an installed package, and half of the rest, is marked `outside`; what is left is part of every run of the
suite.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Literal

import pytest
from agreement import ONE_STEP, SEVERAL_STEPS, Case, Deal, compare
from tried import INSTALLED_NETWORKS, LOSSES, OPTIMIZERS, OWN_NETWORKS, REFUSED, REFUSED_NETWORKS, Outsider
from write_table import BEGIN, DOCUMENT, END

pytestmark = pytest.mark.slow


def cases(*, always: Literal["list", "groups"]) -> list[Any]:
    """Each optimizer over one list and over groups; of torch's own, every run of the suite trains one of the two."""
    made = []
    for outsider in OPTIMIZERS:
        for grouped in (False, True) if outsider.groups == "two" else (False,):
            waits = outsider.package or (outsider.groups == "two" and grouped is not (always == "groups"))
            marks = [pytest.mark.outside] if waits else []
            made += [pytest.param(outsider.case(grouped=grouped), id=outsider.label(grouped=grouped), marks=marks)]
    return made


@pytest.mark.parametrize("case", cases(always="groups"))
def test_plain_gives_the_losses_of_the_bare_loop_to_the_last_bit(case: Case) -> None:
    found = compare(case, "plain", SEVERAL_STEPS)
    assert found.tool == found.loop
    assert not found.gate.startswith("failed")


@pytest.mark.parametrize("case", cases(always="list"))
def test_fast_gives_the_first_losses_of_the_bare_loop(case: Case) -> None:
    found = compare(case, "fast", ONE_STEP)
    assert found.within, f"{found.errors} of {found.allowed} allowed"
    assert not found.gate.startswith("failed")


@pytest.mark.outside
@pytest.mark.parametrize("case", cases(always="list"))
def test_fast_gives_the_losses_of_shuffled_epochs(case: Case) -> None:
    """Several steps an epoch, the last batch a partial one."""
    found = compare(case, "fast", SEVERAL_STEPS)
    assert found.within, f"{found.errors} of {found.allowed} allowed"


@pytest.mark.parametrize("profile", ["plain", "fast"])
@pytest.mark.parametrize("optimizer", ["torch.optim:SGD", "torch.optim:AdamW", "torch.optim:Adagrad"])
def test_a_schedule_multiplies_the_rate_of_each_group(optimizer: str, profile: str) -> None:
    """As torch's LambdaLR does in the loop."""
    case = replace(Outsider(optimizer, 0.05, {}).case(grouped=True), schedule="cosine")
    found = compare(case, profile, SEVERAL_STEPS)
    assert found.equal if profile == "plain" else found.within


def test_the_table_of_the_documentation_names_what_is_tried() -> None:
    """A row for each, as `write_table.py` writes it."""
    table = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    named = re.findall(r"^(?:\| |- )`([^`]+)`", table, re.MULTILINE)
    tried = [outsider.optimizer for outsider in OPTIMIZERS] + [*OWN_NETWORKS, *INSTALLED_NETWORKS]
    assert named == [*tried, *LOSSES, *REFUSED, *REFUSED_NETWORKS]


@pytest.mark.parametrize("optimizer", REFUSED)
def test_what_cannot_be_trained_says_why(optimizer: str) -> None:
    with pytest.raises(Exception, match=REFUSED[optimizer]):
        compare(Outsider(optimizer, 0.01, {}).case(grouped=False), "plain", ONE_STEP)


@pytest.mark.parametrize("deal", [ONE_STEP, SEVERAL_STEPS], ids=["one step", "several steps"])
def test_plain_is_equal_with_two_threads(deal: Deal) -> None:
    case = replace(Outsider("torch.optim:Adam", 0.01, {}).case(grouped=True), threads=2)
    assert compare(case, "plain", deal).equal

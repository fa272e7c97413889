"""Losses that people install, each trained by the tool and by a bare loop with the same weights and order."""

from __future__ import annotations

import pytest
from agreement import ONE_STEP, SEVERAL_STEPS, Deal, compare
from tried import LOSSES, loss_case

pytestmark = [pytest.mark.slow, pytest.mark.outside]


@pytest.mark.parametrize("loss", LOSSES)
def test_plain_gives_the_losses_of_the_bare_loop_to_the_last_bit(loss: str) -> None:
    agreement = compare(loss_case(loss), "plain", SEVERAL_STEPS)
    assert agreement.tool == agreement.loop


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("deal", [ONE_STEP, SEVERAL_STEPS], ids=["first steps", "shuffled epochs"])
def test_fast_gives_the_losses_of_the_bare_loop(loss: str, deal: Deal) -> None:
    agreement = compare(loss_case(loss), "fast", deal)
    assert agreement.within, f"{agreement.errors} of {agreement.allowed} allowed"
    assert not agreement.gate.startswith("failed")

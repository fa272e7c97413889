"""Profiles of speed levers: one spelling of each, and what a grid may ask for."""

from __future__ import annotations

from mnistbench.axes.execution import PLAIN, RESOLVED, Levers, fast, levers_of, plain
from mnistbench.cell import Component
from mnistbench.grid.options import declaration


def test_fast_is_the_defaults_and_plain_what_differs() -> None:
    assert fast() == Levers()
    assert {key: value for key, value in plain().to_json().items() if value != fast().to_json()[key]} == PLAIN


def test_a_profile_declares_its_own_defaults_and_nothing_that_is_found_out() -> None:
    for profile in ("plain", "fast"):
        levers = levers_of(Component(name=profile)).to_json()
        declared = {name: option.default for name, option in declaration("execution", profile).options.items()}
        assert declared == {name: value for name, value in levers.items() if name not in RESOLVED}

"""Types of options that carry their limits, for signatures that declare what a grid may say.

`grid/` hands the annotations to pydantic, which reads the limits.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Interval, MinLen

Positive = Annotated[float, Gt(gt=0)]
NonNegative = Annotated[float, Ge(ge=0)]
Fraction = Annotated[float, Interval(ge=0, lt=1)]
PositiveInt = Annotated[int, Gt(gt=0)]
NonNegativeInt = Annotated[int, Ge(ge=0)]
Accuracy = Annotated[float, Interval(gt=0, le=1)]
Accuracies = Annotated[list[Accuracy], MinLen(min_length=1)]
Seed = Annotated[int, Interval(ge=0, lt=2**32)]
Cycles = Annotated[int, Interval(ge=10, le=1000)]

"""The synthetic table, and how tables are split."""

from __future__ import annotations

import numpy as np
import pytest

from mnistbench.data.arrays import check, checksum
from mnistbench.data.tables import sum3_arrays
from mnistbench.errors import UserError


def test_sum3_is_split_70_to_30() -> None:
    arrays = sum3_arrays(10_000, 0.3, 0)
    check(arrays)
    assert arrays.train_inputs.shape == (7_000, 3)
    assert arrays.test_inputs.shape == (3_000, 3)
    assert arrays.spec.classes == 3


def test_the_label_tells_the_sum_of_the_features() -> None:
    arrays = sum3_arrays(1_000, 0.3, 5)
    total = arrays.train_inputs.sum(axis=1)
    assert (arrays.train_labels == np.where(total < 1, 0, np.where(total > 2, 2, 1))).all()
    assert np.bincount(arrays.train_labels).min() > 50


def test_a_seed_gives_the_same_rows_everywhere_and_another_seed_others() -> None:
    assert checksum(sum3_arrays(10_000, 0.3, 0)) == "fd6d0dc5da2f389fe9fcd196d5385bebe9404e78678d4eaa61274a4f9653eaca"
    assert checksum(sum3_arrays(10_000, 0.3, 1)) != checksum(sum3_arrays(10_000, 0.3, 0))


@pytest.mark.parametrize(("rows", "fraction"), [(1, 0.3), (10, 0.0), (10, 0.01), (10, 0.99)])
def test_a_split_with_an_empty_part_is_refused(rows: int, fraction: float) -> None:
    with pytest.raises(UserError, match="both parts need one at least"):
        sum3_arrays(rows, fraction, 0)

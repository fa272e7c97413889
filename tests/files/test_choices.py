"""Choices that were measured once and kept: what is not as it was written is measured again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mnistbench.files.remembered import remembered

QUESTION = {"layers": "mlp", "batch_size": 64}
ANSWER = {"chunk": 256, "kernels": [{"layout": "plain"}], "timings": {"0": 0.1}}


def measured() -> dict[str, Any]:
    return ANSWER


def asked_twice() -> dict[str, Any]:
    raise AssertionError("measured again")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of an answer that was measured."""
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path))
    assert remembered(QUESTION, measured) == ANSWER
    (file,) = (tmp_path / "choices").iterdir()
    return file


def test_a_question_is_measured_once(kept: Path) -> None:
    assert remembered(QUESTION, asked_twice) == ANSWER


@pytest.mark.parametrize(
    "answer",
    [
        {},
        None,
        [],
        "fast",
        {"chunk": -3, "kernels": []},
        {"chunk": "256", "kernels": None},
        {**ANSWER, "chunk": 10**30},
    ],
)
def test_an_answer_that_is_not_as_it_was_written_is_measured_again(kept: Path, answer: object) -> None:
    """Although its question is right."""
    plain = json.loads(kept.read_text())
    kept.write_text(json.dumps({**plain, "answer": answer}))
    assert remembered(QUESTION, measured) == ANSWER
    assert remembered(QUESTION, asked_twice) == ANSWER


@pytest.mark.parametrize("content", ["", "[]", "null", "[" * 100_000, '{"question": {}, "answer": {}}', "\x00"])
def test_what_is_no_answer_is_measured_again(kept: Path, content: str) -> None:
    kept.write_text(content)
    assert remembered(QUESTION, measured) == ANSWER


def test_a_cache_that_cannot_be_written_costs_no_answer(kept: Path) -> None:
    kept.unlink()
    kept.parent.rmdir()
    kept.parent.write_text("a file where the folder was")
    assert remembered(QUESTION, measured) == ANSWER

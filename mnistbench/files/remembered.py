"""Choices that were measured once on this machine, kept with their timings in the user's cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from mnistbench.cell import canonical_json
from mnistbench.files.cache_folder import cache_folder
from mnistbench.files.whole import read_answer, write_answer

CHOICES_VERSION = 4
"""Goes up when the written step or its ways of choosing change."""


def remembered(question: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The answer to a question that was measured before, or `measure()`'s, which is then kept.

    Args:
        question: all that the answer depends on: machine, build, network, batch size, threads.
        measure: answers with plain data; called once per question and machine.
    """
    question = {**question, "choices_version": CHOICES_VERSION}
    name = hashlib.sha256(canonical_json(question).encode()).hexdigest()[:24]
    path = cache_folder() / "choices" / f"{name}.json"
    kept = read_answer(path)
    if kept is not None and kept.get("question") == question and isinstance(kept.get("answer"), dict):
        return dict(kept["answer"])
    answer = measure()
    write_answer(path, {"question": question, "answer": answer})
    return answer

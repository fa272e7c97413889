"""Choices that were measured once on this machine, kept with their timings in the user's cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from mnistbench.cell import canonical_json
from mnistbench.data.cache import cache_folder
from mnistbench.errors import UserError
from mnistbench.storage.atomic import write_whole

CHOICES_VERSION = 2
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
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["question"] == question:
            answer: dict[str, Any] = known["answer"]
            return answer
    except (OSError, ValueError, KeyError, TypeError):
        pass
    answer = measure()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"question": question, "answer": answer}, indent=1))
    except (OSError, UserError):
        pass  # a cache that cannot be written costs time, not results
    return answer

"""The nodes of a cluster as the driver sees them: what they have, and which cells there is room for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mnistbench.cell import Cell
from mnistbench.run.executors import is_shared


class Needs(NamedTuple):
    """What a cell asks Ray for."""

    cpus: float
    gpus: float


@dataclass(eq=False)
class Node:
    """One node.

    Attributes:
        cpus, gpus: what Ray may give away there in all.
        data_directory: where the prepared data lies on it; None until that is known.
        taken: what the cells that run there ask for.
    """

    node_id: str
    name: str
    cpus: float
    gpus: float
    data_directory: str | None = None
    taken: list[Needs] = field(default_factory=list)

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Node:
        """From an entry of `ray.nodes()`."""
        resources = described["Resources"]
        name = described.get("NodeManagerHostname") or described.get("NodeName", "")
        return cls(described["NodeID"], name, resources.get("CPU", 0.0), resources.get("GPU", 0.0))

    def needs(self, cell: Cell) -> Needs | None:
        """What the cell would ask for here; None if this node can never run it.

        A cell on a GPU that is to run alone takes the GPU's share of the CPUs too, so that none runs on them beside it.
        """
        on_gpu, shared = cell.device.partition(":")[0] == "cuda", is_shared(cell)
        if (on_gpu and self.gpus < 1) or (not on_gpu and self.cpus < 1):
            return None
        one = min(1.0, self.cpus)
        if on_gpu:
            return Needs(one if shared else max(one, self.cpus // self.gpus), 1.0)
        return Needs(one if shared else self.cpus, 0.0)

    def has_room(self, needs: Needs) -> bool:
        """Whether this can be had beside what runs there now."""
        cpus = sum(taken.cpus for taken in self.taken) + needs.cpus
        gpus = sum(taken.gpus for taken in self.taken) + needs.gpus
        return cpus <= self.cpus and gpus <= self.gpus


def devices_of(nodes: Iterable[Node]) -> list[str]:
    """What a grid may name as its devices: each cell sees the one GPU that Ray gives it."""
    nodes = list(nodes)
    kinds = ["cpu"] if any(node.cpus >= 1 for node in nodes) else []
    return [*kinds, "cuda"] if any(node.gpus >= 1 for node in nodes) else kinds


def choose(nodes: Iterable[Node], cell: Cell) -> tuple[Node, Needs] | None:
    """A node that has room for the cell now: the emptiest, so that shared cells spread."""
    fitting = [
        (len(node.taken), number, node, needs)
        for number, node in enumerate(nodes)
        if (needs := node.needs(cell)) is not None and node.has_room(needs)
    ]
    if not fitting:
        return None
    _, _, node, needs = min(fitting)
    return node, needs

"""Models that a run kept: written beside their settings, found again by cell, and used to predict and evaluate.

A kept model is a state dict in safetensors (numbers only, no code) with a JSON file of the same name beside it, which
says which cell made it and which data it expects.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistbench.cell import Cell
from mnistbench.errors import UserError
from mnistbench.storage.atomic import write_whole

if TYPE_CHECKING:
    import numpy as np
    import torch

    from mnistbench.data.arrays import DataSpec
    from mnistbench.plugins import Plugins

FORMAT_VERSION = 1
CHUNK = 1024
"""Examples per forward pass in `predict` and `evaluate`."""


def save_model(model: torch.nn.Module, cell: Cell, spec: DataSpec, path: Path) -> None:
    """Write the weights to `path` (`….safetensors`) and the settings to the `.json` beside it, each whole or not.

    Args:
        model: as `architectures.build` made it; a compiled model's own prefix is taken off the names.
        cell: the settings that trained it.
        spec: the data it was trained on.
        path: ends in `.safetensors`; its folder is made.

    Raises:
        UserError: if the folder cannot be written.
    """
    from safetensors.torch import save

    settings = {"format_version": FORMAT_VERSION, "cell": cell.to_json(), "data": spec.to_json()}
    state = {name.removeprefix("_orig_mod."): value for name, value in model.state_dict().items()}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path.with_suffix(".json"), json.dumps(settings, indent=1, ensure_ascii=False, allow_nan=False))
    write_whole(path, save(tensors, metadata={"cell_id": cell.cell_id, "format_version": str(FORMAT_VERSION)}))


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        label: index of the likeliest class; `name` is what the dataset calls it.
        probability: of that class, in [0, 1].
        probabilities: of every class.
    """

    source: str
    label: int
    name: str
    probability: float
    probabilities: list[float]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How the model does on a dataset's test split; `confusion` has true classes as rows."""

    dataset: str
    fallback: bool
    examples: int
    accuracy: float
    confusion: list[list[int]]


@dataclass(frozen=True, kw_only=True)
class KeptModel:
    """A trained network with the settings that made it.

    Attributes:
        network: in evaluation mode, on the CPU; takes float inputs [n, *input_shape].
        cell: the settings it was trained with.
        spec: the data it expects.
        plugins: the modules that its network or its dataset may come from.
    """

    network: torch.nn.Module
    cell: Cell
    spec: DataSpec
    plugins: Plugins | None = None

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """Class probabilities, float32 [n, classes] (a single sigmoid output becomes two columns).

        Args:
            inputs: uint8 images [n, height, width] as the dataset stores them, or float32 rows [n, features].

        Raises:
            UserError: if the shape is not the one that the model was trained on.
        """
        import numpy as np
        import torch

        wanted = self.spec.input_shape
        given = tuple(inputs.shape[1:])
        if given not in (wanted, wanted[1:] if wanted[:1] == (1,) else wanted):
            raise UserError(f"this model takes inputs of shape {list(wanted)}, not {list(given)}")
        parts = []
        with torch.inference_mode():
            for start in range(0, len(inputs), CHUNK):
                logits = self.network(self._as_floats(np.array(inputs[start : start + CHUNK])))
                parts.append(self._normalized(logits.float()).numpy())
        columns = max(self.spec.classes, 2)
        return np.concatenate(parts) if parts else np.zeros((0, columns), dtype=np.float32)

    def predict(self, images: Sequence[str | Path]) -> list[Prediction]:
        """Classify image files of any size and colour, dark on light or light on dark.

        Raises:
            UserError: if a file is missing or is not an image, or if the model was trained on a table.
        """
        import numpy as np

        from mnistbench.pictures import read_image

        shape = self.spec.input_shape
        if not self.spec.is_image:
            raise UserError(f"this model was trained on rows of {shape[0]} numbers ({self.spec.name}), not on images")
        pixels = np.stack([read_image(Path(image), size=shape[-1], dataset=self.spec.name) for image in images])
        names = self.spec.class_names
        found = []
        for image, row in zip(images, self.probabilities(pixels), strict=True):
            label = int(row.argmax())
            name = names[label] if label < len(names) else str(label)
            found.append(
                Prediction(
                    source=str(image),
                    label=label,
                    name=name,
                    probability=float(row[label]),
                    probabilities=[float(value) for value in row],
                )
            )
        return found

    def evaluate(self, dataset: str | None = None, *, data_dir: Path | None = None) -> Evaluation:
        """Accuracy on the test split of the dataset it was trained on, or of another one of the same shape.

        Raises:
            UserError: if the dataset cannot be had, or its shape is another one.
        """
        import numpy as np

        from mnistbench import datasets
        from mnistbench.cell import Component

        wanted = self.cell.dataset if dataset is None else Component(name=dataset)
        prepared = datasets.prepare(wanted, data_dir=data_dir, plugins=self.plugins)
        theirs, ours = prepared.spec, self.spec
        if tuple(theirs.input_shape) != tuple(ours.input_shape) or theirs.classes != ours.classes:
            raise UserError(
                f"{theirs.name} has inputs {list(theirs.input_shape)} and {theirs.classes} classes; this model"
                f" ({ours.name}) takes {list(ours.input_shape)} and {ours.classes}"
            )
        arrays = datasets.load(prepared.directory)
        truth = np.array(arrays.test_labels, dtype=np.int64)
        said = self.probabilities(arrays.test_inputs).argmax(axis=1)
        classes = max(ours.classes, 2)
        confusion = np.bincount(truth * classes + said, minlength=classes * classes).reshape(classes, classes)
        return Evaluation(
            dataset=prepared.component.label,
            fallback=prepared.fallback,
            examples=len(truth),
            accuracy=float((truth == said).mean()),
            confusion=[[int(count) for count in row] for row in confusion],
        )

    def _as_floats(self, inputs: np.ndarray) -> torch.Tensor:
        """Pixels to [0, 1], normalized where the cell says so, as in training; rows of a table stay as they are."""
        import torch

        tensor = torch.from_numpy(inputs)
        if tensor.dtype != torch.uint8:
            return tensor.float()
        tensor = tensor.float().div_(255).reshape(-1, *self.spec.input_shape)
        if self.cell.dataset.options.get("normalize", False):
            tensor = tensor.sub_(self.spec.mean).div_(self.spec.std)
        return tensor

    def _normalized(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs of any head as probabilities [n, classes]; softmax leaves log-probabilities what they say."""
        import torch

        if outputs.shape[-1] > 1:
            return outputs.softmax(dim=-1)
        positive = outputs.reshape(-1, 1)
        if self.cell.training.loss == "bce" and not self._gives_probabilities():
            positive = positive.sigmoid()
        return torch.cat([1 - positive, positive], dim=1)

    def _gives_probabilities(self) -> bool:
        """Whether the network itself ends in a sigmoid."""
        import torch

        last = [module for module in self.network.modules() if not list(module.children())][-1]
        return isinstance(last, torch.nn.Sigmoid)


def load_model(
    source: str | Path,
    *,
    results: Path | None = None,
    tracking_uri: str | None = None,
    plugins: Sequence[str] = (),
) -> KeptModel:
    """Load a model that a grid with `training: {save_model: …}` kept.

    Args:
        source: a weights file, a record file, the first digits of a cell id, or an MLflow run id.
        results: the results folder where a cell id is looked for; every folder in `results/` if left out.
        tracking_uri: where an MLflow run id is looked for; the usual place if left out.
        plugins: modules or `.py` files that define a network of your own.

    Raises:
        UserError: if there is no such model, or its files are broken.
    """
    from mnistbench.locate import find_weights

    with tempfile.TemporaryDirectory(prefix="mnistbench-") as downloads:
        path = find_weights(str(source), folder=results, tracking_uri=tracking_uri, downloads=Path(downloads))
        return read_model(path, plugins=plugins)


def read_model(path: Path, *, plugins: Sequence[str] = ()) -> KeptModel:
    """Build the network that the `.json` beside `path` names, and give it the weights in `path`.

    Raises:
        UserError: if a file is missing or broken, or the weights do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from mnistbench import architectures
    from mnistbench.plugins import load_plugins

    cell, spec = read_settings(path.with_suffix(".json"))
    loaded = load_plugins(plugins)
    network = architectures.build(cell.architecture, spec, loaded)
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a weights file that safetensors can read ({error})") from None
    except RuntimeError as error:
        raise UserError(f"{path}: the weights do not fit {cell.architecture.label}: {_first_line(error)}") from None
    return KeptModel(network=network.eval(), cell=cell, spec=spec, plugins=loaded)


def read_settings(path: Path) -> tuple[Cell, DataSpec]:
    """The cell and the data that stand beside a weights file.

    Raises:
        UserError: if the file is missing or is not of this format.
    """
    from mnistbench.data.arrays import DataSpec

    try:
        plain: Any = json.loads(path.read_text(encoding="utf-8"))
        if plain["format_version"] != FORMAT_VERSION:
            raise UserError(f"{path}: format {plain['format_version']!r}, this mnistbench reads {FORMAT_VERSION}")
        return Cell.from_json(plain["cell"]), DataSpec.from_json(plain["data"])
    except OSError as error:
        raise UserError(f"{path}: the settings of the model cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the settings of a model ({type(error).__name__}: {error})") from None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 else lines[0] if lines else type(error).__name__

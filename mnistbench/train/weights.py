"""Models that a run kept: written with what surrounds them, found again by cell, and used to predict and evaluate.

A kept model is a state dict in safetensors (numbers only, no code). Its settings say which cell made it, which data it
expects (a table's columns, their means and deviations; how pictures show their figures), and what its outputs are. They
stand in the file's metadata, and for people in a JSON file of the same name beside it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from mnistbench.axes import architectures
from mnistbench.axes.losses import predictions
from mnistbench.axes.plugins import load_plugins
from mnistbench.cell import Cell, Component
from mnistbench.cell.checked import read_checked
from mnistbench.cell.data_spec import DataSpec
from mnistbench.data import datasets
from mnistbench.data.arrays import as_array, load
from mnistbench.data.csv import read_csv_bytes, read_rows
from mnistbench.errors import UserError
from mnistbench.errors.problems import shown
from mnistbench.files.whole import write_whole
from mnistbench.train.pictures import Framing, framing_by_name, read_image

if TYPE_CHECKING:
    import numpy as np
    import torch

    from mnistbench.axes.plugins import Plugins

FORMAT_VERSION = 2
"""2 added `outputs`, `framing` and a table's columns; files of 1 are read as well."""
SETTINGS = "settings"
"""The key of the settings in the metadata of a weights file."""
CHUNK = 1024
"""Examples per forward pass in `predict` and `evaluate`."""


Outputs = Literal["logits", "log_probabilities", "probabilities", "one_hot"]
"""What a network's outputs are: the two that a softmax makes probabilities of, probabilities, or a regression to the
one-hot label by squared error."""


class NotSavable(UserError):
    """A network whose state is not a set of finite tensors."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What is stored with a model's weights.

    Attributes:
        cell: the settings that trained it.
        spec: the data it was trained on.
        outputs: what it gives.
        framing: of the pictures it was trained on; read for pictures alone.
    """

    cell: Cell
    spec: DataSpec
    outputs: Outputs
    framing: Framing

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        plain = {"cell": self.cell.to_json(), "data": self.spec.to_json(), "outputs": self.outputs}
        return {"format_version": FORMAT_VERSION, **plain, "framing": asdict(self.framing)}

    @classmethod
    def from_json(cls, plain: Any) -> ModelSettings:
        """Read what `to_json` wrote, or the first format, which leaves outputs and framing to be concluded.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: if it is something else.
        """
        version = plain["format_version"]
        if version not in (1, FORMAT_VERSION):
            raise ValueError(f"format {version!r}, this mnistbench reads up to {FORMAT_VERSION}")
        cell, spec = Cell.from_json(plain["cell"]), DataSpec.from_json(plain["data"])
        outputs, framing = kind_of_outputs(cell.training.loss.name), framing_by_name(spec.name)
        if version > 1:
            outputs, framing = plain["outputs"], read_checked(Framing, plain["framing"], "framing")
        if outputs not in get_args(Outputs):
            raise ValueError(f"outputs {outputs!r}")
        return cls(cell=cell, spec=spec, outputs=outputs, framing=framing)


def kind_of_outputs(loss: str, outputs: torch.Tensor | None = None) -> Outputs:
    """What outputs are, by the loss that they were trained with.

    Args:
        loss: of the training, its name.
        outputs: some of them [n, classes]: cross-entropy takes logits, but a network may end in a (log-)softmax. What a
            loss of the user's own takes, they alone tell.
    """
    by_loss: dict[str, Outputs] = {"nll": "log_probabilities", "bce": "probabilities", "mse": "one_hot"}
    if loss in by_loss:
        return by_loss[loss]
    if outputs is not None and len(outputs) and outputs.shape[1] > 1:
        sums = outputs.double().sum(dim=1)
        if bool((outputs >= 0).all()) and bool((sums - 1).abs().max() < 1e-3):
            return "probabilities"
        if bool(outputs.double().logsumexp(dim=1).abs().max() < 1e-3):
            return "log_probabilities"
    return "logits"


def save_model(
    model: torch.nn.Module,
    cell: Cell,
    spec: DataSpec,
    path: Path,
    *,
    outputs: Outputs | None = None,
    framing: Framing | None = None,
) -> None:
    """Write the weights to `path` (`….safetensors`) with their settings, and these to the `.json` beside it too.

    Args:
        model: as `architectures.build` made it; a compiled model's own prefix is taken off the names.
        cell: the settings that trained it.
        spec: the data it was trained on.
        path: ends in `.safetensors`; its folder is made.
        outputs: what it gives; concluded from the loss unless said.
        framing: of the pictures it was trained on; as the dataset's name tells unless said.

    Raises:
        NotSavable: if its state holds something else than finite tensors.
        UserError: if the folder cannot be written.
    """
    from safetensors.torch import save

    settings = ModelSettings(
        cell=cell,
        spec=spec,
        outputs=outputs or kind_of_outputs(cell.training.loss.name),
        framing=framing or framing_by_name(spec.name),
    )
    tensors = {name.removeprefix("_orig_mod."): _savable(name, value) for name, value in model.state_dict().items()}
    text = json.dumps(settings.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    metadata = {"cell_id": cell.cell_id, "format_version": str(FORMAT_VERSION), SETTINGS: text}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path.with_suffix(".json"), text)
    write_whole(path, save(tensors, metadata=metadata))


def _savable(name: str, value: Any) -> torch.Tensor:
    import torch

    if not isinstance(value, torch.Tensor):
        raise NotSavable(f"`{name}` of its state is a {type(value).__name__}, and a weights file holds tensors alone")
    tensor = value.detach().cpu().contiguous().clone()
    if not bool(tensor.isfinite().all()):
        raise NotSavable(f"`{name}` holds numbers that are not finite")
    return tensor


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model says of one image, or of one row of a table.

    Attributes:
        source: the image's file; `rows.csv:2` for the row in line 2 of a file; the number of an array's example.
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
        settings: what is stored with it.
        plugins: the modules that its network or its dataset may come from.
        warnings: what the user should see although it works.
    """

    network: torch.nn.Module
    settings: ModelSettings
    plugins: Plugins | None = None
    warnings: tuple[str, ...] = ()

    @property
    def cell(self) -> Cell:
        """The settings it was trained with."""
        return self.settings.cell

    @property
    def spec(self) -> DataSpec:
        """The data it expects."""
        return self.settings.spec

    @property
    def class_names(self) -> list[str]:
        """What the dataset calls its classes; their numbers where it has no names."""
        classes = max(self.spec.classes, 2)
        named = self.spec.class_names[:classes]  # somebody may have written others by hand
        return [*named, *(str(number) for number in range(len(named), classes))]

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """Class probabilities, float32 [n, classes] (a single sigmoid output becomes two columns).

        Args:
            inputs: images [n, height, width] of whole numbers from 0 to 255, as the dataset has them; or rows
                [n, features] as the file has them, in the order of `spec.columns`: the model's own means and
                deviations are taken off here. A pandas frame may have them in any order.

        Raises:
            UserError: if the shape is not the one that the model was trained on, or a number is not finite.
        """
        return self._answers(self._in_order(inputs))[1].numpy()

    def predict(self, examples: str | Path | Sequence[str | Path] | np.ndarray) -> list[Prediction]:
        """Classify images, or rows of a table.

        Args:
            examples: image files of any size and colour, dark on light or light on dark; CSV files, each row of which
                is classified; or an array as `probabilities` takes it.

        Raises:
            UserError: if a file is missing, or is not what the model was trained on.
        """
        import numpy as np

        given = [examples] if isinstance(examples, str | Path) else self._in_order(examples)
        if not len(given):
            return []
        if all(isinstance(example, str | Path) for example in given):
            sources, inputs = self._read([Path(example) for example in given])
        else:
            inputs = np.asarray(given)
            sources = [str(number) for number in range(len(inputs))]
        outputs, probabilities = self._answers(inputs, sources)
        labels = predictions(outputs).tolist()
        names = self.class_names
        return [
            Prediction(
                source=source, label=label, name=names[label], probability=float(row[label]), probabilities=row.tolist()
            )
            for source, label, row in zip(sources, labels, probabilities.numpy(), strict=True)
        ]

    def evaluate(self, dataset: str | None = None, *, data_dir: Path | None = None) -> Evaluation:
        """Accuracy on the test split of the dataset it was trained on, or of another one of the same shape.

        Raises:
            UserError: if the dataset cannot be had, or its shape is another one.
        """
        import numpy as np

        wanted = self.cell.dataset if dataset is None else Component(name=dataset)
        prepared = datasets.prepare(wanted, data_dir=data_dir, plugins=self.plugins)
        if dataset is None and wanted.sha256 not in (None, prepared.component.sha256):
            raise UserError(
                f"{wanted.label} gives other data than this model was trained on; to evaluate on what it gives now, say"
                f" `--dataset {wanted.name}`"
            )
        theirs, ours = prepared.spec, self.spec
        if tuple(theirs.input_shape) != tuple(ours.input_shape) or theirs.classes != ours.classes:
            raise UserError(
                f"{theirs.name} has inputs {list(theirs.input_shape)} and {theirs.classes} classes; this model"
                f" ({ours.name}) takes {list(ours.input_shape)} and {ours.classes}"
            )
        arrays = load(prepared.directory)
        truth = np.array(arrays.test_labels, dtype=np.int64)
        said = predictions(self.outputs_of(arrays.test_inputs)).numpy()
        classes = max(ours.classes, 2)
        confusion = np.bincount(truth * classes + said, minlength=classes * classes).reshape(classes, classes)
        return Evaluation(
            dataset=prepared.component.label,
            fallback=prepared.fallback,
            examples=len(truth),
            accuracy=float((truth == said).mean()),
            confusion=[[int(count) for count in row] for row in confusion],
        )

    def outputs_of(self, stored: np.ndarray) -> torch.Tensor:
        """What the network gives, float32 [n, outputs].

        Args:
            stored: examples as the prepared data holds them: uint8 images [n, height, width], or float32 rows
                [n, features], standardized where the cell says so.
        """
        import numpy as np
        import torch

        parts = [torch.zeros(0, self.spec.classes)]
        with torch.no_grad():  # a network may compute gradients inside its forward pass
            for start in range(0, len(stored), CHUNK):
                inputs = torch.from_numpy(np.array(stored[start : start + CHUNK]))
                parts.append(self.network(self._as_floats(inputs)).float())
        return torch.cat(parts)

    def _answers(self, inputs: np.ndarray, sources: Sequence[str] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs, and the probabilities [n, classes] that they mean, of a user's examples."""
        outputs = self.outputs_of(self._stored(inputs))
        probabilities = self._as_probabilities(outputs)
        if len(wrong := probabilities.isnan().any(dim=1).nonzero()):
            place = int(wrong[0])
            raise UserError(
                f"{sources[place] if sources else f'example {place}'}: the network answers with no number: are its"
                " values far outside of what it was trained on?"
            )
        return outputs, probabilities

    def _in_order(self, examples: Any) -> Any:
        """Of a pandas frame, the columns that the model takes; anything else as it is."""
        if (given := getattr(examples, "columns", None)) is None:
            return examples
        if missing := [name for name in self.spec.columns if name not in given]:
            raise UserError(f"there is no column {', '.join(missing)}; the model was trained on these")
        return as_array(examples[self.spec.columns] if self.spec.columns else examples)

    def _read(self, paths: list[Path]) -> tuple[list[str], np.ndarray]:
        """Examples of files, and where each comes from."""
        import numpy as np

        if self.spec.is_image:
            height, width = self.spec.input_shape[-2:]
            framing = self.settings.framing
            images = [read_image(path, shape=(height, width), framing=framing) for path in paths]
            return [str(path) for path in paths], np.stack(images)
        sources, parts = [], []
        for path in paths:
            values, lines = self._read_rows(path)
            sources += [f"{path}:{line}" for line in lines]
            parts.append(values)
        return sources, np.concatenate(parts)

    def _read_rows(self, path: Path) -> tuple[np.ndarray, list[int]]:
        options = self.cell.data_options
        try:
            return read_rows(
                read_csv_bytes(path),
                self.spec,
                str(path),
                header=options.get("header") is not False,
                delimiter=str(options.get("delimiter", ",")),
            )
        except UserError as error:
            expected = f"this model was trained on rows of {self.spec.input_shape[0]} numbers ({self.spec.name})"
            raise UserError(f"{error}\n{expected}: give a CSV file of them") from None

    def _stored(self, inputs: np.ndarray) -> np.ndarray:
        """A user's examples in the form in which the prepared data holds them."""
        import numpy as np

        wanted, spec = self.spec.input_shape, self.spec
        given = tuple(inputs.shape[1:])
        if given not in (wanted, wanted[1:] if wanted[:1] == (1,) else wanted):
            raise UserError(f"this model takes inputs of shape {list(wanted)}, not {list(given)}")
        if spec.is_image:
            if inputs.dtype.kind not in "iu" or (inputs.size and not 0 <= inputs.min() <= inputs.max() <= 255):
                raise UserError("this model takes images of whole numbers from 0 to 255 (uint8)")
            return inputs.astype(np.uint8)
        if inputs.dtype.kind not in "fiub":
            raise UserError(f"this model takes rows of numbers, not of {inputs.dtype}")
        rows = inputs.astype(np.float64)
        if not (abs(rows) <= np.finfo(np.float32).max).all():
            raise UserError("this model takes finite numbers; drop the rows with missing values first")
        if self.cell.data_options.get("standardize", False):
            if not spec.column_means:
                raise UserError(
                    "this model was trained on standardized columns, and an older release kept it without their means"
                    " and deviations: run its cell again with --force"
                )
            rows = (rows - np.array(spec.column_means)) / np.array(spec.column_deviations)
        return rows.astype(np.float32)

    def _as_floats(self, stored: torch.Tensor) -> torch.Tensor:
        """Pixels to [0, 1], normalized where the cell says so, as in training; rows of a table stay as they are."""
        if not self.spec.is_image:
            return stored.float()
        pixels = stored.float().div_(255).reshape(-1, *self.spec.input_shape)
        if self.cell.data_options.get("normalize", False):
            pixels = pixels.sub_(self.spec.mean).div_(self.spec.std)
        return pixels

    def _as_probabilities(self, outputs: torch.Tensor) -> torch.Tensor:
        """Probabilities [n, classes]; the largest output stays the largest."""
        import torch

        if outputs.shape[1] == 1:
            return torch.cat([1 - outputs, outputs], dim=1)
        if self.settings.outputs == "probabilities":
            return outputs
        if self.settings.outputs == "one_hot":
            return _nearest_probabilities(outputs)
        return outputs.softmax(dim=1)  # log-probabilities, too, come out as what they say


def _nearest_probabilities(outputs: torch.Tensor) -> torch.Tensor:
    """The closest points [n, classes] that are none below 0 and add up to 1 (Duchi et al. 2008, ICML, figure 1).

    Squared error to the one-hot label is least at the probability of each class, so the outputs are taken as
    probabilities but for what they miss of adding up to 1.
    """
    import torch

    ordered = outputs.sort(dim=1, descending=True).values
    excess = ordered.cumsum(dim=1) - 1
    ranks = torch.arange(1, outputs.shape[1] + 1)
    positive = (ordered * ranks > excess).sum(dim=1, keepdim=True).clamp(min=1)
    return (outputs - excess.gather(1, positive - 1) / positive).clamp(min=0)


def read_model(path: Path, *, plugins: Sequence[str] = ()) -> KeptModel:
    """Build the network that the settings of `path` name, and give it the weights in `path`.

    Raises:
        UserError: if a file is missing or broken, or the weights do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.exists() and not path.is_file():
        raise UserError(f"{path}: not a regular file")
    settings = read_settings(path)
    loaded = load_plugins(plugins)
    try:
        network = architectures.build(settings.cell.architecture, settings.spec, loaded)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # whatever a constructor makes of options that are none
        raise UserError(
            f"{path}: the network cannot be built from its settings ({type(error).__name__}: {_first_line(error)})"
        ) from None
    try:
        weights = load_file(path)
        if not all(tensor.isfinite().all() for tensor in weights.values()):
            raise UserError(f"{path}: its weights are not finite: damaged, or not of a run of ours")
        getattr(network, "_orig_mod", network).load_state_dict(
            weights
        )  # a plug-in may have compiled it: as `save_model`
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a weights file that safetensors can read ({shown(str(error), 200)})") from None
    except RuntimeError as error:
        label = settings.cell.architecture.label
        raise UserError(f"{path}: the weights do not fit {label}: {_first_line(error)}") from None
    if _metadata(path).get("cell_id", settings.cell.cell_id) != settings.cell.cell_id:
        raise UserError(f"{path.with_suffix('.json')}: the settings of another model than {path.name}: move them away")
    network.eval()  # a network's own `eval` need not return it
    return KeptModel(
        network=network, settings=settings, plugins=loaded, warnings=_changed(settings.cell.architecture, loaded)
    )


def _changed(architecture: Component, plugins: Plugins) -> tuple[str, ...]:
    """A line if a plug-in is no longer the one that the network was trained from: its weights may still fit."""
    if architecture.sha256 is None or plugins.sha256(architecture.name) == architecture.sha256:
        return ()
    return (f"{architecture.name} comes from a file that has changed since: the network may answer otherwise",)


def read_settings(path: Path) -> ModelSettings:
    """The settings of a weights file: those beside it in a `.json`, else those in its metadata.

    Raises:
        UserError: if there are none, or they are not of this format.
    """
    beside = path.with_suffix(".json")
    try:
        inside = None if beside.exists() else _metadata(path).get(SETTINGS)
        if inside is None and path.exists() and not beside.exists():
            raise UserError(f"{path}: holds no settings, nor does {beside.name}: it is no model that a run here kept")
        return ModelSettings.from_json(json.loads(beside.read_text(encoding="utf-8") if inside is None else inside))
    except OSError as error:
        raise UserError(f"{beside}: the settings of the model cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise UserError(f"{beside}: not the settings of a model ({type(error).__name__}: {error})") from None


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a weights file that safetensors can read ({shown(str(error), 200)})") from None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 else lines[0] if lines else type(error).__name__

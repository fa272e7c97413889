"""What a training keeps of its network: the whole of it, or a line that says what is missing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mnistbench import load_model
from mnistbench.axes import architectures
from mnistbench.axes.plugins import load_plugins
from mnistbench.cell import Cell, Component, Training
from mnistbench.data import datasets
from mnistbench.data.arrays import Arrays
from mnistbench.errors import UserError
from mnistbench.kept.find import find_weights
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.records import CellRecord, Data
from mnistbench.train.job import Job
from mnistbench.train.train import train_cell
from mnistbench.train.weights import save_model

NETWORKS = '''
import torch
from torch import nn


class Whole(nn.Sequential):
    def __init__(self, data):
        super().__init__(nn.Linear(3, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 3))


class Hidden(nn.Module):
    """Its first layer stands in a plain list, where no state_dict looks."""

    def __init__(self, data):
        super().__init__()
        self.layers = [nn.Linear(3, 8)]
        self.last = nn.Linear(8, 3)

    def forward(self, inputs):
        return self.last(self.layers[0](inputs).tanh())


class Constant(nn.Module):
    """It scales by a tensor that is no buffer."""

    def __init__(self, data):
        super().__init__()
        self.scale = torch.rand(3)
        self.last = nn.Linear(3, 3)

    def forward(self, inputs):
        return self.last(inputs * self.scale)


class Noisy(nn.Module):
    """It answers differently each time."""

    def __init__(self, data):
        super().__init__()
        self.last = nn.Linear(3, 3)

    def forward(self, inputs):
        return self.last(inputs) + torch.rand(3)


class Softmax(nn.Sequential):
    def __init__(self, data):
        super().__init__(nn.Linear(3, 3), nn.Softmax(dim=1))


class Lazy(nn.Sequential):
    """Layers that take their shape from a batch, the first in buffers alone."""

    def __init__(self, data):
        lazy = [nn.LazyBatchNorm1d(affine=False), nn.Unflatten(1, (4, 2)), nn.LazyInstanceNorm1d(affine=True)]
        super().__init__(nn.Linear(3, 8), *lazy, nn.Flatten(), nn.Linear(8, 3))
'''
Train = Callable[..., CellRecord]


ONE_THREAD = Component(name="plain", options={"data": "resident", "threads": 1})


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of networks; a module is imported once in a process."""
    path = tmp_path_factory.mktemp("plugin") / "kept_networks.py"
    path.write_text(NETWORKS)
    return str(path)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The folder in which a worker leaves what it keeps."""
    folder = tmp_path / "weights"
    folder.mkdir()
    return folder


@pytest.fixture
def train(tmp_path: Path, plugin: str, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Train a network of the plug-in on a small table."""
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "cache"))
    table = datasets.prepare(Component(name="sum3", options={"rows": 300}))

    def run(network: str, sgd: dict[str, float] | None = None, **training: object) -> CellRecord:
        job = Job(
            cell=Cell(
                dataset=table.component,
                architecture=Component(name=f"kept_networks:{network}"),
                optimizer=Component(name="sgd", options=sgd or {"lr": 0.1}),
                batch_size=50,
                device="cpu",
                seed=0,
                training=Training(epochs=2, **{"save_model": "last", **training}),  # type: ignore[arg-type]
                execution=ONE_THREAD,
            ),
            record_id="test",
            data_directory=str(table.directory),
            data=Data(sha256=table.sha256),
            weights_directory=str(weights),
            plugins=(plugin,),
        )
        return train_cell(job, on_epoch=[].append, process_started=time.perf_counter())

    return run


@pytest.mark.parametrize("network", ["Whole", "Lazy"])
def test_a_network_that_is_whole_is_kept_and_the_record_says_so(train: Train, weights: Path, network: str) -> None:
    record = train(network)
    assert record.model is not None
    assert record.checks["kept_model"] == "passed"
    assert not record.checks["equivalence"].startswith("failed")
    assert [path.name for path in weights.glob("*.safetensors")] == record.model.weights


@pytest.mark.parametrize("network", ["Hidden", "Constant"])
def test_what_no_state_dict_holds_is_found_when_the_model_is_saved(train: Train, weights: Path, network: str) -> None:
    """The training keeps its record; the weights, which would answer wrongly, go."""
    record = train(network, save_model="all")
    assert record.status == "finished"
    assert record.model is not None
    assert record.model.weights == []
    assert "not kept: loaded back, it answers 64 test examples differently" in record.checks["kept_model"]
    assert list(weights.iterdir()) == []


def test_a_network_that_answers_at_random_is_kept_uncompared(train: Train) -> None:
    """No false alarm: it differs from itself."""
    record = train("Noisy")
    assert record.model is not None
    assert len(record.model.weights) == 1
    assert record.checks["kept_model"].startswith("not compared")


def test_weights_that_are_not_finite_are_not_kept(train: Train, weights: Path) -> None:
    record = train("Whole", {"lr": 3e38, "weight_decay": 1.0})
    assert record.status == "diverged"
    assert record.checks["kept_model"] == "not kept: the training diverged"
    assert list(weights.iterdir()) == []


def test_keeping_each_epoch_trains_the_same_weights_as_keeping_none(train: Train) -> None:
    """Dropout's random numbers go on where they were."""
    kept, unkept = train("Whole", save_model="all"), train("Whole", save_model=None)
    assert kept.model is not None and unkept.model is not None
    assert kept.model.weights_sha256 == unkept.model.weights_sha256
    assert "kept_model" not in unkept.checks


def test_predict_says_why_a_model_was_not_kept(train: Train, tmp_path: Path) -> None:
    record = train("Hidden")
    results = ResultsFolder(tmp_path / "results")
    results.create()
    results.write(record)
    with pytest.raises(UserError, match="its model was not kept: loaded back"):
        find_weights(record.cell_id[:8], folder=results.path, download=None)


def test_a_network_that_ends_in_a_softmax_gives_its_own_probabilities(train: Train, weights: Path, plugin: str) -> None:
    """Under cross-entropy, too, they are not put through a softmax again."""
    (name,) = train("Softmax").model.weights  # type: ignore[union-attr]
    model = load_model(weights / name, plugins=[plugin])
    rows = np.random.default_rng(0).random((5, 3), dtype=np.float32)
    assert model.settings.outputs == "probabilities"
    expected = model.network(torch.from_numpy(rows)).detach().numpy()
    assert model.probabilities(rows) == pytest.approx(expected, abs=1e-6)


def test_a_network_whose_source_has_changed_is_pointed_out(weights: Path, plugin: str, cell: Cell) -> None:
    """Its weights still fit where an activation is another one."""
    plugins = load_plugins([plugin])
    spec = datasets.prepare(Component(name="sum3", options={"rows": 300})).spec
    for sha256, said in [(plugins.sha256("kept_networks:Whole"), False), ("0" * 64, True)]:
        kept = replace(cell, architecture=Component(name="kept_networks:Whole", sha256=sha256))
        network = architectures.build(kept.architecture, spec, plugins)
        save_model(network, kept, spec, weights / "whole.safetensors")
        warnings = load_model(weights / "whole.safetensors", plugins=[plugin]).warnings
        assert ["comes from a file that has changed since" in warning for warning in warnings] == [True] * said


def scans(arrays: Arrays) -> dict[str, np.ndarray]:
    return {name: 255 - array if name.endswith("inputs") else array for name, array in arrays.items()}


def test_pictures_are_asked_about_as_they_were_trained_on(
    data_dir: Path, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dark digits on white from one's own function: files are answered as arrays are, at any size, in either colour."""
    from PIL import Image

    whole = datasets.load(datasets.prepare(Component(name="mnist"), data_dir=data_dir).directory)
    np.savez(tmp_path / "few.npz", **{name: array[:3000] for name, array in scans(whole).items()})
    (tmp_path / "paper_scans.py").write_text(
        f"import numpy as np\ndef scans():\n    file = np.load({str(tmp_path / 'few.npz')!r})\n"
        "    return tuple(file[f'{part}_{what}'] for part in ('train', 'test') for what in ('inputs', 'labels'))\n"
    )
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "cache"))
    own = str(tmp_path / "paper_scans.py")
    prepared = datasets.prepare(Component(name="paper_scans:scans"), plugins=load_plugins([own]))
    job = Job(
        cell=Cell(
            dataset=prepared.component,
            architecture=Component(name="mlp", options={"hidden": [64]}),
            optimizer=Component(name="adam", options={"lr": 0.002}),
            batch_size=50,
            device="cpu",
            seed=0,
            training=Training(epochs=3, save_model="last"),
            execution=ONE_THREAD,
        ),
        record_id="test",
        data_directory=str(prepared.directory),
        data=Data(sha256=prepared.sha256),
        weights_directory=str(weights),
        plugins=(own,),
    )
    record = train_cell(job, on_epoch=[].append, process_started=time.perf_counter())
    assert record.model is not None
    model = load_model(weights / record.model.weights[0], plugins=[own])
    test = datasets.load(prepared.directory)
    images = [Image.fromarray(np.array(image)) for image in test.test_inputs[:100]]
    as_arrays = model.probabilities(np.array(test.test_inputs[:100]))

    def asked(change: Callable[[Image.Image], Image.Image]) -> list[str]:
        paths = [tmp_path / f"{number}.png" for number in range(100)]
        for image, path in zip(images, paths, strict=True):
            change(image).save(path)
        found = model.predict(paths)
        return [one.name for one in found]

    truth = [str(label) for label in test.test_labels[:100]]

    def right(names: list[str]) -> float:
        return float(np.mean([name == wanted for name, wanted in zip(names, truth, strict=True)]))

    reached = right([str(label) for label in as_arrays.argmax(axis=1)])
    assert reached > 0.6
    assert right(asked(lambda image: image)) == reached
    assert right(asked(lambda image: Image.eval(image, lambda level: 255 - level))) == reached
    assert right(asked(lambda image: image.resize((112, 112), Image.Resampling.BICUBIC))) > reached - 0.1
    assert model.evaluate().examples == 3000
    np.savez(tmp_path / "few.npz", **{name: array[:2000] for name, array in scans(whole).items()})
    with pytest.raises(UserError, match=r"gives other data than this model was .*`--dataset paper_scans:scans`"):
        model.evaluate()
    assert model.evaluate("paper_scans:scans").examples == 2000


def test_a_table_takes_its_means_columns_and_their_order_along(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's own rows, as arrays or as a CSV with its columns in another order, are answered as in training."""
    random = np.random.RandomState(0)
    labels = random.randint(0, 3, 300)
    rows = np.stack([random.normal(60_000, 5000, 300) + 20_000 * labels, random.normal(1e-3, 1e-4, 300)], axis=1)
    lines = [f"{a:.6g},{b:.6g},{'xyz'[label]}" for (a, b), label in zip(rows, labels, strict=True)]
    (tmp_path / "table.csv").write_text("\n".join(["income,rate,kind", *lines]))
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "cache"))
    options = {"path": str(tmp_path / "table.csv"), "task": "classes", "standardize": True}
    prepared = datasets.prepare(Component(name="csv", options=options))
    job = Job(
        cell=Cell(
            dataset=prepared.component,
            architecture=Component(name="mlp", options={"hidden": [8]}),
            optimizer=Component(name="adam", options={"lr": 0.02}),
            batch_size=30,
            device="cpu",
            seed=0,
            training=Training(epochs=15, save_model="last"),
            execution=ONE_THREAD,
        ),
        record_id="test",
        data_directory=str(prepared.directory),
        data=Data(sha256=prepared.sha256),
        weights_directory=str(weights),
    )
    record = train_cell(job, on_epoch=[].append, process_started=time.perf_counter())
    assert record.model is not None
    path = weights / record.model.weights[0]
    path.with_suffix(".json").unlink()  # what surrounds the model stands in the weights file too
    model = load_model(path)
    assert model.spec.columns == ["income", "rate"]
    own_rows = np.array([[float(text) for text in line.split(",")[:2]] for line in lines])
    said = model.probabilities(own_rows).argmax(axis=1)
    assert np.mean(said == labels) > 0.85
    other = [f"{label},{number},{rate},{income}" for number, (income, rate, label) in enumerate(
        line.split(",") for line in lines
    )]  # fmt: skip
    (tmp_path / "other.csv").write_text("\n".join(["kind,number,rate,income", *other]))
    found = model.predict([tmp_path / "other.csv"])
    assert [one.label for one in found] == said.tolist()
    assert found[0].source == f"{tmp_path / 'other.csv'}:2"
    assert model.predict(own_rows)[0].probabilities == found[0].probabilities
    (tmp_path / "wrong.csv").write_text("income,speed\n1,2\n")
    with pytest.raises(UserError, match=r"wrong.csv: there is no column rate; the model was trained on income, rate"):
        model.predict(str(tmp_path / "wrong.csv"))


def test_an_older_model_of_a_standardized_table_says_what_it_lacks(train: Train, weights: Path, plugin: str) -> None:
    """It loads; rows as they are cannot be asked about."""
    (name,) = train("Whole").model.weights  # type: ignore[union-attr]
    settings = (weights / name).with_suffix(".json")
    plain = json.loads(settings.read_text())
    for key in ("columns", "column_means", "column_deviations"):
        del plain["data"][key]
    plain["cell"]["dataset"] = {"name": "csv", "path": "t.csv", "standardize": True}
    settings.write_text(json.dumps({"format_version": 1, "cell": plain["cell"], "data": plain["data"]}))
    save_file(load_file(weights / name), weights / name)  # it named the cell that it was really trained in
    model = load_model(weights / name, plugins=[plugin])
    with pytest.raises(UserError, match="run its cell again with --force"):
        model.probabilities(np.zeros((1, 3)))

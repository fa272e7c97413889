"""Kept models: saved, found again, and right about pictures as people have them."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mnistbench import load_model
from mnistbench.axes import architectures
from mnistbench.cell import Cell, Component, Training
from mnistbench.cell.data_spec import DataSpec
from mnistbench.data import datasets
from mnistbench.data.arrays import Arrays
from mnistbench.errors import UserError
from mnistbench.results.folder import ResultsFolder
from mnistbench.results.records import CellRecord, Model
from mnistbench.train.pictures import framing_by_name
from mnistbench.train.weights import KeptModel, NotSavable, read_model, save_model

TABLE = DataSpec(
    name="sum3", input_shape=(3,), classes=3, train_examples=7, test_examples=3, class_names=["a", "b", "c"]
)


@pytest.fixture(scope="session")
def mnist(digit_images: Component) -> Arrays:
    """The images."""
    return datasets.load(datasets.prepare(digit_images).directory)


@pytest.fixture(scope="session")
def trained(mnist: Arrays, digit_images: Component, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights file of an MLP that saw 40,000 digits once: about 95 % right."""
    torch.manual_seed(0)
    cell = Cell(
        dataset=digit_images,
        architecture=Component(name="mlp", options={"hidden": [128]}),
        optimizer=Component(name="adam"),
        batch_size=100,
        device="cpu",
        seed=0,
        training=Training(epochs=1, save_model="last"),
    )
    network = architectures.build(cell.architecture, mnist.spec, None)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    inputs = torch.from_numpy(np.array(mnist.train_inputs[:40_000])).float().div(255).unsqueeze(1)
    labels = torch.from_numpy(np.array(mnist.train_labels[:40_000]))
    for start in range(0, len(labels), 100):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(inputs[start : start + 100]), labels[start : start + 100]).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("models") / "kept.safetensors"
    save_model(network, cell, mnist.spec, path)
    return path


@pytest.fixture(scope="session")
def recognised(trained: Path, mnist: Arrays) -> Arrays:
    """The images with only those for testing that the model gets right as they are."""
    right = load_model(trained).probabilities(np.array(mnist.test_inputs)).argmax(axis=1) == mnist.test_labels
    return replace(mnist, test_inputs=mnist.test_inputs[right], test_labels=mnist.test_labels[right])


def draw(mnist: Arrays, folder: Path, change: object, ending: str = "png", count: int = 60) -> list[Path]:
    """The first test images, each changed and saved as a picture."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number in range(count):
        path = folder / f"{number:03d}.{ending}"
        change(Image.fromarray(np.array(mnist.test_inputs[number]))).save(path)  # type: ignore[operator]
        paths.append(path)
    return paths


def share_right(model: KeptModel, paths: list[Path], mnist: Arrays) -> float:
    """Accuracy on the first test images as pictures."""
    said = [found.label for found in model.predict(paths)]
    return float(np.mean(np.array(said) == mnist.test_labels[: len(paths)]))


def coloured(image: Image.Image) -> Image.Image:
    """Dark red strokes on light yellow, four times as large, on wider paper."""
    large = np.asarray(image.resize((112, 112), Image.Resampling.BICUBIC), dtype=np.float32)[..., None] / 255
    drawn = large * np.array([120, 10, 10]) + (1 - large) * np.array([250, 245, 200])
    paper = Image.new("RGB", (300, 180), (250, 245, 200))
    paper.paste(Image.fromarray(drawn.astype(np.uint8)), (150, 30))
    return paper


def transparent(image: Image.Image) -> Image.Image:
    """Black strokes on nothing, as drawing programs save them."""
    out = Image.new("RGBA", image.size, (0, 0, 0, 0))
    out.putalpha(image)
    return out.resize((280, 280), Image.Resampling.BICUBIC)


def deep(image: Image.Image) -> Image.Image:
    """16 bits a pixel, dark on light."""
    return Image.fromarray((65535 - np.asarray(image, dtype=np.uint16) * 257).astype(np.uint16))


def test_a_model_comes_back_with_the_same_predictions(trained: Path, mnist: Arrays) -> None:
    """Save, load, predict: to the last bit."""
    model = load_model(trained)
    again = load_model(str(trained))
    inputs = np.array(mnist.test_inputs[:500])
    assert np.array_equal(model.probabilities(inputs), again.probabilities(inputs))
    assert not model.network.training
    assert model.cell.architecture.options == {"hidden": [128]}
    assert model.spec == mnist.spec


def test_probabilities_add_up_to_one(trained: Path, mnist: Arrays) -> None:
    """One row an image."""
    found = load_model(trained).probabilities(np.array(mnist.test_inputs[:7]))
    assert found.shape == (7, 10)
    assert found.sum(axis=1) == pytest.approx(np.ones(7), abs=1e-5)


@pytest.mark.parametrize(
    ("change", "ending", "least"),
    [
        (lambda image: image, "png", 0.95),
        (lambda image: Image.eval(image, lambda level: 255 - level), "png", 0.95),
        (coloured, "png", 0.85),
        (coloured, "jpg", 0.85),
        (transparent, "webp", 0.85),
        (deep, "png", 0.9),
        (lambda image: image.resize((280, 280)).convert("P"), "gif", 0.85),
        (lambda image: image.resize((14, 14)), "bmp", 0.6),
    ],
    ids=["as it is", "inverted", "colour", "jpeg", "transparent", "16 bits", "palette", "small"],
)
def test_pictures_of_any_kind_are_read(
    trained: Path, recognised: Arrays, tmp_path: Path, change: object, ending: str, least: float
) -> None:
    """Any size, any colour, dark on light or light on dark: the digit is the same digit."""
    paths = draw(recognised, tmp_path / "pictures", change, ending)
    assert share_right(load_model(trained), paths, recognised) >= least


def test_a_model_trained_on_normalized_pixels_gets_them(trained: Path, mnist: Arrays, tmp_path: Path) -> None:
    """The dataset's mean and deviation are taken off, as in training."""
    model = load_model(trained)
    normalized = replace(model.cell, dataset=Component(name="mnist", options={"normalize": True}))
    save_model(model.network, normalized, model.spec, tmp_path / "normalized.safetensors")
    image = np.array(mnist.test_inputs[:1])
    theirs = load_model(tmp_path / "normalized.safetensors").probabilities(image)
    inputs = (torch.from_numpy(image).float().div(255).unsqueeze(1) - mnist.spec.mean) / mnist.spec.std
    assert theirs == pytest.approx(model.network(inputs).softmax(dim=1).detach().numpy(), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("words.png", b"these are words", "not an image"),
        ("empty.png", b"", "not an image"),
        ("cut.png", None, "damaged"),
    ],
)
def test_what_is_no_image_is_named(
    trained: Path, mnist: Arrays, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    """One line with the file's name, whatever lies in it."""
    path = tmp_path / name
    if content is None:
        (whole,) = draw(mnist, tmp_path / "pictures", lambda image: image, count=1)
        content = whole.read_bytes()[:-60]
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        load_model(trained).predict([path])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_image_a_folder_and_an_empty_page_are_named(trained: Path, tmp_path: Path) -> None:
    """Each with what it is."""
    Image.new("RGB", (50, 50), "white").save(tmp_path / "page.png")
    model = load_model(trained)
    for path, said in [("gone.png", "no such file"), (".", "a folder"), ("page.png", "nothing to see")]:
        with pytest.raises(UserError, match=said):
            model.predict([tmp_path / path])


def test_evaluate_gives_the_accuracy_and_who_is_taken_for_whom(trained: Path, mnist: Arrays) -> None:
    """On the test split: the trace of the confusion matrix is what is right."""
    found = load_model(trained).evaluate()
    confusion = np.array(found.confusion)
    assert found.examples == confusion.sum() == 10_000
    assert found.accuracy == pytest.approx(confusion.trace() / 10_000)
    assert found.accuracy > 0.93
    assert list(confusion.sum(axis=1)) == list(np.bincount(mnist.test_labels))


def test_evaluate_on_another_dataset_of_the_same_shape(trained: Path, fashion_dir: Path) -> None:
    """A digit network knows nothing of clothes."""
    found = load_model(trained).evaluate("fashion_mnist", data_dir=fashion_dir)
    assert found.dataset == "fashion_mnist"
    assert found.accuracy < 0.4


def test_evaluate_refuses_another_shape(trained: Path) -> None:
    """With both shapes in the line."""
    with pytest.raises(UserError, match=r"inputs \[3\].*\[1, 28, 28\]"):
        load_model(trained).evaluate("sum3")


def test_a_table_model_predicts_rows_and_says_so_about_images(tmp_path: Path, cell: Cell) -> None:
    """Rows of numbers go in; pictures are refused."""
    table_cell = replace(cell, architecture=Component(name="mlp", options={"hidden": [5]}))
    network = architectures.build(table_cell.architecture, TABLE, None)
    save_model(network, table_cell, TABLE, tmp_path / "table.safetensors")
    model = load_model(tmp_path / "table.safetensors")
    rows = np.random.default_rng(0).random((4, 3), dtype=np.float32)
    assert model.probabilities(rows) == pytest.approx(network(torch.from_numpy(rows)).softmax(1).detach().numpy())
    with pytest.raises(UserError, match="rows of 3 numbers"):
        model.predict(["digit.png"])


def test_a_model_of_a_plug_ins_table_takes_rows_as_they_are(tmp_path: Path, cell: Cell) -> None:
    """What the plug-in calls `standardize`, `header` or `delimiter` says nothing of a user's file."""
    own = Component(name="my_data:rows", options={"standardize": True, "header": False, "delimiter": ";"})
    table_cell = replace(cell, architecture=Component(name="logistic"), dataset=own)
    spec = replace(TABLE, columns=["a", "b", "c"])
    network = architectures.build(table_cell.architecture, spec, None)
    save_model(network, table_cell, spec, tmp_path / "table.safetensors")
    (tmp_path / "rows.csv").write_text("c,b,a\n3,2,1\n")
    expected = network(torch.tensor([[1.0, 2.0, 3.0]])).softmax(1).detach().numpy()
    model = load_model(tmp_path / "table.safetensors")
    assert model.probabilities(np.array([[1, 2, 3]])) == pytest.approx(expected)
    assert model.predict(tmp_path / "rows.csv")[0].probability == pytest.approx(expected.max())


def test_columns_of_a_frame_are_found_by_name(tmp_path: Path, cell: Cell) -> None:
    import pandas as pd

    table_cell, spec = replace(cell, architecture=Component(name="logistic")), replace(TABLE, columns=["a", "b", "c"])
    network = architectures.build(table_cell.architecture, spec, None)
    save_model(network, table_cell, spec, tmp_path / "table.safetensors")
    model = load_model(tmp_path / "table.json")
    rows = np.random.default_rng(0).random((4, 3), dtype=np.float32)
    frame = pd.DataFrame(rows, columns=["a", "b", "c"])[["c", "a", "b"]].assign(label="x")
    assert np.array_equal(model.probabilities(frame), model.probabilities(rows))
    assert np.array_equal(model.probabilities(frame.astype({"a": object})), model.probabilities(rows))
    assert [found.label for found in model.predict(frame)] == [found.label for found in model.predict(rows)]
    with pytest.raises(UserError, match="there is no column b"):
        model.predict(frame.drop(columns="b"))


def test_one_sigmoid_output_becomes_two_columns(tmp_path: Path, cell: Cell) -> None:
    """A probability is not put through a sigmoid again."""
    spec = replace(TABLE, classes=1, class_names=["no", "yes"])
    bce = replace(
        cell,
        architecture=Component(name="mlp", options={"hidden": [4], "output": "sigmoid"}),
        training=Training(epochs=1, loss="bce"),
    )
    network = architectures.build(bce.architecture, spec, None)
    save_model(network, bce, spec, tmp_path / "one.safetensors")
    rows = np.random.default_rng(0).random((4, 3), dtype=np.float32)
    found = load_model(tmp_path / "one.safetensors").probabilities(rows)
    assert found[:, 1] == pytest.approx(network(torch.from_numpy(rows)).detach().numpy()[:, 0])
    assert found.sum(axis=1) == pytest.approx(np.ones(4))


def test_squared_error_to_the_one_hot_label_gives_probabilities_that_mean_what_they_say(
    tmp_path: Path, cell: Cell
) -> None:
    """Outputs are probabilities already: the softmax of 0.99 and nine zeros would be 0.23."""
    mse = replace(
        cell,
        architecture=Component(name="mlp", options={"hidden": [4], "output": "sigmoid"}),
        training=Training(epochs=1, loss="mse"),
    )
    network = architectures.build(mse.architecture, TABLE, None)
    save_model(network, mse, TABLE, tmp_path / "one_hot.safetensors")
    model = load_model(tmp_path / "one_hot.safetensors")
    assert model.settings.outputs == "one_hot"
    outputs = torch.tensor([[0.99, 0.0, 0.01], [1.4, 0.6, -0.2], [-0.5, -0.3, -0.4], [0.2, 0.2, 0.2]])
    expected = [[0.99, 0, 0.01], [0.9, 0.1, 0], [0.2333, 0.4333, 0.3333], [1 / 3, 1 / 3, 1 / 3]]
    assert model._as_probabilities(outputs).numpy() == pytest.approx(np.array(expected), abs=1e-4)


def test_a_probability_of_a_plug_in_without_a_sigmoid_layer_is_taken_as_it_is(tmp_path: Path, cell: Cell) -> None:
    """`bce` is trained on probabilities, wherever in the network they come from."""
    spec, bce = replace(TABLE, classes=1), replace(cell, training=Training(epochs=1, loss="bce"))
    save_model(architectures.build(bce.architecture, spec, None), bce, spec, tmp_path / "bce.safetensors")
    model = load_model(tmp_path / "bce.safetensors")
    assert model._as_probabilities(torch.tensor([[0.9]])).numpy() == pytest.approx(np.array([[0.1, 0.9]]))


def test_a_state_that_is_no_tensor_is_refused_by_name(tmp_path: Path, cell: Cell) -> None:
    """Such as the extra state of a layer."""

    class Counting(torch.nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"steps": 3}

    with pytest.raises(NotSavable, match="`_extra_state` of its state is a dict"):
        save_model(Counting(3, 3), cell, TABLE, tmp_path / "extra.safetensors")


def test_a_weights_file_alone_is_enough(trained: Path, tmp_path: Path) -> None:
    """Its settings stand in its metadata."""
    (tmp_path / "alone.safetensors").write_bytes(trained.read_bytes())
    assert load_model(tmp_path / "alone.safetensors").settings == load_model(trained).settings


def test_a_model_of_the_first_format_is_read(trained: Path, tmp_path: Path) -> None:
    """What its outputs are, and how its pictures were framed, is concluded."""
    path = tmp_path / "old.safetensors"
    path.write_bytes(trained.read_bytes())
    plain = json.loads(trained.with_suffix(".json").read_text())
    for key in ("columns", "column_means", "column_deviations"):
        del plain["data"][key]
    old = {"format_version": 1, "cell": plain["cell"], "data": plain["data"]}
    path.with_suffix(".json").write_text(json.dumps(old))
    settings = load_model(path).settings
    assert (settings.outputs, settings.framing) == ("logits", framing_by_name("mnist"))


def test_no_pictures_give_no_predictions(trained: Path) -> None:
    assert load_model(trained).predict([]) == []


def test_arrays_can_be_predicted_and_others_are_refused(trained: Path, mnist: Arrays) -> None:
    """Images of whole numbers; shares of one would silently be another picture."""
    model = load_model(trained)
    images = np.array(mnist.test_inputs[:3])
    assert [found.label for found in model.predict(images)] == model.probabilities(images).argmax(axis=1).tolist()
    with pytest.raises(UserError, match="whole numbers from 0 to 255"):
        model.predict(images / 255)


def results_with_a_model(trained: Path, folder: Path) -> CellRecord:
    """A results folder whose only record kept the trained model."""
    model = read_model(trained)
    record = CellRecord(
        record_id="r1",
        cell_id=model.cell.cell_id,
        status="finished",
        cell=model.cell,
        started_at="2026-11-20T12:00:00+00:00",
        model=Model(parameters=1, weights=["models/r1/kept.safetensors"]),
    )
    results = ResultsFolder(folder)
    results.create()
    results.write(record)
    save_model(model.network, model.cell, model.spec, folder / "models" / "r1" / "kept.safetensors")
    return record


def test_a_model_is_found_by_the_first_digits_of_its_cell(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the folder that is named, or in any folder in `results/`."""
    record = results_with_a_model(trained, tmp_path / "results" / "quick")
    start = record.cell_id[:4]
    assert load_model(start, results=tmp_path / "results" / "quick").cell == record.cell
    monkeypatch.chdir(tmp_path)
    assert load_model(start).cell == record.cell
    assert load_model(f"results/quick/cells/{record.cell_id}.json").cell == record.cell


def test_a_beginning_that_fits_two_cells_is_refused(trained: Path, tmp_path: Path) -> None:
    """Neither is taken by chance."""
    record = results_with_a_model(trained, tmp_path)
    results = ResultsFolder(tmp_path)
    for seed in range(40):
        other = replace(record.cell, seed=100 + seed)
        results.write(record.with_changes(cell=other, cell_id=other.cell_id, record_id=f"o{seed}", model=None))
    with pytest.raises(UserError, match="give more digits"):
        load_model("", results=tmp_path) if not record.cell_id else load_model(_shared_digit(results), results=tmp_path)


def _shared_digit(results: ResultsFolder) -> str:
    starts = [path.name[0] for path in results.cells.iterdir()]
    return max(starts, key=starts.count)


def test_a_record_that_names_a_file_elsewhere_is_refused(trained: Path, tmp_path: Path) -> None:
    """A record written by hand opens no file outside its folder."""
    record = results_with_a_model(trained, tmp_path / "inside")
    hostile = record.with_changes(model=Model(parameters=1, weights=["../outside.safetensors"]))
    ResultsFolder(tmp_path / "inside").write(hostile)
    (tmp_path / "outside.safetensors").write_bytes(trained.read_bytes())
    with pytest.raises(UserError, match="outside its results folder"):
        load_model(record.cell_id, results=tmp_path / "inside")


def test_a_cell_without_a_model_says_how_to_keep_one(trained: Path, tmp_path: Path) -> None:
    """The line to add."""
    record = results_with_a_model(trained, tmp_path)
    ResultsFolder(tmp_path).write(record.with_changes(model=Model(parameters=1)))
    with pytest.raises(UserError, match="save_model: last"):
        load_model(record.cell_id, results=tmp_path)


@pytest.mark.parametrize("source", ["nothing.safetensors", "zzzz", "feedfacefeedface"])
def test_what_cannot_be_found_is_one_clear_line(source: str, tmp_path: Path) -> None:
    """No traceback, and what to do."""
    with pytest.raises(UserError) as caught:
        load_model(source, results=tmp_path)
    assert source in str(caught.value)


def test_broken_weights_are_named(trained: Path, tmp_path: Path) -> None:
    """Cut short, or those of another network."""
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(trained.read_bytes()[:500])
    cut.with_suffix(".json").write_bytes(trained.with_suffix(".json").read_bytes())
    with pytest.raises(UserError, match="not a weights file"):
        load_model(cut)
    other = tmp_path / "other.safetensors"
    other.write_bytes(trained.read_bytes())
    settings = json.loads(trained.with_suffix(".json").read_text())
    settings["cell"]["architecture"] = {"name": "lenet5"}
    other.with_suffix(".json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="do not fit lenet5"):
        load_model(other)


def test_settings_of_another_model_are_not_taken(trained: Path, tmp_path: Path) -> None:
    """As after a copy over weights of the same shapes: means and names of classes would be those of the other."""
    path = tmp_path / "copied.safetensors"
    shutil.copy(trained, path)
    settings = json.loads(trained.with_suffix(".json").read_text())
    settings["cell"]["seed"] = 7
    path.with_suffix(".json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"copied\.json: the settings of another model than copied\.safetensors"):
        load_model(path)


def test_what_the_network_has_no_number_for_is_named(tmp_path: Path, cell: Cell) -> None:
    """It would be called the first class."""
    table_cell = replace(cell, architecture=Component(name="mlp", options={"hidden": [5]}))
    spec = replace(TABLE, columns=["a", "b", "c"])
    network = architectures.build(table_cell.architecture, spec, None)
    torch.nn.utils.vector_to_parameters(
        torch.nn.utils.parameters_to_vector(network.parameters()) * 1000, network.parameters()
    )
    save_model(network, table_cell, spec, tmp_path / "t.safetensors")
    model = load_model(tmp_path / "t.safetensors")
    (tmp_path / "rows.csv").write_text("a,b,c\n1,2,3\n3e38,-3e38,3e38\n")
    with pytest.raises(UserError, match=r"rows\.csv:3: the network answers with no number"):
        model.predict(tmp_path / "rows.csv")
    with pytest.raises(UserError, match="finite numbers"):
        model.probabilities(np.array([[1e300, 0, 0]]))


@pytest.mark.parametrize("names", ["AB", "ABCDEFGHIJKL"])
def test_each_class_has_one_name_whatever_was_written_by_hand(trained: Path, tmp_path: Path, names: str) -> None:
    path = tmp_path / "named.safetensors"
    shutil.copy(trained, path)
    settings = json.loads(trained.with_suffix(".json").read_text())
    settings["data"]["class_names"] = list(names)
    path.with_suffix(".json").write_text(json.dumps(settings))
    assert load_model(path).class_names == [*names, *"0123456789"[len(names) :]][:10]


@pytest.mark.parametrize(
    ("name", "said"), [("hf.safetensors", "no model that a run here kept"), ("m.pt", "is a .safetensors")]
)
def test_models_of_others_are_called_so(tmp_path: Path, name: str, said: str) -> None:
    save_file({"bert.embeddings": torch.zeros(3, 3)}, tmp_path / name)
    with pytest.raises(UserError, match=said):
        load_model(tmp_path / name)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format_version": 99}', '{"format_version": 1, "cell": 3}'])
def test_broken_settings_are_named(trained: Path, tmp_path: Path, content: str) -> None:
    """Whatever stands beside the weights."""
    path = tmp_path / "kept.safetensors"
    path.write_bytes(trained.read_bytes())
    path.with_suffix(".json").write_text(content)
    with pytest.raises(UserError, match=r"kept\.json"):
        load_model(path)


@pytest.mark.parametrize("kind", ["not finite", "not a regular file"])
def test_what_holds_no_weights_to_answer_with_is_refused(trained: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights.safetensors"
    shutil.copy(trained.with_suffix(".json"), path.with_suffix(".json"))
    if kind == "not finite":
        content = trained.read_bytes()
        path.write_bytes(content[:-400] + b"\xff" * 400)
    else:
        os.mkfifo(path)
    with pytest.raises(UserError, match=kind):
        read_model(path)

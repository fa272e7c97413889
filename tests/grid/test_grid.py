"""A grid file becomes the cells it stands for; ids stay what they are."""

from __future__ import annotations

import hashlib
import inspect
import json
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from mnistbench.cell import Cell, Component, Training
from mnistbench.data.datasets import sizes
from mnistbench.errors import UserError
from mnistbench.grid.grid import Grid, rounds
from mnistbench.grid.options import REQUIRED, TABLES, declaration
from mnistbench.grid.read import TRAINING, component_from_text
from mnistbench.grid.tune import trial_cells
from mnistbench.grid.yaml import read_document

ROOT = Path(__file__).parents[2]
MNIST = Component(name="mnist")
SMALL = """
name: small
dataset: mnist
architectures: [mlp]
optimizers: [sgd]
batch_sizes: [64]
seeds: [0]
twins: 0
training: {epochs: 1}
"""


def cells(text: str, *overrides: str, devices: tuple[str, ...] = ("cpu",)) -> list[Cell]:
    grid = Grid.from_text(text, overrides=overrides)
    expanded = grid.cells(MNIST, 60_000, devices)
    assert len(expanded) == grid.count(devices)
    return expanded


def test_the_first_grid_has_every_combination_once() -> None:
    grid = Grid.load(ROOT / "grid.yaml")
    expanded = grid.cells(MNIST, 60_000, ["cpu"])
    assert grid.count(["cpu"]) == len(expanded) == 2 * 2 * 3
    assert len({cell.cell_id for cell in expanded}) == len(expanded)


def test_auto_takes_each_device_that_is_there() -> None:
    grid = Grid.load(ROOT / "grid.yaml")
    assert len(grid.cells(MNIST, 60_000, ["cpu", "cuda"])) == grid.count(["cpu", "cuda"]) == 24


SHIPPED = {
    "cnn_dropout": (3, "02ed0d6229b92101"),
    "cpu_vs_gpu": (20, "1b12b407ccbd89e1"),
    "large_batch": (54, "8f14ec28dc1c0748"),
    "lenet_fashion": (3, "57ff6d9aa6003058"),
    "lenet_rmsprop_8192": (3, "9934359f6389cf3a"),
    "levers": (32, "adb1b092df2a730a"),
    "mlp_momentum": (3, "474ca0260b459086"),
    "mlp_sigmoid_sgd": (3, "a099aa240716b86c"),
    "optimizers": (110, "0432245047a7b32a"),
    "quick": (12, "0c0a6029240d5c3c"),
    "speedrun": (50, "0b40c4aa2d9633b5"),
    "sum3_full_batch": (3, "091c7979ee9abf28"),
    "table_full_batch": (3, "865796f8219b6dc2"),
    "table_mini_batch": (3, "a28752ecca0da474"),
}


PUBLISHED_OTHERWISE = {
    "cpu_vs_gpu": "029cf941f2b9095e",
    "speedrun_gpu": "170feee7627f29b3",
}
"""Folders whose grid is not the shipped one: it has changed since, or the run was asked for a part of it by `--set`.
What they were asked stays readable."""


def digest_of(grid: Grid) -> str:
    """Of the ids of all cells and trials, in their order, on a machine with a GPU."""
    where = (grid.dataset, (sizes(grid.dataset) or (700, 300))[0], ["cpu", "cuda"])
    expanded = grid.cells(*where) + (trial_cells(grid, *where) if grid.tune else [])
    return hashlib.sha256("\n".join(cell.cell_id for cell in expanded).encode()).hexdigest()[:16]


PUBLISHED = sorted((ROOT / "results" / "reference").rglob("grid.yaml"))


@pytest.mark.parametrize("file", PUBLISHED, ids=[file.parent.name for file in PUBLISHED])
def test_a_published_folder_holds_the_cells_that_its_grid_still_stands_for(file: Path) -> None:
    grid = Grid.load(file)
    assert digest_of(grid) == PUBLISHED_OTHERWISE.get(file.parent.name, SHIPPED[grid.name][1])
    plain = [json.loads(record.read_text(encoding="utf-8")) for record in file.parent.glob("cells/*.json")]
    assert plain
    assert [Cell.from_json(record["cell"]).cell_id for record in plain] == [record["cell_id"] for record in plain]


def test_every_shipped_grid_is_listed_here() -> None:
    assert {path.stem for path in (ROOT / "mnistbench" / "grid" / "ready").glob("*.yaml")} == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_grid_expands_to_its_cells(name: str) -> None:
    """A changed id means that old records no longer count as the same experiment: that must be meant."""
    grid = Grid.load(ROOT / "mnistbench" / "grid" / "ready" / f"{name}.yaml")
    count, digest = SHIPPED[name]
    assert grid.name == name
    assert grid.count() == count
    assert digest_of(grid) == digest


@pytest.mark.parametrize("path", [ROOT / "grid.yaml", *sorted((ROOT / "mnistbench" / "grid" / "ready").glob("*.yaml"))])
def test_a_grid_written_as_resolved_gives_the_same_cells(path: Path) -> None:
    grid = Grid.load(path)
    again = Grid.from_text(grid.to_yaml())
    train_examples = (sizes(grid.dataset) or (700, 300))[0]
    assert again.cells(grid.dataset, train_examples, ["cpu"]) == grid.cells(grid.dataset, train_examples, ["cpu"])
    assert again.to_yaml() == grid.to_yaml()
    assert (again.fallback, again.tune, again.twins) == (grid.fallback, grid.tune, grid.twins)


def test_equal_components_have_equal_hashes() -> None:
    """Both come from the text that is hashed into a cell's id, in which 1 is not 1.0."""
    one, other = Component(name="sgd", options={"lr": 1.0}), Component(name="sgd", options={"lr": 1})
    assert one != other and len({one, other}) == 2
    again = Component(name="sgd", options={"lr": 1.0})
    assert one == again and hash(one) == hash(again) and one != "sgd"


def test_overrides_patterns_and_inclusions_survive_being_written() -> None:
    text = SMALL.replace("[64]", "[64, 128]").replace(
        "[sgd]", "[{name: sgd, lr: [0.1, 0.2], schedule: [cosine, step]}]"
    )
    text += """
exclude: [{optimizer: {name: sgd, lr: 0.1, schedule: step}, batch_size: 128}, {schedule: cosine, device: cpu, seed: 0}]
include: [{architecture: {name: mlp, hidden: [8]}, optimizer: adam, batch_size: full, seed: 7, training: {epochs: 3}}]
"""
    grid = Grid.from_text(text, overrides=["training.epochs=4"])
    again = Grid.from_text(grid.to_yaml())
    assert again.cells(MNIST, 60_000, ["cpu"]) == grid.cells(MNIST, 60_000, ["cpu"])
    assert {cell.training.epochs for cell in again.cells(MNIST, 60_000, ["cpu"])} == {3, 4}


@pytest.mark.parametrize("name", ["064", "no", "1e-3", "größe", "a b.c", "true", "数字", "null", "0x1F", "1_0", "0o7"])
def test_any_allowed_name_survives_being_written(name: str) -> None:
    grid = Grid.from_text(SMALL.replace("small", f'"{name}"'))
    assert Grid.from_text(grid.to_yaml()).name == name


def test_plain_scalars_follow_the_core_schema() -> None:
    [cell] = cells(SMALL.replace("[sgd]", "[{name: sgd, lr: 1e-3}]").replace("[64]", "[064]").replace("[0]", "[0x1F]"))
    assert (cell.optimizer.options, cell.batch_size, cell.seed) == ({"lr": 0.001}, 64, 31)


def test_an_option_equal_to_its_default_is_the_same_cell() -> None:
    spelled = "[{name: sgd, lr: 0.01, momentum: 0, nesterov: false, schedule: constant}]"
    assert cells(SMALL.replace("[sgd]", spelled)) == cells(SMALL)
    listed = "[{name: mlp, hidden: [512, 256, 128, 64]}]"
    assert cells(SMALL.replace("[mlp]", listed)) == cells(SMALL)


def test_a_whole_number_is_the_same_setting_as_its_decimal() -> None:
    one, other = (cells(SMALL.replace("[sgd]", f"[{{name: sgd, lr: {lr}}}]"))[0] for lr in ("1", "1.0"))
    assert one.cell_id == other.cell_id


def test_a_list_is_an_axis_where_the_option_is_a_scalar() -> None:
    expanded = cells(SMALL.replace("[sgd]", "[{name: sgd, lr: [0.1, 0.2], momentum: [0.5, 0.9]}]"))
    found = [(cell.optimizer.options["lr"], cell.optimizer.options["momentum"]) for cell in expanded]
    assert found == [(0.1, 0.5), (0.1, 0.9), (0.2, 0.5), (0.2, 0.9)]


def test_a_list_is_the_value_where_the_option_is_a_list() -> None:
    [cell] = cells(SMALL.replace("[mlp]", "[{name: mlp, hidden: [8, 4]}]"))
    assert cell.architecture.options == {"hidden": [8, 4]}
    [cell] = cells(SMALL.replace("[mlp]", "[{name: mlp, hidden: []}]"))
    assert cell.architecture.options == {"hidden": []}


def test_a_list_of_lists_is_an_axis_where_the_option_is_a_list() -> None:
    expanded = cells(SMALL.replace("[mlp]", "[{name: mlp, hidden: [[8], [8, 4], []]}]"))
    assert [cell.architecture.options["hidden"] for cell in expanded] == [[8], [8, 4], []]


def test_schedules_nest_in_the_optimizer_and_are_a_field_of_the_cell() -> None:
    text = "[{name: adam, schedule: [constant, {name: cosine, final: [0.1, 0.2]}]}]"
    expanded = cells(SMALL.replace("[sgd]", text))
    assert [cell.schedule.label for cell in expanded] == ["constant", "cosine(final=0.1)", "cosine(final=0.2)"]
    assert all(cell.optimizer == Component(name="adam") for cell in expanded)


def test_training_and_execution_options_are_axes_too() -> None:
    text = SMALL.replace("epochs: 1", "epochs: [1, 2], loss: [cross_entropy, mse]")
    expanded = cells(text + "execution: [plain, {profile: fast, precision: [fp32, bf16]}]\n")
    assert {(cell.training.epochs, cell.training.loss.label, cell.execution.label) for cell in expanded} == {
        (epochs, loss, execution)
        for epochs in (1, 2)
        for loss in ("cross_entropy", "mse")
        for execution in ("plain", "fast", "fast(precision=bf16)")
    }


def test_full_is_all_examples_that_are_not_held_out() -> None:
    [cell] = cells(SMALL.replace("[64]", "[full]"))
    assert cell.batch_size == 60_000
    [cell] = cells(SMALL.replace("[64]", "[full]").replace("epochs: 1", "epochs: 1, validation_examples: 10000"))
    assert cell.batch_size == 50_000


def test_the_cell_names_the_dataset_really_used() -> None:
    grid = Grid.from_text(SMALL.replace("dataset: mnist", "dataset: {name: mnist, normalize: true, fallback: digits}"))
    assert (grid.dataset.options, grid.fallback) == ({"normalize": True}, Component(name="digits"))
    assert grid.cells(Component(name="digits"), 60_000, ["cpu"])[0].dataset == Component(name="digits")


def test_the_first_device_of_a_kind_goes_without_its_number() -> None:
    assert {cell.device for cell in cells(SMALL + "devices: [cpu, 'cuda:0', 'cuda:1']\n")} == {"cpu", "cuda", "cuda:1"}


AXES = SMALL.replace("[mlp]", "[mlp, lenet5]").replace("[sgd]", "[sgd, {name: adam, lr: [0.001, 0.01]}]")
AXES = AXES.replace("[64]", "[64, 512, full]").replace("seeds: [0]", "seeds: [0, 1]")


def test_exclude_leaves_out_what_is_like_an_entry_and_nothing_else() -> None:
    expanded = cells(AXES + "exclude: [{architecture: mlp, batch_size: 512}]\n")
    assert len(expanded) == 2 * 3 * 3 * 2 - 3 * 2
    assert not [cell for cell in expanded if cell.architecture.name == "mlp" and cell.batch_size == 512]


def test_exclude_matches_names_options_defaults_and_lists_of_them() -> None:
    expanded = cells(AXES + "exclude: [{optimizer: {name: adam, lr: 1e-3}, batch_size: [full, 64], seed: 1}]\n")
    assert len(expanded) == 36 - 2 * 2
    expanded = cells(AXES + "exclude: [{optimizer: adam}]\n")
    assert {cell.optimizer.name for cell in expanded} == {"sgd"}


def test_overlapping_patterns_are_counted_once() -> None:
    pattern = (
        "exclude: [{architecture: mlp}, {batch_size: [64, 512]}, {seed: 0, optimizer: sgd}, {device: cpu, seed: 1}]\n"
    )
    assert len(cells(AXES + pattern)) == 2  # lenet5, full batch, seed 0, both rates of adam


def test_include_adds_complete_cells() -> None:
    included = (
        "{architecture: cnn, optimizer: {name: sgd, lr: 0.5}, batch_size: 32, device: cpu, seed: 9, execution: plain}"
    )
    *_, last = cells(AXES + f"include: [{included}]\n")
    assert (last.architecture.name, last.batch_size, last.seed, last.execution.name) == ("cnn", 32, 9, "plain")


def test_include_brings_back_what_exclude_left_out() -> None:
    text = "exclude: [{architecture: mlp}]\ninclude: [{architecture: mlp, optimizer: sgd, batch_size: 64, seed: 0}]\n"
    assert [cell.architecture.name for cell in cells(AXES + text)].count("mlp") == 1


@pytest.mark.parametrize(("twins", "expected"), [(0, 0), (1, 4), (2, 8), (100, 72)])
def test_twins_repeat_the_first_cells_of_each_device_and_seed(twins: int, expected: int) -> None:
    text = AXES.replace("twins: 0", f"twins: {twins}")
    expanded = cells(text, devices=("cpu", "cuda"))
    copies = [cell for cell in expanded if cell.repeat]
    assert len(copies) == expected
    originals = [cell for cell in expanded if not cell.repeat]
    assert {copy.without_seed() for copy in copies} <= {cell.without_seed() for cell in originals}


def test_a_trillion_cells_are_counted_without_being_made() -> None:
    many = ", ".join(str(number / 1000) for number in range(1, 1001))
    numbers = ", ".join(str(number) for number in range(1, 1001))
    text = SMALL.replace("[sgd]", f"[{{name: sgd, lr: [{many}], weight_decay: [{many}]}}]")
    text = text.replace("seeds: [0]", f"seeds: [{numbers}]").replace("[64]", f"[{numbers}]")
    assert Grid.from_text(text, max_cells=10**12).count() == 10**12
    with pytest.raises(UserError, match="1,000,000,000,000 cells, more than 100,000"):
        Grid.from_text(text)
    with pytest.raises(UserError, match="cells, more than 100,000"):
        Grid.from_text(text + "exclude: [{batch_size: 1}, {seed: 1, optimizer: {name: sgd, lr: 0.001}}]\n")


def test_what_is_excluded_does_not_count_towards_the_limit() -> None:
    text = AXES + "exclude: [{architecture: mlp}]\n"
    assert Grid.from_text(text, max_cells=18).count() == 18
    with pytest.raises(UserError, match=r"18 cells, more than 17.*--max-cells 18"):
        Grid.from_text(text, max_cells=17)


def test_devices_found_later_count_towards_the_limit() -> None:
    grid = Grid.from_text(AXES, max_cells=36)
    with pytest.raises(UserError, match="72 cells"):
        grid.cells(MNIST, 60_000, ["cpu", "cuda"])


def test_the_data_really_used_must_hold_a_batch() -> None:
    grid = Grid.from_text(SMALL.replace("[64]", "[64, 5000]"), source="g.yaml")
    with pytest.raises(UserError, match=r"g\.yaml:6:19: batch size 5,000 is larger than the 1,000 .* of tiny.*full"):
        grid.cells(Component(name="tiny"), 1000, ["cpu"])


def test_the_rth_seed_runs_in_round_r_in_an_order_of_its_own() -> None:
    expanded = cells(AXES.replace("[0, 1]", "[5, 3]"))
    ordered = rounds(expanded, seed=1)
    assert [{cell.seed for cell in group} for group in ordered] == [{5}, {3}]
    assert sorted(c.cell_id for group in ordered for c in group) == sorted(c.cell_id for c in expanded)
    settings = [[cell.without_seed() for cell in group] for group in ordered]
    assert settings[0] != settings[1]
    assert ordered == rounds(list(expanded), seed=1)
    assert ordered != rounds(expanded, seed=2)


def test_the_order_of_a_round_stays_when_part_of_it_is_done() -> None:
    expanded = cells(AXES)
    [first, _] = rounds(expanded, seed=1)
    left = [cell for cell in expanded if cell not in first[:4]]
    assert rounds(left, seed=1)[0] == first[4:]


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("training.epochs=7", lambda cell: cell.training.epochs == 7),
        ("training.target_accuracy=0.9", lambda cell: cell.training.target_accuracy == 0.9),
        ("seeds=[4]", lambda cell: cell.seed == 4),
        ("optimizers.0.lr=0.3", lambda cell: cell.optimizer.options == {"lr": 0.3}),
        ("architectures=[lenet5]", lambda cell: cell.architecture.name == "lenet5"),
        ("execution.precision=bf16", lambda cell: cell.execution.label == "fast(precision=bf16)"),
        ("execution=plain", lambda cell: cell.execution.name == "plain"),
        ("batch_sizes.0=full", lambda cell: cell.batch_size == 60_000),
    ],
)
def test_set_changes_one_value(override: str, found: object) -> None:
    [cell] = cells(SMALL, override)
    assert callable(found)
    assert found(cell)


@pytest.mark.parametrize(
    ("line", "cycles"),
    [
        ("", 16),
        ("speed: {}\n", 16),
        ("speed: {cycles: 10}\n", 10),
        ("speed: {cycles: 1000}\n", 1000),
        ("speed: off\n", None),
    ],
)
def test_cycles_of_speed_blocks_are_of_the_grid_and_of_no_cell(line: str, cycles: int | None) -> None:
    grid = Grid.from_text(SMALL + line)
    assert grid.speed == cycles
    assert Grid.from_text(grid.to_yaml()).speed == cycles
    assert [cell.cell_id for cell in cells(SMALL + line)] == [cell.cell_id for cell in cells(SMALL)]


def test_set_changes_the_cycles_of_a_grid_that_has_none() -> None:
    assert Grid.from_text(SMALL + "speed: off\n", overrides=["speed.cycles=20"]).speed == 20
    assert Grid.from_text(SMALL, overrides=["speed=off"]).speed is None


def test_set_reaches_into_a_name_that_stands_alone() -> None:
    assert Grid.from_text(SMALL, overrides=["dataset.normalize=true"]).dataset.options == {"normalize": True}


def test_a_component_can_be_named_on_the_command_line() -> None:
    component = component_from_text("architecture", "mlp", ["hidden=[8, 4]", "activation=tanh"])
    assert component == Component(name="mlp", options={"hidden": [8, 4], "activation": "tanh"})
    with pytest.raises(UserError, match="did you mean `lenet5`"):
        component_from_text("architecture", "lenet")
    with pytest.raises(UserError, match=r"--set activation=tanhh: .*did you mean `tanh`"):
        component_from_text("architecture", "mlp", ["activation=tanhh"])
    with pytest.raises(UserError, match="not a list of them"):
        component_from_text("architecture", "mlp", ["activation=[tanh, relu]"])


def test_the_training_options_are_those_of_a_cell_with_the_same_defaults() -> None:
    held = {item.name: item.default for item in fields(Training)} | {"loss": "cross_entropy"}
    declared = {key: option.default for key, option in TRAINING.options.items()}
    assert {key: MISSING if value is REQUIRED else value for key, value in declared.items()} == held


def test_every_option_that_we_declare_can_be_said_in_a_grid() -> None:
    """Its default, written as YAML and read again, is accepted: so the annotations are ones that pydantic knows."""
    checked = 0
    for axis, table in TABLES.items():
        for name in table:
            for option in declaration(axis, name).options.values():
                if option.default is not inspect.Parameter.empty:
                    node = read_document(json.dumps({"option": option.plain_default}), "default")
                    assert option.read(node.fields["option"]) == option.plain_default  # type: ignore[union-attr]
                    checked += 1
    assert checked > 100


def test_reading_a_grid_needs_neither_torch_nor_mlflow() -> None:
    code = """import sys; from mnistbench.grid.grid import Grid
Grid.load('grid.yaml'); print({'torch', 'mlflow'} & set(sys.modules))"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

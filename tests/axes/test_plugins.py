"""A plug-in comes in when the command line names it, whatever it does then ends in one clear error."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from mnistbench.axes import architectures, optimizers
from mnistbench.axes.plugins import Plugins, load_plugins
from mnistbench.cell import Cell, Component
from mnistbench.cli import app as cli
from mnistbench.data.datasets import spec_of
from mnistbench.errors import UserError
from mnistbench.grid.grid import Grid
from mnistbench.grid.select import select
from mnistbench.results.folder import ResultsFolder
from mnistbench.run.worker import describe

ROOT = Path(__file__).parents[2]
GOOD = '''
"""Two networks and an optimizer."""
import torch
from torch import nn


class WideMLP(nn.Sequential):
    def __init__(self, data, width: int = 1000, *, layers: list[int] = (10, 10), deep=False):
        super().__init__(nn.Flatten(), nn.Linear(28 * 28, width), nn.ReLU(), nn.Linear(width, data.classes))


def tiny(width: int = 4, kind: type[nn.Module] = nn.ReLU):
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))


def untyped(width, kind: type[nn.Module] = nn.ReLU):
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))


class Slow(torch.optim.SGD):
    def __init__(self, params, lr: float, momentum: float = 0.0):
        super().__init__(params, lr=lr, momentum=momentum)


_hidden = tiny
number = 3
'''
GRID = """
name: own
dataset: mnist
architectures: [{architecture}]
optimizers: [{optimizer}]
batch_sizes: [64]
seeds: [0]
training: {{epochs: 1}}
speed: off
"""


@pytest.fixture(autouse=True)
def _forget_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def write(name: str, content: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(content)
    return name


def failure(*names: str) -> str:
    with pytest.raises(UserError) as caught:
        load_plugins(names)
    return str(caught.value)


def grid(plugins: Plugins, architecture: str = "mlp", optimizer: str = "sgd") -> Grid:
    return Grid.from_text(GRID.format(architecture=architecture, optimizer=optimizer), source="g.yaml", plugins=plugins)


def test_a_file_is_imported_under_its_own_name() -> None:
    plugins = load_plugins([write("my_models.py", GOOD)])
    assert plugins.names == ("my_models.py",)
    assert plugins.find("my_models:tiny").__name__ == "tiny"  # type: ignore[attr-defined]


def test_a_module_in_the_working_folder_is_found() -> None:
    write("own_package/__init__.py", "")
    write("own_package/models.py", "class Net: ...")
    assert list(load_plugins(["own_package.models"]).modules) == ["own_package.models"]
    assert str(Path.cwd()) not in sys.path


def test_a_submodule_must_be_named_itself() -> None:
    write("own_package2/__init__.py", "")
    write("own_package2/models.py", "class Net: ...")
    plugins = load_plugins(["own_package2"])
    with pytest.raises(UserError, match=r"add `--plugin own_package2\.models`"):
        plugins.find("own_package2.models:Net")


def test_a_plug_in_reaches_the_cells_with_its_options_and_checksum() -> None:
    plugins = load_plugins([write("my_models.py", GOOD)])
    architecture = "{name: 'my_models:WideMLP', width: [8, 1000], layers: [1, 2], deep: true}"
    expanded = grid(plugins, architecture, "{name: 'my_models:Slow', lr: 1, lr_scaling: sqrt}").cells(
        Grid.from_text(GRID.format(architecture="mlp", optimizer="sgd")).dataset, 60_000, ["cpu"]
    )
    wide = expanded[0].architecture
    assert wide.options == {"width": 8, "layers": [1, 2], "deep": True}
    assert wide.sha256 == plugins.sha256("my_models:WideMLP")
    assert expanded[-1].architecture.options == {"layers": [1, 2], "deep": True}
    assert expanded[0].optimizer.options == {"lr": 1.0, "lr_scaling": "sqrt"}


def test_options_follow_the_annotations_of_a_plug_in() -> None:
    plugins = load_plugins([write("my_models.py", GOOD)])
    for architecture, message in {
        "{name: 'my_models:WideMLP', width: wide}": "`width` must be a whole number, found `wide`",
        "{name: 'my_models:WideMLP', widht: 3}": "unknown option `widht` of `my_models:WideMLP`; did you mean `width`",
        "{name: 'my_models:WideMLP', data: 3}": "unknown option `data`",
        "{name: 'my_models:tiny', kind: relu}": "`kind` has a type that a grid file cannot say: type",
        "'my_models:untyped'": "`my_models:untyped` needs `width`: a number, a text, true or false",
        "{name: 'my_models:untyped', width: [[8]]}": "`width` must be a number, a text, true or false, found a list; "
        "an option of a plug-in takes more than one value where its type says so: `hidden: list[int]`",
        "'my_models:WideMLPP'": "`my_models` has no `WideMLPP` to call; did you mean `WideMLP`?",
        "'my_models:_hidden'": "has no `_hidden` to call",
        "'my_models:number'": "has no `number` to call",
        "'my_models:'": "has no `` to call",
        "':tiny'": "is no plug-in: write `module:Name`",
    }.items():
        with pytest.raises(UserError) as caught:
            grid(plugins, architecture)
        assert str(caught.value).startswith("g.yaml:4:")
        assert message in str(caught.value)
    with pytest.raises(UserError, match=r"`my_models:Slow` needs `lr`: a number"):
        grid(plugins, optimizer="'my_models:Slow'")


def test_of_a_type_a_grid_says_the_part_that_yaml_can_write() -> None:
    """All of torch's optimizers declare `lr: float | Tensor`; pairs of such, and `foreach: bool | None`, occur too."""
    plugins = load_plugins(["torch.optim"])
    for optimizer, options in {
        "{name: 'torch.optim:Rprop', lr: 1, etas: [0.5, 1.1]}": {"lr": 1.0, "etas": [0.5, 1.1]},
        "{name: 'torch.optim:Adam', betas: [0.8, 0.9]}": {"lr": 0.001, "betas": [0.8, 0.9]},
        "{name: 'torch.optim:Adafactor', eps: [null, 0.01]}": {"lr": 0.01, "eps": [None, 0.01]},
        "{name: 'torch.optim:SGD', fused: true}": {"lr": 0.001, "fused": True},
    }.items():
        grid_ = grid(plugins, optimizer=optimizer)
        assert grid_.cells(grid_.dataset, 60_000, ["cpu"])[0].optimizer.options == options
    for options, message in {
        "lr: fast": "`lr` must be a number, found `fast`",
        "betas: [0.9]": "`betas` must be a list of 2 values, each a number, found a list",
        "foreach: 3": "`foreach` must be true or false, found `3`",
    }.items():
        with pytest.raises(UserError) as caught:
            grid(plugins, optimizer=f"{{name: 'torch.optim:Adam', {options}}}")
        assert str(caught.value).startswith("g.yaml:5:")
        assert message in str(caught.value)


def test_a_list_of_rates_is_an_axis_though_a_tensor_could_be_one_too() -> None:
    grid_ = grid(load_plugins(["torch.optim"]), optimizer="{name: 'torch.optim:Rprop', lr: [0.01, 0.1]}")
    cells = grid_.cells(grid_.dataset, 60_000, ["cpu"])
    assert {cell.optimizer.options["lr"] for cell in cells} == {0.01, 0.1}


def test_the_learning_rate_of_a_plug_in_stands_in_its_cells_even_at_its_default() -> None:
    """A worker cannot look the default up, and a schedule multiplies it."""
    optimizer = "\n\nclass Own(Slow):\n    def __init__(self, parameters, lr: float = 0.25): ...\n"
    plugins = load_plugins([write("my_models.py", GOOD + optimizer)])
    for text in ("'my_models:Own'", "{name: 'my_models:Own', lr: 0.25}"):
        grid_ = grid(plugins, optimizer=text)
        assert grid_.cells(grid_.dataset, 60_000, ["cpu"])[0].optimizer.options == {"lr": 0.25}


def test_another_source_is_another_cell(tmp_path: Path) -> None:
    ids = []
    for number in range(2):
        sys.modules.pop("my_models", None)
        grid_ = grid(load_plugins([write("my_models.py", GOOD + f"# {number}\n")]), "'my_models:tiny'")
        ids.append(grid_.cells(grid_.dataset, 60_000, ["cpu"])[0].cell_id)
    assert ids[0] != ids[1]


@pytest.mark.parametrize("plugin", ["own_package4.models", "own_folder/own_models.py"])
def test_another_source_of_what_a_plug_in_imports_is_another_cell(plugin: str) -> None:
    """Relative imports in a package, and files beside a file, through another one."""
    write("own_package4/__init__.py", "")
    write("own_package4/layers.py", "from .widths import WIDTH")
    write("own_package4/widths.py", "WIDTH = 1")
    write("own_package4/models.py", "from . import layers\nclass Net: ...")
    write("own_folder/own_layers.py", "from own_widths import WIDTH")
    write("own_folder/own_widths.py", "WIDTH = 1")
    write("own_folder/own_models.py", "import own_layers\nclass Net: ...")
    plugins = load_plugins([plugin])
    assert str(Path("own_folder").absolute()) not in sys.path
    name = f"{next(iter(plugins.modules))}:Net"
    before = plugins.sha256(name)
    for folder in ("own_package4", "own_folder"):
        for file in Path(folder).glob("*widths.py"):
            file.write_text("WIDTH = 2")
    assert plugins.sha256(name) != before


def test_a_relative_import_that_a_file_tries_first_is_no_bug_of_ours() -> None:
    """As modules are written that serve as a part of a package and as a file."""
    tries = "try:\n    from .tried_layers import WIDTH\nexcept ImportError:\n    from tried_layers import WIDTH\n"
    write("own_folder2/tried_layers.py", "WIDTH = 1")
    plugins = load_plugins([write("own_folder2/tried_models.py", f"{tries}class Net: ...")])
    before = plugins.sha256("tried_models:Net")
    write("own_folder2/tried_layers.py", "WIDTH = 2")
    assert plugins.sha256("tried_models:Net") != before


def test_a_file_that_imports_nothing_of_the_users_own_keeps_its_checksum() -> None:
    name = write("lone_models.py", GOOD)
    content = Path(name).read_bytes()
    wanted = hashlib.sha256(f"lone_models.py\0{len(content)}\0".encode() + content).hexdigest()
    assert load_plugins([name]).sha256("lone_models:tiny") == wanted


@pytest.mark.parametrize(
    ("architecture", "ids"),
    [("{name: 'path_models:net', path: [a, b]}", 2), ("{name: 'path_models:net', width: [1, 2]}", 2)],
)
def test_every_option_of_a_network_tells_its_cells_apart(architecture: str, ids: int) -> None:
    """Of a dataset's options, `path` says where it lies; of a network's, nobody knows what it says."""
    source = "from torch import nn\n\ndef net(path: str = 'a', width: int = 3):\n    return nn.Linear(784, 10)\n"
    grid_ = grid(load_plugins([write("path_models.py", source)]), architecture)
    assert len({cell.cell_id for cell in grid_.cells(grid_.dataset, 60_000, ["cpu"])}) == ids


SIGNATURES = """
import torch
from torch import nn
from torch.optim.optimizer import required

def keyword(*, data, width: int = 4):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.Linear(width, data.classes))

def positional(params, /, lr: float = 0.25):
    return torch.optim.SGD(params, lr=lr)

def either(network_or_parameters: nn.Module | list[nn.Parameter], lr: float = 0.25):
    return torch.optim.SGD(network_or_parameters.parameters(), lr=lr)

def without_rate(params, lr=required):
    return torch.optim.SGD(params, lr=lr)

network = keyword
there = nn.Linear(784, 10)
"""


@pytest.mark.parametrize("optimizer", ["positional", "either"])
def test_first_parameters_of_every_kind_are_given_what_they_ask_for(optimizer: str) -> None:
    plugins = load_plugins([write("signatures.py", SIGNATURES)])
    grid_ = grid(plugins, "{name: 'signatures:keyword', width: 5}", f"{{name: 'signatures:{optimizer}', lr: 0.5}}")
    (cell,) = grid_.cells(grid_.dataset, 60_000, ["cpu"])
    network = architectures.build(cell.architecture, spec_of(Component(name="mnist")), plugins)
    assert network[1].out_features == 5  # type: ignore[index]
    assert optimizers.build_for(cell.optimizer, network, plugins).param_groups[0]["lr"] == 0.5


def test_a_rate_whose_default_is_no_number_has_to_be_said() -> None:
    """torch's own `required`, with which many published optimizers mark it."""
    plugins = load_plugins([write("signatures4.py", SIGNATURES)])
    with pytest.raises(UserError, match="`signatures4:without_rate` needs `lr`"):
        grid(plugins, "mlp", "'signatures4:without_rate'")


MORE_SIGNATURES = """
import dataclasses
from torch import nn

@dataclasses.dataclass
class Shape:
    width: int = 4

def any_options(depth: int = 1, **options):
    assert options == {"width": 5}
    return nn.Linear(784, 10)

def shaped(shape: Shape = Shape()):
    return nn.Linear(784, shape.width)

def own_words(data, sha256: str = "a"):
    return nn.Linear(784, 10)
"""


def test_what_a_signature_leaves_open_a_grid_may_say() -> None:
    plugins = load_plugins([write("signatures3.py", MORE_SIGNATURES)])
    for said, options in {
        "{name: 'signatures3:any_options', width: 5}": {"width": 5},
        "{name: 'signatures3:shaped', shape: {width: 3}}": {"shape": {"width": 3}},
    }.items():
        grid_ = grid(plugins, said)
        (cell,) = grid_.cells(grid_.dataset, 60_000, ["cpu"])
        assert cell.architecture.options == options
        architectures.build(cell.architecture, spec_of(Component(name="mnist")), plugins)
    for said, message in {
        "{name: 'signatures3:any_options', dept: 5}": "unknown option `dept` of `signatures3:any_options`; did you",
        "{name: 'signatures3:shaped', shape: {width: '3'}}": "`shape` must be",
        "{name: 'signatures3:own_words', sha256: b}": "unknown option `sha256` of `signatures3:own_words`",
    }.items():
        with pytest.raises(UserError, match=re.escape(message)):
            grid(plugins, said)


OWN_PARTS = """
import torch
from torch import nn

class Focal(nn.Module):
    def __init__(self, gamma: float = 2.0): ...

def margin(outputs, labels, width: float = 1.0): ...

def restarts(step, total_steps, times: int = 2):
    return 1.0

def by_epoch(epoch):
    return 1.0
"""


def test_losses_and_schedules_of_ones_own_have_options_that_are_axes() -> None:
    write("own_parts.py", OWN_PARTS)
    plugins = load_plugins(["own_parts.py"])
    losses = "[mse, {name: 'own_parts:Focal', gamma: [1, 2]}, {name: 'own_parts:margin', width: 3}]"
    text = GRID.format(
        architecture="mlp", optimizer="{name: sgd, schedule: {name: 'own_parts:restarts', times: [2, 3]}}"
    )
    text = text.replace("{epochs: 1}", f"{{epochs: 1, loss: {losses}}}")
    read = Grid.from_text(text, source="own.yaml", plugins=plugins)
    cells = read.cells(read.dataset, 60_000, ["cpu"])
    assert {cell.schedule.label for cell in cells} == {"own_parts:restarts", "own_parts:restarts(times=3)"}
    labels = {cell.training.loss.label for cell in cells}
    assert labels == {"mse", "own_parts:Focal", "own_parts:Focal(gamma=1)", "own_parts:margin(width=3)"}
    assert all(cell.schedule.sha256 == plugins.sha256("own_parts:restarts") for cell in cells)
    assert all(cell.training.loss.sha256 for cell in cells if ":" in cell.training.loss.name)
    assert all(plugins.needed_by(cell) == ("own_parts.py",) for cell in cells)
    assert [Cell.from_json(cell.to_json()).cell_id for cell in cells] == [cell.cell_id for cell in cells]
    again = Grid.from_text(read.to_yaml(), plugins=plugins)
    assert "sha256" not in read.to_yaml()
    assert [cell.cell_id for cell in again.cells(again.dataset, 60_000, ["cpu"])] == [cell.cell_id for cell in cells]
    write("own_parts.py", OWN_PARTS + "\n# edited")
    changed = grid(plugins, optimizer="{name: sgd, schedule: 'own_parts:restarts'}")
    assert changed.cells(changed.dataset, 60_000, ["cpu"])[0].cell_id not in {cell.cell_id for cell in cells}
    [focal] = {cell.training.loss for cell in select(cells, only=["training.loss=own_parts:Focal(gamma=1)"])}
    assert focal.options == {"gamma": 1.0}


@pytest.mark.parametrize(
    ("optimizer", "training", "message"),
    [
        ("{name: sgd, schedule: 'own_parts:by_epoch'}", "", "`own_parts:by_epoch` is no schedule: write a function of"),
        ("{name: sgd, schedule: 'own_parts:Focal'}", "", "`own_parts:Focal` is no schedule"),
        ("{name: sgd, schedule: {name: 'own_parts:restarts', time: 1}}", "", "`time` of `own_parts:restarts`; did you"),
        ("sgd", "loss: {name: 'own_parts:Focal', gama: 1}", "unknown option `gama` of `own_parts:Focal`; did you mean"),
        ("sgd", "loss: 'own_parts:focal'", "`own_parts` has no `focal` to call; did you mean `Focal`"),
        (
            "sgd",
            "loss: {name: cross_entropy, label_smoothing: 1.5}",
            "`label_smoothing` must be a number of at least 0",
        ),
        ("sgd", "loss: [mse, mse]", "`mse` is here twice"),
        ("sgd", "loss: []", "`loss` is an empty list"),
        ("sgd", "loss: 3", "the name of the loss must be text, found `3`"),
        ("sgd", "loss: ", "the name of the loss must be text"),
    ],
)
def test_what_is_wrong_with_them_is_said_with_its_place(optimizer: str, training: str, message: str) -> None:
    write("own_parts.py", OWN_PARTS)
    text = GRID.format(architecture="mlp", optimizer=optimizer).replace("{epochs: 1}", f"{{epochs: 1, {training}}}")
    with pytest.raises(UserError, match=rf"own.yaml:\d+:\d+: .*{re.escape(message)}"):
        Grid.from_text(text, source="own.yaml", plugins=load_plugins(["own_parts.py"]))


def test_a_cell_is_trained_without_the_plug_ins_that_it_does_not_name() -> None:
    """Whatever those change in torch is in no id of its own; what its own ones import stays with it."""
    write("first_models.py", "class Net: ...")
    write("second_models.py", "import first_models\nclass Net: ...")
    write("changes_torch.py", "from torch import nn\nclass Net: ...")
    plugins = load_plugins(["./first_models.py", "second_models.py", "changes_torch.py"])

    def needed(architecture: str) -> tuple[str, ...]:
        grid_ = grid(plugins, architecture)
        return plugins.needed_by(grid_.cells(grid_.dataset, 60_000, ["cpu"])[0])

    assert needed("mlp") == ()
    assert needed("'first_models:Net'") == ("./first_models.py",)
    assert needed("'second_models:Net'") == ("./first_models.py", "second_models.py")


def test_what_another_plug_in_changes_in_torch_changes_no_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Equal ids would stand for two trainings: with and without the flag."""
    from mnistbench import run_grid

    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "cache"))
    change = "def zero(layer):\n    nn.init.zeros_(layer.weight)\n    nn.init.zeros_(layer.bias)\n\n"
    change += "before = nn.Linear.reset_parameters\nnn.Linear.reset_parameters = zero\n"
    plugins = load_plugins([write("zeroing.py", f"from torch import nn\n\n{change}")])
    text = GRID.format(architecture="mlp", optimizer="sgd").replace("mnist\n", "{name: sum3, rows: 100}\n")
    weights, warnings = [], []
    try:
        for number, named in enumerate((Plugins(), plugins)):
            flags: dict[str, object] = {"out": tmp_path / str(number), "plugins": named, "tracking": False}
            summary = run_grid(Grid.from_text(text.replace("[64]", "[8]"), source="g.yaml"), **flags)  # type: ignore[arg-type]
            (record,) = summary.results.records()
            weights.append(record.model.weights_sha256 if record.model else record.error)
            warnings += summary.warnings
    finally:
        torch.nn.Linear.reset_parameters = plugins.modules["zeroing"].before  # type: ignore[method-assign]
    assert weights[0] == weights[1]
    assert any(said.startswith("--plugin zeroing.py: no cell of this grid names anything of it") for said in warnings)


def test_a_network_that_is_there_already_is_no_function_that_makes_one() -> None:
    plugins = load_plugins([write("signatures2.py", SIGNATURES)])
    with pytest.raises(UserError, match="`signatures2:there` is a network already: name a class or a function"):
        architectures.build(Component(name="signatures2:there"), spec_of(Component(name="mnist")), plugins)


def test_a_package_whose_name_begins_like_ours_is_the_users_own() -> None:
    write("mnistbench_extras/__init__.py", "")
    write("mnistbench_extras/models.py", "class Net: ...")
    assert list(load_plugins(["mnistbench_extras.models"]).modules) == ["mnistbench_extras.models"]


def test_the_checksum_of_a_package_is_that_of_all_its_files() -> None:
    write("own_package3/__init__.py", "class Net: ...")
    write("own_package3/layers/one.py", "a = 1")
    before = load_plugins(["own_package3"]).sha256("own_package3:Net")
    write("own_package3/layers/one.py", "a = 2")
    assert load_plugins(["own_package3"]).sha256("own_package3:Net") != before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("raise RuntimeError('no\\nGPU')", "cannot be imported: RuntimeError: no GPU (bad_plugin.py:1)"),
        (
            "\n\nimport not_there_at_all",
            "cannot be imported: ModuleNotFoundError: No module named 'not_there_at_all' (bad_",
        ),
        ("def f(:\n", "is no Python: "),
        ("\n1 / 0", "cannot be imported: ZeroDivisionError: division by zero (bad_plugin.py:2)"),
        ("import sys\nsys.exit(3)", "called sys.exit(3) while being imported (bad_plugin.py:2)"),
        ("raise BaseException('x')", "cannot be imported: BaseException: x"),
        (
            "class E(Exception):\n    def __str__(self): 1 / 0\nraise E",
            "cannot be imported: E: its message cannot be read",
        ),
        ("raise ValueError('\x1b[2J')", r"cannot be imported: ValueError: \x1b[2J"),
        ("def f(): f()\nf()", "cannot be imported: RecursionError"),
        ("\0", "is no Python: "),
    ],
)
def test_a_plug_in_that_cannot_be_imported_says_why_and_where(content: str, message: str) -> None:
    found = failure(write("bad_plugin.py", content))
    assert found.startswith("--plugin bad_plugin.py: ")
    assert message in found
    assert "\n" not in found
    assert "bad_plugin" not in sys.modules


def test_what_is_no_module_is_refused() -> None:
    write("notes.txt", "x")
    write("my-models.py", "x = 1")
    write("json.py", "x = 1")
    write("this.py", "x = 1")
    write("in_package/__init__.py", "")
    write("in_package/relative.py", "from . import other")
    for name, message in {
        "nowhere_to_be_found": "there is no module `nowhere_to_be_found`; a file is named with its .py",
        "nowhere.to.be.found": "there is no module `nowhere`",
        "nowhere.py": "there is no such file",
        "folder/nowhere.py": "there is no such file",
        "./notes.txt": "is no .py file",
        "notes.txt": "there is no module `notes`",
        "my-models.py": "rename the file to a word that Python can import",
        "json.py": "a module `json` is there already; rename the file",
        "this.py": "a module `this` is installed here; rename the file",
        "in_package/relative.py": "name it by its dots: `--plugin in_package.relative`",
        "my-models": "is neither a module's name nor a .py file",
        "a b": "is neither a module's name",
        "": "name a module or a .py file",
        "mnistbench.cli.app": "is a part of mnistbench itself",
    }.items():
        assert message in failure(name), name


def test_all_plug_ins_that_fail_are_named_at_once() -> None:
    assert len(failure("nowhere_one", "nowhere_two.py").split("\n")) == 2


def test_what_a_plug_in_prints_stays_out_of_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    load_plugins([write("loud_plugin.py", "print('hello from the plug-in')\n")])
    assert capfd.readouterr() == ("", "hello from the plug-in\n")


def test_the_copy_that_a_forking_plug_in_makes_runs_nothing() -> None:
    """In a process of its own: the copy would go on with this very test."""
    write("forking_plugin.py", "import os\nos.fork()\n")
    code = """
import os, sys
from mnistbench.errors import UserError
from mnistbench.axes.plugins import load_plugins
try:
    load_plugins(["forking_plugin.py"])
except UserError as error:
    print(os.getpid(), error, flush=True)
else:
    print(os.getpid(), "went on", flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    lines = done.stdout.splitlines()
    assert len(lines) == 1
    assert "started 1 process(es) while being imported; they were ended" in lines[0]


def test_processes_that_a_plug_in_starts_are_ended() -> None:
    begin = "import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    assert "started 1 process(es)" in failure(write("starting_plugin.py", begin))
    sleeping = [child for child in psutil.Process().children() if "time.sleep(600)" in " ".join(child.cmdline())]
    assert not sleeping


def test_a_process_that_a_plug_in_waits_for_is_its_own_affair() -> None:
    begin = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'pass'], check=True)\n"
    assert load_plugins([write("asking_plugin.py", begin)]).modules


def test_a_plug_in_given_twice_is_imported_once() -> None:
    name = write("once_plugin.py", "from pathlib import Path\nwith Path('count').open('a') as file: file.write('x')\n")
    load_plugins([name, name])
    load_plugins([name])
    assert Path("count").read_text() == "x"


def test_the_examples_of_the_documentation_train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each block of docs/extending.md that begins with a file's name, as that file; then the grid is run."""
    from mnistbench import run_grid

    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "cache"))
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in blocks] == [
        "my_models.py",
        "my_optimizers.py",
        "my_groups.py",
        "my_schedules.py",
        "my_losses.py",
        "my_data.py",
        "own.yaml",
    ]
    assert all(len(content.splitlines()) < 40 for _, content in blocks)
    for name, content in blocks:
        write(name, content)
    plugins = load_plugins([name for name, _ in blocks[:-1]])
    summary = run_grid(
        Grid.load("own.yaml", plugins=plugins), out=tmp_path / "out", tracking=False, executor="inline", plugins=plugins
    )
    records = summary.results.records()
    assert [(record.status, record.error) for record in records] == [("finished", None)] * 4
    assert summary.exit_code == 0
    assert not [said for said in summary.warnings if said.startswith("--plugin")]
    assert all(record.epochs[-1].test_accuracy == 1.0 for record in records)


WANDERER = """
import os
import numpy as np
from torch import nn
os.chdir("/")


def points():
    os.chdir("/")
    inputs = np.random.default_rng(0).normal(size=(60, 3))
    labels = np.arange(60) % 2
    return inputs[:40], labels[:40], inputs[40:], labels[40:]


class Net(nn.Linear):
    def __init__(self):
        os.chdir("/")
        super().__init__(3, 2)
"""


@pytest.mark.slow
def test_a_plug_in_that_changes_the_folder_moves_no_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNISTBENCH_CACHE", "cache")
    write("wanderer.py", WANDERER)
    text = GRID.format(architecture="'wanderer:Net'", optimizer="sgd")
    write("grid.yaml", text.replace("mnist\n", "'wanderer:points'\n").replace("64", "8"))
    flags = ["--plugin", "wanderer.py", "--out", "out", "--executor", "inline", "--no-tracking"]
    assert cli.main(["run", "grid.yaml", *flags]) == 0
    assert Path.cwd() == tmp_path
    assert {record.status for record in ResultsFolder(tmp_path / "out").records()} == {"finished"}


TYPED = """
from __future__ import annotations
import dataclasses, enum, math
from pathlib import Path
from torch import nn

class Size(enum.Enum):
    small, large = "small", "large"

@dataclasses.dataclass
class Shape:
    width: int = 4

def typed(
    data, size: Size = Size.small, shape: Shape | None = None, pair: tuple[int, float] = (1, 0.5), file: Path = Path()
):
    assert isinstance(size, Size) and isinstance(shape, Shape) and isinstance(pair, tuple) and isinstance(file, Path)
    widths = math.prod(data.input_shape), shape.width, data.classes
    return nn.Sequential(nn.Flatten(), nn.Linear(*widths[:2]), nn.Linear(*widths[1:]))

class Failing(nn.Module):
    def __init__(self, data):
        super().__init__()
        self.layer = nn.Linear(5, data.classes)

    def forward(self, inputs):
        return self.layer(inputs)
"""


def test_a_plug_in_is_given_its_options_in_the_types_it_declares() -> None:
    """A grid file and a cell hold a text for an enum or a path, a list for a tuple, a mapping for a dataclass."""
    plugins = load_plugins([write("typed_models.py", TYPED)])
    said = "{name: 'typed_models:typed', size: large, shape: {width: 3}, pair: [2, 0.1], file: b.txt}"
    (cell,) = grid(plugins, said).cells(Component(name="mnist"), 60_000, ["cpu"])
    assert cell.architecture.options == {"size": "large", "shape": {"width": 3}, "pair": [2, 0.1], "file": "b.txt"}
    network = architectures.build(cell.architecture, spec_of(Component(name="mnist")), plugins)
    assert [layer.out_features for layer in network[1:]] == [3, 10]  # type: ignore[index]


def test_what_a_forward_pass_raises_names_the_plug_in_and_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """In a record, and in the terminal, where it is not called a bug of ours."""
    plugins = load_plugins([write("failing_models.py", TYPED)])
    spec = spec_of(Component(name="mnist"))
    network = architectures.build(Component(name="failing_models:Failing"), spec, plugins)
    line = TYPED.splitlines().index("        return self.layer(inputs)") + 1
    where = f"(plug-in failing_models, failing_models.py:{line})"
    with pytest.raises(RuntimeError) as caught:
        network(torch.zeros(2, 1, 28, 28))
    assert describe(caught.value).message.endswith(where)
    assert describe(caught.value).type == "RuntimeError"
    assert cli.main(["show", "failing_models:Failing", "--plugin", "failing_models.py"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: RuntimeError: ") and said.endswith(f"{where}\n") and said.count("\n") == 1


def test_a_network_of_torchs_layers_that_do_not_fit_is_no_bug_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    source = "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(5, 10))\n"
    assert cli.main(["show", "unfit_models:net", "--plugin", write("unfit_models.py", source)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: unfit_models:net on mnist: RuntimeError: ") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "flag"), [("here_only", "here_only.py"), ("nowhere_at_all", "nowhere_at_all.py"), ("timeit", "timeit")]
)
def test_the_flag_that_is_missing_is_named_as_it_has_to_be_given(name: str, flag: str) -> None:
    """A file by its file, and an installed module by its name."""
    write("here_only.py", GOOD)
    with pytest.raises(UserError, match=rf"add `--plugin {re.escape(flag)}` if you trust"):
        grid(Plugins(), f"'{name}:WideMLP'")

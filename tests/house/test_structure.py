"""The plan of the house: six storeys of rooms, what stays unloaded, and that the README tells the truth about them."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mnistbench"
HEAVY = ["torch", "mlflow", "pandas", "numpy", "scipy", "matplotlib", "ruamel", "ray"]


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, *, lazy: bool, typing: bool = False) -> set[str]:
    """Dotted names that a file imports; those inside functions too if `lazy`, those for type checking if `typing`."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if not typing and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not lazy:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
            found.add(node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def room(name: str) -> str:
    """The room a module stands in: its first name below the package (`mnistbench.report.page` -> `report`)."""
    return name.split(".")[1] if "." in name else ""


def loaded_by(code: str) -> set[str]:
    """Top-level names in sys.modules after running the code in a fresh interpreter."""
    report = "import sys, json; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["--version"], ["data", "--help"], ["predict", "--help"]]
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    """`--help` is instant: none of torch, mlflow, pandas."""
    loaded = loaded_by(f"from mnistbench.cli.app import main; main({arguments!r})")
    assert "typer" in loaded
    assert not loaded & set(HEAVY)


def test_importing_the_package_loads_nothing_heavy() -> None:
    """`from mnistbench import load_model` costs only what it uses."""
    assert not loaded_by("import mnistbench") & {*HEAVY, "typer", "pydantic"}


@pytest.mark.parametrize("name", ["Grid", "ResultsFolder", "load_model", "report", "results_frame", "run_grid"])
def test_the_public_names_are_there(name: str) -> None:
    """What the README promises can be imported from the package."""
    import mnistbench

    assert getattr(mnistbench, name) is not None
    assert name in dir(mnistbench)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    """The lazy names do not swallow typing errors."""
    import mnistbench

    with pytest.raises(AttributeError, match="no attribute 'run_gird'"):
        _ = mnistbench.run_gird


def test_a_worker_loads_torch_and_no_mirror_table_or_yaml() -> None:
    """What a cell's process carries: a leaner fork, and nothing that could write a record."""
    loaded = loaded_by("import mnistbench.run.worker, mnistbench.train.train")
    assert not loaded & {"mlflow", "pandas", "ruamel", "seaborn", "matplotlib", "typer", "rich"}


def test_the_report_loads_neither_torch_nor_mlflow() -> None:
    """A report can be made where nothing can be trained."""
    loaded = loaded_by("import mnistbench.report, mnistbench.report.page")
    assert not loaded & {"torch", "mlflow"}


def test_records_and_cells_need_pydantic_only() -> None:
    """What a worker imports first, and what `--help` carries."""
    loaded = loaded_by("import mnistbench.results.records")
    assert not loaded & {"torch", "numpy", "pandas", "ruamel", "rich", "typer", "filelock"}


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("mlflow", {"tracking"}),
        ("ray", {"run"}),
        ("typer", {"cli"}),
        ("seaborn", {"report"}),
        ("ruamel", {"grid", "results"}),
    ],
)
def test_a_library_is_met_in_one_place(library: str, allowed: set[str]) -> None:
    """The seams that let a library be exchanged, or be absent."""
    found = {
        room(name)
        for name, path in modules().items()
        if any(target.partition(".")[0] == library for target in imports(path, lazy=True))
    }
    assert found <= allowed


STOREYS = (
    {"cell", "errors", "words"},
    {"axes", "files"},
    {"data", "results"},
    {"grid", "train"},
    {"kept", "report", "run", "tracking"},
    {"cli"},
)
"""From the lowest up. Above them stand `__init__`, which puts together what neighbours may not, and `__main__`."""


def test_a_room_imports_lower_storeys_only_and_no_neighbour() -> None:
    """Imports for type checking and those inside functions count."""
    storey = {room: number for number, rooms in enumerate(STOREYS) for room in rooms}
    entries = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert entries == {*storey, "__init__", "__main__"}
    wrong = []
    for name, path in modules().items():
        own = room(name)
        for target in imports(path, lazy=True, typing=True):
            other = room(target)
            if own in storey and other in storey and own != other and storey[other] >= storey[own]:
                wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_no_module_imports_in_a_circle() -> None:
    """Imports for type checking and those inside functions count: a circle that runs through them is one too."""
    known = modules()
    graph = {
        name: {
            target
            for target in imports(path, lazy=True, typing=True)
            if target in known and not f"{name}.".startswith(f"{target}.")  # `from package import module`
        }
        for name, path in known.items()
    }
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for target in graph[name]:
                visit(target, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_no_room_is_called_after_nothing() -> None:
    """Names that gather what belongs elsewhere."""
    names = {part for module in modules() for part in module.split(".")}
    assert not names & {"utils", "common", "base", "helpers", "constants", "registry", "misc"}


def test_no_two_classes_have_one_name() -> None:
    """Who searches for a class finds one."""
    names = Counter(
        node.name
        for path in modules().values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert {name for name, count in names.items() if count > 1} == set()


def test_the_readme_maps_every_room() -> None:
    """In its block of storeys, and no room that is not there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"## The rooms\n.*?```\n(.*?)```", text, re.DOTALL)
    assert block, "README.md has no map of the rooms"
    assert set(re.findall(r"^  (\w+) ", block[1], re.MULTILINE)) == set().union(*STOREYS)


def test_every_link_in_the_readme_leads_somewhere() -> None:
    """Relative links and pictures."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in target]
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_shares_seconds_and_plurals_are_worded_in_one_place() -> None:
    """A share as `{x:.1%}`, seconds as `{x:.2f} s` or a noun with `(s)` belongs to `words/wording.py`."""
    own = re.compile(r":[^{}]*%\}|:[^{}]*f\} m?s\b|\w\(s\)(?![\w(])")
    found = [
        f"{name}:{number}"
        for name, path in modules().items()
        if room(name) in {"cli", "kept", "report", "run", "tracking"}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if own.search(line)
    ]
    assert found == []


def test_no_console_takes_names_between_colons_for_pictures() -> None:
    """rich would print `my_optimizers:Free: a group …` with a picture in the place of `:Free:`."""
    found = [
        f"{name}:{number}"
        for name, path in modules().items()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(r"\bConsole\((?!emoji=False)", line)
    ]
    assert found == []

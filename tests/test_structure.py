"""The plan of the house: who may import whom, what stays unloaded, and that the README tells the truth about files."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mnistbench"
HEAVY = ["torch", "mlflow", "pandas", "numpy", "scipy", "matplotlib", "ruamel", "ray"]


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, *, lazy: bool) -> set[str]:
    """Dotted names that a file imports; those inside functions too if `lazy`; never those for type checking only."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
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


def rooms_imported(name: str, *, lazy: bool = True) -> set[str]:
    """Rooms that any module of a room imports."""
    known = {room(module) for module in modules()}
    found = set()
    for module, path in modules().items():
        if room(module) == name:
            found |= {room(target) for target in imports(path, lazy=lazy) if target.startswith("mnistbench.")}
    return (found & known) - {name, ""}


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
    loaded = loaded_by(f"from mnistbench.cli import main; main({arguments!r})")
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
    loaded = loaded_by("import mnistbench.worker, mnistbench.train")
    assert not loaded & {"mlflow", "pandas", "ruamel", "seaborn", "matplotlib", "typer", "rich"}


def test_the_report_loads_neither_torch_nor_mlflow() -> None:
    """A report can be made where nothing can be trained."""
    loaded = loaded_by("import mnistbench.report, mnistbench.analysis, mnistbench.report.page")
    assert not loaded & {"torch", "mlflow"}


def test_records_and_cells_need_the_standard_library_only() -> None:
    """A machine with torch alone reads and writes them."""
    loaded = loaded_by("import mnistbench.records")
    assert not loaded & {"torch", "numpy", "pandas", "pydantic", "ruamel", "rich", "typer", "filelock"}


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("mlflow", {"tracking"}),
        ("ray", {"executors_ray"}),
        ("typer", {"cli", "commands"}),
        ("seaborn", {"report"}),
        ("ruamel", {"config"}),
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


@pytest.mark.parametrize(
    ("lower", "forbidden"),
    [
        ("cell", {"*"}),
        ("records", {"runner", "grid", "train", "tracking", "analysis", "report", "results"}),
        ("results", {"runner", "grid", "train", "tracking", "analysis", "report"}),
        ("analysis", {"report", "runner", "train", "tracking", "worker", "executors", "grid"}),
        ("report", {"runner", "train", "tracking", "worker", "executors", "grid"}),
        ("train", {"worker", "executors", "runner", "tracking", "analysis", "report", "grid", "results"}),
        ("worker", {"executors", "runner", "tracking", "analysis", "report", "grid"}),
        ("executors", {"runner", "tracking", "analysis", "report", "grid"}),
        ("tracking", {"runner", "train", "worker", "executors", "analysis", "report", "grid"}),
        ("grid", {"runner", "worker", "executors", "tracking", "analysis", "report"}),
        ("runner", {"report"}),
    ],
)
def test_imports_go_one_way(lower: str, forbidden: set[str]) -> None:
    """A room knows those that its data come from, never those that use it; nobody below knows the command line."""
    assert (PACKAGE / f"{lower}.py").is_file() or (PACKAGE / lower).is_dir()
    wanted = forbidden | {"cli", "commands", "bare"}
    found = rooms_imported(lower)
    assert not (found - {"typed"} if "*" in forbidden else found & wanted)


def test_only_the_command_line_knows_the_command_line() -> None:
    """Everything that the commands do can be done from Python."""
    users = {
        name for name in {room(module) for module in modules()} - {""} if rooms_imported(name) & {"cli", "commands"}
    }
    assert users <= {"__main__", "cli", "bare"}


def test_no_room_is_called_after_nothing() -> None:
    """Names that gather what belongs elsewhere."""
    names = {part for module in modules() for part in module.split(".")}
    assert not names & {"utils", "common", "base", "helpers", "constants", "registry", "misc"}


def listed_in_readme() -> set[str]:
    """Paths in the README's list of files: the code block under its heading, with folders joined to what is in them."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"## The files\n.*?```\n(.*?)```", text, re.DOTALL)
    assert block, "README.md has no list of files"
    found, folders = set(), []
    for line in block[1].splitlines():
        if not line.strip() or line.strip().startswith("#"):
            continue
        indent = (len(line) - len(line.lstrip())) // 2
        folders = folders[:indent]
        names = re.split(r"\s{2,}", line.strip())[0].split()
        found |= {"/".join([*folders, name.rstrip("/")]) for name in names}
        if names[-1].endswith("/"):
            folders = [*folders, names[-1].rstrip("/")]
    return found


def test_every_file_that_the_readme_lists_exists() -> None:
    """A newcomer who follows the list finds each of them."""
    listed = listed_in_readme()
    assert len(listed) > 30
    assert [path for path in sorted(listed) if not list(ROOT.glob(path))] == []


def test_every_module_is_in_the_readme() -> None:
    """A new file brings its line; a folder's line speaks for what is in it, if nothing is listed below it."""
    listed = listed_in_readme()
    missing = []
    for path in modules().values():
        name = path.relative_to(ROOT).as_posix()
        parents = {parent.as_posix() for parent in path.relative_to(ROOT).parents}
        spoken_for = any(
            folder in listed and not any(other.startswith(f"{folder}/") for other in listed)
            for folder in parents - {"."}
        )
        if name not in listed and not spoken_for and not (name.endswith("__init__.py")):
            missing.append(name)
    assert not missing, f"README.md does not list {', '.join(missing)}"


def test_every_link_in_the_readme_leads_somewhere() -> None:
    """Relative links and pictures."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in target]
    assert [target for target in targets if not (ROOT / target).exists()] == []

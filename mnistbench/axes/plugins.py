"""The user's own networks, optimizers, schedules, losses and datasets: modules that the command line names, no others.

A grid file may refer to `my_models:WideMLP`, but never causes an import: only `--plugin my_models` (a module) or
`--plugin path/to/my_models.py` (a file) does.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mnistbench.errors import UserError
from mnistbench.errors.problems import message_of, nearest, shown

if TYPE_CHECKING:
    import psutil

    from mnistbench.cell import Cell


@dataclass(frozen=True)
class Plugins:
    """Modules that were imported because the command line named them.

    Attributes:
        names: as given, so that a worker can load the same ones.
        modules: by the name that a grid uses before the colon.
    """

    names: tuple[str, ...] = ()
    modules: Mapping[str, ModuleType] = field(default_factory=dict)

    def find(self, name: str) -> object:
        """What `module:Name` stands for.

        Raises:
            UserError: if the module was not given with `--plugin`, or has nothing of that name.
        """
        module_name, _, attribute = name.partition(":")
        module = self._module(name)
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        if attribute not in public:
            raise UserError(f"`{module_name}` has no `{attribute}` to call{nearest(attribute, public)}")
        called: object = getattr(module, attribute)
        return called

    def sha256(self, name: str) -> str:
        """Checksum of the source that `module:Name` comes from: the file, or all `.py` files of a package.

        With that of the modules that it imports, where they are the user's own too: installed ones have versions.

        Raises:
            UserError: as `find`; also for a module without a source file.
        """
        module = self._module(name)
        if not module.__file__:
            raise UserError(f"`{module.__name__}` has no source file whose checksum could name this version of it")
        file = Path(module.__file__)
        files = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
        digest = hashlib.sha256()
        for part in files:
            content = part.read_bytes()
            digest.update(f"{part.relative_to(file.parent).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
        for other, part in sorted(own_modules(module.__name__).items()):
            if part not in files:
                content = part.read_bytes()
                digest.update(f"{other}\0{len(content)}\0".encode())
                digest.update(content)
        return digest.hexdigest()

    def needed_by(self, cell: Cell) -> tuple[str, ...]:
        """Of the names as given, those of modules that the cell names, and of the plug-ins that these import.

        A cell is trained without the others: whatever they change while they are imported (torch's default type of
        numbers, a layer's first weights) would change its training, and nothing in its id would say so.
        """
        named = {part.name.partition(":")[0] for part in cell.parts}
        wanted = named.union(*map(own_modules, named))
        return tuple(name for name in self.names if _name_of_module(name) in wanted)

    def _module(self, name: str) -> ModuleType:
        module_name, colon, _ = name.partition(":")
        if not colon or not module_name:
            raise UserError(f"`{name}` is no plug-in: write `module:Name`")
        if module_name not in self.modules:
            raise UserError(
                f"`{name}` is a plug-in, and plug-ins are imported only when the command line names them: "
                f"add {flag_for(module_name)} if you trust that module"
            )
        return self.modules[module_name]


def own_modules(plugin: str) -> dict[str, Path]:
    """Source files, by module, of a plug-in and of what it imports, itself or through others, that nobody installed."""
    files: dict[str, Path] = {}
    waiting = [plugin]
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        file = Path(getattr(module, "__file__", None) or "")
        if module is None or name in files or file.suffix != ".py" or is_of_installation(file):
            continue
        files[name] = file
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        waiting += _imports_of(file.read_bytes(), package)
    return files


@functools.cache  # asked for each cell and each block of speed; parsing a repository's modules takes a second
def _imports_of(source: bytes, package: str) -> tuple[str, ...]:
    """Modules that a source imports, those of its dotted names included: `import a.b` runs `a` first."""
    dotted: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            dotted += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: 1 - node.level or None] if node.level else []
            dotted += [".".join([*above, *filter(None, [node.module]), alias.name]) for alias in node.names]
    parts = [name.split(".") for name in dotted]
    return tuple(dict.fromkeys(".".join(each[:length]) for each in parts for length in range(1, len(each) + 1)))


def is_of_installation(file: Path) -> bool:
    """Whether a module belongs to Python, to an installed package, or to us: all of these have versions."""
    folders = {Path(__file__).parents[1], *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))}
    return bool(folders & set(file.parents)) or bool({"site-packages", "dist-packages"} & set(file.parts))


def flag_for(module: str) -> str:
    """The flag that would import a module: by its name where Python finds it, else by its file."""
    is_file = module.isidentifier() and (Path(f"{module}.py").is_file() or not _is_installed(module))
    return f"`--plugin {module}.py`" if is_file else f"`--plugin {module}`"


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def where_in_plugin(error: BaseException) -> str:
    """The innermost line of a plug-in's that an error came through: `plug-in my_models, my_models.py:12`; or ""."""
    where, trace = "", error.__traceback__
    while trace is not None:
        name, line = str(trace.tb_frame.f_globals.get("__name__")), trace.tb_lineno
        if plugin := next((each for each in _imported if f"{name}.".startswith(f"{each}.")), None):
            where = f"plug-in {plugin}, {Path(trace.tb_frame.f_code.co_filename).name}:{line}"
        trace = trace.tb_next
    return where


_imported: set[str] = set()
"""Modules that this process imported as plug-ins, by which their errors are told from our own."""


def load_plugins(names: Sequence[str]) -> Plugins:
    """Import the modules that the command line names.

    Args:
        names: modules (`my_package.models`; looked for in the working folder too) or `.py` files.

    Raises:
        UserError: with one line per plug-in that is not there, fails, exits or starts processes while being imported.
    """
    modules: dict[str, ModuleType] = {}
    errors: list[str] = []
    for name in dict.fromkeys(names):
        try:
            module = _loaded(name)
            modules[module.__name__] = module
            _imported.add(module.__name__)
        except UserError as error:
            errors.append(str(error))
    if errors:
        raise UserError("\n".join(errors))
    return Plugins(tuple(dict.fromkeys(names)), modules)


def _is_file(name: str) -> bool:
    return name.endswith(".py") or "/" in name or os.sep in name


def _name_of_module(name: str) -> str:
    """By which a grid calls what the command line named."""
    return Path(name).stem if _is_file(name) else name


def _loaded(name: str) -> ModuleType:
    if not name.strip():
        raise UserError("--plugin: name a module or a .py file")
    if _is_file(name):
        return _from_file(name, Path(name))
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"--plugin {name}: is neither a module's name nor a .py file")
    if name.partition(".")[0] == "mnistbench":
        raise UserError(f"--plugin {name}: is a part of mnistbench itself; its names need no plug-in")
    with _importable(Path.cwd()):  # `python -m mnistbench` finds modules in it, the installed command would not
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError as error:
            raise UserError(f"--plugin {name}: there is no module `{error.name}`") from None
        except (ImportError, ValueError) as error:
            raise UserError(f"--plugin {name}: cannot be imported: {error}") from None
        except Exception as error:  # find_spec imports the parent package
            raise UserError(f"--plugin {name}: {_what_failed(error)}") from error
        if spec is None:
            raise UserError(f"--plugin {name}: there is no module `{name}`; a file is named with its .py")
        with _guarded(name):
            return importlib.import_module(name)


def _from_file(name: str, file: Path) -> ModuleType:
    if file.suffix != ".py":
        raise UserError(f"--plugin {name}: is no .py file")
    if not file.is_file():
        raise UserError(f"--plugin {name}: there is no such file")
    module_name = file.stem
    if not module_name.isidentifier():
        raise UserError(f"--plugin {name}: rename the file to a word that Python can import, such as my_models.py")
    already = sys.modules.get(module_name)
    if already is not None:
        if already.__file__ and Path(already.__file__).resolve() == file.resolve():
            return already
        raise UserError(f"--plugin {name}: a module `{module_name}` is there already; rename the file")
    there = importlib.util.find_spec(module_name)
    if there is not None and (there.origin in ("built-in", "frozen") or is_of_installation(Path(there.origin or ""))):
        raise UserError(f"--plugin {name}: a module `{module_name}` is installed here; rename the file")
    spec = importlib.util.spec_from_file_location(module_name, file.resolve())
    assert spec is not None and spec.loader is not None  # true for every .py file
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # as importing does: dataclasses and pickles of its classes look here
    try:
        with _guarded(name), _importable(file.resolve().parent, first=True):  # as Python does for a script
            spec.loader.exec_module(module)
    except UserError as error:
        del sys.modules[module_name]
        if "attempted relative import" in str(error):
            dotted = f"{file.resolve().parent.name}.{module_name}"
            raise UserError(f"{error}; it belongs to a package: name it by its dots: `--plugin {dotted}`") from None
        raise
    return module


@contextlib.contextmanager
def _importable(folder: Path, *, first: bool = False) -> Iterator[None]:
    """Modules in this folder are found, behind all others or before them."""
    if str(folder) in sys.path or (folder == Path.cwd() and "" in sys.path):
        yield
        return
    sys.path.insert(0 if first else len(sys.path), str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


@contextlib.contextmanager
def same_folder() -> Iterator[None]:
    """Come back to the working folder, on which all relative paths depend, wherever a user's code goes."""
    folder = Path.cwd()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.chdir(folder)


@contextlib.contextmanager
def _guarded(name: str) -> Iterator[None]:
    """Turn whatever an import does into one clear error; what it prints goes to standard error."""
    process = os.getpid()
    children = _children()
    try:
        with contextlib.redirect_stdout(sys.stderr), same_folder():
            yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: the module called sys.exit
        if os.getpid() != process:
            os._exit(1)
        raise UserError(f"--plugin {name}: {_what_failed(error)}") from error
    if os.getpid() != process:
        os._exit(0)  # the module forked: this copy must not go on to run the grid a second time
    if started := [child for pid, child in _children().items() if pid not in children]:
        for child in started:
            with contextlib.suppress(Exception):
                child.kill()
                child.wait(5)
        raise UserError(f"--plugin {name}: started {len(started)} process(es) while being imported; they were ended")


def _children() -> dict[int, psutil.Process]:
    import psutil

    return {child.pid: child for child in psutil.Process().children(recursive=True)}


def _what_failed(error: BaseException) -> str:
    """One line: what the module's code raised, and in which line of which file."""
    if isinstance(error, SystemExit):
        what = f"called sys.exit({error.code!r}) while being imported"
    elif isinstance(error, SyntaxError):
        return f"is no Python: {error.msg} ({Path(error.filename or '?').name}:{error.lineno})"
    else:
        message = shown(" ".join(message_of(error).split()), longest=300)
        what = f"cannot be imported: {type(error).__name__}: {message}"
    trace, place = error.__traceback__, ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if "importlib" not in code.co_filename and code.co_filename != __file__:
            place = f" ({Path(code.co_filename).name}:{trace.tb_lineno})"
        trace = trace.tb_next
    return what + place

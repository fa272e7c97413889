"""Datasets as a grid names them: where they are looked for, what comes from a mirror, and what stands in."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from image_files import folder_with
from mirror_server import mirror, sends, sends_files

from mnistbench import run_grid
from mnistbench.cell import Component
from mnistbench.data import datasets, download, images
from mnistbench.data.arrays import checksum
from mnistbench.data.datasets import DATASETS, DataNotFound, load, prepare, sizes, spec_of, survey
from mnistbench.data.images import ImageFiles
from mnistbench.errors import UserError
from mnistbench.grid.grid import Grid
from mnistbench.run.executors import InlineExecutor
from mnistbench.train.watcher import Watcher

MNIST = Component(name="mnist")
DIGITS = Component(name="digits")
SUM3 = Component(name="sum3")
CLOSED = "http://127.0.0.1:1/"
ROOT = Path(__file__).parents[2]
TABLE = ROOT / "mnistbench" / "grid" / "ready" / "table.csv"


@pytest.fixture(scope="module")
def data_dir(mnist_files: tuple[Path, ImageFiles]) -> Path:
    """The folder with MNIST's files, or with those that stand in for them."""
    return mnist_files[0]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mnist_files: tuple[Path, ImageFiles]) -> Path:
    """An empty machine: no cache, no `./data`, no environment, mirrors that refuse connections."""
    _, files = mnist_files
    listed = [(f"{file.name}.gz", file.md5) for file in files.files]
    monkeypatch.setattr(images, "MNIST", files)
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", listed)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("MNISTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MNISTBENCH_DATA", raising=False)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [CLOSED])
    return tmp_path / "cache"


@pytest.fixture
def copy(data_dir: Path, tmp_path: Path) -> Path:
    """A folder with the MNIST files, to be damaged."""
    shutil.copytree(data_dir / "MNIST" / "raw", tmp_path / "copy" / "MNIST" / "raw", copy_function=shutil.copyfile)
    (tmp_path / "copy" / "MNIST" / "raw").chmod(0o755)
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def official(data_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (data_dir / "MNIST" / "raw").glob("*.gz")}


def damage(folder: Path, name: str = "t10k-labels-idx1-ubyte.gz") -> Path:
    path = folder / "MNIST" / "raw" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def snapshot(folder: Path) -> list[tuple[str, int, int]]:
    return sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*"))


# Where it is looked for


def test_a_named_folder_without_the_dataset_is_said(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of one's own that lie there under other names are not used, and nobody believes that they were."""
    monkeypatch.setenv("MNISTBENCH_DATA", str(data_dir))
    shutil.copyfile(next((data_dir / "MNIST" / "raw").glob("*.gz")), tmp_path / "train-images-idx3-ubyte.gz")
    for _ in ("from files", "from the cache"):
        prepared = prepare(MNIST, data_dir=tmp_path, download=False)
        assert any(f"--data {tmp_path}: mnist is not in it" in warning for warning in prepared.warnings)


def test_the_named_folder_comes_first(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNISTBENCH_DATA", str(tmp_path / "nowhere"))
    prepared = prepare(MNIST, data_dir=data_dir, download=False)
    assert prepared.found_in == f"--data ({data_dir})"
    assert not prepared.fallback
    arrays = load(prepared.directory)
    assert arrays.train_inputs.shape == (60_000, 28, 28)
    assert sorted(set(arrays.test_labels.tolist())) == list(range(10))
    assert prepared.sha256 == checksum(arrays)


def test_then_the_environments_folder(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNISTBENCH_DATA", str(data_dir))
    assert prepare(MNIST, data_dir=tmp_path, download=False).found_in == f"$MNISTBENCH_DATA ({data_dir})"


def test_then_the_data_folder_here(copy: Path) -> None:
    copy.rename("data")
    assert prepare(MNIST, download=False).found_in == "./data"


def test_then_the_users_cache(copy: Path, cache: Path) -> None:
    copy.rename(cache)
    assert prepare(MNIST, download=False).found_in == f"the cache folder ({cache})"


def test_nothing_is_written_into_a_folder_that_is_only_read(copy: Path) -> None:
    before = snapshot(copy)
    prepare(MNIST, data_dir=copy)
    survey(copy)
    assert snapshot(copy) == before


def test_a_prepared_dataset_is_found_without_its_files(copy: Path) -> None:
    first = prepare(MNIST, data_dir=copy)
    shutil.rmtree(copy)
    again = prepare(MNIST, download=False)
    assert (again.directory, again.sha256) == (first.directory, first.sha256)
    assert again.found_in == "the cache, verified earlier"


def test_a_named_folder_that_is_not_there_is_a_mistake_to_be_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--data .*typo: there is no such folder") as error:
        prepare(MNIST, data_dir=tmp_path / "typo", fallback=DIGITS)
    assert not isinstance(error.value, DataNotFound)


def test_a_prepared_dataset_is_found_without_heavy_imports(digit_images: Component) -> None:
    """What every later run pays: no torch, no torchvision, no scikit-learn."""
    prepare(digit_images, data_dir=folder_with(images.MNIST))
    code = (
        "import sys; from mnistbench.cell import Component; from mnistbench.data.datasets import prepare; "
        f"prepare(Component(name={digit_images.name!r}), download=False); "
        "print(sorted({'torch', 'torchvision', 'sklearn', 'pandas', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["x" * 5_000, "/dev/null", "a\nb"], ids=["too long", "a file", "a line break"])
def test_an_environment_that_names_no_folder_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNISTBENCH_DATA", name)
    with pytest.raises(DataNotFound, match=r"\$MNISTBENCH_DATA .*no such folder|\$MNISTBENCH_DATA \(a"):
        prepare(MNIST, download=False)


# What is damaged


def test_a_damaged_file_is_named_and_not_used(copy: Path) -> None:
    path = damage(copy)
    with pytest.raises(DataNotFound) as error:
        prepare(MNIST, data_dir=copy, download=False)
    assert f"{path}: the checksum is wrong" in str(error.value)


def test_a_damaged_file_in_the_named_folder_is_said_even_when_the_cache_has_it(data_dir: Path, copy: Path) -> None:
    prepare(MNIST, data_dir=data_dir)
    path = damage(copy)
    prepared = prepare(MNIST, data_dir=copy)
    assert prepared.found_in == "the cache, verified earlier"
    assert str(path) in prepared.warnings[0]


def test_after_a_damaged_folder_the_next_one_is_looked_in(
    copy: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = damage(copy)
    monkeypatch.setenv("MNISTBENCH_DATA", str(data_dir))
    prepared = prepare(MNIST, data_dir=copy, download=False)
    assert prepared.found_in == f"$MNISTBENCH_DATA ({data_dir})"
    assert [str(path) in warning for warning in prepared.warnings] == [True]


def test_nothing_half_made_is_left_by_a_damaged_file(copy: Path, cache: Path) -> None:
    damage(copy)
    with pytest.raises(DataNotFound):
        prepare(MNIST, data_dir=copy)
    assert [path.suffix for path in cache.rglob("*") if path.is_file()] == [".lock"]


# Mirrors


def test_it_is_downloaded_with_progress_from_the_first_good_mirror(
    official: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, cache: Path, data_dir: Path
) -> None:
    told = []
    with mirror(sends(b"<html>log in</html>")) as page, mirror(sends_files(official)) as good:
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [CLOSED, page.address, good.address])
        prepared = prepare(MNIST, progress=lambda *what: told.append(what))
    assert prepared.found_in == "downloaded from 127.0.0.1"
    assert {what for what, done, total in told if done == total} == {f"downloading {name}" for name in official}
    assert sorted(path.name for path in (cache / "MNIST" / "raw").iterdir()) == sorted(official)
    monkeypatch.setenv("MNISTBENCH_CACHE", str(cache.parent / "other"))
    assert prepare(MNIST, data_dir=data_dir).sha256 == prepared.sha256


def test_a_download_that_broke_off_goes_on_with_what_is_missing(
    official: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_two = dict(sorted(official.items())[2:])
    with mirror(sends_files(first_two)) as half, pytest.raises(DataNotFound, match="answers 404"):
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [half.address])
        prepare(MNIST)
    with mirror(sends_files(official)) as good:
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [good.address])
        prepare(MNIST)
        assert sorted(good.asked) == ["/t10k-images-idx3-ubyte.gz", "/t10k-labels-idx1-ubyte.gz"]


def test_without_a_network_the_error_names_places_mirrors_and_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataNotFound) as error:
        prepare(MNIST)
    said = str(error.value)
    for part in (
        "./data: no such folder",
        f"{CLOSED}train-images-idx3-ubyte.gz: cannot be reached",
        "`data fetch mnist`",
        "MNISTBENCH_DATA",
        "MNIST/raw",
        "fallback: digits",
    ):
        assert part in said


def test_a_mirror_that_hangs_is_given_up_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that swallows packets: no answer, no refusal."""
    monkeypatch.setattr(download, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://192.0.2.1/", "http://192.0.2.2/"])
    with pytest.raises(DataNotFound, match=r"192\.0\.2\.2/train-images.*(no answer in|cannot be reached)"):
        prepare(MNIST)


# What stands in


def test_the_fallback_stands_in_and_says_why() -> None:
    prepared = prepare(MNIST, fallback=SUM3)
    assert prepared.fallback
    assert prepared.component == SUM3
    assert "cannot be reached" in prepared.reason
    assert load(prepared.directory).spec.name == "sum3"


def test_a_run_says_in_one_line_that_the_fallback_stands_in(tmp_path: Path) -> None:
    """What every mirror answered is for `data fetch` to say: the grid asked for the fallback."""
    lines: list[str] = []

    class Told(Watcher):
        def say(self, text: str) -> None:
            lines.extend(text.splitlines())

    grid = Grid.from_text(
        "{name: f, dataset: {name: mnist, fallback: sum3}, architectures: [mlp], optimizers: [{name: sgd, lr: 0.1}],"
        " batch_sizes: [8], devices: [cpu], seeds: [0], twins: 0, training: {epochs: 1}}"
    )
    executor = InlineExecutor(train="stand_ins:quick")
    run_grid(grid, out=tmp_path / "out", executor=executor, tracking=False, watchers=[Told()])
    (line,) = [line for line in lines if "mnist" in line]
    assert line.startswith("NOT THE DATASET YOU ASKED FOR: sum3 stands in for mnist, ")
    assert "data fetch mnist" in line
    assert not [line for line in lines if CLOSED in line]


def test_the_fallback_does_not_hide_files_that_could_not_be_used(copy: Path) -> None:
    path = damage(copy)
    Path("data/MNIST/raw").mkdir(parents=True)
    Path("data/MNIST/raw/t10k-labels-idx1-ubyte.gz").touch()
    said = "\n".join(prepare(MNIST, data_dir=copy, fallback=SUM3).warnings)
    assert f"damaged:\n{path}: the checksum is wrong" in said
    assert "incomplete:\ndata lacks train-images-idx3-ubyte, " in said


def test_the_fallback_stays_away_where_the_data_is_there(data_dir: Path) -> None:
    prepared = prepare(MNIST, data_dir=data_dir, fallback=SUM3)
    assert (prepared.fallback, prepared.reason, prepared.component.name) == (False, "", "mnist")


def test_the_fallback_does_not_hide_a_mistake_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,label\n1,0\nx,1\n")
    component = Component(name="csv", options={"path": str(tmp_path / "t.csv")})
    with pytest.raises(UserError, match="is no number"):
        prepare(component, fallback=SUM3)


# Tables


def csv(path: object = TABLE, **options: object) -> Component:
    return Component(name="csv", options={"path": str(path), "index_column": "index", **options})


def test_the_shipped_table_is_learnable() -> None:
    """Logistic regression beats the more frequent class clearly, without seeing the index."""
    from sklearn.linear_model import LogisticRegression

    arrays = load(prepare(csv()).directory)
    assert arrays.spec.input_shape == (8,)
    assert (arrays.spec.train_examples, arrays.spec.test_examples) == (490, 210)
    model = LogisticRegression().fit(arrays.train_inputs, arrays.train_labels)
    assert model.score(arrays.test_inputs, arrays.test_labels) > 0.8
    assert 0.4 < arrays.train_labels.mean() < 0.6


def test_the_component_carries_the_files_checksum(tmp_path: Path) -> None:
    import hashlib

    assert prepare(csv()).component.sha256 == hashlib.sha256(TABLE.read_bytes()).hexdigest()
    (tmp_path / "t.csv").write_text(TABLE.read_text() + "700,0,0,0,0,0,0,0,0,1\n")
    assert prepare(csv(tmp_path / "t.csv")).component.sha256 != prepare(csv()).component.sha256


def test_a_table_that_changed_since_its_record_is_refused() -> None:
    recorded = Component(name="csv", options=dict(csv().options), sha256="0" * 64)
    with pytest.raises(UserError, match="has changed since"):
        prepare(recorded)


def test_other_options_are_another_cache_entry() -> None:
    plain, scaled = prepare(csv()), prepare(csv(standardize=True))
    assert plain.directory != scaled.directory
    assert prepare(csv()).directory == plain.directory


def test_a_relative_path_starts_from_the_grid_then_from_here(tmp_path: Path) -> None:
    shutil.copyfile(TABLE, "here.csv")
    (tmp_path / "grids").mkdir()
    shutil.copyfile(TABLE, tmp_path / "grids" / "there.csv")
    assert prepare(csv("here.csv"), base=tmp_path / "grids").found_in == "here.csv"
    assert prepare(csv("there.csv"), base=tmp_path / "grids").found_in == str(tmp_path / "grids" / "there.csv")


def test_no_absolute_path_gets_into_a_record(tmp_path: Path) -> None:
    shutil.copyfile(TABLE, "here.csv")
    assert prepare(csv(Path("here.csv").absolute())).component.options["path"] == "here.csv"
    shutil.copyfile(TABLE, tmp_path / "far.csv")
    assert prepare(csv(tmp_path / "far.csv")).component.options["path"] == "far.csv"


def test_a_table_that_is_not_there_is_refused_with_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file gone\.csv \(looked in ") as error:
        prepare(csv("gone.csv"), base=tmp_path)
    assert str(tmp_path) in str(error.value)
    with pytest.raises(UserError, match="is a folder"):
        prepare(csv(tmp_path))
    with pytest.raises(UserError, match="there is no file"):
        prepare(csv("x" * 5000))


def test_a_note_about_the_table_is_said_each_time() -> None:
    component = Component(name="csv", options={"path": str(TABLE)})
    assert "counts the rows" in prepare(component).warnings[0]
    assert prepare(component).warnings == prepare(component).warnings != ()


def test_a_note_names_the_table_that_was_asked_for_and_not_another_of_equal_content(tmp_path: Path) -> None:
    for name in ("one.csv", "other.csv"):
        (tmp_path / name).write_bytes(TABLE.read_bytes())
        component = Component(name="csv", options={"path": name})
        assert prepare(component, base=tmp_path).warnings[0].startswith(f"{name}: ")


# Names, sizes, what is where


def test_an_unknown_dataset_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean `mnist`"):
        prepare(Component(name="mnits"))
    with pytest.raises(UserError, match="normalise"):
        prepare(Component(name="mnist", options={"normalise": True}))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist", "digits"])
def test_sizes_and_shapes_are_known_before_anything_is_read(name: str) -> None:
    assert sizes(Component(name=name)) == (60_000, 10_000)
    assert spec_of(Component(name=name)).input_shape == (1, 28, 28)
    assert len(spec_of(Component(name=name)).class_names) == 10


def test_sizes_of_tables() -> None:
    assert sizes(Component(name="sum3", options={"rows": 100})) == (70, 30)
    assert sizes(csv()) is None
    assert spec_of(csv()).input_shape == (8,)


@pytest.mark.parametrize("component", [SUM3, DIGITS], ids=lambda component: component.name)
def test_what_was_announced_is_what_is_made(component: Component) -> None:
    prepared = prepare(component)
    announced = spec_of(component)
    assert sizes(component) == (prepared.spec.train_examples, prepared.spec.test_examples)
    assert (announced.input_shape, announced.classes) == (prepared.spec.input_shape, prepared.spec.classes)
    assert announced.class_names == prepared.spec.class_names


def test_normalizing_shares_the_prepared_arrays(data_dir: Path) -> None:
    """It is applied while training, from the mean and deviation in the description."""
    plain = prepare(MNIST, data_dir=data_dir)
    normalized = prepare(Component(name="mnist", options={"normalize": True}))
    assert normalized.directory == plain.directory
    assert normalized.component.options == {"normalize": True}


def test_the_survey_tells_whole_damaged_incomplete_and_absent(copy: Path, data_dir: Path) -> None:
    def mnist() -> datasets.Surveyed:
        return next(row for row in survey(copy) if row.name == "mnist")

    assert (mnist().found, mnist().where) == (True, f"--data ({copy})")
    path = damage(copy)
    assert not mnist().found
    assert f"damaged: {path}" in mnist().where
    path.unlink()
    assert "incomplete, without t10k-labels-idx1-ubyte" in mnist().where
    prepare(MNIST, data_dir=data_dir)
    assert mnist().found
    assert "prepared in the cache" in mnist().where
    rows = {row.name: row for row in survey()}
    assert set(rows) == set(DATASETS) - {"csv"}
    assert not rows["kmnist"].found
    assert rows["digits"].found


@pytest.fixture
def _read_only(copy: Path) -> Iterator[None]:
    folders = [path for path in copy.rglob("*") if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    yield
    for folder in folders:
        folder.chmod(0o755)


@pytest.mark.usefixtures("_read_only")
def test_a_read_only_folder_is_read(copy: Path) -> None:
    assert np.bincount(load(prepare(MNIST, data_dir=copy).directory).test_labels).sum() == 10_000


# What the documentation says


def test_the_documented_script_makes_the_shipped_table(tmp_path: Path) -> None:
    script = (ROOT / "docs" / "data.md").read_text().split("this script made it:\n\n```python\n")[1].split("```")[0]
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "table.csv")], check=True, timeout=60)
    assert (tmp_path / "table.csv").read_bytes() == TABLE.read_bytes()


def test_the_documented_function_is_a_dataset(tmp_path: Path) -> None:
    from mnistbench.axes.plugins import load_plugins

    code = (ROOT / "docs" / "data.md").read_text().split("```python\n# my_data.py\n")[1].split("```")[0]
    (tmp_path / "my_rings.py").write_text(code)
    component = Component(name="my_rings:rings", options={"noise": 0.2})
    prepared = prepare(component, plugins=load_plugins([str(tmp_path / "my_rings.py")]))
    assert (prepared.spec.input_shape, prepared.spec.classes, prepared.spec.train_examples) == ((2,), 2, 2_100)

"""The command line as a newcomer meets it: what it prints, what it refuses, and how it ends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from speed_sessions import make_session, write_session
from synthetic import make_cell

from mnistbench import __version__
from mnistbench.cell import Component
from mnistbench.cli import app as cli
from mnistbench.results.folder import ResultsFolder

ROOT = Path(__file__).parents[2]
GRID = """
name: tiny
dataset: mnist
architectures: [logistic]
optimizers: [{name: sgd, lr: 0.5}]
batch_sizes: [8192]
devices: [cpu]
seeds: [0, 1]
twins: 0
training: {epochs: 1, target_accuracy: 0.5, save_model: last}
speed: off
execution: {profile: fast, chunk: 0, memory_format: contiguous, threads: 1}
"""
COMMANDS = [
    ["run"], ["plan"], ["init"], ["status"], ["sync"], ["show"], ["doctor"], ["list"], ["data"], ["data", "list"],
    ["data", "fetch"], ["data", "show"], ["report"], ["compare"], ["merge"], ["results"], ["results", "from-mlflow"],
    ["predict"], ["evaluate"], ["verify"],
]  # fmt: skip
RUN_FLAGS = [
    "--out", "--data", "--tracking-uri", "--set", "--only", "--plugin", "--executor", "--ray-address", "--timeout",
    "--fail-fast", "--force", "--max-cells", "--dry-run", "--no-tracking", "--shard", "--budget", "--rerun-noisy",
    "--tensorboard", "--figures", "--experiment",
]  # fmt: skip


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digit_images: Component) -> Path:
    """A working folder with a grid file; results and mlflow.db of other folders are out of sight."""
    (tmp_path / "tiny.yaml").write_text(GRID.replace("mnist", digit_images.name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, digit_images: Component) -> Path:
    """A folder in which the grid was run to its end, in processes; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(GRID.replace("mnist", digit_images.name))
    command = [sys.executable, "-m", "mnistbench", "run", "tiny.yaml", "--tensorboard", "events"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "output.txt").write_text(done.stdout)
    return folder


@pytest.fixture
def copied(finished: Path, work: Path) -> Path:
    """A working folder with the finished results of its own."""
    shutil.copytree(finished / "results", work / "results")
    return work


def first_cell(folder: Path) -> str:
    """A cell id of the tiny grid."""
    return min(path.stem for path in (folder / "results" / "tiny" / "cells").iterdir())


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With its usage and what it is for."""
    assert cli.main([*command, "--help"]) == 0
    said = capsys.readouterr().out
    assert "Usage:" in said and "<bool>" not in said
    assert command in (["data"], ["results"]) or "Example" in said


@pytest.mark.parametrize("flag", RUN_FLAGS)
def test_run_has_every_flag(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The flags that the documentation promises."""
    cli.main(["run", "--help"])
    assert flag in capsys.readouterr().out


@pytest.mark.parametrize("command", [[], ["results"]])
def test_a_command_without_its_words_shows_what_there_is(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """And no error without words."""
    assert cli.main(command) == 2
    shown = capsys.readouterr()
    assert "Usage:" in shown.out and shown.err == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The installed one."""
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"mnistbench {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["runn"], "Did you mean 'run'"),
        (["run"], "missing argument 'GRID'"),
        (["run", "tiny.yaml", "--timeot", "3"], "--timeout"),
        (["run", "missing.yaml"], "missing.yaml"),
        (["run", "."], "."),
        (["run", "tiny.yaml", "--timeout", "soon"], "--timeout soon: give a time such as 90s"),
        (["run", "tiny.yaml", "--timeout", "0"], "--timeout 0"),
        (["run", "tiny.yaml", "--timeout=-5s"], "--timeout -5s"),
        (["run", "tiny.yaml", "--budget", "1d"], "--budget 1d"),
        (["run", "tiny.yaml", "--shard", "3/2"], "--shard 3/2"),
        (["run", "tiny.yaml", "--shard", "half"], "2/5 for the second of five"),
        (["run", "tiny.yaml", "--executor", "cluster"], "executor"),
        (["run", "tiny.yaml", "--ray-address", "auto"], "--executor ray"),
        (["run", "tiny.yaml", "--no-tracking", "--tracking-uri", "x"], "exclude each other"),
        (["run", "tiny.yaml", "--no-tracking", "--experiment", "x"], "exclude each other"),
        (["run", "tiny.yaml", "--experiment", ""], "--experiment names no experiment"),
        (["run", "tiny.yaml", "--only", "architecture=lenet"], "logistic"),
        (["run", "tiny.yaml", "--only", "colour=red"], "colour"),
        (["run", "tiny.yaml", "--set", "training.epoch=1"], "epochs"),
        (["run", "tiny.yaml", "--plugin", "no_such_module"], "no_such_module"),
        (["run", "tiny.yaml", "--max-cells", "1"], "--max-cells 2"),
        (["run", "tiny.yaml", "--max-cells", "many"], "max-cells"),
        (["run", "cells.json"], "cells.json: `run` takes grid files, in JSON too under a name that ends in .yaml"),
        (["run", "tiny.yaml", "--only"], "run --help`"),
        (["plan", "tiny.yaml", "--device", "gpu"], "cuda:1 or mps; did you mean `cuda`?"),
        (["plan", "missing.yaml"], "missing.yaml"),
        (["status", "missing"], "no such folder"),
        (["status", "."], "no results folder"),
        (["sync", "missing"], "no such folder"),
        (["report", "missing"], "no such folder"),
        (["merge", "missing", "-o", "both"], "no such folder"),
        (["compare", "missing", "."], "no such folder"),
        (["show", "lenet"], "lenet5"),
        (["show", "lenet5", "--set", "activation=swish"], "relu"),
        (["list", "optimisers"], "executions, grids; did you mean `optimizers`?"),
        (
            ["list"],
            "error: list: say what to list, one of architectures, optimizers, schedules, losses, datasets, execut",
        ),
        (["data", "show", "sum3"], "table"),
        (["data", "fetch", "imagenet"], "imagenet"),
        (["data", "show", "csv"], "only a grid can say which table"),
        (["predict", "9f2c", "x.png"], "no cell 9f2c"),
        (["evaluate", "nothing.safetensors"], "nothing.safetensors"),
        (["verify", "zzz"], "neither a file nor the beginning of a cell id; `status DIR --cells` prints"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_is_one_clear_line(
    arguments: list[str], said: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, the reason, the way out; no traceback, and nothing is written."""
    before = sorted(path.name for path in work.iterdir())
    assert cli.main(arguments) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert len(output.err.strip().splitlines()) == 1
    assert said in output.err
    assert "Traceback" not in output.err + output.out
    assert sorted(path.name for path in work.iterdir()) == before


def test_all_errors_of_a_grid_come_at_once(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each with file, line and column."""
    (work / "bad.yaml").write_text(GRID.replace("logistic", "logistik").replace("8192", "-1"))
    assert cli.main(["run", "bad.yaml"]) == 2
    said = capsys.readouterr().err
    assert "bad.yaml:4:17" in said
    assert "bad.yaml:6:15" in said


def test_an_error_of_ours_is_status_3_with_a_traceback(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug is not blamed on the user."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("mnistbench.grid.options.declaration", broken)
    assert cli.main(["list", "optimizers"]) == 3
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "a bug in mnistbench" in said


def test_ctrl_c_is_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no grid is running that would want to finish its cell."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mnistbench.grid.options.declaration", interrupted)
    assert cli.main(["list", "optimizers"]) == 130


def test_a_closed_pipe_is_no_error() -> None:
    """`mnistbench list optimizers | head -1`."""
    command = f"{sys.executable} -m mnistbench list optimizers | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.stdout.startswith("sgd")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_ends_with_the_best_cells_the_report_and_mlflow(finished: Path) -> None:
    """The last lines tell what to read next."""
    said = (finished / "output.txt").read_text()
    assert "Best so far" in said
    assert "cells: 2 finished; 0 kept from before, 2 run now" in said
    assert "report: results/tiny/report.html" in said
    assert "mlflow ui --workers 1" in said.strip().splitlines()[-1]
    folder = finished / "results" / "tiny"
    for name in ("grid.yaml", "results.csv", "epochs.csv", "summary.md", "report.html"):
        assert (folder / name).stat().st_size > 0
    assert (finished / "mlflow.db").is_file()


@pytest.mark.slow
def test_running_again_keeps_what_is_there(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And says how many cells that is."""
    assert cli.main(["run", "tiny.yaml", "--no-tracking"]) == 0
    assert "2 kept from before, 0 run now" in capsys.readouterr().out


@pytest.mark.slow
def test_tensorboard_gets_a_run_for_each_cell(finished: Path) -> None:
    """Event files of loss and accuracy."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folders = sorted((finished / "events" / "tiny").iterdir())
    assert len(folders) == 2
    events = EventAccumulator(str(folders[0]))
    events.Reload()
    assert events.Scalars("test/accuracy")[0].value > 0.5


def test_a_dry_run_writes_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It names the cells that would run."""
    assert cli.main(["run", "tiny.yaml", "--dry-run"]) == 0
    assert capsys.readouterr().out.count("run   logistic · sgd(lr=0.5) · batch 8192 · cpu") == 2
    assert [path.name for path in work.iterdir()] == ["tiny.yaml"]


@pytest.mark.slow
def test_plan_says_what_is_left_and_how_long_it_takes(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the records of cells like these."""
    assert cli.main(["plan", "tiny.yaml", "--set", "seeds=[0,1,2,3]", "--budget", "1h"]) == 0
    said = capsys.readouterr().out
    assert "tiny: 4 cells" in said
    assert "2 to run in 2 rounds on cpu; 2 have a result" in said
    assert "judged by 2 earlier results" in said
    assert "about 2 of 2 rounds will be run" in said


def test_plan_counts_a_million_cells_without_expanding_them(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The number, and that `run` would refuse it."""
    seeds = ",".join(str(seed) for seed in range(1000))
    rates = ",".join(f"{rate}.0" for rate in range(1, 1001))
    (work / "large.yaml").write_text(GRID.replace("[0, 1]", f"[{seeds}]").replace("lr: 0.5", f"lr: [{rates}]"))
    assert cli.main(["plan", "large.yaml"]) == 0
    said = capsys.readouterr().out
    assert "1,000,000 cells" in said
    assert "refuse" in said


@pytest.mark.slow
def test_status_counts_cells_by_how_they_ended(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From another terminal, or afterwards."""
    assert cli.main(["status", "results/tiny"]) == 0
    said = capsys.readouterr().out
    assert "2 cells: 2 finished" in said
    assert "Best so far" in said


@pytest.mark.slow
def test_status_prints_the_ids_that_other_commands_take(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "results/tiny", "--cells"]) == 0
    said = capsys.readouterr().out
    assert first_cell(copied) in said
    assert "2 cells: 2 finished" in said


@pytest.mark.slow
def test_report_is_made_again_from_the_records(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With each figure as a file of its own."""
    page = copied / "results" / "tiny" / "report.html"
    page.unlink()
    assert cli.main(["report", "results/tiny", "--figures", "figures"]) == 0
    assert "report.html" in capsys.readouterr().out
    assert page.is_file()
    assert {path.suffix for path in (copied / "figures").iterdir()} == {".svg", ".png"}


@pytest.mark.slow
def test_a_report_of_two_folders_needs_a_place(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It belongs to neither."""
    shutil.copytree("results/tiny", "results/again")
    assert cli.main(["report", "results/tiny", "results/again"]) == 2
    assert "--out" in capsys.readouterr().err
    assert cli.main(["report", "results/tiny", "results/again", "--out", "both/both.html"]) == 0
    assert Path("both/both.html").is_file()


@pytest.mark.slow
def test_merge_keeps_both_machines_records_of_a_cell(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One file each; the same record twice is one."""
    other = ResultsFolder(shutil.copytree("results/tiny", "results/other"))
    from dataclasses import replace

    for record in other.records():
        assert record.environment is not None
        elsewhere = replace(record.environment, machine_id="f" * 16)
        path = other.cells / f"{record.cell_id}.json"
        path.write_text(
            json.dumps(record.with_changes(record_id=f"x{record.record_id}", environment=elsewhere).to_json())
        )
    assert cli.main(["merge", "results/tiny", "results/other", "results/tiny", "-o", "results/both"]) == 0
    assert "4 records" in capsys.readouterr().out
    merged = ResultsFolder("results/both")
    assert len(merged.records()) == 4
    assert (
        len({(record.cell_id, record.environment.machine_id) for record in merged.records() if record.environment}) == 4
    )
    assert cli.main(["report", "results/both"]) == 0


@pytest.mark.slow
def test_merge_refuses_two_records_of_one_id(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of them was edited; nothing is written."""
    other = ResultsFolder(shutil.copytree("results/tiny", "results/other"))
    path = next(other.cells.iterdir())
    path.write_text(path.read_text().replace('"position": 0', '"position": 7'))
    assert cli.main(["merge", "results/tiny", "results/other", "-o", "results/both"]) == 2
    assert "never changes" in capsys.readouterr().err
    assert not Path("results/both").exists()


@pytest.mark.slow
def test_compare_with_itself_finds_equal_bits_and_no_regression(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says what it compared."""
    assert cli.main(["compare", "results/tiny", "results/tiny", "--fail-on", "worse=0.3%", "--out", "c.md"]) == 0
    said = capsys.readouterr().out
    assert "examples" in said
    assert "identical in" in said
    assert (copied / "c.md").stat().st_size > 0


@pytest.mark.slow
def test_compare_that_cannot_tell_is_no_success(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody timed blocks here: a CI that compares nothing is not green, unless it says that this is well."""
    asked = ["compare", "results/tiny", "results/tiny", "--fail-on", "slower=5%"]
    assert cli.main(asked) == 6
    assert "undecided" in capsys.readouterr().out
    assert cli.main([*asked, "--allow-undecided"]) == 0
    assert cli.main(asked[:3]) == 0


def test_predict_takes_a_csv_file_for_a_model_of_a_table(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each row is answered under its line; columns are found by name."""
    from mnistbench.axes import architectures
    from mnistbench.cell import Cell, Component, Training
    from mnistbench.data.csv import CsvTable, read_table
    from mnistbench.train.weights import save_model

    content = b"a,b,kind\n" + b"".join(b"%d,%d,%s\n" % (n, n * n, (b"[/x]", b":cat:")[n % 2]) for n in range(20))
    spec = read_table(content, CsvTable(task="classes"), "t.csv").spec
    cell = Cell(
        dataset=Component(name="csv", options={"path": "t.csv", "task": "classes"}),
        architecture=Component(name="logistic"),
        optimizer=Component(name="sgd"),
        batch_size=4,
        device="cpu",
        seed=0,
        training=Training(epochs=1),
    )
    save_model(architectures.build(cell.architecture, spec), cell, spec, work / "table.safetensors")
    (work / "[b]rows.csv").write_text("kind,b,a\n?,4,2\n?,9,3\n")
    assert cli.main(["predict", "table.safetensors", "[b]rows.csv"]) == 0
    said = capsys.readouterr().out
    assert "[b]rows.csv:2" in said
    assert "[b]rows.csv:3" in said
    assert "[/x]" in said and ":cat:" in said, "names are no orders to what draws the table"
    assert cli.main(["predict", "table.safetensors", "nothing.csv"]) == 2
    said = capsys.readouterr().err
    assert "nothing.csv: cannot be read: No such file" in said
    assert "rows of 2 numbers" in said


@pytest.mark.slow
def test_predict_names_what_it_sees(copied: Path, digit_images: Component, capsys: pytest.CaptureFixture[str]) -> None:
    """The sample it is surest of goes in by file, the model by the first digits of its cell."""
    import numpy as np
    from PIL import Image

    from mnistbench import load_model
    from mnistbench.data import datasets

    arrays = datasets.load(datasets.prepare(digit_images).directory)
    sure = load_model(first_cell(copied)).probabilities(np.array(arrays.test_inputs))
    index = int(sure[np.arange(len(sure)), arrays.test_labels].argmax())
    Image.fromarray(255 - np.array(arrays.test_inputs[index])).resize((300, 300)).save("sure.png")
    assert cli.main(["predict", first_cell(copied)[:6], "sure.png"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "sure.png" in line)
    assert row.split("│")[2].strip() == str(arrays.test_labels[index])

    (copied / "bad.png").write_text("no picture")
    assert cli.main(["predict", first_cell(copied)[:6], "bad.png", "sure.png", "gone.png"]) == 2
    said = capsys.readouterr()
    assert row in said.out, "what cannot be read costs the others nothing"
    assert "bad.png: not an image" in said.err and "gone.png: no such file" in said.err


@pytest.mark.slow
def test_evaluate_gives_the_record_s_accuracy(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The kept weights are those that were tested."""
    record = ResultsFolder("results/tiny").record(first_cell(copied))
    assert record is not None
    assert cli.main(["evaluate", record.cell_id]) == 0
    assert f"accuracy {100 * record.epochs[-1].test_accuracy:.2f} % on 10,000" in capsys.readouterr().out


@pytest.mark.slow
def test_verify_finds_the_same_bits(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights and metrics, from a process of its own."""
    assert cli.main(["verify", first_cell(copied)[:8]]) == 0
    assert "the same, bit for bit" in capsys.readouterr().out


@pytest.mark.slow
def test_verify_says_what_differs(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A loss that was changed in the record is found, with both values."""
    results = ResultsFolder("results/tiny")
    path = results.cells / f"{first_cell(copied)}.json"
    record = json.loads(path.read_text())
    record["epochs"][0]["test_loss"] += 1e-9
    path.write_text(json.dumps(record))
    assert cli.main(["verify", first_cell(copied)]) == 1
    said = capsys.readouterr().out
    assert "epoch 1 test_loss" in said
    assert "not the same" in said


@pytest.mark.slow
def test_sync_mirrors_once(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second time changes nothing."""
    (copied / "results" / "tiny" / "mirrored.jsonl").unlink()
    assert cli.main(["sync", "results/tiny"]) == 0
    assert "2 records mirrored now; there already: 0" in capsys.readouterr().out
    assert cli.main(["sync", "results/tiny"]) == 0
    assert "0 records mirrored now; there already: 2" in capsys.readouterr().out
    assert cli.main(["results", "from-mlflow", "tiny", "--out", "rebuilt"]) == 0
    assert len(ResultsFolder("rebuilt").records()) == 2


@pytest.mark.slow
def test_sessions_of_speed_are_counted_apart_from_records(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "results" / "tiny" / "mirrored.jsonl").unlink()
    path = write_session(ResultsFolder("results/tiny"), make_session({make_cell(): 1e4}))
    assert cli.main(["sync", "results/tiny"]) == 0
    said = "2 records and 1 session of speed mirrored now; there already: 0 records, missing: 0 records"
    assert said in capsys.readouterr().out
    assert cli.main(["sync", "results/tiny"]) == 0
    assert "0 records mirrored now; there already: 2 records and 1 session of speed" in capsys.readouterr().out
    assert cli.main(["results", "from-mlflow", "tiny", "--out", "rebuilt"]) == 0
    assert "2 records and 1 session of speed: rebuilt" in capsys.readouterr().out
    assert (ResultsFolder("rebuilt").speed / path.name).read_bytes() == path.read_bytes()
    assert cli.main(["run", "tiny.yaml", "--no-speed", "--tracking-uri", "http://127.0.0.1:9"]) == 0
    assert "not in MLflow: 2 records and 1 session of speed (" in capsys.readouterr().out


def test_show_prints_layers_shapes_and_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    """The network that a reader would draw."""
    assert cli.main(["show", "lenet5", "--set", "pool=average"]) == 0
    said = capsys.readouterr().out
    assert "lenet5(pool=average) on mnist" in said
    assert "16 × 10 × 10" in said
    assert "61,706 parameters" in said


def test_doctor_multiplies_on_each_device(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All is well on a machine that can train."""
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "matrix product on cpu" in said
    assert "mnist" in said
    assert "mlflow.db" in said
    assert sorted(path.name for path in work.iterdir()) == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("axis", "named"),
    [
        ("architectures", ["mlp", "lenet5", "cnn", "resnet", "logistic"]),
        ("optimizers", ["sgd", "adagrad", "rmsprop", "adam", "adamw", "adadelta", "adamax", "nadam", "radam"]),
        ("schedules", ["constant", "step", "exponential", "cosine", "one_cycle"]),
        ("datasets", ["mnist", "fashion_mnist", "kmnist", "digits", "sum3", "csv"]),
        ("executions", ["plain", "fast"]),
        ("grids", ["quick", "levers", "optimizers", "large_batch", "cpu_vs_gpu", "speedrun", "table_mini_batch"]),
    ],
)
def test_list_names_what_a_grid_may_say(axis: str, named: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Every name of the axis, at the beginning of a line."""
    assert cli.main(["list", axis]) == 0
    starts = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:1].isalnum()}
    assert set(named) <= starts


@pytest.mark.parametrize("what", ["optimizers", "executions", "datasets", "grids"])
def test_list_keeps_its_indent_at_80_columns(
    what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line is a name, or indented below it; none begins with the rest of another."""
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["list", what]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert all(len(line) <= 80 and line == line.rstrip() for line in lines)
    assert all(line.startswith("    ") or len(line.split()) == 1 for line in lines)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_breaks_no_word_at_80_columns(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each word stands there as it does where there is room."""
    words = []
    for columns in ("80", "400"):
        monkeypatch.setenv("COLUMNS", columns)
        assert cli.main([*command, "--help"]) == 0
        words.append({word for word in capsys.readouterr().out.split() if "─" not in word})
    assert words[0] <= words[1]


def test_the_grid_of_the_checkout_is_the_ready_one() -> None:
    ready_quick = ROOT / "mnistbench" / "grid" / "ready" / "quick.yaml"
    assert (ROOT / "grid.yaml").read_bytes() == ready_quick.read_bytes()


def test_a_ready_grid_is_planned_by_its_name_and_the_line_says_which(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From anywhere, as after `pip install`; a name that is nearly one is pointed out."""
    assert cli.main(["plan", "table_mini_batch"]) == 0
    said = capsys.readouterr().out
    assert "grid: table_mini_batch, which comes with mnistbench; `init table_mini_batch` writes it here to edit" in said
    assert cli.main(["plan", "levres"]) == 2
    assert "neither a file nor a ready grid; did you mean `levers`?" in capsys.readouterr().err


def test_a_file_of_that_name_goes_before_a_ready_grid(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "levers").write_text("name: mine\n")
    assert cli.main(["plan", "levers"]) == 2
    said = capsys.readouterr()
    assert "levers:1:1" in said.err and "comes with mnistbench" not in said.out


def test_init_writes_a_ready_grid_with_its_table_and_replaces_nothing(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["init", "table_full_batch"]) == 0
    assert (work / "table_full_batch.yaml").is_file() and (work / "table.csv").is_file()
    (work / "table_full_batch.yaml").unlink()
    assert cli.main(["init", "table_full_batch"]) == 2
    assert "table.csv: is there already, and was not replaced" in capsys.readouterr().err
    assert not (work / "table_full_batch.yaml").exists()


def test_data_shows_what_lies_where(work: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder that was named, with what is in it."""
    assert cli.main(["data"]) == 0
    assert f"$MNISTBENCH_DATA ({data_dir})" in capsys.readouterr().out


def test_data_draws_samples(work: Path, digit_images: Component, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a dataset that `data fetch` has brought."""
    assert cli.main(["data", "fetch", digit_images.name]) == 0
    assert "60,000 + 10,000" in capsys.readouterr().out
    assert cli.main(["data", "show", digit_images.name, "--count", "12", "--out", "samples.png"]) == 0
    from PIL import Image

    with Image.open("samples.png") as drawn:
        assert drawn.width > drawn.height
        assert len(set(drawn.convert("L").tobytes())) > 50

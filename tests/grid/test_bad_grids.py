"""Whatever a grid file holds: one clear message per mistake, with its place and the way out, all of them at once."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from mnistbench.errors import UserError
from mnistbench.grid.grid import Grid
from mnistbench.grid.yaml import MAX_BYTES, MAX_DEPTH, MAX_VALUES

GOOD = {
    "name": "small",
    "dataset": "mnist",
    "architectures": "[mlp]",
    "optimizers": "[sgd]",
    "batch_sizes": "[64]",
    "training": "{epochs: 1}",
}


def grid_text(**changes: str) -> str:
    """A good grid with some lines replaced; `name` is line 1, `dataset` 2, …, what is added follows from line 7 on."""
    return "\n".join(f"{key}: {value}" for key, value in {**GOOD, **changes}.items()) + "\n"


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        Grid.from_text(text, source="grid.yaml", overrides=overrides)
    return str(caught.value).split("\n")


def only_problem(text: str, *overrides: str) -> str:
    [problem] = problems(text, *overrides)
    return problem


def file_problem(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        Grid.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_grid_that_the_cases_begin_from_is_good() -> None:
    assert Grid.from_text(grid_text()).count() == 3


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert file_problem(tmp_path / "none.yaml") == f"{tmp_path}/none.yaml: there is no such file"


def test_a_folder_is_no_grid(tmp_path: Path) -> None:
    assert "is a folder" in file_problem(tmp_path)


def test_a_path_with_a_nul_or_a_file_below_a_file_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in file_problem(Path("a\0b"))
    (tmp_path / "file").touch()
    assert "cannot be read" in file_problem(tmp_path / "file" / "grid.yaml")


@pytest.mark.parametrize("content", ["", "\n\n", "# only a comment\n", "---\n", "﻿", "~\n"])
def test_an_empty_file_is_said_to_be_empty(tmp_path: Path, content: str) -> None:
    (tmp_path / "g.yaml").write_text(content)
    assert re.search(r"g\.yaml:\d:\d: (is empty|a grid is a mapping.*found nothing)", file_problem(tmp_path / "g.yaml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: \xff\xfe\x00", ":1:1: is not UTF-8 text"),
        (b"name: x\ndata: \xc3(", ":2:1: is not UTF-8 text"),
        ("name: x".encode("utf-16"), "is not UTF-8 text"),
        (b"name: \x00\n", ":1:7: a NUL byte cannot stand in a YAML file"),
        (b"name: x\ndataset: \x1b[31m", ":2:10: the character U+001B cannot"),
        (bytes(range(256)) * 100, "is not UTF-8 text"),
    ],
)
def test_binary_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "g.yaml").write_bytes(content)
    assert message in file_problem(tmp_path / "g.yaml")


def test_a_file_with_a_byte_order_mark_and_windows_line_ends_is_read(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_bytes(b"\xef\xbb\xbf" + grid_text().replace("\n", "\r\n").encode())
    assert Grid.load(tmp_path / "g.yaml").name == "small"


def test_a_file_of_100_megabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    import tracemalloc

    with (tmp_path / "g.yaml").open("wb") as file:
        file.truncate(100_000_000)
    tracemalloc.start()
    message = file_problem(tmp_path / "g.yaml")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"is larger than {MAX_BYTES:,} bytes" in message
    assert peak < 3 * MAX_BYTES


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="a device file of Unix")
def test_an_endless_file_is_refused() -> None:
    assert "is larger than" in file_problem(Path("/dev/zero"))


@pytest.mark.parametrize("text", ["[" * 5000, "a: " + "[" * 5000 + "]" * 5000, "{a: " * 3000, "- " * 5000, "? " * 5000])
def test_deep_nesting_is_refused(text: str) -> None:
    assert f"nested more than {MAX_DEPTH} deep" in only_problem(text) or "expected" in only_problem(text)


def test_more_values_than_any_grid_has_are_refused() -> None:
    assert f"more than {MAX_VALUES:,} values" in only_problem("a: [" + "1," * (MAX_VALUES + 10) + "]")


def test_an_alias_bomb_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert f"more than {MAX_VALUES:,} values, aliases counted" in only_problem("\n".join(lines))


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "&a [*a, *a]", "&a {*a : 1}"])
def test_an_alias_inside_itself_is_refused(text: str) -> None:
    assert "contains itself" in only_problem(text)


def test_an_alias_of_nothing_is_refused() -> None:
    assert only_problem("name: *nobody") == "grid.yaml:1:7: `*nobody` stands for nothing: no `&nobody` before it"


def test_an_ordinary_alias_is_read() -> None:
    text = grid_text(optimizers="[{name: sgd, lr: &lr 0.1}, {name: adam, lr: *lr}]")
    assert [entry.values["lr"] for entry in Grid.from_text(text).axes.optimizers] == [[0.1], [0.1]]


def test_a_mistake_that_an_alias_repeats_is_refused_once() -> None:
    assert only_problem(grid_text(optimizers="[{name: sgd, lr: &lr -1}, {name: adam, lr: *lr}]")).count("above 0") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name:\tx\n\ta: 1", "grid.yaml:1:6: a tab cannot stand here; use spaces"),
        ("a:\n\tb: 1", "grid.yaml:2:1: a tab cannot stand here; use spaces"),
        ("a: [1, 2", "grid.yaml:1:9: expected ',' or ']'"),
        (
            "a: [1, 2\nb: 3",
            "grid.yaml:2:2: expected ',' or ']', but got ':' (while parsing a flow sequence that began in",
        ),
        ("a: {b: 1\nc: [", "grid.yaml:2:2:"),
        ("a: 'x", "found unexpected end of stream"),
        ("a: b: c", "grid.yaml:1:5: mapping values are not allowed here"),
        ("a: 1\n  b: 2\n", "grid.yaml:2:4: mapping values are not allowed here"),
        ("a: @x", "grid.yaml:1:4: found character '@' that cannot start any token"),
        ('a: "\\UFFFFFFFF"', "is no YAML after this place"),
        ("a: 1\n---\nb: 2", "grid.yaml:2:1: a second document begins here; write one grid per file"),
        ("a: 1\n...\n---\nb: 2", "a second document begins here"),
        ("%YAML 1.1\n---\na: 1", "%-directives are not read"),
        ("%TAG ! tag:x,2000:\n---\na: 1", "%-directives are not read"),
        ("- a\n- b", "grid.yaml:1:1: a grid is a mapping that begins with `name: …`, found a list"),
        ("just words", "a grid is a mapping that begins with `name: …`, found `just words`"),
        ("? [a, b]\n: 1", "grid.yaml:1:3: a key must be a word, found a list or a mapping"),
        ("a: 1\nb: 2\na: 3", "grid.yaml:3:1: the key `a` is here twice (first in line 1); keep one"),
        ("a: {x: 1, 'x': 2}", "grid.yaml:1:11: the key `x` is here twice"),
        ("a: &a {x: 1}\nb:\n  <<: *a", "grid.yaml:3:3: merge keys (`<<`) are not read; write the options out"),
        ("a: !!python/object/apply:os.system [id]", "the tag `!!python/object/apply:os.system` is not read"),
        ("a: !!python/name:os.system", "the tag `!!python/name:os.system` is not read"),
        ("a: !!int '3'", "the tag `!!int` is not read"),
        ("a: !mine 3", "the tag `!mine` is not read"),
        (f"a: {'1' * 5000}", "grid.yaml:1:4: a number of 5,000 digits"),
    ],
)
def test_what_is_no_plain_yaml_is_refused_with_its_place(text: str, message: str) -> None:
    assert message in only_problem(text)


def test_a_tag_runs_no_code(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    problems(f"name: !!python/object/apply:pathlib.Path.touch [!!python/object:pathlib.Path ['{witness}']]")
    assert not witness.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # names and keys
        ({"optimisers": "[sgd]"}, "7:1: unknown key `optimisers`; did you mean `optimizers`?"),
        ({"Name": "x"}, "7:1: unknown key `Name`; did you mean `name`?"),
        ({"dataset": "mnits"}, "2:10: unknown dataset `mnits`; did you mean `mnist`?"),
        ({"dataset": "no"}, "2:10: unknown dataset `no`; there are mnist, "),
        (
            {"dataset": "{name: mnist, normalise: true}"},
            "2:24: unknown option `normalise` of `mnist`; did you mean `norm",
        ),
        ({"dataset": "{name: mnist, fallback: digit}"}, "2:34: unknown dataset `digit`; did you mean `digits`?"),
        ({"dataset": "{name: mnist, fallback: mnist}"}, "2:10: the fallback is the dataset itself"),
        ({"dataset": "[mnist, kmnist]"}, "2:10: a grid has one dataset, found a list"),
        (
            {"dataset": "{name: mnist, normalize: [true, false]}"},
            "2:10: a grid has one dataset; its options are no axes",
        ),
        ({"dataset": "csv"}, "2:10: `csv` needs `path`: text"),
        ({"dataset": "{path: x.csv}"}, "2:10: this dataset has no `name`"),
        ({"dataset": "3"}, "2:10: the name of the dataset must be text, found `3`"),
        ({"dataset": ""}, "the name of the dataset must be text, found nothing"),
        ({"architectures": "[mlpp]"}, "3:17: unknown architecture `mlpp`; did you mean `mlp`?"),
        ({"architectures": "[MLP]"}, "3:17: unknown architecture `MLP`; did you mean `mlp`?"),
        ({"architectures": "[no]"}, "3:17: unknown architecture `no`; there are"),
        ({"architectures": "[true]"}, "3:17: the name of the architecture must be text, found `true`"),
        ({"architectures": "[[mlp]]"}, "3:17: one architecture must be a name or a mapping, found a list"),
        ({"architectures": "[{name: [], hidden: [3]}]"}, "3:24: `name` must be a name, found an empty list"),
        (
            {"architectures": "[{name: mlp, hiden: [3]}]"},
            "3:29: unknown option `hiden` of `mlp`; did you mean `hidden`?",
        ),
        ({"architectures": "[{name: mlp, data: 3}]"}, "3:29: unknown option `data` of `mlp`"),
        ({"optimizers": "[{name: sgd, parameters: 3}]"}, "4:26: unknown option `parameters` of `sgd`"),
        ({"optimizers": "[{name: sgd, schedule: cosin}]"}, "4:36: unknown schedule `cosin`; did you mean `cosine`?"),
        ({"optimizers": "[{name: sgd, schedule: []}]"}, "4:36: `schedule` is an empty list"),
        ({"execution": "quick"}, "7:12: unknown execution `quick`; there are plain, fast"),
        ({"execution": "{threads: -1}"}, "7:22: `threads` must be a whole number of at least 0, found `-1`"),
        ({"execution": "{chunk: -5}"}, "7:20: `chunk` must be a whole number of at least 0 or auto, found `-5`"),
        ({"dataset": "{name: sum3, data_seed: 4294967296}"}, "0 and below 4,294,967,296, found `4294967296"),
        ({"dataset": "{name: csv, path: a.csv, split_seed: 4294967296}"}, "and below 4,294,967,296, found `4294967296"),
        (
            {"execution": "{precision: bf61}"},
            "7:24: `precision` must be one of fp32, tf32, bf16, fp16, found `bf61`; did",
        ),
        ({"on_missing_device": "ignore"}, "7:20: `on_missing_device` must be one of error, skip, found `ignore`"),
        # plug-ins are never imported because a grid names them
        (
            {"architectures": "['os:system']"},
            "3:17: `os:system` is a plug-in, and plug-ins are imported only when the com",
        ),
        ({"optimizers": "['my.own:Opt']"}, "add `--plugin my.own`"),
        ({"dataset": "'my:data'"}, "add `--plugin my.py`"),
        ({"execution": "'my:data'"}, "7:12: unknown execution `my:data`"),
        # numbers
        ({"optimizers": "[{name: sgd, lr: '0.1'}]"}, '4:30: `lr` must be a number above 0, found the text "0.1"; take'),
        (
            {"batch_sizes": '["64"]'},
            '5:15: `batch_size` must be a whole number above 0 or full, found the text "64"; tak',
        ),
        ({"seeds": "['1']"}, "take the quotes off"),
        ({"training": "{epochs: '1'}"}, "take the quotes off"),
        ({"name": "064"}, "1:7: `name` must be text, found `064`; put quotes around it"),
        ({"name": "true"}, "1:7: `name` must be text, found `true`"),
        ({"name": ""}, "`name` must be text, found nothing"),
        ({"name": "[x]"}, "1:7: `name` must be text, found a list"),
        ({"batch_sizes": "[12:30]"}, "5:15: `batch_size` must be a whole number above 0 or full, found `12:30`"),
        ({"training": "{epochs: 12:30}"}, "6:20: `epochs` must be a whole number above 0, found `12:30`"),
        ({"training": "{epochs: true}"}, "found `true`"),
        ({"training": "{epochs: 2.0}"}, "`epochs` must be a whole number above 0, found `2.0`"),
        ({"training": "{epochs: 1_000}"}, "found `1_000`"),
        ({"training": "{epochs: 0}"}, "found `0`"),
        ({"training": "{epochs: -3}"}, "found `-3`"),
        ({"training": "{epochs: }"}, "found nothing"),
        ({"training": "{epochs: {a: 1}}"}, "found a mapping"),
        ({"batch_sizes": "[true]"}, "found `true`"),
        ({"batch_sizes": "[0]"}, "found `0`"),
        ({"batch_sizes": "[-64]"}, "found `-64`"),
        ({"batch_sizes": "[64.5]"}, "found `64.5`"),
        ({"batch_sizes": "[1e3]"}, "found `1e3`"),
        ({"batch_sizes": "[null]"}, "found nothing"),
        ({"batch_sizes": "[[64]]"}, "found a list"),
        (
            {"batch_sizes": "[60001]"},
            "5:15: batch size 60,001 is larger than the 60,000 training examples of mnist; write",
        ),
        ({"batch_sizes": "[1000000000000000000000000]"}, "is larger than the 60,000 training examples"),
        (
            {"batch_sizes": "[60000]", "training": "{epochs: 1, validation_examples: 1}"},
            "larger than the 59,999 training",
        ),
        (
            {"training": "{epochs: 1, validation_examples: 60000}"},
            "6:11: 60,000 validation examples leave none of the 60,0",
        ),
        ({"optimizers": "[{name: sgd, lr: nan}]"}, "found `nan`"),
        ({"optimizers": "[{name: sgd, lr: .nan}]"}, "found `.nan`, which is not finite"),
        ({"optimizers": "[{name: sgd, lr: .inf}]"}, "found `.inf`, which is not finite"),
        ({"optimizers": "[{name: sgd, lr: -.inf}]"}, "which is not finite"),
        ({"optimizers": "[{name: sgd, lr: 1e999}]"}, "`1e999`, which is not finite"),
        ({"optimizers": "[{name: adam, betas: [.nan, 0.9]}]"}, "4:35: `betas` must be a list of 2 values, each"),
        ({"optimizers": "[{name: sgd, lr: 0}]"}, "`lr` must be a number above 0, found `0`"),
        ({"optimizers": "[{name: sgd, lr: -0.1}]"}, "found `-0.1`"),
        ({"optimizers": "[{name: sgd, lr: fast}]"}, "found `fast`"),
        ({"optimizers": "[{name: sgd, lr: true}]"}, "found `true`"),
        ({"optimizers": "[{name: sgd, lr: }]"}, "found nothing"),
        ({"optimizers": "[{name: sgd, lr: " + "9" * 99 + "}, {name: sgd, momentum: 1}]"}, "found `1`"),
        ({"optimizers": "[{name: sgd, momentum: 1.0}]"}, "a number of at least 0 and below 1, found `1.0`"),
        (
            {"optimizers": "[{name: sgd, momentum: [0.9, 0.0], nesterov: true}]"},
            "4:21: `sgd(nesterov=True)`: nesterov needs a momentum above 0",
        ),
        ({"optimizers": "[{name: sgd, nesterov: no}]"}, "`nesterov` must be true or false, found `no`"),
        ({"optimizers": "[{name: sgd, nesterov: 1}]"}, "`nesterov` must be true or false, found `1`"),
        (
            {"optimizers": "[{name: adam, betas: [0.9]}]"},
            "`betas` must be a list of 2 values, each a number of at least 0",
        ),
        ({"optimizers": "[{name: adam, betas: 0.9}]"}, "found `0.9`"),
        ({"optimizers": "[{name: adam, betas: [0.9, 1.5]}]"}, "4:40: `betas` must be a list of 2 values"),
        (
            {"architectures": "[{name: mlp, hidden: [8, 0]}]"},
            "3:41: `hidden` must be a list of values, each a whole number",
        ),
        (
            {"architectures": "[{name: mlp, hidden: 8}]"},
            "3:37: `hidden` must be a list of values, each a whole number abo",
        ),
        ({"architectures": "[{name: mlp, hidden: [[8], 4]}]"}, "3:38: `hidden` must be a list of values"),
        ({"seeds": "[-1]"}, "7:9: `seed` must be a whole number of at least 0 and below 4,294,967,296, found `-1`"),
        ({"seeds": "[4294967296]"}, "found `4294967296`"),
        ({"seeds": "[0.5]"}, "found `0.5`"),
        ({"seeds": "3"}, "7:8: `seeds` must be a list such as `[0, 1, 2]`, found `3`"),
        ({"twins": "-1"}, "7:8: `twins` must be a whole number of at least 0, found `-1`"),
        (
            {"training": "{epochs: 1, target_accuracy: 0}"},
            "`target_accuracy` must be a number above 0 and of at most 1",
        ),
        ({"training": "{epochs: 1, target_accuracy: 97}"}, "found `97`"),
        ({"training": "{epochs: 1, target_accuracy: 97%}"}, "found `97%`"),
        ({"training": "{epochs: 1, target_accuracy: -0.5}"}, "found `-0.5`"),
        ({"training": "{epochs: 1, stop_at_target: true}"}, "6:23: `stop_at_target` needs a `target_accuracy`"),
        ({"training": "{epochs: 1, los: mse}"}, "6:23: unknown option `los` of `training`; did you mean `loss`?"),
        ({"training": "{epochs: 1, loss: mce}"}, "unknown loss `mce`; did you mean `mse`?"),
        ({"training": "{loss: mse}"}, "6:11: `training` needs `epochs`: a whole number above 0"),
        ({"training": "3"}, "6:11: `training` must be a mapping such as `{epochs: 2}`, found `3`"),
        # a loss that does not fit the network's last layer
        ({"training": "{epochs: 1, loss: nll}"}, "3:17: the loss nll needs `head: log_softmax`, which `mlp` has not"),
        (
            {"training": "{epochs: 1, loss: bce}", "dataset": "{name: csv, path: a.csv}"},
            "3:17: the loss bce needs `output: sigmoid`, which `mlp` has not",
        ),
        # a loss that does not fit the data
        (
            {"training": "{epochs: 1, loss: bce}", "architectures": "[{name: mlp, output: sigmoid}]"},
            "6:11: the loss bce needs one output for a label of 0 or 1, and mnist has 10 classes",
        ),
        (
            {"dataset": "{name: csv, path: a.csv}"},
            "6:11: the loss cross_entropy needs an output for each class, and csv has one in all: write `loss: bce`",
        ),
        (
            {"dataset": "{name: mnist, fallback: {name: csv, path: a.csv}}"},
            "6:11: the loss cross_entropy needs an output for each class, and csv has one in all",
        ),
        # empty and duplicated axes
        ({"architectures": "[]"}, "3:16: `architectures` must be a list such as `[mlp]`, found an empty list"),
        ({"architectures": ""}, "`architectures` must be a list such as `[mlp]`, found nothing"),
        ({"architectures": "mlp"}, "3:16: `architectures` must be a list such as `[mlp]`, found `mlp`"),
        ({"optimizers": "[]"}, "4:13: `optimizers` must be a list such as `[sgd]`, found an empty list"),
        ({"batch_sizes": "[]"}, "5:14: `batch_sizes` must be a list such as `[64, 512]`, found an empty list"),
        ({"batch_sizes": "64"}, "5:14: `batch_sizes` must be a list such as `[64, 512]`, found `64`"),
        ({"seeds": "[]"}, "found an empty list"),
        ({"devices": "[]"}, "found an empty list"),
        ({"optimizers": "[{name: sgd, lr: []}]"}, "4:30: `lr` is an empty list"),
        ({"training": "{epochs: []}"}, "6:20: `epochs` is an empty list"),
        ({"architectures": "[mlp, lenet5, mlp]"}, "3:30: `mlp` is here twice (first in line 3); keep one"),
        ({"architectures": "[mlp, {name: mlp, activation: relu}]"}, "3:29: `mlp` is here twice"),
        ({"optimizers": "[{name: sgd, lr: [0.1, 0.2]}, {name: sgd, lr: 0.2}]"}, "`sgd(lr=0.2)` is here twice"),
        ({"optimizers": "[{name: sgd, lr: [0.1, 1e-1]}]"}, "4:36: `1e-1` is in `lr` twice (first in line 4); keep one"),
        ({"optimizers": "[sgd, {name: sgd, schedule: constant}]"}, "`sgd` is here twice"),
        ({"batch_sizes": "[64, 128, 64]"}, "5:24: `64` is in `batch_size` twice (first in line 5); keep one"),
        ({"seeds": "[1, 1]"}, "7:12: `1` is in `seed` twice"),
        ({"devices": "[cuda, 'cuda:0']"}, "`cuda` is in `devices` twice"),
        ({"execution": "[fast, {profile: fast, precision: fp32}]"}, "`fast` is here twice"),
        # devices
        ({"devices": "[gpu]"}, "7:11: a device must be cpu, cuda, cuda:1 or mps, found `gpu`; did you mean `cuda`?"),
        ({"devices": "[cdua]"}, "did you mean `cuda`?"),
        ({"devices": "['cuda:x']"}, "a device must be"),
        ({"devices": "[1]"}, "a device must be"),
        ({"devices": "cpu"}, "7:10: `devices` must be a list such as `[cpu, cuda]`, found `cpu`"),
        # cycles of speed blocks
        (
            {"speed": "{cycles: 9}"},
            "7:17: `cycles` must be a whole number of at least 10 and of at most 1,000, found `9`",
        ),
        ({"speed": "{cycles: 1001}"}, "found `1001`"),
        (
            {"speed": "{cycles: [16, 32]}"},
            "7:17: `cycles` must be a whole number of at least 10 and of at most 1,000, fo",
        ),
        ({"speed": "{cycle: 16}"}, "7:9: unknown option `cycle` of `speed`; did you mean `cycles`?"),
        ({"speed": "on"}, "7:8: `speed` must be off, or a mapping such as `{cycles: 16}`, found `on`"),
        ({"speed": "16"}, "7:8: `speed` must be off, or a mapping such as `{cycles: 16}`, found `16`"),
        ({"speed": ""}, "`speed` must be off, or a mapping such as `{cycles: 16}`, found nothing"),
        # names become folders and experiments
        ({"name": "../up"}, "1:7: the name `../up` may hold letters, digits"),
        ({"name": "a/b"}, "the name `a/b` may hold"),
        ({"name": "a\\b"}, "may hold"),
        ({"name": ".hidden"}, "may hold"),
        ({"name": "'..'"}, "may hold"),
        ({"name": "''"}, "may hold"),
        ({"name": "' x'"}, "may hold"),
        ({"name": "x."}, "may hold"),
        ({"name": "a:b"}, "may hold"),
        ({"name": '"a\\nb"'}, "the name `a\\nb` may hold"),
        ({"name": '"a\\u0007b"'}, "the name `a\\x07b` may hold"),
        ({"name": '"a\\u202eb"'}, "the name `a\\u202eb` may hold"),
        ({"name": '"a\\u200bb"'}, "the name `a\\u200bb` may hold"),
        ({"name": '"u\\u0308"'}, "may hold"),
        ({"name": "x" * 300}, "takes 300 bytes, more than 200"),
        ({"name": "con"}, "is no folder name on Windows"),
        ({"name": "NUL.yaml"}, "is no folder name on Windows"),
        # exclude and include
        ({"exclude": "[{architecture: mpl}]"}, "7:26: unknown architecture `mpl`; did you mean `mlp`?"),
        ({"exclude": "[{batchsize: 64}]"}, "7:12: unknown key `batchsize`; did you mean `batch_size`?"),
        ({"exclude": "[{batch_size: 128}]"}, "7:11: this entry of `exclude` leaves out nothing"),
        ({"exclude": "[{batch_size: '64'}]"}, "take the quotes off"),
        ({"exclude": "[{architecture: {name: mlp, hidden: [9]}}]"}, "leaves out nothing"),
        ({"exclude": "[{training: {epochs: 5}}]"}, "leaves out nothing"),
        ({"exclude": "[{}]"}, "7:11: an entry of `exclude` must be a mapping such as"),
        ({"exclude": "[mlp]"}, "7:11: an entry of `exclude` must be a mapping such as"),
        ({"exclude": "{batch_size: 64}"}, "7:10: `exclude` must be a list, found a mapping"),
        (
            {"exclude": "[{batch_size: []}]"},
            "7:24: `batch_size` is an empty list",
        ),
        ({"exclude": "[{architecture: mlp}]"}, "1:1: no cell is left: `exclude` leaves out all of them"),
        (
            {"include": "[mlp]"},
            "7:11: an entry of `include` must be a mapping with architecture, optimizer, batch_size",
        ),
        (
            {"include": "[{architecture: mlp, optimizer: sgd, batch_size: 64}]"},
            "7:11: this entry of `include` is in the ",
        ),
        ({"include": "[{architecture: mlp, optimizer: sgd, batch_size: []}]"}, "7:59: `batch_size` is an empty list"),
        (
            {"include": "[{architecture: mlp, optimizer: sgd, batch_size: 99999}]"},
            "batch size 99,999 is larger than the",
        ),
    ],
)
def test_a_mistake_is_said_with_its_place(changes: dict[str, str], message: str) -> None:
    found = only_problem(grid_text(**changes))
    assert message in found
    assert re.match(r"grid\.yaml:\d+:\d+: ", found)


@pytest.mark.parametrize(
    "changes",
    [
        {"exclude": "[{architecture: lenet5}]"},
        {"exclude": "[{batch_size: 64, architecture: mlp}]", "batch_sizes": "[64, 512]"},
        {"exclude": "[{training: {loss: nll}, seed: 0}]"},
        {"architectures": "[cnn]", "include": "[{architecture: mlp, optimizer: sgd, batch_size: 8}]"},
        {"training": "{epochs: 1, loss: [cross_entropy, nll]}"},
    ],
)
def test_a_loss_that_does_not_fit_a_network_is_refused_whatever_is_excluded_or_included(
    changes: dict[str, str],
) -> None:
    """As long as a cell of both is left."""
    text = grid_text(**{"architectures": "[mlp, lenet5]", "training": "{epochs: 1, loss: nll}", **changes})
    assert "the loss nll needs `head: log_softmax`, which `mlp` has not" in problems(text)[0]


@pytest.mark.parametrize(
    "exclude", ["[{architecture: mlp, training: {loss: nll}}]", "[{architecture: mlp}]", "[{training: {loss: nll}}]"]
)
def test_a_loss_that_does_not_fit_a_network_may_be_excluded_with_it(exclude: str) -> None:
    text = grid_text(architectures="[mlp, cnn]", training="{epochs: 1, loss: [cross_entropy, nll]}", exclude=exclude)
    assert Grid.from_text(text).count() > 0


def test_a_loss_that_does_not_fit_data_from_a_plug_in_is_refused_when_they_are_there() -> None:
    """How many classes they have is known only then."""
    grid = Grid.from_text(grid_text(dataset="{name: csv, path: a.csv, task: classes}"))
    grid.check_data("my_data:rows", 3)
    with pytest.raises(UserError, match="the loss cross_entropy needs an output for each class, and my_data:rows has"):
        grid.check_data("my_data:rows", 1)


@pytest.mark.parametrize("key", GOOD)
def test_a_key_that_a_grid_needs_is_asked_for(key: str) -> None:
    text = "\n".join(line for line in grid_text().splitlines() if not line.startswith(f"{key}:"))
    assert only_problem(text) == f"grid.yaml:1:1: a grid needs `{key}:`"


def test_an_included_cell_must_be_complete() -> None:
    assert problems(grid_text(include="[{architecture: mlp}]")) == [
        "grid.yaml:7:11: an entry of `include` needs `batch_size:`",
        "grid.yaml:7:11: an entry of `include` needs `optimizer:`",
    ]


def test_contradictory_options_of_a_schedule_are_refused() -> None:
    text = grid_text(optimizers="[{name: sgd, schedule: {name: cosine, warmup_steps: 5, warmup_fraction: 0.1}}]")
    problem = only_problem(text)
    assert problem.startswith("grid.yaml:4:43: `cosine(")
    assert problem.endswith("`: give warmup_steps or warmup_fraction, not both")


def test_all_mistakes_are_said_at_once_in_the_order_of_the_file() -> None:
    text = grid_text(
        name="a/b",
        dataset="mnits",
        architectures="[mpl, {name: lenet5, pool: mix}]",
        optimizers="[{name: sgd, lr: -1, momentum: 2}]",
        batch_sizes="[0, 64]",
        training="{epochs: 0, target_accuracy: 2}",
        seds="[1]",
        devices="[gpu]",
    )
    found = [problem.split(": ")[0] for problem in problems(text)]
    places = ["1:7", "2:10", "3:17", "3:43", "4:30", "4:44", "5:15", "6:20", "6:40", "7:1", "8:11"]
    assert found == [f"grid.yaml:{place}" for place in places]


def test_a_batch_too_large_is_said_beside_other_mistakes() -> None:
    assert len(problems(grid_text(batch_sizes="[70000]", name="a/b"))) == 2


def test_a_thousand_mistakes_are_cut_short() -> None:
    found = problems(grid_text(batch_sizes=f"[{', '.join(['-1'] * 1000)}]"))
    assert len(found) == 51
    assert found[-1] == "and 950 more"


def test_a_product_of_over_100_000_cells_is_refused_with_the_way_out() -> None:
    numbers = ", ".join(map(str, range(1, 318)))
    text = grid_text(seeds=f"[{numbers}]", batch_sizes=f"[{numbers}]", twins="0")
    assert only_problem(text) == (
        "grid.yaml: this grid has 100,489 cells, more than 100,000; make an axis shorter, exclude combinations, "
        "or allow it with `--max-cells 100489`"
    )
    assert Grid.from_text(text, max_cells=100_489).count() == 100_489


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs=0", "--set training.epochs=0: `epochs` must be a whole number above 0, found `0`"),
        ("training.epoch=1", "--set training.epoch=1: unknown option `epoch` of `training`; did you mean `epochs`?"),
        ("epochs=1", "--set epochs=1: unknown key `epochs`"),
        ("training.epochs", "--set training.epochs: write KEY=VALUE, such as training.epochs=1"),
        ("=1", "--set =1: write KEY=VALUE"),
        ("training..epochs=1", "write KEY=VALUE"),
        ("training.epochs=", "--set training.epochs=: has no value"),
        ("training.epochs=[1", "expected ',' or ']'"),
        (
            "optimizers.lr=1",
            "--set optimizers.lr=1: `optimizers` is a list; say which entry, optimizers.0 to optimizers.0",
        ),
        ("optimizers.3.lr=1", "`optimizers` is a list; say which entry"),
        ("batch_sizes.0.x=1", "`batch_sizes.0` is `64`, and holds no `x`"),
        ("batch_sizes=[70000]", "--set batch_sizes=[70000]: batch size 70,000 is larger than the 60,000"),
        ("name=!!python/name:os.system", "is not read"),
        ("architectures=[os:system]", "add `--plugin os`"),
        ("training.epochs=1\n2", "--set training.epochs=1\\n2"),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str) -> None:
    assert message in only_problem(grid_text(), override)


def test_an_override_may_leave_a_pattern_without_a_match() -> None:
    text = grid_text(exclude="[{batch_size: 128}]", batch_sizes="[64, 128]")
    assert Grid.from_text(text, overrides=["batch_sizes=[64]"]).axes.batch_sizes == (64,)


TUNED = {"seeds": "[0, 1]", "tune": "{learning_rates: [0.1, 0.01]}"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune": "[0.1]"}, "8:7: `tune` must be a mapping such as `{learning_rates: [0.1, 0.01]}`, found a list"),
        ({"tune": "{}"}, "8:7: `tune` needs `learning_rates`"),
        (
            {"tune": "{learning_rate: [0.1], learning_rates: [0.1]}"},
            "8:8: unknown option `learning_rate` of `tune`; did you mean",
        ),
        ({"tune": "{learning_rates: []}"}, "`learning_rates` is an empty list"),
        ({"tune": "{learning_rates: 0.1}"}, "`learning_rates` must be a list of values, each a number above 0"),
        ({"tune": "{learning_rates: [0.1, 0]}"}, "8:30: `learning_rates` must be a list of values"),
        (
            {"tune": "{learning_rates: [0.1, 0.1]}"},
            "8:30: `0.1` is in `learning_rates` twice (first in line 8); keep one",
        ),
        ({"tune": "{learning_rates: {adam: [0.1], sgd: [0.1]}}"}, "`adam` is no optimizer of this grid"),
        ({"tune": "{learning_rates: [0.1], trials: 2}"}, "`trials` is 2, and `sgd` has 1 learning rates to try"),
        ({"tune": "{learning_rates: [0.1], trials: 0}"}, "`trials` must be a whole number above 0"),
        ({"tune": "{learning_rates: [0.1], seeds: [1]}"}, "8:38: seed 1 is one of the grid's own"),
        ({"tune": "{learning_rates: [0.1], seeds: []}"}, "`seeds` is an empty list"),
        (
            {"seeds": "[1000]"},
            "8:7: seed 1000 is one of the grid's own; what the trials pick is measured on fresh seeds",
        ),
        ({"optimizers": "[{name: sgd, lr: 0.1}]"}, "4:21: `sgd` says an `lr`, and `tune` picks it; keep one"),
        ({"training": "{epochs: 1, validation_examples: 5}"}, "6:11: `training.validation_examples` is not that of"),
        ({"tune": "{learning_rates: [0.1], validation_examples: 60000}"}, "leave none of the 60,000"),
        (
            {"dataset": "sum3"},
            "10,000 validation examples leave none of the 7,000 of sum3 to train on; `tune` holds them out, and takes",
        ),
        (
            {"include": "[{architecture: mlp, optimizer: sgd, batch_size: 96, seed: 1000}]"},
            "seed 1000 is one of `tune`'s; an entry of `include` is measured on others",
        ),
        (
            {"include": "[{architecture: mlp, optimizer: {name: sgd, lr: 0.5}, batch_size: 96}]"},
            "9:49: `sgd` says an `lr`, and `tune` picks it; keep one of the two",
        ),
        (
            {
                "include": "[{architecture: mlp, optimizer: adam, batch_size: 96}]",
                "tune": "{learning_rates: {sgd: [0.1]}}",
            },
            "8:24: `learning_rates` has none for `adam`",
        ),
        (
            {
                "include": "[{architecture: mlp, optimizer: sgd, batch_size: 96, "
                "training: {epochs: 2, validation_examples: 5}}]"
            },
            "9:73: `training.validation_examples` is not that of `tune`",
        ),
    ],
)
def test_a_mistake_in_the_tuning_is_said(changes: dict[str, str], message: str) -> None:
    assert message in only_problem(grid_text(**{**TUNED, **changes}))


def test_each_optimizer_must_get_as_many_trials_as_the_others() -> None:
    rates = "{learning_rates: {sgd: [0.1, 0.2], adam: [0.01]}}"
    text = grid_text(**{**TUNED, "optimizers": "[sgd, adam]", "tune": rates})
    assert "each optimizer must get as many learning rates as the others (sgd 2, adam 1)" in only_problem(text)
    text = text.replace("{sgd: [0.1, 0.2], adam: [0.01]}", "{sgd: [0.1, 0.2]}")
    assert "`learning_rates` has none for `adam`" in only_problem(text)


def test_nothing_outside_the_project_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_models.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for axis in ("architectures", "optimizers"):
        assert "add `--plugin evil_models.py`" in only_problem(grid_text(**{axis: "['evil_models:Net']"}))
    assert "evil_models" not in sys.modules

"""CSV files, right and wrong."""

from __future__ import annotations

import codecs

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnistbench.data.arrays import check, notes_on_labels
from mnistbench.data.csv import CsvTable, read_rows, read_table
from mnistbench.errors import UserError

ROWS = [(i, i * 0.5, (i * 7) % 5 - 2, i % 2) for i in range(10)]
GOOD = "id,a,b,label\n" + "".join(f"{i},{a},{b},{y}\n" for i, a, b, y in ROWS)


def read(text: str | bytes, **options: object):
    content = text.encode() if isinstance(text, str) else text
    return read_table(content, CsvTable(**options), "t.csv")


def refused(text: str | bytes, **options: object) -> str:
    with pytest.raises(UserError) as error:
        read(text, **options)
    return str(error.value)


def test_a_table_is_read_and_split() -> None:
    arrays = read(GOOD, index_column="id")
    check(arrays)
    assert arrays.spec.input_shape == (2,)
    assert (arrays.spec.train_examples, arrays.spec.test_examples) == (7, 3)
    assert arrays.spec.classes == 1
    together = np.concatenate([arrays.train_inputs, arrays.test_inputs])
    assert sorted(together[:, 0].tolist()) == [i * 0.5 for i in range(10)]


def test_rows_keep_their_labels_through_the_split() -> None:
    arrays = read(GOOD, index_column="id")
    for inputs, labels in ((arrays.train_inputs, arrays.train_labels), (arrays.test_inputs, arrays.test_labels)):
        assert ((inputs[:, 0] * 2) % 2 == labels).all()


def test_another_split_seed_splits_otherwise() -> None:
    one, other = (read(GOOD, index_column="id", split_seed=seed) for seed in (0, 1))
    assert sorted(one.test_inputs[:, 0]) != sorted(other.test_inputs[:, 0])


def test_columns_may_be_numbered_and_chosen() -> None:
    by_name = read(GOOD, features=("b", "a"), label="label")
    by_number = read(GOOD, features=(2, 1), label=-1)
    assert np.array_equal(by_name.train_inputs, by_number.train_inputs)
    assert by_name.train_inputs[:, 1].max() == 4.5


def test_a_table_without_header_is_read_by_numbers() -> None:
    headless = GOOD.split("\n", 1)[1]
    arrays = read(headless, header=False, index_column=0)
    assert np.array_equal(arrays.train_inputs, read(GOOD, index_column="id").train_inputs)


@pytest.mark.parametrize(
    "text",
    [
        "﻿" + GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r"),
        GOOD + "\n\n,,,\n",
        GOOD.replace(",", ", "),
        "".join(", ".join(f'"{cell}"' for cell in line.split(",")) + "\n" for line in GOOD.splitlines()),
        GOOD.encode("utf-16"),
        codecs.BOM_UTF16_BE + GOOD.encode("utf-16-be"),
        "sep=;\r\n" + GOOD.replace(",", ";"),
        GOOD.replace("\n", ",,\n"),
        GOOD.replace("\n", ",\n").replace("label,", "label"),
    ],
    ids=[
        "bom",
        "crlf",
        "cr",
        "empty rows",
        "spaces",
        "quotes",
        "utf-16",
        "utf-16 be",
        "sep",
        "empty columns",
        "commas at the end",
    ],
)
def test_ways_of_writing_the_same_table(text: str | bytes) -> None:
    """A byte-order mark, other line ends, empty rows at the end, spaces; what Excel writes."""
    assert np.array_equal(read(text, index_column="id").train_inputs, read(GOOD, index_column="id").train_inputs)


def test_standardizing_is_fitted_on_the_training_part_alone() -> None:
    plain, scaled = read(GOOD, index_column="id"), read(GOOD, index_column="id", standardize=True)
    assert np.allclose(scaled.train_inputs.mean(axis=0), 0, atol=1e-6)
    assert np.allclose(scaled.train_inputs.std(axis=0), 1, atol=1e-6)
    mean, std = plain.train_inputs.mean(axis=0), plain.train_inputs.std(axis=0)
    assert np.allclose(scaled.test_inputs, (plain.test_inputs - mean) / std, atol=1e-6)


def test_classes_are_numbered_in_the_order_of_numbers_then_words() -> None:
    text = "a,kind\n" + "".join(f"{i},{kind}\n" for i, kind in enumerate(["10", "2", "cat", "ape"] * 3))
    arrays = read(text, task="classes", index_column=None)
    assert arrays.spec.class_names == ["2", "10", "ape", "cat"]
    assert arrays.spec.classes == 4


def test_an_index_that_is_used_as_a_feature_is_pointed_out() -> None:
    (note,) = read(GOOD).notes
    assert "`id` counts the rows" in note and "index_column: id" in note
    assert read(GOOD, index_column="id").notes == ()


def test_so_is_the_index_of_rows_that_were_shuffled() -> None:
    header, *rows = GOOD.splitlines(keepends=True)
    (note,) = read(header + "".join(rows[::2] + rows[1::2])).notes
    assert "`id` counts the rows" in note


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "t.csv: is empty"),
        (" \n\n", {}, "t.csv: is empty"),
        (",,\n,,\n", {}, "t.csv: has only empty rows"),
        ("a,label\n", {}, "t.csv: has no rows"),
        (b"a,label\n1,0\n\x00\x01,1\n", {}, "t.csv: is binary"),
        (b"a,label\n1,0\n\xff,1\n", {}, "t.csv:3: is not UTF-8"),
        ('a,label\n1,0\n"2,1\n', {}, "t.csv:3: unexpected end"),
        ("a,b,label\n1,2,0\n1,1\n", {}, "t.csv:3: 2 values, expected 3"),
        ("a,b,label\n1,2,0\n1,2,3,1\n", {}, "t.csv:3: 4 values, expected 3"),
        ("a,label\n1,0\n,1\n", {}, "t.csv:3: column `a`: a value is missing"),
        ("a,label\n1,0\nNaN,1\n", {}, "t.csv:3: column `a`: a value is missing"),
        ("a,label\n1,0\n2,\n", {}, "t.csv:3: label `label`: a value is missing"),
        ("a,label\n1,0\nred,1\n", {}, "t.csv:3: column `a`: `red` is no number"),
        ("a\x1b[2J,label\n1,0\n\x0b\u2028,1\n", {}, r"t.csv:3: column `a\x1b[2J`: a value is missing"),
        ("a,label\n1,0\ninf,1\n", {}, "t.csv:3: column `a`: `inf` is no number"),
        ("a,label\n1,0\n1e39,1\n", {}, "t.csv:3: column `a`: `1e39` is no number"),
        ("a,label\n1,0\n1_000,1\n", {}, "t.csv:3: column `a`: `1_000` is no number"),
        ("a,b,label\n4,5,0\n4,5,1\n", {}, "every feature has the same value in all rows"),
        (
            "5.1,3.5,setosa\n4.9,3.0,setosa\n",
            {"task": "classes"},
            "t.csv:1: the first row (`5.1`, `3.5`, `setosa`, …) is no",
        ),
        ("T,8,3,5\nI,9,1,2\n", {"task": "classes", "label": 0}, "say `header: false`"),
        ('"a","label"\n"1",1,0\n"2",2,1\n', {}, "t.csv:1: the first row names 2 columns, and each other has 3 values"),
        ('a,label\n"1,234",0\n"5,678",1\n', {}, "(`1.234`), or without the comma (`1234`) if it parts off thousands"),
        ("a,label\n1,0\n2,NA\n", {"task": "classes"}, "(`NA` counts as missing: write it otherwise if it is a class)"),
        (
            ",0,1,label\n0,2,3,0\n1,3,4,1\n",
            {"label": 1},
            "label: 1 is the name of one column and the number of another",
        ),
        (
            "id,a,label\n0,2,0\n1,3,1\n",
            {"index_column": "id", "features": ["id", "a"]},
            "the index_column is among them",
        ),
        (b"\x1f\x8b\x08\x00", {}, "t.csv: is packed by gzip, not a CSV text; unpack it"),
        (b"PK\x03\x04\x14\x00", {}, "t.csv: is a zip or Excel file"),
        ("a,b,label\n1,1000000000000001,0\n2,1000000000000002,1\n", {}, "same value in all rows once it is float32"),
        ("a,b,label\n1,1e-320,0\n2,2e-320,1\n", {}, "as networks take it; say `standardize: true`"),
        ("a,b,label\n1,1e-320,0\n2,2e-320,1\n", {"standardize": True}, "as networks take it; rescale it"),
        ("a,label\n1,0\n2,0\n", {}, "label `label` is 0 in all rows"),
        ("a,label\n1,x\n2,x\n", {"task": "classes"}, "label `label` is `x` in all rows"),
        (
            "a,label\n1,0\n2,2\n",
            {},
            "t.csv:3: label `label`: `2` is neither 0 nor 1; for other labels say `task: classes`",
        ),
        ("a,a,label\n1,2,0\n2,3,1\n", {}, "2 columns are named `a`"),
        ("1,2,0\n2,3,1\n", {}, "t.csv:1: the first row holds numbers, not names of columns; say `header: false`"),
        ("a;b;label\n1;2;0\n", {}, "separated by ';'? say `delimiter`"),
        ("a,label\n1,0\n2,1\n", {"label": "y"}, "label: there is no column 'y'; the columns are a, label"),
        ("a,label\n1,0\n2,1\n", {"index_column": 5}, "index_column: there is no column 5"),
        ("a,label\n1,0\n2,1\n", {"features": ("label",)}, "features: the label is among them"),
        ("a,b,label\n1,3,0\n2,4,1\n", {"features": ("a", 0)}, "features: a column is there twice"),
        ("a,label\n1,0\n2,1\n", {"index_column": "a"}, "no column is left as a feature"),
        ("a,label\n1,0\n2,1\n", {"delimiter": "::"}, "`delimiter` is one character"),
        ("a,label\n1,0\n2,1\n", {"test_fraction": 0.0}, "both parts need one at least"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str | bytes, options: dict[str, object], message: str) -> None:
    assert message in refused(text, **options)


def test_a_wrong_label_is_not_also_called_constant() -> None:
    assert len(refused("a,label\n1,0\n2,2\n").splitlines()) == 1


def test_a_measurement_is_no_class() -> None:
    text = "a,y\n" + "".join(f"{i},{i * 0.37}\n" for i in range(30))
    assert "30 different values: is it a measurement" in refused(text, task="classes")


def test_everything_wrong_is_said_at_once_but_not_a_thousand_lines() -> None:
    said = refused("a,b,label\n" + "x,y,7\n" * 1_000 + "1,2,0\n").splitlines()
    assert said[:3] == [
        "t.csv:2: column `a`: `x` is no number that can be trained on",
        "t.csv:2: column `b`: `y` is no number that can be trained on",
        "t.csv:3: column `a`: `x` is no number that can be trained on",
    ]
    assert len(said) == 11
    assert "more like these" in said[-1]


def test_a_column_of_words_is_one_line_with_the_way_out() -> None:
    said = refused("a,sex,when,b,label\n" + "".join(f"{i},male,,{i},{i % 2}\n" for i in range(100))).splitlines()
    assert said == [
        "t.csv: column `sex` holds no number (`male`): leave it out (`features` says which to take) or write numbers",
        "t.csv: column `when` holds no number: leave it out (`features` says which to take) or write numbers",
    ]


def test_true_and_false_are_numbers_as_features() -> None:
    """Pandas writes one-hot columns so."""
    words, numbers = ("".join(f"{i * i},{flag(i % 3 == 0)},{i % 2}\n" for i in range(10)) for flag in (bool, int))
    assert np.array_equal(read("a,flag,label\n" + words).train_inputs, read("a,flag,label\n" + numbers).train_inputs)


def labelled(*labels: str) -> str:
    return "a,kind\n" + "".join(f"{number * 0.5},{label}\n" for number, label in enumerate(labels * 4))


@pytest.mark.parametrize(
    ("spellings", "name"),
    [
        (["2", "2.0", " +2", "2e0", "02", '"2"', "'2'"], "2"),
        (["True", "true", "TRUE"], "TRUE"),
        (["caf\u00e9", "cafe\u0301"], "caf\u00e9"),
        (["cat", " cat ", '"cat"', "'cat'"], "cat"),
    ],
)
def test_spellings_of_one_label_are_one_class_and_it_is_said(spellings: list[str], name: str) -> None:
    arrays = read(labelled(*spellings, "zebra"), task="classes")
    assert arrays.spec.class_names == [name, "zebra"]
    (note,) = arrays.notes
    assert note.startswith("t.csv: label `kind`: different spellings are counted as one class: ")
    assert "`zebra`" not in note


def test_half_of_the_labels_as_2_and_half_as_2_0_are_the_labels_of_one_export() -> None:
    mixed = read(labelled("0", "1", "2", "0.0", "1.0", "2.0"), task="classes")
    clean = read(labelled("0", "1", "2", "0", "1", "2"), task="classes")
    assert np.array_equal(mixed.train_labels, clean.train_labels)
    assert mixed.spec == clean.spec


@pytest.mark.parametrize(
    "labels",
    [
        ("a", "A"),
        ("12345678901234567", "12345678901234568"),
        ("1e-99999999999999999999", "1"),
        ("a b", "ab"),
    ],
)
def test_labels_that_differ_stay_apart(labels: tuple[str, ...]) -> None:
    """Letters in their case, long numbers in their last digit."""
    assert len(read(labelled(*labels), task="classes").spec.class_names) == 2


def test_words_that_differ_in_case_alone_are_pointed_out() -> None:
    (note,) = read(labelled("Yes", "yes"), task="classes").notes
    assert "`Yes` and `yes` differ in upper and lower case alone, and are counted as 2 classes" in note


def test_labels_of_0_and_1_may_be_spelled_in_several_ways_too() -> None:
    assert set(read(labelled("0", "1.0", "'1'", "0e0")).train_labels.tolist()) == {0, 1}


def test_a_stratified_split_leaves_no_class_out_of_training() -> None:
    labels = ["common"] * 28 + ["rare"] * 3 + ["single"]
    text = "a,kind\n" + "".join(f"{number * 0.5},{label}\n" for number, label in enumerate(labels))
    for seed in range(20):
        arrays = read(text, task="classes", split_seed=seed, stratified=True)
        check(arrays)
        assert np.bincount(arrays.train_labels).tolist() == [20, 2, 1]
        assert np.bincount(arrays.test_labels).tolist() == [8, 1]


def test_a_split_that_leaves_a_class_out_of_training_is_noted() -> None:
    labels = ["common"] * 28 + ["rare"]
    text = "a,kind\n" + "".join(f"{number * 0.5},{label}\n" for number, label in enumerate(labels))
    split = [read(text, task="classes", split_seed=seed) for seed in range(20)]
    for arrays in split:
        untrained = 1 not in arrays.train_labels
        assert bool(notes_on_labels(arrays)) == untrained
        assert not untrained or "no training example is of class `rare`" in notes_on_labels(arrays)[0]
    assert any(1 not in arrays.train_labels for arrays in split)


def test_columns_and_what_was_taken_off_them_are_described() -> None:
    spec = read(GOOD, index_column="id", standardize=True).spec
    plain = read(GOOD, index_column="id")
    assert spec.columns == ["a", "b"]
    assert spec.column_means == pytest.approx(plain.train_inputs.mean(axis=0).tolist(), abs=1e-6)
    assert spec.column_deviations == pytest.approx(plain.train_inputs.std(axis=0).tolist(), abs=1e-6)
    assert plain.spec.column_means == []


def test_numbers_that_are_the_names_of_columns_are_taken_for_names_where_no_other_column_is_meant() -> None:
    """As pandas writes an array, with its index; years."""
    text = GOOD.replace("id,a,b,label", ",0,1,2024")
    by_name = read(text, index_column="", label=2024)
    assert np.array_equal(by_name.train_inputs, read(GOOD, index_column="id").train_inputs)
    (note,) = read(text).notes
    assert note.endswith('say `index_column: ""`')


def test_names_as_pandas_gives_them_to_an_array_are_names() -> None:
    text = GOOD.replace("id,a,b,label", "0,1,2,3")
    assert np.array_equal(read(text, index_column=0).train_inputs, read(GOOD, index_column="id").train_inputs)
    assert "the first row numbers the columns, and is trained on" in read(text, header=False, task="classes").notes[-1]


def test_plus_and_minus_are_labels() -> None:
    assert read(labelled("+", "-"), task="classes").spec.class_names == ["+", "-"]


def test_columns_of_one_value_are_trained_on_and_said() -> None:
    """The corners of pictures written as tables of pixels are black in all of them."""
    text = GOOD.replace("\n", ",0.1\n").replace("label,0.1", "label,corner")
    arrays = read(text, index_column="id", label="label", standardize=True)
    assert arrays.spec.columns == ["a", "b", "corner"]
    assert not arrays.train_inputs[:, 2].any()
    assert arrays.notes == ("t.csv: 1 column with the same value in all rows: `corner`",)


def test_a_column_of_one_value_in_the_training_part_is_not_divided_by_rounding() -> None:
    """Seven times 0.1 has a deviation of 1e-17; the one other value, in the test part, would become 1e16."""
    tested = np.random.RandomState(0).permutation(10)[0]
    text = "a,b,label\n" + "".join(f"{i * i},{0.3 if i == tested else 0.1},{i % 2}\n" for i in range(10))
    arrays = read(text, standardize=True)
    assert arrays.train_inputs[:, 1].tolist() == [0] * 7
    assert arrays.test_inputs[:, 1].tolist() == pytest.approx([0.2, 0, 0])


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("".join(f"{i * i},{i % 2},{i % 2}\n" for i in range(10)), "in each class all values are the same of `b`"),
        (
            "".join(f"{i % 3 == 0:d},{i % 3 == 1:d},{i % 3 == 2:d}\n" for i in range(10)),
            "`a`, `b` and the label add up to 1",
        ),
        ("".join(f"{i * i},{i},{i % 2}\n" for i in range(10)) * 3, "of 9 test examples stand in the training part too"),
    ],
    ids=["label twice", "one-hot", "rows twice"],
)
def test_what_tells_the_label_is_pointed_out(text: str, note: str) -> None:
    assert any(note in said for said in read("a,b,label\n" + text).notes)


@pytest.mark.parametrize(
    ("trained_on", "options", "rows"),
    [
        (GOOD, {"index_column": "id"}, "b,x,a\n7,?,6\n"),
        (GOOD, {"index_column": "id"}, "6,7\n"),
        (GOOD.split("\n", 1)[1], {"header": False, "features": (1, 2)}, "6,7\n"),
        (GOOD.split("\n", 1)[1], {"header": False, "features": (1, 2)}, "9,6,7,1\n"),
    ],
    ids=["named, in another order", "without a header", "numbered", "numbered, with other columns"],
)
def test_rows_for_a_model_are_read_by_its_columns(trained_on: str, options: dict[str, object], rows: str) -> None:
    spec = read(trained_on, **options).spec
    values, lines = read_rows(rows.encode(), spec, "rows.csv", header=bool(options.get("header", True)))
    assert values.tolist() == [[6, 7]]
    assert lines == [rows.count("\n")]


def test_no_row_is_taken_for_a_header_because_its_label_is_a_word() -> None:
    """Of a table without a header, the first row was left out."""
    text = "".join(f"{i * i},{i * 0.5},{'setosa' if i % 2 else 'other'}\n" for i in range(10))
    spec = read(text, header=False, task="classes").spec
    values, lines = read_rows(text.encode(), spec, "rows.csv", header=False)
    assert values.tolist() == [[i * i, i * 0.5] for i in range(10)]
    assert lines == list(range(1, 11))
    assert read_rows(b"x,y\n1,2\n", spec, "rows.csv", header=False)[0].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a\n1\n", "rows.csv: there is no column b; the model was trained on a, b"),
        ("a,b,a\n1,2,3\n", "rows.csv: 2 columns are named `a`"),
        ("1,2,3\n", "rows.csv:1: 3 columns; the model was trained on 2"),
        ("a;b\n1;2\n", "columns must be separated by ',', as in training"),
        ("a,b\n1,red\n", "rows.csv:2: column `b`: `red` is no number"),
        ("a,b\n1,2\n1\n", "rows.csv:3: 1 values, expected 2"),
        ("a,b\n", "rows.csv: has no rows"),
        ("", "rows.csv: is empty"),
    ],
)
def test_rows_that_do_not_fit_a_model_are_said_with_their_place(rows: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_rows(rows.encode(), read(GOOD, index_column="id").spec, "rows.csv")
    assert message in str(caught.value)


CELLS = st.sampled_from(["0", "1", "2.5", "-3", "", "NaN", "red", '"', "1e400", "٣", " 1 ", "a,b", "'"]) | st.text(
    max_size=5
)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.lists(CELLS, max_size=4), max_size=6),
    st.sampled_from(["binary", "classes"]),
    st.booleans(),
)
def test_any_table_is_read_or_refused(rows: list[list[str]], task: str, header: bool) -> None:
    """Fuzz: fit arrays or a UserError that names the file, and nothing else."""
    content = "\n".join(",".join(row) for row in rows).encode("utf-8", "surrogatepass")
    try:
        arrays = read_table(content, CsvTable(task=task, header=header), "t.csv")  # type: ignore[arg-type]
    except UserError as error:
        assert str(error).startswith("t.csv")
    else:
        check(arrays)


def test_decimal_commas_are_one_line_and_not_one_a_value() -> None:
    """As Excel writes tables in many countries; with the columns' separator named, and without."""
    table = "a;b;y\n" + "".join(f"1,{row};-2,5e1;{row % 2}\n" for row in range(200))
    assert refused(table, delimiter=";") == (
        "t.csv:2: 400 numbers with a decimal comma, `1,0` the first; write them with a point (`1.0`)"
    )
    assert refused(table).endswith("are its columns separated by ';'? say `delimiter`")
    assert "\n" not in refused(table)
    assert "`1,234,567` is no number" in refused(table.replace("1,0;", "1,234,567;"), delimiter=";")

"""Charts and tables of the report: what they say, what they survive, and that colour is never the only sign."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mnistbench.report import charts, palette, svg
from mnistbench.report.sections import classes, devices, first, learning, noise, throughput, time
from mnistbench.report.sections.noise import against_first
from mnistbench.report.tables import UNREACHED, Column, table
from mnistbench.words import wording

HOSTILE = ["_hidden", "$x^2$ \\frac{", "<script>alert(1)</script>", "漢字", "\u202egnihton", "a\x00b"]
BLIND = {  # Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB
    "normal": np.eye(3),
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour: str) -> np.ndarray:
    """sRGB text to linear RGB."""
    parts = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """Linear RGB to CIE L*a*b*."""
    matrix = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = np.array(matrix) @ rgb / np.array([0.95047, 1, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one: str, other: str) -> float:
    """WCAG contrast ratio."""
    weights = np.array([0.2126, 0.7152, 0.0722])
    dark, bright = sorted(float(linear(colour) @ weights) for colour in (one, other))
    return (bright + 0.05) / (dark + 0.05)


def speeds(**changes: Any) -> pd.DataFrame:
    """`throughput_by_batch` of one network on two batches."""
    rows = pd.DataFrame(
        {
            "architecture_label": "mlp", "device": "cpu", "batch_size": [64, 512], "status": "ok",
            "examples_per_second": [20_000.0, 60_000.0], "eval_examples_per_second": [90_000.0, 90_000.0],
        }
    )  # fmt: skip
    return rows.assign(**changes)


def ratios(**changes: Any) -> pd.DataFrame:
    """`device_speedups` of one series."""
    rows = pd.DataFrame(
        {
            "baseline": "cpu", "device": "cuda", "series": "mlp · sgd", "batch_size": [64, 512, 8192],
            "ratio": [0.5, 1.02, 64.0], "low": [0.4, 0.9, 60.0], "high": [0.6, 1.1, 70.0],
            "verdict": ["slower", "open", "faster"],
        }
    )  # fmt: skip
    return rows.assign(**changes)


# Colours


@pytest.mark.parametrize("sight", BLIND)
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_series_colours_are_told_apart_by_every_eye(sight: str, mode: str) -> None:
    """The nearest two of the palette are 18 apart in CIE Lab, under each kind of colour blindness."""
    seen = [lab(np.clip(np.array(BLIND[sight]) @ linear(getattr(colour, mode)), 0, 1)) for colour in palette.SERIES]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > 18


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_lines_and_texts_stand_out_from_the_page(mode: str) -> None:
    """WCAG: 3:1 for lines, 4.5:1 for text."""
    paper = getattr(palette.PAPER, mode)
    assert min(contrast(getattr(colour, mode), paper) for colour in palette.SERIES) > 3
    words = [palette.INK, palette.MUTED, palette.GOOD, palette.BAD, palette.WARN]
    assert min(contrast(getattr(colour, mode), paper) for colour in words) > 4.5


@pytest.mark.parametrize("colour", [*palette.DIVERGING, *palette.SEQUENTIAL], ids=lambda colour: colour.name)
def test_numbers_on_a_map_can_be_read_in_light_and_dark(colour: palette.Colour) -> None:
    """Each colour of the heat maps carries an ink with 4.5:1 in both modes."""
    ink = next(one for one in (palette.ON_LIGHT, palette.ON_DEEP) if one.light == palette.ink_on(colour))
    assert contrast(colour.light, ink.light) > 4.5
    assert contrast(colour.dark, ink.dark) > 4.5


def test_a_series_differs_by_marker_and_line_style_too() -> None:
    """Thirty series: no two share colour and line style, nor colour and marker."""
    seen = list(charts.looks([str(number) for number in range(30)]).values())
    assert len({(look.colour, look.dashes) for look in seen}) == 30
    assert len({(look.colour, look.marker) for look in seen}) == 30


def test_charts_draw_in_colours_that_the_page_can_swap() -> None:
    """Every colour in a chart is one of the palette's, so that dark mode misses none."""
    styles = svg.StyleSheet()
    for chart in (throughput.throughput_chart(speeds(), "a"), devices.speedup_map(ratios(), "b", "steady")):
        assert chart is not None
        drawn = svg.inline(chart.svg(), name=chart.name, label=chart.alt, styles=styles)
        assert not re.search(r'(fill|stroke)="#', drawn)
    assert not re.findall(r"#[0-9a-f]{6}", styles.css())


# SVG


def hostile_chart() -> charts.Chart:
    rows = pd.concat([speeds(architecture_label=name) for name in HOSTILE])
    chart = throughput.throughput_chart(rows, "hostile")
    assert chart is not None
    return chart


def test_every_label_is_in_the_legend_as_it_is() -> None:
    """Leading underscores, mathtext, tags and CJK are drawn as text."""
    source = hostile_chart().svg()
    for name in ("_hidden", "$x^2$ \\frac{", "&lt;script&gt;alert(1)&lt;/script&gt;", "漢字"):
        assert f"{name}</text>" in source


def test_control_characters_do_not_break_the_picture() -> None:
    """A NUL, which XML cannot hold, becomes the replacement character."""
    assert "a\ufffdb</text>" in hostile_chart().svg()


def test_text_from_right_to_left_keeps_to_itself() -> None:
    """An override inside a name ends with the name."""
    assert charts.one_line("\u202egnihton · batch 64", 40) == "\u2068\u202egnihton\u2069 · batch 64"
    assert charts.one_line("mlp · batch 64", 40) == "mlp · batch 64"


def test_an_inline_picture_has_no_style_and_ids_of_its_own() -> None:
    """What the policy forbids is gone, and two charts on a page share no id."""
    chart, styles = hostile_chart(), svg.StyleSheet()
    one = svg.inline(chart.svg(), name="one", label="says", styles=styles)
    two = svg.inline(chart.svg(), name="two", label="says", styles=styles)
    assert "style=" not in one
    assert "<style" not in one
    ids = [set(re.findall(r' id="([^"]+)"', text)) for text in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', one)) <= ids[0]


def test_an_inline_picture_says_what_it_shows() -> None:
    """The alternative text is the picture's label, escaped."""
    drawn = svg.inline(hostile_chart().svg(), name="x", label='"<b>" & more', styles=svg.StyleSheet())
    assert 'role="img"' in drawn
    assert 'aria-label="&quot;&lt;b&gt;&quot; &amp; more"' in drawn


def test_the_same_data_give_the_same_picture() -> None:
    """No dates, no random ids: two reports of the same records do not differ."""
    assert hostile_chart().svg() == hostile_chart().svg()


def test_the_users_own_matplotlib_style_changes_nothing() -> None:
    """Settings of a notebook stay out of the report, and the report's out of the notebook."""
    import matplotlib as mpl

    before = hostile_chart().svg()
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "text.color": "red"}):
        assert hostile_chart().svg() == before
        assert mpl.rcParams["font.size"] == 30


# What each chart shows


def test_throughput_marks_what_ran_out_of_memory() -> None:
    """A cell without a number is a cross with an entry in the legend, and is said."""
    rows = speeds(status=["ok", "out_of_memory"], examples_per_second=[20_000.0, math.nan])
    chart = throughput.throughput_chart(rows, "x")
    assert chart is not None
    assert "out of memory</text>" in chart.svg()
    assert "1 setting ran out of memory" in chart.alt
    plain = throughput.throughput_chart(speeds(), "x")
    assert plain is not None
    assert "out of memory" not in plain.svg()


def test_throughput_is_worded_from_the_data() -> None:
    """Highest and lowest, with where they are."""
    chart = throughput.throughput_chart(speeds(), "x")
    assert chart is not None
    assert "highest 60,000 examples/s (mlp on cpu at batch 512), lowest 20,000 (mlp on cpu at batch 64)" in chart.alt
    assert chart.alt.startswith("Training throughput: "), "one series has no name of its own"


def test_nothing_to_draw_is_no_chart() -> None:
    """Without a number there is no empty pair of axes."""
    assert throughput.throughput_chart(speeds(examples_per_second=math.nan), "x") is None


def test_the_speed_up_map_hatches_what_is_open() -> None:
    """A pattern is there exactly when a verdict is missing."""
    assert "<pattern" in devices.speedup_map(ratios(), "x", "steady").svg()
    assert "<pattern" not in devices.speedup_map(ratios(verdict="faster"), "x", "steady").svg()


def test_the_speed_up_map_counts_what_is_open_of_what_has_a_ratio() -> None:
    """From cold nothing has a verdict, and so nothing is open."""
    chart = devices.speedup_map(ratios(ratio=[math.nan, 1.02, 64.0], verdict=["", "open", "faster"]), "x", "steady")
    assert chart.alt.endswith("1 of 2 open (hatched).")
    assert "open" not in devices.speedup_map(ratios(verdict=""), "x", "cold").alt


@pytest.mark.parametrize("sizes", [(32, 490, 7000, 8192), (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384), (60000,)])
def test_names_of_batch_sizes_do_not_touch(sizes: tuple[int, ...]) -> None:
    with charts.style():
        figure, axes = charts.canvas()
        charts.batch_axis(axes, sizes)
        figure.draw_without_rendering()
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert len(boxes) >= min(3, len(sizes))
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_the_speed_up_map_is_centred_on_one() -> None:
    """1x is neutral, and a ratio and its inverse lie as far to each side."""
    assert devices._diverging_step(1.0) == palette.NEUTRAL
    for ratio in (1.2, 3.0, 6.0):
        above = devices._diverging_step(ratio) - palette.NEUTRAL
        assert 0 < above == palette.NEUTRAL - devices._diverging_step(1 / ratio)


def test_a_ratio_that_may_not_be_printed_is_a_dash() -> None:
    """Where the gate did not pass, the map has no number."""
    drawn = devices.speedup_map(ratios(ratio=[math.nan, 1.02, 64.0]), "x", "steady").svg()
    assert ">–</text>" in drawn
    assert "0.500×" not in drawn


def test_time_to_target_draws_no_seed_that_did_not_reach_it() -> None:
    """An unreached seed is no dot; settings whose median is unreached are no row."""
    board = pd.DataFrame(
        {
            "order": [1, 2], "settings": ["a", "b"], "label": ["mlp · sgd", "cnn · sgd"],
            "seconds_to_target": [3.0, math.inf], "seconds_low": [2.9, math.nan], "seconds_high": [math.inf, math.nan],
            "seconds_values": [[2.9, 3.0, math.inf], [math.inf]],
        }
    )  # fmt: skip
    chart = first.first_at_target(board, "x")
    assert chart is not None
    assert "cnn" not in chart.svg()
    assert chart.alt.startswith("Training time to the target of 1 setting of 2: 3.00 s (mlp · sgd). Dots")
    last = board.assign(seconds_to_target=[3.0, 2.0])  # ranked nowhere, and so not in order
    told = first.first_at_target(last, "x")
    assert told is not None and "from 2.00 s (cnn · sgd) to 3.00 s (mlp · sgd)" in told.alt
    assert first.first_at_target(board.tail(1), "x") is None


def test_error_over_time_thins_what_lies_behind_the_front_and_says_so() -> None:
    """A thousand settings become a few hundred curves at most."""
    rows = pd.DataFrame(
        [
            (f"s{number}", f"label {number}", epoch, 1, epoch * (1 + number), 0.1 / epoch + number * 1e-4)
            for number in range(400)
            for epoch in (1, 2)
        ],
        columns=["settings", "label", "epoch", "n", "seconds", "error"],
    ).assign(error_low=0.01, error_high=0.2)
    rows["target_errors"] = [[0.03]] * len(rows)
    rows["pareto"] = rows["settings"] == "s0"
    chart = time.time_buys(rows, "x")
    drawn = int(re.search(r"(\d+) of 399 other settings are drawn", chart.alt).group(1))  # type: ignore[union-attr]
    assert 100 <= drawn <= time.MOST_GREY
    assert "target 97 %</text>" in chart.svg()
    (goal,) = (text for text in chart.figure.axes[0].texts if text.get_text() == "target 97 %")
    assert goal.get_ha() == "left", "beside the plot, where no curve runs through it"


def test_learning_curves_are_thinned_to_their_ends() -> None:
    """Five thousand epochs become a hundred, the first and the last among them."""
    rows = pd.DataFrame({"epoch": range(1, 5001)})
    thinned = learning.thin(rows)
    assert len(thinned) <= 100
    assert {1, 5000} <= set(thinned["epoch"])


def test_epochs_have_round_ticks() -> None:
    rows = pd.DataFrame({"epoch": range(1, 5001), "batch_size": 64, "n": 1, "train_loss": 0.5, "test_loss": 0.5})
    chart = learning.learning_curve(learning.thin(rows), "x", "x", metric="loss", bounds=(0.1, 1.0), epochs=5000)
    ticks = chart.figure.axes[0].get_xticks()
    assert all(tick % 500 == 0 for tick in ticks) and len(ticks) >= 3


def test_the_confusion_matrix_names_the_most_common_mistake() -> None:
    """In words, with its count."""
    rows = pd.DataFrame(
        [(4, 4, 90, 0.9), (4, 9, 10, 0.1), (9, 9, 97, 0.97), (9, 4, 3, 0.03)],
        columns=["true", "predicted", "count", "share"],
    )
    chart = classes.confusion_map(rows, "x")
    assert "most often 4 taken for 9, 10 times" in chart.alt
    assert ">10</text>" in chart.svg()


def test_runs_flagged_as_noisy_are_crossed_and_counted() -> None:
    """With an entry in the legend, which quiet runs do not need."""
    runs = pd.DataFrame(
        {"label": "mlp", "device": "cpu", "deviation": [0.0, 0.01, -0.2], "noisy": [False, False, True]}
    )
    chart = noise.seed_dots(runs, "x")
    assert "1 are flagged as noisy" in chart.alt
    assert "flagged as noisy</text>" in chart.svg()
    assert "flagged" not in noise.seed_dots(runs.head(2), "x").svg()


def pairs() -> pd.DataFrame:
    """a is 2x faster than b, c is 3x faster than a, c is 6x faster than b."""
    return pd.DataFrame(
        [
            ("a", "b", 2.0, 1.8, 2.2, "faster"),
            ("a", "c", 1 / 3, 0.3, 0.4, "slower"),
            ("b", "c", 1 / 6, 0.15, 0.2, "slower"),
        ],
        columns=["settings_a", "settings_b", "ratio", "low", "high", "verdict"],
    ).assign(label_a=lambda rows: rows["settings_a"], label_b=lambda rows: rows["settings_b"], reason="")


def test_pairs_are_seen_from_the_best_whichever_way_they_were_compared() -> None:
    """Ratios, intervals and verdicts turn round together."""
    best, others = against_first(pairs())
    assert best == "c"
    assert list(others["label"]) == ["a", "b"]
    assert list(others["ratio"]) == pytest.approx([3.0, 6.0])
    assert list(others["low"]) == pytest.approx([2.5, 5.0])
    assert (others["low"] < others["ratio"]).all()
    assert (others["ratio"] < others["high"]).all()
    assert list(others["verdict"]) == ["ahead", "ahead"]


def test_pairs_without_a_ratio_are_left_out() -> None:
    """A pair in which one never reached the target has none."""
    best, others = against_first(pairs().assign(ratio=[2.0, math.inf, math.nan]))
    assert best == "a"
    assert list(others["label"]) == ["b"]


def test_a_wild_interval_does_not_flatten_the_others() -> None:
    """An interval of six decades leaves the plot."""
    assert noise._limits(pd.DataFrame({"ratio": [1.1, 2.0], "low": [1e-3, 1.5], "high": [1e3, 3.0]})) == (
        pytest.approx(0.97 / 3), pytest.approx(6.0),
    )  # fmt: skip


def test_pairs_are_counted_in_a_sentence() -> None:
    """Of all others, drawn or not."""
    best, others = against_first(pairs())
    others["verdict"] = ["ahead", "open"]
    assert "c: ahead of 1 and open against 1 of 2 others." in noise.pair_differences(others, "x", best).alt


def test_differences_that_are_all_open_are_not_called_without_a_verdict() -> None:
    """Settings that never reached the target have no ratio."""
    assert noise._no_verdicts(pairs().assign(ratio=math.nan, verdict="open")).startswith("All differences are open")


# Axes


@pytest.mark.parametrize("limits", [(1.1, 1.5), (0.01, 20.0), (3e-5, 4e6), (12_000, 4_000_000), (0.999, 1.001)])
def test_an_axis_has_round_ticks_inside_its_limits(limits: tuple[float, float]) -> None:
    """Two at least, and no more than there is room for."""
    ticks = charts.log_ticks(*limits)
    assert 2 <= len(ticks) <= 7
    assert all(limits[0] <= tick <= limits[1] for tick in ticks)


def test_labels_at_the_ends_of_lines_do_not_overlap() -> None:
    """They move apart, and keep their order."""
    placed = charts.spread([0.5, 0.51, 0.49, 0.9], 0.1)
    gaps = np.diff(sorted(placed))
    assert gaps.min() > 0.099
    assert np.argsort(placed).tolist() == [2, 0, 1, 3]


def test_labels_at_the_ends_of_lines_stay_inside_the_picture() -> None:
    """Many lines that end at the top push their names down."""
    placed = charts.spread([0.98, 0.97, 0.98, 0.96], 0.085, most=1.0)
    assert max(placed) == 1.0
    assert np.diff(sorted(placed)).min() > 0.084


# Numbers and tables


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123, "12.3 ms"), (0.5, "500 ms"), (0.9999, "1.00 s"), (3.14159, "3.14 s"),
     (754.0, "12 min 34 s"), (7300.0, "2 h 1 min"), (math.inf, "not reached"),
     (None, "–"), (float("nan"), "–")],
)  # fmt: skip
def test_seconds_read_well(value: float | None, text: str) -> None:
    """The unit fits the size, and an unreached target is never a number."""
    assert wording.seconds_text(value) == text


@pytest.mark.parametrize(("value", "text"), [(60_000, "60,000"), (math.inf, "never"), (None, "–")])
def test_a_count_that_is_not_reached_is_a_word(value: float | None, text: str) -> None:
    """A lever that slows training down never pays for its start-up."""
    assert wording.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.497, "0.497×"), (1.016, "1.02×"), (3.961, "3.96×"), (63.7, "63.7×"), (0.0512, "0.0512×")]
)
def test_ratios_carry_as_many_digits_as_they_deserve(value: float, text: str) -> None:
    """Three around 1, two elsewhere."""
    assert wording.times(value) == text


def test_a_long_label_is_cut_in_its_middle() -> None:
    """Settings often differ at the end only."""
    cut = wording.clipped("mlp(hidden=128-256) · sgd(lr=0.1, momentum=0.9) · batch 8192 · cuda", 30)
    assert len(cut) <= 30
    assert cut.startswith("mlp(hidden")
    assert cut.endswith("cuda")


def test_a_column_sorts_by_its_number() -> None:
    """An unreached target sorts behind every time, a missing accuracy below every one."""
    frame = pd.DataFrame({"time": [3.0, math.inf], "text": ["3 s", "not reached"], "accuracy": [0.9, math.nan]})
    shown = table(
        frame, [Column("text", "time", order="time"), Column("accuracy", "accuracy", "percent")], name="x", caption="y"
    )
    assert [row[0].order for row in shown.rows] == ["3", repr(UNREACHED)]
    assert [row[1].order for row in shown.rows] == ["0.9", ""]
    assert [row[1].text for row in shown.rows] == ["90.00 %", "–"]


def test_a_column_that_holds_nothing_is_left_out() -> None:
    """No column of dashes."""
    frame = pd.DataFrame({"a": [1], "b": [None], "c": [""]})
    shown = table(frame, [Column("a", "a"), Column("b", "b"), Column("c", "c")], name="x", caption="y")
    assert [column.key for column in shown.columns] == ["a"]


def test_a_table_says_how_many_rows_it_leaves_out() -> None:
    """Loudly, above it."""
    shown = table(pd.DataFrame({"a": range(1500)}), [Column("a", "a", "count")], name="x", caption="y")
    assert len(shown.rows) == 1000
    assert "first 1,000 of 1,500 rows" in shown.notice

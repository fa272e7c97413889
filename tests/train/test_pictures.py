"""Pictures as people have them: what a dataset's own look like is found out, and others are made like them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnistbench.errors import UserError
from mnistbench.train.pictures import Framing, framing_by_name, measured_framing, read_image


def figures(count: int = 50, shape: tuple[int, int] = (28, 28), box: tuple[int, int] = (20, 14)) -> np.ndarray:
    """Light bars with a foot, in a box in the middle."""
    images = np.zeros((count, *shape), np.uint8)
    top, left = (shape[0] - box[0]) // 2, (shape[1] - box[1]) // 2
    images[:, top : top + box[0], left : left + 3] = 230
    images[:, top + box[0] - 3 : top + box[0], left : left + box[1]] = 230
    return images


def test_the_framing_of_the_digits_is_what_their_makers_say(data_dir: Path) -> None:
    """MNIST's figures have 20 of 28 pixels and are centred by mass; clothes fill the picture."""
    from mnistbench.cell import Component
    from mnistbench.data import datasets

    for name in ("mnist", "fashion_mnist"):
        arrays = datasets.load(datasets.prepare(Component(name=name), data_dir=data_dir).directory)
        assert measured_framing(arrays.train_inputs) == framing_by_name(name)


def test_dark_figures_on_light_paper_are_recognized() -> None:
    found = measured_framing(255 - figures())
    assert (found.dark_on_light, found.fill, found.by_mass) == (True, pytest.approx(20 / 28), False)
    assert (found.darkest, found.lightest) == (25, 255)


def test_pictures_of_both_colours_are_left_as_they_are() -> None:
    """No side can be taken where the training took both."""
    mixed = figures()
    mixed[::2] = 255 - mixed[::2]
    assert measured_framing(mixed).dark_on_light is None


def test_blank_pictures_have_no_framing() -> None:
    assert measured_framing(np.zeros((3, 8, 8), np.uint8)).fill is None


def test_a_large_picture_comes_out_as_the_small_one_it_was_made_from(tmp_path: Path) -> None:
    """Cropped, scaled and laid where the training pictures have their figures, on paper of their colour."""
    paper = 255 - figures()
    framing = measured_framing(paper)
    large = Image.new("L", (400, 300), 255)
    large.paste(Image.fromarray(paper[0]).resize((112, 112), Image.Resampling.NEAREST), (200, 50))
    large.save(tmp_path / "large.png")
    found = read_image(tmp_path / "large.png", shape=(28, 28), framing=framing)
    assert np.abs(found.astype(int) - paper[0]).mean() < 3


def photograph(drawn: np.ndarray, *, grain: float = 6.0) -> np.ndarray:
    """Dark ink on paper that is lit from one side, in shadow towards its corners, grainy, and with a grain of dust."""
    y, x = np.mgrid[-1 : 1 : 1j * drawn.shape[0], -1 : 1 : 1j * drawn.shape[1]]
    light = 190 + 30 * x - 15 * (x**2 + y**2)
    seen = light * (1 - drawn) + 40 * drawn + np.random.RandomState(0).normal(0, grain, drawn.shape)
    seen[8:11, 5:8] = 40
    return np.clip(seen, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("grain", [0, 6, 12])
@pytest.mark.parametrize("negative", [False, True])
def test_a_photograph_comes_out_as_the_small_picture(tmp_path: Path, grain: float, negative: bool) -> None:
    """Light that falls off across the paper was taken for ink, and so were grain and dust."""
    drawn = np.zeros((300, 400))
    drawn[50:162, 200:312] = np.kron(figures()[0] / 230, np.ones((4, 4)))
    photo = photograph(drawn, grain=grain)
    Image.fromarray(255 - photo if negative else photo).save(tmp_path / "photo.jpg", quality=80)
    found = read_image(tmp_path / "photo.jpg", shape=(28, 28), framing=measured_framing(figures()))
    assert np.abs(found.astype(int) - figures()[0]).mean() < 12


def in_shadow(page: np.ndarray) -> np.ndarray:
    """Half of it, with a sharp edge through the figure."""
    return np.where(np.arange(page.shape[1]) < 250, 0.4 * page, page)


def on_a_table(page: np.ndarray) -> np.ndarray:
    return np.pad(page, 40, constant_values=60)


def in_a_drawn_frame(page: np.ndarray) -> np.ndarray:
    return np.pad(np.pad(page, 4, constant_values=30), 12, constant_values=220)


def with_a_dark_edge(page: np.ndarray) -> np.ndarray:
    return np.pad(page, 4, constant_values=30)


@pytest.mark.parametrize("grain", [0, 3])
@pytest.mark.parametrize("surroundings", [in_shadow, on_a_table, in_a_drawn_frame, with_a_dark_edge])
def test_shadows_tables_and_frames_are_no_figure(
    tmp_path: Path, surroundings: Callable[[np.ndarray], np.ndarray], grain: float
) -> None:
    """Of handwriting, which is strokes; what a garment is, is wide."""
    drawn = np.zeros((300, 400))
    drawn[50:162, 200:312] = np.kron(figures()[0] / 230, np.ones((4, 4)))
    seen = surroundings(220 * (1 - 0.85 * drawn))
    seen = seen + np.random.RandomState(0).normal(0, grain, seen.shape)
    Image.fromarray(np.clip(seen, 0, 255).astype(np.uint8)).save(tmp_path / "photo.png")
    framing = replace(measured_framing(figures()), by_mass=True)
    found, alone = read_image(tmp_path / "photo.png", shape=(28, 28), framing=framing), _alone(tmp_path, drawn, framing)
    assert np.abs(found.astype(int) - alone).mean() < 6


def _alone(folder: Path, drawn: np.ndarray, framing: Framing) -> np.ndarray:
    Image.fromarray((255 * drawn).astype(np.uint8)).save(folder / "alone.png")
    return read_image(folder / "alone.png", shape=(28, 28), framing=framing).astype(int)


@pytest.mark.parametrize("size", [14, 200])
def test_light_strokes_around_a_dark_hole_are_the_figure(tmp_path: Path, size: int) -> None:
    """Also where they reach the border: the hole is no dark stroke on them."""
    y, x = np.ogrid[-1 : 1 : 1j * size, -1 : 1 : 1j * size]
    away = np.hypot(y, 1.3 * x)
    Image.fromarray(np.uint8(255 * ((away > 0.5) & (away < 1.1)))).save(tmp_path / "zero.png")
    found = read_image(tmp_path / "zero.png", shape=(28, 28), framing=framing_by_name("mnist"))
    assert found[14, 14] < 60 < 200 < found[14].max()


def test_a_photograph_of_blank_paper_shows_nothing(tmp_path: Path) -> None:
    for name, grain in [("grainy", 6.0), ("clean", 0.0)]:
        Image.fromarray(photograph(np.zeros((300, 400)), grain=grain)[20:]).save(tmp_path / f"{name}.png")
        assert "nothing to see" in refused(tmp_path / f"{name}.png", framing_by_name("mnist"))


def test_a_thin_line_is_as_bright_as_a_thick_one(tmp_path: Path) -> None:
    """Of a line of one pixel in 20, a twentieth was left."""
    page = np.full((560, 560), 255, np.uint8)
    page[60:500, 280] = 0
    Image.fromarray(page).save(tmp_path / "line.png")
    found = read_image(tmp_path / "line.png", shape=(28, 28), framing=framing_by_name("mnist"))
    assert found.max() == 255


def test_oblong_pictures_are_made_oblong(tmp_path: Path) -> None:
    """Height and width are the network's own."""
    images = figures(shape=(40, 20), box=(30, 12))
    Image.fromarray(images[0]).resize((60, 120), Image.Resampling.NEAREST).save(tmp_path / "tall.png")
    found = read_image(tmp_path / "tall.png", shape=(40, 20), framing=measured_framing(images))
    assert np.abs(found.astype(int) - images[0]).mean() < 3


def refused(path: Path, framing: Framing = Framing()) -> str:  # noqa: B008
    with pytest.raises(UserError) as caught:
        read_image(path, shape=(28, 28), framing=framing)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_picture_with_numbers_that_are_none_is_refused(tmp_path: Path) -> None:
    """A TIFF of floats may hold NaN."""
    pixels = np.random.default_rng(0).random((50, 50), dtype=np.float32)
    pixels[3, 4] = np.nan
    Image.fromarray(pixels).save(tmp_path / "nan.tiff")
    assert "not finite" in refused(tmp_path / "nan.tiff")


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """144 megapixels of one colour are a small file."""
    Image.new("1", (12_000, 12_000)).save(tmp_path / "huge.png")
    assert "has 144 megapixels, and at most 64 are read" in refused(tmp_path / "huge.png")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16"])
def test_a_large_picture_is_reduced_and_read(tmp_path: Path, mode: str) -> None:
    """Of every kind; what is seen stays the same."""
    small = Image.fromarray(figures()[0])
    large = small.resize((5000, 5000), Image.Resampling.NEAREST)
    if mode == "I;16":
        Image.fromarray(np.asarray(large, dtype=np.uint16) * 257).save(tmp_path / "large.png")
    else:
        large.convert(mode).save(tmp_path / "large.png")
    found = read_image(tmp_path / "large.png", shape=(28, 28), framing=measured_framing(figures()))
    assert np.abs(found.astype(int) - figures()[0]).mean() < 4


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a regular file" in refused(tmp_path / "pipe.png")

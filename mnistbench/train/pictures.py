"""Pictures as people have them, made into what a network was trained on: size, colours, framing."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistbench.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

HANDWRITING = {"mnist", "digits"}
"""Datasets whose older models, which do not say how their pictures were framed, take figures of 20 of 28 pixels."""
INK = 40
"""Grey level, of 255, from which a pixel belongs to the figure."""
SPECK = 0.02
"""What is smaller than this share of a picture's largest part is dust."""
WIDEST = 0.25
"""No stroke is as wide as this share of the picture's shorter side."""
PAPER = 0.75
"""What is light and fills more of its box than this is the paper."""
FLAT = 8
"""A picture whose grey levels span less shows nothing."""
MAX_MEGAPIXELS = 64
WORKING_SIDE = 2048
"""Larger pictures are reduced before anything is computed: a network of 28x28 pixels sees no difference."""
MEASURED = 500
"""Training pictures that are looked at to find out how a dataset frames its figures."""


@dataclass(frozen=True, kw_only=True)
class Framing:
    """How a dataset's pictures show their figures.

    Attributes:
        dark_on_light: dark strokes on light paper; None where the pictures differ: colours are then left as they are.
        fill: the longer side of a figure as a share of the picture's; None where the figures are of any size and
            place: a picture is then taken whole.
        by_mass: the figure's centre of mass is in the middle, as in handwriting, else the middle of its box.
        darkest, lightest: grey levels, of 255, in the median picture.
    """

    dark_on_light: bool | None = False
    fill: float | None = 1.0
    by_mass: bool = False
    darkest: float = 0.0
    lightest: float = 255.0


def framing_by_name(dataset: str) -> Framing:
    """For models of older releases: as the makers of MNIST did it, or figures that fill the picture."""
    return Framing(fill=20 / 28, by_mass=True) if dataset in HANDWRITING else Framing()


def measured_framing(images: np.ndarray) -> Framing:
    """Find out from training pictures how a dataset shows its figures.

    Args:
        images: uint8 [n, height, width].
    """
    import numpy as np

    some = images[:: max(1, len(images) // MEASURED)][:MEASURED].astype(np.float32)
    low, high = some.min(axis=(1, 2)), some.max(axis=(1, 2))
    shows = high - low >= FLAT
    if not shows.any():
        return Framing(dark_on_light=None, fill=None)
    some, low, high = some[shows], low[shows], high[shows]
    border = np.concatenate([some[:, 0], some[:, -1], some[:, :, 0], some[:, :, -1]], axis=1).mean(axis=1)
    light = float((border > (low + high) / 2).mean())
    darkest, lightest = float(np.median(low)), float(np.median(high))
    if 0.1 < light < 0.9:
        return Framing(dark_on_light=None, fill=None, darkest=darkest, lightest=lightest)
    figures = (some - low[:, None, None]) * (255 / (high - low))[:, None, None]
    figures = 255 - figures if light > 0.5 else figures
    fills, off_mass, off_box = (np.array(values) for values in zip(*map(_placed, figures), strict=True))
    smallest, largest = np.quantile(fills, [0.1, 0.9])
    return Framing(
        dark_on_light=light > 0.5,
        fill=float(np.median(fills)) if largest - smallest < 0.25 else None,
        by_mass=bool(np.median(off_mass) < np.median(off_box)),
        darkest=darkest,
        lightest=lightest,
    )


def read_image(path: Path, *, shape: tuple[int, int], framing: Framing) -> np.ndarray:
    """Read one image as uint8 [height, width], as the training pictures are.

    An image that already has this size only has its colours mended; any other is cropped to its figure, scaled and
    centred the way the dataset's makers did it.

    Args:
        path: any file that Pillow reads: colour, transparent, 16 bits, rotated by EXIF.
        shape: height and width that the network takes, in pixels.
        framing: of the pictures it was trained on.

    Raises:
        UserError: if the file is missing, is not an image, is too large, or shows nothing.
    """
    import numpy as np

    grey = _grey(path)
    low, high = float(grey.min()), float(grey.max())
    if high - low < FLAT:
        raise UserError(f"{path}: nothing to see: every pixel has the same colour")
    span = framing.lightest - framing.darkest
    is_dark_on_light = bool(_border(grey).mean() > (low + high) / 2)
    as_trained = framing.dark_on_light in (None, is_dark_on_light)
    if grey.shape == shape and high - low >= span / 2:
        return np.asarray(np.round(grey if as_trained else 255 - grey), dtype=np.uint8)
    stretched = (grey - low) * (255 / (high - low))
    if framing.dark_on_light is not None and is_dark_on_light:
        stretched = 255 - stretched
    if grey.shape != shape and framing.fill is not None:
        stretched = _figure(grey, handwriting=framing.by_mass)
        if not stretched.any():
            raise UserError(f"{path}: nothing to see: no figure stands out from what is around it")
    framed = stretched if grey.shape == shape else _framed(np.round(stretched).astype(np.uint8), shape, framing)
    if framing.dark_on_light:
        framed = 255 - framed
    return np.asarray(np.round(framing.darkest + framed * (span / 255)), dtype=np.uint8)


def _figure(grey: np.ndarray, *, handwriting: bool) -> np.ndarray:
    """The figure alone, light on black [height, width], without the light, the grain and the specks of a photograph.

    Args:
        grey: grey levels [height, width].
        handwriting: figures are strokes. What is wider, or reaches the border, is then likely to be a shadow, a frame
            or the table under the paper: if dark strokes stand out from the paper around them and keep off the border,
            these are the figure.
    """
    import numpy as np
    from scipy import ndimage

    figure = _parts(*_off_surface(grey), framed=handwriting)
    ink = figure > INK
    widest = max(8, round(WIDEST * min(grey.shape)))
    is_whole = ink.any() and not _border(ink).any() and not ndimage.minimum_filter(ink, widest).any()
    if ink.any() and np.median(grey[ink]) > np.median(_border(grey)):  # light strokes leave much of their box dark
        top, bottom, left, right = _box(figure)
        is_whole |= bool(ink[top:bottom, left:right].mean() < PAPER)
    if is_whole or not handwriting:
        return figure
    strokes = _parts(*_off_surroundings(grey, widest), framed=True)
    return strokes if strokes.any() and not _border(strokes).any() else figure


def _off_surface(grey: np.ndarray) -> tuple[np.ndarray, float]:
    """What stands out from a surface of second order through the border, and the grain: its deviation there."""
    import numpy as np

    y, x = np.ogrid[-1 : 1 : 1j * grey.shape[0], -1 : 1 : 1j * grey.shape[1]]
    terms: list[Any] = [1, x, y, x * y, x * x, y * y]
    at_border = np.stack([_border(np.broadcast_to(term, grey.shape)) for term in terms], axis=1)
    seen = _border(grey)
    behind, grain = np.full_like(seen, np.median(seen)), 0.0
    for _ in range(4):  # the figure may touch the border: what is far off is left out
        off = abs(seen - behind)
        grain = 1.5 * float(np.median(off))  # the deviation, of a normal distribution
        usual = off <= max(3 * grain, 1)
        weights = np.linalg.lstsq(at_border[usual], seen[usual], rcond=None)[0]
        behind = at_border @ weights
    return grey - sum(weight * term for weight, term in zip(weights, terms, strict=True)), grain


def _off_surroundings(grey: np.ndarray, widest: int) -> tuple[np.ndarray, float]:
    """How much darker each pixel is than the paper around it, in the paper's own light, and the grain.

    The paper is a morphological closing: what is dark and narrower than `widest` pixels is filled. Beyond the border
    everything goes on as it is there, so that a frame or a table is no stroke.
    """
    import numpy as np
    from scipy import ndimage

    even = ndimage.uniform_filter(grey, 3)
    paper = ndimage.grey_closing(np.pad(even, widest, mode="edge"), (widest, widest))[widest:-widest, widest:-widest]
    grain = 1.05 * float(np.median(abs(np.diff(grey, axis=0))))  # the deviation, of a normal distribution
    return (paper - even) * (paper.max() / np.maximum(paper, max(paper.max() / 4, 1))), grain


def _parts(figure: np.ndarray, grain: float, *, framed: bool) -> np.ndarray:
    """What stands out from the grain, light on black up to 255, without dust.

    Args:
        framed: leave out a part that goes around all others, too.
    """
    import numpy as np
    from scipy import ndimage

    smooth = ndimage.uniform_filter(figure, 3)
    if -smooth.min() > smooth.max():
        figure, smooth = -figure, -smooth
    grainy = grain > 1
    highest = float((smooth if grainy else figure).max())
    if highest < max(4 * grain if grainy else 0, FLAT / 2):
        return np.zeros_like(figure)
    parts, _ = ndimage.label(figure > max(INK / 255 * highest, 4 * grain if grainy else 0), np.ones((3, 3)))
    sizes = np.bincount(parts.ravel(), minlength=2)
    sizes[0] = 0
    kept = np.flatnonzero(sizes >= SPECK * max(sizes.max(), 1))
    if framed and len(kept) > 1:
        boxes = ndimage.find_objects(parts)
        widest = max(kept, key=lambda part: parts[boxes[part - 1]].size)
        rows, columns = boxes[widest - 1]
        others = kept[kept != widest]
        top, bottom, left, right = _box(255 * np.isin(parts, others))
        is_around = rows.start < top and bottom < rows.stop and columns.start < left and right < columns.stop
        if is_around and not (parts[top:bottom, left:right] == widest).any():
            kept = others
    shown = ndimage.binary_dilation(np.isin(parts, kept), iterations=2)
    return np.asarray(np.where(shown, np.clip(figure * (255 / highest), 0, 255), 0))


def _border(picture: np.ndarray) -> np.ndarray:
    """The values of its four edges."""
    import numpy as np

    return np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])


def _placed(figure: np.ndarray) -> tuple[float, float, float]:
    """Of a light figure on black: the share it fills, and how far its mass and its box are off the middle."""
    import numpy as np

    height, width = figure.shape
    top, bottom, left, right = _box(figure)
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    mass_y, mass_x = _mass(figure)
    return (
        max((bottom - top) / height, (right - left) / width),
        float(np.hypot(mass_y - middle_y, mass_x - middle_x)),
        float(np.hypot((top + bottom - 1) / 2 - middle_y, (left + right - 1) / 2 - middle_x)),
    )


def _box(figure: np.ndarray) -> tuple[int, int, int, int]:
    """Rows and columns that hold the figure: from, up to (not included)."""
    import numpy as np

    rows, columns = np.flatnonzero((figure > INK).any(axis=1)), np.flatnonzero((figure > INK).any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _mass(figure: np.ndarray) -> tuple[float, float]:
    """Row and column of the centre of mass."""
    import numpy as np

    total = float(figure.sum(dtype=np.float64)) or 1.0
    rows, columns = figure.sum(axis=1, dtype=np.float64), figure.sum(axis=0, dtype=np.float64)
    return float(rows @ np.arange(len(rows))) / total, float(columns @ np.arange(len(columns))) / total


def _grey(path: Path) -> np.ndarray:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        if path.exists() and not path.is_dir() and not path.is_file():  # reading a pipe would wait for ever
            raise UserError(f"{path}: not a regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # said below, in our words
            opened = Image.open(path)
        with opened:
            megapixels = opened.width * opened.height / 1e6
            if megapixels > MAX_MEGAPIXELS:
                raise UserError(_too_large(path, f"{megapixels:.0f} megapixels"))
            return _flattened(ImageOps.exif_transpose(opened))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, not an image") from None
    except UnidentifiedImageError:
        raise UserError(
            f"{path}: not an image that Pillow can read; save it as PNG, JPEG, GIF, BMP, WebP or TIFF"
        ) from None
    except Image.DecompressionBombError:
        raise UserError(
            _too_large(path, f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} megapixels")
        ) from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # what Pillow's readers raise for damaged files
        raise UserError(f"{path}: the image is damaged ({error})") from None


def _too_large(path: Path, size: str) -> str:
    return f"{path}: the image has {size}, and at most {MAX_MEGAPIXELS} are read: make it smaller"


def _flattened(image: Image) -> np.ndarray:
    """Grey levels float32 [height, width] in 0 … 255; what is transparent takes a background unlike the strokes.

    Raises:
        ValueError: if a pixel is not a finite number.
    """
    import numpy as np
    from PIL import Image as Images

    if image.mode.startswith(("I", "F")):  # 16 and 32 bits: Pillow's own conversion would clip them
        deep = np.asarray(image, dtype=np.float32)
        if not np.isfinite(deep).all():
            raise ValueError("some of its pixels are not finite numbers")
        reduced = np.asarray(_reduced(Images.fromarray(deep)), dtype=np.float32)
        low, high = float(reduced.min()), float(reduced.max())
        return (reduced - low) * (255 / (high - low)) if high > low else np.zeros_like(reduced)
    if "A" not in image.getbands() and "transparency" not in image.info:
        return np.asarray(_reduced(image.convert("L")), dtype=np.float32)
    layers: Any = np.asarray(_reduced(image.convert("LA")), dtype=np.float32)
    grey, alpha = layers[..., 0], layers[..., 1] / 255
    seen = grey[alpha > 0.5]
    background = 0.0 if seen.size and seen.mean() > 127 else 255.0
    return np.asarray(grey * alpha + background * (1 - alpha), dtype=np.float32)


def _reduced(image: Image) -> Image:
    """The same picture with no side longer than `WORKING_SIDE` by much."""
    factor = max(image.size) // WORKING_SIDE
    return image.reduce((min(factor, image.width), min(factor, image.height))) if factor > 1 else image


def _framed(grey: np.ndarray, shape: tuple[int, int], framing: Framing) -> np.ndarray:
    """Crop to the figure, scale it into the share of the picture that figures fill, and lay it on black.

    Where the figures of a dataset are of any size and place, the whole picture is scaled instead.
    """
    import numpy as np
    from PIL import Image

    height, width = shape
    top, bottom, left, right = (0, grey.shape[0], 0, grey.shape[1]) if framing.fill is None else _box(grey)
    figure = Image.fromarray(grey[top:bottom, left:right])
    fill = framing.fill or 1.0
    scale = min(fill * width / figure.width, fill * height / figure.height)
    size = (min(max(1, round(figure.width * scale)), width), min(max(1, round(figure.height * scale)), height))
    resized = np.asarray(figure.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC))
    small = np.round(resized * (255 / max(int(resized.max()), 1))).astype(np.uint8)  # thin strokes have become faint
    first_row, first_column = (height - size[1]) // 2, (width - size[0]) // 2
    if framing.by_mass and framing.fill is not None:
        mass_y, mass_x = _mass(small)
        first_row = min(max(round((height - 1) / 2 - mass_y), 0), height - size[1])
        first_column = min(max(round((width - 1) / 2 - mass_x), 0), width - size[0])
    canvas = np.zeros(shape, dtype=np.uint8)
    canvas[first_row : first_row + size[1], first_column : first_column + size[0]] = small
    return canvas

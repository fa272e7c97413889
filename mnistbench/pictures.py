"""Pictures as people have them, made into what an MNIST-shaped network was trained on: light strokes on black."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnistbench.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

HANDWRITING = {"mnist", "digits"}
"""Datasets whose makers scaled each figure to 20 of 28 pixels and centred it by mass; others fill the frame."""
INK = 40
"""Grey level, of 255, from which a pixel belongs to the figure."""


def read_image(path: Path, *, size: int, dataset: str) -> np.ndarray:
    """Read one image as uint8 [size, size], light on dark.

    An image that already has this size only has its colours mended; any other is cropped to its figure, scaled and
    centred the way the dataset's makers did it.

    Args:
        path: any file that Pillow reads: colour, transparent, 16 bits, rotated by EXIF.
        size: side of the square that the network takes, in pixels.
        dataset: name of the dataset it was trained on.

    Raises:
        UserError: if the file is missing, is not an image, or shows nothing.
    """
    grey = _light_on_dark(_grey(path), path)
    if grey.shape == (size, size):
        return grey
    return _framed(grey, size, box=size * 20 // 28 if dataset in HANDWRITING else size, by_mass=dataset in HANDWRITING)


def _grey(path: Path) -> np.ndarray:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            return _flattened(ImageOps.exif_transpose(opened))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, not an image") from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image that Pillow can read (PNG, JPEG, GIF, BMP, WebP, TIFF, …)") from None
    except Image.DecompressionBombError:
        raise UserError(f"{path}: the image is too large") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # what Pillow's readers raise for damaged files
        raise UserError(f"{path}: the image is damaged ({error})") from None


def _flattened(image: Image) -> np.ndarray:
    """Grey levels float32 [height, width] in 0 … 255; what is transparent takes a background unlike the strokes."""
    import numpy as np

    if image.mode.startswith(("I", "F")):  # 16 and 32 bits: Pillow's own conversion would clip them
        deep = np.asarray(image, dtype=np.float32)
        span = float(np.ptp(deep))
        return (deep - deep.min()) * (255 / span) if span else np.zeros_like(deep)
    if "A" not in image.getbands() and "transparency" not in image.info:
        return np.asarray(image.convert("L"), dtype=np.float32)
    layers: Any = np.asarray(image.convert("LA"), dtype=np.float32)
    grey, alpha = layers[..., 0], layers[..., 1] / 255
    seen = grey[alpha > 0.5]
    background = 0.0 if seen.size and seen.mean() > 127 else 255.0
    return np.asarray(grey * alpha + background * (1 - alpha), dtype=np.float32)


def _light_on_dark(grey: np.ndarray, path: Path) -> np.ndarray:
    """Inverted where the border is light, and stretched so that the darkest is 0 and the lightest 255."""
    import numpy as np

    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    low, high = float(grey.min()), float(grey.max())
    if high - low < 8:
        raise UserError(f"{path}: nothing to see: every pixel has the same colour")
    if border.mean() > (low + high) / 2:
        grey = low + high - grey
    return np.round((grey - low) * (255 / (high - low))).astype(np.uint8)


def _framed(grey: np.ndarray, size: int, *, box: int, by_mass: bool) -> np.ndarray:
    """Crop to the figure, scale its longer side to `box`, and lay it on black [size, size]."""
    import numpy as np
    from PIL import Image

    rows, columns = np.flatnonzero((grey > INK).any(axis=1)), np.flatnonzero((grey > INK).any(axis=0))
    figure = Image.fromarray(grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    scale = box / max(figure.size)
    width, height = (max(1, round(side * scale)) for side in figure.size)
    small = np.asarray(figure.resize((width, height), Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC))
    top, left = (size - height) // 2, (size - width) // 2
    if by_mass:
        total = float(small.sum()) or 1.0
        middle = (size - 1) / 2
        top = round(middle - float(small.sum(axis=1) @ np.arange(height)) / total)
        left = round(middle - float(small.sum(axis=0) @ np.arange(width)) / total)
        top, left = min(max(top, 0), size - height), min(max(left, 0), size - width)
    canvas = np.zeros((size, size), dtype=np.uint8)
    canvas[top : top + height, left : left + width] = small
    return canvas

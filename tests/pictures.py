"""Draw small pictures, and fill folders with them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLOURS = {"cats": (200, 60, 40), "dogs": (40, 60, 200), "owls": (40, 200, 60)}


def draw_picture(label: str, number: int, size: tuple[int, int] = (90, 80)) -> Image.Image:
    """Draw noise around the colour of a class: each number gives a different picture, and classes differ clearly."""
    rng = np.random.default_rng([sorted(COLOURS).index(label), number])
    noise = rng.integers(-40, 41, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.array(COLOURS[label]) + noise, 0, 255).astype(np.uint8))


def draw_pixels(height: int, width: int, seed: int = 0, channels: int = 3) -> NDArray[np.uint8]:
    """Draw smooth random pixels, (height, width, channels) uint8."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, channels), np.uint8)
    mode = "RGB" if channels == 3 else "RGBA"
    return np.asarray(Image.fromarray(small, mode).resize((width, height), Image.Resampling.BICUBIC))


def encode(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    """Return a picture as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def fill_folder(folder: Path, counts: dict[str, int], start: int = 0) -> None:
    """Fill class folders, such as {"train/cats": 5} or {"cats": 5}, with pictures numbered from `start`."""
    for path, count in counts.items():
        (folder / path).mkdir(parents=True, exist_ok=True)
        for number in range(start, start + count):
            data = encode(draw_picture(Path(path).name, number), "JPEG", quality=95)
            (folder / path / f"{number:03}.jpg").write_bytes(data)

"""Decode picture files in a new process: the first picture, and memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.extract.decoding.processes import run_program
from tests.inputs.makers import add_tag, encode_heic, encode_jpeg_xl, write_png, write_tiff
from tests.pictures import encode

FORMATS = ["PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG", "MPO", "AVIF"]


def test_decode_first_picture_of_a_process_works_in_every_format(tmp_path: Path) -> None:
    pictures = [tmp_path / image_format for image_format in FORMATS]
    for picture in pictures:
        picture.write_bytes(encode(Image.new("RGB", (7, 5)), picture.name))
    for name, write in (("HEIC", encode_heic), ("JPEG XL", encode_jpeg_xl)):
        (tmp_path / name).write_bytes(write(Image.new("RGB", (7, 5))))
        pictures.append(tmp_path / name)
    # Each child is a process that has decoded nothing yet: Pillow loads its plugins at the first picture.
    program = (
        "import os, sys; from pathlib import Path; from extract.decoding.decode import decode_image\n"
        "for name in sys.argv[1:]:\n"
        "    if not os.fork():\n"
        "        print(name, *decode_image(Path(name).read_bytes()).shape, flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()"
    )
    assert run_program(program, *pictures) == [f"{picture} 5 7 3" for picture in pictures]


def test_decode_picture_with_too_many_pixels_takes_no_memory_for_them(tmp_path: Path) -> None:
    for side in (1, 9_440, 20_000):
        (tmp_path / f"{side}.png").write_bytes(write_png(side, side, 8, 0, bytes(1000)))
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom extract.decoding import decode, read\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "small, *bombs = (Path(sys.argv[1], f'{side}.png').read_bytes() for side in (1, 9_440, 20_000))\n"
        "decode.decode_image(small)\nbefore = peak()\n"
        "for bomb in bombs:\n"
        "    try:\n        decode.decode_image(bomb)\n"
        "    except read.UndecodableImageError:\n        print(peak() - before)"
    )
    increases = [int(line) for line in run_program(program, tmp_path)]
    assert len(increases) == 2
    assert max(increases) < 20_000, "kB; one byte a pixel would be 87,000 or more"


HOSTILE = [
    write_tiff(np.zeros((5, 7, 3), np.uint8), 2, extra=(9, 9)),
    add_tag(encode(Image.new("RGB", (7, 5)), "TIFF", compression="tiff_lzw"), 65_000, 7, 10**9, 8),
    add_tag(encode(Image.new("RGB", (7, 5)), "TIFF", compression="tiff_lzw"), 277, 4, 1, 65_535),
    add_tag(encode(Image.new("RGB", (7, 5)), "TIFF", compression="jpeg"), 273, 4, 1, 3),
    encode(Image.new("1", (90, 80)), "TIFF", compression="group4")[:-200],
    encode(Image.new("RGB", (90, 80)), "TIFF", compression="tiff_lzw")[:-100] + bytes(100),
    encode(Image.new("RGB", (90, 80)), "JPEG")[:-100],
    encode(Image.new("RGB", (90, 80)))[:-30],
    encode(Image.new("RGB", (90, 80)), "AVIF")[:-30],
    encode_heic(Image.new("RGB", (90, 80)))[:-30],
    encode_jpeg_xl(Image.new("RGB", (90, 80)))[:-3],
]
"""Files for which libtiff, Pillow or Python's logging print messages, and damaged ones of other decoders."""


def test_decode_of_damaged_files_prints_nothing(tmp_path: Path) -> None:
    for number, data in enumerate(HOSTILE):
        (tmp_path / f"{number}.tif").write_bytes(data)
    program = (
        "import sys\nfrom pathlib import Path\nfrom extract.decoding.decode import decode_image\n"
        "from extract.decoding.read import UndecodableImageError\n"
        "for path in Path(sys.argv[1]).iterdir():\n"
        "    try:\n        decode_image(path.read_bytes())\n"
        "    except UndecodableImageError:\n        pass"
    )
    assert run_program(program, tmp_path) == []

"""Decode picture files in a new process: the first picture, and memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.inputs.makers import write_png
from tests.pictures import encode

FORMATS = ["PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG", "MPO"]


def run(program: str, *arguments: Path) -> list[str]:
    """Run a program in a new Python process, and return the lines that it printed."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_decode_first_picture_of_a_process_works_in_every_format(tmp_path: Path) -> None:
    pictures = [tmp_path / image_format for image_format in FORMATS]
    for picture in pictures:
        picture.write_bytes(encode(Image.new("RGB", (7, 5)), picture.name))
    # Each child is a process that has decoded nothing yet: Pillow loads its plugins at the first picture.
    program = (
        "import os, sys; from pathlib import Path; from extract.decoding.decode import decode_image\n"
        "for name in sys.argv[1:]:\n"
        "    if not os.fork():\n"
        "        print(name, *decode_image(Path(name).read_bytes()).shape, flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()"
    )
    assert run(program, *pictures) == [f"{picture} 5 7 3" for picture in pictures]


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
    increases = [int(line) for line in run(program, tmp_path)]
    assert len(increases) == 2
    assert max(increases) < 20_000, "kB; one byte a pixel would be 87,000 or more"

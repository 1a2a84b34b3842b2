"""Covers for data without pictures, drawn with Pillow from a title and its genres.

They let the image half of the method run. They are not posters: they show only the title and, as colours and discs,
the genres. The same title and genres give the same picture. The font is Pillow's own.
"""

from __future__ import annotations

import unicodedata
import zlib
from functools import cache
from typing import Dict, List, Sequence, Tuple

from PIL import Image, ImageDraw, ImageFont

SIZE = 224  # pixels, the input size of Swin-base
MARGIN = 16
TITLE_BOX = (SIZE - 2 * MARGIN, 118)  # width, height
FOOTER_TOP = 178

Colour = Tuple[int, int, int]

GENRE_COLOURS: Dict[str, Colour] = {
    "Action": (206, 62, 44),
    "Adventure": (222, 132, 38),
    "Animation": (66, 176, 196),
    "Children's": (242, 188, 66),
    "Comedy": (236, 160, 96),
    "Crime": (112, 44, 62),
    "Documentary": (110, 128, 122),
    "Drama": (64, 88, 136),
    "Fantasy": (142, 92, 184),
    "Film-Noir": (70, 70, 78),
    "Horror": (124, 20, 28),
    "Musical": (214, 86, 150),
    "Mystery": (60, 62, 112),
    "Romance": (210, 82, 104),
    "Sci-Fi": (36, 126, 140),
    "Thriller": (52, 92, 84),
    "War": (104, 108, 62),
    "Western": (166, 106, 56),
}
OTHER_COLOUR: Colour = (128, 128, 128)


def draw_cover(title: str, genres: Sequence[str]) -> Image.Image:
    """A 224x224 RGB picture: ground and discs in the colours of the genres, title and genres in words."""
    colours = [GENRE_COLOURS.get(genre, OTHER_COLOUR) for genre in genres] or [OTHER_COLOUR]
    cover = _ground_of(colours[0], colours[-1]).copy()
    _paint_discs(cover, colours, zlib.crc32(title.encode("utf-8")))
    pen = ImageDraw.Draw(cover)
    # Pillow's font has no other letters
    letters = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode("ascii")
    font, lines = _fit(letters)
    for row, line in enumerate(lines):
        y = MARGIN + row * _line_height(font)
        pen.text((MARGIN + 1, y + 2), line, font=font, fill=(20, 20, 20))  # a shadow: readable on any ground
        pen.text((MARGIN, y), line, font=font, fill=(255, 255, 255))
    pen.rectangle((0, FOOTER_TOP, SIZE, SIZE), fill=_shade(colours[0], 0.3))
    for place, colour in enumerate(colours):
        width = SIZE / len(colours)
        pen.rectangle((place * width, FOOTER_TOP, (place + 1) * width, FOOTER_TOP + 6), fill=colour)
    small = _font(13)
    for row, line in enumerate(_wrap(", ".join(genres), small, TITLE_BOX[0])[:2]):
        pen.text((MARGIN, FOOTER_TOP + 10 + 16 * row), line, font=small, fill=(235, 235, 235))
    return cover


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def _shade(colour: Colour, light: float) -> Colour:
    """The colour, scaled by ``light``."""
    red, green, blue = (min(255, round(part * light)) for part in colour)
    return red, green, blue


@cache
def _ground_of(top: Colour, bottom: Colour) -> Image.Image:
    downwards = Image.linear_gradient("L").resize((SIZE, SIZE))
    low, high = (Image.new("RGB", (SIZE, SIZE), colour) for colour in (_shade(bottom, 0.35), _shade(top, 0.85)))
    return Image.composite(low, high, downwards)


def _paint_discs(cover: Image.Image, colours: Sequence[Colour], shape: int) -> None:
    """Paint one half-transparent disc per genre; ``shape`` determines places and sizes."""
    for place, colour in enumerate(colours):
        bits = zlib.crc32(bytes([place]), shape)
        x, y, radius = bits % SIZE, 90 + (bits >> 8) % 90, 28 + (bits >> 16) % 44
        mask = Image.new("L", (2 * radius + 1, 2 * radius + 1), 0)
        ImageDraw.Draw(mask).ellipse((0, 0, 2 * radius, 2 * radius), fill=150)
        cover.paste(_shade(colour, 1.15), (x - radius, y - radius), mask)


def _line_height(font: ImageFont.FreeTypeFont) -> int:
    return round(font.size * 1.18)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float) -> List[str]:
    lines: List[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _fit(title: str) -> Tuple[ImageFont.FreeTypeFont, List[str]]:
    """The largest font in which the wrapped title fits into its box; with the smallest, the rest is cut."""
    width, height = TITLE_BOX
    for size in (34, 29, 25, 21, 18, 15):
        font = _font(size)
        lines = _wrap(title, font, width)
        if len(lines) * _line_height(font) <= height and all(font.getlength(line) <= width for line in lines):
            return font, lines
    return font, lines[: height // _line_height(font)]

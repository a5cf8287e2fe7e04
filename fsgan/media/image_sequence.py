"""Video in, as pictures: a folder or numbered files, read frame by frame."""

import logging
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fsgan.media.images import image_size, list_images, read_damaged_image

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"([^%]*)(%(?:0[1-9][0-9]*)?d)([^%]*)")


class Picture(NamedTuple):
    """One picture of a sequence.

    Attributes:
        index: counted from 0.
        image: RGB uint8 (height, width, 3).
        damaged: whether its file is not whole.
        lost: whether nothing of it decodes, so that a neighbour is shown.
    """

    index: int
    image: np.ndarray
    damaged: bool
    lost: bool


class ImageSequence:
    """Pictures of one size that follow each other at a constant rate.

    Attributes:
        path: the folder or the pattern.
        files: the pictures in their order.
        fps: pictures a second.
        width: pixels, upright.
        height: pixels, upright.
    """

    def __init__(self, path: str | Path, fps: Fraction | float | None = None) -> None:
        """Lists the pictures and compares their sizes; none is decoded.

        Args:
            path: a folder, whose pictures are taken in natural order, or a pattern such
                as `shot/frame_%05d.png`.
            fps: pictures a second; `None` for 25.

        Raises:
            FileNotFoundError: there is no picture.
            ValueError: the sizes differ, no file is a picture, or `fps` is not a number
                above 0.
        """
        if fps is not None and not 0 < fps < float("inf"):
            raise ValueError(f"fps must be above 0, or None for 25, got {fps}")
        self.path = Path(path)
        self.fps = Fraction(25 if fps is None else fps).limit_denominator(100_000)
        self.files = (
            list_images(self.path) if self.path.is_dir() else _numbered(self.path)
        )
        sizes = ((file, _size(file)) for file in self.files)
        known = ((file, size) for file, size in sizes if size is not None)
        first, size = next(known, (None, None))
        if size is None:
            raise ValueError(
                f"no picture of {path} can be read; copy or download them again"
            )
        self.width, self.height = size
        for file, other in known:
            if other != size:
                raise ValueError(
                    f"the pictures of a sequence must have one size, but {first.name} "
                    f"has {size[0]} x {size[1]} and {file} {other[0]} x {other[1]}"
                )

    def read(self, first: int = 0, last: int | None = None) -> Iterator[Picture]:
        """Decodes the pictures one by one.

        Args:
            first: index of the first.
            last: index behind the last; `None` for no limit.

        Yields:
            A picture for every file. One that cannot be decoded shows what the one
            before it shows; with none before it that can be decoded, the next.

        Raises:
            ValueError: none can be decoded.
        """
        image = None
        for index, file in enumerate(self.files[first:last], first):
            decoded = self._decode(file)
            if decoded is not None:
                image, damaged = decoded
                yield Picture(index, image, damaged, lost=False)
                continue
            if image is None:
                image = self._nearest(index)
            yield Picture(index, image.copy(), damaged=True, lost=True)

    def _nearest(self, index: int) -> np.ndarray:
        """The picture nearest to one that is lost, one before it if there is any."""
        for file in (*reversed(self.files[:index]), *self.files[index + 1 :]):
            decoded = self._decode(file)
            if decoded is not None:
                return decoded[0]
        raise ValueError(
            f"no picture of {self.path} can be decoded; copy or download them again"
        )

    def _decode(self, file: Path) -> tuple[np.ndarray, bool] | None:
        try:
            image, damage = read_damaged_image(file)
        except (FileNotFoundError, ValueError):
            return None
        # Rarely, only decoding tells that a picture lies on its side.
        if image.shape[:2] != (self.height, self.width):
            raise ValueError(
                f"the pictures of a sequence must have one size, but {file} has "
                f"{image.shape[1]} x {image.shape[0]}, not {self.width} x {self.height}"
            )
        return image, damage is not None


def is_sequence(path: str | Path) -> bool:
    """Tells a picture sequence from a single file.

    Args:
        path: what a user named.

    Returns:
        Whether it is a folder, or a pattern such as `frame_%05d.png` and not the very
        name of a file.
    """
    path = Path(path)
    numbered = _NUMBER.fullmatch(path.name) is not None and not path.exists()
    return path.is_dir() or numbered


def _numbered(pattern: Path) -> list[Path]:
    """The files that a pattern names, in the order of their numbers."""
    before, number, after = _NUMBER.fullmatch(pattern.name).groups()
    name = re.compile(f"{re.escape(before)}([0-9]+){re.escape(after)}")
    found = {}
    if pattern.parent.is_dir():
        for file in pattern.parent.iterdir():
            match = name.fullmatch(file.name)
            if match and number % int(match[1]) == match[1]:
                found[int(match[1])] = file
    if not found:
        raise FileNotFoundError(
            f"no file fits {pattern}; check the folder and the name"
        )
    numbers = sorted(found)
    missing = numbers[-1] - numbers[0] + 1 - len(numbers)
    if missing:
        logger.warning(
            "%s: %d numbers between %d and %d are missing; the pictures there are "
            "taken as following each other",
            pattern,
            missing,
            numbers[0],
            numbers[-1],
        )
    return [found[number] for number in numbers]


def _size(file: Path) -> tuple[int, int] | None:
    try:
        return image_size(file)
    except ValueError:
        return None

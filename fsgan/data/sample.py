"""The sample footage: two short clips that ship, so that everything runs at once."""

import shutil
from pathlib import Path
from typing import Annotated

import cv2
from pydantic import Field, FiniteFloat

from fsgan.assets import asset
from fsgan.media.files import write_beside
from fsgan.media.reader import probe, read_frames
from fsgan.media.writer import VideoWriter
from fsgan.validation import Count, checked

_SECONDS, _SIZE = 8.0, (640, 360)  # of the clips that ship


@checked
def make_sample_clips(
    folder: str | Path,
    *,
    seconds: Annotated[FiniteFloat, Field(gt=0, le=_SECONDS)] = _SECONDS,
    size: tuple[Count, Count] = _SIZE,
) -> tuple[Path, Path]:
    """Puts two short clips of one moving face each into a folder.

    `a.mp4` shows a man and has a sound track, `b.mp4` shows a woman and is silent; 25
    frames a second. Neither exists: `tools/make_sample.py` makes the clips of pictures
    in the package openpeople (MIT).

    Args:
        folder: where the clips go; made if it does not exist.
        seconds: length of each clip, above 0, at most 8.
        size: width and height in pixels.

    Returns:
        The paths of `a.mp4` and `b.mp4`.

    Raises:
        ValueError: `seconds` is out of range.
        NotADirectoryError: `folder` is a file.
    """
    folder = Path(folder)
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file; name a folder for the clips")
    clips = folder / "a.mp4", folder / "b.mp4"
    for clip in clips:
        source = asset(f"sample/{clip.name}")
        if (seconds, size) == (_SECONDS, _SIZE):
            with write_beside(clip) as path:
                shutil.copyfile(source, path)
            continue
        writer = VideoWriter(
            clip, *size, probe(source).fps, audio_from=source, end=seconds
        )
        with writer:
            for frame in read_frames(source, end=seconds):
                picture = cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA)
                writer.write(picture)
    return clips

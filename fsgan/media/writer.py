"""Video out: frames as a film, an animation or pictures, with the sound of the source.

Frames are encoded into a hidden folder beside the output (`video_parts`); at the end
they are joined with the sound, and the file takes its name.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Self

import numpy as np
from av.error import FFmpegError

from fsgan.media.gif import write_gif
from fsgan.media.images import write_image
from fsgan.media.reader import open_media, time_limits
from fsgan.media.sequence_path import SequencePath
from fsgan.media.video_formats import time_base, video_format
from fsgan.media.video_parts import PartWriter, join_parts

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class Position:
    """How far the frames have come; all but `frames` tell of the last one."""

    frames: int = 0  # written
    origin: Fraction = Fraction(0)  # source time of the first frame, seconds
    time: Fraction = Fraction(0)  # source time, seconds
    ticks: int = 0  # since the first frame, in `time_base(fps)`
    step: int = 0  # how long it is shown if no other follows


class VideoWriter:
    """Write frames as a film that plays everywhere, with the sound of the source.

    A context manager. The output appears under its name, whole, on a clean exit;
    after any exception nothing is left of it.

    | output                      | frames                  | sound                   |
    | --------------------------- | ----------------------- | ----------------------- |
    | .mp4 .m4v .mov              | H.264                   | copied, else AAC        |
    | .mkv                        | H.264, FFV1 if lossless | copied                  |
    | .webm                       | VP9                     | Opus (or Vorbis, copied)|
    | .gif                        | 255 colours, 1/100 s    | none                    |
    | a folder, `f/shot_%05d.png` | pictures                | none                    |

    H.264 and VP9 are yuv420p, BT.709, limited range, tagged so. That format needs
    even sides: an odd one gets its last column or row repeated once, nothing is
    rescaled. The first frame is time 0 of the new file, and the sound is cut to it.
    """

    def __init__(
        self,
        path: str | Path,
        width: int,
        height: int,
        fps: Fraction | float,
        *,
        audio_from: str | Path | None = None,
        start: float = 0.0,
        end: float | None = None,
        crf: int = 18,
        preset: str = "veryfast",
        metadata: dict[str, str] | None = None,
        lossless: bool = False,
        xmp: bytes | None = None,
        finish: Callable[[Path], None] | None = None,
    ) -> None:
        """Check the settings; nothing is written before the `with` block begins.

        Args:
            path: file to write, its folder is created; or a folder of pictures, or a
                pattern of their names, .png, .jpg, .jpeg or .webp: a folder that is
                there is replaced by the new one.
            width: pixels of the frames to come.
            height: pixels of the frames to come.
            fps: frames a second, for frames written without a time.
            audio_from: file to take the sound from, copied if the output may hold its
                codec, else encoded anew; a silent file is fine; `None` for none.
            start: seconds in `audio_from` where the frames begin.
            end: seconds in `audio_from` where the sound ends; `None` for all of it.
            crf: constant quality on x264's scale, 0 (best) to 51 (worst).
            preset: speed, one of `video_formats.PRESETS`.
            metadata: tags of the file, such as `provenance.video_metadata()`.
            lossless: every pixel exact, odd sizes too; .mkv only.
            xmp: XMP packet for each picture, such as `provenance.image_xmp()`.
            finish: called with the whole file (or the folder of pictures) before it
                takes its name, to mark or sign it.

        Raises:
            ValueError: a setting is out of its range.
        """
        self.path = Path(path)
        self._sequence = SequencePath.of(path)
        # Pictures have no codec: only the settings are checked.
        checked = self.path if self._sequence is None else "pictures.mkv"
        self._format = video_format(checked, crf, preset, lossless)
        if lossless and self._sequence is not None:
            raise ValueError(f"lossless needs a path that ends in .mkv, got {path}")
        if width < 1 or height < 1:
            raise ValueError(
                f"width and height must be at least 1, got {width}, {height}"
            )
        if not fps > 0:
            raise ValueError(f"fps must be above 0, got {fps}")
        self.width, self.height = width, height
        self.fps = Fraction(fps).limit_denominator(100_000)
        self._start, self._end = time_limits(start, end)
        self._audio_from = None if audio_from is None else Path(audio_from)
        self._metadata, self._xmp, self._finish = metadata or {}, xmp, finish
        target = self.path if self._sequence is None else self._sequence.folder
        self._hidden = target.with_name(f".{target.name}-{os.getpid()}.parts")
        self._pictures = self._hidden / "pictures"
        self._position = Position()
        self._part: PartWriter | None = None  # the running one
        self._parts: list[Path] = []  # all, the running one too

    def __enter__(self) -> Self:
        """Make the hidden folder and see whether the source of the sound opens.

        Raises:
            FileNotFoundError: `audio_from` does not exist.
            IsADirectoryError: `path` is a folder and names a file.
            ValueError: `audio_from` cannot be read, or the folder to replace holds
                other things than pictures of this pattern.
            OSError: the folder cannot be written to.
        """
        if self._sequence is not None:
            self._sequence.check_folder()
        elif self.path.is_dir():
            raise IsADirectoryError(f"{self.path} is a folder; give the name of a file")
        if self._audio_from is not None:
            with open_media(self._audio_from):
                pass
        try:
            self._hidden.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = os.strerror(error.errno or errno.EIO)
            raise type(error)(
                f"{self.path} cannot be written ({reason}); choose another output "
                "folder"
            ) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the output and give it its name, or remove it after an exception.

        Raises:
            ValueError: no frame was written.
            OSError: the disk is full.
        """
        whole = False
        try:
            if kind is None:
                with full_disk_named(self.path):
                    self._close()
                whole = True
        finally:
            if self._part is not None:
                self._part.discard()
            if whole:
                shutil.rmtree(self._hidden)
            else:
                self._give_up()

    def write(self, image: np.ndarray, time: Fraction | float | None = None) -> None:
        """Append a frame.

        Args:
            image: RGB uint8 `(height, width, 3)`.
            time: seconds of the frame in the source (`Frame.time`), strictly
                growing; `None` for 1 / fps after the last one.

        Raises:
            ValueError: wrong shape or type, or a time that does not grow or, with
                sound, does not lie between `start` and `end`.
            OSError: the disk is full.
        """
        shape = (self.height, self.width, 3)
        if image.shape != shape or image.dtype != np.uint8:
            raise ValueError(
                f"image must be uint8 {shape}, got {image.dtype} {image.shape}"
            )
        self._position = position = self._next(None if time is None else Fraction(time))
        with full_disk_named(self.path):
            if self._sequence is not None:
                name = self._sequence.name(position.frames - 1)
                write_image(self._pictures / name, image, self._xmp, compress_level=1)
                return
            if self._part is None:
                self._parts.append(self._part_path(len(self._parts)))
                self._part = PartWriter(
                    self._parts[-1], self._format, self.width, self.height, self.fps
                )
            self._part.write(image, position.ticks, position.step)

    def _next(self, time: Fraction | None) -> Position:
        """Return where the next frame stands."""
        last, unit = self._position, time_base(self.fps)
        step = round(1 / self.fps / unit)
        if not last.frames:
            time = self._start if time is None else time
            late = self._end is not None and time >= self._end
            if self._audio_from is not None and (time < self._start or late):
                raise ValueError(
                    "time must count from the start of audio_from and lie between "
                    f"start ({float(self._start):g} s) and end, got {float(time):g} s"
                )
            return Position(1, time, time, 0, step)
        time = last.time + 1 / self.fps if time is None else time
        ticks = round((time - last.origin) / unit)
        if ticks <= last.ticks:
            raise ValueError(
                f"time must grow from frame to frame, got {float(time):g} s "
                f"after {float(last.time):g} s"
            )
        step = min(ticks - last.ticks, step)
        return Position(last.frames + 1, last.origin, time, ticks, step)

    def _part_path(self, number: int) -> Path:
        return self._hidden / f"{number:06d}.nut"

    def _close_part(self) -> None:
        """Finish the running part."""
        if self._part is not None:
            self._part.close()
            self._part = None

    def _close(self) -> None:
        """Make the whole output of the parts and give it its name."""
        position = self._position
        if not position.frames:
            raise ValueError(f"no frame was written, so {self.path} was not made")
        self._close_part()
        suffix = self.path.suffix.lower()
        size = self.width, self.height
        whole = self._pictures if self._sequence else self._hidden / f"whole{suffix}"
        if suffix == ".gif":
            length = position.step * time_base(self.fps)
            write_gif(self._parts, whole, size, position.frames, length)
        elif self._sequence is None:
            join_parts(
                self._parts,
                whole,
                self._format,
                size,
                self.fps,
                position.step,
                metadata=self._metadata,
                sound=self._audio_from
                and (self._audio_from, position.origin, self._end),
            )
        if self._finish is not None:
            self._finish(whole)
        if self._sequence is not None:
            self._sequence.take_name(whole, self._hidden / "replaced")
        else:
            os.replace(whole, self.path)

    def _give_up(self) -> None:
        """Remove what is not whole."""
        shutil.rmtree(self._hidden)


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Say in one sentence that the disk is full.

    Args:
        path: output to name.

    Yields:
        Nothing.

    Raises:
        OSError: the disk or the quota is full; its `errno` is kept.
    """
    try:
        yield
    except (OSError, FFmpegError) as error:
        if error.errno not in _DISK_FULL:
            raise
        told = OSError(
            f"{path} cannot be written: the disk is full; make room and start again"
        )
        told.errno = error.errno
        raise told from error

"""Video out: frames as a film or numbered pictures, with the sound of the source.

Frames are encoded into a hidden folder beside the output; at the end they are joined
with sound, subtitles and chapters, and the output takes its name.
"""

import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, Self
from zipfile import BadZipFile

import av
import numpy as np
from filelock import FileLock, Timeout

from fsgan.media.decoding import open_media
from fsgan.media.encoding import (
    OUTPUT_SUFFIXES,
    Cut,
    Encoder,
    PartWriter,
    check_encoder,
    choose_format,
    join_parts,
)
from fsgan.media.files import check_output, full_disk_named, preparing, unfinished
from fsgan.media.images import encode_image
from fsgan.media.reader import time_limits

logger = logging.getLogger(__name__)

_PICTURES, _DONE, _LOCK, _JOINED = "pictures", "done.npz", "lock", "joined"
# What reading a file of NumPy's raises, and reading numbers of what is in it.
_DAMAGED = (
    ArithmeticError,
    BadZipFile,
    EOFError,
    KeyError,
    OSError,
    TypeError,
    ValueError,
    zlib.error,
)


class _Position(NamedTuple):
    """How far the frames have come; all but `frames` tell of the last one."""

    frames: int = 0  # written
    origin: Fraction = Fraction(0)  # source time of the first frame, seconds
    time: Fraction = Fraction(0)  # source time, seconds
    ticks: int = 0  # since the first frame, in the format's `time_base`
    step: int = 0  # how long it is shown if no other follows


class _Lock(FileLock):
    """A lock that the system lets go of when the process dies, however it dies."""

    def _fallback_to_soft_lock(self) -> None:  # filelock's would outlive the process
        raise NotImplementedError("this file system has no locks")


@dataclass(eq=False, repr=False)
class VideoWriter:
    """Write frames as a film that plays everywhere, with the sound of the source.

    A context manager. The output appears under its name, whole, on a clean exit;
    after any exception nothing is left of it. Settings are checked at once.

    | output         | frames                    | sound                   | text     |
    | -------------- | ------------------------- | ----------------------- | -------- |
    | .mp4 .m4v .mov | H.264                     | copied, else AAC        | mov_text |
    | .mkv           | H.264, FFV1 if lossless   | copied                  | copied   |
    | .webm          | VP9                       | Opus or Vorbis (copied) | WebVTT   |
    | a folder       | 000000.png, 000001.png, … | none                    | none     |

    H.264 and VP9 are yuv420p, BT.709, limited range, tagged so. That format needs
    even sides: an odd one gets its last column or row repeated once, nothing is
    rescaled. All tracks of sound and subtitles are kept, and the chapters; the log says
    what the file cannot hold. The first frame is time 0 of the new file, unless sound
    is heard from `start` on while there is no picture yet: then the file begins there.

    Raises:
        ValueError: a setting is out of its range.
    """

    # A name without a suffix is a folder of pictures, which replaces one that is there.
    path: str | Path
    width: int  # of the frames to come, pixels
    height: int
    fps: Fraction | float  # for frames written without a time
    _: KW_ONLY
    audio_from: str | Path | None = None  # file with sound and subtitles, or without
    start: float = 0.0  # seconds in `audio_from` where the frames begin
    end: float | None = None  # seconds there where the sound ends; None for all of it
    crf: int = 18  # constant quality on x264's scale, 0 (best) to 51 (worst)
    metadata: dict[str, str] | None = None  # tags of the file
    lossless: bool = False  # every pixel exact, odd sizes too; .mkv only
    encoder: Encoder = "software"  # "nvenc": H.264 by an NVIDIA card
    xmp: bytes | None = None  # XMP packet for each picture
    # Called with the whole file (or folder) before it takes its name, to mark or sign.
    finish: Callable[[Path], None] | None = None

    def __post_init__(self) -> None:
        """Check the settings; nothing is written before the `with` block begins."""
        self.path = Path(self.path)
        check_output(self.path)
        suffix = self.path.suffix.lower()
        self._as_pictures = not suffix or (
            self.path.is_dir() and suffix not in OUTPUT_SUFFIXES
        )
        if self._as_pictures and self.lossless:
            raise ValueError(
                f"lossless needs a path that ends in .mkv, got {self.path}"
            )
        if not self.fps > 0:
            raise ValueError(f"fps must be above 0, got {self.fps}")
        self.fps = Fraction(self.fps).limit_denominator(100_000)
        # Pictures have no codec: only the settings are checked.
        checked = Path("pictures.mkv") if self._as_pictures else self.path
        size = self.width, self.height
        self._format = choose_format(
            checked, *size, self.fps, self.crf, self.lossless, self.encoder
        )
        self._start, self._end = time_limits(self.start, self.end)
        if not self._as_pictures:
            check_encoder(self._format)
        self._position = _Position()
        self._part: PartWriter | None = None  # the running one
        self._parts: list[Path] = []  # all, the running one too

    def __enter__(self) -> Self:
        """Make the hidden folder and see whether the source of the sound opens.

        Raises:
            ValueError: `audio_from` cannot be read, or the folder to replace holds
                other things than numbered pictures.
            OSError: `audio_from` is missing, or `path` cannot be written.
        """
        if self._as_pictures:
            _check_picture_folder(self.path)
        elif self.path.is_dir():
            raise IsADirectoryError(f"{self.path} is a folder; give the name of a file")
        if self.audio_from is not None:
            with open_media(Path(self.audio_from)):
                pass
        self._open_hidden()
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
            self._clean_up(whole)

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
        self._position = self._next(None if time is None else Fraction(time))
        with full_disk_named(self.path):
            if self._as_pictures:
                name = _picture_name(self._position.frames - 1)
                encoded = encode_image(Path(name), image, self.xmp, compress_level=1)
                if self._position.frames == 1:
                    (self._hidden / _PICTURES).mkdir(exist_ok=True)
                (self._hidden / _PICTURES / name).write_bytes(encoded)
                return
            if self._part is None:
                self._parts.append(self._hidden / f"{len(self._parts):06d}.nut")
                self._part = PartWriter(self._parts[-1], self._format)
            self._part.write(image, self._position.ticks, self._position.step)

    def _next(self, time: Fraction | None) -> _Position:
        """Return where the next frame stands."""
        last, unit = self._position, self._format.time_base
        step = round(1 / self.fps / unit)
        if not last.frames:
            time = self._start if time is None else time
            late = self._end is not None and time >= self._end
            if self.audio_from is not None and (time < self._start or late):
                raise ValueError(
                    "time must count from the start of audio_from and lie between "
                    f"start ({float(self._start):g} s) and end, got {float(time):g} s"
                )
            return _Position(1, time, time, 0, step)
        time = last.time + 1 / self.fps if time is None else time
        ticks = round((time - last.origin) / unit)
        if ticks <= last.ticks:
            raise ValueError(
                f"time must grow from frame to frame, got {float(time):g} s "
                f"after {float(last.time):g} s"
            )
        step = min(ticks - last.ticks, step)
        return _Position(last.frames + 1, last.origin, time, ticks, step)

    def _close_part(self) -> None:
        if self._part is not None:
            self._part.close()
            self._part = None

    def _close(self) -> None:
        """Make the whole output of the parts and give it its name."""
        if not self._position.frames:
            raise ValueError(f"no frame was written, so {self.path} was not made")
        self._close_part()
        if self._as_pictures:
            whole = self._hidden / _PICTURES
        else:
            whole = self._hidden / f"whole{self.path.suffix.lower()}"
            cut = None
            if self.audio_from is not None:
                first = self._position.origin
                cut = Cut(Path(self.audio_from), first, self._start, self._end)
            join_parts(
                self._parts,
                whole,
                self._format,
                self._position.step,
                metadata=self.metadata or {},
                cut=cut,
            )
        if self.finish is not None:
            self.finish(whole)
        (self._hidden / _JOINED).touch()
        if self._as_pictures and self.path.exists():
            os.replace(self.path, self._hidden / "replaced")
        os.replace(whole, self.path)

    def _open_hidden(self) -> None:
        """Make the folder of what is not whole."""
        self._unfinished = unfinished(self.path)
        self._hidden = self._unfinished.__enter__()

    def _clean_up(self, whole: bool) -> None:
        """Remove the hidden folder."""
        self._unfinished.__exit__(None, None, None)


@dataclass(eq=False, repr=False)
class ResumableWriter(VideoWriter):
    """Write frames as `VideoWriter` does, in parts that survive a kill.

    Parts lie in a hidden folder beside the output, `.<name>.parts`. After an
    exception or a kill the finished ones stay, and the next writer with the same
    settings goes on behind them: skip `frames_done` frames, take up `state`. Written
    with the same parts, an interrupted output equals an uninterrupted one.

    Raises:
        ValueError: a setting is out of its range.
        TypeError: `settings` holds what JSON does not know.
    """

    # All that the frames depend on besides the writer's other arguments, as JSON takes
    # it: parts written with others are thrown away.
    settings: dict = field(kw_only=True)
    frames_done: int = field(default=0, init=False)  # in finished parts
    # What was given with the last finished part; empty at first.
    state: dict[str, np.ndarray] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        self._hidden = _parts_folder(self.path)
        check_output(self._hidden)
        own = [repr(self._format), str(self._start), str(self._end)]
        self._all_settings = json.dumps([own, av.library_versions, self.settings])
        self._parts_done = 0

    def _open_hidden(self) -> None:
        with preparing(self.path):
            self._hidden.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        """Find the finished parts.

        Raises:
            BlockingIOError: another process is writing this output.
            ValueError, OSError: as of `VideoWriter`.
        """
        super().__enter__()
        file = self._hidden / _LOCK
        self._lock = _Lock(file, blocking=False, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise BlockingIOError(
                f"{self.path} is being written by another process; wait for it or "
                "give another output"
            ) from error
        except (OSError, NotImplementedError) as error:
            logger.warning(
                "%s lies where files cannot be locked (%s): see to it that no other "
                "program writes it at the same time",
                self.path,
                error,
            )
        try:
            with full_disk_named(self.path):
                self._find_parts()
        except BaseException:
            self._lock.release()
            raise
        return self

    def end_part(self, state: dict[str, np.ndarray]) -> None:
        """Finish the running part: its frames are safe from now on.

        Args:
            state: small arrays with which the conversion can go on, given back as
                `state`; ignored without a frame since the last part.

        Raises:
            OSError: the disk is full.
        """
        if self._position.frames == self.frames_done:
            return
        with full_disk_named(self.path):
            self._close_part()
            temporary = self._hidden / "unfinished.npz"
            np.savez(
                temporary,
                settings=self._all_settings,
                parts=[part.stat().st_size for part in self._parts],
                position=[str(value) for value in self._position],
                **{f"state_{name}": value for name, value in state.items()},
            )
            # The part counts from here on, and not a moment before.
            os.replace(temporary, self._hidden / _DONE)
        self._parts_done = len(self._parts)
        self.frames_done, self.state = self._position.frames, dict(state)

    def _find_parts(self) -> None:
        done = self._hidden / _DONE
        if done.exists():
            try:
                with open(done, "rb") as file, np.load(file) as arrays:
                    self._take_up(dict(arrays))
            except _DAMAGED as error:
                logger.warning(
                    "%s: the parts found are damaged (%s); they are thrown away",
                    self.path,
                    error,
                )
        self._tidy()
        if self.frames_done:
            logger.info("%s: goes on after %d frames", self.path, self.frames_done)

    def _take_up(self, done: dict[str, np.ndarray]) -> None:
        if str(done["settings"]) != self._all_settings:
            logger.warning(
                "%s: the parts found are of another conversion; they are thrown away",
                self.path,
            )
            return
        parts = [self._hidden / f"{n:06d}.nut" for n in range(len(done["parts"]))]
        if [part.stat().st_size for part in parts] != done["parts"].tolist():
            raise ValueError("a part is not as long as it was")
        frames, origin, time, ticks, step = map(Fraction, done["position"])
        pictures = range(int(frames)) if self._as_pictures else ()
        for name in map(_picture_name, pictures):
            (self._hidden / _PICTURES / name).stat()
        self._position = _Position(int(frames), origin, time, int(ticks), int(step))
        self._parts, self._parts_done = parts, len(parts)
        self.frames_done = self._position.frames
        states = {name for name in done if name.startswith("state_")}
        self.state = {name.removeprefix("state_"): done[name] for name in states}

    def _tidy(self) -> None:
        """Remove all but the finished parts."""
        pictures, keep = self._hidden / _PICTURES, {self._hidden / _LOCK}
        if self.frames_done:
            keep |= {self._hidden / _DONE, pictures, *self._parts[: self._parts_done]}
            keep |= {pictures / _picture_name(n) for n in range(self.frames_done)}
        for path in [*self._hidden.iterdir(), *pictures.glob("*")]:
            if path not in keep and path.exists():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _clean_up(self, whole: bool) -> None:
        """Remove the hidden folder, or all in it but the finished parts."""
        if whole:
            self.frames_done = 0
        self._tidy()
        self._lock.release()  # an open file cannot be removed everywhere
        if not self.frames_done:
            with suppress(OSError):  # or another process begins here already
                (self._hidden / _LOCK).unlink(missing_ok=True)
                self._hidden.rmdir()


def remove_leftovers(path: Path) -> None:
    """Remove parts of an output that nobody can go on with.

    A kill may leave them when the output has its name already.
    """
    hidden = _parts_folder(path)
    whole = hidden / f"whole{path.suffix.lower()}", hidden / _PICTURES
    has_name = (hidden / _JOINED).exists() and not any(it.exists() for it in whole)
    if hidden.is_dir() and (has_name or not (hidden / _DONE).exists()):
        lock = _Lock(hidden / _LOCK, blocking=False)
        with suppress(OSError, NotImplementedError), lock:
            shutil.rmtree(hidden)


def _parts_folder(path: Path) -> Path:
    return path.with_name(f".{path.name}.parts")


def _picture_name(index: int) -> str:
    return f"{index:06d}.png"


def _check_picture_folder(folder: Path) -> None:
    """Raise where a folder may not be replaced."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give the name of a folder")
    for entry in folder.iterdir():
        if not re.fullmatch(r"[0-9]+\.png", entry.name):
            raise ValueError(
                f"{folder} holds other things ({entry.name}) than numbered pictures; "
                "give a folder of its own"
            )

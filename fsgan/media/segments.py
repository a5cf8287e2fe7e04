"""Long conversions in parts: what is finished survives a kill, and the rest goes on."""

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import astuple
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
import numpy as np

from fsgan.media.writer import Position, VideoWriter, full_disk_named

logger = logging.getLogger(__name__)

_MANIFEST, _LOCK = "conversion.json", "lock"


class ResumableWriter(VideoWriter):
    """Write frames as `VideoWriter` does, in parts that survive a kill.

    Parts lie in a hidden folder beside the output, `.<name>.parts`. After an
    exception or a kill the finished ones stay, and the next writer with the same
    settings goes on behind them: skip `frames_done` frames, take up `state`. Written
    with the same parts, an interrupted output equals an uninterrupted one.

    Attributes:
        frames_done: frames in finished parts.
        state: what was given with the last finished part; empty at first.
    """

    def __init__(
        self,
        path: str | Path,
        width: int,
        height: int,
        fps: Fraction | float,
        *,
        settings: dict,
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
            path: as for `VideoWriter`.
            width: pixels of the frames to come.
            height: pixels of the frames to come.
            fps: frames a second, for frames written without a time.
            settings: all that the frames depend on besides the arguments here, as
                JSON takes it: parts written with others are thrown away.
            audio_from: as for `VideoWriter`, like all that follows.
            start: seconds in `audio_from` where the frames begin.
            end: seconds in `audio_from` where the sound ends; `None` for all of it.
            crf: constant quality on x264's scale, 0 (best) to 51 (worst).
            preset: speed, one of `video_formats.PRESETS`.
            metadata: tags of the file.
            lossless: every pixel exact, odd sizes too; .mkv only.
            xmp: XMP packet for each picture.
            finish: called with the whole file (or the folder of pictures) before it
                takes its name.

        Raises:
            ValueError: a setting is out of its range.
            TypeError: `settings` holds what JSON does not know.
        """
        super().__init__(
            path,
            width,
            height,
            fps,
            audio_from=audio_from,
            start=start,
            end=end,
            crf=crf,
            preset=preset,
            metadata=metadata,
            lossless=lossless,
            xmp=xmp,
            finish=finish,
        )
        pattern = self._sequence and self._sequence.pattern
        own = [width, height, str(self.fps), str(self._start), str(self._end), pattern]
        own += [self._format.codec, self._format.options, av.library_versions]
        self._manifest = json.dumps({"writer": own, "settings": settings}, indent=1)
        target = self.path if self._sequence is None else self._sequence.folder
        self._hidden = target.with_name(f".{target.name}.parts")
        self._pictures = self._hidden / "pictures"
        self._records = 0  # finished parts
        self.frames_done = 0
        self.state: dict[str, np.ndarray] = {}

    def __enter__(self) -> Self:
        """Find the finished parts.

        Raises:
            BlockingIOError: another process is writing this output.
            FileNotFoundError: `audio_from` does not exist.
            IsADirectoryError: `path` is a folder and names a file.
            ValueError: `audio_from` cannot be read, or the folder to replace holds
                other things than pictures of this pattern.
            OSError: the folder cannot be written to.
        """
        super().__enter__()
        with ExitStack() as stack:
            lock = stack.enter_context(open(self._hidden / _LOCK, "w"))
            try:  # the system lets go of it when the process dies, however it dies
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(
                    f"{self.path} is being written by another process; wait for it or "
                    "give another output"
                ) from error
            with full_disk_named(self.path):
                self._find_parts()
            self._unlock = stack.pop_all().close
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Finish the output; after an exception only the finished parts stay.

        Raises:
            ValueError: no frame was written.
            OSError: the disk is full.
        """
        try:
            super().__exit__(kind, *error)
        finally:
            self._unlock()

    def end_part(self, state: dict[str, np.ndarray]) -> None:
        """Finish the running part: its frames are safe from now on.

        Without a frame since the last part nothing happens.

        Args:
            state: small arrays with which the conversion can go on, given back as
                `state`.

        Raises:
            OSError: the disk is full.
        """
        if self._position.frames == self.frames_done:
            return
        with full_disk_named(self.path):
            self._close_part()
            arrays = {f"state_{name}": value for name, value in state.items()}
            temporary = self._hidden / "unfinished.npz"
            position = [str(value) for value in astuple(self._position)]
            np.savez(temporary, position=position, **arrays)
            # The part counts from here on, and not a moment before.
            os.replace(temporary, self._record(self._records))
        self._records += 1
        self.frames_done, self.state = self._position.frames, dict(state)

    def _record(self, number: int) -> Path:
        return self._hidden / f"{number:06d}.npz"

    def _find_parts(self) -> None:
        manifest = self._hidden / _MANIFEST
        if not manifest.exists() or manifest.read_text() != self._manifest:
            if manifest.exists():
                logger.warning(
                    "%s: the parts found are of another conversion; they are thrown "
                    "away",
                    self.path,
                )
            self._tidy()
            temporary = manifest.with_suffix(".tmp")
            temporary.write_text(self._manifest)
            os.replace(temporary, manifest)
        while self._is_finished(self._records):
            self._records += 1
        if self._records:
            self._load(self._record(self._records - 1))
        self._tidy()
        if self.frames_done:
            logger.info("%s: goes on after %d frames", self.path, self.frames_done)

    def _is_finished(self, number: int) -> bool:
        part = self._pictures if self._sequence else self._part_path(number)
        return self._record(number).exists() and part.exists()

    def _load(self, record: Path) -> None:
        with np.load(record) as arrays:
            frames, origin, time, ticks, step = map(Fraction, arrays["position"])
            self.state = {
                name.removeprefix("state_"): arrays[name]
                for name in arrays.files
                if name != "position"
            }
        self._position = Position(int(frames), origin, time, int(ticks), int(step))
        self._parts = [self._part_path(number) for number in range(self._records)]
        self.frames_done = self._position.frames

    def _tidy(self) -> None:
        """Remove all but the finished parts."""
        numbers = range(self._records)
        keep = {self._hidden / _MANIFEST, self._hidden / _LOCK}
        keep |= {
            path for n in numbers for path in (self._record(n), self._part_path(n))
        }
        if self._sequence is not None and self.frames_done:
            keep.add(self._pictures)
            names = {self._sequence.name(index) for index in range(self.frames_done)}
            keep |= {self._pictures / name for name in names}
        for path in [*self._hidden.iterdir(), *self._pictures.glob("*")]:
            if path not in keep and path.exists():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _give_up(self) -> None:
        if self._records:
            self._tidy()
        else:
            super()._give_up()

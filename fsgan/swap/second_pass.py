"""The second pass over a video: its faces, which are known, are swapped and written."""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from fsgan.faces.geometry import Face
from fsgan.faces.tracks import FollowedFaces, fingerprint
from fsgan.media.prefetch import prefetch
from fsgan.media.provenance import video_metadata
from fsgan.media.reader import Frame, VideoInfo, read_frames
from fsgan.media.segments import ResumableWriter
from fsgan.swap.layer_files import FrameFaces, LayerFiles, PlacedFace, write_matrices
from fsgan.swap.swapper import FaceSwapper

CHUNK_BYTES = 12e6  # of frames that go through the generator together
CHUNK_FRAMES = 16  # at most
PART_FRAMES = 256  # at least, after which a killed conversion can go on


class SecondPass:
    """Swaps the faces of a video and writes what is not written yet.

    Decoding, cutting out, generating, composing and encoding overlap in threads, a
    chunk of frames in each, so that memory does not grow with the video.

    Attributes:
        frames: how many there were: "all", "with face", "damaged".
    """

    def __init__(
        self,
        swapper: FaceSwapper,
        info: VideoInfo,
        followed: FollowedFaces,
        chosen: set[int],
        stretch: tuple[float, float | None, Fraction | float | None],
    ) -> None:
        """Takes what is known.

        Args:
            swapper: swaps the faces.
            info: the video.
            followed: its faces.
            chosen: numbers of the tracks to swap.
            stretch: first second, second to stop at, frames a second; as of
                `fsgan.media.reader.read_frames`.
        """
        self.frames: Counter = Counter()
        self._swapper, self._info, self._stretch = swapper, info, stretch
        self._followed, self._chosen = followed, chosen
        self._placed: list[FrameFaces] = []

    @property
    def depends_on(self) -> dict:
        """All that the frames depend on, for `ResumableWriter`."""
        checkpoint = self._swapper.checkpoint
        return fingerprint(self._info.path) | {
            "settings": asdict(self._swapper.settings),
            "model": str(checkpoint),
            "trained": checkpoint.stat().st_mtime_ns,
            "tracks": sorted(self._chosen),
            "stretch": [str(value) for value in self._stretch],
            "software": video_metadata()["software"],
        }

    def run(self, writer: ResumableWriter, layers_dir: Path | None = None) -> None:
        """Swaps and writes the frames, in their order.

        Args:
            writer: open; the frames that it has already are left out.
            layers_dir: where faces, masks and matrices go as files; None: nowhere.
        """
        layer_files = None if layers_dir is None else LayerFiles(layers_dir)
        self._swapper.reset()
        if writer.frames_done:
            self._swapper.state = writer.state
        waiting: deque[list[Frame]] = deque()
        in_part, state = 0, self._swapper.state
        with tqdm(
            desc="swap",
            total=self._expected_frames(),
            initial=writer.frames_done,
            unit="frame",
        ) as progress:
            chunks = self._chunks(writer.frames_done, waiting)
            for swapped, state in self._swapper.stream(chunks):
                for frame, result in zip(waiting.popleft(), swapped, strict=True):
                    writer.write(result.picture, frame.time)
                    if layer_files is not None:
                        shape = frame.image.shape
                        layer_files.write(frame.index, shape, result.layers)
                    progress.update()
                in_part += len(swapped)
                if in_part >= PART_FRAMES:
                    writer.end_part(state)
                    in_part = 0
        writer.end_part(state)
        if layers_dir is not None:
            info = self._info
            write_matrices(
                layers_dir / "matrices.json",
                info.path,
                (info.width, info.height),
                info.fps,
                self._placed,
            )

    def _expected_frames(self) -> int:
        start, end, _ = self._stretch
        seconds = min(end or np.inf, self._info.duration) - start
        return max(1, round(self._info.frame_count * seconds / self._info.duration))

    def _chunks(
        self, done: int, waiting: deque[list[Frame]]
    ) -> Iterator[tuple[list[np.ndarray], list[list[Face]]]]:
        """Frames and their faces; the frames are put down in `waiting`, too."""
        frame_bytes = 3 * self._info.width * self._info.height
        size = int(np.clip(CHUNK_BYTES / frame_bytes, 1, CHUNK_FRAMES))
        frames = islice(self._frames_with_faces(), done, None)
        chunks = iter(lambda: list(islice(frames, size)), [])
        for chunk in prefetch(chunks):
            waiting.append([frame for frame, _ in chunk])
            yield [frame.image for frame, _ in chunk], [faces for _, faces in chunk]

    def _frames_with_faces(self) -> Iterator[tuple[Frame, list[Face]]]:
        """Each frame and the faces to swap in it; none where it is damaged."""
        for frame in read_frames(self._info.path, *self._stretch):
            faces = self._followed.faces(frame.index, self._chosen)
            faces = [] if frame.damaged else faces
            self.frames["all"] += 1
            self.frames["with face"] += bool(faces)
            self.frames["damaged"] += frame.damaged
            if self._swapper.settings.layers:
                placed = [
                    PlacedFace(
                        face.track, self._swapper.matrix(face), self._swapper.resolution
                    )
                    for face in faces
                ]
                self._placed.append(FrameFaces(frame.index, frame.time, placed))
            yield frame, faces

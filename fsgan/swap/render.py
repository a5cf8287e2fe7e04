"""The second pass over a video: its faces, which are known, are swapped and written."""

import json
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from fsgan.faces.geometry import Face
from fsgan.faces.tracks import FaceTracks, fingerprint
from fsgan.media.files import write_beside
from fsgan.media.images import write_image
from fsgan.media.prefetch import prefetch
from fsgan.media.provenance import image_xmp, video_metadata
from fsgan.media.reader import Frame, VideoInfo, read_frames
from fsgan.media.writer import ResumableWriter
from fsgan.swap.compositing import Layer, flatten
from fsgan.swap.swapper import FaceSwapper

# Frames that go through the generator together are as many as it takes faces at once,
# but, for the memory, no more than so many bytes for each.
BYTES_A_FACE = 0.75e6
PART_FRAMES = 256  # at least, after which a killed conversion can go on

_CONVENTION = (
    "matrix [[a, b, c], [d, e, f]] takes the pixel (x, y) of the frame to the pixel "
    "(a x + b y + c, d x + e y + f) of the face's square of resolution x resolution "
    "pixels; the centre of the pixel at the top left is (0, 0), x grows to the right, "
    "y downward"
)


@dataclass
class Renderer:
    """Swaps the faces of a video and writes what is not written yet.

    Decoding, cutting out, generating, composing and encoding overlap in threads, a
    chunk of frames in each, so that memory does not grow with the video.

    Attributes:
        swapper: swaps the faces.
        source: the video.
        faces: those of the first pass.
        chosen: numbers of the tracks to swap.
        stretch: "start", "end" and "fps", as of `read_frames`.
        layers_dir: where faces, masks and matrices go as files; None: nowhere.
        counts: how many frames there were: "all", "with face", "damaged".
    """

    swapper: FaceSwapper
    source: VideoInfo
    faces: FaceTracks
    chosen: set[int]
    stretch: dict[str, float | Fraction | None]
    layers_dir: Path | None = None
    counts: Counter = field(default_factory=Counter, init=False)
    _placed: list[dict] = field(default_factory=list, init=False)
    _in_work: deque[list[Frame]] = field(default_factory=deque, init=False)

    @property
    def depends_on(self) -> dict:
        """All that the frames depend on, for `ResumableWriter`."""
        checkpoint = self.swapper.checkpoint
        return fingerprint(self.source.path) | {
            "settings": asdict(self.swapper.settings),
            "model": str(checkpoint),
            "trained": checkpoint.stat().st_mtime_ns,
            "tracks": sorted(self.chosen),
            "stretch": [str(value) for value in self.stretch.values()],
            "software": video_metadata()["software"],
        }

    def run(self, writer: ResumableWriter) -> None:
        """Swaps and writes the frames that an open writer does not have yet."""
        self.swapper.reset()
        done, in_part = writer.frames_done, 0
        if done:
            self.swapper.colors.state = writer.state
        state = self.swapper.colors.state
        start, end = self.stretch["start"], self.stretch["end"]
        expected = self.source.frames_between(start, end)
        with tqdm(desc="swap", total=expected, initial=done, unit="frame") as progress:
            for swapped, state in self.swapper.stream(self._chunks(done)):
                for frame, result in zip(self._in_work.popleft(), swapped, strict=True):
                    writer.write(result.picture, frame.time)
                    if self.layers_dir is not None:
                        shape = frame.image.shape
                        write_layers(self.layers_dir, frame.index, shape, result.layers)
                    progress.update()
                in_part += len(swapped)
                if in_part >= PART_FRAMES:
                    writer.end_part(state)
                    in_part = 0
        writer.end_part(state)
        if self.layers_dir is not None:
            path = self.layers_dir / "matrices.json"
            write_matrices(path, self.source, self._placed)

    def _chunks(self, done: int) -> Iterator[tuple[list[np.ndarray], list[list[Face]]]]:
        """Frames behind those that are done, and their faces."""
        frame_bytes = 3 * self.source.width * self.source.height
        most = self.swapper.batch_size
        size = int(np.clip(most * BYTES_A_FACE / frame_bytes, 1, most))
        frames = islice(self._frames_with_faces(), done, None)
        for chunk in prefetch(iter(lambda: list(islice(frames, size)), [])):
            self._in_work.append([frame for frame, _ in chunk])
            yield [frame.image for frame, _ in chunk], [faces for _, faces in chunk]

    def _frames_with_faces(self) -> Iterator[tuple[Frame, list[Face]]]:
        """Each frame and the faces to swap in it; none where it is damaged."""
        for frame in read_frames(self.source.path, **self.stretch):
            known = self.faces.faces(frame.index, self.chosen)
            faces = [] if frame.damaged else known
            self.counts["all"] += 1
            self.counts["with face"] += bool(faces)
            self.counts["damaged"] += frame.damaged
            if self.layers_dir is not None:
                squares = [
                    {
                        "track": face.track,
                        "resolution": self.swapper.resolution,
                        "matrix": self.swapper.matrix(face).round(9).tolist(),
                    }
                    for face in faces
                ]
                time = round(float(frame.time), 6)
                placed = {"index": frame.index, "time": time, "faces": squares}
                self._placed.append(placed)
            yield frame, faces


def write_layers(
    folder: Path, index: int, shape: tuple[int, ...], layers: list[Layer]
) -> None:
    """Writes the faces of a frame for compositing programs, marked as synthetic.

    `face/000123.png` is RGBA with straight alpha, `mask/000123.png` that alpha as gray,
    both of the frame's size; without a face transparent and black.

    Args:
        folder: where `face` and `mask` lie; created when needed.
        index: of the frame; names the files.
        shape: (height, width, ...) of the frame.
        layers: its faces, the last on top.

    Raises:
        OSError: the folder cannot be written to.
    """
    rgba = flatten(layers, shape)
    for kind, picture in (("face", rgba), ("mask", rgba[..., 3:])):
        path = folder / kind / f"{index:06d}.png"
        write_image(path, picture, image_xmp(), compress_level=1)  # 6 takes longer


def write_matrices(path: Path, source: VideoInfo, frames: list[dict]) -> None:
    """Writes where the generated faces lie, for match-moving, as JSON.

    Args:
        path: the file, .json, which says by itself what a matrix means.
        source: the video.
        frames: of each frame its index, time in seconds, and faces; of each face its
            track, and matrix and resolution of the generator's square.

    Raises:
        OSError: the file cannot be written.
    """
    head = {
        "source": source.path.name,
        "width": source.width,
        "height": source.height,
        "fps": str(source.fps),
        "convention": _CONVENTION,
        "synthetic": video_metadata(),
    }
    lines = ",\n  ".join(map(json.dumps, frames))  # a frame takes one
    text = json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}")
    with write_beside(path) as hidden:
        hidden.write_text(f'{text},\n "frames": [\n  {lines}\n ]\n}}\n', "utf-8")

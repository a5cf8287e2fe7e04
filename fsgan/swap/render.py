"""The second pass over a video: its faces, which are known, are swapped and written."""

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from fsgan.faces.geometry import Face
from fsgan.faces.tracks import FaceTracks, fingerprint
from fsgan.media.images import write_beside, write_image
from fsgan.media.prefetch import prefetch
from fsgan.media.provenance import image_xmp, video_metadata
from fsgan.media.reader import Frame, VideoInfo, read_frames
from fsgan.media.writer import ResumableWriter
from fsgan.swap.compositing import Layer
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
        followed: FaceTracks,
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


# A face in a 720p frame takes two thirds of the time of 6, and a third more space.
_COMPRESS_LEVEL = 1
_CONVENTION = (
    "matrix [[a, b, c], [d, e, f]] takes the pixel (x, y) of the frame to the pixel "
    "(a x + b y + c, d x + e y + f) of the face's square of resolution x resolution "
    "pixels; the centre of the pixel at the top left is (0, 0), x grows to the right, "
    "y downward"
)


class PlacedFace(NamedTuple):
    """Where a generated face belongs.

    Attributes:
        track: number of the face in the video.
        matrix: float (2, 3), frame pixels to pixels of the generator's square, as of
            `fsgan.faces.geometry.crop_matrix`; centres of pixels are whole numbers.
        resolution: side of that square in pixels.
    """

    track: int
    matrix: np.ndarray
    resolution: int


class FrameFaces(NamedTuple):
    """The faces of one frame.

    Attributes:
        index: of the frame, as of `fsgan.media.reader.Frame`.
        time: seconds since the start of the source.
        faces: the lowest first; empty where there is none.
    """

    index: int
    time: Fraction
    faces: list[PlacedFace]


class LayerFiles:
    """Two sequences of PNG without gaps: the faces with alpha, and their masks.

    `face/000123.png` is RGBA with straight alpha, `mask/000123.png` that alpha as gray,
    both of the frame's size. Laid over frame 123 of the source, the first gives the
    result of blending by "alpha". A frame without faces has a transparent picture and a
    black one. All are marked as synthetic.
    """

    def __init__(self, folder: str | Path) -> None:
        """Writes nothing yet.

        Args:
            folder: where `face` and `mask` will lie; created when needed.
        """
        self._face, self._mask = Path(folder) / "face", Path(folder) / "mask"

    def write(self, index: int, shape: tuple[int, ...], layers: list[Layer]) -> None:
        """Writes the two pictures of a frame, or writes them again.

        Args:
            index: of the frame; names the files.
            shape: (height, width) of the frame, or its whole shape.
            layers: its faces, the last on top.

        Raises:
            OSError: the folder cannot be written to.
        """
        rgba, name = flatten(layers, shape), f"{index:06d}.png"
        for folder, picture in ((self._face, rgba), (self._mask, rgba[..., 3:])):
            write_image(folder / name, picture, image_xmp(), _COMPRESS_LEVEL)


def flatten(layers: list[Layer], shape: tuple[int, ...]) -> np.ndarray:
    """Lays faces over each other, but over no frame.

    Args:
        layers: the faces, the last on top.
        shape: (height, width) of the frame, or its whole shape.

    Returns:
        RGBA uint8 (height, width, 4), alpha straight, that is not multiplied into the
        colours. Over the frame it looks as `compositing.blend` by "alpha" does,
        to 1 level; transparent black where there is no face.

    Source: Porter and Duff, "Compositing digital images", 1984.
    """
    picture = np.zeros((*shape[:2], 4), np.uint8)
    if not layers:
        return picture
    top, bottom = _span([layer.rows for layer in layers], shape[0])
    left, right = _span([layer.columns for layer in layers], shape[1])
    mixed = np.zeros((bottom - top, right - left, 4), np.float32)  # premultiplied
    for layer in layers:
        rows = slice(*np.subtract(layer.rows.indices(shape[0])[:2], top))
        columns = slice(*np.subtract(layer.columns.indices(shape[1])[:2], left))
        under = mixed[rows, columns]
        under *= 1 - layer.alpha
        under[..., :3] += layer.alpha * layer.rgb
        under[..., 3:] += layer.alpha * 255
    alpha = np.rint(mixed[..., 3:])
    # By the rounded alpha, as that is what others will multiply by.
    straight = mixed[..., :3] * 255 / np.maximum(alpha, 1)
    straight[alpha[..., 0] == 0] = 0
    flat = np.concatenate([np.rint(straight), alpha], axis=-1)
    picture[top:bottom, left:right] = flat.clip(0, 255)
    return picture


def write_matrices(
    path: str | Path,
    source: str | Path,
    size: tuple[int, int],
    fps: Fraction,
    frames: Iterable[FrameFaces],
) -> None:
    """Writes where the generated faces belong, for match-moving, as JSON.

    A frame takes one line, so that long videos pass by. The file says by itself what a
    matrix means.

    Args:
        path: the file, .json; it takes its name when it is complete.
        source: the video; its name is noted.
        size: (width, height) of its frames.
        fps: its frames a second.
        frames: its frames in order, those without faces too.

    Raises:
        OSError: the file cannot be written.
    """
    head = {
        "source": Path(source).name,
        "width": size[0],
        "height": size[1],
        "fps": str(Fraction(fps)),
        "convention": _CONVENTION,
        "synthetic": video_metadata(),
    }
    with write_beside(path) as hidden, open(hidden, "w", encoding="utf-8") as file:
        file.write(json.dumps(head, indent=1, ensure_ascii=False)[:-2])
        file.write(',\n "frames": [')
        for count, frame in enumerate(frames):
            line = {
                "index": frame.index,
                "time": round(float(frame.time), 6),
                "faces": [
                    {
                        "track": int(face.track),
                        "resolution": int(face.resolution),
                        "matrix": np.asarray(face.matrix, float).round(9).tolist(),
                    }
                    for face in frame.faces
                ],
            }
            file.write(("," if count else "") + "\n  " + json.dumps(line))
        file.write("\n ]\n}\n")


def _span(slices: list[slice], length: int) -> tuple[int, int]:
    """Where the first of some slices begins and the last ends."""
    limits = [part.indices(length)[:2] for part in slices]
    return min(start for start, _ in limits), max(stop for _, stop in limits)

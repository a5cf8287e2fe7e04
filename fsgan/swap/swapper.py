"""Swaps the faces in frames: cut out, generate, match colours, put back."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field, FiniteFloat

from fsgan.faces.detector import FaceDetector, MinConfidence, MinFace
from fsgan.faces.geometry import Face, align, crop_matrix
from fsgan.faces.pose import without_profiles
from fsgan.faces.tracking import FaceTracker
from fsgan.media.encoding import Encoder
from fsgan.media.prefetch import prefetch_map
from fsgan.media.provenance import draw_label
from fsgan.swap.color import COLOR_METHODS, ColorMatcher
from fsgan.swap.compositing import (
    BLEND_METHODS,
    Layer,
    blend,
    enhance,
    feather,
    lay_out,
    place,
    sharpen,
)
from fsgan.validation import AboveZero, AtLeastZero, Count, Share, checked

DIRECTIONS = {"AtoB": "b", "BtoA": "a"}  # -> whose face is generated
ENGINES = ("auto", "bfloat16", "float16", "mixed", "float32", "keras")


@checked
@dataclass(frozen=True)
class ConvertSettings:
    """How faces are found, generated and put back, and what is written.

    Attributes:
        direction: "AtoB" puts B's face on footage of A; or "BtoA".
        color: none, adain, adain_xyz, hist_match, lab.
        color_smoothing: [0, 1), share kept from the frame before.
        blend: alpha, poisson, multiband.
        min_alpha: [0, 1], shows more of the face than the mask asks for.
        feather: width of the faded border, share of the generated square; None: 0.15,
            or 0.04 where the model has learned the face's mask.
        sharpen: at least 0, of the generated face.
        enhance: at least 0, contrast of the result against the source.
        smoothing: Kalman process noise, less is smoother; None: off.
        min_face: pixels, smaller faces are left alone.
        min_confidence: of the detector, [0.7, 1].
        search_every: frames; those between are looked at where faces were.
        layout: 1 result; 2 source, result; 3 source, result, mask.
        layers: also write faces, masks and matrices as files beside a video.
        crf: quality of a video, 0 best to 51.
        lossless: every pixel as it was made, .mkv only.
        encoder: "software"; or "nvenc", H.264 by an NVIDIA card.
        mark: whether the file says that it is synthetic.
        label: whether the picture says so, too.
        certificate: PEM file to sign with; None: a key made for this one file.
        private_key: PEM file that belongs to it.
        engine: how faces are generated, as of `FaceGenerator`.
    """

    direction: Literal[*DIRECTIONS] = "AtoB"
    color: Literal[*COLOR_METHODS] = "lab"
    color_smoothing: Annotated[FiniteFloat, Field(ge=0, lt=1)] = 0.8
    blend: Literal[*BLEND_METHODS] = "alpha"
    min_alpha: Share = 0.0
    feather: Annotated[FiniteFloat, Field(gt=0, le=0.5)] | None = None
    sharpen: AtLeastZero = 0.0
    enhance: AtLeastZero = 0.0
    smoothing: AboveZero | None = 0.03
    min_face: MinFace = 35
    min_confidence: MinConfidence = 0.8
    search_every: Count = 5
    layout: Annotated[int, Field(ge=1, le=3)] = 1
    layers: bool = False
    crf: Annotated[int, Field(ge=0, le=51)] = 18
    lossless: bool = False
    encoder: Encoder = "software"
    mark: bool = True
    label: bool = False
    certificate: str | None = None
    private_key: str | None = None
    engine: Literal[*ENGINES] = "auto"

    def __post_init__(self) -> None:
        """Checks what goes together."""
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key must be given together")


class Swapped(NamedTuple):
    """A frame with its new faces.

    Attributes:
        picture: RGB uint8 (height, layout * width, 3), in the layout of the settings.
        layers: the faces in it, the last on top.
    """

    picture: np.ndarray
    layers: list[Layer]

    def __repr__(self) -> str:
        """One line."""
        height, width = self.picture.shape[:2]
        return f"Swapped({width}x{height} pixels, faces: {len(self.layers)})"


class _Chunk(NamedTuple):
    """Some frames between two steps; `crops` and what follows go face by face."""

    frames: Sequence[np.ndarray]
    faces: list[list[Face]]
    crops: list[np.ndarray]
    alphas: Sequence[np.ndarray] = ()
    pictures: Sequence[np.ndarray] = ()


class FaceSwapper:
    """Swaps the faces in frames, for example in those of a camera.

    ::

        swapper = FaceSwapper("model")
        for frame in frames:
            show(swapper(frame))

    Attributes:
        settings: how.
        checkpoint: folder of the weights in use.
        batch_size: faces that are generated together, at most.
        resolution: side of the generator's square, pixels.
        detector: finds the faces.
        colors: matches colours; its state is all that is remembered of known faces.
    """

    @checked
    def __init__(
        self, model_dir: str | Path, settings: ConvertSettings | None = None
    ) -> None:
        """Loads the newest checkpoint of a model.

        Args:
            model_dir: folder given to `fsgan.train`.
            settings: how to convert; None takes the defaults.

        Raises:
            FileNotFoundError: the folder holds no checkpoint.
            ValueError: the checkpoint is damaged, or knows one person only.
        """
        # Imported here, as they bring Keras.
        from fsgan.models.checkpoint import latest_checkpoint
        from fsgan.swap.generator import FaceGenerator

        self.settings = settings = settings or ConvertSettings()
        self.checkpoint = latest_checkpoint(model_dir)
        if self.checkpoint is None:
            raise FileNotFoundError(
                f"no trained model in {model_dir}: give the folder that train wrote to"
            )
        person = DIRECTIONS[settings.direction]
        self._generator = FaceGenerator(self.checkpoint, person, settings.engine)
        self.resolution = self._generator.resolution
        self.batch_size = self._generator.batch_size
        self.detector = FaceDetector(settings.min_face, settings.min_confidence)
        width = settings.feather or (0.04 if self._generator.learned_mask else 0.15)
        self._feather = feather(self.resolution, width)
        self.reset()

    def reset(self) -> None:
        """Forgets the faces seen so far; the next frame is of another video."""
        settings = self.settings
        self._tracker = FaceTracker(
            self.detector, settings.smoothing, settings.search_every
        )
        self.colors = ColorMatcher(settings.color, settings.color_smoothing)

    def matrix(self, face: Face) -> np.ndarray:
        """Says where the generator's square lies: float64 (2, 3), frame to square."""
        return crop_matrix(face.landmarks, self.resolution, self._generator.coverage)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Swaps the faces in the next frame; they are found and tracked looking back.

        Args:
            frame: RGB uint8 (height, width, 3).

        Returns:
            The picture in the layout of the settings, RGB uint8.
        """
        [(picture, _)] = self.swap([frame])
        return picture

    def swap(
        self,
        frames: Sequence[np.ndarray],
        faces: Sequence[list[Face]] | None = None,
    ) -> list[Swapped]:
        """Swaps the faces in the next frames; a few at once are faster than one.

        Args:
            frames: RGB uint8 (height, width, 3), in their order in time.
            faces: those to swap in each frame; None finds and tracks them, looking
                back only.

        Returns:
            For each frame the picture and its new faces.

        Raises:
            ValueError: `faces` are of more or fewer frames.
        """
        if faces is None:
            found = map(self._tracker.track, frames)
            tracked = [[it.face for it in of_frame] for of_frame in found]
            faces = list(map(without_profiles, tracked))
        if len(frames) != len(faces):
            raise ValueError(
                f"faces must be a list for each of {len(frames)} frames, got "
                f"{len(faces)}"
            )
        return self._compose(self._generate(self._cut((frames, faces))))

    def paste(
        self, frame: np.ndarray, face: Face, picture: np.ndarray, alpha: np.ndarray
    ) -> Swapped:
        """Puts a given picture in the place of a face, as if it were generated.

        Args:
            frame: RGB uint8 (height, width, 3).
            face: in the frame; its colours are matched without those seen so far.
            picture: RGB [0, 255] (resolution, resolution, 3), cut out as by `matrix`.
            alpha: float [0, 1] (resolution, resolution, 1).

        Returns:
            The picture and its one face.
        """
        chunk = self._cut(([frame], [[replace(face, run=None)]]))
        [pasted] = self._compose(chunk._replace(alphas=[alpha], pictures=[picture]))
        return pasted

    def stream(
        self, chunks: Iterable[tuple[Sequence[np.ndarray], Sequence[list[Face]]]]
    ) -> Iterator[tuple[list[Swapped], dict[str, np.ndarray]]]:
        """Swaps the faces of a video; the steps overlap in threads.

        Args:
            chunks: frames and the faces in each of them, as `swap` takes them.

        Yields:
            For each chunk what `swap` returns, and the state of `colors` after it.
        """
        cut = prefetch_map(self._cut, chunks)
        generated = prefetch_map(self._generate, cut)
        yield from prefetch_map(
            lambda chunk: (self._compose(chunk), self.colors.state), generated
        )

    def _cut(self, chunk: tuple[Sequence[np.ndarray], Sequence[list[Face]]]) -> _Chunk:
        """Cuts the faces out, of each frame the largest last: it comes on top."""
        frames, faces = chunk
        faces = [sorted(of_frame, key=lambda face: face.size) for of_frame in faces]
        crops = [
            align(frame, self.matrix(face), self.resolution)
            for frame, of_frame in zip(frames, faces, strict=True)
            for face in of_frame
        ]
        return _Chunk(frames, faces, crops)

    def _generate(self, chunk: _Chunk) -> _Chunk:
        """Adds the generated alphas and pictures."""
        if not chunk.crops:
            return chunk
        alphas, pictures = self._generator(np.stack(chunk.crops))
        return chunk._replace(alphas=alphas, pictures=pictures)

    def _compose(self, chunk: _Chunk) -> list[Swapped]:
        """Puts the faces, in the colours of those they replace, into the frames."""
        settings, results = self.settings, []
        generated = zip(chunk.crops, chunk.alphas, chunk.pictures, strict=True)
        for frame, faces in zip(chunk.frames, chunk.faces, strict=True):
            layers = []
            for face in faces:
                crop, alpha, picture = next(generated)
                alpha = np.maximum(alpha, settings.min_alpha) * self._feather
                matched = self.colors.match(picture, crop, alpha, face.run)
                layer = place(matched, alpha, self.matrix(face), frame)
                layers.append(sharpen(layer, settings.sharpen))
            result = blend(frame, layers, settings.blend)
            result = enhance(result, frame, settings.enhance)
            if settings.label and layers:
                result = draw_label(result)
            result = lay_out(frame, result, layers, settings.layout)
            results.append(Swapped(result, layers))
        return results

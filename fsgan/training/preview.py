"""What a model makes of some faces: a picture, an error, the pictures as a video."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from tqdm.auto import tqdm

from fsgan.data.dataset import FaceSet, center_crop_batch
from fsgan.media.images import list_images, read_image
from fsgan.media.provenance import image_xmp, video_metadata
from fsgan.media.writer import VideoWriter

if TYPE_CHECKING:  # else looking at old previews would start Keras
    from fsgan.training.gan import FaceSwapGAN

PREVIEWS = "previews"
TIMELAPSE = "timelapse.mp4"
ROWS = ("face", "swap", "mask", "unmasked", "rebuilt")
# Faces of each person, and faces that go through the networks at once: always as many,
# as another number would compile the networks anew.
_COLUMNS = 6


def draw_preview(
    gan: "FaceSwapGAN", face_sets: Sequence[FaceSet], coverage: float
) -> np.ndarray:
    """Draws what the model makes of some faces of each person.

    Args:
        gan: the model.
        face_sets: A's faces, then B's; A's alone where the model knows one person. One
            face or more of each.
        coverage: share of the crop that the networks see.

    Returns:
        RGB uint8: a column of labels, six faces of A, then six of B, all of the
        model's resolution, under a strip with the persons' names. In rows: face;
        swapped face; its mask (white: generated); swapped face before the mask; face
        rebuilt by its own decoder. With one person: face and rebuilt face.
    """
    resolution = gan.config.resolution
    halves = []
    for faces, own, other in zip(face_sets, "ab", "ba", strict=False):
        chosen = np.linspace(0, len(faces) - 1, _COLUMNS).astype(int)
        x = center_crop_batch(faces.images[chosen], resolution, coverage)
        rows = {"face": x, "rebuilt": gan.generate(x, own)[1]}
        if len(face_sets) == 2:
            alpha, swapped = gan.generate(x, other)
            rows["swap"] = alpha * swapped + (1 - alpha) * x
            rows["mask"] = np.repeat(2 * alpha - 1, 3, axis=-1)
            rows["unmasked"] = swapped
        labels = [label for label in ROWS if label in rows]
        halves.append(np.vstack([np.hstack(list(rows[label])) for label in labels]))
    picture = (np.hstack(halves).astype(np.float32) + 1) * 127.5
    return _label(picture.round().clip(0, 255).astype(np.uint8), resolution, labels)


def _label(picture: np.ndarray, size: int, labels: list[str]) -> np.ndarray:
    """Adds the names of the rows on the left, those of the persons on top."""
    canvas = Image.fromarray(np.pad(picture, ((size // 4, 0), (size, 0), (0, 0))))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size / 5.5)
    for row, label in enumerate(labels):
        place = (size / 2, size / 4 + (row + 0.5) * size)
        draw.text(place, label, fill="white", font=font, anchor="mm")
    half = _COLUMNS * size
    for person in range(picture.shape[1] // half):
        place = (size + (person + 0.5) * half, size / 8)
        draw.text(place, "AB"[person], fill="white", font=font, anchor="mm")
    return np.array(canvas)


def reconstruction_error(
    gan: "FaceSwapGAN", faces: FaceSet, person: str, coverage: float
) -> float:
    """Measures how far a person's faces are from what their own decoder makes of them.

    On faces that training never sees, it is the measure of when to stop. The faces go
    in undistorted, so it is not comparable with the loss of the same name.

    Args:
        gan: the model.
        faces: faces of that person, one or more.
        person: "a" or "b", whose decoder paints.
        coverage: share of the crop that the networks see.

    Returns:
        Mean |rgb - face| of pixels in [-1, 1]: 0 is perfect, painting all gray costs
        0.3 to 0.4.

    Raises:
        ValueError: there is no face.
    """
    if not len(faces):
        raise ValueError(f"faces of person {person} must hold at least one, got none")
    total = 0.0
    for start in range(0, len(faces), _COLUMNS):
        chosen = np.arange(start, min(start + _COLUMNS, len(faces)))
        images = faces.images[np.resize(chosen, _COLUMNS)]
        x = center_crop_batch(images, gan.config.resolution, coverage)
        distance = np.abs(gan.generate(x, person)[1] - x)
        total += float(distance[: len(chosen)].mean()) * len(chosen)
    return total / len(faces)


def make_timelapse(
    model_dir: str | Path, out: str | Path | None = None, fps: float = 10
) -> Path:
    """Makes a video of a training's previews, with the iteration written above each.

    Args:
        model_dir: folder given to `fsgan.train`.
        out: file to write, .mp4, .m4v or .mov; None is `timelapse.mp4` in `model_dir`.
        fps: previews a second; the last one is held for a second more.

    Returns:
        The written file; it is marked as synthetic.

    Raises:
        FileNotFoundError: there are no previews.
        ValueError: `fps` or the suffix of `out` cannot be used, a preview is damaged.
        OSError: `out` cannot be written.
    """
    paths = list_images(Path(model_dir) / PREVIEWS)
    out = Path(model_dir) / TIMELAPSE if out is None else Path(out)
    height, width = read_image(paths[-1]).shape[:2]
    strip = max(16, height // 20)
    font = ImageFont.load_default(strip * 0.75)
    writer = VideoWriter(out, width, height + strip, fps, metadata=video_metadata())
    with writer:
        for path in tqdm(paths, desc="time-lapse", unit="preview"):
            frame = Image.new("RGB", (width, height + strip))
            # Other settings may have drawn older previews in another size.
            preview = Image.fromarray(read_image(path))
            frame.paste(ImageOps.pad(preview, (width, height)), (0, strip))
            text = f"iteration {path.stem.lstrip('0') or '0'}"
            ImageDraw.Draw(frame).text(
                (width / 2, strip / 2), text, fill="white", font=font, anchor="mm"
            )
            writer.write(np.array(frame))
        for _ in range(round(fps)):
            writer.write(np.array(frame))
    return out


def encode_jpeg(picture: np.ndarray) -> bytes:
    """Encodes a preview where it is shown, not kept: a sixth of the PNG's size.

    Args:
        picture: RGB uint8 (height, width, 3).

    Returns:
        A JPEG file, marked as synthetic.
    """
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=90, xmp=image_xmp())
    return buffer.getvalue()


class NotebookPreview:
    """Shows each preview of a training in the place of the one before, in a notebook.

    Make a new one for every training: `train(..., on_preview=NotebookPreview())`. The
    saved notebook holds the last picture only.
    """

    def __init__(self) -> None:
        """Shows nothing yet."""
        self._handle = None

    def __call__(self, iteration: int, picture: np.ndarray) -> None:
        """Shows a preview.

        Args:
            iteration: updates done so far.
            picture: RGB uint8 (height, width, 3).
        """
        from IPython.display import Image as NotebookImage
        from IPython.display import display

        image = NotebookImage(encode_jpeg(picture), format="jpeg")
        if self._handle is None:
            self._handle = display(image, display_id=True)
        else:
            self._handle.update(image)

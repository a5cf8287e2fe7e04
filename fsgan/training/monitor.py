"""What a training shows of itself: losses on file, their plot, and previews."""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Self, TextIO

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, ImageOps
from tqdm.auto import tqdm

from fsgan.data.dataset import FaceSet, center_crop_batch
from fsgan.media.files import full_disk_named, write_beside
from fsgan.media.images import encode_jpeg, list_images, read_image
from fsgan.media.provenance import image_xmp, video_metadata
from fsgan.media.writer import VideoWriter
from fsgan.validation import AboveZero, checked

if TYPE_CHECKING:  # else looking at old losses would start Keras
    from keras import KerasTensor as Tensor

    from fsgan.training.gan import FaceSwapGAN

log = logging.getLogger(__name__)

LOSSES = "losses.csv"
VALIDATION = "validation.csv"
TENSORBOARD = "tensorboard"
PREVIEWS = "previews"
TIMELAPSE = "timelapse.mp4"
LOG_EVERY = 10  # iterations whose mean is a line

# No way back from there: discriminators aim at 0 and 1, faces lie in [-1, 1].
_LARGEST = 1e6
_WATCHED = ("reconstruction", "face")  # losses that tell an explosion
# Painting plain gray costs 0.3 to 0.4, exchanged decoders 0.3 at first; networks that
# are driven too hard end at 0.7 to 1.3, for good.
_WORSE_THAN_BEST = 1.5
_WORSE_THAN_GRAY = 0.5
_PATIENCE = 10  # bad lines in a row

# Faces of each person, and faces that go through the networks at once: always as many,
# as another number would compile the networks anew.
_COLUMNS = 6
_ROWS = ("face", "swap", "mask", "unmasked", "rebuilt")


class TrainingLog:
    """Writes down losses, held-out errors and previews, and watches the losses.

    A context manager. Of a training that goes on, what a lost stretch wrote after the
    checkpoint is dropped first, previews included; a fresh one starts empty.
    """

    def __init__(self, model_dir: str | Path, iteration: int) -> None:
        """Brings the files to the state of an iteration.

        Args:
            model_dir: Folder of the model, made when it is missing.
            iteration: Updates done so far; 0 for a fresh training.

        Raises:
            OSError: `model_dir` cannot be written.
        """
        model_dir = Path(model_dir)
        self._losses = _Table(model_dir / LOSSES, iteration)
        self._validation = _Table(model_dir / VALIDATION, iteration)
        for path in (model_dir / PREVIEWS).glob("[0-9]*.png"):
            if path.stem.isdigit() and int(path.stem) > iteration:
                path.unlink()
        self._events = _open_events(model_dir / TENSORBOARD, iteration)
        self._pending: list[tuple[int, dict[str, Tensor]]] = []  # perhaps on a card
        self._values: dict[str, list[float]] = defaultdict(list)  # since the last line
        self._first: dict[str, float] = {}  # by name of a reconstruction
        self._best: dict[str, float] = {}
        self._bad_lines: dict[str, int] = defaultdict(int)  # in a row
        for row in self._losses.rows:
            self._note(row)

    def __enter__(self) -> Self:
        """Returns the log itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes the TensorBoard file; a very short training leaves one line, too."""
        with suppress(FloatingPointError):
            self._fetch()
        if self._values and not self._losses.rows:
            self._losses.add(self._iteration, _means(self._values))
        if self._events:
            self._events.close()

    @property
    def healthy(self) -> bool:
        """Whether no reconstruction seems to explode: a state worth a checkpoint.

        Raises:
            FloatingPointError: As of `add`.
        """
        self._fetch()
        pending = _means(self._values)
        exploding = (self._is_bad(name, value) for name, value in pending.items())
        return not any(self._bad_lines.values()) and not any(exploding)

    def add(
        self, iteration: int, losses: "dict[str, Tensor]"
    ) -> dict[str, float] | None:
        """Takes in the losses of some iterations; writes a line at every tenth.

        Only then are they looked at, as a graphics card would have to be waited for.

        Args:
            iteration: Updates done so far. One call's updates are all of one line.
            losses: Values of each loss by name, such as "reconstruction_a", of the last
                updates up to this one, float (updates,) or one number. A name that was
                not there before gets a column of its own.

        Returns:
            The means since the last line where a line was written, else None.

        Raises:
            FloatingPointError: A loss is not a number or beyond 1e6, or the
                reconstruction, or face, has exploded: for 100 iterations it was above
                0.5, 1.5 times its best and what it was at first.
        """
        self._iteration = iteration
        self._pending.append((iteration, losses))
        if iteration % LOG_EVERY:
            return None
        self._fetch()
        means = _means(self._values)
        self._values.clear()
        if self._losses.add(iteration, means) and self._events:
            self._events.add_scalars(iteration, "losses", means)
        self._note(means)
        for name, value in means.items():
            self._bad_lines[name] += 1
            if not self._is_bad(name, value):
                self._bad_lines[name] = 0
            if self._bad_lines[name] == _PATIENCE:
                what = f"is {value:.3g}, after {self._best[name]:.3g} at best,"
                raise _exploded(what, name, iteration)
        return means

    def add_validation(
        self,
        iteration: int,
        errors: dict[str, float],
        picture: np.ndarray | None = None,
    ) -> None:
        """Writes down the errors on held-out faces, and a preview for TensorBoard.

        Args:
            iteration: Updates done so far; one that is already written is left alone.
            errors: "reconstruction_a" and "reconstruction_b", as of
                `reconstruction_error`; empty where no face is held out.
            picture: Preview, RGB uint8 (height, width, 3).
        """
        if errors and self._validation.add(iteration, errors) and self._events:
            self._events.add_scalars(iteration, "held_out", errors)
        if picture is not None and self._events:
            self._events.add_picture(iteration, picture)

    def _fetch(self) -> None:
        """Waits for the losses of the last iterations, and refuses wild ones."""
        from keras.ops import convert_to_numpy

        pending, self._pending = self._pending, []
        for last, losses in pending:
            for name, tensor in losses.items():
                values = np.atleast_1d(convert_to_numpy(tensor))
                self._values[name] += values.tolist()
                wild = ~(np.abs(values) < _LARGEST)
                if wild.any():
                    self._bad_lines[name] += 1
                    first = wild.argmax()
                    iteration = last - len(values) + 1 + first
                    raise _exploded(f"is {values[first]:.3g}", name, iteration)

    def _note(self, means: dict[str, float]) -> None:
        """Remembers what each reconstruction was at first and at best."""
        for name, value in means.items():
            if name.startswith(_WATCHED) and np.isfinite(value):
                self._first.setdefault(name, value)
                self._best[name] = min(value, self._best.get(name, value))

    def _is_bad(self, name: str, value: float) -> bool:
        """Whether a reconstruction is where no sane one stays.

        Adversarial losses swing anyway and say nothing.
        """
        if name not in self._best:
            return False
        best = _WORSE_THAN_BEST * self._best[name]
        return value > max(self._first[name], best, _WORSE_THAN_GRAY)


def read_losses(model_dir: str | Path) -> dict[str, np.ndarray]:
    """Reads the losses of a training, whether it has ended or still runs.

    Args:
        model_dir: Folder given to `fsgan.train`.

    Returns:
        Column name -> float64 (n,): "iteration" and, each the mean of ten iterations
        and weighted as it enters the sum, what the model was trained for of
        "discriminator", "adversarial", "reconstruction", "face", "alpha", "expression",
        "eyes", "edge", "mask", "perceptual" and "cyclic", with "_a" and "_b"; NaN where
        a loss was not in use.

    Raises:
        FileNotFoundError: The folder holds no losses.
    """
    return _read_columns(Path(model_dir) / LOSSES, "training writes it as it goes")


def read_validation(model_dir: str | Path) -> dict[str, np.ndarray]:
    """Reads the errors of a training on held-out faces.

    Args:
        model_dir: Folder given to `fsgan.train`.

    Returns:
        Column name -> float64 (n,): "iteration", "reconstruction_a" and
        "reconstruction_b", each a mean absolute difference of pixels in [-1, 1].

    Raises:
        FileNotFoundError: The folder holds no such errors.
    """
    hint = "train writes it where TrainSettings(validation=...) holds out faces"
    return _read_columns(Path(model_dir) / VALIDATION, hint)


def plot_training(model_dir: str | Path) -> Figure:
    """Draws the held-out error, with its best iteration marked, and every loss.

    Args:
        model_dir: Folder given to `fsgan.train`.

    Returns:
        A figure with a panel for each; `figure.savefig(path)` writes it.

    Raises:
        FileNotFoundError: The folder holds no losses.
    """
    losses = read_losses(model_dir)
    kinds = dict.fromkeys(name.rpartition("_")[0] for name in list(losses)[1:])
    panels = [(kind, kind, losses) for kind in kinds]
    if (Path(model_dir) / VALIDATION).exists():
        title = "reconstruction, held-out faces"
        panels.insert(0, (title, "reconstruction", read_validation(model_dir)))
    rows = max(1, -(-len(panels) // 3))
    figure = Figure(figsize=(12, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False).ravel()
    for axis, (title, kind, columns) in zip(axes, panels, strict=False):
        axis.set(title=title, xlabel="iteration")
        iteration, *errors = columns.values()
        for person, colour in (("a", "tab:blue"), ("b", "tab:orange")):
            if (values := columns.get(f"{kind}_{person}")) is not None:
                axis.plot(iteration, values, colour, label=person.upper())
        if columns is not losses and len(iteration):
            best = iteration[np.mean(errors, axis=0).argmin()]
            axis.axvline(best, color="gray", linestyle=":", label=f"best: {best:.0f}")
        if axis.get_lines():
            axis.legend()
    for axis in axes[len(panels) :]:
        axis.remove()
    return figure


def draw_preview(
    gan: "FaceSwapGAN", face_sets: Sequence[FaceSet], coverage: float | None = None
) -> np.ndarray:
    """Draws what the model makes of some faces of each person.

    Args:
        gan: The model.
        face_sets: A's faces, then B's; A's alone where the model knows one person. One
            face or more of each.
        coverage: Share of the crop that the networks see; None takes the model's.

    Returns:
        RGB uint8: a column of labels, six faces of A, then six of B, all of the
        model's resolution, under a strip with the persons' names. In rows: face;
        swapped face; its mask (white: generated); swapped face before the mask; face
        rebuilt by its own decoder. With one person: face and rebuilt face.
    """
    halves = []
    for faces, own, other in zip(face_sets, "ab", "ba", strict=False):
        chosen = np.linspace(0, len(faces) - 1, _COLUMNS).astype(int)
        x = _as_seen(gan, faces.images[chosen], faces.extent, coverage)
        rows = {"face": x, "rebuilt": gan.generate(x, own)[1]}
        if len(face_sets) == 2:
            alpha, swapped = gan.generate(x, other)
            rows["swap"] = alpha * swapped + (1 - alpha) * x
            rows["mask"] = np.repeat(2 * alpha - 1, 3, axis=-1)
            rows["unmasked"] = swapped
        labels = [label for label in _ROWS if label in rows]
        halves.append(np.vstack([np.hstack(list(rows[label])) for label in labels]))
    picture = (np.hstack(halves).astype(np.float32) + 1) * 127.5
    picture = np.nan_to_num(picture).round().clip(0, 255).astype(np.uint8)
    return _label(picture, gan.config.resolution, labels)


def reconstruction_error(gan: "FaceSwapGAN", faces: FaceSet, person: str) -> float:
    """Measures how far a person's faces are from what their own decoder makes of them.

    On faces that training never sees, it is the measure of when to stop. The faces go
    in unwarped, so it is not comparable with the loss of the same name.

    Args:
        gan: The model.
        faces: Faces of that person, one or more.
        person: "a" or "b", whose decoder paints.

    Returns:
        Mean |rgb - face| of pixels in [-1, 1]: 0 is perfect, painting all gray costs
        0.3 to 0.4.

    Raises:
        ValueError: There is no face.
    """
    if not len(faces):
        raise ValueError(f"faces of person {person} must hold at least one, got none")
    total = 0.0
    for start in range(0, len(faces), _COLUMNS):
        images = faces.images[start : start + _COLUMNS]
        count = len(images)
        images = np.resize(images, (_COLUMNS, *images.shape[1:]))  # repeats the first
        x = _as_seen(gan, images, faces.extent)
        total += count * np.abs(gan.generate(x, person)[1] - x)[:count].mean()
    return float(total / len(faces))


@checked
def make_timelapse(
    model_dir: str | Path, out: str | Path | None = None, fps: AboveZero = 10
) -> Path:
    """Makes a video of a training's previews, with the iteration written above each.

    Args:
        model_dir: Folder given to `fsgan.train`.
        out: File to write, .mp4, .m4v or .mov; None is `timelapse.mp4` in `model_dir`.
        fps: Previews a second; the last one is held for a second more.

    Returns:
        The written file; it is marked as synthetic.

    Raises:
        FileNotFoundError: There are no previews.
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
            _write_centred(ImageDraw.Draw(frame), (width / 2, strip / 2), text, font)
            writer.write(np.array(frame))
        for _ in range(round(fps)):
            writer.write(np.array(frame))
    return out


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
            iteration: Updates done so far.
            picture: RGB uint8 (height, width, 3).
        """
        from IPython.display import Image as NotebookImage
        from IPython.display import display

        image = NotebookImage(encode_jpeg(picture, image_xmp()), format="jpeg")
        if self._handle is None:
            self._handle = display(image, display_id=True)
        else:
            self._handle.update(image)


class _Table:
    """A CSV file that grows line by line; a late column is added to every line."""

    def __init__(self, path: Path, iteration: int) -> None:
        """Goes on after `iteration`; later lines are dropped."""
        self._path = path
        self._names, rows = _read_rows(path) if iteration else (["iteration"], [])
        self.rows = [row for row in rows if row["iteration"] <= iteration]
        if len(self._names) > 1:
            self._write_whole()
        elif iteration and path.is_file():
            path.replace(path.with_suffix(".damaged.csv"))
        else:
            path.unlink(missing_ok=True)

    def add(self, iteration: int, values: dict[str, float]) -> bool:
        """Appends a line, unless that iteration has one; whether it did."""
        if self.rows and iteration <= self.rows[-1]["iteration"]:
            return False
        self.rows.append({"iteration": iteration} | values)
        if new := [name for name in values if name not in self._names]:
            self._names += new
            self._write_whole()
        else:
            with (
                full_disk_named(self._path),
                open(self._path, "a", encoding="utf-8", newline="") as file,
            ):
                self._write(file, self.rows[-1:])
        return True

    def _write_whole(self) -> None:
        with (
            write_beside(self._path) as temporary,
            open(temporary, "w", encoding="utf-8", newline="") as file,
        ):
            file.write(",".join(self._names) + "\n")
            self._write(file, self.rows)

    def _write(self, file: TextIO, rows: Iterable[dict[str, float]]) -> None:
        for row in rows:
            values = (f"{row.get(name, np.nan):.6g}" for name in self._names[1:])
            file.write(",".join([f"{row['iteration']:.0f}", *values]) + "\n")


def _read_rows(path: Path) -> tuple[list[str], list[dict[str, float]]]:
    """Names of the columns and whole lines of a file; a kill may leave half a line."""
    text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    whole = text.split("\n")[:-1]
    names, *lines = [line.split(",") for line in whole] or [["iteration"]]
    if names[0] != "iteration":
        log.warning("%s does not begin with the names of its columns: not used", path)
        return ["iteration"], []
    rows = []
    for line in lines:
        with suppress(ValueError):
            row = dict(zip(names, map(float, line), strict=True))
            if np.isfinite(row["iteration"]):
                rows.append(row)
    return names, rows


def _read_columns(path: Path, hint: str) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: {hint}")
    names, rows = _read_rows(path)
    return {name: np.array([row[name] for row in rows], float) for name in names}


def _means(values: dict[str, list[float]]) -> dict[str, float]:
    return {name: float(np.mean(of_name)) for name, of_name in values.items()}


def _exploded(what: str, name: str, iteration: int) -> FloatingPointError:
    return FloatingPointError(
        f"the loss {name} {what} at iteration {iteration}: train on from the last "
        "checkpoint with a smaller learning_rate, or with precision='float32'"
    )


class _EventFile:
    """One of TensorBoard's files, written by its own package.

    That package's `EventFileWriter` would load TensorFlow wherever it is installed,
    also beside JAX; its writer of records does not.
    """

    def __init__(self, folder: Path, iteration: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        folder.mkdir(parents=True, exist_ok=True)
        if iteration == 0:
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
        # TensorBoard reads files in the order of their names; it needs "tfevents".
        name = f"events.out.tfevents.{time.time():.6f}.{iteration:07d}"
        # Unbuffered: a point is on the disk, whole, as soon as it is written.
        self._writer = RecordWriter(FileIO(folder / name, "wb"))
        self._write(file_version="brain.Event:2")
        # Makes TensorBoard forget what earlier files hold from this step on.
        start = SessionLog(status=SessionLog.START)
        self._write(step=iteration + 1, session_log=start)

    def add_scalars(self, step: int, group: str, values: dict[str, float]) -> None:
        """Adds a point to each curve of a group."""
        points = [
            self._summary.Value(tag=f"{group}/{name}", simple_value=value)
            for name, value in values.items()
        ]
        self._write(step=step, summary=self._summary(value=points))

    def add_picture(self, step: int, picture: np.ndarray) -> None:
        """Adds a preview."""
        height, width = picture.shape[:2]
        encoded = encode_jpeg(picture, image_xmp())
        image = self._summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=encoded
        )
        value = self._summary.Value(tag="preview", image=image)
        self._write(step=step, summary=self._summary(value=[value]))

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def _write(self, **what) -> None:
        event = self._event(wall_time=time.time(), **what)
        self._writer.write(event.SerializeToString())


def _open_events(folder: Path, iteration: int) -> _EventFile | None:
    """The file for TensorBoard, or None where that is not installed."""
    try:
        return _EventFile(folder, iteration)
    except ImportError:
        log.info("tensorboard is not installed: the losses go to CSV files only")
        return None


def _as_seen(
    gan: "FaceSwapGAN", images: np.ndarray, extent: float, coverage: float | None = None
) -> np.ndarray:
    """The part of faces that the networks see, float32 [-1, 1] (n, R, R, 3)."""
    coverage = gan.config.coverage if coverage is None else coverage
    return center_crop_batch(images, gan.config.resolution, coverage, extent)


def _label(picture: np.ndarray, size: int, labels: list[str]) -> np.ndarray:
    """Adds the names of the rows on the left, those of the persons on top."""
    canvas = Image.fromarray(np.pad(picture, ((size // 4, 0), (size, 0), (0, 0))))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size / 5.5)
    for row, label in enumerate(labels):
        _write_centred(draw, (size / 2, size / 4 + (row + 0.5) * size), label, font)
    half = _COLUMNS * size
    for person in range(picture.shape[1] // half):
        place = (size + (person + 0.5) * half, size / 8)
        _write_centred(draw, place, "AB"[person], font)
    return np.array(canvas)


def _write_centred(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    font: ImageFont.FreeTypeFont,
) -> None:
    draw.text(place, text, fill="white", font=font, anchor="mm")

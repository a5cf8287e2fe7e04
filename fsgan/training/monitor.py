"""What a training writes down while it runs: CSV files, TensorBoard, and its plot."""

import logging
import time
from collections import defaultdict
from io import FileIO
from pathlib import Path
from typing import Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fsgan.media.images import write_beside
from fsgan.training.preview import PREVIEWS, encode_jpeg

log = logging.getLogger(__name__)

LOSSES = "losses.csv"
VALIDATION = "validation.csv"
TENSORBOARD = "tensorboard"
LOG_EVERY = 10  # iterations whose mean is a line

# Beyond it there is no way back: discriminators aim at 0 and 1, faces lie in [-1, 1].
_LARGEST = 1e6
# Networks driven too hard end up painting black or white: a reconstruction of 0.7 to
# 1.3, for good. Plain gray costs 0.3 to 0.4; exchanged persons (tried with inverted
# faces, too) cost 0.3 at first, half of it 10 iterations later. The adversarial losses
# swing anyway and say nothing.
_WORSE_THAN_BEST = 1.5
_WORSE_THAN_GRAY = 0.5
_PATIENCE = 10  # lines in a row


class TrainingLog:
    """Writes down losses, held-out errors and previews, and watches the losses.

    A context manager. Of a training that goes on, what a lost stretch wrote after the
    checkpoint is dropped first, previews included; a fresh one starts empty.
    """

    def __init__(self, model_dir: str | Path, iteration: int) -> None:
        """Brings the files to the state of an iteration.

        Args:
            model_dir: folder of the model, made when it is missing.
            iteration: updates done so far; 0 for a fresh training.

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
        self._values: dict[str, list[float]] = defaultdict(list)  # since the last line
        self._first: dict[str, float] = {}
        self._best: dict[str, float] = {}
        self._worse: dict[str, int] = defaultdict(int)  # lines in a row
        for name, values in _read_table(model_dir / LOSSES).items():
            for value in values[np.isfinite(values)]:
                self._is_worse(name, value)

    def __enter__(self) -> Self:
        """Returns the log itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes the TensorBoard file."""
        if self._events:
            self._events.close()

    @property
    def healthy(self) -> bool:
        """Whether no reconstruction seems to explode: a state worth a checkpoint."""
        return not any(self._worse.values())

    def add(self, iteration: int, losses: dict[str, float]) -> dict[str, float] | None:
        """Takes in the losses of one iteration; writes a line at every tenth.

        Args:
            iteration: updates done so far.
            losses: value of each loss by name, such as "reconstruction_a". A name that
                was not there before gets a column of its own.

        Returns:
            The means since the last line where a line was written, else None.

        Raises:
            FloatingPointError: a loss is not a number or beyond 1e6, or the
                reconstruction has exploded: for 100 iterations it was above 0.5, 1.5
                times its best and what it was at first.
        """
        for name, value in losses.items():
            if not abs(value) < _LARGEST:
                raise _broken(f"is {value:.3g}", name, iteration)
            self._values[name].append(value)
        if iteration % LOG_EVERY:
            return None
        means = {name: float(np.mean(all_)) for name, all_ in self._values.items()}
        self._values.clear()
        if self._losses.add(iteration, means) and self._events:
            self._events.add_scalars(iteration, "losses", means)
        for name, value in means.items():
            worse = self._is_worse(name, value)
            self._worse[name] = self._worse[name] + 1 if worse else 0
            if self._worse[name] == _PATIENCE:
                what = f"is {value:.3g}, after {self._best[name]:.3g} at best,"
                raise _broken(what, name, iteration)
        return means

    def add_validation(
        self,
        iteration: int,
        errors: dict[str, float],
        picture: np.ndarray | None = None,
    ) -> None:
        """Writes down the errors on held-out faces, and a preview for TensorBoard.

        Args:
            iteration: updates done so far; one that is already written is left alone.
            errors: "reconstruction_a" and "reconstruction_b", as of
                `preview.reconstruction_error`; empty where no face is held out.
            picture: preview, RGB uint8 (height, width, 3).
        """
        if errors and self._validation.add(iteration, errors) and self._events:
            self._events.add_scalars(iteration, "held_out", errors)
        if picture is not None and self._events:
            self._events.add_picture(iteration, picture)

    def _is_worse(self, name: str, value: float) -> bool:
        """Whether a reconstruction is where no sane one stays; notes its best."""
        if not name.startswith("reconstruction"):
            return False
        first = self._first.setdefault(name, value)
        best = self._best[name] = min(value, self._best.get(name, value))
        return value > max(first, _WORSE_THAN_BEST * best, _WORSE_THAN_GRAY)


def read_losses(model_dir: str | Path) -> dict[str, np.ndarray]:
    """Reads the losses of a training, whether it has ended or still runs.

    Args:
        model_dir: folder given to `fsgan.train`.

    Returns:
        Column name -> float64 (n,): "iteration" and, each the mean of ten iterations
        and weighted as it enters the sum, what the model was trained for of
        "discriminator", "adversarial", "reconstruction", "eyes", "edge", "mask",
        "perceptual" and "cyclic", with "_a" and "_b"; NaN where a loss was not in use.

    Raises:
        FileNotFoundError: the folder holds no losses.
    """
    return _read_existing(Path(model_dir) / LOSSES, "training writes it as it goes")


def read_validation(model_dir: str | Path) -> dict[str, np.ndarray]:
    """Reads the errors of a training on held-out faces.

    Args:
        model_dir: folder given to `fsgan.train`.

    Returns:
        Column name -> float64 (n,): "iteration", "reconstruction_a" and
        "reconstruction_b", each a mean absolute difference of pixels in [-1, 1].

    Raises:
        FileNotFoundError: the folder holds no such errors.
    """
    hint = "train writes it where TrainSettings(validation=...) holds out faces"
    return _read_existing(Path(model_dir) / VALIDATION, hint)


def plot_training(model_dir: str | Path) -> Figure:
    """Draws the held-out error, with its best iteration marked, and every loss.

    Args:
        model_dir: folder given to `fsgan.train`.

    Returns:
        A figure with a panel for each; `figure.savefig(path)` writes it.

    Raises:
        FileNotFoundError: the folder holds no losses.
    """
    losses = read_losses(model_dir)
    kinds = dict.fromkeys(name.rpartition("_")[0] for name in list(losses)[1:])
    panels = {kind: (losses, kind) for kind in kinds}
    if (Path(model_dir) / VALIDATION).exists():
        held_out = (read_validation(model_dir), "reconstruction")
        panels = {"reconstruction, held-out faces": held_out} | panels
    rows = max(1, -(-len(panels) // 3))
    figure = Figure(figsize=(12, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False).ravel()
    for axis, (title, (columns, kind)) in zip(axes, panels.items(), strict=False):
        axis.set(title=title, xlabel="iteration")
        for person, colour in (("a", "tab:blue"), ("b", "tab:orange")):
            if f"{kind}_{person}" in columns:
                values = columns[f"{kind}_{person}"]
                axis.plot(columns["iteration"], values, colour, label=person.upper())
        if title not in kinds and len(columns["iteration"]):
            _mark_best(axis, columns)
        if axis.get_lines():
            axis.legend()
    for axis in axes[len(panels) :]:
        axis.remove()
    return figure


def _mark_best(axis: Axes, columns: dict[str, np.ndarray]) -> None:
    """Draws a line where the mean over the persons is smallest."""
    iteration, *errors = columns.values()
    best = iteration[np.mean(errors, axis=0).argmin()]
    axis.axvline(best, color="gray", linestyle=":", label=f"best: {best:.0f}")


def _broken(what: str, name: str, iteration: int) -> FloatingPointError:
    return FloatingPointError(
        f"the loss {name} {what} at iteration {iteration}: train on from the last "
        "checkpoint with a smaller learning_rate"
    )


class _Table:
    """A CSV file that grows line by line; a late column is added to every line."""

    def __init__(self, path: Path, iteration: int) -> None:
        """Goes on after `iteration`; later lines are dropped."""
        self._path = path
        columns = _read_table(path if iteration else None)
        kept = columns["iteration"] <= iteration
        columns = {name: values[kept] for name, values in columns.items()}
        self._last = columns["iteration"].max(initial=-1)
        self._names = list(columns)
        if len(self._names) > 1:
            _write_table(path, columns)
        else:
            path.unlink(missing_ok=True)

    def add(self, iteration: int, values: dict[str, float]) -> bool:
        """Appends a line, unless that iteration has one; whether it did."""
        if iteration <= self._last:
            return False
        if new := [name for name in values if name not in self._names]:
            columns = _read_table(self._path)
            absent = np.full(len(columns["iteration"]), np.nan)
            _write_table(self._path, columns | dict.fromkeys(new, absent))
            self._names += new
        row = [iteration, *(values.get(name, np.nan) for name in self._names[1:])]
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(_line(row))
        self._last = iteration
        return True


def _read_existing(path: Path, hint: str) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: {hint}")
    return _read_table(path)


def _read_table(path: Path | None) -> dict[str, np.ndarray]:
    """The whole lines of a file; none where there is no file, or no header in it."""
    text = ""
    if path is not None and path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace")
    # A process that is killed may leave the beginning of a line.
    lines = text[: text.rfind("\n") + 1].split("\n")[:-1]
    names = lines[0].split(",") if lines else ["iteration"]
    if names[0] != "iteration":
        log.warning("%s does not begin with the names of its columns: not used", path)
        names, lines = ["iteration"], []
    rows = [row for row in map(_numbers, lines[1:]) if len(row) == len(names)]
    table = np.array(rows, float).reshape(-1, len(names))
    return dict(zip(names, table.T, strict=True))


def _numbers(line: str) -> list[float]:
    try:
        return [float(value) for value in line.split(",")]
    except ValueError:
        return []


def _write_table(path: Path, columns: dict[str, np.ndarray]) -> None:
    with write_beside(path) as temporary:
        rows = zip(*columns.values(), strict=True)
        lines = [",".join(columns) + "\n", *map(_line, rows)]
        temporary.write_text("".join(lines), encoding="utf-8")


def _line(row: list[float]) -> str:
    iteration, *values = row
    return ",".join([f"{iteration:.0f}", *(f"{value:.6g}" for value in values)]) + "\n"


class _EventFile:
    """One of TensorBoard's files: what it needs, whatever the backend of Keras."""

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
        image = self._summary.Image(
            height=height,
            width=width,
            colorspace=3,
            encoded_image_string=encode_jpeg(picture),
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
    """The file for TensorBoard, or None, said once, where that is not installed."""
    try:
        return _EventFile(folder, iteration)
    except ImportError:
        log.info("tensorboard is not installed: the losses go to CSV files only")
        return None

"""Stage: from face crops of two people to a trained model."""

import csv
import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from fsgan.augmentation import AugmentationSettings
from fsgan.checkpoint import (
    latest_checkpoint,
    load_checkpoint,
    read_settings,
    save_checkpoint,
)
from fsgan.dataset import FaceSet, batches, center_crop_batch, load_faces
from fsgan.gan import FaceSwapGAN, MaskTerms
from fsgan.images import write_image
from fsgan.losses import LossWeights
from fsgan.models import ModelConfig
from fsgan.provenance import image_xmp

log = logging.getLogger(__name__)

LOSSES = "losses.csv"
_LOG_EVERY = 10


@dataclass(frozen=True)
class TrainSettings:
    """How long and how a model is trained."""

    iterations: int = 40_000  # updates in all, a resumed training counts on
    batch_size: int = 8  # faces of A, and as many of B, in each update
    learning_rate: float = 1e-4  # of the generator; the discriminators' is twice that
    preview_every: int = 300  # iterations between previews, each with a checkpoint
    backup_every: int = 5_000  # iterations between checkpoints kept for good
    keep: int = 2  # newest checkpoints kept
    seed: int = 0  # of weights, sampling and augmentation
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    losses: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name in (
            "iterations",
            "batch_size",
            "preview_every",
            "backup_every",
            "keep",
            "seed",
        ):
            value, least = getattr(self, name), 0 if name == "seed" else 1
            if not isinstance(value, int) or value < least:
                raise ValueError(
                    f"{name} must be a whole number >= {least}, got {value!r}"
                )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")


@dataclass(frozen=True)
class Phase:
    """What holds from a share of the training on, until the next phase."""

    start: float  # share of all iterations, [0, 1)
    hinge_margin: float | None  # alpha the mask is pushed above; None: towards 0
    learning_rate_factor: float = 1.0


PHASES = (
    Phase(0, None),
    Phase(3 / 10, 0.5),
    Phase(2 / 5, 0.2),
    Phase(1 / 2, 0.4),
    Phase(2 / 3, None, 0.3),
    Phase(8 / 10, 0.1, 0.3),
    Phase(9 / 10, None, 0.1),
)
"""The schedule of faceswap-GAN v2.2 (2018)."""


def phase_at(iteration: int, iterations: int) -> Phase:
    """Looks up the phase of an iteration.

    Args:
        iteration: counted from 0.
        iterations: of the whole training.

    Returns:
        The last phase that has started.
    """
    return [p for p in PHASES if p.start * iterations <= iteration][-1]


def train(
    faces_a: str | Path,
    faces_b: str | Path,
    model_dir: str | Path,
    *,
    masks_a: str | Path | None = None,
    masks_b: str | Path | None = None,
    model: ModelConfig | None = None,
    settings: TrainSettings | None = None,
    on_preview: Callable[[int, np.ndarray], None] | None = None,
) -> Path:
    """Trains a model that turns A's face into B's and B's into A's.

    The model folder gets `checkpoints/`, `previews/` and `losses.csv`. Where it already
    holds a checkpoint, training goes on from there, with the batches it would have
    seen. An interrupt (Ctrl-C, the notebook's stop button) saves a checkpoint and ends
    training without an error.

    Args:
        faces_a: folder of A's crops, as of `fsgan.extract_faces`.
        faces_b: folder of B's crops.
        model_dir: folder of the model, made when it is missing.
        masks_a: folder of A's eye masks, as of `fsgan.make_eye_masks`; None trains
            without the extra weight on the eyes.
        masks_b: folder of B's eye masks.
        model: the architecture; None takes that of the checkpoint, or the default.
        settings: how to train; None takes the defaults.
        on_preview: called with the iteration and the preview, RGB uint8, whenever one
            is drawn: before the first update, then every `preview_every`.

    Returns:
        The last checkpoint's folder.

    Raises:
        FileNotFoundError: a folder is missing.
        ValueError: a folder is empty, masks do not match the faces, or the model folder
            holds another architecture.
        OSError: `model_dir` cannot be written.
        FloatingPointError: a loss is no longer a number; the last checkpoint is good.
    """
    settings = settings or TrainSettings()
    model_dir = Path(model_dir)
    checkpoint = latest_checkpoint(model_dir)
    if model is None:
        saved = read_settings(checkpoint)["model"] if checkpoint else {}
        model = ModelConfig(**saved)
    coverage = settings.augmentation.coverage
    a = load_faces(faces_a, masks_a, model.resolution, coverage)
    b = load_faces(faces_b, masks_b, model.resolution, coverage)
    gan = FaceSwapGAN(model, settings.losses, settings.learning_rate, settings.seed)
    if checkpoint:
        load_checkpoint(checkpoint, gan)
        log.info("going on at iteration %d of %s", gan.iteration, checkpoint)
    record = {
        "training": asdict(settings),
        "coverage": coverage,
        "versions": {name: version(name) for name in ("fsgan", "keras", "numpy")},
    }

    def save() -> Path:
        return save_checkpoint(
            model_dir, gan, record, settings.keep, settings.backup_every
        )

    def preview() -> None:
        picture = draw_preview(gan, a, b, coverage)
        path = model_dir / "previews" / f"{gan.iteration:07d}.png"
        write_image(path, picture, xmp=image_xmp())
        if on_preview:
            on_preview(gan.iteration, picture)

    if gan.iteration == 0:
        preview()
    loss_log = _LossLog(model_dir / LOSSES, gan.iteration)
    try:
        with (
            batches(
                a,
                b,
                batch_size=settings.batch_size,
                resolution=model.resolution,
                settings=settings.augmentation,
                seed=settings.seed,
                first_iteration=gan.iteration,
            ) as stream,
            tqdm(
                total=settings.iterations, initial=gan.iteration, desc="train"
            ) as progress,
        ):
            while gan.iteration < settings.iterations:
                phase = phase_at(gan.iteration, settings.iterations)
                gan.set_learning_rate(phase.learning_rate_factor)
                mask_terms = MaskTerms.of(settings.losses, phase.hinge_margin)
                losses = gan.train_on_batch(next(stream), mask_terms)
                progress.update()
                if means := loss_log.add(gan.iteration, losses):
                    progress.set_postfix(_summary(means))
                if gan.iteration % settings.preview_every == 0:
                    save()
                    preview()
        if gan.iteration % settings.preview_every:
            preview()
    except KeyboardInterrupt:
        folder = save()
        log.warning(
            "stopped at iteration %d, saved in %s: call train again with the same "
            "folders to go on",
            gan.iteration,
            folder,
        )
        return folder
    return save()


def draw_preview(
    gan: FaceSwapGAN, faces_a: FaceSet, faces_b: FaceSet, coverage: float
) -> np.ndarray:
    """Draws what the model makes of some faces of both persons.

    Args:
        gan: the model.
        faces_a: A's faces.
        faces_b: B's faces.
        coverage: share of the crop that the networks see.

    Returns:
        RGB uint8; six columns of faces for A, then six for B, in rows: face; swapped
        face; its mask (white: generated); swapped face before the mask; face
        reconstructed by its own decoder.
    """
    halves = []
    for faces, own, other in ((faces_a, "a", "b"), (faces_b, "b", "a")):
        chosen = np.linspace(0, len(faces.images) - 1, 6).astype(int)
        x = center_crop_batch(faces.images[chosen], gan.config.resolution, coverage)
        alpha, swapped = gan.generate(x, other)
        _, reconstructed = gan.generate(x, own)
        masks = np.repeat(2 * alpha - 1, 3, axis=-1)
        composite = alpha * swapped + (1 - alpha) * x
        rows = (x, composite, masks, swapped, reconstructed)
        halves.append(np.vstack([np.hstack(list(row)) for row in rows]))
    picture = np.hstack(halves)
    return np.round((picture + 1) * 127.5).clip(0, 255).astype(np.uint8)


def read_losses(model_dir: str | Path) -> dict[str, np.ndarray]:
    """Reads the losses of a training.

    Args:
        model_dir: folder given to `train`.

    Returns:
        Column name -> float64 (n,): "iteration" and, each the mean of ten iterations
        and weighted as it enters the sum, "discriminator", "adversarial",
        "reconstruction", "eyes", "edge", "mask", with "_a" and "_b".
    """
    with open(Path(model_dir) / LOSSES, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    columns = np.array(rows, float).reshape(-1, len(header)).T
    return dict(zip(header, columns, strict=True))


class _LossLog:
    """Means of the losses, a line of a CSV file every ten iterations."""

    def __init__(self, path: Path, iteration: int) -> None:
        """Goes on after `iteration`; what a lost stretch wrote is dropped."""
        self._path = path
        self._sums: dict[str, float] = defaultdict(float)
        self._count = 0
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines[1:] if int(line.split(",")[0]) <= iteration]
        self._header = bool(lines) and iteration > 0
        path.write_text(
            "".join(f"{line}\n" for line in lines[:1] + kept) if self._header else "",
            encoding="utf-8",
        )

    def add(self, iteration: int, losses: dict[str, float]) -> dict[str, float] | None:
        """Takes in one iteration; the means when a line was written."""
        for name, value in losses.items():
            if not np.isfinite(value):
                raise FloatingPointError(
                    f"the loss {name} is {value} at iteration {iteration}: train on "
                    "from the last checkpoint with a smaller learning_rate"
                )
            self._sums[name] += value
        self._count += 1
        if iteration % _LOG_EVERY:
            return None
        means = {name: value / self._count for name, value in self._sums.items()}
        with open(self._path, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if not self._header:
                writer.writerow(["iteration", *means])
                self._header = True
            writer.writerow([iteration, *(f"{v:.6g}" for v in means.values())])
        self._sums.clear()
        self._count = 0
        return means


def _summary(losses: dict[str, float]) -> dict[str, str]:
    """The losses worth watching beside the progress bar."""
    shown = ("reconstruction_a", "reconstruction_b")
    return {name: f"{losses[name]:.3f}" for name in shown}

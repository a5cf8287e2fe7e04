"""Stage: from face crops of two people to a trained model."""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from fsgan.data.augmentation import AugmentationSettings
from fsgan.data.dataset import batches, load_faces, split_faces
from fsgan.media.images import write_image
from fsgan.media.provenance import image_xmp
from fsgan.models.checkpoint import (
    latest_checkpoint,
    load_checkpoint,
    read_settings,
    save_checkpoint,
    transfer_weights,
)
from fsgan.models.networks import ModelConfig
from fsgan.models.precision import computing_in, fastest_precision
from fsgan.models.vggface import perceptual_features
from fsgan.training.backend import explained_out_of_memory
from fsgan.training.gan import FaceSwapGAN
from fsgan.training.losses import LossWeights
from fsgan.training.monitor import TrainingLog
from fsgan.training.objective import PhaseTerms
from fsgan.training.preview import draw_preview, make_timelapse, reconstruction_error

log = logging.getLogger(__name__)

# What may differ when a training goes on; the rest would make it another one.
_MAY_CHANGE = (
    "iterations",
    "learning_rate",
    "precision",
    "preview_every",
    "backup_every",
    "keep",
)


@dataclass(frozen=True)
class TrainSettings:
    """How long and how a model is trained.

    Attributes:
        iterations: updates in all, a resumed training counts on.
        batch_size: faces of A, and as many of B, in each update.
        learning_rate: of the generator; the discriminators' is twice that.
        adversarial_loss: or "relativistic_avg_lsgan".
        perceptual: with VGGFace if it is there; or "required", "off".
        swap_decoders: at 80 % of the iterations, as the original does.
        updates: all at once; or "separate", as the original does.
        precision: the faster one here; or "float32", "bfloat16".
        validation: share of the faces held out to measure the progress.
        preview_every: iterations between previews, each with a checkpoint.
        backup_every: iterations between checkpoints kept for good.
        keep: newest checkpoints kept.
        seed: of weights, sampling and augmentation.
        augmentation: how the faces are varied.
        losses: how much each loss counts.
    """

    iterations: int = 40_000
    batch_size: int = 8
    learning_rate: float = 1e-4
    adversarial_loss: str = "mixup_lsgan"
    perceptual: str = "auto"
    swap_decoders: bool = True
    updates: str = "fused"
    precision: str = "auto"
    validation: float = 0.05
    preview_every: int = 300
    backup_every: int = 5_000
    keep: int = 2
    seed: int = 0
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
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation must be in [0, 1), got {self.validation}")
        for name, choices in (
            ("adversarial_loss", ("mixup_lsgan", "relativistic_avg_lsgan")),
            ("perceptual", ("auto", "required", "off")),
            ("updates", ("fused", "separate")),
            ("precision", ("auto", "float32", "bfloat16")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}, "
                    f"got {getattr(self, name)!r}"
                )


@dataclass(frozen=True)
class Phase:
    """What holds from a share of the training on, until the next phase."""

    start: float  # share of all iterations, [0, 1)
    perceptual: bool  # whether the perceptual loss is on
    hinge_margin: float | None  # alpha the mask is pushed above; None: towards 0
    learning_rate_factor: float
    decoders_swapped: bool = False  # entered by exchanging the decoders of A and B


PHASES = (
    Phase(0, False, None, 1.0),
    Phase(1 / 5, True, None, 1.0),
    Phase(3 / 10, True, 0.5, 1.0),
    Phase(2 / 5, True, 0.2, 1.0),
    Phase(1 / 2, True, 0.4, 1.0),
    Phase(2 / 3, True, None, 0.3),
    Phase(8 / 10, True, 0.1, 0.3, True),
    Phase(9 / 10, True, None, 0.1, True),
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
    faces_b: str | Path | None,
    model_dir: str | Path,
    *,
    masks_a: str | Path | None = None,
    masks_b: str | Path | None = None,
    model: ModelConfig | None = None,
    settings: TrainSettings | None = None,
    resume: bool = True,
    start_from: str | Path | None = None,
    transfer: str = "all",
    on_preview: Callable[[int, np.ndarray], None] | None = None,
) -> Path:
    """Trains a model that turns A's face into B's and B's into A's.

    The model folder gets `checkpoints/`, `previews/`, `timelapse.mp4`, `losses.csv`,
    `validation.csv` and `tensorboard/`. Where it already holds a checkpoint, training
    goes on from there, with the batches it would have seen. An interrupt (Ctrl-C, the
    notebook's stop button) saves a checkpoint and ends training without an error.

    Args:
        faces_a: folder of A's crops, as of `fsgan.extract_faces`.
        faces_b: folder of B's crops; None where the model knows one person only.
        model_dir: folder of the model, made when it is missing.
        masks_a: folder of A's eye masks, as of `fsgan.make_eye_masks`; None trains
            without the extra weight on the eyes.
        masks_b: folder of B's eye masks.
        model: the architecture; None takes that of the checkpoint, or the default.
        settings: how to train; None takes those of the checkpoint, or the defaults.
            Those of a checkpoint may only be changed in `iterations`, `learning_rate`,
            `precision`, `preview_every`, `backup_every` and `keep`.
        resume: whether to go on where the model folder holds a checkpoint; if not, such
            a folder is refused.
        start_from: model folder of another training, whose weights to start with.
        transfer: what to take from `start_from`: "encoder", or "all" networks.
        on_preview: called with the iteration and the preview, RGB uint8, whenever one
            is drawn: before the first update, then every `preview_every`.

    Returns:
        The last checkpoint's folder.

    Raises:
        FileNotFoundError: a folder is missing, or `perceptual="required"` and the
            weights of VGGFace are missing.
        ValueError: a folder is empty, masks do not match the faces, or the model folder
            holds a training with other settings.
        OSError: `model_dir` cannot be written.
        FloatingPointError: a loss is no longer a number, or exploded; the last
            checkpoint is good.
        MemoryError: batch and networks do not fit.
    """
    model_dir = Path(model_dir)
    checkpoint = latest_checkpoint(model_dir)
    if checkpoint and not resume:
        raise ValueError(
            f"{model_dir} already holds a training: use another model folder, or go on "
            "with resume=True"
        )
    if checkpoint:
        model, settings = _settings_to_go_on(checkpoint, model, settings)
    model, settings = model or ModelConfig(), settings or TrainSettings()
    if (faces_b is None) != (model.people == 1):
        raise ValueError(
            f"the model knows {model.people} person(s): faces_b must be "
            + ("None" if model.people == 1 else "a folder of faces")
        )
    coverage = model.coverage
    folders = [(faces_a, masks_a), (faces_b, masks_b)][: model.people]
    trained, held_out = zip(
        *(
            split_faces(
                load_faces(faces, masks, model.resolution, coverage),
                settings.validation,
            )
            for faces, masks in folders
        ),
        strict=True,
    )
    gan = _build(model, settings)
    if checkpoint:
        saved = load_checkpoint(checkpoint, gan.networks, gan.optimizers)
        gan.iteration = saved["iteration"]
        gan.decoders_swapped = saved.get("decoders_swapped", False)
        log.info("going on at iteration %d of %s", gan.iteration, checkpoint)
    elif start_from is not None:
        transfer_weights(start_from, gan.networks, gan.config, transfer)

    def save() -> Path:
        record = {
            "model": gan.config,
            "iteration": gan.iteration,
            "decoders_swapped": gan.decoders_swapped,
            "training": asdict(settings),
            "phase": asdict(phase_at(gan.iteration, settings.iterations)),
            "versions": {name: version(name) for name in ("fsgan", "keras", "numpy")},
        }
        return save_checkpoint(
            model_dir,
            gan.networks,
            gan.optimizers,
            record,
            settings.keep,
            settings.backup_every,
        )

    def look() -> None:
        errors = {
            f"reconstruction_{side}": reconstruction_error(gan, faces, side, coverage)
            for side, faces in zip(model.sides, held_out, strict=True)
            if len(faces)
        }
        picture = draw_preview(gan, trained, coverage)
        training_log.add_validation(gan.iteration, errors, picture)
        path = model_dir / "previews" / f"{gan.iteration:07d}.png"
        write_image(path, picture, xmp=image_xmp())
        if on_preview:
            on_preview(gan.iteration, picture)

    try:
        with (
            TrainingLog(model_dir, gan.iteration) as training_log,
            batches(
                trained,
                batch_size=settings.batch_size,
                resolution=model.resolution,
                coverage=coverage,
                settings=settings.augmentation,
                seed=settings.seed,
                first_iteration=gan.iteration * gan.batches_per_step,
            ) as stream,
            tqdm(
                total=settings.iterations, initial=gan.iteration, desc="train"
            ) as progress,
            explained_out_of_memory(settings.batch_size, model.resolution),
        ):
            if gan.iteration == 0:
                look()
            while gan.iteration < settings.iterations:
                terms = _enter_phase(gan, settings)
                chosen = islice(stream, gan.batches_per_step)
                losses = gan.train_on_batch(terms, *chosen)
                progress.update()
                if means := training_log.add(gan.iteration, losses):
                    progress.set_postfix(_summary(means))
                if gan.iteration % settings.preview_every == 0:
                    if training_log.healthy:
                        save()
                    look()
            if gan.iteration % settings.preview_every:
                look()
    except KeyboardInterrupt:
        folder = save()
        log.warning(
            "stopped at iteration %d, saved in %s: call train again with the same "
            "folders to go on",
            gan.iteration,
            folder,
        )
        return folder
    folder = save()
    make_timelapse(model_dir)
    return folder


def _settings_to_go_on(
    checkpoint: Path, model: ModelConfig | None, settings: TrainSettings | None
) -> tuple[ModelConfig, TrainSettings]:
    """The checkpoint's settings, with changes where they are allowed."""
    saved = read_settings(checkpoint)
    saved_model = saved["model"]
    if "training" in saved:
        saved_settings = TrainSettings(
            **saved["training"]
            | {
                "augmentation": AugmentationSettings(
                    **saved["training"]["augmentation"]
                ),
                "losses": LossWeights(**saved["training"]["losses"]),
            }
        )
    else:  # weights trained elsewhere
        saved_settings = settings or TrainSettings()
    model, settings = model or saved_model, settings or saved_settings
    was = _flat(asdict(saved_model) | asdict(saved_settings))
    now = _flat(asdict(model) | asdict(settings))
    differences = [
        f"{name} was {was[name]!r}, is {value!r}"
        for name, value in now.items()
        if name not in _MAY_CHANGE and was[name] != value
    ]
    if differences:
        raise ValueError(
            f"{checkpoint.parents[1]} holds a training with other settings "
            f"({'; '.join(differences)}): use the old ones, or another model folder"
        )
    return model, settings


def _flat(settings: dict) -> dict:
    """Settings within settings as `outer.inner`."""
    flat = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": v for inner, v in value.items()}
        else:
            flat[name] = value
    return flat


def _build(model: ModelConfig, settings: TrainSettings) -> FaceSwapGAN:
    """The model before the first update."""
    precision = settings.precision
    if precision == "auto":
        precision = fastest_precision()
    vggface = None
    if settings.losses.perceptual:
        with computing_in(precision):
            vggface = perceptual_features(settings.perceptual)
    return FaceSwapGAN(
        model,
        settings.losses,
        settings.learning_rate,
        settings.seed,
        adversarial_loss=settings.adversarial_loss,
        updates=settings.updates,
        precision=precision,
        vggface=vggface,
    )


def _enter_phase(gan: FaceSwapGAN, settings: TrainSettings) -> PhaseTerms:
    """Puts the phase of the next iteration in force."""
    phase = phase_at(gan.iteration, settings.iterations)
    gan.set_learning_rate(phase.learning_rate_factor)
    if settings.swap_decoders and gan.config.people == 2:
        if phase.decoders_swapped and not gan.decoders_swapped:
            log.info("iteration %d: the decoders are swapped", gan.iteration)
            gan.swap_decoders()
        gan.decoders_swapped = phase.decoders_swapped
    return PhaseTerms.of(settings.losses, phase.hinge_margin, phase.perceptual)


def _summary(losses: dict[str, float]) -> dict[str, str]:
    """The losses worth watching beside the progress bar."""
    return {
        name: f"{value:.3f}"
        for name, value in losses.items()
        if name.startswith("reconstruction")
    }

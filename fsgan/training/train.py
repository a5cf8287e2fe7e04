"""Stage: from face crops of two people to a trained model."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Literal
from zlib import crc32

import numpy as np
from tqdm.auto import tqdm

from fsgan.data.dataset import FaceSet, batches, load_faces, split_faces
from fsgan.media.files import check_output, preparing
from fsgan.media.images import write_image
from fsgan.media.provenance import image_xmp
from fsgan.models.checkpoint import (
    SETTINGS,
    latest_checkpoint,
    load_checkpoint,
    read_settings,
    save_checkpoint,
    transfer_weights,
)
from fsgan.models.networks import ModelConfig
from fsgan.models.precision import (
    computing_in,
    fastest_precision,
    has_graphics_card,
)
from fsgan.models.vggface import load_vggface
from fsgan.training.gan import FaceSwapGAN, Phase
from fsgan.training.memory import explained_out_of_memory, largest_batch
from fsgan.training.monitor import (
    LOG_EVERY,
    PREVIEWS,
    TrainingLog,
    draw_preview,
    make_timelapse,
    reconstruction_error,
)
from fsgan.training.recipes import Recipe, TrainSettings, changed
from fsgan.training.recipes import recipe as find_recipe
from fsgan.validation import AboveZero, check_two_folders, checked

log = logging.getLogger(__name__)

_FEW = 50  # faces
_KNOWN = 64  # of each person's faces, by which a checkpoint knows them

PHASES = (
    Phase(start=0),
    Phase(start=1 / 5, perceptual=True),
    Phase(start=3 / 10, perceptual=True, hinge_margin=0.5),
    Phase(start=2 / 5, perceptual=True, hinge_margin=0.2),
    Phase(start=1 / 2, perceptual=True, hinge_margin=0.4),
    Phase(2 / 3, True, None, learning_rate_factor=0.3),
    Phase(8 / 10, True, 0.1, learning_rate_factor=0.3, decoders_swapped=True),
    Phase(9 / 10, True, None, learning_rate_factor=0.1, decoders_swapped=True),
)
"""The schedule of faceswap-GAN v2.2 (2018)."""

_SECONDS = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s{postfix}"

# What may differ when a training goes on; the rest would make it another one.
_MAY_CHANGE = (
    "iterations",
    "learning_rate",
    "precision",
    "preview_every",
    "backup_every",
    "keep",
)


def phase_at(progress: float) -> Phase:
    """Looks up what holds at a point of the schedule.

    Args:
        progress: Share of the training that is done, 0 or more.

    Returns:
        The last phase that has started.
    """
    return [phase for phase in PHASES if phase.start <= progress][-1]


@checked
def train(
    faces_a: str | Path,
    faces_b: str | Path | None,
    model_dir: str | Path,
    *,
    recipe: str | None = None,
    minutes: AboveZero | None = None,
    masks_a: str | Path | None = None,
    masks_b: str | Path | None = None,
    model: ModelConfig | Mapping | None = None,
    settings: TrainSettings | Mapping | None = None,
    resume: bool = True,
    start_from: str | Path | None = None,
    transfer: Literal["encoder", "all"] = "all",
    on_preview: Callable[[int, np.ndarray], None] | None = None,
) -> Path:
    """Trains a model that turns A's face into B's and B's into A's.

    ::

        fsgan.train("faces/a", "faces/b", "model", recipe="quick", minutes=10)

    The model folder gets `checkpoints/`, `previews/`, `timelapse.mp4`, `losses.csv`,
    `validation.csv` and `tensorboard/`. Where it already holds a checkpoint, training
    goes on from there, with the batches it would have seen; what the schedule had
    reached stays reached, also with more time. An interrupt (Ctrl-C, the
    notebook's stop button) saves a checkpoint and ends training without an error.

    Args:
        faces_a: Folder of A's crops, as of `fsgan.extract_faces`.
        faces_b: Folder of B's crops; None, or on the command line left out, where the
            model knows one person only.
        model_dir: Folder of the model, made when it is missing.
        recipe: "quick" for a swap in minutes, "v2.2", "autoencoder" or "single", as of
            `fsgan.recipe`; it stands for `model` and `settings`, of which some may be
            changed. None takes those given, or those of the checkpoint, or "quick".
        minutes: How long to train from now on, instead of to a number of iterations;
            the schedule is scaled to it.
        masks_a: Folder of A's masks, as of `fsgan.make_masks`. None takes `masks/a` or
            `eye_masks/a` where they lie beside `faces/a`; a recipe that learns the
            face's mask draws what is missing, others train without weight on the eyes.
        masks_b: Folder of B's masks.
        model: The architecture; None takes that of the checkpoint, or of the recipe.
        settings: How to train, likewise; or what to change of it, the rest stays:
            `{"iterations": 2000}`. Those of a checkpoint may only be changed in
            `iterations`, `learning_rate`, `precision`, `preview_every`, `backup_every`
            and `keep`.
        resume: Whether to go on where the model folder holds a checkpoint; if not, such
            a folder is refused.
        start_from: Model folder of another training, whose weights to start with.
        transfer: What to take from `start_from`: "encoder", or "all" networks.
        on_preview: Called with the iteration and the preview, RGB uint8, whenever one
            is drawn: before the first update, then every `preview_every`.

    Returns:
        The last checkpoint's folder.

    Raises:
        FileNotFoundError: A folder is missing, or `perceptual="required"` and the
            weights of VGGFace are missing.
        ValueError: A folder is empty, masks do not match the faces, settings are wrong
            or do not go together, or the model folder holds a training with others.
        OSError: `model_dir` cannot be written.
        FloatingPointError: A loss is no longer a number, or exploded; the last
            checkpoint is good.
        MemoryError: Batch and networks do not fit.
    """
    model_dir = Path(model_dir)
    check_output(model_dir / PREVIEWS)
    checkpoint = latest_checkpoint(model_dir)
    if checkpoint and not resume:
        raise ValueError(
            f"{model_dir} already holds a training: use another model folder, or go on "
            "with resume=True"
        )
    model, settings = _settings(checkpoint, recipe, model, settings)
    if model.people == 1 and faces_b is not None:
        raise ValueError("the model knows one person: leave out faces_b, or give None")
    if model.people == 2 and faces_b is None:
        raise ValueError(
            "the model knows two persons: give faces_a, faces_b and model_dir; "
            'recipe="single" trains on one'
        )
    if faces_b is not None:
        check_two_folders("A and B", faces_a, faces_b)
    folders = [(faces_a, masks_a), (faces_b, masks_b)][: model.people]
    learns_masks = bool(settings.losses.face or settings.losses.alpha)
    faces = [
        load_faces(
            crops,
            masks or _masks_beside(Path(crops)),
            model.resolution,
            model.coverage,
            draw_missing=learns_masks,
        )
        for crops, masks in folders
    ]
    _check_people(faces)
    gan = _build(model, settings)
    if settings.batch_size == "auto":
        settings = replace(settings, batch_size=largest_batch(gan))
    training = _Training(model_dir, settings, gan, faces, on_preview, minutes)
    if checkpoint:
        training.restore(checkpoint)
    elif start_from is not None:
        transfer_weights(start_from, gan.networks, gan.config, transfer)
    with preparing(model_dir):
        model_dir.mkdir(parents=True, exist_ok=True)
    return training.run()


def _check_people(faces: list[FaceSet]) -> None:
    """Refuses one person twice, warns of few faces."""
    for side, of_one in zip("AB", faces, strict=False):
        if len(of_one) < _FEW:
            log.warning(
                "%s has %d faces: a few hundred varied ones make a better swap",
                side,
                len(of_one),
            )
    a, *others = _fingerprints(faces)
    if others and len(a & others[0]) > len(a) / 2:
        raise ValueError(
            "A and B are the same faces: give the crops of two different persons"
        )


def _fingerprints(faces: list[FaceSet]) -> list[set[int]]:
    """By what a checkpoint knows the faces of each person."""
    return [{crc32(image) for image in of_one.images} for of_one in faces]


class _Training:
    """A training under way: what it trains, on what, and how far it is."""

    def __init__(
        self,
        model_dir: Path,
        settings: TrainSettings,
        gan: FaceSwapGAN,
        faces: list[FaceSet],
        on_preview: Callable[[int, np.ndarray], None] | None,
        minutes: float | None,
    ) -> None:
        self.model_dir = model_dir
        self.settings = settings
        self.gan = gan
        self.faces = _fingerprints(faces)
        splits = [split_faces(of_one, settings.validation) for of_one in faces]
        self.trained, self.held_out = zip(*splits, strict=True)
        self.on_preview = on_preview
        self.minutes = minutes
        self.phase: Phase | None = None
        self.reached = 0.0  # share of the schedule when this run began
        self.seconds_before = 0.0  # of training, before this run
        self.began = time.monotonic()
        self.interrupted = False

    @property
    def seconds(self) -> float:
        """How long was trained, in this run and before."""
        return self.seconds_before + time.monotonic() - self.began

    @property
    def position(self) -> float:
        """How far the training is: iterations, or seconds where minutes are given."""
        if self.minutes is None:
            return self.gan.iteration
        return min(self.seconds, self.end)

    @property
    def end(self) -> float:
        """Where it ends, likewise."""
        if self.minutes is None:
            return self.settings.iterations
        return self.seconds_before + 60 * self.minutes

    @property
    def progress(self) -> float:
        """Share of the schedule that is done, [0, 1]; it never decreases.

        A finished training that is given more time stays in its last phase.
        """
        return min(1.0, max(self.reached, self.position / self.end))

    @property
    def preview_path(self) -> Path:
        """Where the preview of this iteration lies."""
        return self.model_dir / PREVIEWS / f"{self.gan.iteration:07d}.png"

    def restore(self, checkpoint: Path) -> None:
        """Goes on from a checkpoint."""
        gan = self.gan
        saved = load_checkpoint(checkpoint, gan.networks, gan.optimizers)
        gan.iteration = saved["iteration"]
        gan.decoders_swapped = saved.get("decoders_swapped", False)
        planned = saved.get("training", {}).get("iterations")
        done = min(1.0, gan.iteration / planned) if planned else 0.0
        self.reached = saved.get("progress", done)  # older checkpoints have none
        self.seconds_before = saved.get("seconds", 0.0)
        self.compare_faces(saved.get("faces", []))
        log.info("going on at iteration %d of %s", gan.iteration, checkpoint)

    def compare_faces(self, known: list[list[int]]) -> None:
        """Refuses A and B exchanged, warns of faces that are all new."""
        new, exchanged = (
            [are.isdisjoint(were) for were, are in zip(known, faces, strict=False)]
            for faces in (self.faces, self.faces[::-1])
        )
        if any(new) and not all(exchanged):
            raise ValueError(
                f"A and B are exchanged: in {self.model_dir} they are the other way "
                "round; give the folders as before, or another model folder"
            )
        for side, is_new in zip("AB", new, strict=False):
            if is_new:
                log.warning(
                    "%s was trained on other faces of %s: if they are of another "
                    "person, stop and take another model folder, with start_from=%r",
                    self.model_dir,
                    side,
                    str(self.model_dir),
                )

    def run(self) -> Path:
        """Trains to the last iteration, or to an interrupt; the newest checkpoint."""
        self.log = TrainingLog(self.model_dir, self.gan.iteration)
        with self.log:
            try:
                self.loop()
            except KeyboardInterrupt:
                self.interrupted = True
        folder = self.save()
        if folder is None:
            raise FloatingPointError(
                "the losses exploded before the first checkpoint: train anew with a "
                "smaller learning_rate"
            )
        if self.interrupted:
            log.warning(
                "stopped at iteration %d, saved in %s: call train again with the same "
                "folders to go on",
                self.gan.iteration,
                folder,
            )
        else:
            make_timelapse(self.model_dir)
        return folder

    def loop(self) -> None:
        """Updates the networks, and now and then saves and shows them."""
        gan, settings = self.gan, self.settings
        unit = {} if self.minutes is None else {"bar_format": _SECONDS}
        with (
            batches(
                self.trained,
                batch_size=settings.batch_size,
                resolution=gan.config.resolution,
                coverage=gan.config.coverage,
                settings=settings.augmentation,
                seed=settings.seed,
                first_iteration=gan.iteration * gan.batches_per_step,
                ahead=LOG_EVERY * gan.batches_per_step if has_graphics_card() else 4,
            ) as stream,
            tqdm(total=self.end, initial=self.position, desc="train", **unit) as bar,
            explained_out_of_memory(settings.batch_size, gan.config),
        ):
            # A kill may come between a checkpoint and its preview.
            if gan.iteration == 0 or not self.preview_path.exists():
                self.preview()
            self.began = time.monotonic()
            last = self.position >= self.end
            while not last:
                self.enter_phase()
                taken = self.updates_at_once() * gan.batches_per_step
                losses = gan.train_on_batches(*islice(stream, taken))
                position = self.position
                bar.update(position - bar.n)
                if means := self.log.add(gan.iteration, losses):
                    bar.set_postfix(_summary(means))
                last = position >= self.end
                if last or gan.iteration % settings.preview_every == 0:
                    self.save()
                    self.preview()

    def enter_phase(self) -> None:
        """Puts in force what the schedule asks for now."""
        gan, phase = self.gan, phase_at(self.progress)
        if phase == self.phase:
            return
        self.phase = phase
        gan.enter_phase(phase)
        may_swap = self.settings.swap_decoders and gan.config.people == 2
        if may_swap and phase.decoders_swapped and not gan.decoders_swapped:
            log.info("iteration %d: the decoders are swapped", gan.iteration)
            gan.swap_decoders()

    def updates_at_once(self) -> int:
        """Updates before the next one that there is something to do after.

        A card takes those of a line of the log in one call, a processor gains nothing.
        """
        first, every = self.gan.iteration, self.settings.preview_every
        last = first + LOG_EVERY - 1
        if not has_graphics_card() or first % LOG_EVERY or last % every < LOG_EVERY - 1:
            return 1
        if self.minutes is None and (
            last >= self.end
            or phase_at(max(self.reached, last / self.end)) != self.phase
        ):
            return 1
        return LOG_EVERY

    def save(self) -> Path | None:
        """Writes a checkpoint unless the losses seem to explode; returns the newest."""
        gan = self.gan
        if not self.log.healthy:
            newest = latest_checkpoint(self.model_dir)
            log.warning(
                "iteration %d: the losses seem to explode, not saved; the last good "
                "checkpoint is %s",
                gan.iteration,
                newest,
            )
            return newest
        packages = ("fsgan", "keras", "numpy")
        record = {
            "model": gan.config,
            "iteration": gan.iteration,
            "decoders_swapped": gan.decoders_swapped,
            "progress": self.progress,
            "seconds": self.seconds,
            "interrupted": self.interrupted,
            "phase": asdict(phase_at(self.progress)),
            "training": asdict(self.settings),
            "faces": [sorted(of_one)[:_KNOWN] for of_one in self.faces],
            "versions": {name: version(name) for name in packages},
        }
        return save_checkpoint(
            self.model_dir,
            gan.networks,
            gan.optimizers,
            record,
            keep=self.settings.keep,
            backup=self.settings.backup_every,
        )

    def preview(self) -> None:
        """Draws a preview and measures the error on held-out faces."""
        gan = self.gan
        errors = {
            f"reconstruction_{side}": reconstruction_error(gan, faces, side)
            for side, faces in zip(gan.config.sides, self.held_out, strict=True)
            if len(faces)
        }
        picture = draw_preview(gan, self.trained)
        self.log.add_validation(gan.iteration, errors, picture)
        write_image(self.preview_path, picture, xmp=image_xmp())
        if self.on_preview:
            self.on_preview(gan.iteration, picture)


def _settings(
    checkpoint: Path | None,
    recipe: str | None,
    model: ModelConfig | Mapping | None,
    settings: TrainSettings | Mapping | None,
) -> Recipe:
    """What to train and how: as given; else as the checkpoint says, or a recipe."""
    whole = isinstance(model, ModelConfig), isinstance(settings, TrainSettings)
    if recipe is not None and any(whole):
        raise ValueError(
            "recipe stands for model and settings: give it alone, or with what to "
            "change of them by name, as in settings={'batch_size': 4}"
        )
    base = find_recipe(recipe or "quick")
    if checkpoint:
        saved = _read_saved(checkpoint)
        sizes = ("resolution", "capacity", "latent", "coverage")
        sized = {name: getattr(saved.model, name) for name in sizes}
        if recipe is None or replace(base.model, **sized) == saved.model:
            base = Recipe(saved.model, saved.settings or TrainSettings())
    elif whole == (False, True):
        raise ValueError(
            "settings go with a model: give both, as of fsgan.recipe(...), or a recipe "
            "and what to change by name, as in settings={'batch_size': 4}"
        )
    elif whole[0]:
        base = Recipe(model, TrainSettings())
    wanted = Recipe(
        changed(base.model, model or {}), changed(base.settings, settings or {})
    )
    if checkpoint:
        if wanted.settings.batch_size == "auto" and saved.settings:
            found = saved.settings.batch_size
            wanted = Recipe(wanted.model, replace(wanted.settings, batch_size=found))
        _refuse_changes(checkpoint, saved, wanted)
    return wanted


def _masks_beside(faces_dir: Path) -> Path | None:
    """The masks of `faces/a` in `masks/a` or `eye_masks/a`; None if there are none."""
    faces_dir = faces_dir.resolve()  # a bare "a" has no folders above it
    beside = [
        faces_dir.parent.parent / name / faces_dir.name
        for name in ("masks", "eye_masks")
    ]
    return next(filter(Path.is_dir, beside), None)


def _read_saved(checkpoint: Path) -> Recipe:
    """What is trained in a checkpoint, and how: None for weights trained elsewhere."""
    saved = read_settings(checkpoint)
    if "training" not in saved:
        return Recipe(saved["model"], None)
    try:  # older ones lack what has been added since
        return Recipe(saved["model"], changed(TrainSettings(), saved["training"]))
    except ValueError as error:
        raise ValueError(
            f"{checkpoint / SETTINGS} is damaged ({error}): restore it, or delete the "
            f"folder {checkpoint} to use the checkpoint before"
        ) from error


def _refuse_changes(checkpoint: Path, saved: Recipe, wanted: Recipe) -> None:
    """Refuses changes by which a training would be another one."""
    was = _flat(asdict(saved.model) | asdict(saved.settings or wanted.settings))
    now = _flat(asdict(wanted.model) | asdict(wanted.settings))
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
            vggface = load_vggface(settings.perceptual)
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


def _summary(losses: dict[str, float]) -> dict[str, str]:
    """The losses worth watching beside the progress bar."""
    return {
        name: f"{value:.3f}"
        for name, value in losses.items()
        if name.startswith(("reconstruction", "face"))
    }

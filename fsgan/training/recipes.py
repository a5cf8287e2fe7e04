"""What to train and how: the settings, and the recipes that ship.

`quick` is a swap in minutes: lean networks that learn the face's mask. `v2.2` is the
full model of faceswap-GAN, for a card and a night: attention, discriminators, losses
on eyes, edges and features. `single` and `autoencoder` are its ancestors, one code, an
idea more each time: one person through a narrow bottleneck; then the second person (the
first deepfakes): the encoder is shared, the decoders are not, so a face may go in as A
and come out as B.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, FiniteFloat

from fsgan.data.augmentation import AugmentationSettings
from fsgan.models.networks import ModelConfig
from fsgan.training.gan import AdversarialLoss, Updates
from fsgan.training.losses import LossWeights
from fsgan.validation import AboveZero, Count, check, checked


@checked
@dataclass(frozen=True)
class TrainSettings:
    """How long and how a model is trained.

    Attributes:
        iterations: Updates in all, a resumed training counts on.
        batch_size: Faces of A, and as many of B, in each update; "auto" takes as many
            as fit into the graphics card, see `fsgan.training.memory.largest_batch`.
        learning_rate: Of the generator; the discriminators' is twice that.
        adversarial_loss: "mixup_lsgan" or "relativistic_avg_lsgan".
        perceptual: "auto" with VGGFace if it is there; or "required", "off".
        swap_decoders: Whether, at 80 % of the training, they exchange persons.
        updates: "fused" all at once; or "separate", as the original does.
        precision: "auto" is the fastest one here; or "float32", "bfloat16", "float16".
        validation: Share of the faces held out to measure the progress, [0, 1).
        preview_every: Iterations between previews, each with a checkpoint.
        backup_every: Iterations between checkpoints kept for good.
        keep: Newest checkpoints kept.
        seed: Of weights, sampling and augmentation.
        augmentation: How the faces are varied.
        losses: How much each loss counts.

    Raises:
        ValueError: A value is out of its range.
    """

    iterations: Count = 40_000
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = 8
    learning_rate: AboveZero = 1e-4
    adversarial_loss: AdversarialLoss = "mixup_lsgan"
    perceptual: Literal["auto", "required", "off"] = "auto"
    swap_decoders: bool = True
    updates: Updates = "fused"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    validation: Annotated[FiniteFloat, Field(ge=0, lt=1)] = 0.05
    preview_every: Count = 300
    backup_every: Count = 5_000
    keep: Count = 2
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    losses: LossWeights = field(default_factory=LossWeights)


class Recipe(NamedTuple):
    """What `fsgan.train` takes as `model` and `settings`.

    Attributes:
        model: the architecture.
        settings: how it is trained.
    """

    model: ModelConfig
    settings: TrainSettings


_NO_LOSSES = LossWeights(*[0.0] * 9)
_PLAIN = ModelConfig(norm="none", attention=False, mask=False, discriminators=False)
_RECONSTRUCTION = TrainSettings(losses=replace(_NO_LOSSES, reconstruction=1.0))
RECIPES = {
    "quick": Recipe(
        replace(_PLAIN, capacity="lite", mask=True, coverage=1.1, network="quick"),
        TrainSettings(
            iterations=5_000,
            learning_rate=6e-4,
            swap_decoders=False,
            augmentation=AugmentationSettings(
                rotation=5, zoom=0.05, shift=0.03, flip=0, blink=0.2, unwarped=0.3
            ),
            losses=replace(_NO_LOSSES, face=1.0, alpha=0.5, expression=0.3),
        ),
    ),
    "v2.2": Recipe(ModelConfig(), TrainSettings()),
    "autoencoder": Recipe(_PLAIN, _RECONSTRUCTION),
    "single": Recipe(replace(_PLAIN, people=1, latent=16), _RECONSTRUCTION),
}


def recipe(name: str, resolution: int = 64, capacity: str | None = None) -> Recipe:
    """Looks up what to train, and how.

    Args:
        name: "quick": lean networks that learn the face's mask, structural loss.
            "v2.2": faceswap-GAN, everything. "autoencoder": a shared encoder to
            8x8x512, a decoder for each of two persons, mean absolute error. "single":
            strided convolutions to 16 numbers and back, one person.
        resolution: side of the networks' images, pixels: 64, 128 or 256; of "quick" 64,
            96 or 128.
        capacity: "standard", or "lite" with half the width; None takes "lite" for
            "quick", "standard" for the others.

    Returns:
        The model and the settings, for `fsgan.train(model=..., settings=...)`;
        `dataclasses.replace` changes them.

    Raises:
        ValueError: a value is not one of these.
    """
    check("recipe", name, Literal[*RECIPES])
    model, settings = RECIPES[name]
    capacity = capacity or model.capacity
    return Recipe(replace(model, resolution=resolution, capacity=capacity), settings)


def changed(settings: Any, changes: Any) -> Any:
    """Changes some of the settings, and leaves the others as they are.

    Args:
        settings: a dataclass, perhaps of others.
        changes: by name, likewise for those within; or other settings, to take in
            their place.

    Returns:
        The new settings.

    Raises:
        ValueError: there is no such setting, or a value is out of its range.
    """
    if not (is_dataclass(settings) and isinstance(changes, Mapping)):
        return changes
    known = [field.name for field in fields(settings)]
    if unknown := [name for name in changes if name not in known]:
        raise ValueError(
            f"{type(settings).__name__} has no {unknown[0]!r}, but {', '.join(known)}"
        )
    new = {name: changed(getattr(settings, name), to) for name, to in changes.items()}
    return replace(settings, **new)

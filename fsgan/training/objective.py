"""What the networks are asked for: the losses of a batch, weighted and summed."""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from fsgan.models.networks import ModelConfig
from fsgan.models.vggface import preprocess
from fsgan.training.losses import (
    LossWeights,
    cyclic_loss,
    edge_loss,
    eyes_loss,
    mask_hinge_loss,
    mask_sparsity_loss,
    mask_total_variation_loss,
    mixup_lsgan_discriminator_loss,
    mixup_lsgan_generator_loss,
    perceptual_loss,
    reconstruction_loss,
    relativistic_avg_lsgan_discriminator_loss,
    relativistic_avg_lsgan_generator_loss,
)

Tensor = keras.KerasTensor

ADVERSARIAL_LOSSES = {
    "mixup_lsgan": (mixup_lsgan_discriminator_loss, mixup_lsgan_generator_loss),
    "relativistic_avg_lsgan": (
        relativistic_avg_lsgan_discriminator_loss,
        relativistic_avg_lsgan_generator_loss,
    ),
}


class PhaseTerms(NamedTuple):
    """The weights of losses that change during training.

    The values enter the compiled step as tensors, so a change recompiles nothing.

    Attributes:
        perceptual: weight of the perceptual loss.
        sparsity: weight of the mean alpha.
        hinge: weight of the shortfall below `margin`.
        margin: alpha that costs nothing, in [0, 1].
    """

    perceptual: np.ndarray
    sparsity: np.ndarray
    hinge: np.ndarray
    margin: np.ndarray

    @classmethod
    def of(
        cls, weights: LossWeights, margin: float | None, perceptual: bool
    ) -> "PhaseTerms":
        """The terms of a phase.

        Args:
            weights: weights of the losses.
            margin: what the mask should reach, in [0, 1]; None asks it to be sparse.
            perceptual: whether the perceptual loss is on.

        Returns:
            The terms as float32 scalars.
        """
        if margin is None:
            mask = (weights.sparsity, 0.0, 0.0)
        else:
            mask = (0.0, weights.hinge, margin)
        terms = (weights.perceptual if perceptual else 0.0, *mask)
        return cls(*(np.array(term, np.float32) for term in terms))


class Side(NamedTuple):
    """One person's part of a batch and what the generator made of it.

    Attributes:
        name: "a" or "b".
        distorted: the generator's input, RGB [-1, 1] (b, R, R, 3).
        real: what it should become, RGB [-1, 1] (b, R, R, 3).
        eyes: eye mask of `real`, [0, 1] (b, R, R, 1).
        side_outputs: the decoder's smaller pictures, RGB [-1, 1].
        alpha: mask, [0, 1] (b, R, R, 1); 1 shows the generated pixel.
        rgb: generated picture, RGB [-1, 1] (b, R, R, 3).
        fake: the composite, ``alpha * rgb + (1 - alpha) * distorted``.
    """

    name: str
    distorted: Tensor
    real: Tensor
    eyes: Tensor
    side_outputs: list[Tensor]
    alpha: Tensor
    rgb: Tensor
    fake: Tensor


class Objective:
    """The losses of generators and discriminators, for the networks of one model."""

    def __init__(
        self,
        config: ModelConfig,
        networks: dict[str, keras.Model],
        weights: LossWeights,
        adversarial_loss: str,
        vggface: keras.Model | None,
    ) -> None:
        """Keeps what the losses are made of.

        Args:
            config: the architecture.
            networks: its networks, as of `fsgan.training.gan.FaceSwapGAN`.
            weights: weights of the losses.
            adversarial_loss: a key of `ADVERSARIAL_LOSSES`.
            vggface: features for the perceptual loss; None goes without it.
        """
        self.config = config
        self.networks = networks
        self.weights = weights
        self.vggface = vggface
        self._for_discriminator, self._for_generator = ADVERSARIAL_LOSSES[
            adversarial_loss
        ]

    def discriminator_loss(
        self, sides: list[Side], mix: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Judges the sides' discriminators; their generators have no part in it.

        Args:
            sides: what was generated.
            mix: share of real faces under mixup, scalar in [0, 1].

        Returns:
            The sum to minimise, and each side's loss by name.
        """
        logs = {}
        for side in sides:
            logs[f"discriminator_{side.name}"] = self._for_discriminator(
                self.networks[f"discriminator_{side.name}"],
                side.real,
                ops.stop_gradient(side.fake),
                ops.stop_gradient(side.rgb),
                side.distorted,
                mix,
            )
        return sum(logs.values()) + self._weight_decay(*logs), logs

    def generator_loss(
        self, sides: list[Side], terms: PhaseTerms, mix_perceptual: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Judges encoder and decoders.

        Args:
            sides: what was generated.
            terms: what the phase asks for.
            mix_perceptual: share of the raw instead of the composed face that the
                perceptual loss sees, scalar in [0, 1].

        Returns:
            The sum to minimise, and each loss by name and side, weighted.
        """
        weights, logs = self.weights, {}
        for side in sides:
            losses = {
                "reconstruction": weights.reconstruction
                * reconstruction_loss(side.real, side.rgb, side.side_outputs),
                "eyes": weights.eyes * eyes_loss(side.real, side.rgb, side.eyes),
                "edge": weights.edge * edge_loss(side.real, side.rgb),
            }
            if self.config.mask:
                losses["mask"] = (
                    terms.sparsity * mask_sparsity_loss(side.alpha)
                    + terms.hinge * mask_hinge_loss(side.alpha, terms.margin)
                    + weights.total_variation * mask_total_variation_loss(side.alpha)
                )
            if self.config.discriminators:
                losses["adversarial"] = weights.adversarial * self._for_generator(
                    self.networks[f"discriminator_{side.name}"],
                    side.real,
                    side.fake,
                    side.rgb,
                    side.distorted,
                )
            if weights.cyclic:
                losses["cyclic"] = weights.cyclic * self._cyclic_loss(side)
            logs |= {f"{name}_{side.name}": loss for name, loss in losses.items()}
        if self.vggface and weights.perceptual:
            logs |= self._perceptual_losses(sides, terms.perceptual, mix_perceptual)
        decay = sum(
            self._weight_decay("encoder", f"decoder_{side.name}") for side in sides
        )
        return sum(logs.values()) + decay, logs

    def _perceptual_losses(
        self, sides: list[Side], weight: Tensor, mix: Tensor
    ) -> dict[str, Tensor]:
        """The sides' perceptual losses; costs nothing while its weight is 0."""
        real = ops.concatenate([side.real for side in sides])
        fake = ops.concatenate(
            [mix * side.rgb + (1 - mix) * side.fake for side in sides]
        )

        def losses() -> Tensor:
            real_features, fake_features = (
                [ops.split(map_, len(sides)) for map_ in self.vggface(preprocess(x))]
                for x in (real, fake)
            )
            return ops.stack(
                [
                    weight * perceptual_loss(real_maps, fake_maps)
                    for real_maps, fake_maps in zip(
                        zip(*real_features, strict=True),
                        zip(*fake_features, strict=True),
                        strict=True,
                    )
                ]
            )

        values = ops.cond(weight > 0, losses, lambda: ops.zeros(len(sides)))
        return {f"perceptual_{side.name}": values[i] for i, side in enumerate(sides)}

    def _cyclic_loss(self, side: Side) -> Tensor:
        """What is lost on the way to the other person's face and back."""
        other = "b" if side.name == "a" else "a"
        alpha, rgb = self._paint(side.real, other)
        cycled_alpha, cycled_rgb = self._paint(rgb, side.name)
        return cyclic_loss(side.real, cycled_rgb, alpha, cycled_alpha)

    def _paint(self, faces: Tensor, person: str) -> tuple[Tensor, Tensor]:
        """Alpha and picture of faces, as one person's."""
        latent = self.networks["encoder"](faces, training=True)
        alpha, rgb, *_ = self.networks[f"decoder_{person}"](latent, training=True)
        return alpha, rgb

    def _weight_decay(self, *names: str) -> Tensor:
        """Sum of the networks' L2 terms."""
        return sum(sum(self.networks[name].losses) for name in names)

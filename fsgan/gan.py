"""The model that trains: forward, losses, gradients, update."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from fsgan.dataset import Batch
from fsgan.losses import (
    LossWeights,
    edge_loss,
    eyes_loss,
    mask_hinge_loss,
    mask_sparsity_loss,
    mask_total_variation_loss,
    mixup_lsgan_discriminator_loss,
    mixup_lsgan_generator_loss,
    reconstruction_loss,
)
from fsgan.models import ModelConfig, build_decoder, build_discriminator, build_encoder

Tensor = keras.KerasTensor


class MaskTerms(NamedTuple):
    """What is asked of the alpha mask now; changes during training.

    The values enter the compiled step as tensors, so a change recompiles nothing.

    Attributes:
        sparsity: weight of the mean alpha.
        hinge: weight of the shortfall below `margin`.
        margin: alpha that costs nothing, in [0, 1].
    """

    sparsity: np.ndarray
    hinge: np.ndarray
    margin: np.ndarray

    @classmethod
    def of(cls, weights: LossWeights, margin: float | None) -> "MaskTerms":
        """The terms for a margin; without one, the mask is asked to be sparse.

        Args:
            weights: weights of the losses.
            margin: in [0, 1], or None.

        Returns:
            The terms as float32 scalars.
        """
        if margin is None:
            terms = (weights.sparsity, 0.0, 0.0)
        else:
            terms = (0.0, weights.hinge, margin)
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


class FaceSwapGAN:
    """A shared encoder, a decoder and a discriminator for each person.

    Attributes:
        config: the architecture.
        networks: the five networks by name: encoder, decoder_a, decoder_b,
            discriminator_a, discriminator_b.
        optimizers: Adam for "generator" (encoder and decoders) and "discriminator".
        iteration: updates done so far.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: LossWeights | None = None,
        learning_rate: float = 1e-4,
        seed: int = 0,
    ) -> None:
        """Builds the networks with fresh weights; both decoders start alike.

        Args:
            config: the architecture.
            weights: weights of the losses; None takes the defaults.
            learning_rate: of the generator; the discriminators learn twice as fast.
            seed: of the initial weights.

        Raises:
            ValueError: Keras runs on a backend without a training step here.
        """
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                "training needs Keras on TensorFlow: set KERAS_BACKEND=tensorflow "
                f"before Keras is imported, it is {keras.backend.backend()!r}"
            )
        self.config = config
        self.weights = weights or LossWeights()
        with _initialisers_seeded(seed):
            self.networks = {
                "encoder": build_encoder(config),
                "decoder_a": build_decoder(config),
                "decoder_b": build_decoder(config),
                "discriminator_a": build_discriminator(config),
                "discriminator_b": build_discriminator(config),
            }
        # A description then means the same to both decoders from the start, and swaps
        # show the other's features much sooner.
        self.networks["decoder_b"].set_weights(self.networks["decoder_a"].get_weights())
        self.learning_rates = {
            "generator": learning_rate,
            "discriminator": 2 * learning_rate,
        }
        self.optimizers = {
            name: keras.optimizers.Adam(rate, beta_1=0.5, beta_2=0.999)
            for name, rate in self.learning_rates.items()
        }
        for name, optimizer in self.optimizers.items():
            optimizer.build(self.variables(name))
        self.iteration = 0
        self._compiled_step = _compile(self._step)

    def variables(self, part: str) -> list[keras.Variable]:
        """Lists the trainable variables of "generator" or "discriminator".

        Args:
            part: "generator" (encoder and decoders) or "discriminator" (both).

        Returns:
            The variables, in an order that does not change.
        """
        names = {
            "generator": ("encoder", "decoder_a", "decoder_b"),
            "discriminator": ("discriminator_a", "discriminator_b"),
        }[part]
        return [v for name in names for v in self.networks[name].trainable_variables]

    def set_learning_rate(self, factor: float) -> None:
        """Scales the learning rates without losing the optimizers' moments.

        Args:
            factor: share of the initial learning rates.
        """
        for name, optimizer in self.optimizers.items():
            optimizer.learning_rate.assign(self.learning_rates[name] * factor)

    def train_on_batch(self, batch: Batch, mask_terms: MaskTerms) -> dict[str, float]:
        """Updates discriminators and generators once.

        Args:
            batch: one batch of both persons.
            mask_terms: what is asked of the mask now.

        Returns:
            The value of each loss, weighted as it enters the sum.
        """
        logs = self._compiled_step(batch, mask_terms)
        self.iteration += 1
        return {name: float(value) for name, value in logs.items()}

    def generate(self, faces: np.ndarray, person: str) -> tuple[np.ndarray, np.ndarray]:
        """Turns faces into one person's face.

        Args:
            faces: RGB float32 [-1, 1] (n, R, R, 3), of anyone.
            person: "a" or "b", whose face is generated.

        Returns:
            The mask alpha, float32 [0, 1] (n, R, R, 1), and the generated picture, RGB
            float32 [-1, 1] (n, R, R, 3).
        """
        latent = self.networks["encoder"].predict_on_batch(faces)
        return self.networks[f"decoder_{person}"].predict_on_batch(latent)[:2]

    def _step(self, batch: Batch, mask_terms: MaskTerms) -> dict[str, Tensor]:
        """One update: generate, discriminate, then judge what was generated."""

        def generator_loss() -> tuple[Tensor, dict[str, Tensor]]:
            sides = self._generate(batch)
            discriminator_logs = _minimize(
                lambda: self._discriminator_loss(sides, batch.mix),
                self.variables("discriminator"),
                self.optimizers["discriminator"],
            )
            loss, logs = self._generator_loss(sides, mask_terms)
            return loss, discriminator_logs | logs

        return _minimize(
            generator_loss, self.variables("generator"), self.optimizers["generator"]
        )

    def _generate(self, batch: Batch) -> tuple[Side, Side]:
        """Runs both persons through the encoder at once, each through its decoder."""
        distorted = ops.concatenate([batch.warped_a, batch.warped_b])
        latents = ops.split(self.networks["encoder"](distorted, training=True), 2)

        def side(name, latent, distorted, real, eyes):
            decoder = self.networks[f"decoder_{name}"]
            alpha, rgb, *side_outputs = decoder(latent, training=True)
            fake = alpha * rgb + (1 - alpha) * distorted
            return Side(name, distorted, real, eyes, side_outputs, alpha, rgb, fake)

        return (
            side("a", latents[0], batch.warped_a, batch.target_a, batch.eyes_a),
            side("b", latents[1], batch.warped_b, batch.target_b, batch.eyes_b),
        )

    def _discriminator_loss(
        self, sides: tuple[Side, Side], mix: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of the discriminators' losses, and its terms."""
        logs = {}
        for side in sides:
            network = self.networks[f"discriminator_{side.name}"]
            logs[f"discriminator_{side.name}"] = mixup_lsgan_discriminator_loss(
                network,
                side.real,
                ops.stop_gradient(side.fake),
                ops.stop_gradient(side.rgb),
                side.distorted,
                mix,
            )
        decay = sum(
            sum(self.networks[f"discriminator_{side.name}"].losses) for side in sides
        )
        return sum(logs.values()) + decay, logs

    def _generator_loss(
        self, sides: tuple[Side, Side], mask_terms: MaskTerms
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of the generators' losses, and its terms."""
        weights, logs = self.weights, {}
        for side in sides:
            discriminator = self.networks[f"discriminator_{side.name}"]
            terms = {
                "adversarial": weights.adversarial
                * mixup_lsgan_generator_loss(
                    discriminator, side.fake, side.rgb, side.distorted
                ),
                "reconstruction": weights.reconstruction
                * reconstruction_loss(side.real, side.rgb, side.side_outputs),
                "eyes": weights.eyes * eyes_loss(side.real, side.rgb, side.eyes),
                "edge": weights.edge * edge_loss(side.real, side.rgb),
                "mask": mask_terms.sparsity * mask_sparsity_loss(side.alpha)
                + mask_terms.hinge * mask_hinge_loss(side.alpha, mask_terms.margin)
                + weights.total_variation * mask_total_variation_loss(side.alpha),
            }
            logs |= {f"{term}_{side.name}": value for term, value in terms.items()}
        loss = sum(logs.values())
        decay = sum(
            sum(self.networks[name].losses)
            for name in ("encoder", "decoder_a", "encoder", "decoder_b")
        )
        return loss + decay, logs


@contextmanager
def _initialisers_seeded(seed: int) -> Iterator[None]:
    """Seeds Python's generator, where Keras' initialisers take theirs, for a while."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _minimize(
    loss_function: Callable[[], tuple[Tensor, dict[str, Tensor]]],
    variables: list[keras.Variable],
    optimizer: keras.Optimizer,
) -> dict[str, Tensor]:
    """Applies one gradient step to the variables; may be nested. The terms' values."""
    import tensorflow as tf

    values = [variable.value for variable in variables]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        loss, logs = loss_function()
    optimizer.apply(tape.gradient(loss, values), variables)
    return logs


def _compile(function: Callable) -> Callable:
    """Compiles a step of training; shapes are fixed by its first call."""
    import tensorflow as tf

    return tf.function(function, autograph=False)

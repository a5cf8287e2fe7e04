"""The model that trains: forward, losses, gradients, update."""

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import keras
import numpy as np
from keras import ops

from fsgan.data.dataset import Batch
from fsgan.models.networks import (
    ModelConfig,
    build_decoder,
    build_discriminator,
    build_encoder,
)
from fsgan.models.precision import computing_in
from fsgan.training.backend import compile_step, minimize, uninterrupted
from fsgan.training.losses import LossWeights
from fsgan.training.objective import ADVERSARIAL_LOSSES, Objective, PhaseTerms, Side

Tensor = keras.KerasTensor

UPDATES = ("fused", "separate")


class FaceSwapGAN:
    """A shared encoder, a decoder and a discriminator for each person.

    Attributes:
        config: the architecture.
        networks: the networks by name: encoder, decoder_a, decoder_b, discriminator_a,
            discriminator_b, as far as the architecture has them.
        optimizers: Adam by the part that it updates. Fused: "generator" (encoder and
            decoders) and "discriminator" (both). Separate: "generator_a" (encoder and
            decoder_a), "discriminator_a" and so on, as the original has it.
        iteration: updates done so far.
        decoders_swapped: whether the schedule has already swapped the decoders.
        batches_per_step: batches that one update takes, 1 or, separate, 2.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: LossWeights | None = None,
        learning_rate: float = 1e-4,
        seed: int = 0,
        *,
        adversarial_loss: str = "mixup_lsgan",
        updates: str = "fused",
        precision: str = "float32",
        vggface: keras.Model | None = None,
    ) -> None:
        """Builds the networks with fresh weights; both decoders start alike.

        Args:
            config: the architecture.
            weights: weights of the losses; None takes the defaults.
            learning_rate: of the generator; the discriminators learn twice as fast.
            seed: of the initial weights.
            adversarial_loss: "mixup_lsgan" or "relativistic_avg_lsgan".
            updates: "fused" updates everything from one forward pass of the generator;
                "separate" updates discriminator A, discriminator B, generator A and
                generator B one after the other, each from a pass of its own, the
                generators on a batch of their own, as the original does.
            precision: "float32", or "bfloat16" for what the networks compute; weights
                and losses are float32 in either.
            vggface: features for the perceptual loss, as of `vggface`; None
                trains without it.

        Raises:
            ValueError: an option is none of these, or the backend cannot train.
        """
        _check("adversarial_loss", adversarial_loss, ADVERSARIAL_LOSSES)
        _check("updates", updates, UPDATES)
        self.config = config
        self.vggface = vggface
        self.updates = updates
        self.batches_per_step = 2 if updates == "separate" else 1
        builders = {"encoder": build_encoder}
        builders |= {f"decoder_{side}": build_decoder for side in config.sides}
        if config.discriminators:
            names = [f"discriminator_{side}" for side in config.sides]
            builders |= dict.fromkeys(names, build_discriminator)
        with _initialisers_seeded(seed), computing_in(precision):
            self.networks = {name: build(config) for name, build in builders.items()}
        if config.people == 2:
            # A description then means the same to both decoders from the start, and
            # swaps show the other's features much sooner.
            weights_of_a = self.networks["decoder_a"].get_weights()
            self.networks["decoder_b"].set_weights(weights_of_a)
        weights = weights or LossWeights()
        if weights.cyclic and config.people == 1:
            raise ValueError("the cyclic loss needs two persons: set cyclic to 0")
        self._objective = Objective(
            config, self.networks, weights, adversarial_loss, vggface
        )
        self._parts = self._list_parts()
        self._learning_rates = {
            part: learning_rate * (2 if part.startswith("discriminator") else 1)
            for part in self._parts
        }
        self.optimizers = {
            part: keras.optimizers.Adam(rate, beta_1=0.5, beta_2=0.999)
            for part, rate in self._learning_rates.items()
        }
        for part, optimizer in self.optimizers.items():
            optimizer.build(self.variables(part))
        self.iteration = 0
        self.decoders_swapped = False
        step = self._fused_step if updates == "fused" else self._separate_step
        self._compiled_step = compile_step(step, self._all_variables())

    def variables(self, part: str) -> list[keras.Variable]:
        """Lists the trainable variables that an optimizer updates.

        Args:
            part: a key of `optimizers`.

        Returns:
            The variables, in an order that does not change.
        """
        return [
            variable
            for name in self._parts[part]
            for variable in self.networks[name].trainable_variables
        ]

    def set_learning_rate(self, factor: float) -> None:
        """Scales the learning rates without losing the optimizers' moments.

        Args:
            factor: share of the initial learning rates.
        """
        for part, optimizer in self.optimizers.items():
            optimizer.learning_rate.assign(self._learning_rates[part] * factor)

    def swap_decoders(self) -> None:
        """Exchanges the decoders of A and B, weights and the optimizers' moments."""
        pairs = zip(self._decoder_state("a"), self._decoder_state("b"), strict=True)
        for one, other in pairs:
            value = ops.convert_to_numpy(one).copy()
            one.assign(ops.convert_to_numpy(other).copy())
            other.assign(value)
        self.decoders_swapped = not self.decoders_swapped

    def train_on_batch(self, terms: PhaseTerms, *batches: Batch) -> dict[str, float]:
        """Updates discriminators and generators once.

        Args:
            terms: what the phase asks for.
            *batches: as many batches as `batches_per_step`: one for everything, or one
                for the discriminators and one for the generators.

        Returns:
            The value of each loss, weighted as it enters the sum.
        """
        with uninterrupted():
            logs = self._compiled_step(terms, *batches)
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

    def _fused_step(self, terms: PhaseTerms, batch: Batch) -> dict[str, Tensor]:
        """One update: generate, discriminate, then judge what was generated."""

        def generator_loss() -> tuple[Tensor, dict[str, Tensor]]:
            sides = self._generate(batch, self.config.sides)
            logs = self._update_discriminators("discriminator", sides, batch.mix)
            loss, generator_logs = self._objective.generator_loss(
                sides, terms, batch.mix_perceptual
            )
            return loss, logs | generator_logs

        return minimize(
            generator_loss, self.variables("generator"), self.optimizers["generator"]
        )

    def _separate_step(
        self, terms: PhaseTerms, batch: Batch, generator_batch: Batch
    ) -> dict[str, Tensor]:
        """One update of each discriminator, then of each generator."""
        logs = {}
        for name in self.config.sides:
            sides = self._generate(batch, name)
            part = f"discriminator_{name}"
            logs |= self._update_discriminators(part, sides, batch.mix)
        for name in self.config.sides:

            def generator_loss(name: str = name) -> tuple[Tensor, dict[str, Tensor]]:
                sides = self._generate(generator_batch, name)
                mix = generator_batch.mix_perceptual
                return self._objective.generator_loss(sides, terms, mix)

            part = f"generator_{name}"
            logs |= minimize(
                generator_loss, self.variables(part), self.optimizers[part]
            )
        return logs

    def _generate(self, batch: Batch, names: Sequence[str]) -> list[Side]:
        """Runs persons through the encoder at once, each through its decoder."""
        samples = [batch.sides[self.config.sides.index(name)] for name in names]
        distorted = ops.concatenate([sample.warped for sample in samples])
        latents = ops.split(
            self.networks["encoder"](distorted, training=True), len(names)
        )
        sides = []
        for name, sample, latent in zip(names, samples, latents, strict=True):
            decoder = self.networks[f"decoder_{name}"]
            alpha, rgb, *side_outputs = decoder(latent, training=True)
            fake = alpha * rgb + (1 - alpha) * sample.warped
            sides.append(Side(name, *sample, side_outputs, alpha, rgb, fake))
        return sides

    def _update_discriminators(
        self, part: str, sides: list[Side], mix: Tensor
    ) -> dict[str, Tensor]:
        """Updates the sides' discriminators, where there are any."""
        if not self.config.discriminators:
            return {}

        return minimize(
            lambda: self._objective.discriminator_loss(sides, mix),
            self.variables(part),
            self.optimizers[part],
        )

    def _list_parts(self) -> dict[str, tuple[str, ...]]:
        """Names of the networks that each optimizer updates."""
        sides = self.config.sides
        decoders = tuple(f"decoder_{side}" for side in sides)
        if self.updates == "fused":
            parts = {"generator": ("encoder", *decoders)}
            discriminators = {"discriminator": [f"discriminator_{s}" for s in sides]}
        else:
            parts = {f"generator_{s}": ("encoder", f"decoder_{s}") for s in sides}
            discriminators = {
                f"discriminator_{s}": [f"discriminator_{s}"] for s in sides
            }
        if self.config.discriminators:
            parts |= discriminators
        return parts

    def _decoder_state(self, side: str) -> list[keras.Variable]:
        """A decoder's variables and their moments in the optimizer."""
        decoder = self.networks[f"decoder_{side}"]
        part = "generator" if self.updates == "fused" else f"generator_{side}"
        optimizer, trained = self.optimizers[part], self.variables(part)
        moments = []
        for variable in decoder.trainable_variables:
            index = next(i for i, v in enumerate(trained) if v is variable)
            moments += [optimizer._momentums[index], optimizer._velocities[index]]
        return decoder.variables + moments

    def _all_variables(self) -> list[keras.Variable]:
        """Everything that a step reads or writes."""
        owners = [*self.networks.values(), *self.optimizers.values()]
        if self.vggface:
            owners.append(self.vggface)
        return [variable for owner in owners for variable in owner.variables]


@contextmanager
def _initialisers_seeded(seed: int) -> Iterator[None]:
    """Seeds Python's generator, where Keras' initialisers take theirs, for a while."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _check(name: str, value: str, accepted: Iterable[str]) -> None:
    """Refuses an unknown option."""
    if value not in accepted:
        choices = " or ".join(map(repr, accepted))
        raise ValueError(f"{name} must be {choices}, got {value!r}")

"""The model that trains: forward, losses, gradients, update, logs."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import keras
import numpy as np
from keras import KerasTensor as Tensor
from keras import ops

from fsgan.data.dataset import Batch
from fsgan.models.networks import ModelConfig, build_networks
from fsgan.models.precision import computing_in
from fsgan.models.vggface import preprocess
from fsgan.training.backend import compile_step, minimize, uninterrupted
from fsgan.training.losses import (
    LossWeights,
    alpha_loss,
    cyclic_loss,
    edge_loss,
    expression_loss,
    eyes_loss,
    face_loss,
    lsgan_loss,
    mask_hinge_loss,
    mask_sparsity_loss,
    mask_total_variation_loss,
    perceptual_loss,
    reconstruction_loss,
    relativistic_lsgan_loss,
)
from fsgan.validation import checked

Loss = tuple[Tensor, dict[str, Tensor]]  # the sum to minimise, and its terms by name
AdversarialLoss = Literal["mixup_lsgan", "relativistic_avg_lsgan"]
Updates = Literal["fused", "separate"]


@dataclass(frozen=True)
class Phase:
    """Says what holds during a part of the training.

    Attributes:
        start: Share of the training at which it begins, [0, 1).
        perceptual: Whether the perceptual loss is on.
        hinge_margin: Alpha that the mask should reach, [0, 1]; None asks it to be
            sparse.
        learning_rate_factor: Share of the initial learning rates.
        decoders_swapped: Whether the decoders of A and B have been exchanged.
    """

    start: float = 0.0
    perceptual: bool = False
    hinge_margin: float | None = None
    learning_rate_factor: float = 1.0
    decoders_swapped: bool = False


class Side(NamedTuple):
    """One side's part of a batch and what the generator made of it.

    Images are RGB [-1, 1] (b, R, R, 3), alpha [0, 1] (b, R, R, 1).

    Attributes:
        name: "a" or "b".
        warped: The generator's input.
        real: What it should become.
        masks: Eyes, face and mouth of `real`, [0, 1] (b, R, R, 3).
        latent: What the encoder made of `warped`, (b, 8, 8, channels).
        alpha: The decoder's mask, 1 shows the painted pixel.
        rgb: The painted face.
        fake: What is shown, ``alpha * rgb + (1 - alpha) * warped``.
        side_outputs: The decoder's smaller paintings.
    """

    name: str
    warped: Tensor
    real: Tensor
    masks: Tensor
    latent: Tensor
    alpha: Tensor
    rgb: Tensor
    fake: Tensor
    side_outputs: Sequence[Tensor]


class FaceSwapGAN:
    """A shared encoder, a decoder and a discriminator for each side.

    Attributes:
        config: The architecture.
        networks: The networks by name: encoder, decoder_a, decoder_b, discriminator_a,
            discriminator_b, as far as the architecture has them.
        optimizers: Adam by the part that it updates. Fused: "generator" (encoder and
            decoders) and "discriminator" (both). Separate: "generator_a" (encoder and
            decoder_a), "discriminator_a" and so on, as the original has it.
        scheduled: Variables for what a phase sets: "perceptual", "sparsity", "hinge"
            (weights of losses) and "margin". A change compiles nothing anew.
        iteration: Updates done so far.
        decoders_swapped: Whether the decoders have been exchanged.
        batches_per_step: Batches that one update takes, 1 or, separate, 2.
    """

    @checked
    def __init__(
        self,
        config: ModelConfig,
        weights: LossWeights | None = None,
        learning_rate: float = 1e-4,
        seed: int = 0,
        *,
        adversarial_loss: AdversarialLoss = "mixup_lsgan",
        updates: Updates = "fused",
        precision: str = "float32",
        vggface: keras.Model | None = None,
    ) -> None:
        """Builds the networks with fresh weights; both decoders start alike.

        Args:
            config: The architecture.
            weights: Weights of the losses; None takes the defaults.
            learning_rate: Of the generator; the discriminators learn twice as fast.
            seed: Of the initial weights.
            adversarial_loss: "mixup_lsgan" or "relativistic_avg_lsgan".
            updates: "fused" updates everything from one forward pass of the generator;
                "separate" updates discriminator A, discriminator B, generator A and
                generator B one after the other, each from a pass of its own, the
                generators on a batch of their own, as the original does.
            precision: "float32", or "bfloat16" or "float16" for what the networks
                compute; weights and losses are float32 in each. Under float16 the loss
                is scaled, and a part of which a gradient overflows skips that update.
            vggface: Features for the perceptual loss, as of
                `fsgan.models.vggface.load_vggface`; None trains without it.

        Raises:
            ValueError: An option is none of these, or the backend cannot train.
        """
        self.config = config
        self.iteration = 0
        self.decoders_swapped = False
        self._weights = weights or LossWeights()
        if self._weights.cyclic and config.people == 1:
            raise ValueError("the cyclic loss needs two persons: set cyclic to 0")
        if self._weights.expression and config.network != "quick":
            raise ValueError(
                'the expression loss needs network="quick": set expression to 0'
            )
        self._relativistic = adversarial_loss == "relativistic_avg_lsgan"
        self._vggface = vggface
        with _initializers_seeded(seed), computing_in(precision):
            self.networks = build_networks(config)
        if config.people == 2:
            # A latent then means the same to both decoders from the start, and swaps
            # show the other's features much sooner.
            weights_of_a = self.networks["decoder_a"].get_weights()
            self.networks["decoder_b"].set_weights(weights_of_a)
        self._parts = _list_parts(config, updates)
        self._learning_rates = {
            part: learning_rate * (2 if part.startswith("discriminator") else 1)
            for part in self._parts
        }
        self.optimizers = {
            part: keras.optimizers.Adam(rate, beta_1=0.5, beta_2=0.999)
            for part, rate in self._learning_rates.items()
        }
        # Around Adam, whose state is the same in every precision. The scale is not kept
        # in checkpoints: it is found anew within a few updates.
        scaled = keras.optimizers.LossScaleOptimizer
        self._updating = {
            part: scaled(adam) if precision == "float16" else adam
            for part, adam in self.optimizers.items()
        }
        for part, optimizer in self._updating.items():
            optimizer.build(self.variables(part))
        self.scheduled = {
            name: keras.Variable(0.0, trainable=False, dtype="float32", name=name)
            for name in ("perceptual", "sparsity", "hinge", "margin")
        }
        self.enter_phase(Phase())
        fused = updates == "fused"
        self.batches_per_step = 1 if fused else 2
        step = self.train_step if fused else self.train_step_separately
        self._compiled_step = compile_step(step, self.all_variables())

    def train_on_batches(self, *batches: Batch) -> dict[str, Tensor]:
        """Updates discriminators and generators, once or several times in one call.

        Args:
            *batches: As many batches for each update as `batches_per_step`: one for
                everything, or one for the discriminators and one for the generators.

        Returns:
            The values of each loss, weighted as it enters the sum, float32 (updates,).
            A graphics card may still be computing them: to look at one is to wait.
        """
        each = self.batches_per_step
        calls = [batches[i : i + each] for i in range(0, len(batches), each)]
        with uninterrupted():
            logs = self._compiled_step(calls)
            self.iteration += len(calls)
        return logs

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """Updates every network from one forward pass; `train_on_batches` compiles it.

        Args:
            batch: Faces of each side.

        Returns:
            The value of each loss, weighted as it enters the sum.
        """

        def generator_loss() -> Loss:
            # Forward: all faces through the encoder, each side through its decoder.
            sides = self._paint_sides(batch, self.config.sides)

            # The discriminators' losses, gradients and update.
            logs = self._update_discriminators("discriminator", sides, batch.mix)

            # The generator's losses, as the updated discriminators judge it.
            loss, losses = self._generator_loss(sides, batch.mix_perceptual)
            return loss, logs | losses

        # The generator's gradients and update.
        return self._minimize("generator", generator_loss)

    def train_step_separately(
        self, batch: Batch, generator_batch: Batch
    ) -> dict[str, Tensor]:
        """Updates each discriminator, then each generator, as faceswap-GAN v2.2 does.

        Args:
            batch: Faces for the discriminators.
            generator_batch: Faces for the generators.

        Returns:
            The value of each loss, weighted as it enters the sum.
        """
        logs = {}
        for name in self.config.sides:
            sides = self._paint_sides(batch, name)
            part = f"discriminator_{name}"
            logs |= self._update_discriminators(part, sides, batch.mix)
        for name in self.config.sides:

            def generator_loss(name: str = name) -> Loss:
                sides = self._paint_sides(generator_batch, name)
                return self._generator_loss(sides, generator_batch.mix_perceptual)

            logs |= self._minimize(f"generator_{name}", generator_loss)
        return logs

    def enter_phase(self, phase: Phase) -> None:
        """Puts a phase's loss weights and learning rates in force.

        The optimizers keep their moments, the decoders their places: see
        `swap_decoders`.

        Args:
            phase: What is to hold from the next update on.
        """
        sparse = phase.hinge_margin is None
        values = {
            "perceptual": self._weights.perceptual if phase.perceptual else 0.0,
            "sparsity": self._weights.sparsity if sparse else 0.0,
            "hinge": 0.0 if sparse else self._weights.hinge,
            "margin": 0.0 if sparse else phase.hinge_margin,
        }
        for name, value in values.items():
            self.scheduled[name].assign(value)
        for part, optimizer in self.optimizers.items():
            rate = self._learning_rates[part] * phase.learning_rate_factor
            optimizer.learning_rate.assign(rate)

    def swap_decoders(self) -> None:
        """Exchanges the decoders of A and B, weights and the optimizers' moments."""
        pairs = zip(self._decoder_state("a"), self._decoder_state("b"), strict=True)
        for one, other in pairs:
            value = ops.convert_to_numpy(one).copy()
            one.assign(ops.convert_to_numpy(other).copy())
            other.assign(value)
        self.decoders_swapped = not self.decoders_swapped

    def generate(self, faces: np.ndarray, person: str) -> tuple[np.ndarray, np.ndarray]:
        """Turns faces into one person's face.

        Args:
            faces: RGB float32 [-1, 1] (n, R, R, 3), of anyone.
            person: "a" or "b", whose face is painted.

        Returns:
            The mask alpha, float32 [0, 1] (n, R, R, 1), and the painted face, RGB
            float32 [-1, 1] (n, R, R, 3).
        """
        latent = self.networks["encoder"].predict_on_batch(faces)
        return self.networks[f"decoder_{person}"].predict_on_batch(latent)[:2]

    def variables(self, part: str) -> list[keras.Variable]:
        """Lists the trainable variables that an optimizer updates, in a fixed order.

        Args:
            part: A key of `optimizers`.

        Returns:
            The variables, network by network.
        """
        networks = (self.networks[name] for name in self._parts[part])
        return [v for network in networks for v in network.trainable_variables]

    def all_variables(self) -> list[keras.Variable]:
        """Lists everything that a step reads or writes."""
        owners = [*self.networks.values(), *self._updating.values()]
        if self._vggface:
            owners.append(self._vggface)
        variables = [variable for owner in owners for variable in owner.variables]
        return variables + list(self.scheduled.values())

    def _paint_sides(self, batch: Batch, names: Sequence[str]) -> list[Side]:
        """Runs sides through the encoder at once, each through its decoder."""
        samples = [batch.sides[self.config.sides.index(name)] for name in names]
        warped = ops.concatenate([sample.warped for sample in samples])
        latents = self.networks["encoder"](warped, training=True)
        latents = ops.split(latents, len(names))  # (b, 8, 8, 512) each
        sides = []
        for name, sample, latent in zip(names, samples, latents, strict=True):
            alpha, rgb, *side_outputs = self._decode(latent, name)
            fake = alpha * rgb + (1 - alpha) * sample.warped
            sides.append(Side(name, *sample, latent, alpha, rgb, fake, side_outputs))
        return sides

    def _decode(self, latent: Tensor, side: str) -> list[Tensor]:
        return self.networks[f"decoder_{side}"](latent, training=True)

    def _update_discriminators(
        self, part: str, sides: list[Side], mix: Tensor
    ) -> dict[str, Tensor]:
        """Updates the sides' discriminators, where there are any."""
        if not self.config.discriminators:
            return {}
        return self._minimize(part, lambda: self._discriminator_loss(sides, mix))

    def _discriminator_loss(self, sides: list[Side], mix: Tensor) -> Loss:
        """Asks how much of a blend is real, or for real above the average fake."""
        losses = {}
        for side in sides:
            score = partial(self._score, side)
            fakes = [ops.stop_gradient(image) for image in (side.fake, side.rgb)]
            if self._relativistic:
                real = score(side.real)
                terms = [relativistic_lsgan_loss(real, score(x), 1) for x in fakes]
            else:
                blends = [mix * side.real + (1 - mix) * fake for fake in fakes]
                terms = [lsgan_loss(score(blend), mix) for blend in blends]
            losses[f"discriminator_{side.name}"] = sum(terms)
        return sum(losses.values()) + self._weight_decay(*losses), losses

    def _generator_loss(self, sides: list[Side], mix_perceptual: Tensor) -> Loss:
        """Asks encoder and decoders for all that `LossWeights` lists."""
        losses = {}
        for side in sides:
            of_side = self._side_losses(side)
            losses |= {f"{name}_{side.name}": loss for name, loss in of_side.items()}
        if self._vggface and self._weights.perceptual:
            losses |= self._perceptual_losses(sides, mix_perceptual)
        networks = [("encoder", f"decoder_{side.name}") for side in sides]
        decay = sum(self._weight_decay(*names) for names in networks)
        return sum(losses.values()) + decay, losses

    def _side_losses(self, side: Side) -> dict[str, Tensor]:
        """The losses of one side's painting, weighted."""
        weights, scheduled = self._weights, self.scheduled
        real, rgb, alpha = side.real, side.rgb, side.alpha
        losses = {}
        if weights.reconstruction:
            reconstruction = reconstruction_loss(real, rgb, side.side_outputs)
            losses["reconstruction"] = weights.reconstruction * reconstruction
        if weights.face:
            losses["face"] = weights.face * face_loss(real, rgb, side.masks)
        if weights.alpha:
            losses["alpha"] = weights.alpha * alpha_loss(alpha, side.masks[..., 1:2])
        if weights.expression:
            predicted = self.networks["expression"](side.latent, training=True)
            expression = expression_loss(predicted, side.masks)
            losses["expression"] = weights.expression * expression
        if weights.eyes:
            losses["eyes"] = weights.eyes * eyes_loss(real, rgb, side.masks[..., :1])
        if weights.edge:
            losses["edge"] = weights.edge * edge_loss(real, rgb)
        if self.config.mask and (weights.sparsity or weights.hinge):
            losses["mask"] = (
                scheduled["sparsity"] * mask_sparsity_loss(alpha)
                + scheduled["hinge"] * mask_hinge_loss(alpha, scheduled["margin"])
                + weights.total_variation * mask_total_variation_loss(alpha)
            )
        if self.config.discriminators:
            losses["adversarial"] = weights.adversarial * self._adversarial_loss(side)
        if weights.cyclic:
            losses["cyclic"] = weights.cyclic * self._cyclic_loss(side)
        return losses

    def _adversarial_loss(self, side: Side) -> Tensor:
        """Asks the generator to pass for real, as shown and as painted."""
        scores = [self._score(side, image) for image in (side.fake, side.rgb)]
        if self._relativistic:
            real = self._score(side, side.real)
            return sum(relativistic_lsgan_loss(real, x, -1) for x in scores)
        return sum(lsgan_loss(x, 1) for x in scores)

    def _score(self, side: Side, images: Tensor) -> Tensor:
        """The discriminator's scores (b, 8, 8, 1) of images, given their input."""
        discriminator = self.networks[f"discriminator_{side.name}"]
        return discriminator(ops.concatenate([images, side.warped], axis=-1))

    def _cyclic_loss(self, side: Side) -> Tensor:
        """Asks for the same face after the way to the other person and back."""
        encoder, other = self.networks["encoder"], "b" if side.name == "a" else "a"
        alpha, rgb, *_ = self._decode(encoder(side.real, training=True), other)
        back = self._decode(encoder(rgb, training=True), side.name)
        return cyclic_loss(side.real, back[1], alpha, back[0])

    def _perceptual_losses(self, sides: list[Side], mix: Tensor) -> dict[str, Tensor]:
        """Asks for faces, mixed from painted and shown, that VGGFace sees as real."""
        weight = self.scheduled["perceptual"]
        mixed = [mix * side.rgb + (1 - mix) * side.fake for side in sides]

        def losses() -> list[Tensor]:
            real = self._features([side.real for side in sides])
            pairs = zip(real, self._features(mixed), strict=True)
            return [weight * perceptual_loss(*pair) for pair in pairs]

        # While the weight is 0, VGGFace does not run.
        values = ops.cond(weight > 0, losses, lambda: [ops.zeros(()) for _ in sides])
        names = [f"perceptual_{side.name}" for side in sides]
        return dict(zip(names, values, strict=True))

    def _features(self, faces: list[Tensor]) -> Iterator[tuple[Tensor, ...]]:
        """VGGFace's feature maps of each side's faces, from one pass."""
        maps = self._vggface(preprocess(ops.concatenate(faces)))
        return zip(*(ops.split(map_, len(faces)) for map_ in maps), strict=True)

    def _weight_decay(self, *names: str) -> Tensor:
        """Sum of the networks' L2 terms."""
        return sum(sum(self.networks[name].losses) for name in names)

    def _minimize(
        self, part: str, loss_function: Callable[[], Loss]
    ) -> dict[str, Tensor]:
        """Moves a part one step down the gradient of its loss."""
        return minimize(loss_function, self.variables(part), self._updating[part])

    def _decoder_state(self, side: str) -> list[keras.Variable]:
        """A decoder's variables, and Adam's moments of those that are trained."""
        name = f"decoder_{side}"
        trained = self.networks[name].trainable_variables
        [part] = (part for part, names in self._parts.items() if name in names)
        first = next(i for i, v in enumerate(self.variables(part)) if v is trained[0])
        # Behind the iteration and the learning rate, two moments for each variable.
        moments = self.optimizers[part].variables[2:]
        own_moments = moments[2 * first : 2 * (first + len(trained))]
        return self.networks[name].variables + own_moments


def _list_parts(config: ModelConfig, updates: str) -> dict[str, list[str]]:
    """Lists the networks that each optimizer updates, by name."""
    quick = config.network == "quick"
    shared = ["encoder", "expression"] if quick else ["encoder"]
    decoders = [f"decoder_{side}" for side in config.sides]
    discriminators = [f"discriminator_{side}" for side in config.sides]
    if updates == "fused":
        parts = {"generator": [*shared, *decoders], "discriminator": discriminators}
    else:
        parts = {f"generator_{d[-1]}": [*shared, d] for d in decoders}
        parts |= {name: [name] for name in discriminators}
    if config.discriminators:
        return parts
    return {name: of for name, of in parts.items() if name.startswith("generator")}


@contextmanager
def _initializers_seeded(seed: int) -> Iterator[None]:
    """Seeds Python's generator, where Keras' initializers take theirs, for a while."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)

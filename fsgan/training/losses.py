"""The losses of one side: pure functions from tensors to an unweighted scalar.

Images are RGB in [-1, 1], (batch, height, width, 3); alpha and eye masks are in [0, 1],
(batch, height, width, 1). `real` is the target face, `distorted` the warped input,
`fake_rgb` what the decoder paints and `fake`, alpha·fake_rgb + (1 - alpha)·distorted,
what is shown.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from numbers import Real

from keras import KerasTensor, ops

from fsgan.models.layers import legacy_resize, normalize_sample


@dataclass(frozen=True)
class LossWeights:
    """Says how much each loss counts in the generator's sum.

    Attributes:
        adversarial: Of the adversarial loss.
        reconstruction: Of `reconstruction_loss`.
        eyes: Of `eyes_loss`.
        edge: Of `edge_loss`.
        perceptual: Of `perceptual_loss`, in force in the later phases of training and
            where there are weights for it.
        cyclic: Of `cyclic_loss`; 10 in the original, where it is switched on.
        sparsity: Of `mask_sparsity_loss`, in force while the hinge is off.
        hinge: Of `mask_hinge_loss`.
        total_variation: Of `mask_total_variation_loss`.

    Raises:
        ValueError: A weight is not a finite number of at least 0.
    """

    adversarial: float = 0.1
    reconstruction: float = 1.0
    eyes: float = 30.0
    edge: float = 0.1
    perceptual: float = 1.0
    cyclic: float = 0.0
    sparsity: float = 0.01
    hinge: float = 0.1
    total_variation: float = 0.1

    def __post_init__(self) -> None:
        """Refuses weights that no sum can use."""
        for field in fields(self):
            weight = getattr(self, field.name)
            if not (isinstance(weight, Real) and 0 <= weight < math.inf):
                raise ValueError(
                    f"{field.name} must be finite and at least 0, got {weight!r}"
                )


def reconstruction_loss(
    real: KerasTensor, fake: KerasTensor, side_outputs: Sequence[KerasTensor] = ()
) -> KerasTensor:
    """Measures how far the painted face is from the real one: mean |fake - real|.

    Args:
        real: Target face.
        fake: What the decoder paints, `fake_rgb`.
        side_outputs: Smaller versions of it, each compared with `real` resized.

    Returns:
        Scalar.

    Source: faceswap-GAN v2.2.
    """
    loss = ops.mean(ops.abs(fake - real))
    for output in side_outputs:
        resized = legacy_resize(real, *output.shape[1:3])
        loss = loss + ops.mean(ops.abs(output - resized))
    return loss


def eyes_loss(real: KerasTensor, fake: KerasTensor, eyes: KerasTensor) -> KerasTensor:
    """Measures how far eyes and their edges are from the real ones.

    mean |m (fake - real)| + Σ over y and x of mean |m' (|∇fake| - |∇real|)|

    Args:
        real: Target face.
        fake: What the decoder paints, `fake_rgb`.
        eyes: Eye mask m; m' is m resized to the size of a gradient.

    Returns:
        Scalar.

    Source: faceswap-GAN v2.2.
    """
    height, width = real.shape[1:3]
    edge_eyes = legacy_resize(eyes, height - 1, width - 1)
    loss = ops.mean(ops.abs(eyes * (fake - real)))
    for painted, target in zip(gradients(fake), gradients(real), strict=True):
        loss = loss + ops.mean(ops.abs(edge_eyes * (painted - target)))
    return loss


def edge_loss(real: KerasTensor, fake: KerasTensor) -> KerasTensor:
    """Measures how far edges are from the real ones: Σ mean ||∇fake| - |∇real||.

    The differences are compared without their sign, so an edge from dark to light costs
    nothing against one from light to dark.

    Args:
        real: Target face.
        fake: What the decoder paints, `fake_rgb`.

    Returns:
        Scalar, the sum over y and x.

    Source: faceswap-GAN v2.2.
    """
    pairs = zip(gradients(fake), gradients(real), strict=True)
    return sum(ops.mean(ops.abs(painted - target)) for painted, target in pairs)


def perceptual_loss(
    real_features: Sequence[KerasTensor],
    fake_features: Sequence[KerasTensor],
    weights: Sequence[float] = (0.01, 0.1, 0.3, 0.1),
) -> KerasTensor:
    """Measures how far a face recogniser's features are: Σ w mean (N(F) - N(F'))².

    N is `normalize_sample`: what counts is the pattern of a feature map, not its level.

    Args:
        real_features: Feature maps of the target face, each (batch, height, width,
            channels), deepest first, as of `fsgan.models.vggface.build_vggface`.
        fake_features: Those of the generated face. The original shows the recogniser
            μ·fake_rgb + (1-μ)·fake, one μ for the batch drawn from Beta(0.2, 0.2).
        weights: Weight w of each map.

    Returns:
        Scalar, float32 whatever the features are.

    Source: faceswap-GAN v2.2; Johnson et al. 2016, "Perceptual Losses for Real-Time
    Style Transfer and Super-Resolution", eq. 2.
    """
    loss = 0.0
    for real, fake, weight in zip(real_features, fake_features, weights, strict=True):
        real = normalize_sample(ops.cast(real, "float32"))
        fake = normalize_sample(ops.cast(fake, "float32"))
        loss = loss + weight * ops.mean(ops.square(fake - real))
    return loss


def cyclic_loss(
    real: KerasTensor,
    cycled_rgb: KerasTensor,
    alpha: KerasTensor,
    cycled_alpha: KerasTensor,
) -> KerasTensor:
    """Measures what is lost on the way to the other face and back.

    mean |cycled_rgb - real| + 0.1 mean |alpha - cycled_alpha|

    Args:
        real: Target face of one side.
        cycled_rgb: What this side's generator paints of the other side's `fake_rgb` of
            `real`.
        alpha: Mask of the way there, of the other side's generator for `real`.
        cycled_alpha: Mask of the way back, that comes with `cycled_rgb`.

    Returns:
        Scalar.

    Source: Zhu et al. 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent
    Adversarial Networks", eq. 2; the masks as in faceswap-GAN v2.2.
    """
    masks = ops.mean(ops.abs(alpha - cycled_alpha))
    return ops.mean(ops.abs(cycled_rgb - real)) + 0.1 * masks


def mask_sparsity_loss(alpha: KerasTensor) -> KerasTensor:
    """Measures how much of the face is painted: mean |alpha|.

    Args:
        alpha: Mask of the decoder.

    Returns:
        Scalar.

    Source: faceswap-GAN v2.2.
    """
    return ops.mean(ops.abs(alpha))


def mask_hinge_loss(alpha: KerasTensor, margin: float | KerasTensor) -> KerasTensor:
    """Measures how far alpha stays below a margin: mean max(0, margin - alpha).

    Args:
        alpha: Mask of the decoder.
        margin: What alpha should reach, in [0, 1].

    Returns:
        Scalar.

    Source: faceswap-GAN v2.2.
    """
    return ops.mean(ops.relu(margin - alpha))


def mask_total_variation_loss(alpha: KerasTensor) -> KerasTensor:
    """Measures how rough the mask is: mean |∇y alpha| + mean |∇x alpha|.

    Args:
        alpha: Mask of the decoder.

    Returns:
        Scalar.

    Source: Rudin, Osher and Fatemi 1992 (the anisotropic form); faceswap-GAN v2.2.
    """
    return sum(ops.mean(gradient) for gradient in gradients(alpha))


def mixup_lsgan_discriminator_loss(
    discriminate: Callable[[KerasTensor], KerasTensor],
    real: KerasTensor,
    fake: KerasTensor,
    fake_rgb: KerasTensor,
    distorted: KerasTensor,
    mix: float | KerasTensor,
) -> KerasTensor:
    """Asks the discriminator how much of a blend is real.

    mean (D(λ·real + (1-λ)·fake) - λ)² + mean (D(λ·real + (1-λ)·fake_rgb) - λ)²

    Args:
        discriminate: D, from (batch, height, width, 6), image then distorted, to scores
            of any shape.
        real: Target face.
        fake: Face as shown.
        fake_rgb: Face as painted.
        distorted: Warped input.
        mix: λ in [0, 1], one for the batch; drawn from Beta(0.2, 0.2).

    Returns:
        Scalar.

    Source: Mao et al. 2017, "Least Squares Generative Adversarial Networks", eq. 2;
    Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", section 3.
    """
    loss = 0.0
    for image in (fake, fake_rgb):
        blend = mix * real + (1 - mix) * image
        score = discriminate(ops.concatenate([blend, distorted], axis=-1))
        loss = loss + ops.mean(ops.square(score - mix))
    return loss


def mixup_lsgan_generator_loss(
    discriminate: Callable[[KerasTensor], KerasTensor],
    real: KerasTensor,
    fake: KerasTensor,
    fake_rgb: KerasTensor,
    distorted: KerasTensor,
) -> KerasTensor:
    """Asks the generator to pass for real, as shown and as painted.

    mean (D(fake) - 1)² + mean (D(fake_rgb) - 1)²

    Args:
        discriminate: D, from (batch, height, width, 6), image then distorted, to scores
            of any shape.
        real: Not looked at; adversarial losses are called alike.
        fake: Face as shown.
        fake_rgb: Face as painted.
        distorted: Warped input.

    Returns:
        Scalar.

    Source: Mao et al. 2017, "Least Squares Generative Adversarial Networks", eq. 2.
    """
    loss = 0.0
    for image in (fake, fake_rgb):
        score = discriminate(ops.concatenate([image, distorted], axis=-1))
        loss = loss + ops.mean(ops.square(score - 1))
    return loss


def relativistic_avg_lsgan_discriminator_loss(
    discriminate: Callable[[KerasTensor], KerasTensor],
    real: KerasTensor,
    fake: KerasTensor,
    fake_rgb: KerasTensor,
    distorted: KerasTensor,
    mix: float | KerasTensor | None = None,
) -> KerasTensor:
    """Asks the discriminator to score real 1 above the average fake, fake 1 below real.

    ½ Σ over f in (fake, fake_rgb) of
    mean (D(real) - E D(f) - 1)² + mean (D(f) - E D(real) + 1)²

    E is the mean over the batch, each position of the scores for itself. This is the
    published loss, averaged over the two fakes. faceswap-GAN v2.2 mixed it: `fake` had
    the plain terms mean (D(real) - 1)² + mean D(fake)², and the second term of
    `fake_rgb` aimed at 0 instead of -1.

    Args:
        discriminate: D, from (batch, height, width, 6), image then distorted, to scores
            of any shape.
        real: Target face.
        fake: Face as shown.
        fake_rgb: Face as painted.
        distorted: Warped input, the condition of all three.
        mix: Not looked at; adversarial losses are called alike.

    Returns:
        Scalar.

    Source: Jolicoeur-Martineau 2018, "The relativistic discriminator: a key element
    missing from standard GAN", RaLSGAN in the appendix.
    """
    images = (real, fake, fake_rgb)
    return _relativistic(discriminate, images, distorted, margin=1)


def relativistic_avg_lsgan_generator_loss(
    discriminate: Callable[[KerasTensor], KerasTensor],
    real: KerasTensor,
    fake: KerasTensor,
    fake_rgb: KerasTensor,
    distorted: KerasTensor,
) -> KerasTensor:
    """Asks the generator for fakes that score 1 above the average real face.

    ½ Σ over f in (fake, fake_rgb) of
    mean (D(real) - E D(f) + 1)² + mean (D(f) - E D(real) - 1)²

    E is the mean over the batch, each position of the scores for itself. This is the
    published loss, averaged over the two fakes. faceswap-GAN v2.2 mixed it: `fake` had
    the plain term mean (D(fake) - 1)², not halved, and the first term of `fake_rgb`
    aimed at 0 instead of -1.

    Args:
        discriminate: D, from (batch, height, width, 6), image then distorted, to scores
            of any shape.
        real: Target face.
        fake: Face as shown.
        fake_rgb: Face as painted.
        distorted: Warped input, the condition of all three.

    Returns:
        Scalar.

    Source: Jolicoeur-Martineau 2018, "The relativistic discriminator: a key element
    missing from standard GAN", RaLSGAN in the appendix.
    """
    images = (real, fake, fake_rgb)
    return _relativistic(discriminate, images, distorted, margin=-1)


def _relativistic(
    discriminate: Callable[[KerasTensor], KerasTensor],
    images: tuple[KerasTensor, KerasTensor, KerasTensor],
    distorted: KerasTensor,
    margin: float,
) -> KerasTensor:
    """Asks for real scores `margin` above fake ones, averaged over both fakes."""
    real, *fakes = (
        discriminate(ops.concatenate([image, distorted], axis=-1)) for image in images
    )
    loss = 0.0
    for fake in fakes:
        loss = loss + ops.mean(ops.square(real - ops.mean(fake, axis=0) - margin))
        loss = loss + ops.mean(ops.square(fake - ops.mean(real, axis=0) + margin))
    return loss / 2


def gradients(images: KerasTensor) -> tuple[KerasTensor, KerasTensor]:
    """Returns the absolute differences of neighbouring pixels.

    Args:
        images: Float tensor (batch, height, width, channels).

    Returns:
        Down and across, each (batch, height - 1, width - 1, channels).
    """
    corner = images[:, :-1, :-1]
    return ops.abs(images[:, 1:, :-1] - corner), ops.abs(images[:, :-1, 1:] - corner)

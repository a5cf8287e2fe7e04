"""The losses: pure functions from tensors to a scalar, with formula and source.

Images are RGB in [-1, 1], (b, h, w, 3); alpha and each mask are in [0, 1], (b, h, w,
1). `real` is the target face, `rgb` is what the decoder paints of it; the weights of
the sum are those of `LossWeights`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from keras import KerasTensor as Tensor
from keras import ops
from pydantic import Field

from fsgan.models.layers import legacy_resize, normalize_sample
from fsgan.validation import AtLeastZero, checked

EXPRESSION_MEAN = np.array([0.054, 0.059, 0.0, -0.19], np.float32)
EXPRESSION_SPREAD = np.array([0.005, 0.012, 0.03, 0.012], np.float32)
"""Of eyes, mouth, yaw and pitch, measured on two people's faces; see `expression`."""


Weight = Annotated[AtLeastZero, Field(le=1e6)]  # more would leave float32


@checked
@dataclass(frozen=True)
class LossWeights:
    """Says how much each loss counts in the generator's sum.

    Attributes:
        adversarial: Of the adversarial loss, mixup or relativistic.
        reconstruction: Of `reconstruction_loss`.
        eyes: Of `eyes_loss`.
        edge: Of `edge_loss`.
        perceptual: Of `perceptual_loss`, in force in the later phases of training and
            where there are weights for it.
        cyclic: Of `cyclic_loss`; 10 in the original, where it is switched on.
        sparsity: Of `mask_sparsity_loss`, in force while the hinge is off.
        hinge: Of `mask_hinge_loss`.
        total_variation: Of `mask_total_variation_loss`.
        face: Of `face_loss`; 1 in the recipe "quick", like the next one, and 0 in v2.2.
        alpha: Of `alpha_loss`.
        expression: Of `expression_loss`.

    Raises:
        ValueError: A weight is not a number of 0 to a million.
    """

    adversarial: Weight = 0.1
    reconstruction: Weight = 1.0
    eyes: Weight = 30.0
    edge: Weight = 0.1
    perceptual: Weight = 1.0
    cyclic: Weight = 0.0
    sparsity: Weight = 0.01
    hinge: Weight = 0.1
    total_variation: Weight = 0.1
    face: Weight = 0.0
    alpha: Weight = 0.0
    expression: Weight = 0.0


def reconstruction_loss(
    real: Tensor, rgb: Tensor, side_outputs: Sequence[Tensor] = ()
) -> Tensor:
    """Measures how far the painted face is from the real one: mean |rgb - real|.

    Args:
        real: Target face.
        rgb: Painted face.
        side_outputs: Smaller painted faces, each compared with `real` resized.

    Returns:
        Scalar, the sum over `rgb` and the side outputs.

    Source: faceswap-GAN v2.2.
    """
    loss = ops.mean(ops.abs(rgb - real))
    for output in side_outputs:
        resized = legacy_resize(real, *output.shape[1:3])
        loss = loss + ops.mean(ops.abs(output - resized))
    return loss


def face_loss(real: Tensor, rgb: Tensor, masks: Tensor) -> Tensor:
    """Measures how far a face is from the real one, in structure and in pixels.

    10 mean w DSSIM + 10 mean w (rgb - real)²/4, where w is 1 in the face, 3 in the
    eyes, 2 in the mouth and 0.1 around the face.

    Args:
        real: Target face.
        rgb: Painted face.
        masks: [0, 1] (b, h, w, 3), eyes, face and mouth of `real`.

    Returns:
        Scalar.

    Source: the weights are those of DeepFaceLab; structure as of `dssim`.
    """
    eyes, face, mouth = ops.split(masks, 3, axis=-1)
    weight = 0.1 + face * (0.9 + 2 * eyes + mouth)
    stride = max(1, real.shape[1] // 64)
    there = slice(stride // 2, None, stride)
    structure = ops.mean(weight[:, there, there] * dssim(real, rgb, stride))
    squares = ops.mean(weight * ops.square(rgb - real)) / 4
    return 10 * (structure + squares)


def dssim(real: Tensor, rgb: Tensor, stride: int = 1) -> Tensor:
    """Measures structural dissimilarity around each pixel: (1 - SSIM) / 2.

    The window is a Gaussian of deviation 1.5, cut at a tenth of the image's side.

    Args:
        real: Target face.
        rgb: Painted face.
        stride: Pixels from one window to the next; the first is at half of it.

    Returns:
        Tensor (b, h / stride, w / stride, 3) in [0, 1], in float32.

    Source: Wang et al. 2004, "Image quality assessment: from error visibility to
    structural similarity", eq. 13.
    """
    side = real.shape[1]
    place = np.arange(side)
    bell = np.exp(-(((place - place[:, None]) / 1.5) ** 2) / 2)
    bell *= abs(place - place[:, None]) <= side // 20
    bell = bell[stride // 2 :: stride]
    window = (bell / bell.sum(axis=1, keepdims=True)).astype(np.float32)

    def local_means(maps: list[Tensor]) -> list[Tensor]:
        """A product with a matrix along each axis: the fastest way on every device."""
        x = ops.concatenate(maps, axis=-1)  # (b, h, w, channels)
        channels, fewer = x.shape[-1], len(window)
        x = ops.matmul(window, ops.reshape(x, (-1, side, side * channels)))
        x = ops.matmul(window, ops.reshape(x, (-1, side, channels)))
        x = ops.reshape(x, (-1, fewer, fewer, channels))
        return ops.split(x, len(maps), axis=-1)

    x, y = ((ops.cast(image, "float32") + 1) / 2 for image in (real, rgb))
    mean_x, mean_y, *squares = local_means([x, y, x * x, y * y, x * y])
    variance_x = squares[0] - mean_x * mean_x
    variance_y = squares[1] - mean_y * mean_y
    covariance = squares[2] - mean_x * mean_y
    luminance = 2 * mean_x * mean_y + 1e-4
    luminance = luminance / (mean_x * mean_x + mean_y * mean_y + 1e-4)
    structure = (2 * covariance + 9e-4) / (variance_x + variance_y + 9e-4)
    return (1 - luminance * structure) / 2


def alpha_loss(alpha: Tensor, face: Tensor) -> Tensor:
    """Measures how far alpha is from the face's mask: mean binary cross entropy.

    Args:
        alpha: Mask of the decoder.
        face: Mask of the target's face.

    Returns:
        Scalar.
    """
    return ops.mean(ops.binary_crossentropy(face, alpha))


def expression_loss(predicted: Tensor, masks: Tensor) -> Tensor:
    """Measures how far a predicted expression is from that of the masks.

    One linear map predicts it of both people, so that the encoder must write an open
    mouth or a closed eye in one way, whoever it sees.

    Args:
        predicted: (b, 4), as of `expression`.
        masks: [0, 1] (b, h, w, 3), eyes, face and mouth.

    Returns:
        Scalar, mean squared difference; faces without masks do not count.
    """
    known = ops.max(masks[..., 1], axis=(1, 2)) > 0.5
    squares = ops.mean(ops.square(predicted - expression(masks)), axis=1)
    return ops.mean(ops.where(known, squares, 0.0))


def expression(masks: Tensor) -> Tensor:
    """Reads a face's expression and pose off its masks.

    Args:
        masks: [0, 1] (b, h, w, 3), eyes, face and mouth.

    Returns:
        (b, 4), float32, about -1 to 1 over most faces: how open are eyes and mouth
        (their areas in shares of the face's), yaw and pitch (where in the face the
        middle of the eyes lies).
    """
    masks = ops.cast(masks, "float32")
    side = masks.shape[1]
    areas = ops.mean(masks, axis=(1, 2)) + 1e-6  # (b, 3)
    place = (ops.arange(side, dtype="float32") + 0.5) / side
    x, y = place[None, None, :, None], place[None, :, None, None]
    middles = [ops.mean(masks * axis, axis=(1, 2)) / areas for axis in (x, y)]  # (b, 3)
    size = ops.sqrt(areas[:, 1])
    measures = [areas[:, 0] / areas[:, 1], areas[:, 2] / areas[:, 1]]
    measures += [(middle[:, 0] - middle[:, 1]) / size for middle in middles]
    return (ops.stack(measures, axis=1) - EXPRESSION_MEAN) / EXPRESSION_SPREAD


def eyes_loss(real: Tensor, rgb: Tensor, eyes: Tensor) -> Tensor:
    """Measures how far eyes and their edges are from the real ones.

    mean |m (rgb - real)| + Σ over y and x of mean |m' (|∇rgb| - |∇real|)|

    Args:
        real: Target face.
        rgb: Painted face.
        eyes: Eye mask m; m' is m resized to the size of a gradient.

    Returns:
        Scalar.

    Source: faceswap-GAN v2.2.
    """
    height, width = real.shape[1:3]
    edge_eyes = legacy_resize(eyes, height - 1, width - 1)
    loss = ops.mean(ops.abs(eyes * (rgb - real)))
    for painted, target in zip(gradients(rgb), gradients(real), strict=True):
        loss = loss + ops.mean(ops.abs(edge_eyes * (painted - target)))
    return loss


def edge_loss(real: Tensor, rgb: Tensor) -> Tensor:
    """Measures how far edges are from the real ones: Σ mean ||∇rgb| - |∇real||.

    The gradients have no sign: an edge from dark to light costs nothing against one
    from light to dark.

    Args:
        real: Target face.
        rgb: Painted face.

    Returns:
        Scalar, the sum over y and x.

    Source: faceswap-GAN v2.2.
    """
    pairs = zip(gradients(rgb), gradients(real), strict=True)
    return sum(ops.mean(ops.abs(painted - target)) for painted, target in pairs)


def perceptual_loss(
    real_features: Sequence[Tensor],
    fake_features: Sequence[Tensor],
    weights: Sequence[float] = (0.01, 0.1, 0.3, 0.1),
) -> Tensor:
    """Measures how far a face recogniser's features are: Σ w mean (N(F) - N(F'))².

    N is `normalize_sample`: what counts is the pattern of a feature map, not its level.

    Args:
        real_features: Feature maps of the target face, each (b, height, width,
            channels), deepest first, as of `fsgan.models.vggface.build_vggface`.
        fake_features: Those of the generated face.
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
    real: Tensor, cycled_rgb: Tensor, alpha: Tensor, cycled_alpha: Tensor
) -> Tensor:
    """Measures what is lost on the way to the other face and back.

    mean |cycled_rgb - real| + 0.1 mean |alpha - cycled_alpha|

    Args:
        real: Target face of one side.
        cycled_rgb: What this side's decoder paints of the other side's painting of
            `real`.
        alpha: Mask of the way there, which comes with the other side's painting.
        cycled_alpha: Mask of the way back, which comes with `cycled_rgb`.

    Returns:
        Scalar.

    Source: Zhu et al. 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent
    Adversarial Networks", eq. 2; the masks as in faceswap-GAN v2.2.
    """
    masks = ops.mean(ops.abs(alpha - cycled_alpha))
    return ops.mean(ops.abs(cycled_rgb - real)) + 0.1 * masks


def mask_sparsity_loss(alpha: Tensor) -> Tensor:
    """Measures how much of the face is painted: mean |alpha|.

    Args:
        alpha: Mask of the decoder.

    Returns:
        Scalar.

    Source: faceswap-GAN v2.2.
    """
    return ops.mean(ops.abs(alpha))


def mask_hinge_loss(alpha: Tensor, margin: float | Tensor) -> Tensor:
    """Measures how far alpha stays below a margin: mean max(0, margin - alpha).

    Args:
        alpha: Mask of the decoder.
        margin: What alpha should reach, in [0, 1].

    Returns:
        Scalar.

    Source: faceswap-GAN v2.2.
    """
    return ops.mean(ops.relu(margin - alpha))


def mask_total_variation_loss(alpha: Tensor) -> Tensor:
    """Measures how rough the mask is: mean |∇y alpha| + mean |∇x alpha|.

    Args:
        alpha: Mask of the decoder.

    Returns:
        Scalar.

    Source: Rudin, Osher and Fatemi 1992 (the anisotropic form); faceswap-GAN v2.2.
    """
    return sum(ops.mean(gradient) for gradient in gradients(alpha))


def lsgan_loss(scores: Tensor, target: float | Tensor) -> Tensor:
    """Measures how far the discriminator's scores are from a target: mean (D - t)².

    Args:
        scores: Scores D of the discriminator, any shape.
        target: Score t that is asked for. The generator asks for 1. Under mixup the
            discriminator sees λ·real + (1-λ)·fake and is asked for λ.

    Returns:
        Scalar.

    Source: Mao et al. 2017, "Least Squares Generative Adversarial Networks", eq. 2;
    Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", section 3.
    """
    return ops.mean(ops.square(scores - target))


def relativistic_lsgan_loss(
    real_scores: Tensor, fake_scores: Tensor, margin: float
) -> Tensor:
    """Asks for real faces to score a margin above the average fake, and vice versa.

    ½ mean (D(real) - E D(fake) - m)² + ½ mean (D(fake) - E D(real) + m)²

    E is the mean over the batch, each position of the scores for itself. faceswap-GAN
    v2.2 mixed this with plain LSGAN terms; here it is as published.

    Args:
        real_scores: Scores D(real), (b, ...).
        fake_scores: Scores D(fake), (b, ...).
        margin: m, 1 for the discriminator and -1 for the generator.

    Returns:
        Scalar.

    Source: Jolicoeur-Martineau 2018, "The relativistic discriminator: a key element
    missing from standard GAN", RaLSGAN in the appendix.
    """
    real_lead = real_scores - ops.mean(fake_scores, axis=0)
    fake_lead = fake_scores - ops.mean(real_scores, axis=0)
    return (lsgan_loss(real_lead, margin) + lsgan_loss(fake_lead, -margin)) / 2


def gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the absolute differences of neighbouring pixels.

    Args:
        images: Float tensor (b, height, width, channels).

    Returns:
        Down and across, each (b, height - 1, width - 1, channels).
    """
    corner = images[:, :-1, :-1]
    return ops.abs(images[:, 1:, :-1] - corner), ops.abs(images[:, :-1, 1:] - corner)

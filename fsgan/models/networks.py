"""The networks: one encoder, a decoder and a discriminator for each side.

    encoder         (b, R, R, 3) -> (b, 8, 8, 512/c)
    decoder         (b, 8, 8, 512/c) -> [alpha (b, R, R, 1), rgb (b, R, R, 3), ...]
    discriminator   (b, R, R, 6) -> (b, 8, 8, 1)

R is the resolution, c is 1 for the standard capacity and 2 for lite. Images are RGB in
[-1, 1]. Network outputs that a loss reads are float32 under any dtype policy.

These are the networks of faceswap-GAN v2.2; `fsgan.models.quick` holds the lean ones.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import keras
from keras import KerasTensor, layers, ops
from pydantic import Field, FiniteFloat

from fsgan.models import quick
from fsgan.models.layers import (
    ICNR,
    WEIGHT_DECAY,
    DepthToSpace,
    SampleNormalization,
    SelfAttention,
)
from fsgan.validation import check, checked

DIVISORS = {"standard": 1, "lite": 2}
NORMS = {
    "instancenorm": SampleNormalization,
    "layernorm": partial(layers.GroupNormalization, groups=-1, epsilon=1e-6),
    "groupnorm": partial(layers.GroupNormalization, groups=16, epsilon=1e-6),
    "batchnorm": layers.BatchNormalization,
    "none": layers.Identity,
}
RESOLUTIONS = {"v2.2": (64, 128, 256), "quick": (64, 96, 128)}


@checked
@dataclass(frozen=True)
class ModelConfig:
    """Describes a model: its networks, and what they see of a face.

    Attributes:
        resolution: Side of the square input and output, pixels: 64, 128 or 256; of
            "quick" 64, 96 or 128.
        capacity: "standard", or "lite" with half the width.
        norm: "instancenorm" (each sample as a whole, see `SampleNormalization`),
            "layernorm" (each channel of a sample: the field's instance norm),
            "groupnorm" (16 groups), "batchnorm" or "none".
        attention: Whether self-attention layers are in.
        mask: Whether the decoders paint alpha; without it alpha is 1 everywhere.
        discriminators: Whether there are discriminators, and an adversarial loss.
        people: 2, or 1 for one person's autoencoder.
        latent: Width of the bottleneck, 1 or more; None, as which the default is kept,
            takes 1024, or 2048 at "lite" above 64 pixels; 128 with "quick".
        coverage: What the networks see, in widths of the standard crop, 0.1 to 1.6; see
            `fsgan.faces.geometry.crop_matrix`.
        network: "v2.2", or "quick" for the lean ones, without norm and attention.

    Raises:
        ValueError: A value is not one of these.
    """

    resolution: int = 64
    capacity: Literal[*DIVISORS] = "standard"
    norm: Literal[*NORMS] = "instancenorm"
    attention: bool = True
    mask: bool = True
    discriminators: bool = True
    people: Annotated[int, Field(ge=1, le=2)] = 2
    latent: Annotated[int, Field(ge=1, le=65_536)] | None = None
    coverage: Annotated[FiniteFloat, Field(ge=0.1, le=1.6)] = 0.8
    network: Literal[*RESOLUTIONS] = "v2.2"

    def __post_init__(self) -> None:
        """Refuses what does not go together."""
        check("resolution", self.resolution, Literal[*RESOLUTIONS[self.network]])
        if self.network == "quick":
            check("norm", self.norm, Literal["none"])
            check("attention", self.attention, Literal[False])
            check("mask", self.mask, Literal[True])
        # Older checkpoints hold the default as a number; they are the same model.
        if self.latent == self._default_width:
            object.__setattr__(self, "latent", None)

    @property
    def latent_width(self) -> int:
        """Width of the bottleneck."""
        return self.latent or self._default_width

    @property
    def quick_width(self) -> int:
        """Channels of the first map of "quick"."""
        return 64 // DIVISORS[self.capacity]

    @property
    def sides(self) -> tuple[str, ...]:
        """Names of the persons, "a" and "b", as many as there are."""
        return ("a", "b")[: self.people]

    @property
    def _default_width(self) -> int:
        if self.network == "quick":
            return 128
        return 2048 if self.capacity == "lite" and self.resolution > 64 else 1024


def build_networks(config: ModelConfig) -> dict[str, keras.Model]:
    """Builds all networks of a model, with fresh weights.

    Returns:
        "encoder", "decoder_a", "decoder_b", "discriminator_a", "discriminator_b" and,
        of "quick", "expression", as far as the model has them.
    """
    networks = {"encoder": build_encoder(config)}
    networks |= {f"decoder_{side}": build_decoder(config) for side in config.sides}
    if config.discriminators:
        for side in config.sides:
            networks[f"discriminator_{side}"] = build_discriminator(config)
    if config.network == "quick":
        networks["expression"] = quick.build_expression(config.quick_width)
    return networks


def build_encoder(config: ModelConfig) -> keras.Model:
    """Builds the encoder, shared by both sides.

    Returns:
        Model "encoder": RGB (batch, R, R, 3) in [-1, 1] to (batch, 8, 8, 512/c).
    """
    if config.network == "quick":
        latent = config.latent_width
        return quick.build_encoder(config.resolution, config.quick_width, latent)
    c, norm = DIVISORS[config.capacity], config.norm
    image = keras.Input((config.resolution, config.resolution, 3))  # (b, R, R, 3)
    x = layers.Conv2D(64 // c, 5, padding="same", use_bias=False)(image)
    x = conv_block(x, 128 // c)  # (b, R/2, R/2, 128/c)
    x = conv_block(x, 256 // c, norm=norm)  # (b, R/4, R/4, 256/c)
    x = attention(x, config)
    x = conv_block(x, 512 // c, norm=norm)  # (b, R/8, R/8, 512/c)
    x = attention(x, config)
    while x.shape[1] > 4:
        x = conv_block(x, 1024 // c**2, norm=norm)  # (b, 4, 4, 1024/c²) in the end
    x = layers.Flatten()(x)
    x = layers.Dense(config.latent_width)(x)  # (b, latent)
    x = layers.Dense(4 * 4 * 1024 // c**2)(x)
    x = layers.Reshape((4, 4, 1024 // c**2))(x)  # (b, 4, 4, 1024/c²)
    x = upscale(x, 512 // c, config)  # (b, 8, 8, 512/c)
    return keras.Model(image, x, name="encoder")


def build_decoder(config: ModelConfig) -> keras.Model:
    """Builds a decoder; each side has its own.

    Returns:
        Model "decoder": (batch, 8, 8, 512/c) to the list `[alpha, rgb, *side_outputs]`,
        all float32. Alpha (batch, R, R, 1) in [0, 1] is how much of rgb (batch, R, R,
        3) in [-1, 1] shows in the swapped face. Side outputs, RGB as well, are smaller
        versions that help training: none at 64, one of 64 pixels at 128, of 64 and 128
        at 256.
    """
    if config.network == "quick":
        return quick.build_decoder(config.resolution, config.quick_width)
    c = DIVISORS[config.capacity]
    latent = keras.Input((8, 8, 512 // c))  # (b, 8, 8, 512/c)
    x = upscale(latent, 256 // c, config)  # (b, 16, 16, 256/c)
    x = upscale(x, 128 // c, config)  # (b, 32, 32, 128/c)
    x = attention(x, config)
    x = upscale(x, 64 // c, config)  # (b, 64, 64, 64/c)
    x = residual_block(x, 64 // c)
    x = attention(x, config) if config.attention else conv_block(x, 64 // c, strides=1)
    side_outputs = []
    while x.shape[1] < config.resolution:
        name = f"side_output_{x.shape[1]}"
        side_outputs.append(head(3, activation="tanh", name=name)(x))
        x = upscale(x, 64 // c, config)  # (b, R, R, 64/c) in the end
        x = conv_block(x, 64 // c, strides=1)
    if config.mask:
        alpha = head(1, activation="sigmoid", name="alpha")(x)  # (b, R, R, 1)
    else:
        alpha = ops.ones_like(x[..., :1], dtype="float32")
    rgb = head(3, activation="tanh", name="rgb")(x)  # (b, R, R, 3)
    return keras.Model(latent, [alpha, rgb, *side_outputs], name="decoder")


def build_discriminator(config: ModelConfig) -> keras.Model:
    """Builds a discriminator; each side has its own.

    Returns:
        Model "discriminator": (batch, R, R, 6), a real or made face and the warped
        face it is made from, both RGB in [-1, 1], to an unbounded score (batch, 8, 8,
        1), float32, for each patch.
    """
    norm = config.norm
    images = keras.Input((config.resolution, config.resolution, 6))  # (b, R, R, 6)
    x = discriminator_block(images, 64)  # (b, R/2, R/2, 64)
    x = discriminator_block(x, 128, norm=norm)  # (b, R/4, R/4, 128)
    x = discriminator_block(x, 256, norm=norm)  # (b, R/8, R/8, 256)
    x = attention(x, config)
    while x.shape[1] > 8:
        x = discriminator_block(x, 256, norm=norm)  # (b, 8, 8, 256) in the end
        x = attention(x, config)
    score = layers.Conv2D(
        1, 4, padding="same", use_bias=False, dtype="float32", name="score"
    )
    return keras.Model(images, score(x), name="discriminator")  # (b, 8, 8, 1)


# The blocks: symbolic maps (b, h, w, channels) in and out, `width` channels out.

decayed_conv = partial(
    layers.Conv2D,
    padding="same",
    use_bias=False,
    kernel_initializer="he_normal",
    kernel_regularizer=WEIGHT_DECAY,
)
head = partial(layers.Conv2D, kernel_size=5, padding="same", dtype="float32")


def conv_block(
    x: KerasTensor, width: int, strides: int = 2, norm: str = "none"
) -> KerasTensor:
    """Conv 3x3, ReLU, norm."""
    x = decayed_conv(width, 3, strides)(x)  # (b, h/strides, w/strides, width)
    x = layers.ReLU()(x)
    return NORMS[norm]()(x)


def discriminator_block(x: KerasTensor, width: int, norm: str = "none") -> KerasTensor:
    """Conv 4x4 of stride 2, leaky ReLU, norm."""
    x = decayed_conv(width, 4, strides=2)(x)  # (b, h/2, w/2, width)
    x = layers.LeakyReLU(0.2)(x)
    return NORMS[norm]()(x)


def residual_block(x: KerasTensor, width: int) -> KerasTensor:
    """Two convs 3x3 with leaky ReLUs and the input added before the second."""
    y = decayed_conv(width, 3)(x)  # (b, h, w, width)
    y = layers.LeakyReLU(0.2)(y)
    y = decayed_conv(width, 3)(y)
    return layers.LeakyReLU(0.2)(layers.Add()([y, x]))


def upscale(x: KerasTensor, width: int, config: ModelConfig) -> KerasTensor:
    """Doubles height and width: by pixel shuffle, at lite by nearest neighbour."""
    norm = NORMS[config.norm]()
    if config.capacity == "lite":
        x = layers.UpSampling2D(2)(x)  # (b, 2h, 2w, channels)
        x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        return norm(decayed_conv(width, 3, padding="valid", use_bias=True)(x))
    icnr = ICNR(stddev=0.02)
    x = decayed_conv(4 * width, 3, use_bias=True, kernel_initializer=icnr)(x)
    x = norm(layers.LeakyReLU(0.2)(x))  # (b, h, w, 4·width)
    return DepthToSpace(2)(x)  # (b, 2h, 2w, width)


def attention(x: KerasTensor, config: ModelConfig) -> KerasTensor:
    """Self-attention, or nothing where it is off."""
    return SelfAttention()(x) if config.attention else x

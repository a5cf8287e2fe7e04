"""The networks: one encoder, a decoder and a discriminator for each side.

    encoder         (b, R, R, 3) -> (b, 8, 8, 512/c)
    decoder         (b, 8, 8, 512/c) -> [alpha (b, R, R, 1), rgb (b, R, R, 3), ...]
    discriminator   (b, R, R, 6) -> (b, 8, 8, 1)

R is the resolution, c is 1 for the standard capacity and 2 for lite. Images are RGB in
[-1, 1]. Network outputs that a loss reads are float32 under any dtype policy.
"""

from dataclasses import dataclass

import keras
from keras import KerasTensor, layers, ops

from fsgan.models.layers import ICNR, SampleNormalization, SelfAttention

DIVISORS = {"standard": 1, "lite": 2}
NORMS = {
    "instancenorm": SampleNormalization,
    "layernorm": lambda: layers.GroupNormalization(groups=-1, epsilon=1e-6),
    "groupnorm": lambda: layers.GroupNormalization(groups=16, epsilon=1e-6),
    "batchnorm": layers.BatchNormalization,
    "none": layers.Identity,
}


@dataclass(frozen=True)
class ModelConfig:
    """Describes a model: its networks, and what they see of a face.

    Attributes:
        resolution: Side of the square input and output, pixels: 64, 128 or 256.
        capacity: "standard", or "lite" with half the width.
        norm: "instancenorm" (each sample as a whole, see `SampleNormalization`),
            "layernorm" (each channel of a sample: the field's instance norm),
            "groupnorm" (16 groups), "batchnorm" or "none".
        attention: Whether self-attention layers are in.
        mask: Whether the decoders paint alpha; without it alpha is 1 everywhere.
        discriminators: Whether there are discriminators, and an adversarial loss.
        people: 2, or 1 for one person's autoencoder.
        latent: Width of the bottleneck, 1 or more; None, as which the default is kept,
            takes 1024, or 2048 at "lite" above 64 pixels (see `latent_width`).
        coverage: Share of a stored crop's width that the networks see, in training and
            in conversion, 0.1 to 1.

    Raises:
        ValueError: A value is not one of these.
    """

    resolution: int = 64
    capacity: str = "standard"
    norm: str = "instancenorm"
    attention: bool = True
    mask: bool = True
    discriminators: bool = True
    people: int = 2
    latent: int | None = None
    coverage: float = 0.8

    def __post_init__(self) -> None:
        """Refuses what no network can be built from."""
        _check("resolution", self.resolution, (64, 128, 256))
        _check("capacity", self.capacity, tuple(DIVISORS))
        _check("norm", self.norm, tuple(NORMS))
        for field in ("attention", "mask", "discriminators"):
            _check(field, getattr(self, field), (True, False))
        _check("people", self.people, (1, 2))
        latent, coverage = self.latent, self.coverage
        if latent is not None and not (type(latent) is int and latent >= 1):
            raise ValueError(
                f"latent must be a whole number >= 1 or None, got {latent!r}"
            )
        if not (isinstance(coverage, int | float) and 0.1 <= coverage <= 1):
            raise ValueError(
                f"coverage must be a number from 0.1 to 1, got {coverage!r}"
            )
        # Older checkpoints hold the default as a number; they are the same model.
        if latent == self._default_width:
            object.__setattr__(self, "latent", None)

    @property
    def divisor(self) -> int:
        """What the standard widths are divided by."""
        return DIVISORS[self.capacity]

    @property
    def latent_width(self) -> int:
        """Width of the bottleneck."""
        return self._default_width if self.latent is None else self.latent

    @property
    def sides(self) -> tuple[str, ...]:
        """Names of the persons, "a" and "b", as many as there are."""
        return ("a", "b")[: self.people]

    @property
    def _default_width(self) -> int:
        return 2048 if self.capacity == "lite" and self.resolution > 64 else 1024


def build_networks(config: ModelConfig) -> dict[str, keras.Model]:
    """Builds all networks of a model, with fresh weights.

    Returns:
        "encoder", "decoder_a", "decoder_b", "discriminator_a" and "discriminator_b", as
        far as the model has them.
    """
    networks = {"encoder": build_encoder(config)}
    networks |= {f"decoder_{side}": build_decoder(config) for side in config.sides}
    if config.discriminators:
        for side in config.sides:
            networks[f"discriminator_{side}"] = build_discriminator(config)
    return networks


def build_encoder(config: ModelConfig) -> keras.Model:
    """Builds the encoder, shared by both sides.

    Returns:
        Model "encoder": RGB (batch, R, R, 3) in [-1, 1] to (batch, 8, 8, 512/c).
    """
    c, norm = config.divisor, config.norm
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
        at 256. Unpack with `alpha, rgb, *side_outputs = decoder(latent)`.
    """
    c, resolution = config.divisor, config.resolution
    latent = keras.Input((8, 8, 512 // c))  # (b, 8, 8, 512/c)
    x = upscale(latent, 256 // c, config)  # (b, 16, 16, 256/c)
    x = upscale(x, 128 // c, config)  # (b, 32, 32, 128/c)
    x = attention(x, config)
    x = upscale(x, 64 // c, config)  # (b, 64, 64, 64/c)
    x = residual_block(x, 64 // c)
    x = attention(x, config) if config.attention else conv_block(x, 64 // c, strides=1)
    side_outputs = []
    while x.shape[1] < resolution:
        side_outputs.append(head(x, 3, "tanh", f"side_output_{x.shape[1]}"))
        x = upscale(x, 64 // c, config)  # (b, R, R, 64/c) in the end
        x = conv_block(x, 64 // c, strides=1)
    alpha = head(x, 1, "sigmoid", "alpha") if config.mask else None  # (b, R, R, 1)
    rgb = head(x, 3, "tanh", "rgb")  # (b, R, R, 3)
    if alpha is None:
        alpha = ops.ones_like(rgb[..., :1])
    return keras.Model(latent, [alpha, rgb, *side_outputs], name="decoder")


def build_discriminator(config: ModelConfig) -> keras.Model:
    """Builds a discriminator; each side has its own.

    Returns:
        Model "discriminator": (batch, R, R, 6), a real or made face and the distorted
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


def conv_block(
    x: KerasTensor, width: int, strides: int = 2, norm: str = "none"
) -> KerasTensor:
    """Conv 3x3, ReLU, norm."""
    x = decayed_conv(x, width, 3, strides=strides)  # (b, h/strides, w/strides, width)
    x = layers.ReLU()(x)
    return NORMS[norm]()(x)


def discriminator_block(x: KerasTensor, width: int, norm: str = "none") -> KerasTensor:
    """Conv 4x4 of stride 2, leaky ReLU, norm."""
    x = decayed_conv(x, width, 4, strides=2)  # (b, h/2, w/2, width)
    x = layers.LeakyReLU(0.2)(x)
    return NORMS[norm]()(x)


def residual_block(x: KerasTensor, width: int) -> KerasTensor:
    """Two convs 3x3 with leaky ReLUs and the input added before the second."""
    y = decayed_conv(x, width, 3)  # (b, h, w, width)
    y = layers.LeakyReLU(0.2)(y)
    y = decayed_conv(y, width, 3)
    return layers.LeakyReLU(0.2)(layers.Add()([y, x]))


def upscale(x: KerasTensor, width: int, config: ModelConfig) -> KerasTensor:
    """Doubles height and width, in the way of the capacity."""
    if config.capacity == "lite":
        return upscale_nearest(x, width, config.norm)
    return upscale_shuffle(x, width, config.norm)


def upscale_shuffle(x: KerasTensor, width: int, norm: str = "none") -> KerasTensor:
    """Conv 3x3, leaky ReLU, norm, pixel shuffle."""
    icnr = ICNR(keras.initializers.RandomNormal(stddev=0.02))
    x = decayed_conv(x, 4 * width, 3, use_bias=True, initializer=icnr)
    x = layers.LeakyReLU(0.2)(x)  # (b, h, w, 4·width)
    x = NORMS[norm]()(x)
    return ops.depth_to_space(x, 2)  # (b, 2h, 2w, width)


def upscale_nearest(x: KerasTensor, width: int, norm: str = "none") -> KerasTensor:
    """Nearest neighbour, reflected border, conv 3x3, norm."""
    x = layers.UpSampling2D(2)(x)  # (b, 2h, 2w, channels)
    x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    x = decayed_conv(x, width, 3, padding="valid", use_bias=True)
    return NORMS[norm]()(x)  # (b, 2h, 2w, width)


def attention(x: KerasTensor, config: ModelConfig) -> KerasTensor:
    """Self-attention, or nothing where it is off."""
    if not config.attention:
        return x
    return SelfAttention(kernel_regularizer=keras.regularizers.L2(1e-4))(x)


def head(x: KerasTensor, channels: int, activation: str, name: str) -> KerasTensor:
    """Conv 5x5 to an image, without weight decay."""
    conv = layers.Conv2D(
        channels, 5, padding="same", activation=activation, dtype="float32", name=name
    )
    return conv(x)


def decayed_conv(
    x: KerasTensor,
    width: int,
    size: int,
    strides: int = 1,
    padding: str = "same",
    use_bias: bool = False,
    initializer: str | keras.Initializer = "he_normal",
) -> KerasTensor:
    """Conv with weight decay, he_normal where nothing else is said."""
    conv = layers.Conv2D(
        width,
        size,
        strides=strides,
        padding=padding,
        use_bias=use_bias,
        kernel_initializer=initializer,
        kernel_regularizer=keras.regularizers.L2(1e-4),
    )
    return conv(x)


def _check(field, value, accepted):
    if isinstance(value, type(accepted[0])) and value in accepted:
        return
    *others, last = accepted
    choices = f"{', '.join(map(repr, others))} or {last!r}"
    raise ValueError(f"{field} must be {choices}, got {value!r}")

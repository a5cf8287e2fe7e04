"""The lean networks of the recipe "quick".

    encoder   (b, R, R, 3) -> (b, 8, 8, 2w)
    decoder   (b, 8, 8, 2w) -> [alpha (b, R, R, 1), rgb (b, R, R, 3)]
    expression  (b, 8, 8, 2w) -> (b, 4), in training only

No map is larger than 32x32 pixels: the encoder first folds blocks of k x k pixels into
channels, k = R / 32, and the decoder unfolds them last. So 128 pixels cost half as much
again as 64, not four times.
"""

import keras
from keras import KerasTensor, layers, ops

from fsgan.models.layers import ICNR, DepthToSpace, SpaceToDepth

SIDE = 32  # pixels, of the largest map


def build_encoder(resolution: int, width: int, latent: int) -> keras.Model:
    """Builds the encoder, shared by both sides.

    Args:
        resolution: R, pixels, a multiple of 32.
        width: w, channels of the first map; deeper ones have more.
        latent: Width of the bottleneck; `docs/quick.md` shows what it changes.

    Returns:
        Model "encoder": RGB (batch, R, R, 3) in [-1, 1] to (batch, 8, 8, 2w).
    """
    image = keras.Input((resolution, resolution, 3))  # (b, R, R, 3)
    x = SpaceToDepth(resolution // SIDE)(image)  # (b, 32, 32, 3·k²)
    x = _conv(x, width, 5, strides=2)  # (b, 16, 16, w)
    x = _conv(x, 2 * width, strides=2)  # (b, 8, 8, 2w)
    x = _conv(x, 4 * width, strides=2)  # (b, 4, 4, 4w)
    x = layers.Flatten()(x)
    x = layers.Dense(latent)(x)  # (b, latent)
    x = layers.Dense(4 * 4 * 4 * width)(x)
    x = layers.Reshape((4, 4, 4 * width))(x)  # (b, 4, 4, 4w)
    x = _upscale(x, 2 * width)  # (b, 8, 8, 2w)
    return keras.Model(image, x, name="encoder")


def build_decoder(resolution: int, width: int) -> keras.Model:
    """Builds a decoder; each side has its own.

    Args:
        resolution: As of `build_encoder`.
        width: Likewise.

    Returns:
        Model "decoder": (batch, 8, 8, 2w) to `[alpha, rgb]`, float32. Alpha (batch, R,
        R, 1) in [0, 1] is the mask of the face in rgb (batch, R, R, 3) in [-1, 1].
    """
    k = resolution // SIDE
    latent = keras.Input((8, 8, 2 * width))  # (b, 8, 8, 2w)
    x = _upscale(latent, 2 * width)  # (b, 16, 16, 2w)
    y = _conv(x, 2 * width)
    y = layers.Conv2D(2 * width, 3, padding="same")(y)
    x = layers.LeakyReLU(0.1)(layers.Add()([x, y]))  # (b, 16, 16, 2w)
    x = _upscale(x, width)  # (b, 32, 32, w)
    x = layers.Conv2D(
        4 * k**2, 3, padding="same", dtype="float32", kernel_initializer=ICNR(block=k)
    )(x)
    x = DepthToSpace(k)(x)  # (b, R, R, 4)
    alpha, rgb = ops.sigmoid(x[..., :1]), ops.tanh(x[..., 1:])
    return keras.Model(latent, [alpha, rgb], name="decoder")


def build_expression(width: int) -> keras.Model:
    """Builds what reads the expression off the encoder's output, linearly.

    Args:
        width: As of `build_encoder`.

    Returns:
        Model "expression": (batch, 8, 8, 2w) to (batch, 4), float32.
    """
    latent = keras.Input((8, 8, 2 * width))
    x = layers.Flatten()(latent)
    return keras.Model(latent, layers.Dense(4, dtype="float32")(x), name="expression")


def _conv(x: KerasTensor, width: int, side: int = 3, strides: int = 1) -> KerasTensor:
    """Conv, leaky ReLU."""
    return layers.LeakyReLU(0.1)(layers.Conv2D(width, side, strides, "same")(x))


def _upscale(x: KerasTensor, width: int) -> KerasTensor:
    """Doubles height and width by a pixel shuffle."""
    return DepthToSpace(2)(_conv(x, 4 * width))

"""Features of faces for the perceptual loss: VGGFace's ResNet50.

The weights are those of the package keras-vggface, which Keras 3 cannot import. The
network never learns: its batch normalisations are constant, so they become part of the
convolutions.
"""

import logging
from functools import partial

import keras
import numpy as np
from keras import KerasTensor, layers, ops

from fsgan.assets import download_weights, find_weights
from fsgan.models.checkpoint import read_keras2_weights
from fsgan.models.layers import legacy_resize

log = logging.getLogger(__name__)

FILE = "rcmalli_vggface_tf_notop_resnet50.h5"
URL = f"https://github.com/rcmalli/keras-vggface/releases/download/v2.0/{FILE}"
SIZE = 94_694_792  # bytes

_INPUT_SIZE = 224  # pixels
_MEAN_BGR = (91.4953, 103.8827, 131.0912)  # of VGGFace2, in 0..255
_STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))  # blocks, filters
_EPSILON = 1e-3  # of the batch normalisations, Keras' default

# The kernels are zeros until the weights come: drawing random ones takes JAX 8 seconds.
_convolution = partial(layers.Conv2D, padding="same", kernel_initializer="zeros")


def load_vggface(mode: str = "required") -> keras.Model | None:
    """Builds the network with the weights of VGGFace, downloaded (95 MB) if needed.

    Args:
        mode: "required", "off" for None, or "auto" to warn and go without where the
            weights are missing and cannot be downloaded.

    Returns:
        As of `build_vggface`; None goes without.

    Raises:
        FileNotFoundError: The weights are missing and required.
        ValueError: The weight file is damaged or another one.
    """
    if mode == "off":
        return None
    try:
        path = find_weights(FILE) or download_weights(URL, SIZE)
    except FileNotFoundError as error:
        if mode == "required":
            raise
        log.warning("training goes on WITHOUT the perceptual loss: %s", error)
        return None
    weights = read_keras2_weights(path)
    network = build_vggface()
    expected = {}
    for layer in network.layers:
        if isinstance(layer, layers.Conv2D):
            expected[layer.name] = [tuple(layer.kernel.shape)]
            # Scale, offset, mean and variance.
            expected[f"{layer.name}_bn"] = [(layer.filters,)] * 4
    # VGGFace's SENet50 has all these layers and more.
    for name in sorted(expected.keys() | weights.keys()):
        found = [array.shape for array in weights.get(name, [])]
        if found != expected.get(name, []):
            raise ValueError(
                f"{path} is not the expected {FILE}: layer {name} has the shapes "
                f"{found}, not {expected.get(name, [])}; get it again as "
                "weights/README.md says"
            )
    for layer in network.layers:
        if layer.name in weights:
            values = weights[layer.name]
            if isinstance(layer, layers.Conv2D) and layer.use_bias:
                # The convolution does what the normalisation behind it would do.
                scale, offset, mean, variance = weights[f"{layer.name}_bn"]
                scale = scale / np.sqrt(variance + _EPSILON)
                values = [values[0] * scale, offset - mean * scale]
            layer.set_weights(values)
    return network


def build_vggface() -> keras.Model:
    """Builds the ResNet50 of VGGFace up to its last feature map, frozen, kernels 0.

    Returns:
        Model from faces as of `preprocess`, (batch, 224, 224, 3), to the list of four
        feature maps, deepest first: (batch, 7, 7, 2048), (batch, 28, 28, 512),
        (batch, 55, 55, 256), each behind its ReLU, and the first convolution as it is,
        (batch, 112, 112, 64).

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition", table 1,
    with the stride in the first 1x1; Cao et al. 2018, "VGGFace2: A dataset for
    recognising faces across pose and age"; the maps are those of faceswap-GAN v2.2.
    """
    inputs = keras.Input((_INPUT_SIZE, _INPUT_SIZE, 3))
    name = "conv1_7x7_s2"
    first = _convolution(64, 7, 2, use_bias=False, name=name)(inputs)
    x = layers.BatchNormalization(epsilon=_EPSILON, name=f"{name}_bn")(first)
    x = layers.MaxPooling2D(3, 2)(layers.ReLU()(x))  # (b, 55, 55, 64)
    ends = []
    for stage, (blocks, filters) in enumerate(_STAGES, 2):
        x = _bottleneck(x, filters, f"conv{stage}_1", 1 if stage == 2 else 2)
        for block in range(2, blocks + 1):
            x = _bottleneck(x, filters, f"conv{stage}_{block}")
        ends.append(x)
    network = keras.Model(inputs, [ends[3], ends[1], ends[0], first], name="vggface")
    network.trainable = False
    return network


def preprocess(images: KerasTensor) -> KerasTensor:
    """Turns network tensors into what VGGFace looks at.

    Args:
        images: RGB float [-1, 1], (batch, height, width, 3).

    Returns:
        BGR 0..255 less the mean colour, float32 (batch, 224, 224, 3).

    Source: keras-vggface, `preprocess_input(version=2)`; faceswap-GAN v2.2.
    """
    bgr = (ops.flip(ops.cast(images, "float32"), axis=-1) + 1) * 127.5
    bgr = bgr - ops.convert_to_tensor(_MEAN_BGR, dtype="float32")
    return legacy_resize(bgr, _INPUT_SIZE, _INPUT_SIZE)


def _bottleneck(
    x: KerasTensor, filters: int, name: str, stride: int | None = None
) -> KerasTensor:
    """Residual block; with a stride, its shortcut is a convolution too."""
    y = _convolution(filters, 1, stride or 1, name=f"{name}_1x1_reduce")(x)
    y = _convolution(filters, 3, name=f"{name}_3x3")(layers.ReLU()(y))
    y = _convolution(4 * filters, 1, name=f"{name}_1x1_increase")(layers.ReLU()(y))
    if stride:
        x = _convolution(4 * filters, 1, stride, name=f"{name}_1x1_proj")(x)
    return layers.ReLU()(layers.Add()([y, x]))

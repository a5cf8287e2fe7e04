"""Features of faces for the perceptual loss: VGGFace's ResNet50.

The weights are those of the package keras-vggface, which Keras 3 cannot import. The
network never learns: its batch normalisations are constant, so they become part of the
convolutions.
"""

import logging

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
MODES = ("auto", "required", "off")

_INPUT_SIZE = 224  # pixels
_MEAN_BGR = (91.4953, 103.8827, 131.0912)  # of VGGFace2, in 0..255
_STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))  # blocks, filters
_EPSILON = 1e-3  # of the batch normalisations, Keras' default


def perceptual_features(mode: str = "auto") -> keras.Model | None:
    """Returns the network that the perceptual loss compares faces with.

    Args:
        mode: "auto" goes without where there are no weights and they cannot be
            downloaded, and warns; "required" refuses to; "off" goes without.

    Returns:
        The network, or None to go without.

    Raises:
        FileNotFoundError: The weights are missing and required.
        ValueError: The weight file is damaged or another one, or the mode is unknown.
    """
    if mode not in MODES:
        raise ValueError(f"perceptual must be one of {', '.join(MODES)}, got {mode!r}")
    if mode == "off":
        return None
    try:
        return load_vggface()
    except FileNotFoundError as error:
        if mode == "required":
            raise
        log.warning("training goes on WITHOUT the perceptual loss: %s", error)
        return None


def load_vggface() -> keras.Model:
    """Builds the network with the weights of VGGFace.

    They are downloaded once (95 MB) where `fsgan.assets` does not find them.

    Returns:
        As of `build_vggface`.

    Raises:
        FileNotFoundError: The file is missing and could not be downloaded.
        ValueError: The file is damaged or another one.
    """
    path = find_weights(FILE) or download_weights(URL, SIZE)
    try:
        weights = read_keras2_weights(path)
        network = build_vggface()
        _check(weights, network)
    except ValueError as error:
        raise ValueError(
            f"{path} is not the expected {FILE}: {error}; get it again as "
            "weights/README.md says"
        ) from error
    for layer in network.layers:
        if layer.name in weights:
            values = weights[layer.name]
            if isinstance(layer, layers.Conv2D) and layer.use_bias:
                values = _fold(*values, *weights[f"{layer.name}_bn"])
            layer.set_weights(values)
    return network


def build_vggface() -> keras.Model:
    """Builds the ResNet50 of VGGFace up to its last feature map, frozen, kernels 0.

    It computes in the dtype policy in force while it is built.

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
    first = _convolution(inputs, 64, 7, name, stride=2, use_bias=False)
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
    y = layers.ReLU()(_convolution(x, filters, 1, f"{name}_1x1_reduce", stride or 1))
    y = layers.ReLU()(_convolution(y, filters, 3, f"{name}_3x3"))
    y = _convolution(y, 4 * filters, 1, f"{name}_1x1_increase")
    if stride:
        x = _convolution(x, 4 * filters, 1, f"{name}_1x1_proj", stride)
    return layers.ReLU()(layers.Add()([x, y]))


def _convolution(
    x: KerasTensor,
    filters: int,
    size: int,
    name: str,
    stride: int = 1,
    use_bias: bool = True,
) -> KerasTensor:
    """A convolution for weights to come; drawing random ones takes JAX 8 seconds."""
    return layers.Conv2D(
        filters,
        size,
        stride,
        padding="same",
        use_bias=use_bias,
        kernel_initializer="zeros",
        name=name,
    )(x)


def _check(weights: dict[str, list[np.ndarray]], network: keras.Model) -> None:
    """Refuses weights that are not of this network."""
    expected = {}
    for layer in network.layers:
        if isinstance(layer, layers.Conv2D):
            expected[layer.name] = [tuple(layer.kernel.shape)]
            # Scale, offset, mean and variance.
            expected[f"{layer.name}_bn"] = [(layer.filters,)] * 4
    # VGGFace's SENet50 has all these layers and more.
    for name in sorted(expected.keys() ^ weights.keys()):
        state = "is missing" if name in expected else "does not belong there"
        raise ValueError(f"layer {name} {state}")
    for name, shapes in expected.items():
        found = [array.shape for array in weights[name]]
        if found != shapes:
            raise ValueError(f"layer {name} has the shapes {found}, not {shapes}")


def _fold(kernel, scale, offset, mean, variance) -> tuple[np.ndarray, np.ndarray]:
    """Turns a convolution and the normalisation behind it into kernel and bias."""
    scale = scale / np.sqrt(variance + _EPSILON)
    return kernel * scale, offset - mean * scale

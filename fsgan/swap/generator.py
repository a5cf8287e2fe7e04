"""Generates the other person's faces, as fast as the processor or card allows."""

import logging
import math
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import ops
from skimage.data import astronaut
from skimage.transform import resize

from fsgan.models.checkpoint import load_generator, read_settings
from fsgan.models.layers import SelfAttention
from fsgan.models.precision import (
    fastest_precision,
    has_graphics_card,
    renamed_out_of_memory,
)

log = logging.getLogger(__name__)

# Of 255: half of what is allowed, as the faces to come are not those of the check.
_TOLERANCE = 1.0
_BFLOAT16, _FLOAT16 = "mixed_bfloat16", "mixed_float16"  # the weights stay float32
_ON_A_CARD, _ON_A_PROCESSOR = 64, 16  # faces at once


class FaceGenerator:
    """Generates one person's faces, many at once.

    Attributes:
        resolution: side of the faces, pixels.
        coverage: share of an aligned crop that they show, as of `crop_matrix`.
        learned_mask: whether alpha is the face's mask; else it is the model's own idea
            of where to paint.
        engine: the one in use, never "auto".
        batch_size: faces that go through the network together, at most; halved where
            the memory does not suffice.
    """

    def __init__(
        self,
        checkpoint: Path,
        person: str,
        engine: str = "auto",
        batch_size: int | None = None,
    ) -> None:
        """Loads one person's generator.

        Args:
            checkpoint: folder, as of `fsgan.models.checkpoint.latest_checkpoint`.
            person: "a" or "b", whose face is generated.
            engine: "keras" runs the network as it was trained, in float32; "float32"
                computes the same in a faster order; "mixed" computes the attention's
                values and the largest convolution in bfloat16, "bfloat16" and "float16"
                all but the last layers; "auto" takes the fastest that differs from
                float32 by at most 1 of 255 on a few test faces.
            batch_size: at least 1; None takes 64 on a graphics card, else 16.

        Raises:
            ValueError: the checkpoint is damaged or does not know the person.
        """
        model = read_settings(checkpoint)["model"]
        self.resolution: int = model.resolution
        self.coverage: float = model.coverage
        self.learned_mask = model.network == "quick"
        by_device = _ON_A_CARD if has_graphics_card() else _ON_A_PROCESSOR
        self.batch_size = batch_size or by_device
        self._checkpoint = checkpoint
        network = load_generator(checkpoint, person)
        if engine == "auto":
            self.engine, network = _fastest_accurate(network)
        else:
            self.engine, network = engine, _rebuild(network, engine)
        self._run = _compile(network)
        log.info(
            "faces are generated in batches of %d, %s", self.batch_size, self.engine
        )

    def __call__(self, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Generates faces.

        Args:
            faces: RGB uint8 (n, resolution, resolution, 3), any n.

        Returns:
            Alpha float32 [0, 1] (n, resolution, resolution, 1) and RGB float32 [0, 255]
            (n, resolution, resolution, 3).

        Raises:
            FloatingPointError: what is painted is not finite.
            MemoryError: the memory does not suffice for one face.
        """
        alpha = np.empty((*faces.shape[:3], 1), np.float32)
        rgb = np.empty(faces.shape, np.float32)
        done = 0
        while done < len(faces):
            batch = slice(done, done + self.batch_size)
            try:
                with renamed_out_of_memory(
                    f"out of memory for one face of {self.resolution} pixels: close "
                    "other programs, or train a model of a smaller resolution"
                ):
                    alpha[batch], rgb[batch] = self._generate(faces[batch])
            except MemoryError:
                if self.batch_size == 1:
                    raise
                self.batch_size //= 2
                log.warning("out of memory: batches of %d from now", self.batch_size)
            else:
                done = batch.stop
        return alpha, rgb

    def _generate(self, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Alpha and RGB of one batch."""
        count = len(faces)
        if keras.backend.backend() == "jax":  # it compiles for each new size
            size = min(self.batch_size, 2 ** math.ceil(math.log2(count)))
            faces = np.pad(faces, ((0, size - count), (0, 0), (0, 0), (0, 0)))
        outputs = self._run(_scaled(faces))
        alpha, rgb = (ops.convert_to_numpy(x)[:count] for x in outputs)
        if not (np.isfinite(alpha).all() and np.isfinite(rgb).all()):
            raise FloatingPointError(
                f"the model of {self._checkpoint} paints values that are not finite: "
                "use another checkpoint or model"
            )
        return alpha, (rgb + 1) * 127.5


class FewChannelConv2D(keras.layers.Conv2D):
    """The same convolution, faster where there are few output channels.

    Vector instructions compute 16 channels at once, an image has 3. So each row of the
    kernel becomes channels of its own, and their maps are added, shifted by a row each.
    Strides are 1, the padding is "same" and the kernel's side is odd.
    """

    def call(self, inputs):
        """Convolves `inputs` (batch, height, width, channels)."""
        rows, columns, channels_in, channels = self.kernel.shape
        kernel = ops.transpose(self.kernel, (1, 2, 0, 3))
        kernel = ops.reshape(kernel, (1, columns, channels_in, rows * channels))
        border, height = rows // 2, inputs.shape[1]
        maps = ops.conv(inputs, kernel, padding="same")
        maps = ops.pad(maps, ((0, 0), (border, border), (0, 0), (0, 0)))
        of_rows = (
            maps[:, row : row + height, :, row * channels : (row + 1) * channels]
            for row in range(rows)
        )
        return self.activation(sum(of_rows) + self.bias)


class FastValueAttention(SelfAttention):
    """Self-attention that computes its values, where the time goes, in bfloat16."""

    def _pointwise(self, channels, name):
        convolution = super()._pointwise(channels, name)
        if name == "value":
            convolution.dtype_policy = _BFLOAT16
        return convolution


def _fastest_accurate(network: keras.Model) -> tuple[str, keras.Model]:
    """The fastest engine whose faces are those of float32, and its network."""
    fastest = fastest_precision()
    if fastest != "float32":
        faces = _scaled(_test_faces(network.input_shape[1]))
        exact = network(faces, training=False)
        # As fast on a card as bfloat16, and three bits more exact.
        second = "float16" if has_graphics_card() else "mixed"
        for engine in dict.fromkeys((fastest, second)):
            rebuilt = _rebuild(network, engine)
            error = _error(exact, rebuilt(faces, training=False))
            log.info("%s differs by up to %.2f of 255", engine, error)
            if error <= _TOLERANCE:
                return engine, rebuilt
    return "float32", _rebuild(network, "float32")


def _error(exact, outputs) -> float:
    """Largest difference of alpha and RGB, of 255."""
    alpha, rgb = (
        np.abs(ops.convert_to_numpy(x) - ops.convert_to_numpy(y)).max()
        for x, y in zip(exact, outputs, strict=True)
    )
    return float(max(255 * alpha, 127.5 * rgb))


def _test_faces(resolution: int) -> np.ndarray:
    """One portrait in several lights, sizes and places, RGB uint8 (4, R, R, 3)."""
    photo = astronaut() / 255
    faces = []
    for index in range(4):
        size, shift = 90 + 10 * index, 4 * (index % 3)
        left, top = 224 - size // 2 + shift, 120 - size // 2 - shift
        face = resize(photo[top : top + size, left : left + size], (resolution,) * 2)
        face = face[:, :: 1 - 2 * (index % 2)] ** (0.6, 1, 1.6)[index % 3]
        faces.append(np.rint(255 * face).astype(np.uint8))
    return np.stack(faces)


def _scaled(faces: np.ndarray) -> np.ndarray:
    """Faces as the networks take them, [-1, 1]."""
    return faces.astype(np.float32) / 127.5 - 1


def _rebuild(network: keras.Model, engine: str) -> keras.Model:
    """The same network with some layers replaced by faster ones; others are shared."""
    convolutions = [x for x in network.layers if isinstance(x, keras.layers.Conv2D)]
    # Not the bare operations between the layers.
    all_layers = [x for x in network.layers if isinstance(x, keras.layers.Layer)]
    in_half = {
        "mixed": [max(convolutions, key=lambda layer: layer.count_params())],
        "bfloat16": all_layers,
        "float16": all_layers,
    }.get(engine, [])
    if engine == "keras":
        return network
    replaced = []

    def rebuild(layer):
        kind, config = type(layer), layer.get_config()
        if layer.name in ("alpha", "rgb"):
            kind = FewChannelConv2D
        elif engine == "mixed" and kind is SelfAttention:
            kind = FastValueAttention
        elif layer in in_half:
            config["dtype"] = _FLOAT16 if engine == "float16" else _BFLOAT16
        if kind is type(layer) and config == layer.get_config():
            return layer
        replaced.append((layer, kind.from_config(config)))
        return replaced[-1][1]

    rebuilt = keras.models.clone_model(network, clone_function=rebuild, recursive=True)
    for layer, ours in replaced:
        if isinstance(layer, keras.layers.Layer):
            ours.set_weights(layer.get_weights())
    return rebuilt


def _compile(network: keras.Model) -> Callable:
    """The network as a function from float32 arrays of any length to alpha and RGB."""
    if keras.backend.backend() != "tensorflow":
        return network.predict_on_batch
    import tensorflow as tf

    return tf.function(  # once for all lengths, where Keras compiles twice
        lambda faces: network(faces, training=False),
        autograph=False,
        input_signature=[tf.TensorSpec(network.input_shape)],
    )

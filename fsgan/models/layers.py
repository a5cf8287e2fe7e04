"""What the networks need and Keras lacks: an attention, a norm and an initialiser."""

import keras
import numpy as np
from keras import KerasTensor, ops

from fsgan.models.attention import attend


def normalize_sample(images: KerasTensor, epsilon: float = 1e-3) -> KerasTensor:
    """Shifts and scales each sample to mean 0 and deviation 1 over height to channels.

    (x - mean) / (std + epsilon), computed in at least float32.

    Args:
        images: Float tensor (batch, height, width, channels).
        epsilon: Added to the standard deviation, outside the root.

    Returns:
        Tensor of the same shape and dtype.
    """
    dtype = keras.backend.standardize_dtype(images.dtype)
    x = ops.cast(images, keras.backend.result_type(dtype, "float32"))
    x = x - ops.mean(x, axis=(1, 2, 3), keepdims=True)
    variance = ops.mean(ops.square(x), axis=(1, 2, 3), keepdims=True)
    # The root has no finite gradient at 0, where a constant sample would put it.
    deviation = ops.sqrt(ops.maximum(variance, 1e-12))
    return ops.cast(x / (deviation + epsilon), dtype)


@keras.saving.register_keras_serializable(package="fsgan")
class SampleNormalization(keras.layers.Layer):
    """Normalises each sample as a whole, then applies one scale and one offset.

    This is the norm that faceswap-GAN calls "instancenorm"; what the field calls
    instance normalisation has statistics and scale for each channel.

    Args:
        epsilon: Added to the standard deviation, outside the root.
        **kwargs: Passed to `keras.layers.Layer`.
    """

    def __init__(self, epsilon: float = 1e-3, **kwargs) -> None:
        """Keeps the settings."""
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        """Creates the scalar scale and offset."""
        self.gamma = self.add_weight(shape=(1,), initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=(1,), initializer="zeros", name="beta")

    def call(self, inputs):
        """Normalises `inputs` (batch, height, width, channels)."""
        return self.gamma * normalize_sample(inputs, self.epsilon) + self.beta

    def get_config(self):
        """Returns the arguments that make this layer again."""
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="fsgan")
class Scale(keras.layers.Layer):
    """Multiplies by one learnable scalar that starts at 0."""

    def build(self, input_shape):
        """Creates the scalar."""
        self.gamma = self.add_weight(shape=(1,), initializer="zeros", name="gamma")

    def call(self, inputs):
        """Scales `inputs`, of any shape."""
        return self.gamma * inputs


@keras.saving.register_keras_serializable(package="fsgan")
class SelfAttention(keras.layers.Layer):
    """Adds to each position what it attends to over the whole map, as in SAGAN.

    Queries and keys have an eighth of the input's channels, values have all of them.
    The sum is scaled by a learnable scalar that starts at 0, so a new layer is the
    identity.

    Args:
        kernel_regularizer: Weight decay of the three 1x1 convolutions.
        **kwargs: Passed to `keras.layers.Layer`.

    Source: Zhang et al. 2019, "Self-Attention Generative Adversarial Networks", eq. 1-3
    (query, key and value are its g, f and h).
    """

    def __init__(
        self, kernel_regularizer: keras.Regularizer | None = None, **kwargs
    ) -> None:
        """Keeps the settings."""
        super().__init__(**kwargs)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

    def build(self, input_shape):
        """Creates, in this order, query, key, value and scale: the order in files."""
        channels = input_shape[-1]
        self.query = self._pointwise(channels // 8, "query")
        self.key = self._pointwise(channels // 8, "key")
        self.value = self._pointwise(channels, "value")
        self.scale = Scale(dtype=self.dtype_policy, name="scale")
        for layer in (self.query, self.key, self.value, self.scale):
            layer.build(input_shape)

    def _pointwise(self, channels, name):
        return keras.layers.Conv2D(
            channels,
            kernel_size=1,
            kernel_regularizer=self.kernel_regularizer,
            dtype=self.dtype_policy,
            name=name,
        )

    def call(self, inputs):
        """Attends over `inputs` (batch, height, width, channels); same shape out."""
        _, height, width, _ = inputs.shape

        def flatten(x):
            return ops.reshape(x, (-1, height * width, x.shape[-1]))

        attended = attend(
            flatten(self.query(inputs)),  # (b, h·w, c/8)
            flatten(self.key(inputs)),  # (b, h·w, c/8)
            flatten(self.value(inputs)),  # (b, h·w, c)
        )
        return inputs + self.scale(ops.reshape(attended, (-1, *inputs.shape[1:])))

    def get_config(self):
        """Returns the arguments that make this layer again."""
        regularizer = keras.regularizers.serialize(self.kernel_regularizer)
        return {**super().get_config(), "kernel_regularizer": regularizer}


@keras.saving.register_keras_serializable(package="fsgan")
class ICNR(keras.initializers.Initializer):
    """Initialises a convolution so that a pixel shuffle after it repeats pixels.

    The output channels that end up in one block of pixels start equal, so the upscaling
    starts as a nearest-neighbour one, without checkerboards.

    Args:
        initializer: Draws the kernel of one pixel of the block.
        block_size: Side of the block, pixels.

    Source: Aitken et al. 2017, "Checkerboard artifact free sub-pixel convolution".
    """

    def __init__(
        self, initializer: keras.initializers.Initializer, block_size: int = 2
    ) -> None:
        """Keeps the settings."""
        self.initializer = keras.initializers.get(initializer)
        self.block_size = block_size

    def __call__(self, shape, dtype=None):
        """Returns a kernel of `shape` (height, width, channels in, channels out)."""
        pixels = self.block_size**2
        kernel = self.initializer((*shape[:-1], shape[-1] // pixels), dtype=dtype)
        return ops.tile(kernel, (1, 1, 1, pixels))  # depth_to_space wants pixel major

    def get_config(self):
        """Returns the arguments that make this initialiser again."""
        initializer = keras.initializers.serialize(self.initializer)
        return {"initializer": initializer, "block_size": self.block_size}


def legacy_resize(images: KerasTensor, height: int, width: int) -> KerasTensor:
    """Resizes bilinearly as TensorFlow 1 did, without half-pixel centres.

    Output pixel i reads input position i·(input size)/(output size); today's resizes
    read (i + ½)·(input size)/(output size) - ½ instead.

    Args:
        images: Float tensor (batch, height, width, channels).
        height: New height, pixels.
        width: New width, pixels.

    Returns:
        Tensor (batch, height, width, channels) of the same dtype.

    Source: TensorFlow 1, `tf.image.resize_bilinear(align_corners=False)`.
    """
    rows = _interpolation(images.shape[1], height)
    columns = _interpolation(images.shape[2], width)
    rows = ops.convert_to_tensor(rows, dtype=images.dtype)
    columns = ops.convert_to_tensor(columns, dtype=images.dtype)
    images = ops.einsum("ih,bhwc->biwc", rows, images)
    return ops.einsum("jw,biwc->bijc", columns, images)


def _interpolation(size: int, new_size: int) -> np.ndarray:
    """Returns the (new_size, size) matrix that interpolates along one axis."""
    # TensorFlow 1 rounded positions to single precision; 64 to 224 shows it at 1e-5.
    position = np.arange(new_size, dtype=np.float32) * np.float32(size / new_size)
    before = np.floor(position).astype(int)
    after = np.minimum(before + 1, size - 1)
    share = (position - before)[:, None]
    pixels = np.eye(size)
    return (1 - share) * pixels[before] + share * pixels[after]

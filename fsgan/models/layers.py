"""What the networks need and Keras lacks: an attention, a norm and an initialiser."""

import keras
import numpy as np
from keras import KerasTensor, ops

from fsgan.models.precision import has_graphics_card

WEIGHT_DECAY = keras.regularizers.L2(1e-4)
SCORES_AT_ONCE = 2**20
"""Scores of one sample in a block: 4 MB as float32, a 16th of a map of 64x64 pixels.

They stay in a processor's cache. A graphics card takes a whole map of that size, of all
samples, in one block, as it would wait at each step of a loop."""
_SCORES_ON_A_CARD = 2**24


def normalize_sample(images: KerasTensor) -> KerasTensor:
    """Shifts and scales each sample to mean 0 and deviation 1 over height to channels.

    (x - mean) / (std + 0.001), computed in at least float32.

    Args:
        images: Float tensor (batch, height, width, channels); the dtype stays.
    """
    dtype = keras.backend.standardize_dtype(images.dtype)
    x = ops.cast(images, keras.backend.result_type(dtype, "float32"))
    x = x - ops.mean(x, axis=(1, 2, 3), keepdims=True)
    variance = ops.mean(ops.square(x), axis=(1, 2, 3), keepdims=True)
    # The root has no finite gradient at 0, where a constant sample would put it.
    deviation = ops.sqrt(ops.maximum(variance, 1e-12))
    return ops.cast(x / (deviation + 1e-3), dtype)


@keras.saving.register_keras_serializable(package="fsgan")
class SampleNormalization(keras.layers.Layer):
    """Normalises each sample as a whole, then applies one scale and one offset.

    This is the norm that faceswap-GAN calls "instancenorm"; what the field calls
    instance normalisation has statistics and scale for each channel.
    """

    def build(self, input_shape):
        """Creates the scalar scale and offset."""
        self.gamma = self.add_weight(shape=(1,), initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=(1,), initializer="zeros", name="beta")

    def call(self, inputs):
        """Normalises `inputs` (batch, height, width, channels)."""
        return self.gamma * normalize_sample(inputs) + self.beta


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

    Source: Zhang et al. 2019, "Self-Attention Generative Adversarial Networks", eq. 1-3
    (query, key and value are its g, f and h).
    """

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
            kernel_regularizer=WEIGHT_DECAY,
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


def attend(query: KerasTensor, key: KerasTensor, value: KerasTensor) -> KerasTensor:
    """Mixes values by how well each query matches every key: softmax(q kᵀ) v.

    The scores are not scaled by the square root of the channels, as SAGAN has it. The
    map is not kept for the gradient: the queries are taken block by block, and the
    gradient makes each block p of the map again. With ∂ the gradient of the loss:

        ∂v = pᵀ ∂o                              as o = p v
        ∂s = p · (∂o vᵀ - Σ ∂o · o)             the softmax, as s = q kᵀ
        ∂q = ∂s k      ∂k = ∂sᵀ q

    Args:
        query: Float tensor (batch, queries, channels).
        key: Float tensor (batch, keys, channels).
        value: Float tensor (batch, keys, value channels), of the others' dtype, or
            bfloat16 where no gradient is taken: most of the time goes into its product.

    Returns:
        Float tensor (batch, queries, value channels) of the query's dtype. The softmax
        is float32 in any case, and so are the sums over the blocks.

    Source: Zhang et al. 2019, "Self-Attention Generative Adversarial Networks", eq. 1;
    the recomputation is that of Dao et al. 2022, "FlashAttention".
    """
    return _attend(query, key, value)


@ops.custom_gradient
def _attend(query, key, value):
    """Returns the output and the function of its gradient."""
    (output,) = _by_sample(_forward, (query, key, value), (value.shape[-1],))

    def gradient(*args, upstream=None):
        # JAX and TensorFlow give the gradient alone, PyTorch by name after the inputs.
        output_gradient = args[0] if upstream is None else upstream
        products = ops.cast(output_gradient, "float32") * ops.cast(output, "float32")
        sums = ops.cast(ops.sum(products, axis=-1, keepdims=True), query.dtype)
        inputs = (query, key, value, output_gradient, sums)
        return _by_sample(_backward, inputs, [x.shape[-1] for x in inputs[:3]])

    # PyTorch keeps the gradient's function with what is returned: if that were `output`
    # itself, which the function keeps, neither would ever be freed.
    return ops.reshape(output, ops.shape(output)), gradient


def _forward(query, key, value):
    keys = _transpose(key)

    def step(carry, blocks):
        p = ops.cast(_probabilities(blocks[0], keys), value.dtype)
        return carry, ops.cast(ops.matmul(p, value), query.dtype)

    _, output = _by_blocks(step, (), (query,), key.shape[1], value.shape[-1])
    return (output,)


def _backward(query, key, value, output_gradient, sums):
    keys, values = _transpose(key), _transpose(value)
    # One channel more takes the sum off in the product: [∂o, -Σ] [v, 1]ᵀ = ∂o vᵀ - Σ.
    values_and_one = ops.concatenate([values, ops.ones_like(values[:, :1])], axis=1)
    gradient_and_sums = ops.concatenate([output_gradient, -sums], axis=-1)

    def step(carry, blocks):
        dk, dv = carry
        q, do_and_sums = blocks
        p = _probabilities(q, keys)
        ds = p * ops.matmul(do_and_sums, values_and_one)
        # Summed as transposes, which spares turning the block of the map.
        dk = dk + ops.cast(ops.matmul(_transpose(q), ds), "float32")
        do = _transpose(do_and_sums[..., :-1])
        dv = dv + ops.cast(ops.matmul(do, p), "float32")
        return (dk, dv), _transpose(ops.matmul(keys, _transpose(ds)))

    zeros = ops.zeros_like(keys, "float32"), ops.zeros_like(values, "float32")
    blocks = (query, gradient_and_sums)
    sums, dq = _by_blocks(step, zeros, blocks, key.shape[1], query.shape[-1])
    dk, dv = (ops.cast(_transpose(x), query.dtype) for x in sums)
    return dq, dk, dv


def _probabilities(query, keys):
    """Rows of the map, of the query's dtype; the softmax is float32."""
    scores = ops.matmul(ops.cast(query, "float32"), ops.cast(keys, "float32"))
    return ops.cast(ops.softmax(scores), query.dtype)


def _transpose(x):
    return ops.transpose(x, (0, 2, 1))


# TensorFlow's own loops, as those of keras.ops run ten steps at a time: all of the map.


def _by_sample(function, tensors, channels):
    """Calls `function` on the batch; in TensorFlow one sample after the other.

    The blocks of a whole batch do not stay in a processor's cache.
    """
    if keras.backend.backend() != "tensorflow" or has_graphics_card():
        return function(*tensors)
    import tensorflow as tf

    return tf.map_fn(
        lambda sample: tuple(x[0] for x in function(*(x[None] for x in sample))),
        tuple(tensors),
        fn_output_signature=tuple(
            tf.TensorSpec((x.shape[1], width), x.dtype)
            for x, width in zip(tensors, channels, strict=False)
        ),
        parallel_iterations=2,
    )


def _by_blocks(step, carry, tensors, keys, channels):
    """Scans blocks of the queries; returns the carry and outputs of so many channels.

    Tensors and outputs are (batch, queries, channels).
    """
    batch, queries, _ = tensors[0].shape
    at_once = _SCORES_ON_A_CARD if has_graphics_card() else SCORES_AT_ONCE
    size = min(queries, max(1, at_once // keys))
    if size == queries:
        return step(carry, tensors)
    count = -(-queries // size)

    def split(x):
        x = ops.pad(x, ((0, 0), (0, -queries % size), (0, 0)))
        x = ops.reshape(x, (-1, count, size, x.shape[-1]))
        return ops.transpose(x, (1, 0, 2, 3))

    blocks = tuple(split(x) for x in tensors)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        shape = (batch, size, channels)
        outputs = tf.TensorArray(blocks[0].dtype, count, element_shape=shape)

        def body(index, carry, outputs):
            carry, output = step(carry, tuple(x[index] for x in blocks))
            return index + 1, carry, outputs.write(index, output)

        _, carry, outputs = tf.while_loop(
            lambda index, *_: index < count,
            body,
            (0, carry, outputs),
            parallel_iterations=1,
        )
        outputs = outputs.stack()
    else:
        carry, outputs = ops.scan(step, carry, blocks)
    outputs = ops.reshape(
        ops.transpose(outputs, (1, 0, 2, 3)), (-1, count * size, channels)
    )
    return carry, outputs[:, :queries]


@keras.saving.register_keras_serializable(package="fsgan")
class ICNR(keras.initializers.RandomNormal):
    """Initialises a convolution so that a pixel shuffle after it repeats pixels.

    The output channels that end up in one block of pixels start equal, so the upscaling
    starts as a nearest-neighbour one, without checkerboards.

    Source: Aitken et al. 2017, "Checkerboard artifact free sub-pixel convolution".
    """

    def __init__(self, stddev=0.05, block=2, seed=None):
        """Takes the normal distribution's deviation and the block's side, pixels."""
        super().__init__(stddev=stddev, seed=seed)
        self.block = block

    def __call__(self, shape, dtype=None):
        """Returns a kernel of `shape` (height, width, channels in, channels out)."""
        pixels = self.block**2
        kernel = super().__call__((*shape[:-1], shape[-1] // pixels), dtype=dtype)
        return ops.tile(kernel, (1, 1, 1, pixels))  # DepthToSpace wants pixel major

    def get_config(self):
        """Returns the arguments."""
        config = super().get_config()
        del config["mean"]
        return config | {"block": self.block}


class DepthToSpace(keras.Operation):
    """Unfolds channels into blocks of pixels, as keras.ops does from Keras 3.14 on."""

    def __init__(self, block_size: int):
        """Takes the block's side, pixels."""
        super().__init__()
        self.block_size = block_size

    def call(self, x):
        """Takes (b, h, w, k²·c), pixel major, to (b, k·h, k·w, c)."""
        (_, height, width, channels), k = x.shape, self.block_size
        x = ops.reshape(x, (-1, width, k, channels // k))  # (b·h, w, k, k·c)
        x = ops.transpose(x, (0, 2, 1, 3))
        return ops.reshape(x, (-1, k * height, k * width, channels // k**2))


class SpaceToDepth(DepthToSpace):
    """Folds blocks of pixels into channels: the inverse."""

    def call(self, x):
        """Takes (b, k·h, k·w, c) to (b, h, w, k²·c)."""
        (_, height, width, channels), k = x.shape, self.block_size
        x = ops.reshape(x, (-1, k, width // k, k * channels))  # (b·h, k, w, k·c)
        x = ops.transpose(x, (0, 2, 1, 3))
        return ops.reshape(x, (-1, height // k, width // k, k**2 * channels))


def legacy_resize(images: KerasTensor, height: int, width: int) -> KerasTensor:
    """Resizes bilinearly as TensorFlow 1 did, without half-pixel centres.

    Output pixel i reads input position i·(input size)/(output size); today's resizes
    read (i + ½)·(input size)/(output size) - ½ instead.

    Args:
        images: Float tensor (batch, height, width, channels); the dtype stays.
        height: New height, pixels.
        width: New width, pixels.

    Source: TensorFlow 1, `tf.image.resize_bilinear(align_corners=False)`.
    """

    def matrix(size, new_size):
        """Interpolates along one axis, (new_size, size)."""
        # TensorFlow 1 rounded positions to single precision: 1e-5 from 64 to 224.
        position = np.arange(new_size, dtype=np.float32) * np.float32(size / new_size)
        before = position.astype(int)
        after = np.minimum(before + 1, size - 1)
        share = (position - before)[:, None]
        weights = (1 - share) * np.eye(size)[before] + share * np.eye(size)[after]
        return ops.convert_to_tensor(weights, dtype=images.dtype)

    images = ops.einsum("ih,bhwc->biwc", matrix(images.shape[1], height), images)
    return ops.einsum("jw,biwc->bijc", matrix(images.shape[2], width), images)

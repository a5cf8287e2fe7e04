"""Attention that never holds its whole map."""

import keras
from keras import KerasTensor, ops

SCORES_AT_ONCE = 2**20
"""Scores of one sample in a block: 4 MB as float32, a 16th of a map of 64x64 pixels."""


def attend(query: KerasTensor, key: KerasTensor, value: KerasTensor) -> KerasTensor:
    """Mixes values by how well each query matches every key: softmax(q kᵀ) v.

    The scores are not scaled by the square root of the channels, as SAGAN has it.

    The queries are taken block by block, and only the output o is kept. The gradient
    makes each block of the map again: with p the block's probabilities and ∂ the
    gradient of the loss,

        ∂v = pᵀ ∂o                        as o = p v
        ∂p = ∂o vᵀ
        ∂s = p · (∂p - Σ p · ∂p)          the softmax, Σ over the keys, s = q kᵀ
        ∂q = ∂s k      ∂k = ∂sᵀ q

    where ∂v and ∂k are summed over the blocks, as their transposes, which spares
    turning the block. The sum Σ is ∂o · o, so it goes into the product as one more
    channel: ∂p - Σ = [∂o, -∂o · o] [v, 1]ᵀ.

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
        (q,) = blocks
        probabilities = ops.cast(_probabilities(q, keys), value.dtype)
        return carry, ops.cast(ops.matmul(probabilities, value), q.dtype)

    _, output = _scan(step, (), _split(key, query), value.shape[-1])
    return (_join(output, query.shape[1]),)


def _backward(query, key, value, output_gradient, sums):
    keys, values = _transpose(key), _transpose(value)
    values_and_one = ops.concatenate([values, ops.ones_like(values[:, :1])], axis=1)

    def step(carry, blocks):
        dk, dv = carry
        q, do, sums = blocks
        p = _probabilities(q, keys)
        ds = p * ops.matmul(ops.concatenate([do, -sums], axis=-1), values_and_one)
        dk = dk + ops.cast(ops.matmul(_transpose(q), ds), "float32")
        dv = dv + ops.cast(ops.matmul(_transpose(do), p), "float32")
        return (dk, dv), _transpose(ops.matmul(keys, _transpose(ds)))

    (dk, dv), dq = _scan(
        step,
        (ops.zeros_like(keys, "float32"), ops.zeros_like(values, "float32")),
        _split(key, query, output_gradient, sums),
        query.shape[-1],
    )
    dk, dv = (ops.cast(_transpose(x), query.dtype) for x in (dk, dv))
    return _join(dq, query.shape[1]), dk, dv


def _probabilities(query, keys):
    """Rows of the map, of the query's dtype; the softmax is float32."""
    scores = ops.matmul(ops.cast(query, "float32"), ops.cast(keys, "float32"))
    return ops.cast(ops.softmax(scores), query.dtype)


def _transpose(x):
    return ops.transpose(x, (0, 2, 1))


def _split(key, *tensors):
    """(b, queries, channels) as (blocks, b, block, channels), zeros at the end."""
    queries = tensors[0].shape[1]
    block = min(queries, max(1, SCORES_AT_ONCE // key.shape[1]))

    def split(x):
        x = ops.pad(x, ((0, 0), (0, -queries % block), (0, 0)))
        x = ops.reshape(x, (-1, -(-queries // block), block, x.shape[-1]))
        return ops.transpose(x, (1, 0, 2, 3))

    return tuple(split(x) for x in tensors)


def _join(blocks, queries):
    """Undoes `_split`."""
    count, _, block, channels = blocks.shape
    x = ops.reshape(ops.transpose(blocks, (1, 0, 2, 3)), (-1, count * block, channels))
    return x[:, :queries]


# TensorFlow's own loops, as those of keras.ops run ten steps at a time: all of the map.


def _by_sample(function, tensors, channels):
    """Calls `function` on the batch; in TensorFlow one sample after the other.

    The blocks of a whole batch do not stay in a processor's cache.
    """
    if keras.backend.backend() != "tensorflow":
        return function(*tensors)
    import tensorflow as tf

    results = tf.map_fn(
        lambda sample: [x[0] for x in function(*(x[None] for x in sample))],
        list(tensors),
        fn_output_signature=[
            tf.TensorSpec((x.shape[1], width), x.dtype)
            for x, width in zip(tensors, channels, strict=False)
        ],
        parallel_iterations=2,
    )
    return tuple(results)


def _scan(step, carry, blocks, channels):
    """`ops.scan`; the output of a step has the blocks' shape but so many channels."""
    if keras.backend.backend() != "tensorflow":
        return ops.scan(step, carry, blocks)
    import tensorflow as tf

    count, *shape, _ = blocks[0].shape
    outputs = tf.TensorArray(blocks[0].dtype, count, element_shape=(*shape, channels))

    def body(index, carry, outputs):
        carry, output = step(carry, tuple(x[index] for x in blocks))
        return index + 1, carry, outputs.write(index, output)

    _, carry, outputs = tf.while_loop(
        lambda index, *_: index < count,
        body,
        (0, carry, outputs),
        parallel_iterations=1,
    )
    return carry, outputs.stack()

import keras
import numpy as np
import pytest
from keras import ops

from fsgan.models import attention
from fsgan.models.attention import attend

BACKEND = keras.backend.backend()


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def inputs(samples, queries, keys, scale=1.0):
    """Query, key, value and the gradient of the output."""
    shapes = (queries, 4), (keys, 4), (keys, 6), (queries, 6)
    query, *others = (normal(seed, samples, *s) for seed, s in enumerate(shapes))
    return scale * query, *others


def plain_with_gradients(query, key, value, output_gradient):
    """The formula and its chain rule, in double precision."""
    query, key, value, output_gradient = (
        x.astype("float64") for x in (query, key, value, output_gradient)
    )
    scores = query @ key.swapaxes(1, 2)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    dp = output_gradient @ value.swapaxes(1, 2)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True))
    return (
        p @ value,
        ds @ key,
        ds.swapaxes(1, 2) @ query,
        p.swapaxes(1, 2) @ (output_gradient),
    )


def attend_with_gradients(query, key, value, output_gradient, compiled=False):
    """`attend` and the backend's gradients of it."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def run(*tensors):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                output = attend(*tensors)
            return output, *tape.gradient(output, tensors, output_gradient)

        run = tf.function(run, autograph=False) if compiled else run
        return run(*map(tf.constant, (query, key, value)))
    if BACKEND == "jax":
        import jax

        def run(*tensors):
            output, gradient = jax.vjp(attend, *tensors)
            return output, *gradient(output_gradient)

        return (jax.jit(run) if compiled else run)(query, key, value)
    import torch

    tensors = [torch.tensor(x, requires_grad=True) for x in (query, key, value)]
    output = attend(*tensors)
    gradients = torch.autograd.grad(output, tensors, torch.tensor(output_gradient))
    return output.detach(), *gradients


def test_attention_to_equal_scores_is_the_mean_value():
    query, key = np.zeros((1, 2, 1), "float32"), np.ones((1, 2, 1), "float32")
    value = np.array([[[1.0], [3.0]]], "float32")
    np.testing.assert_array_equal(attend(query, key, value), [[[2.0], [2.0]]])


def test_attention_weighs_values_by_the_exponential_of_the_score():
    query = np.full((1, 1, 1), np.log(3), "float32")
    key = np.array([[[1.0], [0.0]]], "float32")  # weights 3/4 and 1/4
    value = np.array([[[8.0], [4.0]]], "float32")
    np.testing.assert_allclose(attend(query, key, value), [[[7.0]]], rtol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("queries", "keys", "scores_at_once"),
    [
        (64, 64, 2**18),  # one block
        (64, 64, 1024),  # four blocks of 16 queries
        (50, 50, 1024),  # blocks of 20; the last has 10
        (7, 50, 10),  # a query at a time
        (50, 3, 60),
    ],
)
def test_attention_and_gradients_are_those_of_the_whole_map(
    queries, keys, scores_at_once, compiled, monkeypatch
):
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", scores_at_once)
    arrays = inputs(3, queries, keys)
    names = "output", "query", "key", "value"
    for name, ours, exact in zip(
        names,
        attend_with_gradients(*arrays, compiled=compiled),
        plain_with_gradients(*arrays),
        strict=True,
    ):
        np.testing.assert_allclose(
            ops.convert_to_numpy(ours), exact, rtol=1e-5, atol=1e-5, err_msg=name
        )


def test_attention_of_a_map_of_64_pixels_is_that_of_the_whole_map():
    arrays = inputs(2, 4096, 4096)
    for ours, exact in zip(
        attend_with_gradients(*arrays, compiled=True),
        plain_with_gradients(*arrays),
        strict=True,
    ):
        error = np.abs(ops.convert_to_numpy(ours) - exact).max()
        assert error < 1e-5 * max(1, np.abs(exact).max())


def test_huge_scores_pick_one_value_and_give_no_nan(monkeypatch):
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", 100)
    query, key, value, output_gradient = inputs(2, 30, 30, scale=1e4)
    output, *gradients = attend_with_gradients(query, key, value, output_gradient)
    best = (query @ key.swapaxes(1, 2)).argmax(-1)
    picked = np.take_along_axis(value, best[..., None], axis=1)
    close = np.isclose(ops.convert_to_numpy(output), picked, atol=1e-4).all(-1)
    assert close.mean() > 0.9  # some lie between two equal scores
    for gradient in gradients:
        assert np.isfinite(ops.convert_to_numpy(gradient)).all()


def in_bfloat16(query, key, value):
    """`attend` of float32 tensors under the dtype policy mixed_bfloat16."""
    output = attention.attend(*(ops.cast(x, "bfloat16") for x in (query, key, value)))
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
    return ops.cast(output, "float32")


def test_bfloat16_is_right_to_its_own_rounding(monkeypatch):
    arrays = [
        ops.convert_to_numpy(ops.cast(ops.cast(x, "bfloat16"), "float32"))
        for x in inputs(2, 40, 40, scale=4.0)
    ]
    query, key, value, _ = arrays
    exact, *exact_gradients = plain_with_gradients(*arrays)
    monkeypatch.setitem(globals(), "attend", in_bfloat16)
    output, *gradients = map(ops.convert_to_numpy, attend_with_gradients(*arrays))
    # Numbers have 8 bits: rounded they are wrong by 2**-8 at most. TensorFlow cuts the
    # results of products off instead where the processor has no instructions for them:
    # 2**-7. The scores and their softmax are float32.
    product, rounding = 2**-7, 2**-8
    sizes = plain_with_gradients(query, key, np.abs(value), arrays[3])[0]
    assert (np.abs(output - exact) <= (product + rounding) * sizes + 1e-5).all()
    # Rounded are probabilities and row sums; differences and results are products.
    bound = 2 * (product + rounding)
    for found, expected in zip(gradients, exact_gradients, strict=True):
        assert np.abs(found - expected).max() < bound * np.abs(expected).max()


def test_values_alone_may_be_bfloat16(monkeypatch):
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", 1024)
    query, key, value, output_gradient = inputs(2, 50, 50)
    output = attend(
        *map(ops.convert_to_tensor, (query, key)), ops.cast(value, "bfloat16")
    )
    assert keras.backend.standardize_dtype(output.dtype) == "float32"
    exact = plain_with_gradients(query, key, value, output_gradient)[0]
    # Probabilities, values and output are each rounded by 2**-9 at most.
    of_sizes = plain_with_gradients(query, key, np.abs(value), output_gradient)[0]
    error = np.abs(ops.convert_to_numpy(output) - exact)
    assert (error <= 3 * 2**-8 * of_sizes).all()
    assert error.max() > 1e-5  # else they were not


def test_a_model_attends_any_number_of_samples():
    query, key, value, output_gradient = inputs(5, 12, 12)
    tensors = [keras.Input(x.shape[1:]) for x in (query, key, value)]
    output = keras.layers.Lambda(lambda x: attend(*x), output_shape=(12, 6))(tensors)
    model = keras.Model(tensors, output)
    exact = plain_with_gradients(query, key, value, output_gradient)[0]
    for count in (1, 5):
        some = [x[:count] for x in (query, key, value)]
        np.testing.assert_allclose(
            model.predict_on_batch(some), exact[:count], atol=1e-5
        )


def test_no_tensor_on_the_way_to_the_gradients_is_a_map():
    arrays = inputs(2, 2048, 2048)  # a map has 2**22 scores a sample, a block 2**20
    assert 2**20 <= largest_tensor(arrays) <= 2**21


def largest_tensor(arrays):
    """Elements of the largest tensor that `attend_with_gradients` makes."""
    sizes = []
    if BACKEND == "tensorflow":
        import tensorflow as tf

        run = tf.function(lambda: attend_with_gradients(*arrays), autograph=False)
        graphs = [run.get_concrete_function().graph]
        while graphs:
            graph = graphs.pop()
            graphs += [function.graph for function in graph._functions.values()]
            for operation in graph.get_operations():
                sizes += [x.shape.num_elements() or 0 for x in operation.outputs]
    elif BACKEND == "jax":
        import jax
        from jax.extend.core import subjaxprs

        jaxprs = [jax.make_jaxpr(attend_with_gradients)(*arrays).jaxpr]
        while jaxprs:
            jaxpr = jaxprs.pop()
            jaxprs += subjaxprs(jaxpr)
            for equation in jaxpr.eqns:
                sizes += [np.prod(x.aval.shape) for x in equation.outvars]
    else:
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_leaves

        class Record(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                result = function(*args, **(kwargs or {}))
                sizes.extend(x.numel() for x in tree_leaves(result))
                return result

        with Record():
            attend_with_gradients(*arrays)
    return max(sizes)

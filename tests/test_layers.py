from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from fsgan.models import layers
from fsgan.models.layers import (
    ICNR,
    DepthToSpace,
    SampleNormalization,
    Scale,
    SelfAttention,
    SpaceToDepth,
    attend,
    normalize_sample,
)

BACKEND = keras.backend.backend()


@pytest.fixture(scope="module")
def golden():
    """Made by running v2.2's layers on `MAPS`, every second pixel."""
    with np.load(Path(__file__).parent / "golden" / "layers.npz") as arrays:
        return dict(arrays)


def normal(seed, *shape):
    """The recipe of the original's inputs and weights."""
    return np.random.RandomState(seed).standard_normal(shape).astype("float32")


MAPS = normal(11, 2, 8, 8, 32)


def test_sample_is_normalised_over_all_channels_with_epsilon_outside_the_root():
    image = np.array([[1, 3], [10, 30]], "float32").reshape(2, 1, 1, 2)
    np.testing.assert_allclose(
        ops.reshape(normalize_sample(image), (2, 2)),
        [[-1 / 1.001, 1 / 1.001], [-10 / 10.001, 10 / 10.001]],
        rtol=1e-6,
    )


def test_normalising_a_constant_sample_has_a_finite_gradient():
    import tensorflow as tf

    image = tf.zeros((1, 4, 4, 2))
    with tf.GradientTape() as tape:
        tape.watch(image)
        loss = tf.reduce_sum(normalize_sample(image) ** 2)
    assert np.isfinite(tape.gradient(loss, image)).all()


def test_half_precision_samples_do_not_overflow_the_variance():
    large = normalize_sample(ops.cast(MAPS * 1000, "float16"))
    assert keras.backend.standardize_dtype(large.dtype) == "float16"
    np.testing.assert_allclose(
        ops.cast(large, "float32"), normalize_sample(MAPS * 1000), atol=5e-3
    )


@pytest.mark.parametrize(
    ("name", "layer", "weights"),
    [
        (
            "sample_normalization",
            SampleNormalization,
            [1 + 0.1 * normal(50, 1), 0.1 * normal(51, 1)],
        ),
        ("scale", Scale, [0.5 + 0.1 * normal(90, 1)]),
        (
            "self_attention",
            SelfAttention,
            [
                normal(100, 1, 1, 32, 4) / 32**0.5,  # query
                0.1 * normal(101, 4),
                normal(102, 1, 1, 32, 4) / 32**0.5,  # key
                0.1 * normal(103, 4),
                normal(104, 1, 1, 32, 32) / 32**0.5,  # value
                0.1 * normal(105, 32),
                0.5 + 0.1 * normal(106, 1),  # scale
            ],
        ),
    ],
)
def test_layer_is_the_original_one_weights_in_its_order(golden, name, layer, weights):
    layer = layer()
    layer.build(MAPS.shape)
    layer.set_weights(weights)
    np.testing.assert_allclose(layer(MAPS)[:, ::2, ::2], golden[name], atol=1e-5)
    decay = golden.get(f"{name}_decay", 0)
    np.testing.assert_allclose(sum(layer.losses), decay, rtol=1e-5)


def test_new_self_attention_is_the_identity():
    np.testing.assert_allclose(ops.convert_to_numpy(SelfAttention()(MAPS)), MAPS)


def test_icnr_spreads_the_kernel_as_the_original_does(golden, monkeypatch):
    monkeypatch.setattr(
        keras.initializers.RandomNormal,
        "__call__",
        lambda self, shape, dtype=None: golden["icnr_base"].reshape(shape),
    )
    np.testing.assert_allclose(ICNR()((3, 3, 5, 16)), golden["icnr_kernel"])


def test_layers_saved_and_loaded_compute_the_same(tmp_path):
    image = keras.Input((8, 8, 32))
    x = SelfAttention()(SampleNormalization()(image))
    x = keras.layers.Conv2D(8, 3, kernel_initializer=ICNR(stddev=0.5))(x)
    model = keras.Model(image, Scale()(x))
    model.set_weights([weight + 0.5 for weight in model.get_weights()])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(MAPS), model(MAPS), rtol=1e-5)
    assert loaded.layers[-2].kernel_initializer.stddev == 0.5


def attention_inputs(samples, queries, keys, scale=1.0):
    """Query, key, value and the gradient of the output."""
    shapes = (queries, 4), (keys, 4), (keys, 6), (queries, 6)
    query, *others = (normal(seed, samples, *s) for seed, s in enumerate(shapes))
    return scale * query, *others


def plain_with_gradients(*arrays, sizes=False):
    """The formula and its chain rule in double precision, or the sizes of all terms."""
    query, key, value, output_gradient = (x.astype("float64") for x in arrays)
    scores = query @ key.swapaxes(1, 2)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    if sizes:
        query, key, value, output_gradient = map(
            np.abs, (query, key, value, output_gradient)
        )
    dp = output_gradient @ value.swapaxes(1, 2)
    sums = (p * dp).sum(-1, keepdims=True)
    ds = p * (dp + sums if sizes else dp - sums)
    dk, dv = ds.swapaxes(1, 2) @ query, p.swapaxes(1, 2) @ output_gradient
    return p @ value, ds @ key, dk, dv


def attend_with_gradients(
    query, key, value, output_gradient, compiled=False, attend=attend
):
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


def test_attention_weighs_values_by_the_exponential_of_the_score():
    query = np.full((1, 1, 1), np.log(3), "float32")
    key = np.array([[[1.0], [0.0]]], "float32")  # weights 3/4 and 1/4
    value = np.array([[[8.0], [4.0]]], "float32")
    np.testing.assert_allclose(attend(query, key, value), [[[7.0]]], rtol=1e-6)


@pytest.mark.parametrize(
    ("queries", "keys", "scores_at_once", "compiled"),
    [
        (64, 64, 2**18, False),  # one block
        (50, 50, 1024, False),  # blocks of 20; the last has 10
        (50, 50, 1024, True),
        (7, 50, 10, True),  # a query at a time
        (50, 3, 60, False),
        (4096, 4096, 2**20, True),  # a map of 64 pixels
    ],
)
def test_attention_and_gradients_are_those_of_the_whole_map(
    queries, keys, scores_at_once, compiled, monkeypatch
):
    monkeypatch.setattr(layers, "SCORES_AT_ONCE", scores_at_once)
    arrays = attention_inputs(1 if queries > 100 else 3, queries, keys)
    found = attend_with_gradients(*arrays, compiled=compiled)
    for ours, exact in zip(found, plain_with_gradients(*arrays), strict=True):
        tolerance = 1e-5 * max(1, np.abs(exact).max())
        np.testing.assert_allclose(
            ops.convert_to_numpy(ours), exact, rtol=1e-5, atol=tolerance
        )


def test_huge_scores_pick_one_value_and_give_no_nan(monkeypatch):
    monkeypatch.setattr(layers, "SCORES_AT_ONCE", 100)
    arrays = query, key, value, _ = attention_inputs(2, 30, 30, scale=1e4)
    output, *gradients = map(ops.convert_to_numpy, attend_with_gradients(*arrays))
    best = (query @ key.swapaxes(1, 2)).argmax(-1)
    picked = np.take_along_axis(value, best[..., None], axis=1)
    close = np.isclose(output, picked, atol=1e-4).all(-1)
    assert close.mean() > 0.9  # some lie between two equal scores
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def attend_in_bfloat16(*tensors):
    """`attend` of float32 tensors under the dtype policy mixed_bfloat16."""
    output = attend(*(ops.cast(x, "bfloat16") for x in tensors))
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
    return ops.cast(output, "float32")


def test_bfloat16_is_right_to_its_own_rounding():
    arrays = [
        ops.convert_to_numpy(ops.cast(ops.cast(x, "bfloat16"), "float32"))
        for x in attention_inputs(2, 40, 40, scale=4.0)
    ]
    found = attend_with_gradients(*arrays, attend=attend_in_bfloat16)
    # Numbers have 8 bits: rounded they are wrong by 2**-8 at most. TensorFlow cuts the
    # results of products off instead where the processor has no instructions for them:
    # 2**-7. The output is one product of rounded probabilities; its error goes into the
    # sums of the gradients, which are two products and three roundings more.
    bounds = [3 * 2**-8, *[10 * 2**-8] * 3]
    exact = plain_with_gradients(*arrays)
    sizes = plain_with_gradients(*arrays, sizes=True)
    for ours, array, size, bound in zip(found, exact, sizes, bounds, strict=True):
        error = np.abs(ops.convert_to_numpy(ours) - array)
        assert (error <= bound * size + 1e-5).all()


def test_values_alone_may_be_bfloat16(monkeypatch):
    monkeypatch.setattr(layers, "SCORES_AT_ONCE", 1024)
    arrays = query, key, value, _ = attention_inputs(2, 50, 50)
    tensors = map(ops.convert_to_tensor, (query, key))
    output = attend(*tensors, ops.cast(value, "bfloat16"))
    assert keras.backend.standardize_dtype(output.dtype) == "float32"
    error = np.abs(ops.convert_to_numpy(output) - plain_with_gradients(*arrays)[0])
    # Probabilities, values and output are each rounded by 2**-9 at most.
    assert (error <= 3 * 2**-8 * plain_with_gradients(*arrays, sizes=True)[0]).all()
    assert error.max() > 1e-5  # else they were not


def test_a_model_attends_any_number_of_samples():
    *arrays, output_gradient = attention_inputs(5, 12, 12)
    tensors = [keras.Input(x.shape[1:]) for x in arrays]
    output = keras.layers.Lambda(lambda x: attend(*x), output_shape=(12, 6))(tensors)
    model = keras.Model(tensors, output)
    exact = plain_with_gradients(*arrays, output_gradient)[0]
    for count in (1, 5):
        found = model.predict_on_batch([x[:count] for x in arrays])
        np.testing.assert_allclose(found, exact[:count], atol=1e-5)


def test_no_tensor_on_the_way_to_the_gradients_is_a_map():
    arrays = attention_inputs(2, 2048, 2048)  # a map has 2**22 scores, a block 2**20
    assert 2**20 <= largest_tensor(arrays) <= 2**21


def test_a_card_takes_the_maps_of_all_samples_at_once(monkeypatch):
    monkeypatch.setattr(layers, "has_graphics_card", lambda: True)
    monkeypatch.setattr(keras.ops, "scan", None)  # a loop would be an error
    if BACKEND == "tensorflow":
        monkeypatch.setattr("tensorflow.while_loop", None)
        monkeypatch.setattr("tensorflow.map_fn", None)
    assert largest_tensor(attention_inputs(2, 2048, 2048)) == 2 * 2**22
    arrays = attention_inputs(3, 50, 50)
    found = attend_with_gradients(*arrays)
    for ours, exact in zip(found, plain_with_gradients(*arrays), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(ours), exact, 1e-4, 1e-4)


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

        try:
            from jax.extend.core import subjaxprs
        except ImportError:  # an older JAX
            from jax.core import subjaxprs

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
    return int(max(sizes))


@pytest.mark.parametrize("k", [2, 4])
def test_blocks_of_pixels_are_unfolded_from_channels_and_folded_back(k):
    maps = np.arange(2 * 3 * 5 * k * k * 2.0).reshape(2, 3, 5, k, k, 2)
    pixels = maps.swapaxes(2, 3).reshape(2, 3 * k, 5 * k, 2)
    maps = maps.reshape(2, 3, 5, -1)
    np.testing.assert_array_equal(DepthToSpace(k)(maps), pixels)
    np.testing.assert_array_equal(SpaceToDepth(k)(pixels), maps)

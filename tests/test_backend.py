"""Runs itself as a script, once for each backend: a process has only one."""

import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from test_layers import (
    attend_with_gradients,
    attention_inputs,
    largest_tensor,
    plain_with_gradients,
)

import fsgan
from fsgan.data.dataset import Batch, Samples
from fsgan.models.checkpoint import latest_checkpoint, read_settings
from fsgan.models.networks import ModelConfig
from fsgan.models.precision import computing_in
from fsgan.training.backend import (
    compile_step,
    minimize,
    uninterrupted,
)
from fsgan.training.gan import FaceSwapGAN, Phase

pytestmark = pytest.mark.slow

BACKENDS = [b for b in ("tensorflow", "jax", "torch") if find_spec(b)]


# What a script runs.


def variable(value):
    return keras.Variable(np.float32(value))


def sgd(*variables):
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(list(variables))
    return optimizer


def numbers(values):
    return {name: ops.convert_to_numpy(v).item() for name, v in values.items()}


def square():
    """Two steps on w² from w = 3; the learning rate changes between them."""
    w, steps = variable(3), variable(0)
    optimizer = sgd(w)

    def loss():
        steps.assign_add(1)
        return ops.square(w), {"square": ops.square(w), "double": 2 * w}

    step = compile_step(
        lambda: minimize(loss, [w], optimizer), [w, steps, *optimizer.variables]
    )
    first = numbers(step([()]))
    optimizer.learning_rate.assign(0.5)
    second = numbers(step([()]))
    return {"logs": [first, second], **numbers({"w": w, "steps": steps})}


def together():
    """Three steps in one call down x·w, each with another x."""
    w = variable(2)
    optimizer = sgd(w)

    def step(batch, scale):
        x = scale * ops.mean(batch["x"])
        return minimize(lambda: (x * w, {"loss": x * w, "a": x}), [w], optimizer)

    compiled = compile_step(step, [w, *optimizer.variables])
    calls = [({"x": np.full(4, x, np.float32)}, np.float32(2)) for x in (1, 2, 3)]
    logs = {
        name: ops.convert_to_numpy(v).tolist() for name, v in compiled(calls).items()
    }
    return {"logs": logs, "order": list(logs), **numbers({"w": w})}


def nested():
    """Inside of the loss of g, d moves towards g."""
    g, d = variable(2), variable(1)
    optimizers = {"g": sgd(g), "d": sgd(d)}

    def outer_loss():
        inner = minimize(
            lambda: ((d - g) ** 2, {"z": (d - g) ** 2}), [d], optimizers["d"]
        )
        return d * g, inner | {"a": d * g}

    step = compile_step(
        lambda: {**minimize(outer_loss, [g], optimizers["g"])},
        [g, d, *optimizers["g"].variables, *optimizers["d"].variables],
    )
    return {"logs": numbers(step([()])), **numbers({"g": g, "d": d})}


def branch():
    """The loss w + weight·h·w², where nothing with h is computed if the weight is 0."""
    w, h, unused = variable(1), variable(3), variable(5)
    optimizer = sgd(w, h, unused)
    traces = []

    def step(weight, batch):
        traces.append(None)

        def loss():
            x = w * ops.mean(batch["ones"][0])
            heavy = ops.cond(
                weight > 0, lambda: weight * h * ops.square(x), lambda: ops.zeros(())
            )
            return x + heavy, {"heavy": heavy}

        return minimize(loss, [w, h, unused], optimizer)

    compiled = compile_step(step, [w, h, unused, *optimizer.variables])
    batch = {"ones": (np.ones(4, np.float32),)}
    after = []
    for weight in (np.float32(0), np.array(1, np.float32), np.float32(0.5)):
        logs = compiled([(weight, batch)])
        after.append(numbers(logs | {"w": w, "h": h, "unused": unused}))
    return {"after": after, "traces": len(traces)}


def overflow():
    """Two steps down 3·x·w in float16, with d inside of the loss; x is four ones.

    The first scale of the loss is 2**15: 3·2**15 is more than float16 holds.
    """
    d = variable(2)
    with computing_in("float16"):
        layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        layer.build((None, 4))
    optimizers = {}
    for name, owned in {"w": layer.kernel, "d": d}.items():
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
        optimizer.build([owned])
        optimizers[name] = optimizer

    def step(x):
        def loss():
            minimize(lambda: (d * d, {}), [d], optimizers["d"])
            value = 3 * ops.sum(ops.cast(layer(x), "float32"))
            return value, {"loss": value}

        return minimize(loss, [layer.kernel], optimizers["w"])

    state = [v for optimizer in optimizers.values() for v in optimizer.variables]
    compiled = compile_step(step, [layer.kernel, d, *state])
    after = []
    for _ in range(2):
        logs = compiled([(np.ones((1, 4), np.float32),)])
        scales = {name: it.dynamic_scale for name, it in optimizers.items()}
        after.append(numbers(logs) | {"d": float(np.array(d))})
        after[-1]["w"] = np.array(layer.kernel)[:, 0].tolist()
        after[-1]["scales"] = numbers(scales)
    return after


FULL = ModelConfig(64, "lite", latent=64)
SMALL = ModelConfig(
    64, "lite", "none", attention=False, mask=False, discriminators=False, latent=16
)


QUICK = fsgan.recipe("quick")


def gan_steps(model, losses=None, precision="float32"):
    """Losses of two steps from weights that are the same on all backends."""
    gan = FaceSwapGAN(model, losses, precision=precision)
    rng = np.random.default_rng(0)
    for network in gan.networks.values():
        for weight in network.trainable_variables:
            fan_in = np.prod(weight.shape[:-1])  # 1 for a vector
            noise = rng.normal(0, 0.5 / np.sqrt(fan_in), weight.shape)
            start = np.array(weight) if len(weight.shape) == 1 else 0
            weight.assign((start + noise).astype(np.float32))

    def pictures(channels):
        return rng.uniform(-1, 1, (4, 64, 64, channels)).astype(np.float32)

    logs = []
    for mix, margin in ((0.3, None), (0.4, 0.5)):
        sides = [Samples(pictures(3), pictures(3), abs(pictures(3))) for _ in "ab"]
        gan.enter_phase(Phase(hinge_margin=margin))
        batch = Batch(tuple(sides), np.float32(mix), np.float32(0.7))
        logs.append(numbers(gan.train_on_batches(batch)))
    return gan, logs


def attention():
    """How exact it and its gradients are, and the most that it holds in memory."""
    arrays = attention_inputs(1, 50, 50)
    pairs = zip(
        attend_with_gradients(*arrays), plain_with_gradients(*arrays), strict=True
    )
    errors = [np.abs(ops.convert_to_numpy(ours) - exact).max() for ours, exact in pairs]
    largest = largest_tensor(attention_inputs(2, 2048, 2048))
    return {"error": float(max(errors)), "largest": largest}


def everything():
    cases = (square, together, nested, branch, overflow, attention)
    results = {case.__name__: case() for case in cases}
    quick = gan_steps(QUICK.model, QUICK.settings.losses)[1]
    models = {"full": gan_steps(FULL)[1], "small": gan_steps(SMALL)[1], "quick": quick}
    models["half"] = gan_steps(QUICK.model, QUICK.settings.losses, "float16")[1]
    return results | models


def distributed(faces, folder):
    """The same on four devices, and what is to be seen of them."""
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    trained = train_on(faces, folder / "four", 2, batch=4)
    gan, logs = gan_steps(SMALL)
    owners = [*gan.networks.values(), *gan.optimizers.values()]
    shardings = [v.value.sharding for owner in owners for v in owner.variables]
    weight = variable(np.ones((4, 4)))
    before = weight.value
    step = compile_step(lambda batch: {"a": ops.mean(batch)}, [weight])
    step([(np.ones((8, 2), np.float32),)])
    results = {
        "logs": logs,
        "devices": sorted({len(sharding.device_set) for sharding in shardings}),
        "replicated": all(sharding.is_fully_replicated for sharding in shardings),
        "reused": before.is_deleted(),
        "trained": trained.name,
        "odd batch": error_of(lambda: step([(np.ones((6, 2), np.float32),)])),
    }
    keras.distribution.set_distribution(None)
    return results


def unlisted():
    w, forgotten = variable(1), variable(2)
    step = compile_step(lambda: {"a": w * forgotten}, [w])
    return error_of(lambda: step([()]))


def error_of(function):
    try:
        function()
    except ValueError as error:
        return str(error)
    return None


def interrupted_and_whole(faces, folder):
    """Losses of six iterations in one piece, and with an interrupt after the third."""
    seen, update = [], FaceSwapGAN.train_on_batches

    def watched(gan, *batches):
        logs = update(gan, *batches)
        seen.append(numbers(logs))
        return logs

    def interrupt(iteration, picture):
        if iteration == 3:
            raise KeyboardInterrupt

    FaceSwapGAN.train_on_batches = watched
    train_on(faces, folder / "whole", 6)
    train_on(faces, folder / "parts", 6, interrupt)
    train_on(faces, folder / "parts", 6)
    settings = read_settings(latest_checkpoint(folder / "parts"))
    return {
        "whole": seen[:6],
        "parts": seen[6:],
        "swapped": settings["decoders_swapped"],
    }


def train_on(faces, model_dir, iterations, on_preview=None, every=3, batch=2):
    return fsgan.train(
        faces / "a",
        faces / "b",
        model_dir,
        model=SMALL,
        settings=fsgan.TrainSettings(
            iterations,
            batch,
            preview_every=every,
            perceptual="off",
            precision="float32",
        ),
        on_preview=on_preview,
    )


def die_while_saving(faces, folder):
    """Trains, and is killed at the last moment before the second checkpoint is."""
    rename = os.rename

    def rename_or_die(old, new):
        if Path(new).name == "iteration_0000002":
            os.kill(os.getpid(), signal.SIGKILL)
        rename(old, new)

    os.rename = os.replace = rename_or_die
    train_on(faces, folder / "killed", 6, every=1)


def script(faces, folder):
    """All that another backend than pytest's is asked for, in one process."""
    results = everything()
    if keras.backend.backend() == "jax":
        results |= {"unlisted": unlisted(), "four devices": distributed(faces, folder)}
        results |= {"resumed": interrupted_and_whole(faces, folder)}
    print(json.dumps(results), flush=True)
    die_while_saving(faces, folder)


# What pytest runs.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of what the scripts leave."""
    return tmp_path_factory.mktemp("backends")


@pytest.fixture(scope="module")
def results(two_people, folder):
    """What each backend computed; each but pytest's own in one process."""
    found = {"tensorflow": everything()}
    for backend in BACKENDS[1:]:
        process = subprocess.run(
            [sys.executable, __file__, two_people, folder / backend],
            env=os.environ
            | {
                "KERAS_BACKEND": backend,
                "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
                # Compiling takes most of the time on JAX, and speed shows nothing here.
                "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            },
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert process.returncode == -signal.SIGKILL, process.stderr
        found[backend] = json.loads(process.stdout.splitlines()[-1])
        found[backend]["stderr"] = process.stderr
    return found


def test_more_than_one_backend_is_compared():
    assert "tensorflow" in BACKENDS
    assert len(BACKENDS) > 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_goes_down_the_gradient_by_the_current_learning_rate(results, backend):
    # w² has the gradient 2w: 3 - 0.1·6 = 2.4, 2.4 - 0.5·4.8 = 0.
    found = results[backend]["square"]
    assert found["w"] == pytest.approx(0, abs=1e-6)
    assert found["logs"] == [
        pytest.approx({"square": 9, "double": 6}),
        pytest.approx({"square": 5.76, "double": 4.8}),
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_of_one_call_go_on_from_each_other(results, backend):
    # x·w has the gradient x: 2 - 0.1·2 = 1.8, 1.8 - 0.1·4 = 1.4, 1.4 - 0.1·6 = 0.8.
    found = results[backend]["together"]
    assert found["logs"]["loss"] == pytest.approx([4, 7.2, 8.4])
    assert found["logs"]["a"] == [2, 4, 6]
    assert found["order"] == ["loss", "a"]
    assert found["w"] == pytest.approx(0.8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_the_loss_function_assigns_is_kept(results, backend):
    assert results[backend]["square"]["steps"] == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_logs_keep_their_order(results, backend):
    assert list(results[backend]["square"]["logs"][0]) == ["square", "double"]
    assert list(results[backend]["nested"]["logs"]) == ["z", "a"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_outer_loss_sees_the_inner_update_but_not_through_it(results, backend):
    # (d - g)² has the gradient -2 in d: 1.2. Then d·g has the gradient d in g, and not
    # d + g·(dd/dg) = 1.2 + 2·0.2: 2 - 0.1·1.2.
    found = results[backend]["nested"]
    assert found["logs"] == pytest.approx({"z": 1, "a": 2.4})
    assert (found["d"], found["g"]) == pytest.approx((1.2, 1.88))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_flow_through_the_branch_that_is_taken(results, backend):
    # Gradients in w: 1 + 2·weight·h·w, in h: weight·w², in what is unused: 0.
    w, h = 1.0, 3.0
    for found, weight in zip(
        results[backend]["branch"]["after"], (0, 1, 0.5), strict=True
    ):
        heavy = weight * h * w**2
        w, h = w - 0.1 * (1 + 2 * weight * h * w), h - 0.1 * weight * w**2
        expected = {"heavy": heavy, "w": w, "h": h, "unused": 5}
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_new_values_compile_nothing_anew(results, backend):
    runs = 3 if backend == "torch" else 1  # torch does not compile
    assert results[backend]["branch"]["traces"] == runs


@pytest.mark.parametrize("backend", BACKENDS)
def test_attention_is_exact_and_never_holds_its_map(results, backend):
    # Of 2048 x 2048 positions a map has 2**22 scores, a block 2**20.
    found = results[backend]["attention"]
    assert found["error"] < 1e-5
    assert 2**20 <= found["largest"] <= 2**21


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_that_overflows_skips_its_update_and_halves_its_scale(
    results, backend
):
    # d² has the gradient 2d: 2 - 0.1·4, 1.6 - 0.1·3.2. That of w is 3; once, infinity.
    first, second = results[backend]["overflow"]
    assert (first["loss"], first["w"], second["loss"]) == (12, [1] * 4, 12)
    assert first["scales"] == {"w": 2**14, "d": 2**15}
    assert second["scales"] == first["scales"]
    assert second["w"] == pytest.approx([0.7] * 4, abs=1e-3)
    assert (first["d"], second["d"]) == pytest.approx((1.6, 1.28))


@pytest.mark.parametrize("backend", BACKENDS)
def test_float16_has_the_losses_of_float32(results, backend):
    pairs = zip(results[backend]["half"], results[backend]["quick"], strict=True)
    for found, expected in pairs:
        assert found == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("model", ["full", "small", "quick"])
@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_two_steps_have_the_same_losses_as_on_tensorflow(results, backend, model):
    pairs = zip(results[backend][model], results["tensorflow"][model], strict=True)
    for found, expected in pairs:
        assert list(found) == list(expected)
        assert found == pytest.approx(expected, rel=1e-3)


def test_four_devices_have_the_same_losses_as_one(results):
    four = results["jax"]["four devices"]
    for found, expected in zip(four["logs"], results["jax"]["small"], strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    assert four["devices"] == [4]
    assert four["replicated"]
    assert four["trained"] == "iteration_0000002"


def test_jax_reuses_the_memory_of_the_old_values(results):
    assert results["jax"]["four devices"]["reused"]


def test_a_batch_that_does_not_divide_among_the_devices_is_refused(results):
    assert results["jax"]["four devices"]["odd batch"] == (
        "the batch size must be a multiple of the 4 devices that share a batch, got 6"
    )


def test_jax_refuses_a_step_with_a_variable_it_was_not_told_of(results):
    assert "which is not among its variables" in results["jax"]["unlisted"]


def test_an_interrupted_training_goes_on_bit_for_bit(results):
    # On JAX the same step gives the same bits; TensorFlow's sums vary in the last ones.
    resumed = results["jax"]["resumed"]
    assert len(resumed["whole"]) == 6 and resumed["whole"] == resumed["parts"]
    assert resumed["swapped"]
    assert "stopped at iteration 3, saved in" in results["jax"]["stderr"]
    assert "call train again" in results["jax"]["stderr"]


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_a_training_killed_while_it_saves_goes_on(results, backend, folder, two_people):
    model_dir = folder / backend / "killed"
    assert (model_dir / "checkpoints" / ".unfinished").exists()
    assert latest_checkpoint(model_dir).name == "iteration_0000001"
    started = []

    def stop(gan, *batches):
        started.append(gan.iteration)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FaceSwapGAN, "train_on_batches", stop)
        assert train_on(two_people, model_dir, 6, every=1).name == "iteration_0000001"
    assert started == [1]


def test_a_backend_without_gradients_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    with pytest.raises(ValueError, match="tensorflow, jax or torch, not on 'numpy'"):
        compile_step(dict, [])


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_several_devices_are_refused_on_another_backend_than_jax(monkeypatch, backend):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setattr(keras.distribution, "distribution", lambda: object())
    with pytest.raises(ValueError, match="several devices needs Keras on JAX"):
        compile_step(dict, [])


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_what_other_backends_have_for_several_devices_is_refused(monkeypatch, backend):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    monkeypatch.setenv("WORLD_SIZE", "2")
    import tensorflow as tf

    with (
        tf.distribute.MirroredStrategy(["cpu:0"]).scope(),
        pytest.raises(ValueError, match="or train on one device"),
    ):
        compile_step(dict, [])


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(keras.distribution, "distribution", lambda: object())
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(ValueError, match="training takes one process"):
        compile_step(dict, [])


@pytest.fixture
def handled():
    """Sets a handler of interrupts, whatever the process was started with."""
    found = signal.getsignal(signal.SIGINT)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, found)


def test_an_interrupt_waits_for_the_end_of_the_block(handled):
    handled(signal.default_int_handler)
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        done.append("the rest of the block")
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_process_that_ignores_interrupts_goes_on_ignoring_them(handled):
    handled(signal.SIG_IGN)
    with uninterrupted():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_in_another_thread_nothing_is_put_off(handled):
    def work():
        with uninterrupted():
            done.append(signal.getsignal(signal.SIGINT))

    handled(signal.default_int_handler)
    done = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.default_int_handler]


if __name__ == "__main__":
    # Gradients that are missing, buffers that JAX was given and could not use.
    warnings.simplefilter("error", UserWarning)
    script(*map(Path, sys.argv[1:]))

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from fsgan.data.dataset import Batch, Samples
from fsgan.models.networks import ModelConfig
from fsgan.models.vggface import preprocess
from fsgan.training import losses
from fsgan.training.gan import FaceSwapGAN, Phase
from fsgan.training.recipes import RECIPES, recipe

pytestmark = pytest.mark.slow

CONFIG = ModelConfig(64, "lite", "instancenorm", attention=False, latent=64)


def make_batch(seed=0, people=2):
    rng = np.random.default_rng(seed)

    def pictures(channels):
        return rng.uniform(-1, 1, (2, 64, 64, channels)).astype(np.float32)

    sides = [Samples(pictures(3), pictures(3), abs(pictures(3))) for _ in range(people)]
    return Batch(tuple(sides), np.float32(0.3), np.float32(0.7))


def update(gan, *batches):
    """The losses of one update, as numbers."""
    logs = gan.train_on_batches(*batches)
    return {name: ops.convert_to_numpy(values).item() for name, values in logs.items()}


def build(name):
    model, settings = recipe(name, capacity="lite")
    return FaceSwapGAN(model, settings.losses)


def all_values(gan):
    return {
        (name, i): array
        for name, network in gan.networks.items()
        for i, array in enumerate(network.get_weights())
    }


def unchanged(before, after):
    return {key for key in before if np.array_equal(before[key], after[key])}


def reconstruction(gan, batch, side):
    sample = batch.sides["ab".index(side)]
    return np.mean(np.abs(gan.generate(sample.warped, side)[1] - sample.target))


@pytest.fixture
def eagerly():
    """Nothing is compiled: a step or two are done sooner."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.usefixtures("eagerly")
def test_a_step_reports_the_losses_before_it_and_updates_every_weight():
    gan, batch = FaceSwapGAN(CONFIG), make_batch()
    warped, real, masks = batch.sides[1]
    latent = gan.networks["encoder"](warped)
    alpha, rgb = gan.networks["decoder_b"](latent)
    fake = alpha * rgb + (1 - alpha) * warped

    def score(images):
        pair = keras.ops.concatenate([images, warped], axis=-1)
        return np.array(gan.networks["discriminator_b"](pair))

    mix = 0.3
    expected = {
        "discriminator_b": np.mean((score(mix * real + (1 - mix) * fake) - mix) ** 2)
        + np.mean((score(mix * real + (1 - mix) * rgb) - mix) ** 2),
        "reconstruction_b": np.mean(np.abs(rgb - real)),
        "eyes_b": 30 * losses.eyes_loss(real, rgb, masks[..., :1]),
        "edge_b": 0.1 * losses.edge_loss(real, rgb),
        "mask_b": 0.1 * np.mean(np.maximum(0.4 - np.array(alpha), 0))
        + 0.1 * losses.mask_total_variation_loss(alpha),
    }
    before = all_values(gan)
    gan.enter_phase(Phase(hinge_margin=0.4))
    logs = update(gan, batch)
    found = {name: logs[name] for name in expected}
    assert found == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-4
    )
    assert unchanged(before, all_values(gan)) == set()
    assert gan.iteration == 1


@pytest.mark.parametrize(
    ("phase", "weights", "rates"),
    [
        (Phase(), (0, 0.01, 0, 0), (1e-4, 2e-4)),
        (Phase(hinge_margin=0.4), (0, 0, 0.1, 0.4), (1e-4, 2e-4)),
        (Phase(0, True, None, 0.3), (1, 0.01, 0, 0), (0.3e-4, 0.6e-4)),
    ],
)
def test_a_phase_sets_weights_and_learning_rates(shared, phase, weights, rates):
    shared.enter_phase(phase)
    found = {name: float(value) for name, value in shared.scheduled.items()}
    names = ("perceptual", "sparsity", "hinge", "margin")
    assert found == pytest.approx(dict(zip(names, weights, strict=True)))
    optimizers = shared.optimizers.values()
    assert [float(o.learning_rate) for o in optimizers] == pytest.approx(rates)


def features():
    """A stand-in for VGGFace: four maps of the picture, deepest first."""
    picture = keras.Input((224, 224, 3))
    maps = [keras.layers.AveragePooling2D(size)(picture) for size in (32, 8, 4, 2)]
    return keras.Model(picture, maps)


@pytest.fixture(scope="module")
def shared():
    """A model that is compiled; its tests leave its weights as they like."""
    return FaceSwapGAN(CONFIG, vggface=features())


def test_a_change_of_phase_keeps_moments_and_recompiles_nothing(shared):
    traces, paint = [], shared._paint_sides
    shared._paint_sides = lambda *arguments: traces.append(1) or paint(*arguments)
    shared.enter_phase(Phase())
    logs = update(shared, make_batch())
    assert logs["perceptual_a"] == logs["perceptual_b"] == 0
    optimizer = shared.optimizers["generator"]
    moments = [v.numpy() for v in optimizer.variables[2:6]]
    shared.enter_phase(Phase(0, True, 0.5, 0.3))
    for kept, now in zip(moments, optimizer.variables[2:6], strict=True):
        np.testing.assert_array_equal(kept, now.numpy())
    assert update(shared, make_batch())["perceptual_a"] > 0
    assert len(traces) == 1


def test_the_perceptual_loss_sees_painted_and_shown_faces_mixed(shared):
    batch = make_batch()
    sample, mix = batch.sides[1], batch.mix_perceptual
    alpha, rgb = shared.generate(sample.warped, "b")
    fake = alpha * rgb + (1 - alpha) * sample.warped
    network = features()
    maps = [
        [np.array(m) for m in network(preprocess(picture))]
        for picture in (sample.target, mix * rgb + (1 - mix) * fake)
    ]
    expected = float(losses.perceptual_loss(*maps))
    shared.enter_phase(Phase(perceptual=True))
    assert update(shared, batch)["perceptual_b"] == pytest.approx(expected, rel=1e-3)


def test_swapping_the_decoders_takes_their_moments_along(shared):
    update(shared, make_batch())
    optimizer = shared.optimizers["generator"]
    trained = shared.variables("generator")
    # What the swap relies on: two moments for each variable, in the order of these.
    for i, variable in enumerate(trained):
        moments = optimizer.variables[2 + 2 * i : 4 + 2 * i]
        kinds = [moment.name.removeprefix(variable.name) for moment in moments]
        assert all(moment.shape == variable.shape for moment in moments)
        assert ["momentum" in kinds[0], "velocity" in kinds[1]] == [True, True]
    assert len(optimizer.variables) == 2 + 2 * len(trained)

    def states():
        """Weights and moments of encoder, decoder A and decoder B."""
        encoder, a, b = (
            len(shared.networks[name].trainable_variables)
            for name in ("encoder", "decoder_a", "decoder_b")
        )
        assert a == b
        weights = [np.array(v) for v in trained]
        moments = [np.array(v) for v in optimizer.variables[2:]]
        parts = [slice(encoder), slice(encoder, encoder + a), slice(encoder + a, None)]
        return [
            weights[part] + moments[2 * (part.start or 0) : part.stop and 2 * part.stop]
            for part in parts
        ]

    encoder, a, b = states()
    assert any(np.abs(one - other).max() > 0 for one, other in zip(a, b, strict=True))
    shared.swap_decoders()
    assert shared.decoders_swapped
    for found, expected in zip(states(), (encoder, b, a), strict=True):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("eagerly")
def test_the_cyclic_loss_goes_to_the_other_face_and_back():
    gan, batch = FaceSwapGAN(CONFIG, losses.LossWeights(cyclic=10)), make_batch()
    real = batch.sides[0].target
    alpha, swapped = gan.generate(real, "b")
    back_alpha, back = gan.generate(swapped, "a")
    expected = np.mean(np.abs(back - real)) + 0.1 * np.mean(np.abs(back_alpha - alpha))
    logs = update(gan, batch)
    assert logs["cyclic_a"] == pytest.approx(10 * expected, rel=1e-3)


@pytest.mark.usefixtures("eagerly")
def test_separate_updates_take_their_turns():
    separate = FaceSwapGAN(CONFIG, updates="separate")
    fused = FaceSwapGAN(CONFIG)
    assert separate.batches_per_step == 2
    assert list(separate.optimizers) == [
        "generator_a",
        "generator_b",
        "discriminator_a",
        "discriminator_b",
    ]
    first, second = make_batch(0), make_batch(1)
    before = all_values(separate)
    errors = {side: reconstruction(separate, second, side) for side in "ab"}
    logs = update(separate, first, second)
    assert unchanged(before, all_values(separate)) == set()
    # The discriminators come first, on the first batch; then A, on the second.
    expected = update(fused, first)
    for name in ("discriminator_a", "discriminator_b"):
        assert logs[name] == pytest.approx(expected[name], rel=1e-4)
    assert logs["reconstruction_a"] == pytest.approx(errors["a"], rel=1e-4)
    # B's encoder has already moved with A's loss.
    assert logs["reconstruction_b"] != pytest.approx(errors["b"], rel=1e-4)
    moments = [
        np.array(separate.optimizers[f"generator_{s}"].variables[-1]) for s in "ab"
    ]
    separate.swap_decoders()
    for side, moment in zip("ba", moments, strict=True):
        found = separate.optimizers[f"generator_{side}"].variables[-1]
        np.testing.assert_array_equal(found, moment)


@pytest.mark.usefixtures("eagerly")
def test_the_relativistic_loss_trains():
    gan = FaceSwapGAN(CONFIG, adversarial_loss="relativistic_avg_lsgan")
    before = all_values(gan)
    logs = update(gan, make_batch())
    assert np.isfinite(list(logs.values())).all()
    same = unchanged(before, all_values(gan))
    # Only differences of scores count: the last norm's offset may have no gradient.
    assert same <= {("discriminator_a", 6), ("discriminator_b", 6)}
    assert before["discriminator_a", 6].shape == (1,)


@pytest.mark.usefixtures("eagerly")
def test_bfloat16_computes_in_it_and_keeps_weights_and_losses_in_float32():
    model, settings = recipe("single", capacity="lite")
    gan = FaceSwapGAN(model, settings.losses, precision="bfloat16")
    assert keras.config.dtype_policy().name == "float32"
    layer = gan.networks["encoder"].layers[1]
    assert (layer.compute_dtype, layer.variable_dtype) == ("bfloat16", "float32")
    batch = make_batch(people=1)
    logs = update(gan, batch)
    exact = update(FaceSwapGAN(model, settings.losses), batch)
    assert logs == pytest.approx(exact, rel=0.03)
    alpha, rgb = gan.generate(batch.sides[0].warped, "a")
    assert alpha.dtype == rgb.dtype == np.float32


@pytest.mark.usefixtures("eagerly")
def test_the_autoencoder_has_no_mask_and_no_discriminators():
    gan, batch = build("autoencoder"), make_batch()
    assert list(gan.networks) == ["encoder", "decoder_a", "decoder_b"]
    assert list(gan.optimizers) == ["generator"]
    error = reconstruction(gan, batch, "a")
    alpha, _ = gan.generate(batch.sides[0].warped, "a")
    np.testing.assert_array_equal(alpha, 1)
    logs = update(gan, batch)
    assert logs["reconstruction_a"] == pytest.approx(error, rel=1e-4)
    assert set(logs) == {"reconstruction_a", "reconstruction_b"}


@pytest.mark.usefixtures("eagerly")
def test_the_single_autoencoder_knows_one_person_by_sixteen_numbers():
    gan = build("single")
    assert list(gan.networks) == ["encoder", "decoder_a"]
    layers = gan.networks["encoder"].layers
    widths = [layer.units for layer in layers if isinstance(layer, keras.layers.Dense)]
    assert widths[0] == 16
    logs = update(gan, make_batch(people=1))
    assert logs["reconstruction_a"] > 0
    assert not [key for key in logs if key.endswith("_b")]


@pytest.mark.usefixtures("eagerly")
def test_one_linear_map_reads_the_expression_of_both():
    model, _ = recipe("quick", capacity="lite")
    only = losses.LossWeights(*[0.0] * 9, expression=1.0)
    gan, batch = FaceSwapGAN(model, only, learning_rate=1e-3), make_batch()
    before = all_values(gan)
    logs = [update(gan, batch) for _ in range(15)]
    assert set(logs[0]) == {"expression_a", "expression_b"}
    for name in logs[0]:
        assert logs[-1][name] < 0.6 * logs[0][name]
    still = {name for name, _ in unchanged(before, all_values(gan))}
    assert still == {"decoder_a", "decoder_b"}


def test_the_recipes_differ_by_their_ideas():
    assert list(RECIPES) == ["quick", "v2.2", "autoencoder", "single"]
    quick, gan, autoencoder, single = (model for model, _ in RECIPES.values())
    assert (quick.network, quick.mask, quick.latent_width) == ("quick", True, 128)
    assert (quick.capacity, gan.capacity) == ("lite", "standard")
    assert (single.people, autoencoder.people) == (1, 2)
    assert (single.latent_width, autoencoder.latent_width) == (16, 1024)
    assert (autoencoder.mask, autoencoder.discriminators) == (False, False)
    assert (gan.mask, gan.discriminators, gan.attention) == (True, True, True)
    assert recipe("autoencoder", 128, "lite").model.latent_width == 2048
    with pytest.raises(ValueError, match="or 'single', got 'vae'"):
        recipe("vae")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"adversarial_loss": "wgan"}, "'mixup_lsgan' or 'relativistic_avg_lsgan'"),
        ({"updates": "both"}, "updates must be 'fused' or 'separate', got 'both'"),
        ({"precision": "half"}, "precision must be 'float32', 'bfloat16' or 'float16'"),
        (
            {"config": recipe("single").model, "weights": losses.LossWeights(cyclic=1)},
            "the cyclic loss needs two persons",
        ),
        (
            {"weights": losses.LossWeights(expression=1)},
            'the expression loss needs network="quick"',
        ),
    ],
)
def test_unknown_options_are_named(option, message):
    with pytest.raises(ValueError, match=message):
        FaceSwapGAN(**{"config": CONFIG} | option)


@pytest.mark.usefixtures("eagerly")
def test_the_decoders_start_alike_and_part_with_the_first_step():
    gan, faces = FaceSwapGAN(CONFIG), make_batch().sides[0].warped
    (alpha_a, rgb_a), (alpha_b, rgb_b) = (gan.generate(faces, p) for p in "ab")
    assert (alpha_a.shape, rgb_a.shape) == ((2, 64, 64, 1), (2, 64, 64, 3))
    np.testing.assert_array_equal(alpha_a, alpha_b)
    np.testing.assert_array_equal(rgb_a, rgb_b)
    update(gan, make_batch())
    for a, b in zip(gan.generate(faces, "a"), gan.generate(faces, "b"), strict=True):
        assert np.abs(a - b).max() > 1e-3


def test_the_seed_fixes_the_weights_and_nothing_else():
    random.seed(5)
    expected = random.random()
    random.seed(5)
    first, same, other = (
        all_values(FaceSwapGAN(CONFIG, seed=seed)) for seed in (1, 1, 2)
    )
    assert random.random() == expected
    assert unchanged(first, same) == set(first)
    assert ("encoder", 0) not in unchanged(first, other)

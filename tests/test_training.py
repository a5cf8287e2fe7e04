import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from skimage.data import astronaut

import fsgan
from fsgan import LossWeights, ModelConfig, TrainSettings
from fsgan.media.images import read_image, write_image
from fsgan.models.checkpoint import latest_checkpoint, load_checkpoint, read_settings
from fsgan.training.gan import FaceSwapGAN
from fsgan.training.monitor import read_losses, read_validation
from fsgan.training.presets import preset
from fsgan.training.train import PHASES, phase_at

MODEL = ModelConfig(64, "lite", attention=False)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Folders of three crops of A and of B."""
    folder = tmp_path_factory.mktemp("faces")
    face = astronaut()[:256, 96:352]
    for number in range(3):
        write_image(folder / "a" / f"{number}.png", np.roll(face, 4 * number, axis=1))
        write_image(folder / "b" / f"{number}.png", np.roll(255 - face, number, axis=0))
    return folder


def run(faces, model_dir, iterations, on_preview=None, **changes):
    settings = {"batch_size": 2, "preview_every": 5, "keep": 1, "perceptual": "off"}
    settings |= {"precision": "float32"} | changes
    return fsgan.train(
        faces / "a",
        faces / "b",
        model_dir,
        model=MODEL,
        settings=TrainSettings(iterations, **settings),
        on_preview=on_preview,
    )


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    """A model trained for 12 iterations, and its last checkpoint."""
    model_dir = tmp_path_factory.mktemp("trained")
    return model_dir, run(faces, model_dir, 12)


@pytest.mark.parametrize(
    ("iteration", "perceptual", "margin", "factor", "swapped"),
    [
        (0, False, None, 1, False),
        (199, False, None, 1, False),
        (200, True, None, 1, False),
        (300, True, 0.5, 1, False),
        (400, True, 0.2, 1, False),
        (500, True, 0.4, 1, False),
        (667, True, None, 0.3, False),
        (800, True, 0.1, 0.3, True),
        (900, True, None, 0.1, True),
        (5000, True, None, 0.1, True),
    ],
)
def test_the_phase_follows_from_the_iteration(
    iteration, perceptual, margin, factor, swapped
):
    phase = phase_at(iteration, 1000)
    assert (phase.perceptual, phase.hinge_margin) == (perceptual, margin)
    assert (phase.learning_rate_factor, phase.decoders_swapped) == (factor, swapped)


def test_phases_start_in_order():
    starts = [phase.start for phase in PHASES]
    assert starts == sorted(starts) and starts[0] == 0


def test_training_leaves_checkpoint_previews_and_losses(trained):
    model_dir, checkpoint = trained
    assert checkpoint == latest_checkpoint(model_dir)
    assert checkpoint.name == "iteration_0000012"
    names = sorted(path.name for path in (model_dir / "previews").iterdir())
    assert names == ["0000000.png", "0000005.png", "0000010.png", "0000012.png"]
    assert read_losses(model_dir)["iteration"].tolist() == [10]
    settings = read_settings(checkpoint)
    assert settings["training"]["batch_size"] == 2
    assert settings["model"].coverage == 0.8


def test_the_preview_shows_the_faces_in_its_first_row(trained, faces):
    picture = read_image(trained[0] / "previews" / "0000000.png")
    assert picture.shape == (16 + 5 * 64, 64 + 12 * 64, 3)
    face = read_image(faces / "a" / "0.png")
    middle = face[26:230, 26:230].mean(axis=(0, 1))
    drawn = picture[16:80, 64:128].mean(axis=(0, 1))
    np.testing.assert_allclose(drawn, middle, atol=2)


RESUMED_AND_WHOLE = """
import json, sys
from pathlib import Path
import fsgan
from fsgan.models.checkpoint import latest_checkpoint, read_settings
from fsgan.training.gan import FaceSwapGAN

seen, update = [], FaceSwapGAN.train_on_batch

def watched(self, *arguments):
    seen.append(update(self, *arguments))
    return seen[-1]

def run(model_dir, on_preview=None):
    settings = fsgan.TrainSettings(
        6, 2, preview_every=3, perceptual="off", precision="float32"
    )
    model = fsgan.ModelConfig(64, "lite", attention=False)
    fsgan.train(faces / "a", faces / "b", model_dir, model=model, settings=settings,
                on_preview=on_preview)

def interrupt(iteration, picture):
    if iteration == 3:
        raise KeyboardInterrupt

FaceSwapGAN.train_on_batch = watched
faces, folder = map(Path, sys.argv[1:])
run(folder / "whole")
run(folder / "parts", interrupt)
run(folder / "parts")
settings = read_settings(latest_checkpoint(folder / "parts"))
print(json.dumps([seen[:6], seen[6:], settings["decoders_swapped"]]))
"""


def test_an_interrupted_training_goes_on_as_if_it_had_not_stopped(faces, tmp_path):
    # On JAX the same step gives the same bits; TensorFlow's sums vary in the last ones.
    done = subprocess.run(
        [sys.executable, "-c", RESUMED_AND_WHOLE, faces, tmp_path],
        env=os.environ | {"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "stopped at iteration 3, saved in" in done.stderr
    assert "call train again" in done.stderr
    whole, parts, swapped = json.loads(done.stdout)
    assert len(whole) == 6 and whole == parts
    assert swapped


def test_a_resumed_training_without_settings_keeps_those_it_had(faces, trained):
    checkpoint = fsgan.train(faces / "a", faces / "b", trained[0])
    assert checkpoint == trained[1]
    settings = read_settings(checkpoint)
    assert settings["model"].capacity == "lite"
    assert settings["training"]["batch_size"] == 2


def test_other_settings_are_named_and_refused(faces, trained):
    differing = re.escape("batch_size was 2, is 3; seed was 0, is 1")
    with pytest.raises(ValueError, match=rf"{differing}.*another model folder"):
        run(faces, trained[0], 12, batch_size=3, seed=1)
    with pytest.raises(ValueError, match=r"\(losses.eyes was 30.0, is 1\)"):
        run(faces, trained[0], 12, losses=LossWeights(eyes=1))
    with pytest.raises(ValueError, match="capacity was 'lite', is 'standard'"):
        fsgan.train(
            faces / "a", faces / "b", trained[0], model=ModelConfig(64, "standard")
        )


def test_a_fresh_start_in_a_used_folder_is_refused(faces, trained):
    with pytest.raises(ValueError, match="already holds a training"):
        fsgan.train(faces / "a", faces / "b", trained[0], resume=False)


@pytest.mark.parametrize("what", ["encoder", "all"])
def test_another_pairs_model_is_a_start(faces, trained, tmp_path, what):
    networks = {}

    def look(iteration, picture):
        raise KeyboardInterrupt  # before the first update

    checkpoint = fsgan.train(
        faces / "b",
        faces / "a",
        tmp_path / "model",
        model=MODEL,
        settings=TrainSettings(5, perceptual="off", precision="float32", seed=4),
        start_from=trained[0],
        transfer=what,
        on_preview=look,
    )
    for name, folder in (("old", trained[1]), ("new", checkpoint)):
        gan = FaceSwapGAN(MODEL)
        load_checkpoint(folder, gan.networks, gan.optimizers)
        networks[name] = gan.networks
    for name in networks["old"]:
        old, new = (networks[age][name].get_weights() for age in ("old", "new"))
        same = all(map(np.array_equal, old, new))
        assert same == (what == "all" or name == "encoder"), name


def test_a_start_that_does_not_fit_is_refused(faces, trained, tmp_path):
    def start(model, **options):
        fsgan.train(faces / "a", faces / "b", tmp_path / "m", model=model, **options)

    with pytest.raises(ValueError, match=r"another architecture.*norm 'instancenorm'"):
        start(ModelConfig(64, "lite", "none", False), start_from=trained[0])
    with pytest.raises(ValueError, match="'encoder' or 'all', got 'decoder'"):
        start(MODEL, start_from=trained[0], transfer="decoder")
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        start(MODEL, start_from=tmp_path)
    assert not (tmp_path / "m").exists()


def test_a_required_perceptual_loss_without_weights_is_refused(faces, tmp_path):
    with pytest.raises(FileNotFoundError, match="put it into"):
        run(faces, tmp_path / "model", 5, perceptual="required")
    assert not (tmp_path / "model").exists()


def test_one_person_trains_alone(faces, tmp_path):
    model, losses = preset("single", capacity="lite")
    settings = TrainSettings(3, 2, preview_every=5, losses=losses, perceptual="off")
    fsgan.train(faces / "a", None, tmp_path, model=model, settings=settings)
    assert read_image(tmp_path / "previews" / "0000003.png").shape[0] == 16 + 2 * 64
    with pytest.raises(ValueError, match=r"knows 1 person.*faces_b must be None"):
        fsgan.train(faces / "a", faces / "b", tmp_path / "two", model=model)


def test_losses_after_the_checkpoint_are_dropped_on_resume(faces, trained):
    lines = (trained[0] / "losses.csv").read_text().splitlines()
    late = lines[-1].replace("10,", "9999,", 1)
    (trained[0] / "losses.csv").write_text("\n".join([*lines, late]) + "\n")
    run(faces, trained[0], 12)
    assert read_losses(trained[0])["iteration"].tolist() == [10]


def test_a_loss_that_is_no_number_stops_training_and_keeps_the_checkpoint(
    faces, tmp_path
):
    good = run(faces, tmp_path, 2)
    with pytest.raises(FloatingPointError, match="smaller learning_rate"):
        run(faces, tmp_path, 40, learning_rate=1e30)
    assert latest_checkpoint(tmp_path) == good


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, "iterations must be a whole number >= 1, got 0"),
        ({"batch_size": -1}, "batch_size must be a whole number >= 1, got -1"),
        ({"batch_size": 2.5}, "batch_size must be a whole number >= 1, got 2.5"),
        ({"learning_rate": 0}, "learning_rate must be above 0, got 0"),
        ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
        ({"validation": 1}, r"validation must be in \[0, 1\), got 1"),
        ({"perceptual": True}, "perceptual must be one of auto, required, off"),
        ({"updates": "both"}, "updates must be one of fused, separate, got 'both'"),
        ({"precision": "half"}, "precision must be one of auto, float32, bfloat16"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainSettings(**settings)


def test_an_empty_folder_of_faces_is_refused(faces, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="none"):
        fsgan.train(tmp_path / "none", faces / "b", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_masks_that_do_not_match_are_refused_before_anything_is_written(
    faces, tmp_path
):
    write_image(tmp_path / "masks" / "other.png", np.zeros((256, 256, 3), np.uint8))
    with pytest.raises(ValueError, match="make_eye_masks"):
        fsgan.train(
            faces / "a",
            faces / "b",
            tmp_path / "model",
            masks_a=tmp_path / "masks",
        )
    assert not (tmp_path / "model").exists()


TRAINING_TO_KILL = """
import sys
import keras
import tensorflow as tf
import fsgan
from fsgan.training.presets import preset

tf.config.run_functions_eagerly(True)  # starts ten seconds sooner
model, losses = preset("single", capacity="lite")
settings = fsgan.TrainSettings(
    10_000, 1, preview_every=1, losses=losses, perceptual="off", precision="float32"
)
fsgan.train(sys.argv[1], None, sys.argv[2], model=model, settings=settings,
            on_preview=lambda iteration, picture: print(iteration, flush=True))
"""


def test_a_killed_training_leaves_a_checkpoint_that_loads(faces, tmp_path):
    rng, iteration = np.random.default_rng(0), -1
    model, _ = preset("single", capacity="lite")
    gan = FaceSwapGAN(model)
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", TRAINING_TO_KILL, faces / "a", tmp_path],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        process.stdout.readline()
        time.sleep(rng.uniform(0, 1.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if checkpoint := latest_checkpoint(tmp_path):
            settings = load_checkpoint(checkpoint, gan.networks, gan.optimizers)
            assert settings["iteration"] >= iteration
            iteration = settings["iteration"]
    assert iteration >= 19  # one a start at least, but for the first
    assert np.isfinite(list(read_losses(tmp_path).values())).all()


def test_two_hundred_iterations_on_the_sample_faces_learn_them(tmp_path):
    for name, clip in zip(
        "ab", fsgan.make_sample_clips(tmp_path, seconds=8.0), strict=True
    ):
        fsgan.extract_faces(clip, tmp_path / name, every=4)
    fsgan.train(
        tmp_path / "a",
        tmp_path / "b",
        tmp_path / "model",
        model=ModelConfig(64, "lite", "none", attention=False),
        settings=TrainSettings(
            200, 4, perceptual="off", swap_decoders=False, preview_every=200
        ),
    )
    errors = read_validation(tmp_path / "model")
    assert errors["iteration"].tolist() == [0, 200]
    for person in "ab":
        before, after = errors[f"reconstruction_{person}"]
        assert after <= 0.6 * before

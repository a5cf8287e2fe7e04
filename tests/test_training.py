import numpy as np
import pytest
from skimage.data import astronaut

import fsgan
from fsgan import ModelConfig, TrainSettings
from fsgan.checkpoint import latest_checkpoint, read_settings
from fsgan.images import read_image, write_image
from fsgan.training import PHASES, phase_at, read_losses

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
    settings = {"batch_size": 2, "preview_every": 5, "keep": 1} | changes
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
    ("iteration", "margin", "factor"),
    [
        (0, None, 1),
        (299, None, 1),
        (300, 0.5, 1),
        (400, 0.2, 1),
        (500, 0.4, 1),
        (667, None, 0.3),
        (800, 0.1, 0.3),
        (900, None, 0.1),
        (5000, None, 0.1),
    ],
)
def test_the_phase_follows_from_the_iteration(iteration, margin, factor):
    phase = phase_at(iteration, 1000)
    assert (phase.hinge_margin, phase.learning_rate_factor) == (margin, factor)


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
    assert settings["coverage"] == settings["training"]["augmentation"]["coverage"]


def test_the_preview_shows_the_faces_in_its_first_row(trained, faces):
    picture = read_image(trained[0] / "previews" / "0000000.png")
    assert picture.shape == (5 * 64, 12 * 64, 3)
    face = read_image(faces / "a" / "0.png")
    middle = face[26:230, 26:230].mean(axis=(0, 1))
    np.testing.assert_allclose(picture[:64, :64].mean(axis=(0, 1)), middle, atol=2)


def interrupt_at(stop):
    def on_preview(iteration, picture):
        if iteration == stop:
            raise KeyboardInterrupt

    return on_preview


def test_an_interrupted_training_goes_on_as_if_it_had_not_stopped(
    faces, tmp_path, caplog
):
    run(faces, tmp_path / "whole", 8, preview_every=4)
    parts = tmp_path / "parts"
    checkpoint = run(faces, parts, 8, preview_every=4, on_preview=interrupt_at(4))
    assert checkpoint.name == "iteration_0000004"
    assert "stopped at iteration 4" in caplog.text
    assert "call train again" in caplog.text
    with caplog.at_level("INFO"):
        run(faces, parts, 8, preview_every=4)
    assert "going on at iteration 4" in caplog.text
    before, one, two = (
        read_image(tmp_path / path).astype(float)
        for path in (
            "whole/previews/0000004.png",
            "whole/previews/0000008.png",
            "parts/previews/0000008.png",
        )
    )
    assert np.abs(one - two).mean() < 0.3 * np.abs(one - before).mean()


def test_a_resumed_training_without_settings_keeps_the_architecture(faces, trained):
    checkpoint = fsgan.train(
        faces / "a", faces / "b", trained[0], settings=TrainSettings(12)
    )
    assert checkpoint == trained[1]
    assert read_settings(checkpoint)["model"]["capacity"] == "lite"


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


def test_another_architecture_in_the_folder_is_refused(faces, trained):
    with pytest.raises(ValueError, match="another model folder"):
        fsgan.train(
            faces / "a", faces / "b", trained[0], model=ModelConfig(64, "standard")
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, "iterations must be a whole number >= 1, got 0"),
        ({"batch_size": -1}, "batch_size must be a whole number >= 1, got -1"),
        ({"batch_size": 2.5}, "batch_size must be a whole number >= 1, got 2.5"),
        ({"learning_rate": 0}, "learning_rate must be above 0, got 0"),
        ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
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

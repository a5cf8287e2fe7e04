import json
import math
import re
import shutil
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

import fsgan
from fsgan import LossWeights, ModelConfig, TrainSettings
from fsgan.media.images import read_image, write_image
from fsgan.models.checkpoint import latest_checkpoint, load_checkpoint, read_settings
from fsgan.training.gan import FaceSwapGAN
from fsgan.training.monitor import read_losses, read_validation
from fsgan.training.recipes import recipe
from fsgan.training.train import PHASES, phase_at

pytestmark = pytest.mark.slow

MODEL = ModelConfig(
    64, "lite", "none", attention=False, mask=False, discriminators=False, latent=16
)
SINGLE, ONE = recipe("single", capacity="lite")


@pytest.fixture(autouse=True)
def _eagerly():
    """Nothing is compiled: a few updates are done sooner."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def faces(two_people):
    return two_people


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


def run_one(faces, model_dir, iterations, on_preview=None, **changes):
    """The same for one person, which takes a tenth of the time."""
    settings = {"batch_size": 1, "losses": ONE.losses, "perceptual": "off"}
    settings |= {"precision": "float32"} | changes
    return fsgan.train(
        faces / "a",
        None,
        model_dir,
        model=SINGLE,
        settings=TrainSettings(iterations, **settings),
        on_preview=on_preview,
    )


def interrupt_at(last):
    def interrupt(iteration, picture):
        if iteration == last:
            raise KeyboardInterrupt

    return interrupt


@pytest.fixture
def steps(monkeypatch):
    """What is in force in each step of the trainings of a test."""
    recorded, update = [], FaceSwapGAN.train_on_batches

    def record(gan, *batches):
        values = {name: float(value) for name, value in gan.scheduled.items()}
        [rate] = {
            float(o.learning_rate) for n, o in gan.optimizers.items() if n[0] == "g"
        }
        values |= {"rate": rate / 1e-4, "swapped": gan.decoders_swapped}
        recorded.append({"iteration": gan.iteration} | values)
        return update(gan, *batches)

    monkeypatch.setattr(FaceSwapGAN, "train_on_batches", record)
    return recorded


def columns(steps):
    names = (
        "iteration",
        "perceptual",
        "sparsity",
        "hinge",
        "margin",
        "rate",
        "swapped",
    )
    rows = np.array([[step[name] for name in names] for step in steps])
    return dict(zip(names, rows.T, strict=True))


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    """A model trained for 12 iterations, and its last checkpoint."""
    model_dir = tmp_path_factory.mktemp("trained")
    tf.config.run_functions_eagerly(True)
    return model_dir, run(faces, model_dir, 12)


# --- the schedule ---


@pytest.mark.parametrize(
    ("progress", "perceptual", "margin", "factor", "swapped"),
    [
        (0, False, None, 1, False),
        (0.199, False, None, 1, False),
        (200 / 1000, True, None, 1, False),
        (300 / 1000, True, 0.5, 1, False),
        (400 / 1000, True, 0.2, 1, False),
        (500 / 1000, True, 0.4, 1, False),
        (667 / 1000, True, None, 0.3, False),
        (800 / 1000, True, 0.1, 0.3, True),
        (900 / 1000, True, None, 0.1, True),
        (5, True, None, 0.1, True),
    ],
)
def test_the_phase_follows_from_the_progress(
    progress, perceptual, margin, factor, swapped
):
    phase = phase_at(progress)
    assert (phase.perceptual, phase.hinge_margin) == (perceptual, margin)
    assert (phase.learning_rate_factor, phase.decoders_swapped) == (factor, swapped)


def test_phases_start_in_order():
    starts = [phase.start for phase in PHASES]
    assert starts == sorted(starts) and starts[0] == 0


def test_every_step_has_the_terms_of_its_phase(faces, tmp_path, steps):
    run(faces, tmp_path, 10, batch_size=1, preview_every=100)
    found = columns(steps)
    expected = {
        "iteration": range(10),
        "perceptual": [0, 0, 1, 1, 1, 1, 1, 1, 1, 1],
        "sparsity": [0.01, 0.01, 0.01, 0, 0, 0, 0, 0.01, 0, 0.01],
        "hinge": [0, 0, 0, 0.1, 0.1, 0.1, 0.1, 0, 0.1, 0],
        "margin": [0, 0, 0, 0.5, 0.2, 0.4, 0.4, 0, 0.1, 0],
        "rate": [1, 1, 1, 1, 1, 1, 1, 0.3, 0.3, 0.1],
        "swapped": [0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)


def test_more_iterations_go_on_in_the_last_phase(faces, tmp_path, steps, monkeypatch):
    swaps, swap = [], FaceSwapGAN.swap_decoders
    monkeypatch.setattr(
        FaceSwapGAN, "swap_decoders", lambda gan: swaps.append(1) or swap(gan)
    )
    run(faces, tmp_path, 4, batch_size=1)
    run(faces, tmp_path, 12, batch_size=1)
    found = columns(steps)
    assert found["iteration"].tolist() == list(range(12))
    np.testing.assert_allclose(found["rate"][:4], [1, 1, 1, 0.3])
    np.testing.assert_allclose(found["rate"][4:], 0.1, rtol=1e-6)
    assert not found["hinge"][4:].any()
    assert found["swapped"][4:].all() and len(swaps) == 1


def test_more_iterations_midway_wait_where_the_schedule_was(faces, tmp_path, steps):
    # Half of 8 is reached; of 16, iterations 4 to 7 are less than that.
    run_one(faces, tmp_path, 8, interrupt_at(4), preview_every=4)
    assert read_settings(latest_checkpoint(tmp_path))["progress"] == 0.5
    run_one(faces, tmp_path, 16, preview_every=100)
    rates = columns(steps)["rate"]
    np.testing.assert_allclose(rates, [1] * 11 + [0.3] * 4 + [0.1], rtol=1e-6)
    assert read_settings(latest_checkpoint(tmp_path))["progress"] == 1


def test_a_checkpoint_without_progress_has_that_of_its_iterations(
    faces, tmp_path, steps
):
    settings_file = run_one(faces, tmp_path, 4) / "settings.json"
    settings = json.loads(settings_file.read_text())
    del settings["progress"]
    settings_file.write_text(json.dumps(settings))
    run_one(faces, tmp_path, 8)
    np.testing.assert_allclose(columns(steps)["rate"][4:], 0.1, rtol=1e-6)


# --- what is left in the folder ---


def test_training_leaves_checkpoint_previews_and_losses(trained, faces):
    model_dir, checkpoint = trained
    assert checkpoint == latest_checkpoint(model_dir)
    assert checkpoint.name == "iteration_0000012"
    names = sorted(path.name for path in (model_dir / "previews").iterdir())
    assert names == ["0000000.png", "0000005.png", "0000010.png", "0000012.png"]
    assert read_losses(model_dir)["iteration"].tolist() == [10]
    assert read_settings(checkpoint)["training"]["batch_size"] == 2
    picture = read_image(model_dir / "previews" / "0000000.png")
    assert picture.shape == (16 + 5 * 64, 64 + 12 * 64, 3)
    face = read_image(faces / "a" / "0.png")
    middle = face[26:230, 26:230].mean(axis=(0, 1))
    drawn = picture[16:80, 64:128].mean(axis=(0, 1))
    np.testing.assert_allclose(drawn, middle, atol=2)


def test_losses_after_the_checkpoint_are_dropped_on_resume(faces, trained):
    lines = (trained[0] / "losses.csv").read_text().splitlines()
    late = lines[-1].replace("10,", "9999,", 1)
    (trained[0] / "losses.csv").write_text("\n".join([*lines, late]) + "\n")
    run(faces, trained[0], 12)
    assert read_losses(trained[0])["iteration"].tolist() == [10]


def test_a_preview_that_a_kill_left_out_is_drawn_when_training_goes_on(faces, tmp_path):
    drawn = []
    many = tmp_path / "faces" / "a"
    for number in range(20):
        write_image(many / f"{number}.png", read_image(faces / "a" / "0.png"))
    for attempt in range(3):
        run_one(many.parent, tmp_path, 2, lambda *shown: drawn.append(shown[0]))
        if attempt == 0:
            (tmp_path / "previews" / "0000002.png").unlink()
            lines = (tmp_path / "validation.csv").read_text().splitlines(True)
            (tmp_path / "validation.csv").write_text("".join(lines[:-1]))
    assert drawn == [0, 2, 2]
    assert read_validation(tmp_path)["iteration"].tolist() == [0, 2]


def test_weights_that_are_not_finite_end_training_before_they_are_saved(
    faces, tmp_path, monkeypatch
):
    """An update may spoil them while its losses, of before, are finite."""
    good = run_one(faces, tmp_path, 1)
    update = FaceSwapGAN.train_on_batches

    def spoil(gan, *batches):
        losses = update(gan, *batches)
        variable = gan.networks["encoder"].variables[-1]
        variable.assign(variable * np.nan)
        return losses

    monkeypatch.setattr(FaceSwapGAN, "train_on_batches", spoil)
    with pytest.raises(FloatingPointError, match="weights of encoder are not finite"):
        run_one(faces, tmp_path, 2)
    assert latest_checkpoint(tmp_path) == good


class Watch:
    """Looks at a model folder before each change that Python makes to a file.

    What lies there at such a moment is what a kill would leave.
    """

    def __init__(self, model_dir):
        self.model_dir, self.seen, self.moments = model_dir, [], 0
        self.gan, self.on = FaceSwapGAN(SINGLE), True
        sys.addaudithook(self.look)

    def look(self, event, arguments):
        if not self.on or event not in ("open", "os.rename", "shutil.rmtree"):
            return
        if str(self.model_dir) not in str(arguments[0]):
            return
        self.on = False  # what follows opens files itself
        self.moments += 1
        checkpoint = latest_checkpoint(self.model_dir)
        if checkpoint and checkpoint not in self.seen[-1:]:
            load_checkpoint(checkpoint, self.gan.networks, self.gan.optimizers)
            self.seen.append(checkpoint)
        if (self.model_dir / "losses.csv").exists():
            assert np.isfinite(list(read_losses(self.model_dir).values())).all()
        self.on = True


def test_at_any_moment_the_newest_checkpoint_is_whole(faces, tmp_path):
    watch = Watch(tmp_path)
    run_one(faces, tmp_path, 12, preview_every=3, keep=1)
    watch.on = False
    assert [int(path.name[-2:]) for path in watch.seen] == [3, 6, 9, 12]
    assert watch.moments > 20


# --- going on ---


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
    with pytest.raises(ValueError, match="already holds a training"):
        fsgan.train(faces / "a", faces / "b", trained[0], resume=False)


def test_faces_of_others_are_told_from_those_that_a_model_knows(
    faces, trained, tmp_path, caplog
):
    with pytest.raises(ValueError, match="A and B are exchanged"):
        fsgan.train(faces / "b", faces / "a", trained[0])
    fsgan.train(faces / "a", faces / "b", trained[0])
    assert "other faces" not in caplog.text
    for path in (faces / "b").iterdir():
        picture = np.ascontiguousarray(read_image(path)[:, ::-1])
        write_image(tmp_path / "mirrored" / path.name, picture)
    fsgan.train(faces / "a", tmp_path / "mirrored", trained[0])
    assert "was trained on other faces of B: if they are of" in caplog.text
    assert "other faces of A" not in caplog.text


def test_the_same_faces_twice_are_refused_and_few_are_told(faces, tmp_path, caplog):
    shutil.copytree(faces / "a", tmp_path / "copy")
    with pytest.raises(ValueError, match="A and B are the same faces"):
        fsgan.train(faces / "a", tmp_path / "copy", tmp_path / "model")
    assert not (tmp_path / "model").exists()
    assert "A has 3 faces: a few hundred varied ones" in caplog.text


def test_some_settings_are_changed_by_name(faces, trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / "model")
    before = read_settings(trained[1])
    more = {"iterations": before["iteration"] + 1, "learning_rate": 1e-5}
    checkpoint = fsgan.train(faces / "a", faces / "b", folder, settings=more)
    after = read_settings(checkpoint)
    assert after["iteration"] == more["iterations"]
    assert after["training"] == before["training"] | more
    for changes, message in (
        ({"losses": {"eyes": 1}}, r"\(losses.eyes was 30.0, is 1\): use the old"),
        ({"iteration": 20}, "TrainSettings has no 'iteration', but iterations, batch"),
        ({"losses": {"nose": 1}}, "LossWeights has no 'nose'"),
        ({"iterations": 0}, "iterations must be greater than or equal to 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            fsgan.train(faces / "a", faces / "b", folder, settings=changes)


def test_a_recipe_is_changed_by_name(faces, tmp_path):
    def look(iteration, picture):
        raise KeyboardInterrupt  # before the first update

    changes = {"model": {"latent": 8}, "settings": {"batch_size": 1}}
    checkpoint = fsgan.train(
        faces / "a", None, tmp_path, recipe="single", **changes, on_preview=look
    )
    model, settings = recipe("single")
    saved = read_settings(checkpoint)
    assert saved["model"] == replace(model, latent=8)
    assert saved["training"] == asdict(settings) | {"batch_size": 1}


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

    with pytest.raises(ValueError, match=r"another architecture.*norm 'none'"):
        start(ModelConfig(64, "lite", attention=False), start_from=trained[0])
    with pytest.raises(ValueError, match="'encoder' or 'all', got 'decoder'"):
        start(MODEL, start_from=trained[0], transfer="decoder")
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        start(MODEL, start_from=tmp_path)
    assert not (tmp_path / "m").exists()


# --- losses that explode ---


def test_a_loss_that_is_no_number_stops_training_and_keeps_the_checkpoint(
    faces, tmp_path
):
    good = run_one(faces, tmp_path, 2)
    with pytest.raises(FloatingPointError, match="smaller learning_rate"):
        run_one(faces, tmp_path, 40, learning_rate=1e30)
    assert latest_checkpoint(tmp_path) == good


@pytest.fixture
def exploding(monkeypatch):
    """Losses are those of networks that only paint black, from update 15 on."""
    update = FaceSwapGAN.train_on_batches

    def explode(gan, *batches):
        losses = update(gan, *batches)
        return losses | {"reconstruction_a": 0.05 if gan.iteration < 15 else 1.2}

    monkeypatch.setattr(FaceSwapGAN, "train_on_batches", explode)


class OnTheDevice:
    """A loss that notes at which iteration it is looked at."""

    def __init__(self, value, note):
        self.value, self.note = value, note

    def __array__(self, dtype=None, copy=None):
        self.note()
        return np.array(self.value, dtype)

    def __float__(self):
        self.note()
        return float(self.value)


@pytest.mark.parametrize("card", [False, True])
def test_no_update_waits_for_the_device(faces, tmp_path, monkeypatch, card):
    calls, looked = [], []
    update = FaceSwapGAN.train_on_batches

    def watched(gan, *batches):
        logs = update(gan, *batches)
        calls.append(gan.iteration)
        note = lambda: looked.append(gan.iteration)  # noqa: E731
        return {name: OnTheDevice(value, note) for name, value in logs.items()}

    monkeypatch.setattr(FaceSwapGAN, "train_on_batches", watched)
    monkeypatch.setattr("fsgan.training.train.has_graphics_card", lambda: card)
    run_one(faces, tmp_path, 170, interrupt_at(51), preview_every=17)
    # Losses are looked at before a checkpoint, too; the second phase begins at 34.
    assert set(looked) == {10, 17, 20, 30, 34, 40, 50, 51}
    alone = {*range(11, 21), *range(31, 41), 51}
    assert calls == sorted(alone | {10, 30, 50} if card else range(1, 52))


@pytest.mark.usefixtures("exploding")
def test_an_interrupt_keeps_exploded_weights_out_of_the_checkpoints(
    faces, tmp_path, caplog
):
    good = run_one(faces, tmp_path, 40, interrupt_at(12), preview_every=12)
    assert good.name == "iteration_0000012"
    # Before the first line with such losses is written, and after it.
    for last in (18, 22):
        caplog.clear()
        stopped = run_one(faces, tmp_path, 40, interrupt_at(last), preview_every=last)
        assert stopped == good == latest_checkpoint(tmp_path)
        assert "seem to explode" in caplog.text and str(good) in caplog.text


@pytest.mark.usefixtures("exploding")
def test_weights_that_explode_before_any_checkpoint_are_an_error(faces, tmp_path):
    with pytest.raises(FloatingPointError, match="before the first checkpoint"):
        run_one(faces, tmp_path, 40, interrupt_at(22), preview_every=22)
    assert latest_checkpoint(tmp_path) is None


# --- faults ---


def test_a_required_perceptual_loss_without_weights_is_refused(faces, tmp_path):
    with pytest.raises(FileNotFoundError, match="put it into"):
        run(faces, tmp_path / "model", 5, perceptual="required")
    assert not (tmp_path / "model").exists()


def test_one_person_trains_alone(faces, tmp_path):
    run_one(faces, tmp_path, 3)
    assert read_image(tmp_path / "previews" / "0000003.png").shape[0] == 16 + 2 * 64
    with pytest.raises(ValueError, match="knows one person: leave out faces_b"):
        fsgan.train(faces / "a", faces / "b", tmp_path / "two", model=SINGLE)


# --- recipes and minutes ---


@pytest.fixture
def clock(monkeypatch):
    """A clock by which each update takes a second, and nothing else any time."""
    now, update = [0.0], FaceSwapGAN.train_on_batches

    def train_for_a_second(gan, *batches):
        now[0] += 1
        return update(gan, *batches)

    monkeypatch.setattr(
        "fsgan.training.train.time", SimpleNamespace(monotonic=lambda: now[0])
    )
    monkeypatch.setattr(FaceSwapGAN, "train_on_batches", train_for_a_second)


@pytest.mark.usefixtures("clock")
def adam(folder):
    with np.load(folder / "optimizer_generator.npz") as state:
        return dict(state)


def test_a_training_goes_on_in_another_precision_with_adams_moments(faces, tmp_path):
    before = adam(run_one(faces, tmp_path, 1))
    for iterations, precision in ((2, "float16"), (3, "float32")):
        after = adam(run_one(faces, tmp_path, iterations, precision=precision))
        assert after.keys() == before.keys()
        assert after["0"] == iterations
        velocities = [name for name in before if int(name) > 2 and int(name) % 2]
        for name in velocities:  # a mean of squares, which decays by 0.999 an update
            assert (after[name] >= 0.998 * before[name]).all()
        before = after


@pytest.mark.usefixtures("clock")
def test_minutes_scale_the_schedule_and_a_second_call_trains_on(faces, tmp_path, steps):
    settings = replace(ONE, perceptual="off", batch_size=1, precision="float32")
    for minutes in (1 / 6, 1 / 12):
        folder = fsgan.train(
            faces / "a",
            None,
            tmp_path,
            model=SINGLE,
            settings=settings,
            minutes=minutes,
        )
    found = read_settings(folder)
    assert (found["iteration"], found["progress"], found["seconds"]) == (15, 1.0, 15.0)
    rates = [1] * 7 + [0.3] * 2 + [0.1] + [0.1] * 5
    assert columns(steps)["rate"] == pytest.approx(rates)


@pytest.mark.usefixtures("clock")
def test_more_minutes_midway_wait_where_the_schedule_was(faces, tmp_path, steps):
    settings = replace(ONE, perceptual="off", batch_size=1, precision="float32")
    common = {"model": SINGLE, "settings": replace(settings, preview_every=7)}
    common["on_preview"] = interrupt_at(7)
    fsgan.train(faces / "a", None, tmp_path, minutes=1 / 6, **common)
    fsgan.train(faces / "a", None, tmp_path, minutes=1, **common)
    rates = columns(steps)["rate"]
    assert len(rates) == 67
    # 0.7 of the first plan is reached; of the second, 60 of 67 s are 0.9.
    assert rates == pytest.approx([1] * 7 + [0.3] * 54 + [0.1] * 6)


def test_the_batch_size_that_was_found_is_kept(faces, tmp_path, monkeypatch):
    sizes, found = [], iter([3, 2])
    update = FaceSwapGAN.train_on_batches

    def record(gan, *batches):
        sizes.append(len(batches[0].sides[0].warped))
        return update(gan, *batches)

    monkeypatch.setattr(FaceSwapGAN, "train_on_batches", record)
    monkeypatch.setattr("fsgan.training.train.largest_batch", lambda gan: next(found))
    for iterations, batch_size in ((1, "auto"), (2, "auto"), (3, 3)):
        folder = run_one(faces, tmp_path, iterations, batch_size=batch_size)
    assert sizes == [3, 3, 3]
    assert read_settings(folder)["training"]["batch_size"] == 3
    with pytest.raises(ValueError, match="batch_size was 3, is 2"):
        run_one(faces, tmp_path, 4, batch_size=2)


def test_a_recipe_stands_for_model_and_settings(faces, tmp_path):
    folders = faces / "a", faces / "b", tmp_path
    with pytest.raises(ValueError, match="give it alone, or with what to change"):
        fsgan.train(*folders, recipe="quick", model=MODEL)
    with pytest.raises(ValueError, match="settings go with a model"):
        fsgan.train(*folders, settings=TrainSettings(1))
    with pytest.raises(ValueError, match="recipe must be 'quick', "):
        fsgan.train(*folders, recipe="fast")
    with pytest.raises(ValueError, match="minutes must be greater than 0, got 0"):
        fsgan.train(*folders, minutes=0)


def test_a_and_b_are_two_folders_and_two_persons(faces, tmp_path):
    (tmp_path / "also_a").symlink_to(faces / "a")
    for other in (faces / "a", faces / "b" / ".." / "a", tmp_path / "also_a"):
        with pytest.raises(ValueError, match="A and B need two folders, got"):
            fsgan.train(faces / "a", other, tmp_path / "model")
    with pytest.raises(ValueError, match=r'two persons.*recipe="single"'):
        fsgan.train(faces / "a", None, tmp_path / "model")
    with pytest.raises(ValueError, match="one person: leave out faces_b"):
        fsgan.train(faces / "a", faces / "b", tmp_path / "model", recipe="single")
    assert not (tmp_path / "model").exists()


def test_quick_is_what_is_trained_first_and_learns_the_faces_mask(faces, tmp_path):
    model, settings = recipe("quick", capacity="lite")
    settings = replace(settings, iterations=10, batch_size=1, precision="float32")
    folders = faces / "a", faces / "b", tmp_path
    fsgan.train(*folders, model=model, settings=settings)
    losses = read_losses(tmp_path)
    terms = {
        f"{name}_{side}" for name in ("face", "alpha", "expression") for side in "ab"
    }
    assert set(losses) == {"iteration"} | terms
    saved = read_settings(latest_checkpoint(tmp_path))
    assert saved["model"] == model
    with pytest.raises(ValueError, match=r"network was 'quick', is 'v2\.2'"):
        fsgan.train(*folders, recipe="v2.2")
    # Of that recipe already, if not of its size: it goes on as it was.
    fsgan.train(*folders, recipe="quick", minutes=1e-9)
    assert read_settings(latest_checkpoint(tmp_path)) == saved


def test_masks_beside_the_faces_are_found(faces, tmp_path, monkeypatch):
    loaded = []

    def load(*arguments, **draw):
        loaded.append((arguments, draw))
        raise InterruptedError

    monkeypatch.setattr("fsgan.training.train.load_faces", load)
    masks = tmp_path / "eye_masks" / "a"
    masks.mkdir(parents=True)
    for options in ({}, {"masks_a": "mine"}, {"recipe": "v2.2"}):
        with pytest.raises(InterruptedError):
            fsgan.train(tmp_path / "faces" / "a", "b", tmp_path / "model", **options)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InterruptedError):
        fsgan.train("faces", "b", "model")  # nothing lies beside these
    found = [(arguments[1], draw["draw_missing"]) for arguments, draw in loaded]
    assert found == [(masks, True), ("mine", True), (masks, False), (None, True)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, "iterations must be greater than or equal to 1, got 0"),
        ({"batch_size": -1}, "batch_size must be greater than or equal to 1, got -1"),
        ({"batch_size": 2.5}, "batch_size must be a valid integer or 'auto', got"),
        ({"batch_size": 10**9}, "batch_size must be less than or equal to 4096"),
        ({"learning_rate": math.inf}, "learning_rate must be a finite number, got inf"),
        ({"swap_decoders": "no"}, "swap_decoders must be a valid boolean, got 'no'"),
        ({"losses": None}, "losses must be an instance of LossWeights, got None"),
        ({"learning_rate": 0}, "learning_rate must be greater than 0, got 0"),
        ({"seed": -1}, "seed must be greater than or equal to 0, got -1"),
        ({"validation": 1}, "validation must be less than 1, got 1"),
        (
            {"perceptual": True},
            "perceptual must be 'auto', 'required' or 'off', got True",
        ),
        ({"updates": "both"}, "updates must be 'fused' or 'separate', got 'both'"),
        ({"precision": "half"}, "precision must be 'auto', 'float32', 'bfloat16' or "),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainSettings(**settings)


def test_faces_that_cannot_be_used_are_refused_before_anything_is_written(
    faces, tmp_path
):
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="none"):
        fsgan.train(tmp_path / "none", faces / "b", tmp_path / "model")
    write_image(tmp_path / "masks" / "other.png", np.zeros((256, 256, 3), np.uint8))
    with pytest.raises(ValueError, match="make_masks"):
        fsgan.train(
            faces / "a", faces / "b", tmp_path / "model", masks_a=tmp_path / "masks"
        )
    assert not (tmp_path / "model").exists()


# --- the one slow truth ---


def test_a_hundred_iterations_on_the_sample_faces_learn_them(tmp_path):
    tf.config.run_functions_eagerly(False)
    clips = fsgan.make_sample_clips(tmp_path, seconds=4.0)
    for name, clip in zip("ab", clips, strict=True):
        fsgan.extract_faces(clip, tmp_path / name, every=4)
    fsgan.train(
        tmp_path / "a",
        tmp_path / "b",
        tmp_path / "model",
        model=ModelConfig(64, "lite", "none", attention=False),  # with discriminators
        settings=TrainSettings(
            100, 2, 3e-4, perceptual="off", swap_decoders=False, preview_every=100
        ),
    )
    errors = read_validation(tmp_path / "model")
    assert errors["iteration"].tolist() == [0, 100]
    for person in "ab":
        before, after = errors[f"reconstruction_{person}"]
        assert after <= 0.6 * before

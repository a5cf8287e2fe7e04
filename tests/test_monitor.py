import io
import logging
import re
import sys
from base64 import b64decode
from types import SimpleNamespace

import nbclient
import nbformat
import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fsgan.data.dataset import FaceSet
from fsgan.media.images import encode_jpeg, read_image, write_image
from fsgan.media.provenance import SOURCE_TYPE, image_xmp, read_marks
from fsgan.media.reader import probe, read_frames
from fsgan.models.networks import ModelConfig
from fsgan.training.gan import FaceSwapGAN
from fsgan.training.monitor import (
    NotebookPreview,
    TrainingLog,
    draw_preview,
    make_timelapse,
    plot_training,
    read_losses,
    read_validation,
    reconstruction_error,
)


def record(model_dir, start, stop, **losses):
    """Logs iterations start + 1 to stop, each with the same losses."""
    with TrainingLog(model_dir, start) as log:
        for iteration in range(start + 1, stop + 1):
            log.add(iteration, losses or {"reconstruction_a": iteration})


def lists(columns):
    return {name: values.tolist() for name, values in columns.items()}


# --- CSV ---


def test_every_tenth_iteration_writes_the_mean_of_ten(tmp_path):
    with TrainingLog(tmp_path, 0) as log:
        means = [log.add(n, {"reconstruction_a": n / 100}) for n in range(1, 26)]
    written = [mean for mean in means if mean is not None]
    assert [means.index(mean) for mean in written] == [9, 19]
    assert written == [
        {"reconstruction_a": pytest.approx(value)} for value in (0.055, 0.155)
    ]
    text = (tmp_path / "losses.csv").read_text()
    assert text == "iteration,reconstruction_a\n10,0.055\n20,0.155\n"
    assert lists(read_losses(tmp_path)) == {
        "iteration": [10, 20],
        "reconstruction_a": [0.055, 0.155],
    }


def test_a_training_of_less_than_ten_iterations_leaves_a_line(tmp_path):
    with TrainingLog(tmp_path, 0) as log:
        for iteration in (1, 2, 3):
            log.add(iteration, {"face_a": float(iteration)})
    losses = read_losses(tmp_path)
    assert {name: values.tolist() for name, values in losses.items()} == {
        "iteration": [3],
        "face_a": [2],
    }


def test_held_out_errors_are_written_as_they_come(tmp_path):
    with TrainingLog(tmp_path, 0) as log:
        log.add_validation(0, {"reconstruction_a": 0.5, "reconstruction_b": 0.25})
        log.add_validation(300, {"reconstruction_a": 0.125, "reconstruction_b": 2e-7})
    assert lists(read_validation(tmp_path)) == {
        "iteration": [0, 300],
        "reconstruction_a": [0.5, 0.125],
        "reconstruction_b": [0.25, 2e-7],
    }


def test_large_iterations_are_written_whole(tmp_path):
    record(tmp_path, 1_234_560, 1_234_570, mask_a=1.0)
    record(tmp_path, 1_234_570, 1_234_580, mask_a=1.0)
    assert read_losses(tmp_path)["iteration"].tolist() == [1_234_570, 1_234_580]


def test_an_iteration_is_written_once(tmp_path):
    for _ in range(2):
        with TrainingLog(tmp_path, 300) as log:
            log.add_validation(300, {"reconstruction_a": 0.5})
            log.add_validation(300, {"reconstruction_a": 0.75})
    assert lists(read_validation(tmp_path)) == {
        "iteration": [300],
        "reconstruction_a": [0.5],
    }


def test_without_held_out_faces_there_is_no_file_of_their_errors(tmp_path):
    with TrainingLog(tmp_path, 0) as log:
        log.add_validation(0, {})
    assert not (tmp_path / "validation.csv").exists()


# --- going on ---


def test_what_came_after_the_checkpoint_is_dropped(tmp_path):
    record(tmp_path, 0, 40, edge_a=0.5)
    with TrainingLog(tmp_path, 40) as log:
        log.add_validation(20, {"reconstruction_a": 1})
        log.add_validation(40, {"reconstruction_a": 2})
    for number in (0, 20, 40):
        write_image(
            tmp_path / "previews" / f"{number:07d}.png", np.zeros((2, 2, 3), np.uint8)
        )
    record(tmp_path, 20, 30, edge_a=0.75)
    assert lists(read_losses(tmp_path)) == {
        "iteration": [10, 20, 30],
        "edge_a": [0.5, 0.5, 0.75],
    }
    assert read_validation(tmp_path)["iteration"].tolist() == [20]
    previews = sorted(path.name for path in (tmp_path / "previews").iterdir())
    assert previews == ["0000000.png", "0000020.png"]


def test_a_fresh_training_starts_empty(tmp_path):
    record(tmp_path, 0, 20, edge_a=0.5)
    record(tmp_path, 0, 10, edge_b=0.25)
    assert lists(read_losses(tmp_path)) == {"iteration": [10], "edge_b": [0.25]}


@pytest.mark.parametrize(
    "torn",
    ["2", "20", "20,0.5", "20,0.5,0.2", "20,0.5,0.25", "20,0.5,\0\0", "20,0.5,\0\0\n"],
)
def test_a_line_that_breaks_off_is_neither_read_nor_gone_on_with(tmp_path, torn):
    text = "iteration,edge_a,edge_b\n10,0.5,0.75\n"
    (tmp_path / "losses.csv").write_text(text + torn)
    assert lists(read_losses(tmp_path)) == {
        "iteration": [10],
        "edge_a": [0.5],
        "edge_b": [0.75],
    }
    record(tmp_path, 20, 30, edge_a=1.5, edge_b=1.75)
    assert (tmp_path / "losses.csv").read_text() == text + "30,1.5,1.75\n"


@pytest.mark.parametrize("text", ["", "iter", "iteration,edge_a", "\0\0\0\0\n\0\0\n"])
def test_a_file_that_breaks_off_in_its_header_is_begun_anew(tmp_path, text):
    (tmp_path / "losses.csv").write_text(text)
    assert lists(read_losses(tmp_path)) == {"iteration": []}
    record(tmp_path, 20, 30, edge_a=1.5)
    assert lists(read_losses(tmp_path)) == {"iteration": [30], "edge_a": [1.5]}
    assert (tmp_path / "losses.damaged.csv").read_text() == text


@pytest.mark.parametrize(
    "damage",
    ['20,"0.5,1', f"20,0.5,{'9' * 200_000}x", "nan,1,1", "20,0.5\r\r,1,1", "é"],
)
def test_a_damaged_line_takes_no_other_with_it(tmp_path, damage):
    text = "iteration,edge_a,edge_b\n10,0.5,0.75\n{}30,0.5,0.75\n"
    (tmp_path / "losses.csv").write_text(text.format(damage + "\n"))
    assert read_losses(tmp_path)["iteration"].tolist() == [10, 30]
    record(tmp_path, 30, 30)
    assert (tmp_path / "losses.csv").read_text() == text.format("")


def test_other_losses_get_columns_of_their_own(tmp_path):
    record(tmp_path, 0, 10, edge_a=0.5, mask_a=0.25)
    record(tmp_path, 10, 20, edge_a=1.5, cyclic_a=2.0)
    record(tmp_path, 20, 30, mask_a=3.0)
    columns = read_losses(tmp_path)
    assert list(columns) == ["iteration", "edge_a", "mask_a", "cyclic_a"]
    nan = np.nan
    np.testing.assert_equal(columns["edge_a"], [0.5, 1.5, nan])
    np.testing.assert_equal(columns["mask_a"], [0.25, nan, 3])
    np.testing.assert_equal(columns["cyclic_a"], [nan, 2, nan])


def test_a_loss_that_starts_between_two_lines_counts_its_own_iterations(tmp_path):
    with TrainingLog(tmp_path, 0) as log:
        for iteration in range(1, 11):
            late = {"perceptual_a": 4.0} if iteration > 7 else {}
            log.add(iteration, {"edge_a": 1.0} | late)
    assert read_losses(tmp_path)["perceptual_a"].tolist() == [4.0]


# --- losses that mean the end ---


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e7])
def test_a_loss_that_is_no_number_or_huge_ends_the_training(tmp_path, value):
    with TrainingLog(tmp_path, 0) as log:
        log.add(1, {"reconstruction_a": 0.5, "discriminator_b": 999.0})
        message = re.escape(f"discriminator_b is {value:.3g} at iteration 2: train on")
        log.add(2, {"reconstruction_a": 0.5, "discriminator_b": value})
        with pytest.raises(FloatingPointError, match=message):
            assert log.healthy
    assert not log.healthy


def test_losses_of_several_updates_in_one_call_are_as_those_of_one_each(tmp_path):
    values = np.array([0.5, 0.4, 0.3, 0.2, np.nan], np.float32)
    with TrainingLog(tmp_path, 0) as log:
        log.add(5, {"face_a": values[:4].repeat(2)[:5]})
        log.add(10, {"face_a": values[[0, 1, 2, 3, 3]]})
        log.add(15, {"face_a": values})
        with pytest.raises(FloatingPointError, match="face_a is nan at iteration 15:"):
            log.add(20, {"face_a": values})
    assert read_losses(tmp_path)["face_a"] == pytest.approx([(2.1 + 1.6) / 10])


# Means of ten iterations, from trainings at 64 pixels: a good one, thinned out; ...
START = [0.284, 0.171, 0.142, 0.122, 0.108, 0.093, 0.085, 0.072, 0.059]
# ... then a learning rate ten times too high; the same from the first iteration on; ...
TOO_FAST = [1.101, 1.351, 1.34, 1.335, 1.331, 1.345, 1.332, 1.35, 1.338, 1.342]
NEVER_GOOD = [0.856, 0.65, 0.659, 0.663, 0.682, 0.741, 0.67, 1.042, 1.216, 1.222]
NEVER_GOOD += [1.201, 1.183, 1.216, 1.207, 1.225, 1.225, 1.2, 1.237, 1.211, 1.206]
# ... and the good one going on with A's and B's faces exchanged, and inverted besides.
EXCHANGED = [0.308, 0.163, 0.151, 0.145, 0.138, 0.133, 0.135, 0.133, 0.129, 0.124]


def run(model_dir, means, name="reconstruction_b", start=0, **others):
    with TrainingLog(model_dir, start) as log:
        for number, mean in enumerate(means):
            for iteration in range(10 * number + 1, 10 * number + 11):
                log.add(start + iteration, {name: mean} | others)
        return log.healthy


def test_an_exploded_reconstruction_ends_the_training_after_100_iterations(tmp_path):
    message = r"reconstruction_b is 1.34, after 0.059 at best, at iteration 190: .*rate"
    with pytest.raises(FloatingPointError, match=message):
        run(tmp_path, START + TOO_FAST)
    assert read_losses(tmp_path)["iteration"][-1] == 190


def test_a_reconstruction_that_goes_bad_early_ends_the_training(tmp_path):
    with pytest.raises(
        FloatingPointError, match=r"after 0\.65 at best, at iteration 170"
    ):
        run(tmp_path, NEVER_GOOD)


def test_an_explosion_is_noticed_after_going_on(tmp_path):
    run(tmp_path, START)
    with pytest.raises(FloatingPointError, match="at iteration 190"):
        run(tmp_path, TOO_FAST, start=90)


@pytest.mark.parametrize(
    "means",
    [
        pytest.param(START + EXCHANGED + START + EXCHANGED, id="exchanged decoders"),
        pytest.param([0.06, 0.05, 0.05, *EXCHANGED * 2], id="good from the start"),
        pytest.param([10 * x for x in START + EXCHANGED], id="a large weight"),
        pytest.param([0.6] + [0.62] * 20, id="standing still"),
        pytest.param((START + TOO_FAST[:9]) * 3 + START, id="nine bad lines in a row"),
    ],
)
def test_other_bad_times_are_no_explosion(tmp_path, means):
    assert run(tmp_path, means)


def test_adversarial_losses_may_swing(tmp_path):
    swings = [0.3, 0.015, *[2.5] * 20, 0.02]
    assert run(tmp_path, swings, "adversarial_a", discriminator_a=47.0, mask_a=0.05)


def test_a_state_that_seems_to_explode_is_not_healthy(tmp_path):
    assert run(tmp_path, START)
    assert not run(tmp_path, START + TOO_FAST[:1])
    assert run(tmp_path, [*START, TOO_FAST[0], 0.07])


def test_what_explodes_between_two_lines_is_not_healthy_either(tmp_path):
    run(tmp_path, START)
    with TrainingLog(tmp_path, 90) as log:
        log.add(91, {"reconstruction_b": 0.06})
        assert log.healthy
        log.add(92, {"reconstruction_b": 5.0})
        assert not log.healthy


# --- TensorBoard ---


def curves(model_dir):
    events = EventAccumulator(str(model_dir / "tensorboard"), {"images": 0}).Reload()
    found = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    pictures = {
        tag: [(event.step, event.width, event.height) for event in events.Images(tag)]
        for tag in events.Tags()["images"]
    }
    return found | pictures


def test_tensorboard_gets_losses_errors_and_previews(tmp_path):
    record(tmp_path, 0, 20, edge_a=0.5, edge_b=0.25)
    with TrainingLog(tmp_path, 20) as log:
        picture = np.zeros((20, 30, 3), np.uint8)
        log.add_validation(20, {"reconstruction_a": 0.125}, picture)
    assert curves(tmp_path) == {
        "losses/edge_a": [(10, 0.5), (20, 0.5)],
        "losses/edge_b": [(10, 0.25), (20, 0.25)],
        "held_out/reconstruction_a": [(20, 0.125)],
        "preview": [(20, 30, 20)],
    }


def test_tensorboard_forgets_what_came_after_the_checkpoint(tmp_path):
    record(tmp_path, 0, 40, edge_a=0.5)
    record(tmp_path, 20, 20)
    assert curves(tmp_path) == {"losses/edge_a": [(10, 0.5), (20, 0.5)]}
    record(tmp_path, 20, 30, edge_a=0.75)
    assert curves(tmp_path) == {"losses/edge_a": [(10, 0.5), (20, 0.5), (30, 0.75)]}


def test_tensorboard_starts_empty_with_a_fresh_training(tmp_path):
    record(tmp_path, 0, 40, edge_a=0.5)
    record(tmp_path, 0, 10, edge_b=0.75)
    assert curves(tmp_path) == {"losses/edge_b": [(10, 0.75)]}


def test_a_point_is_on_the_disk_before_the_training_ends(tmp_path):
    with TrainingLog(tmp_path, 9) as log:
        log.add(10, {"edge_a": 0.5})
        assert curves(tmp_path) == {"losses/edge_a": [(10, 0.5)]}


def test_without_tensorboard_the_csv_files_stay(tmp_path, monkeypatch, caplog):
    for name in list(sys.modules):
        if name.split(".")[0] == "tensorboard":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with caplog.at_level(logging.INFO):
        record(tmp_path, 0, 20, edge_a=0.5)
    assert caplog.text.count("tensorboard is not installed") == 1
    assert read_losses(tmp_path)["iteration"].tolist() == [10, 20]
    assert not (tmp_path / "tensorboard").exists()


# --- the plot ---


def lines(axis):
    return {
        line.get_label(): np.column_stack(line.get_data()).tolist()
        for line in axis.get_lines()
    }


def test_the_plot_marks_the_best_iteration_on_held_out_faces(tmp_path):
    record(tmp_path, 0, 20, edge_a=0.5, edge_b=0.25, cyclic_a=1.0)
    with TrainingLog(tmp_path, 20) as log:
        for iteration, a, b in ((20, 0.5, 0.5), (40, 0.25, 0.125), (60, 0.125, 0.5)):
            errors = {"reconstruction_a": a, "reconstruction_b": b}
            log.add_validation(iteration, errors)
    panels = {axis.get_title(): lines(axis) for axis in plot_training(tmp_path).axes}
    assert list(panels) == ["reconstruction, held-out faces", "edge", "cyclic"]
    held_out = panels["reconstruction, held-out faces"]
    assert held_out["A"] == [[20, 0.5], [40, 0.25], [60, 0.125]]
    assert held_out["B"] == [[20, 0.5], [40, 0.125], [60, 0.5]]
    assert held_out["best: 40"] == [[40, 0], [40, 1]]  # an axis high
    assert panels["edge"] == {
        "A": [[10, 0.5], [20, 0.5]],
        "B": [[10, 0.25], [20, 0.25]],
    }
    assert panels["cyclic"] == {"A": [[10, 1], [20, 1]]}


def test_the_plot_does_without_held_out_faces_and_without_pyplot(tmp_path):
    record(tmp_path, 0, 10, edge_a=0.5)
    figure = plot_training(tmp_path)
    assert [axis.get_title() for axis in figure.axes] == ["edge"]
    assert pyplot.get_fignums() == []
    figure.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


@pytest.mark.parametrize("text", ["", "iteration,reconstruction_a\n5"])
def test_the_plot_does_with_files_that_hold_nothing_yet(tmp_path, text):
    for name in ("losses.csv", "validation.csv"):
        (tmp_path / name).write_text(text)
    plot_training(tmp_path).savefig(tmp_path / "plot.png")


# --- faults ---


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (read_losses, "losses.csv does not exist"),
        (read_validation, "validation.csv does not exist: .*validation="),
        (plot_training, "losses.csv does not exist"),
    ],
)
def test_a_folder_without_a_training_is_told(tmp_path, read, message):
    with pytest.raises(FileNotFoundError, match=message):
        read(tmp_path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"), TrainingLog(tmp_path / "file", 0) as log:
        log.add(10, {"edge_a": 0.5})


# --- previews ---

RED, BLUE = (255, 0, 0), (0, 0, 255)


def faces(*colours):
    """A face of 80 x 80 pixels, all of one colour, for each colour."""
    images = np.empty((len(colours), 80, 80, 3), np.uint8)
    images[:] = np.array(colours)[:, None, None]
    return FaceSet(images, images, [str(number) for number in colours])


class Painter:
    """Stands in for a model: A's decoder paints white, B's black, alpha is 0.25."""

    config = SimpleNamespace(resolution=64, coverage=0.8)

    def __init__(self):
        self.sizes = []

    def generate(self, x, person):
        self.sizes.append(len(x))
        rgb = np.full_like(x, {"a": 1, "b": -1}[person])
        return np.full_like(x[..., :1], 0.25), rgb


def cells(picture):
    """Mean colour of each face of a preview, by row and column."""
    rows, columns = (np.array(picture.shape[:2]) - (16, 64)) // 64
    squares = picture[16:, 64:].reshape(rows, 64, columns, 64, 3)
    return squares.mean(axis=(1, 3))


def test_a_preview_shows_face_swap_mask_unmasked_and_rebuilt():
    picture = draw_preview(Painter(), [faces(RED), faces(BLUE)])
    assert (picture.dtype, picture.shape) == (np.uint8, (16 + 5 * 64, 13 * 64, 3))
    a, b = cells(picture)[:, 0], cells(picture)[:, 6]
    np.testing.assert_allclose(a[0], RED)
    np.testing.assert_allclose(a[1], (191, 0, 0), atol=1)  # a quarter of B's black
    np.testing.assert_allclose(a[2], 64, atol=1)
    np.testing.assert_allclose(a[3], 0)
    np.testing.assert_allclose(a[4], 255)
    np.testing.assert_allclose(b[0], BLUE)
    np.testing.assert_allclose(b[1], (64, 64, 255), atol=1)  # a quarter of A's white
    np.testing.assert_allclose(b[3], 255)
    np.testing.assert_allclose(b[4], 0)


def test_a_preview_of_what_is_no_number_is_drawn_black():
    class Exploded(Painter):
        def generate(self, x, person):
            return np.full_like(x[..., :1], np.nan), np.full_like(x, np.nan)

    picture = draw_preview(Exploded(), [faces(RED)])  # NumPy's warnings are errors
    np.testing.assert_allclose(cells(picture)[:, 0], [RED, (0, 0, 0)])


def test_a_preview_of_one_person_shows_face_and_rebuilt():
    picture = draw_preview(Painter(), [faces(RED)])
    assert picture.shape == (16 + 2 * 64, 7 * 64, 3)
    np.testing.assert_allclose(cells(picture)[:, 0], [RED, (255, 255, 255)])


def test_a_preview_takes_six_faces_from_first_to_last():
    shades = [(value,) * 3 for value in range(0, 220, 20)]
    picture = draw_preview(Painter(), [faces(*shades), faces(RED)])
    np.testing.assert_allclose(cells(picture)[0, :6, 0], [0, 40, 80, 120, 160, 200])


def test_every_row_and_person_has_its_own_label():
    picture = draw_preview(Painter(), [faces(RED), faces(BLUE)])
    labels = [picture[16 + 64 * row :][:64, :64] for row in range(5)]
    labels += [picture[:16, 64:448], picture[:16, 448:]]
    assert all(label.max() > 200 for label in labels)
    assert len({label.tobytes() for label in labels}) == 7
    margins = [label[:, [0, -1]] for label in labels]
    assert max(margin.max() for margin in margins) == 0  # no word is cut off


def test_a_model_draws_previews_and_has_an_error():
    gan = FaceSwapGAN(ModelConfig(64, "lite", attention=False, latent=16))
    picture = draw_preview(gan, [faces(RED), faces(BLUE)])
    assert picture.shape == (336, 832, 3)
    rebuilt = picture[-64:, 64:128].astype(float) / 127.5 - 1
    expected = np.abs(rebuilt - (1, -1, -1)).mean()
    error = reconstruction_error(gan, faces(RED), "a")
    assert error == pytest.approx(expected, abs=0.01)  # half a level of the picture


# --- the error ---


def test_the_error_is_the_mean_distance_to_the_own_decoders_picture():
    black_and_white = faces((0, 0, 0), (255, 255, 255), (0, 0, 0), (0, 0, 0))
    assert reconstruction_error(Painter(), black_and_white, "a") == 1.5
    assert reconstruction_error(Painter(), black_and_white, "b") == 0.5


def test_many_faces_go_in_batches_of_one_size_and_count_alike():
    painter = Painter()
    many = faces(*[(0, 0, 0)] * 16, (255, 255, 255))
    error = reconstruction_error(painter, many, "b")
    assert error == pytest.approx(2 / 17)
    assert painter.sizes == [6, 6, 6]


def test_the_error_of_no_faces_is_refused():
    nobody = FaceSet(*2 * [np.zeros((0, 80, 80, 3), np.uint8)], [])
    with pytest.raises(ValueError, match="faces of person b must hold at least one"):
        reconstruction_error(Painter(), nobody, "b")


# --- the time-lapse ---


def write_previews(folder, *levels, size=(90, 130)):
    for number, level in enumerate(levels):
        picture = np.full((*size, 3), level, np.uint8)
        write_image(folder / "previews" / f"{300 * number:07d}.png", picture)


def test_a_timelapse_shows_the_previews_in_order_and_holds_the_last(tmp_path):
    write_previews(tmp_path, 20, 120, 220)
    out = make_timelapse(tmp_path, fps=5)
    assert out == tmp_path / "timelapse.mp4"
    info = probe(out)
    assert (info.fps, info.frame_count) == (5, 3 + 5)
    assert (info.width, info.height) == (130, 90 + 16)
    middles = [frame.image[40:].mean() for frame in read_frames(out)]
    np.testing.assert_allclose(middles, [20, 120] + 6 * [220], atol=2)


def test_the_iteration_stands_above_the_preview(tmp_path):
    write_previews(tmp_path, 0, 0, 0)
    strips = [frame.image[:16] for frame in read_frames(make_timelapse(tmp_path))]
    assert all(strip.max() > 150 for strip in strips)
    for one, other in ((0, 1), (1, 2)):  # 0 -> 300 -> 600
        change = np.abs(strips[one].astype(int) - strips[other])
        assert change.max() > 100


def test_one_preview_is_a_video_of_more_than_a_second(tmp_path):
    write_previews(tmp_path, 100)
    assert probe(make_timelapse(tmp_path)).duration == pytest.approx(1.1, abs=0.01)


def test_previews_of_other_sizes_are_fitted_to_the_last(tmp_path):
    write_previews(tmp_path, 200, 200, size=(45, 130))
    write_image(
        tmp_path / "previews" / "0000900.png", np.full((90, 130, 3), 100, np.uint8)
    )
    first, *_, last = (frame.image for frame in read_frames(make_timelapse(tmp_path)))
    assert first.shape == last.shape == (106, 130, 3)
    assert first[16 + 45].mean() > 190 and first[16 + 5].mean() < 10
    assert abs(last[40:].mean() - 100) < 2


def test_a_timelapse_says_that_it_is_synthetic(tmp_path):
    write_previews(tmp_path, 100)
    out = make_timelapse(tmp_path, tmp_path / "elsewhere" / "film.mov")
    assert out == tmp_path / "elsewhere" / "film.mov"
    assert read_marks(out)["DigitalSourceType"] == SOURCE_TYPE


def test_a_damaged_preview_leaves_the_old_timelapse(tmp_path):
    write_previews(tmp_path, 100, 200)
    out = make_timelapse(tmp_path)
    before = out.read_bytes()
    (tmp_path / "previews" / "0000000.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"0000000\.png is not a picture"):
        make_timelapse(tmp_path)
    assert out.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"previews", "timelapse.mp4"}


def test_a_timelapse_without_previews_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="previews does not exist"):
        make_timelapse(tmp_path)


def test_a_rate_of_nothing_is_refused(tmp_path):
    write_previews(tmp_path, 100)
    with pytest.raises(ValueError, match="fps must be greater than 0, got 0"):
        make_timelapse(tmp_path, fps=0)


# --- in a notebook ---


def test_a_jpeg_is_close_to_the_picture_and_marked(tmp_path):
    picture = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[:, None], (64, 1, 3))
    (tmp_path / "preview.jpg").write_bytes(encode_jpeg(picture, image_xmp()))
    found = read_image(tmp_path / "preview.jpg").astype(int)
    assert np.abs(found - picture).max() <= 6
    marks = read_marks(tmp_path / "preview.jpg")
    assert marks["DigitalSourceType"] == SOURCE_TYPE in image_xmp().decode()


def test_a_notebook_keeps_one_picture_the_last(tmp_path):
    code = f"""
import numpy as np
from {NotebookPreview.__module__} import NotebookPreview
show = NotebookPreview()
for level in (50, 100, 200):
    show(level, np.full((40, 60, 3), level, np.uint8))
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert "image/png" not in output.data
    image = Image.open(io.BytesIO(b64decode(output.data["image/jpeg"])))
    assert image.size == (60, 40)
    assert abs(np.array(image).mean() - 200) < 2

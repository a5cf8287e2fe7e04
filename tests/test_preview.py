import io
from base64 import b64decode
from types import SimpleNamespace

import nbclient
import nbformat
import numpy as np
import pytest
from PIL import Image

from fsgan.data.dataset import FaceSet
from fsgan.media.images import read_image, write_image
from fsgan.media.provenance import SOURCE_TYPE, image_xmp, read_marks
from fsgan.media.reader import probe, read_frames
from fsgan.models.networks import ModelConfig
from fsgan.training.gan import FaceSwapGAN
from fsgan.training.preview import (
    NotebookPreview,
    draw_preview,
    encode_jpeg,
    make_timelapse,
    reconstruction_error,
)

RED, BLUE = (255, 0, 0), (0, 0, 255)


def faces(*colours):
    """A face of 80 x 80 pixels, all of one colour, for each colour."""
    images = np.empty((len(colours), 80, 80, 3), np.uint8)
    images[:] = np.array(colours)[:, None, None]
    return FaceSet(images, images[..., 0], [str(number) for number in colours])


class Painter:
    """Stands in for a model: A's decoder paints white, B's black, alpha is 0.25."""

    config = SimpleNamespace(resolution=64)

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
    picture = draw_preview(Painter(), [faces(RED), faces(BLUE)], 0.8)
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


def test_a_preview_of_one_person_shows_face_and_rebuilt():
    picture = draw_preview(Painter(), [faces(RED)], 0.8)
    assert picture.shape == (16 + 2 * 64, 7 * 64, 3)
    np.testing.assert_allclose(cells(picture)[:, 0], [RED, (255, 255, 255)])


def test_a_preview_takes_six_faces_from_first_to_last():
    shades = [(value,) * 3 for value in range(0, 220, 20)]
    picture = draw_preview(Painter(), [faces(*shades), faces(RED)], 0.8)
    np.testing.assert_allclose(cells(picture)[0, :6, 0], [0, 40, 80, 120, 160, 200])


def test_every_row_and_person_has_its_own_label():
    picture = draw_preview(Painter(), [faces(RED), faces(BLUE)], 0.8)
    labels = [picture[16 + 64 * row :][:64, :64] for row in range(5)]
    labels += [picture[:16, 64:448], picture[:16, 448:]]
    assert all(label.max() > 200 for label in labels)
    assert len({label.tobytes() for label in labels}) == 7
    margins = [label[:, [0, -1]] for label in labels]
    assert max(margin.max() for margin in margins) == 0  # no word is cut off


def test_a_model_draws_previews_and_has_an_error():
    gan = FaceSwapGAN(ModelConfig(64, "lite", attention=False))
    picture = draw_preview(gan, [faces(RED), faces(BLUE)], 0.8)
    assert picture.shape == (336, 832, 3)
    rebuilt = picture[-64:, 64:128].astype(float) / 127.5 - 1
    expected = np.abs(rebuilt - (1, -1, -1)).mean()
    error = reconstruction_error(gan, faces(RED), "a", 0.8)
    assert error == pytest.approx(expected, abs=0.01)  # half a level of the picture


# --- the error ---


def test_the_error_is_the_mean_distance_to_the_own_decoders_picture():
    black_and_white = faces((0, 0, 0), (255, 255, 255), (0, 0, 0), (0, 0, 0))
    assert reconstruction_error(Painter(), black_and_white, "a", 0.8) == 1.5
    assert reconstruction_error(Painter(), black_and_white, "b", 0.8) == 0.5


def test_many_faces_go_in_batches_of_one_size_and_count_alike():
    painter = Painter()
    many = faces(*[(0, 0, 0)] * 16, (255, 255, 255))
    error = reconstruction_error(painter, many, "b", 0.8)
    assert error == pytest.approx(2 / 17)
    assert painter.sizes == [6, 6, 6]


def test_the_error_of_no_faces_is_refused():
    nobody = FaceSet(np.zeros((0, 80, 80, 3), np.uint8), np.zeros((0, 80, 80)), [])
    with pytest.raises(ValueError, match="faces of person b must hold at least one"):
        reconstruction_error(Painter(), nobody, "b", 0.8)


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
    with pytest.raises(ValueError, match="fps must be above 0, got 0"):
        make_timelapse(tmp_path, fps=0)


# --- in a notebook ---


def test_a_jpeg_is_close_to_the_picture_and_marked(tmp_path):
    picture = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[:, None], (64, 1, 3))
    (tmp_path / "preview.jpg").write_bytes(encode_jpeg(picture))
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

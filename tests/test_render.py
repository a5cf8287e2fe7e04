import json
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from fsgan.faces.geometry import align, crop_matrix, transform_points
from fsgan.media.provenance import SOURCE_TYPE, read_marks
from fsgan.swap.compositing import Layer, blend, place
from fsgan.swap.render import (
    FrameFaces,
    LayerFiles,
    PlacedFace,
    flatten,
    write_matrices,
)

POINTS = np.array([[30.0, 40], [62, 38], [46, 55], [35, 70], [60, 71]])


@pytest.fixture
def frame():
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


def random_layer(rng, rows, columns):
    size = (rows.stop - rows.start, columns.stop - columns.start)
    rgb = rng.uniform(0, 255, (*size, 3)).astype(np.float32)
    return Layer(rows, columns, rgb, rng.uniform(0, 1, (*size, 1)).astype(np.float32))


def over(rgba, frame):
    """What a compositing program does with a straight alpha."""
    alpha = rgba[..., 3:] / 255
    return np.rint(rgba[..., :3] * alpha + frame * (1 - alpha)).astype(int)


# --- exact numbers ---


def test_one_face_is_its_own_colour_and_alpha():
    rgb = np.full((2, 2, 3), [200.4, 10, 60], np.float32)
    alpha = np.array([[0.001, 0.2], [0.6, 1]], np.float32)[..., None]
    picture = flatten([Layer(slice(1, 3), slice(2, 4), rgb, alpha)], (4, 5, 3))
    assert picture.shape == (4, 5, 4) and picture.dtype == np.uint8
    assert picture[1, 2].tolist() == [0, 0, 0, 0]
    assert picture[1, 3].tolist() == [200, 10, 60, 51]
    assert picture[2, 2].tolist() == [200, 10, 60, 153]
    assert picture[2, 3].tolist() == [200, 10, 60, 255]
    picture[1:3, 2:4] = 0
    assert not picture.any()


def test_a_half_transparent_face_over_another_mixes_the_two():
    whole = np.ones((1, 1, 1), np.float32)
    low = Layer(slice(0, 1), slice(0, 1), 100 * whole.repeat(3, -1), 0.4 * whole)
    high = low._replace(rgb=200 * whole.repeat(3, -1), alpha=0.5 * whole)
    # alpha 1 - 0.6 * 0.5 = 0.7; colour (0.5 * 200 + 0.5 * 0.4 * 100) / 0.7 = 171.43;
    # 0.7 * 255 = 178.5 is rounded to 178, which asks for 171.9.
    assert flatten([low, high], (1, 1)).ravel().tolist() == [172, 172, 172, 178]


def test_no_face_is_transparent_black():
    assert not flatten([], (4, 5, 3)).any()


# --- invariants ---


def test_over_the_frame_it_is_the_blended_frame(frame):
    rng = np.random.default_rng(1)
    for _ in range(20):
        layers = [random_layer(rng, slice(10, 60), slice(20, 80))]
        difference = over(flatten(layers, frame.shape), frame) - blend(frame, layers)
        assert np.abs(difference).max() <= 1


def test_faces_that_overlap_are_the_blended_frame_too(frame):
    # No contrast that warping would overdraw: a picture has no colour beyond white.
    picture = np.linspace(20, 235, 32 * 32 * 3, dtype=np.float32).reshape(32, 32, 3)
    ramp = np.sin(np.linspace(0, np.pi, 32, dtype=np.float32))
    alpha = np.outer(ramp, ramp)[..., None]
    alpha[0] = alpha[-1] = alpha[:, 0] = alpha[:, -1] = 0
    layers = [
        place(picture, alpha, crop_matrix(POINTS + shift, 32), frame)
        for shift in ([-20, 5], [0, 0], [18, -6], [400, 0])
    ]
    rgba = flatten(layers, frame.shape)
    difference = np.abs(over(rgba, frame) - blend(frame, layers))
    # Blending rounds after each face: at most that may add up.
    assert difference.max() <= 2 and (difference > 1).mean() < 1e-3
    assert (rgba[..., 3] > 0).any() and (rgba[..., 3] == 0).any()


# --- files ---


def test_each_frame_has_a_face_and_a_mask_marked_as_synthetic(tmp_path, frame):
    layers = [random_layer(np.random.default_rng(2), slice(5, 50), slice(0, 70))]
    files = LayerFiles(tmp_path / "layers")
    files.write(7, frame.shape, layers)
    files.write(8, frame.shape, [])
    found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*"))
    assert found == [
        "layers/face/000007.png",
        "layers/face/000008.png",
        "layers/mask/000007.png",
        "layers/mask/000008.png",
    ]
    face = Image.open(tmp_path / "layers/face/000007.png")
    mask = Image.open(tmp_path / "layers/mask/000007.png")
    assert (face.mode, mask.mode) == ("RGBA", "L")
    np.testing.assert_array_equal(face, flatten(layers, frame.shape))
    np.testing.assert_array_equal(mask, np.asarray(face)[..., 3])
    empty = np.asarray(Image.open(tmp_path / "layers/face/000008.png"))
    assert empty.shape == (90, 120, 4) and not empty.any()
    for name in found:
        assert read_marks(tmp_path / name)["DigitalSourceType"] == SOURCE_TYPE


def test_a_frame_written_again_replaces_the_first(tmp_path, frame):
    rng = np.random.default_rng(3)
    files = LayerFiles(tmp_path)
    files.write(0, frame.shape, [random_layer(rng, slice(0, 9), slice(0, 9))])
    second = [random_layer(rng, slice(40, 60), slice(40, 60))]
    files.write(0, frame.shape, second)
    np.testing.assert_array_equal(
        Image.open(tmp_path / "face/000000.png"), flatten(second, frame.shape)
    )
    assert len(list(tmp_path.rglob("*.*"))) == 2


def test_a_folder_that_is_a_file_is_told(tmp_path, frame):
    (tmp_path / "layers").write_text("in the way")
    with pytest.raises(OSError, match="cannot be written"):
        LayerFiles(tmp_path / "layers").write(0, frame.shape, [])


# --- matrices ---


def write(path, frames):
    write_matrices(path, "shots/a.mp4", (120, 90), Fraction(30000, 1001), frames)
    return json.loads(path.read_text())


def test_the_matrices_are_whole_json_with_a_line_a_frame(tmp_path):
    matrix = np.array([[0.5, 0, -3], [0, 0.5, 1 / 3]])
    frames = [
        FrameFaces(4, Fraction(4004, 30000), [PlacedFace(2, matrix, 64)]),
        FrameFaces(5, Fraction(5005, 30000), []),
    ]
    told = write(tmp_path / "matrices.json", iter(frames))
    assert (told["source"], told["width"], told["height"]) == ("a.mp4", 120, 90)
    assert told["fps"] == "30000/1001"
    assert told["synthetic"]["DigitalSourceType"] == SOURCE_TYPE
    face = {"track": 2, "resolution": 64}
    face["matrix"] = [[0.5, 0.0, -3.0], [0.0, 0.5, 0.333333333]]
    assert told["frames"] == [
        {"index": 4, "time": 0.133467, "faces": [face]},
        {"index": 5, "time": 0.166833, "faces": []},
    ]
    lines = (tmp_path / "matrices.json").read_text().splitlines()
    assert sum('"index"' in line for line in lines) == 2


def test_no_frames_are_json_too(tmp_path):
    assert write(tmp_path / "matrices.json", [])["frames"] == []


def test_a_landmark_is_found_again_where_the_written_matrix_takes_it(tmp_path, frame):
    frame[:] = 0
    frame[38, 62] = 255  # the second point, at (62, 38)
    matrix = crop_matrix(POINTS, 128)
    placed = FrameFaces(0, Fraction(0), [PlacedFace(0, matrix, 128)])
    told = write(tmp_path / "matrices.json", [placed])
    face = told["frames"][0]["faces"][0]
    (a, b, c), (d, e, f) = face["matrix"]
    x, y = a * 62 + b * 38 + c, d * 62 + e * 38 + f
    np.testing.assert_allclose([x, y], transform_points(POINTS, matrix)[1], atol=1e-6)
    crop = align(frame, matrix, face["resolution"])[..., 0].astype(float)
    grid_y, grid_x = np.mgrid[:128, :128]
    found = [(crop * grid).sum() / crop.sum() for grid in (grid_x, grid_y)]
    np.testing.assert_allclose(found, [x, y], atol=0.1)


def test_an_interrupted_file_of_matrices_leaves_nothing(tmp_path):
    def frames():
        yield FrameFaces(0, Fraction(0), [])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "matrices.json", frames())
    assert not list(tmp_path.iterdir())

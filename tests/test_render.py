import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fsgan.faces.geometry import align, crop_matrix, transform_points
from fsgan.media.provenance import SOURCE_TYPE, read_marks
from fsgan.media.reader import VideoInfo
from fsgan.swap.compositing import Layer, flatten
from fsgan.swap.render import write_layers, write_matrices

SHAPE = (90, 120, 3)
POINTS = np.array([[30.0, 40], [62, 38], [46, 55], [35, 70], [60, 71]])


def random_layer(seed, rows, columns):
    rng = np.random.default_rng(seed)
    size = (rows.stop - rows.start, columns.stop - columns.start)
    rgb = rng.uniform(0, 255, (*size, 3)).astype(np.float32)
    return Layer(rows, columns, rgb, rng.uniform(0, 1, (*size, 1)).astype(np.float32))


def test_each_frame_has_a_face_and_a_mask_marked_as_synthetic(tmp_path):
    layers = [random_layer(2, slice(5, 50), slice(0, 70))]
    write_layers(tmp_path, 7, SHAPE, [random_layer(3, slice(0, 9), slice(0, 9))])
    write_layers(tmp_path, 7, SHAPE, layers)  # replaces what a killed run left
    write_layers(tmp_path, 8, SHAPE, [])
    for index, of_frame in ((7, layers), (8, [])):
        face, mask = (tmp_path / it / f"{index:06d}.png" for it in ("face", "mask"))
        expected = flatten(of_frame, SHAPE)
        np.testing.assert_array_equal(Image.open(face), expected)
        np.testing.assert_array_equal(Image.open(mask), expected[..., 3])
        for path in (face, mask):
            assert read_marks(path)["DigitalSourceType"] == SOURCE_TYPE


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "layers").write_text("in the way")
    with pytest.raises(OSError, match="cannot be written"):
        write_layers(tmp_path / "layers", 0, SHAPE, [])


def test_the_file_holds_a_line_for_each_frame_and_explains_itself(tmp_path):
    fps = Fraction(30000, 1001)
    info = VideoInfo(Path("é.mp4"), 120, 90, fps, 2 / float(fps), 2, False)
    matrix = [[0.5, 0.1, 3], [-0.1, 0.5, 4]]
    faces = [{"track": 3, "resolution": 64, "matrix": matrix}]
    frames = [
        {"index": 0, "time": 0.0, "faces": faces},
        {"index": 1, "time": 0.033367, "faces": []},
    ]
    path = tmp_path / "matrices.json"
    for expected in (frames, []):
        write_matrices(path, info, expected)
        record = json.loads(path.read_text("utf-8"))
        assert record["frames"] == expected
        assert path.read_text("utf-8").count('\n  {"index"') == len(expected)
    assert (record["source"], record["fps"]) == ("é.mp4", "30000/1001")
    assert (record["width"], record["height"]) == (120, 90)
    assert "takes the pixel (x, y) of the frame to the pixel" in record["convention"]
    assert record["synthetic"]["DigitalSourceType"] == SOURCE_TYPE


def test_a_landmark_lies_where_its_matrix_takes_it_as_the_convention_says():
    frame = np.zeros(SHAPE, np.uint8)
    frame[38, 62] = 255  # the second point, at (62, 38)
    matrix = crop_matrix(POINTS, 128)
    (a, b, c), (d, e, f) = matrix
    x, y = a * 62 + b * 38 + c, d * 62 + e * 38 + f
    np.testing.assert_allclose([x, y], transform_points(POINTS, matrix)[1], atol=1e-6)
    crop = align(frame, matrix, 128)[..., 0].astype(float)
    grid_y, grid_x = np.mgrid[:128, :128]
    found = [(crop * grid).sum() / crop.sum() for grid in (grid_x, grid_y)]
    np.testing.assert_allclose(found, [x, y], atol=0.1)

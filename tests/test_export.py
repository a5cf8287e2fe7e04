import os
import re
import subprocess
import sys
from importlib.util import find_spec

import cv2
import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from skimage.data import astronaut

from fsgan.__main__ import main
from fsgan.faces.geometry import (
    crop_matrix,
    fit_similarity,
    invert,
    transform_points,
    warp,
)
from fsgan.media.provenance import is_synthetic
from fsgan.models.checkpoint import (
    latest_checkpoint,
    load_generator,
    read_settings,
    save_checkpoint,
)
from fsgan.models.networks import ModelConfig, build_networks
from fsgan.swap import export as module
from fsgan.swap.color import ColorMatcher
from fsgan.swap.compositing import feather
from fsgan.swap.export import export

pytestmark = pytest.mark.slow

QUICK = {"network": "quick", "norm": "none", "attention": False, "coverage": 1.1}
PLAIN = {"attention": False, "latent": 8}
MODELS = {
    "quick": {**QUICK, "latent": 8},
    "v2.2": {"latent": 8},
    "standard": {**PLAIN, "capacity": "standard", "norm": "none"},
    "no mask": {**PLAIN, "mask": False, "norm": "layernorm"},
    "side output": {**PLAIN, "resolution": 128, "norm": "groupnorm"},
    "batchnorm": {**PLAIN, "norm": "batchnorm"},
}
# As FaceFusion and InsightFace have them.
WHOLE_FACE = [[0.3534, 0.3929], [0.6280, 0.3929], [0.4866, 0.5402]]
WHOLE_FACE += [[0.3884, 0.6875], [0.5982, 0.6875]]
ARCFACE = [[46.2946, 51.6963], [81.5318, 51.5014], [64.0252, 71.7366]]
ARCFACE += [[49.5493, 92.3655], [78.7299, 92.2041]]
POINTS = {"facefusion": WHOLE_FACE, "visomaster": np.divide(ARCFACE, 128)}
# Left, top and width of the view of coverage 0.8, shares of the crop's side.
SLICES = {
    "facefusion": (0.2131, 0.2480, 0.5247),
    "visomaster": (0.2054, 0.2517, 0.5567),
}


def save_model(folder, **options):
    """A model whose weights all differ from what they start as."""
    settings = {"capacity": "lite", "discriminators": False, **options}
    model = ModelConfig(**settings)
    networks, rng = build_networks(model), np.random.default_rng(0)
    for network in networks.values():
        for weight in network.weights:
            if "moving_variance" in weight.path:
                weight.assign(rng.uniform(0.5, 2, weight.shape))
            elif len(weight.shape) == 1:
                weight.assign(weight + rng.normal(0, 0.2, weight.shape))
            else:
                deviation = 1 / np.sqrt(np.prod(weight.shape[:-1]))
                weight.assign(rng.normal(0, deviation, weight.shape))
    save_checkpoint(folder, networks, {}, {"model": model, "iteration": 0})
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of models by name, each made when it is first asked for."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = save_model(tmp_path_factory.mktemp("model"), **MODELS[name])
        return made[name]

    return get


def run(path, crop, morph=None):
    """Runs a file as DeepFaceLive, FaceFusion and VisoMaster do."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    assert inputs[0].name == "in_face:0" and inputs[0].type == "tensor(float)"
    height, width = inputs[0].shape[1:3]
    assert crop.shape == (height, width, 3)
    given = {"in_face:0": crop[None]}
    if len(inputs) == 2:
        assert inputs[1].name == "morph_value:0" and inputs[1].shape == [1]
        given["morph_value:0"] = np.array([morph], np.float32)
    face_mask, face, mask = (it[0] for it in session.run(None, given))
    names = [it.name for it in session.get_outputs()]
    assert names == ["out_face_mask:0", "out_celeb_face:0", "out_celeb_face_mask:0"]
    assert face.shape == crop.shape and mask.shape == (height, width, 1)
    assert face.dtype == mask.dtype == np.float32
    np.testing.assert_array_equal(face_mask, mask)
    return face, mask


def view_of(target, size, coverage):
    """Left and top, and the width, of our view in a reader's crop, pixels."""
    left, top, width = SLICES[target]
    middle, width = np.array([left, top]) + width / 2, width * coverage / 0.8
    return size * (middle - width / 2) + 0.5, size * width


def photo(size):
    """A picture without sharp edges, RGB float32 [0, 1]."""
    blurred = cv2.GaussianBlur(astronaut()[:400, :400], (0, 0), 8)
    return cv2.resize(blurred, (size, size)).astype(np.float32) / 255


def expected(folder, target, crop, person="b", color="none"):
    """What our generator makes of a reader's crop: picture and mask."""
    checkpoint, size = latest_checkpoint(folder), len(crop)
    config = read_settings(checkpoint)["model"]
    side, quick = config.resolution, config.network == "quick"
    start, width = view_of(target, size, config.coverage)
    scale = side / width
    shift = (0.5 - start) * scale - 0.5  # centres of pixels, not their corners
    matrix = np.column_stack([scale * np.eye(2), shift])
    view = warp(crop, matrix, (side, side))
    made = load_generator(checkpoint, person).predict_on_batch(2 * view[None] - 1)
    alpha, rgb = (keras.ops.convert_to_numpy(it)[0] for it in made)
    alpha = alpha * feather(side, 0.04 if quick else 0.15)
    levels = ColorMatcher(color).match((rgb + 1) * 127.5, 255 * view, alpha)
    back, extent = invert(matrix), (size, size)
    face = warp(levels / 255, back, extent)
    mask = warp(alpha, back, extent, border=cv2.BORDER_CONSTANT)[..., None]
    return mask * face + (1 - mask) * crop, mask


@pytest.mark.parametrize("target", POINTS)
def test_the_view_is_where_a_real_face_has_it(target, portrait, detector):
    [face] = detector.detect(portrait)
    theirs = fit_similarity(face.landmarks, 224 * np.array(POINTS[target]))
    ours = invert(crop_matrix(face.landmarks, 64, 0.8))
    corners = np.array([[0, 0], [64, 0], [0, 64], [64, 64]]) - 0.5
    corners = transform_points(transform_points(corners, ours), theirs) + 0.5
    (left, top), width = view_of(target, 224, 0.8)
    square = [[x, y] for y in (top, top + width) for x in (left, left + width)]
    np.testing.assert_allclose(corners, square, atol=1)


@pytest.mark.parametrize("name", MODELS)
def test_plain_onnx_is_the_generator(models, name, tmp_path):
    path = export(models(name), tmp_path / "b.onnx", target="onnx")
    onnx.checker.check_model(path, full_check=True)
    generator = load_generator(latest_checkpoint(models(name)), "b")
    side = generator.input_shape[1]
    faces = np.random.default_rng(0).uniform(-1, 1, (2, side, side, 3))
    faces = faces.astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [it.name for it in session.get_outputs()] == ["alpha", "rgb"]
    ours = session.run(None, {"face": faces})
    for x, exact in zip(ours, generator.predict_on_batch(faces), strict=True):
        np.testing.assert_allclose(x, exact, atol=1e-4)
    assert ours[1].std() > 0.1


@pytest.fixture
def tolerance(coarse):
    """Of values from 0 to 1: the generator's crop is one of OpenCV's warps."""
    return (4 if coarse else 2) / 255


@pytest.mark.parametrize("target", POINTS)
@pytest.mark.parametrize("name", ["quick", "v2.2", "no mask"])
@pytest.mark.parametrize("color", ["none", "adain"])
def test_a_reader_gets_what_our_generator_makes(
    models, name, target, color, tmp_path, tolerance
):
    crop = photo(224)
    path = export(models(name), tmp_path / "b.dfm", target=target, color=color)
    face, mask = run(path, crop[..., ::-1].copy())
    picture, alpha = expected(models(name), target, crop, color=color)
    np.testing.assert_allclose(mask, alpha, atol=tolerance)
    np.testing.assert_allclose(face[..., ::-1], picture, atol=tolerance)
    assert mask.max() > 0.2 and not mask[:5].any()
    np.testing.assert_allclose(face[:5], crop[:5, :, ::-1], atol=1e-6)


@pytest.mark.parametrize(("morph", "person"), [(1, "a"), (0, "b")])
def test_morph_value_goes_from_ones_own_face_to_the_others(
    models, morph, person, tmp_path, tolerance
):
    path = tmp_path / "a.dfm"
    options = {"direction": "BtoA", "size": 256, "color": "none", "morph": True}
    export(models("quick"), path, **options)
    onnx.checker.check_model(path, full_check=True)
    crop = photo(256)
    face, _ = run(path, crop[..., ::-1].copy(), morph)
    picture, _ = expected(models("quick"), "facefusion", crop, person)
    np.testing.assert_allclose(face[..., ::-1], picture, atol=tolerance)


def test_what_lies_outside_the_readers_crop_repeats_its_border(tmp_path):
    folder = save_model(tmp_path / "model", **MODELS["quick"] | {"coverage": 1.6})
    path = export(folder, tmp_path / "b.dfm", target="visomaster")
    gray = np.full((224, 224, 3), 0.5, np.float32)
    _, mask = run(path, gray)
    assert np.isfinite(mask).all() and mask[0].max() > 0


def test_the_file_says_what_it_is_and_that_what_it_makes_is_synthetic(models, tmp_path):
    path = export(models("quick"), tmp_path / "a.onnx", "BtoA", "onnx")
    model = onnx.load(path)
    said = {it.key: it.value for it in model.metadata_props}
    assert is_synthetic(said["DigitalSourceType"]) and "Synthetic" in said["comment"]
    assert said["software"].startswith("fsgan")
    assert (said["direction"], said["target"]) == ("BtoA", "onnx")
    assert said["resolution"] == "64"
    assert re.match(r"\[\[21\.\d+, 20\.\d+\], ", said["landmarks"])
    assert [(it.domain, it.version) for it in model.opset_import] == [("", 12)]


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_file_is_the_same_on(models, backend, tmp_path):
    if not find_spec(backend):
        pytest.skip(f"{backend} is not installed")
    model, other = models("v2.2"), tmp_path / "other.dfm"
    code = f"import fsgan; fsgan.export({str(model)!r}, {str(other)!r}, morph=True)"
    environment = os.environ | {"KERAS_BACKEND": backend}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    path = export(model, tmp_path / "ours.dfm", morph=True)
    assert path.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 225}, "size must be a multiple of 8, got 225"),
        ({"target": "photoshop"}, "target must be 'facefusion', 'deepfacelive', "),
        ({"target": "onnx"}, r"a file for onnx must end in \.onnx, got b\.dfm"),
        ({"out": "b.onnx"}, r"a file for facefusion must end in \.dfm, got b\.onnx"),
        ({"direction": "AtoC"}, "direction must be 'AtoB' or 'BtoA'"),
    ],
)
def test_a_wrong_argument_is_one_sentence(models, arguments, message, tmp_path):
    out = tmp_path / arguments.pop("out", "b.dfm")
    with pytest.raises(ValueError, match=message):
        export(models("quick"), out, **arguments)
    assert not out.exists()


def test_one_persons_model_has_one_direction(tmp_path):
    folder = save_model(tmp_path / "model", **MODELS["quick"], people=1)
    for options in {"direction": "AtoB"}, {"direction": "BtoA", "morph": True}:
        with pytest.raises(ValueError, match="knows one person and cannot"):
            export(folder, tmp_path / "b.dfm", **options)
    assert export(folder, tmp_path / "a.dfm", "BtoA").exists()


def test_a_folder_without_checkpoint_and_a_missing_onnx_are_named(
    tmp_path, monkeypatch
):
    with pytest.raises(FileNotFoundError, match=f"no trained model in {tmp_path}"):
        export(tmp_path, tmp_path / "b.dfm")
    monkeypatch.setattr(module, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'fsgan\[export\]'"):
        export(tmp_path, tmp_path / "b.dfm")


def test_the_command_writes_the_file_and_replaces_it_only_when_told(
    models, tmp_path, capsys
):
    arguments = ["export", str(models("quick")), str(tmp_path / "b.dfm")]
    assert main(arguments) == 0
    assert "written to" in capsys.readouterr().out
    assert main(arguments) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "true"]) == 0

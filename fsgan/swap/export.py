"""Models for other programs: plain ONNX, or the .dfm files that live swappers read.

A .dfm file is an ONNX graph by the contract of DeepFaceLive: a reader cuts its own crop
of a face, wider than ours, and gets back a crop of the same size and two masks. So the
graph holds the way there and back: our view is cut out of the reader's crop, swapped as
`fsgan.swap.swapper` does, and put back.

Inside, images are (n, channels, height, width), as ONNX has it. The graph is written
from the Keras layers, without the backend: all three give the same file.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

import keras
import numpy as np
from keras import KerasTensor, Operation
from pydantic import Field

from fsgan.faces.geometry import fit_similarity, mean_landmarks
from fsgan.media.credentials import SOURCE_TYPE, software
from fsgan.media.files import check_output, write_beside
from fsgan.models.checkpoint import latest_checkpoint, load_coders, read_settings
from fsgan.models.networks import ModelConfig
from fsgan.swap.compositing import feather
from fsgan.swap.swapper import DIRECTIONS
from fsgan.validation import checked

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError:
    onnx = None

# -> where its crops have the five points: pixels of the crop, as shares of its side.
# Sources: FaceFusion, "dfl_whole_face"; InsightFace, ArcFace's points in 128 pixels.
_WHOLE_FACE = [0.3534, 0.3929, 0.6280, 0.3929, 0.4866, 0.5402]
_WHOLE_FACE += [0.3884, 0.6875, 0.5982, 0.6875]
_ARCFACE = [0.3617, 0.4039, 0.6370, 0.4024, 0.5002, 0.5604]
_ARCFACE += [0.3871, 0.7216, 0.6151, 0.7203]
_READERS = {
    "facefusion": _WHOLE_FACE,
    "deepfacelive": _WHOLE_FACE,
    "visomaster": _ARCFACE,
}
_OPSET, _IR_VERSION = 12, 7  # what the oldest of the readers' runtimes know


@checked
def export(
    model: str | Path,
    out: str | Path,
    direction: Literal[*DIRECTIONS] = "AtoB",
    target: Literal[*_READERS, "onnx"] = "facefusion",
    size: Annotated[int, Field(ge=64, le=1024, multiple_of=8)] = 224,
    color: Literal["adain", "none"] = "adain",
    morph: bool = False,
    overwrite: bool = False,
) -> Path:
    """Writes a trained model as a file that other programs run, in float32.

    For "facefusion", "deepfacelive" and "visomaster" it takes `in_face:0` (n, size,
    size, 3), BGR in [0, 1], and gives `out_face_mask:0` (n, size, size, 1),
    `out_celeb_face:0` (n, size, size, 3), BGR in [0, 1], and `out_celeb_face_mask:0`
    (n, size, size, 1). The face is already blended in, so masks may be ignored; both
    are the same. What of our view lies outside the crop repeats its border.

    For "onnx" it takes `face` (n, R, R, 3), RGB in [-1, 1], R the model's resolution,
    and gives `alpha` (n, R, R, 1) in [0, 1] and `rgb` (n, R, R, 3) in [-1, 1].

    What it makes, and where "onnx" expects the five points, is in the file's metadata.

    Args:
        model: folder given to `fsgan.train`.
        out: file to write: .onnx for "onnx", .dfm for the others.
        direction: "AtoB" puts B's face on footage of A; or "BtoA".
        target: program that will read it: facefusion, deepfacelive, visomaster, onnx.
        size: side of the reader's crop in pixels, a multiple of 8 from 64 to 1024; not
            for "onnx".
        color: "adain" gives the face the colours of the one it replaces, frame by frame
            and as of `ConvertSettings`; "none" leaves that to the reader; not for
            "onnx".
        morph: whether there is a second input, `morph_value:0` (1,): 1 shows the other
            person, 0 the own face as the model rebuilds it; not for "onnx".
        overwrite: whether to replace the file if it exists.

    Returns:
        The file.

    Raises:
        FileExistsError: the file exists.
        FileNotFoundError: the folder holds no checkpoint.
        ImportError: onnx is not installed.
        ValueError: an argument is wrong, the model does not know a person, or the
            checkpoint is damaged.
        OSError: the file cannot be written.
    """
    out, suffix = Path(out), ".onnx" if target == "onnx" else ".dfm"
    if onnx is None:
        raise ImportError("onnx is not installed (pip install 'fsgan[export]')")
    if out.suffix != suffix:
        raise ValueError(f"a file for {target} must end in {suffix}, got {out.name}")
    check_output(out)
    if out.exists() and not overwrite:
        raise FileExistsError(
            f"{out} exists already: give another name, or say overwrite=True"
        )
    checkpoint = latest_checkpoint(model)
    if checkpoint is None:
        raise FileNotFoundError(
            f"no trained model in {model}: give the folder that train wrote to"
        )
    config, shown = read_settings(checkpoint)["model"], DIRECTIONS[direction]
    morph = morph and target != "onnx"
    people = shown + ("a" if shown == "b" else "b") if morph else shown
    encoder, *decoders = load_coders(checkpoint, people)
    graph = _Graph()
    if target == "onnx":
        sides = _plain(graph, encoder, decoders)
    else:
        networks, points = (encoder, *decoders), _READERS[target]
        sides = _for_reader(graph, networks, config, points, size, color)
    made = helper.make_model(
        helper.make_graph(graph.nodes, "fsgan", *sides, graph.weights),
        opset_imports=[helper.make_operatorsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="fsgan",
    )
    helper.set_model_props(made, _metadata(config, direction, target))
    onnx.checker.check_model(made)
    with write_beside(out) as temporary:
        temporary.write_bytes(made.SerializeToString(deterministic=True))
    return out


def _metadata(config: ModelConfig, direction: str, target: str) -> dict[str, str]:
    points = mean_landmarks(config.resolution, config.coverage)
    return {
        "comment": "Synthetic media: a neural network made the faces that this model "
        "shows. Say so wherever they are shown.",
        "DigitalSourceType": SOURCE_TYPE,
        "software": software(),
        "direction": direction,
        "target": target,
        "resolution": str(config.resolution),
        "landmarks": json.dumps(points.round(2).tolist()),
    }


class _Graph:
    """The nodes and weights of an ONNX graph, in the order in which they are added."""

    def __init__(self) -> None:
        self.nodes, self.weights = [], []

    def add(self, kind: str, *inputs, output: str | None = None, **attributes) -> str:
        """Adds a node, and what of its inputs is no name as a weight.

        Returns:
            Name of its output.
        """
        names = [x if isinstance(x, str) else self._store(x) for x in inputs]
        output = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [output], **attributes))
        return output

    def _store(self, values) -> str:
        array = np.asarray(values)
        kind = np.int64 if array.dtype.kind == "i" else np.float32
        name = f"weight_{len(self.weights)}"
        array = np.ascontiguousarray(array, kind).reshape(array.shape)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def network(self, network: keras.Model, image: str) -> list[str]:
        """Adds a network; returns the names of its first two outputs, or the one."""
        network = keras.Model(network.input, network.outputs[:2])
        names = {id(network.input): image}

        def add(operation: Operation, *arguments, **_) -> KerasTensor:
            inputs = [names[id(x)] for x in keras.tree.flatten(operation.input)]
            names[id(operation.output)] = _add(self, operation, inputs, arguments)
            return operation.output

        # Goes along the network, in order; the clone itself is not needed.
        keras.models.clone_model(
            network, network.input, clone_function=lambda it: it, call_function=add
        )
        return [names[id(x)] for x in network.outputs]


def _plain(graph, encoder, decoders) -> tuple[list, list]:
    """Adds the generator as it is; returns the graph's inputs and outputs."""
    side = encoder.input_shape[1]
    [latent] = graph.network(encoder, graph.add("Transpose", "face", perm=[0, 3, 1, 2]))
    alpha, rgb = graph.network(decoders[0], latent)
    graph.add("Transpose", alpha, output="alpha", perm=[0, 2, 3, 1])
    graph.add("Transpose", rgb, output="rgb", perm=[0, 2, 3, 1])
    image = ("n", side, side)
    outputs = [_value("alpha", *image, 1), _value("rgb", *image, 3)]
    return [_value("face", *image, 3)], outputs


def _for_reader(graph, networks, config, points, size, color) -> tuple[list, list]:
    """Adds the way of a reader's crop; returns the graph's inputs and outputs."""
    (encoder, *decoders), add, side = networks, graph.add, config.resolution
    (left, top), width = _view(points, size, config)

    def resample(image: str, rows: np.ndarray, columns: np.ndarray) -> str:
        return add("MatMul", add("MatMul", rows, image), columns.T)

    crop = add("Transpose", "in_face:0", perm=[0, 3, 1, 2])
    ways = [_resampling(size, side, start, width) for start in (top, left)]
    view = add("Gather", resample(crop, *ways), [2, 1, 0], axis=1)  # RGB
    view = add("Sub", add("Mul", view, 2.0), 1.0)
    [latent] = graph.network(encoder, view)
    alpha, rgb = graph.network(decoders[0], latent)
    inputs = [_value("in_face:0", "n", size, size, 3)]
    if len(decoders) > 1:
        inputs.append(_value("morph_value:0", 1))
        for_own = graph.network(decoders[1], latent)
        alpha, rgb = (
            add("Add", own, add("Mul", add("Sub", other, own), "morph_value:0"))
            for own, other in zip(for_own, (alpha, rgb), strict=True)
        )
    # As wide as where `ConvertSettings.feather` is None.
    fading = feather(side, 0.04 if config.network == "quick" else 0.15)[..., 0]
    alpha = add("Mul", alpha, fading)
    if color == "adain":
        rgb = _match_colors(graph, rgb, view, alpha)
    face = add("Gather", add("Add", add("Mul", rgb, 0.5), 0.5), [2, 1, 0], axis=1)
    scale = side / width
    back = [(side, size, -start * scale, size * scale) for start in (top, left)]
    face = resample(face, *(_resampling(*it) for it in back))
    mask = resample(alpha, *(_resampling(*it, repeat=False) for it in back))
    result = add("Add", crop, add("Mul", mask, add("Sub", face, crop)))
    outputs = []
    for name, image, channels in (  # readers unpack them in this order
        ("out_face_mask:0", mask, 1),
        ("out_celeb_face:0", result, 3),
        ("out_celeb_face_mask:0", mask, 1),
    ):
        add("Transpose", image, output=name, perm=[0, 2, 3, 1])
        outputs.append(_value(name, "n", size, size, channels))
    return inputs, outputs


def _match_colors(graph: _Graph, rgb: str, view: str, alpha: str) -> str:
    """Gives a face the view's mean and deviation, as `ColorMatcher("adain")` does."""
    add, image = graph.add, {"axes": [2, 3], "keepdims": 1}
    total = add("Max", add("ReduceSum", alpha, **image), 1e-6)
    weights = add("Div", alpha, total)

    def moments(x: str) -> tuple[str, str, str]:
        mean = add("ReduceSum", add("Mul", x, weights), **image)
        rest = add("Sub", x, mean)
        squares = add("Mul", add("Mul", rest, rest), weights)
        return mean, rest, add("Sqrt", add("ReduceSum", squares, **image))

    mean, _, wanted = moments(view)
    _, rest, deviation = moments(rgb)
    gain = add("Div", wanted, add("Max", deviation, 1e-3 / 127.5))
    return add("Clip", add("Add", add("Mul", rest, gain), mean), -1.0, 1.0)


def _view(points, size: int, config: ModelConfig) -> tuple[np.ndarray, float]:
    """Where our view lies in a reader's crop: left and top, and its width, pixels.

    The five points of the mean face turn by 0.2 degrees between ours and theirs, a
    fifth of a pixel at the view's edge in 224, which is left out.
    """
    side = config.resolution
    ours = mean_landmarks(side, config.coverage)
    matrix = fit_similarity(ours, size * np.reshape(points, (5, 2)))
    scale = np.hypot(*matrix[:, 0])
    middle = matrix @ [(side - 1) / 2, (side - 1) / 2, 1]
    return middle + 0.5 - scale * side / 2, scale * side


def _resampling(
    size: int, new_size: int, start: float, width: float, repeat: bool = True
) -> np.ndarray:
    """Resamples a stretch of an axis, as `fsgan.faces.geometry.warp` does.

    Args:
        size: pixels of the axis.
        new_size: pixels of the result.
        start: of the stretch, in pixels from the axis' beginning; it may be outside.
        width: of the stretch, likewise.
        repeat: whether there are border pixels outside of the axis, or zeros.

    Returns:
        float64 (new_size, size), to be multiplied by the axis.
    """
    fine = max(1, int(np.ceil(0.75 * width / new_size)))
    centres = (np.arange(new_size * fine) + 0.5) / (new_size * fine)
    position = start + centres * width - 0.5
    if repeat:
        position = position.clip(0, size - 1)
    weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(size)))
    return weights.reshape(new_size, fine, size).mean(1)


def _value(name: str, *shape: int | str):
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def _add(graph: _Graph, operation: Operation, inputs: list[str], arguments) -> str:
    """Adds one operation of a Keras network; returns the name of its output."""
    add, x = graph.add, inputs[0]
    channels = operation.output.shape[-1]
    weights = operation.get_weights() if isinstance(operation, keras.Layer) else []
    match type(operation).__name__:
        case "Conv2D":
            return _convolve(graph, operation, x)
        case "Dense":
            return add("Gemm", x, *weights)
        case "Add":
            return add("Add", *inputs)
        case "Identity":
            return x
        case "ReLU":
            return add("Relu", x)
        case "LeakyReLU":
            return add("LeakyRelu", x, alpha=operation.negative_slope)
        case "Sigmoid" | "Tanh" as kind:
            return add(kind, x)
        case "DepthToSpace" | "SpaceToDepth" as kind:
            return add(kind, x, blocksize=operation.block_size)
        case "UpSampling2D":
            scales = np.array([1.0, 1, *operation.size])
            return add("Resize", x, np.zeros(0), scales, mode="nearest")
        case "Pad":
            before, after = np.transpose(operation.pad_width)[:, [0, 3, 1, 2]]
            return add("Pad", x, [*before, *after], mode=operation.mode)
        case "GetItem":  # a slice of channels
            first, last, _ = arguments[1][-1].indices(operation.input.shape[-1])
            return add("Slice", x, [first], [last], [1])
        case "OnesLike":
            return add("Add", add("Sub", x, x), 1.0)
        case "Flatten":
            return add("Flatten", add("Transpose", x, perm=[0, 2, 3, 1]))
        case "Reshape":
            image = add("Reshape", x, [0, *operation.target_shape])
            return add("Transpose", image, perm=[0, 3, 1, 2])
        case "SampleNormalization":
            gamma, beta = weights
            every = {"axes": [1, 2, 3], "keepdims": 1}
            x = add("Sub", x, add("ReduceMean", x, **every))
            variance = add("ReduceMean", add("Mul", x, x), **every)
            deviation = add("Sqrt", add("Max", variance, 1e-12))
            x = add("Div", x, add("Add", deviation, 1e-3))
            return add("Add", add("Mul", x, gamma), beta)
        case "GroupNormalization":
            gamma, beta = (it.reshape(-1, 1, 1) for it in weights)
            groups, _, side, _ = operation.groups, *operation.input.shape[1:]
            x = add("Reshape", x, [0, groups, -1])
            ones, zeros = np.ones(groups), np.zeros(groups)
            epsilon = operation.epsilon
            x = add("InstanceNormalization", x, ones, zeros, epsilon=epsilon)
            x = add("Reshape", x, [0, channels, side, side])
            return add("Add", add("Mul", x, gamma), beta)
        case "BatchNormalization":
            return add("BatchNormalization", x, *weights, epsilon=operation.epsilon)
        case "SelfAttention":
            return _attend(graph, operation, x)
        case kind:
            raise NotImplementedError(f"export has no ONNX for the layer {kind}")


def _convolve(graph: _Graph, layer: keras.layers.Conv2D, x: str) -> str:
    kernel, *bias = layer.get_weights()
    x = graph.add(
        "Conv",
        x,
        kernel.transpose(3, 2, 0, 1),
        *bias,
        strides=layer.strides,
        auto_pad="SAME_UPPER" if layer.padding == "same" else "VALID",
    )
    activation = layer.activation.__name__
    return x if activation == "linear" else graph.add(activation.title(), x)


def _attend(graph: _Graph, layer, x: str) -> str:
    add, (_, height, width, channels) = graph.add, layer.output.shape
    query, key, value = (
        add("Reshape", _convolve(graph, it, x), [0, it.filters, -1])
        for it in (layer.query, layer.key, layer.value)
    )  # (n, channels, h·w)
    scores = add("MatMul", add("Transpose", query, perm=[0, 2, 1]), key)
    scores = add("Softmax", scores, axis=2)
    attended = add("MatMul", scores, add("Transpose", value, perm=[0, 2, 1]))
    attended = add("Transpose", attended, perm=[0, 2, 1])
    attended = add("Reshape", attended, [0, channels, height, width])
    return add("Add", x, add("Mul", attended, layer.scale.get_weights()[0]))

"""The three networks of MTCNN for OpenCV, made from the weights of package `mtcnn`.

The package runs them with TensorFlow, layer by layer. Here its weights are written as
ONNX, in memory, and OpenCV runs them: faster, and on a machine without TensorFlow.
"""

from importlib.util import find_spec
from pathlib import Path

import cv2
import joblib
import numpy as np

# Name of the weight file: sides of the input (named: any), number of heads, side of the
# map that the first dense layer reads, window of the pooling after each convolution.
_NETWORKS = {
    "pnet": (("height", "width"), 2, 1, (2,)),
    "rnet": ((24, 24), 2, 3, (3, 3)),
    "onet": ((48, 48), 3, 3, (3, 3, 2)),
}


def read_network(name: str) -> cv2.dnn.Net:
    """Makes one of MTCNN's networks.

    Args:
        name: `"pnet"`, `"rnet"` or `"onet"`.

    Returns:
        The network. It takes float32 (n, 3, height, width), RGB in [-1, 1], and gives
        (n, channels, rows, columns): four offsets of the box; for `"onet"` five x and
        five y of the points; two logits, no face and face. `"pnet"` takes a whole image
        and answers for each 12x12 window at a stride of 2; the others take patches of
        24x24 or 48x48 and answer with one row and one column.

    Raises:
        FileNotFoundError: the package `mtcnn` is not installed.

    Source: Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded
    Convolutional Networks", 2016; package `mtcnn`.
    """
    package = find_spec("mtcnn")  # found, not imported: that would start TensorFlow
    if package is None:
        raise FileNotFoundError("the package mtcnn is not installed: pip install mtcnn")
    folder = Path(package.submodule_search_locations[0], "assets", "weights")
    model = _model(name, joblib.load(folder / f"{name}.lz4"))
    return cv2.dnn.readNetFromONNX(np.frombuffer(model, np.uint8))


def _layers(name: str, weights: list[np.ndarray]) -> list[tuple]:
    """Kernel (out, in, rows, columns), bias and slopes of PReLU of each layer."""
    _, heads, side, _ = _NETWORKS[name]
    hidden, outputs = weights[: -2 * heads], weights[-2 * heads :]
    # The heads read the same features: one layer with all their channels.
    kernels = [*hidden[::3], np.concatenate(outputs[::2], axis=-1)]
    biases = [*hidden[1::3], np.concatenate(outputs[1::2])]
    for i, kernel in enumerate(kernels):
        if kernel.ndim == 2:  # dense: a convolution with a window of the whole map
            by_column = kernel.reshape(side, side, -1, kernel.shape[-1])
            kernels[i], side = by_column.swapaxes(0, 1), 1
    kernels = [kernel.transpose(3, 2, 0, 1) for kernel in kernels]
    return list(zip(kernels, biases, [*hidden[2::3], None], strict=True))


# ONNX is a file of Google's protocol buffers; the numbers are those of `onnx.proto`.


def _model(name: str, weights: list[np.ndarray]) -> bytes:
    """A network as an ONNX file."""
    sides, _, _, pools = _NETWORKS[name]
    nodes, tensors, last = [], [], "image"

    def add(kind: str, *arrays: np.ndarray, **attributes: list[int]) -> None:
        nonlocal last
        output = f"{kind}{len(nodes)}"
        names = [f"{output}.{i}" for i in range(len(arrays))]
        tensors.extend(map(_tensor, names, arrays))
        nodes.append(_node(kind, [last, *names], output, attributes))
        last = output

    for i, (kernel, bias, slopes) in enumerate(_layers(name, weights)):
        add("Conv", kernel, bias, kernel_shape=list(kernel.shape[2:]))
        if slopes is not None:
            add("PRelu", slopes.reshape(-1, 1, 1))
        if i < len(pools):
            window = [pools[i], pools[i]]
            add("MaxPool", kernel_shape=window, strides=[2, 2], ceil_mode=1)
    graph = b"".join(
        [
            *(_field(1, node) for node in nodes),
            _field(2, name),
            *(_field(5, tensor) for tensor in tensors),
            _field(11, _value("image", ("count", 3, *sides))),
            _field(12, _value(last, ("count", "channels", "rows", "columns"))),
        ]
    )
    operators = _field(1, "") + _field(2, 13)
    return _field(1, 8) + _field(7, graph) + _field(8, operators)


def _node(
    kind: str, inputs: list[str], output: str, attributes: dict[str, int | list[int]]
) -> bytes:
    node = b"".join(_field(1, name) for name in inputs)
    node += _field(2, output) + _field(4, kind)
    for name, value in attributes.items():
        attribute = _field(1, name)
        if isinstance(value, int):
            attribute += _field(3, value) + _field(20, 2)
        else:
            attribute += b"".join(_field(8, x) for x in value) + _field(20, 7)
        node += _field(5, attribute)
    return node


def _tensor(name: str, array: np.ndarray) -> bytes:
    dimensions = b"".join(_field(1, size) for size in array.shape)
    values = np.ascontiguousarray(array, "<f4").tobytes()
    return dimensions + _field(2, 1) + _field(8, name) + _field(9, values)


def _value(name: str, shape: tuple[int | str, ...]) -> bytes:
    sizes = (_field(1 if isinstance(size, int) else 2, size) for size in shape)
    dimensions = b"".join(_field(1, size) for size in sizes)
    return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, dimensions)))


def _field(number: int, value: int | str | bytes) -> bytes:
    """A numbered field of a protocol buffer."""
    if isinstance(value, int):
        return _variable_length(number << 3) + _variable_length(value)
    content = value.encode() if isinstance(value, str) else value
    return _variable_length(number << 3 | 2) + _variable_length(len(content)) + content


def _variable_length(number: int) -> bytes:
    """Seven bits a byte, least first; the eighth bit says that more follow."""
    if number < 128:
        return bytes([number])
    return bytes([number & 127 | 128]) + _variable_length(number >> 7)

"""Writes MTCNN's three networks as ONNX files, from the weights of package `mtcnn`.

Run it from the repository: `python tools/make_mtcnn_onnx.py`. It needs the packages
`mtcnn`, `joblib`, `lz4` and `onnx`, none of which fsgan needs to find faces.
"""

from importlib.util import find_spec
from pathlib import Path

import joblib
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FOLDER = Path(__file__).parents[1] / "fsgan" / "assets" / "mtcnn"
# Name of the weight file: sides of the input (named: any), number of heads, side of the
# map that the first dense layer reads, window of the pooling after each convolution.
NETWORKS = {
    "pnet": (("height", "width"), 2, 1, (2,)),
    "rnet": ((24, 24), 2, 3, (3, 3)),
    "onet": ((48, 48), 3, 3, (3, 3, 2)),
}


def make_network(name: str) -> onnx.ModelProto:
    """Makes one of the networks.

    Args:
        name: `"pnet"`, `"rnet"` or `"onet"`.

    Returns:
        The network. It takes float32 (n, 3, height, width), RGB in [-1, 1], and gives
        (n, channels, rows, columns): four offsets of the box; for `"onet"` five x and
        five y of the points; two logits, no face and face. `"pnet"` takes a whole image
        and answers for each 12x12 window at a stride of 2; the others take patches of
        24x24 or 48x48 and answer with one row and one column.
    """
    sides, _, _, pools = NETWORKS[name]
    nodes, weights, last = [], [], "image"

    def add(kind: str, *arrays: np.ndarray, **attributes: int | list[int]) -> None:
        nonlocal last
        output = f"{kind}{len(nodes)}"
        names = [f"{output}.{index}" for index in range(len(arrays))]
        weights.extend(map(numpy_helper.from_array, arrays, names))
        nodes.append(helper.make_node(kind, [last, *names], [output], **attributes))
        last = output

    for index, (kernel, bias, slopes) in enumerate(_layers(name)):
        add("Conv", kernel, bias, kernel_shape=list(kernel.shape[2:]))
        if slopes is not None:
            add("PRelu", slopes.reshape(-1, 1, 1))
        if index < len(pools):
            window = [pools[index], pools[index]]
            add("MaxPool", kernel_shape=window, strides=[2, 2], ceil_mode=1)
    shapes = {
        "image": ("count", 3, *sides),
        last: ("count", "channels", "rows", "columns"),
    }
    values = [
        helper.make_tensor_value_info(value, TensorProto.FLOAT, shape)
        for value, shape in shapes.items()
    ]
    graph = helper.make_graph(nodes, name, values[:1], values[1:], weights)
    opset = helper.make_operatorsetid("", 13)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def _layers(name: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Kernel (out, in, rows, columns), bias and slopes of PReLU of each layer."""
    _, heads, side, _ = NETWORKS[name]
    package = find_spec("mtcnn")  # found, not imported: that would start TensorFlow
    folder = Path(package.submodule_search_locations[0], "assets", "weights")
    weights = joblib.load(folder / f"{name}.lz4")
    hidden, outputs = weights[: -2 * heads], weights[-2 * heads :]
    # The heads read the same features: one layer with all their channels.
    kernels = [*hidden[::3], np.concatenate(outputs[::2], axis=-1)]
    biases = [*hidden[1::3], np.concatenate(outputs[1::2])]
    for index, kernel in enumerate(kernels):
        if kernel.ndim == 2:  # dense: a convolution with a window of the whole map
            by_column = kernel.reshape(side, side, -1, kernel.shape[-1])
            kernels[index], side = by_column.swapaxes(0, 1), 1
    kernels = [np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)) for kernel in kernels]
    return list(zip(kernels, biases, [*hidden[2::3], None], strict=True))


if __name__ == "__main__":
    for network in NETWORKS:
        model = make_network(network)
        onnx.checker.check_model(model)
        onnx.save(model, FOLDER / f"{network}.onnx")

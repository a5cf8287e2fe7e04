"""Generated faces back into the frame: colour, feathering, blending, layouts."""

from typing import NamedTuple

import cv2
import numpy as np

from fsgan.geometry import invert, transform_points, warp

COLOR_METHODS = ("none", "adain", "adain_xyz", "hist_match")
LAYOUTS = {
    1: "result",
    2: "source and result",
    3: "source, result and mask over the darkened source",
}

# Linear RGB -> XYZ with the primaries of sRGB and its white point D65.
_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)


class Layer(NamedTuple):
    """A generated face in its place in the frame.

    Attributes:
        rows: rows of the frame that it may touch.
        columns: columns of the frame that it may touch.
        rgb: RGB float32 [0, 255] (rows, columns, 3).
        alpha: float32 [0, 1] (rows, columns, 1); 1 shows the generated pixel.
    """

    rows: slice
    columns: slice
    rgb: np.ndarray
    alpha: np.ndarray


def match_colors(
    image: np.ndarray, reference: np.ndarray, alpha: np.ndarray, method: str
) -> np.ndarray:
    """Gives a generated face the colours of the face that it replaces.

    Statistics of both pictures are weighted by the mask, so the background, which is
    not replaced, has no say.

    Args:
        image: generated face, RGB float [0, 255] (height, width, 3).
        reference: the face in its place, RGB [0, 255] (height, width, 3).
        alpha: mask, float [0, 1] (height, width, 1).
        method: "none"; "adain" matches mean and deviation of each channel; "adain_xyz"
            does so in the colour space XYZ; "hist_match" matches the histograms.

    Returns:
        RGB float32 [0, 255] (height, width, 3).

    Raises:
        ValueError: `method` is unknown.

    Source: faceswap-GAN v2.2 (2018); adain after Huang and Belongie, "Arbitrary style
    transfer in real-time with adaptive instance normalization", 2017.
    """
    if method not in COLOR_METHODS:
        raise ValueError(f"color must be one of {COLOR_METHODS}, got {method!r}")
    image, reference = image.astype(np.float64), reference.astype(np.float64)
    weights = alpha.ravel().astype(np.float64)
    if method == "none" or not weights.any():
        matched = image
    elif method == "adain":
        matched = _match_moments(image, reference, weights)
    elif method == "adain_xyz":
        matched = _match_moments(image @ _XYZ.T, reference @ _XYZ.T, weights)
        matched = matched @ np.linalg.inv(_XYZ).T
    else:
        matched = np.stack(
            [
                _match_histogram(image[..., channel], reference[..., channel], weights)
                for channel in range(3)
            ],
            axis=-1,
        )
    return matched.clip(0, 255).astype(np.float32)


def feather(size: int, width: float = 0.15) -> np.ndarray:
    """Makes a square mask that fades to 0 at its border.

    Args:
        size: side in pixels.
        width: of the fading border as a share of the side, in (0, 0.5].

    Returns:
        float32 (size, size, 1) in [0, 1].
    """
    position = (np.arange(size) + 0.5) / size
    ramp = np.minimum(np.minimum(position, 1 - position) / width, 1)
    ramp = ramp**2 * (3 - 2 * ramp)
    return np.outer(ramp, ramp)[..., None].astype(np.float32)


def place(
    rgb: np.ndarray, alpha: np.ndarray, matrix: np.ndarray, frame: np.ndarray
) -> Layer:
    """Warps a generated face back to its place, in one step and without aliasing.

    Args:
        rgb: RGB float32 [0, 255] (size, size, 3).
        alpha: float32 [0, 1] (size, size, 1), 0 along the border.
        matrix: float (2, 3), frame pixels to the face's pixels, as of
            `fsgan.geometry.crop_matrix`.
        frame: RGB uint8 (height, width, 3); only its shape is used.

    Returns:
        The face, cut off where the frame ends; of no pixels when it is outside.
    """
    size = rgb.shape[0]
    inverse = invert(matrix)
    ends = np.array([[0, 0], [size, 0], [0, size], [size, size]]) - 0.5
    corners = transform_points(ends, inverse)
    height, width = frame.shape[:2]
    left, top = np.floor(corners.min(0)).astype(int).clip(0, [width, height])
    right, bottom = np.ceil(corners.max(0) + 1).astype(int).clip(0, [width, height])
    extent = (max(right - left, 0), max(bottom - top, 0))
    rows, columns = slice(top, top + extent[1]), slice(left, left + extent[0])
    if 0 in extent:
        empty = np.zeros((extent[1], extent[0], 4), np.float32)
        return Layer(rows, columns, empty[..., :3], empty[..., 3:])
    inverse[:, 2] -= (left, top)
    placed = warp(rgb, inverse, extent, interpolation=cv2.INTER_CUBIC)
    mask = warp(alpha, inverse, extent, border=cv2.BORDER_CONSTANT)
    return Layer(rows, columns, placed, mask[..., None])


def blend(frame: np.ndarray, layers: list[Layer]) -> np.ndarray:
    """Lays generated faces over a frame.

    Args:
        frame: RGB uint8 (height, width, 3); left as it is.
        layers: the faces, the last on top.

    Returns:
        RGB uint8 (height, width, 3); pixels where every alpha is 0 are the frame's.
    """
    result = frame.copy()
    for layer in layers:
        under = result[layer.rows, layer.columns].astype(np.float32)
        mixed = under + layer.alpha * (layer.rgb - under)
        result[layer.rows, layer.columns] = np.round(mixed).clip(0, 255)
    return result


def lay_out(
    source: np.ndarray, result: np.ndarray, layers: list[Layer], layout: int
) -> np.ndarray:
    """Puts source, result and mask side by side.

    Args:
        source: RGB uint8 (height, width, 3).
        result: RGB uint8 (height, width, 3).
        layers: the faces in `result`.
        layout: 1 result; 2 source and result; 3 source, result and mask over the
            darkened source.

    Returns:
        RGB uint8 (height, `layout` * width, 3).

    Raises:
        ValueError: `layout` is none of these.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {tuple(LAYOUTS)}, got {layout!r}")
    if layout == 1:
        return result
    if layout == 2:
        return np.hstack([source, result])
    white = [layer._replace(rgb=np.full_like(layer.rgb, 255)) for layer in layers]
    return np.hstack([source, result, blend(source // 3, white)])


def _match_moments(
    image: np.ndarray, reference: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Gives each channel the weighted mean and deviation of the reference's."""

    def moments(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = pixels.reshape(-1, 3)
        mean = np.average(values, axis=0, weights=weights)
        variance = np.average((values - mean) ** 2, axis=0, weights=weights)
        return mean, np.sqrt(variance)

    (mean, deviation), (new_mean, new_deviation) = moments(image), moments(reference)
    return (image - mean) / (deviation + 1e-7) * new_deviation + new_mean


def _match_histogram(
    image: np.ndarray, reference: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Maps one channel so that its weighted histogram is the reference's."""

    def quantiles(channel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, index = np.unique(channel, return_inverse=True)
        share = np.bincount(index.ravel(), weights)
        seen = share > 0
        return values[seen], np.cumsum(share[seen]) / weights.sum()

    values, quantile = quantiles(image)
    new_values, new_quantile = quantiles(reference)
    return np.interp(image, values, np.interp(quantile, new_quantile, new_values))

"""Generated faces back into the frame: placing, blending, layouts."""

from typing import NamedTuple

import cv2
import numpy as np

from fsgan.faces.geometry import invert, transform_points, warp

BLEND_METHODS = ("alpha", "poisson", "multiband")


class Layer(NamedTuple):
    """A generated face in its place in the frame.

    Attributes:
        rows: those of the frame that it covers.
        columns: likewise.
        rgb: RGB float32 [0, 255] (rows, columns, 3).
        alpha: float32 [0, 1] (rows, columns, 1); 1 shows the generated pixel.
    """

    rows: slice
    columns: slice
    rgb: np.ndarray
    alpha: np.ndarray


def feather(size: int, width: float = 0.15) -> np.ndarray:
    """Makes a square mask that fades to 0 at its border.

    Args:
        size: side in pixels.
        width: of the fading border as a share of the side, in (0, 0.5].

    Returns:
        float32 (size, size, 1) in [0, 1].
    """
    position = (np.arange(size) + 0.5) / size
    ramp = (np.minimum(position, 1 - position) / width).clip(0, 1)
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
            `fsgan.faces.geometry.crop_matrix`.
        frame: RGB uint8 (height, width, 3); only its shape is used.

    Returns:
        The face, cut off where the frame ends; without pixels when it is outside.
    """
    size = rgb.shape[0]
    inverse = invert(matrix)
    ends = np.array([[0, 0], [size, 0], [0, size], [size, size]]) - 0.5
    corners = transform_points(ends, inverse)
    most = frame.shape[1::-1]
    first = np.floor(corners.min(0)).astype(int).clip(0, most)
    last = np.ceil(corners.max(0) + 1).astype(int).clip(first, most)
    columns, rows = map(slice, first, last)
    width, height = extent = tuple(last - first)
    if 0 in extent:
        empty = np.zeros((height, width, 4), np.float32)
        return Layer(rows, columns, empty[..., :3], empty[..., 3:])
    inverse[:, 2] -= first
    placed = warp(rgb, inverse, extent, interpolation=cv2.INTER_CUBIC)
    mask = warp(alpha, inverse, extent, border=cv2.BORDER_CONSTANT)
    # Cubic interpolation overshoots.
    return Layer(rows, columns, placed.clip(0, 255), mask[..., None])


def sharpen(layer: Layer, amount: float) -> Layer:
    """Sharpens a generated face by an unsharp mask.

    Args:
        layer: the face; left as it is.
        amount: at least 0, of the details to add.

    Returns:
        The face with new `rgb`.
    """
    if not amount or not layer.alpha.size:
        return layer
    blurred = cv2.GaussianBlur(
        layer.rgb, (0, 0), max(layer.alpha.shape) / 96, borderType=cv2.BORDER_REPLICATE
    )
    sharper = layer.rgb + amount * (layer.rgb - blurred)
    return layer._replace(rgb=sharper.clip(0, 255))


def enhance(result: np.ndarray, source: np.ndarray, amount: float) -> np.ndarray:
    """Raises the contrast of a swapped frame against its source.

    Args:
        result: RGB uint8 (height, width, 3); left as it is.
        source: RGB uint8 (height, width, 3), the frame before the swap.
        amount: at least 0; 0 changes nothing.

    Returns:
        RGB uint8, (1 + amount) * result - amount * source, clipped.

    Source: faceswap-GAN v2.2 (2018).
    """
    if not amount:
        return result
    return cv2.addWeighted(result, 1 + amount, source, -amount, 0)


def blend(frame: np.ndarray, layers: list[Layer], method: str = "alpha") -> np.ndarray:
    """Lays generated faces over a frame.

    Args:
        frame: RGB uint8 (height, width, 3); left as it is.
        layers: the faces, the last on top.
        method: "alpha" mixes by the mask; "poisson" first fits the face's light to its
            surroundings; "multiband" mixes fine details over a narrower border than
            coarse ones.

    Returns:
        RGB uint8 (height, width, 3); pixels where every alpha is 0 are the frame's.

    Source: Perez et al., "Poisson image editing", 2003, as in OpenCV; Burt and Adelson,
    "A multiresolution spline with application to image mosaics", 1983.
    """
    result = frame.copy()
    for layer in layers:
        if layer.alpha.any():
            _lay(result[layer.rows, layer.columns], layer.rgb, layer.alpha, method)
    return result


def flatten(layers: list[Layer], shape: tuple[int, ...]) -> np.ndarray:
    """Lays generated faces over each other on a transparent picture.

    Args:
        layers: the faces, the last on top.
        shape: (height, width, ...) of the frame.

    Returns:
        RGBA uint8 (height, width, 4) with straight alpha; laid over the frame it looks
        as `blend` by "alpha" does, to 1 level; transparent black without a face.

    Source: Porter and Duff, "Compositing digital images", 1984.
    """
    picture = np.zeros((*shape[:2], 4), np.uint8)
    if not layers:
        return picture
    top = min(layer.rows.start for layer in layers)
    bottom = max(layer.rows.stop for layer in layers)
    left = min(layer.columns.start for layer in layers)
    right = max(layer.columns.stop for layer in layers)
    mixed = np.zeros((bottom - top, right - left, 4), np.float32)  # premultiplied
    for rows, columns, rgb, alpha in layers:
        under = mixed[rows.start - top : rows.stop - top]
        under = under[:, columns.start - left : columns.stop - left]
        under *= 1 - alpha
        under[..., :3] += alpha * rgb
        under[..., 3:] += alpha * 255
    alpha = np.rint(mixed[..., 3:])
    # By the rounded alpha, as that is what others will multiply by.
    straight = mixed[..., :3] * 255 / np.maximum(alpha, 1)
    straight[alpha[..., 0] == 0] = 0
    flat = np.concatenate([np.rint(straight), alpha], axis=-1)
    picture[top:bottom, left:right] = flat.clip(0, 255)
    return picture


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
    """
    if layout == 1:
        return result
    if layout == 2:
        return np.hstack([source, result])
    masks = cv2.LUT(source, np.arange(256, dtype=np.uint8) // 3)
    for layer in layers:
        if layer.alpha.size:
            _lay(masks[layer.rows, layer.columns], np.float32(255), layer.alpha)
    return np.hstack([source, result, masks])


def _lay(
    under: np.ndarray, rgb: np.ndarray, alpha: np.ndarray, method: str = "alpha"
) -> None:
    """Lays a face over its part of a frame, in place."""
    if method == "poisson":
        rgb = _fit_light(under, rgb, alpha)
    elif method == "multiband":
        rgb = _mix_bands(under, rgb, alpha)
        # The bands mix by themselves; what they carry beyond the mask fades quickly.
        alpha = np.minimum(alpha * (4 / alpha.max()), 1)
    below = under.astype(np.float32)
    mixed = rgb - below
    mixed *= alpha
    mixed += below
    np.rint(mixed, out=mixed)
    under[...] = mixed.clip(0, 255, out=mixed)


def _fit_light(under: np.ndarray, rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The face with its own gradients and the light of the frame around it, uint8.

    Only the mask's upper half counts as face: its rim often lies on the background.
    """
    # OpenCV takes 3 pixels off the mask, and fails if it is narrower than 3 or touches
    # the border of the pictures.
    margin = 5
    pad = [(margin, margin), (margin, margin), (0, 0)]
    mask = np.pad((alpha > alpha.max() / 2).astype(np.uint8) * 255, pad)
    mask = cv2.dilate(mask, np.ones((7, 7), np.uint8))
    left, top, width, height = cv2.boundingRect(mask)
    fitted = cv2.seamlessClone(
        np.pad(np.rint(rgb).clip(0, 255).astype(np.uint8), pad, "edge"),
        np.pad(under, pad, "edge"),
        mask,
        (left + width // 2, top + height // 2),
        cv2.NORMAL_CLONE,
    )
    return fitted[margin:-margin, margin:-margin]


def _mix_bands(under: np.ndarray, rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Mixes the two band by band of their Laplacian pyramids, float32."""
    levels = max(0, int(np.log2(min(alpha.shape[:2]) / 8)))
    below, difference = under.astype(np.float32), rgb - under
    most = alpha.max()
    mask = np.clip(2 * alpha[..., 0] - most / 2, 0, most)  # steeper for fine details
    bands = []
    for _ in range(levels):
        size = mask.shape[::-1]
        coarse = [cv2.pyrDown(picture) for picture in (below, difference)]
        fine = [
            picture - cv2.pyrUp(smaller, dstsize=size)
            for picture, smaller in zip((below, difference), coarse, strict=True)
        ]
        bands.append(fine[0] + mask[..., None] * fine[1])
        (below, difference), mask = coarse, cv2.pyrDown(mask)
    mixed = below + mask[..., None] * difference
    for band in reversed(bands):
        mixed = cv2.pyrUp(mixed, dstsize=band.shape[1::-1]) + band
    return mixed

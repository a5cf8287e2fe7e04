"""Random variations of a face, as pure functions on arrays.

Geometry is drawn in *crop units*: whatever its size in pixels, a standard crop reaches
from 0 (left, top) to 256 (right, bottom) and its middle is (128, 128). Pixel `i` of a
standard crop of `size` pixels has its centre at `(i + 0.5) * 256 / size`, which is
where the functions that touch pixels convert. A crop of another extent has the same
middle and is `extent * 256` units wide.
"""

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from pydantic import Field, FiniteFloat
from scipy import ndimage

from fsgan.validation import Share, checked

CROP = 256  # side of a standard crop in crop units
GRID = 5  # nodes along a side of the warp's grid
NODES = np.stack(np.meshgrid(*2 * [np.linspace(0, 1, GRID)]), axis=-1)  # at rest
CENTRED = (NODES - 0.5) @ [1, 1j]  # the same about their middle, as complex numbers
COVERAGE_SPREAD = 0.109  # the share seen varies by this share: 78..97 at 0.684
NODE_NOISE = (5.0, 6.2)  # range of the nodes' standard deviation, crop units
EYES_GROWN = 6.0  # crop units by which masks of eyes reach beyond them
BROW = 1.1  # how far it lies above an eye's middle, half widths of the eye
LIDS = (0.15, 0.7)  # range of what `blink` leaves of an eye's opening
COLOR_BORDER = 60  # crop units cut from each side before colours are measured
BLUR_SIZES = (5, 7, 9, 11)  # length of the motion blur, pixels of the network's image


@checked
@dataclass(frozen=True)
class AugmentationSettings:
    """How much training faces are varied.

    Attributes:
        rotation: largest angle to either side, degrees.
        zoom: largest change of size, share of the size.
        shift: largest move along each axis, share of the crop's width.
        flip: probability of a mirrored face.
        color_match: probability of another face's colours.
        motion_blur: probability of a motion blur (0.25 is a good value).
        blink: probability that the eyes are closed, by a random amount; needs masks.
        unwarped: probability that the input is not distorted: what should come out.
    """

    rotation: Annotated[FiniteFloat, Field(ge=0, le=180)] = 10.0
    zoom: Annotated[FiniteFloat, Field(ge=0, le=0.9)] = 0.1
    shift: Share = 0.05
    flip: Share = 0.5
    color_match: Share = 0.5
    motion_blur: Share = 0.0
    blink: Share = 0.0
    unwarped: Share = 0.0


def match_colors(
    face: np.ndarray,
    partner: np.ndarray,
    ratio: float,
    in_xyz: bool,
    extent: float = 1.0,
) -> np.ndarray:
    """Gives a face the mean and spread of another face's colours.

    Both are measured in the middle of the crops, where there is little background.

    Args:
        face: Crop to change, RGB uint8 (height, width, 3).
        partner: Crop with the wanted colours, RGB uint8, of any size.
        ratio: How far to go, from 0 (the face's own colours) to 1 (the partner's).
        in_xyz: Whether the channels are those of CIE XYZ instead of RGB.
        extent: Width of both crops in widths of the standard crop.

    Returns:
        RGB float32 (height, width, 3) in [0, 255]. Values that leave this range are
        brought back by one shift and one scale for the whole image.

    Source: Reinhard et al. 2001, Color Transfer between Images, equations 10 and 11.
    """
    face = face.astype(np.float32)
    partner = _middle(partner, extent).astype(np.float32)
    if in_xyz:
        face = cv2.cvtColor(face, cv2.COLOR_RGB2XYZ)
        partner = cv2.cvtColor(partner, cv2.COLOR_RGB2XYZ)
    face_mean, face_spread = _color_statistics(_middle(face, extent))
    partner_mean, partner_spread = _color_statistics(partner)
    mean = ratio * partner_mean + (1 - ratio) * face_mean
    spread = ratio * partner_spread + (1 - ratio) * face_spread
    # A spread below one level is noise (or a face of one colour): not to be magnified.
    gain = spread / np.maximum(face_spread, 1.0)
    move = mean - face_mean * gain
    matched = cv2.transform(face, np.column_stack([np.diag(gain), move]))
    matched -= min(matched.min(), 0)
    matched *= 255 / max(matched.max(), 255)
    if in_xyz:
        matched = cv2.cvtColor(matched, cv2.COLOR_XYZ2RGB)
    return np.clip(matched, 0, 255, out=matched)


def close_eyes(
    face: np.ndarray, masks: np.ndarray, opening: float, extent: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Closes the eyes of a face: draws the skin above them down.

    Many people blink too rarely in their footage for a network to learn it.

    Args:
        face: Aligned crop, RGB uint8 (size, size, 3).
        masks: Its masks, uint8 (size, size, channels), eyes first.
        opening: What is left between the lids, share in (0, 1].
        extent: Width of the crop in widths of the standard crop.

    Returns:
        Face and masks with the eyes closed, of the dtypes and shapes of the arguments.
    """
    grown = EYES_GROWN * len(face) / (CROP * extent)
    face, masks, eyes = face.copy(), masks.copy(), masks[..., 0].copy()
    whole = cv2.moments(eyes)
    middle = round(whole["m10"] / max(whole["m00"], 1))
    for begin, eye in ((0, eyes[:, :middle]), (middle, eyes[:, middle:])):
        if np.count_nonzero(eye) < 3:
            continue
        of = cv2.moments(eye)
        centre = np.array([of["m10"], of["m01"]]) / of["m00"] + (begin, 0)
        covariance = np.array([[of["mu20"], of["mu11"]], [of["mu11"], of["mu02"]]])
        variances, axes = np.linalg.eigh(covariance / of["m00"])
        # Half axes of the ellipse of these variances, without what masks are grown by.
        height, width = (2 * np.sqrt(variances.clip(0)) - grown).tolist()
        if height < 0.1 * width:
            continue  # closed already
        across = axes[:, 1] * np.copysign(1, axes[0, 1])
        turn = width * np.stack([across, (-across[1], across[0])], axis=1)
        (right, down), from_pixels = turn[:, 1].tolist(), np.linalg.inv(turn).tolist()
        # Nothing moves beyond half a width to the sides, nor above the brow.
        left, top = np.maximum(centre - 1.5 * width, 0).astype(int).tolist()
        part = np.s_[top : top + int(3 * width) + 2, left : left + int(3 * width) + 2]
        rows, columns = np.indices(eyes[part].shape, np.float32, sparse=True)
        rows, columns = rows + top, columns + left
        x, y = (
            a * (columns - float(centre[0])) + b * (rows - float(centre[1]))
            for a, b in from_pixels
        )
        # In half widths of the eye: the lower lid stays, the upper one comes down, and
        # the skin between it and the brow follows.
        lower = height / width * (1 - x**2).clip(0)
        lid = lower - 2 * lower * opening
        stretch = (BROW - lower) / (BROW + lid)
        above, between = (y + BROW) * stretch - BROW, lower - (lower - y) / opening
        moved = np.where(y < lid, above, between)
        move = np.where((y > -BROW) & (y < lower), moved - y, np.float32(0))
        pixels = columns + move * right, rows + move * down
        for image in (face, masks):
            image[part] = cv2.remap(
                image, *pixels, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
    return face, masks


def affine_matrix(
    rotation: float, zoom: float, shift: tuple[float, float], flip: bool
) -> np.ndarray:
    """Builds the matrix that turns, zooms and moves a crop, then may mirror it.

    Args:
        rotation: Degrees, positive is counter-clockwise, about the crop's middle.
        zoom: Factor, above 1 the face grows.
        shift: Move to the right and down, crop units.
        flip: Whether left and right change places afterwards.

    Returns:
        Float64 (3, 3), maps (x, y, 1) of the old crop to the new one, crop units.
    """
    middle = (CROP / 2, CROP / 2)
    matrix = np.eye(3)
    matrix[:2] = cv2.getRotationMatrix2D(middle, rotation, zoom)
    matrix[:2, 2] += shift
    if flip:
        matrix[0] = (0, 0, CROP) - matrix[0]
    return matrix


def warp_grid(half_width: float, noise: np.ndarray) -> np.ndarray:
    """Lays a grid over the crop's middle and moves each of its nodes.

    Args:
        half_width: Distance from the crop's middle to the grid's border, crop units.
        noise: Move of each node, float (5, 5, 2) as (row, column, xy), crop units.

    Returns:
        Positions of the nodes, float64 (5, 5, 2), crop units.
    """
    return CROP / 2 + (2 * NODES - 1) * half_width + noise


def warp_map(grid: np.ndarray, resolution: int) -> np.ndarray:
    """Interpolates the grid so that its border nodes lie on the image's border.

    Args:
        grid: Positions of the nodes, float (5, 5, 2), any unit.
        resolution: Side of the image, pixels, a multiple of 8.

    Returns:
        Where each pixel comes from, float32 (resolution, resolution, 2) as (x, y).
    """
    # Resizing puts the nodes in the middles of the grid's cells: half a cell too much.
    margin = resolution // 8
    side = resolution + 2 * margin
    enlarged = cv2.resize(grid.astype(np.float32), (side, side))
    return np.ascontiguousarray(enlarged[margin:-margin, margin:-margin])


def target_matrix(grid: np.ndarray, resolution: int) -> np.ndarray:
    """Fits the similarity that brings the moved grid closest to the regular one.

    Args:
        grid: Positions of the nodes, float (5, 5, 2), crop units.
        resolution: Side of the target, pixels.

    Returns:
        Float64 (3, 3), maps crop units to positions in the target, which reach from 0
        to `resolution` from border to border.

    Source: Umeyama 1991. In the plane, with (x, y) as the complex number x + iy, it is
    a line fitted by least squares; scikit-image's general fit takes ten times as long.
    """
    moved = grid[..., 0] + 1j * grid[..., 1]
    middle = moved.mean()
    moved = moved - middle
    turn = resolution * np.vdot(moved, CENTRED) / np.vdot(moved, moved)
    move = resolution * (0.5 + 0.5j) - turn * middle
    return np.array(
        [
            [turn.real, -turn.imag, move.real],
            [turn.imag, turn.real, move.imag],
            [0, 0, 1],
        ]
    )


def motion_blur_kernel(size: int, angle: float) -> np.ndarray:
    """Draws the path of a moving camera: a straight line.

    Args:
        size: Length of the line, pixels, odd.
        angle: Degrees, positive is counter-clockwise, 0 is horizontal.

    Returns:
        Weights, float64 (size, size), with sum 1.
    """
    line = np.zeros((size, size))
    line[size // 2] = 1
    # Cubic interpolation overshoots, and a negative weight would sharpen.
    kernel = ndimage.rotate(line, angle, reshape=False).clip(min=0)
    return kernel / kernel.sum()


def warp_pair(
    image: np.ndarray,
    mask: np.ndarray,
    affine: np.ndarray,
    grid: np.ndarray,
    resolution: int,
    extent: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts the warped input, the straight target and its masks out of a crop.

    Each is interpolated once, straight from the crop, whose border goes on outside.

    Args:
        image: Crop, float32 (size, size, 3).
        mask: Masks of the crop, float32 (size, size, channels).
        affine: Crop to varied crop, float (3, 3), crop units.
        grid: Nodes over the varied crop, float (5, 5, 2), crop units.
        resolution: Side of the results, pixels, a multiple of 8.
        extent: Width of the crop in widths of the standard crop.

    Returns:
        Warped input and target, float32 (resolution, resolution, 3), and masks of the
        target, float32 (resolution, resolution, channels), in the ranges of the
        arguments.
    """
    scale = len(image) / (CROP * extent)
    units_to_pixels = _pixel_matrix(scale, margin=(len(image) - scale * CROP) / 2)
    # Straight lines stay straight under an affine map, so moving the nodes is enough.
    varied_to_pixels = (units_to_pixels @ np.linalg.inv(affine))[:2]
    nodes = grid @ varied_to_pixels[:, :2].T + varied_to_pixels[:, 2]
    border = cv2.BORDER_REPLICATE
    pixels = warp_map(nodes, resolution)
    warped = cv2.remap(image, pixels, None, cv2.INTER_LINEAR, borderMode=border)

    varied_to_target = _pixel_matrix(1) @ target_matrix(grid, resolution)
    matrix = (varied_to_target @ affine @ np.linalg.inv(units_to_pixels))[:2]
    side = (resolution, resolution)
    target = cv2.warpAffine(image, matrix, side, borderMode=border)
    target_mask = cv2.warpAffine(mask, matrix, side, borderMode=border)
    return warped, target, target_mask


def sample(
    face: np.ndarray,
    mask: np.ndarray,
    partner: np.ndarray,
    settings: AugmentationSettings,
    resolution: int,
    coverage: float,
    rng: np.random.Generator,
    extent: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes one training sample: what goes in, what should come out, and its masks.

    Args:
        face: Aligned crop, RGB uint8 (size, size, 3).
        mask: Its masks, uint8 (size, size, channels), 255 is inside.
        partner: Crop whose colours the face may take, RGB uint8 (any, any, 3).
        settings: How much to vary.
        resolution: Side of the network's images, pixels, a multiple of 8.
        coverage: Width that the network sees, in widths of the standard crop.
        rng: Source of every draw.
        extent: Width of face and partner, likewise.

    Returns:
        Warped input and target, RGB float32 (resolution, resolution, 3) in [-1, 1], and
        masks of the target, float32 (resolution, resolution, channels) in [0, 1].

    Source: `random_warp_rev` of faceswap-GAN v2.2.
    """
    if settings.blink and rng.random() < settings.blink:
        face, mask = close_eyes(face, mask, rng.uniform(*LIDS), extent)
    if rng.random() < settings.color_match:
        ratio, in_xyz = rng.random(), rng.random() < 0.5
        image = match_colors(face, partner, ratio, in_xyz, extent)
    else:
        image = face.astype(np.float32)

    affine = affine_matrix(
        rotation=rng.uniform(-settings.rotation, settings.rotation),
        zoom=rng.uniform(1 - settings.zoom, 1 + settings.zoom),
        shift=rng.uniform(-settings.shift, settings.shift, size=2) * CROP,
        flip=rng.random() < settings.flip,
    )
    share = coverage * rng.uniform(1 - COVERAGE_SPREAD, 1 + COVERAGE_SPREAD)
    noise = rng.normal(scale=rng.uniform(*NODE_NOISE), size=(GRID, GRID, 2))
    grid = warp_grid(min(share, extent) * CROP / 2, noise)
    warped, target, masks = warp_pair(
        image, mask.astype(np.float32), affine, grid, resolution, extent
    )
    if settings.unwarped and rng.random() < settings.unwarped:
        warped[:] = target

    if rng.random() < settings.motion_blur:
        kernel = motion_blur_kernel(rng.choice(BLUR_SIZES), rng.uniform(-180, 180))
        for image in (warped, target):
            cv2.filter2D(image, -1, kernel, image)
    for image in (warped, target):  # rounding may not leave [-1, 1]
        image /= 127.5
        image -= 1
        np.clip(image, -1, 1, image)
    masks /= 255
    return warped, target, masks


def _middle(crop: np.ndarray, extent: float) -> np.ndarray:
    """The part of a crop where there is little background."""
    border = 0.5 - (0.5 - COLOR_BORDER / CROP) / extent
    top, left = (round(side * border) for side in crop.shape[:2])
    return crop[top:-top, left:-left]


def _color_statistics(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, float32 (3,)."""
    mean, spread = cv2.meanStdDev(image)
    return mean[:, 0].astype(np.float32), spread[:, 0].astype(np.float32)


def _pixel_matrix(scale: float, margin: float = 0.0) -> np.ndarray:
    """Matrix from border-to-border positions to pixels with centres at integers.

    `margin` is where position 0 lies, pixels from the border.
    """
    return np.array([[scale, 0, margin - 0.5], [0, scale, margin - 0.5], [0, 0, 1]])

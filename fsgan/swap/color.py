"""The colours of generated faces: matched to the faces that they replace."""

import cv2
import numpy as np
from skimage.color import rgb2lab

COLOR_METHODS = ("none", "adain", "adain_xyz", "lab", "hist_match")

_LEVELS = np.arange(256)
_PROBABILITIES = (_LEVELS + 0.5) / 256  # of the quantiles that stand for a histogram
_MAX_RUNS = 64  # remembered, many more than faces in a frame


class ColorMatcher:
    """Gives generated faces the colours of the faces that they replace.

    Statistics are weighted by the mask, so the background has no influence. In a video
    those of the replaced face (moments; for "hist_match" quantiles) are averaged over
    the frames before. Those of the generated face are each frame's own, so that its
    flicker is removed.

    Args:
        method: "none"; "adain" matches mean and deviation of each channel; "adain_xyz"
            and "lab" do so in XYZ and CIELAB; "hist_match" matches the histograms.
        smoothing: share of the colours that is kept from frame to frame, in [0, 1).

    Source: faceswap-GAN v2.2 (2018); adain after Huang and Belongie, "Arbitrary style
    transfer in real-time with adaptive instance normalization", 2017; lab after
    Reinhard et al., "Color transfer between images", 2001.
    """

    def __init__(self, method: str, smoothing: float = 0.8) -> None:
        """Starts without having seen a face."""
        self._method = method
        self._new_share = 1 - smoothing
        self._runs: dict[int, np.ndarray] = {}  # the last seen last

    def match(
        self,
        image: np.ndarray,
        reference: np.ndarray,
        alpha: np.ndarray,
        run: int | None = None,
    ) -> np.ndarray:
        """Matches the colours of the next face.

        Args:
            image: generated face, RGB [0, 255] (height, width, 3).
            reference: the face that it replaces, likewise.
            alpha: mask, float [0, 1] (height, width, 1).
            run: number of the face's uninterrupted run through the video, over which
                colours are smoothed; None matches the face on its own.

        Returns:
            RGB float32 [0, 255] (height, width, 3).
        """
        image = np.asarray(image, np.float32)
        if self._method == "none" or not alpha.any():
            return image.clip(0, 255)
        pixels = _to_space(image, self._method)
        target = _to_space(np.asarray(reference, np.float32), self._method)
        weights = alpha.ravel().astype(np.float64)
        weights /= weights.sum()
        if self._method == "hist_match":
            matched = self._match_histograms(pixels, target, weights, run)
        else:
            mean, deviation = _moments(pixels, weights)
            wanted = self._smooth(np.stack(_moments(target, weights)), run)
            gain = wanted[1] / np.maximum(deviation, 1e-3)  # 0 in a plain face
            matched = (pixels - mean) * gain + wanted[0]
        matched = _from_space(matched.reshape(image.shape), self._method)
        return matched.clip(0, 255).astype(np.float32)

    @property
    def state(self) -> dict[str, np.ndarray]:
        """The colours remembered, int64 and float64 arrays; set it to restore them."""
        return {
            "tracks": np.array(list(self._runs), np.int64),
            "colors": np.array(list(self._runs.values()), np.float64),
        }

    @state.setter
    def state(self, state: dict[str, np.ndarray]) -> None:
        runs = np.asarray(state["tracks"]).tolist()
        self._runs = dict(zip(runs, np.array(state["colors"]), strict=True))

    def _smooth(self, colors: np.ndarray, run: int | None) -> np.ndarray:
        """Averages the colours of a face over its run."""
        if run is None:
            return colors
        kept = self._runs.pop(run, colors)
        self._runs[run] = kept + self._new_share * (colors - kept)
        if len(self._runs) > _MAX_RUNS:
            del self._runs[next(iter(self._runs))]
        return self._runs[run]

    def _match_histograms(
        self,
        pixels: np.ndarray,
        target: np.ndarray,
        weights: np.ndarray,
        run: int | None,
    ) -> np.ndarray:
        """Maps the levels of each channel so that its histogram is the target's."""
        histograms = [_histogram(channel, weights) for channel in target.T]
        quantiles = np.stack([_quantiles(wanted) for wanted in histograms])
        shifts = self._smooth(quantiles, run) - quantiles
        channels = []
        for channel, wanted, shift in zip(pixels.T, histograms, shifts, strict=True):
            histogram = _histogram(channel, weights)
            levels = np.flatnonzero(histogram)
            share = histogram.cumsum()[levels]
            new = _quantiles(wanted, share) + np.interp(share, _PROBABILITIES, shift)
            curve = np.interp(_LEVELS, levels, new)
            lower, part = _split(channel)  # np.interp would take three times as long
            channels.append(curve[lower] + part * np.diff(curve, append=0)[lower])
        return np.stack(channels, axis=-1)


def _to_space(image: np.ndarray, method: str) -> np.ndarray:
    """Pixels (n, 3) in the colour space of a method."""
    if method == "lab":
        image = rgb2lab(image / 255)
    elif method == "adain_xyz":
        image = cv2.cvtColor(image, cv2.COLOR_RGB2XYZ)
    return image.reshape(-1, 3)


def _from_space(image: np.ndarray, method: str) -> np.ndarray:
    """RGB [0, 255] of a picture in the colour space of a method."""
    if method == "lab":
        # OpenCV's way there is off by a level, its way back is not; scikit-image's way
        # back warns of each colour that sRGB lacks.
        return cv2.cvtColor(image.astype(np.float32), cv2.COLOR_LAB2RGB) * 255
    if method == "adain_xyz":
        return cv2.cvtColor(image.astype(np.float32), cv2.COLOR_XYZ2RGB)
    return image


def _moments(pixels: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and deviation of each channel."""
    mean = weights @ pixels
    return mean, np.sqrt(weights @ (pixels - mean) ** 2)


def _histogram(channel: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted histogram (256,); a value between two levels counts for both in part."""
    lower, part = _split(channel)
    upper_weights = part * weights
    histogram = np.bincount(lower, weights - upper_weights, 256)
    histogram[1:] += np.bincount(lower, upper_weights, 256)[:-1]
    return histogram


def _quantiles(
    histogram: np.ndarray, probabilities: np.ndarray = _PROBABILITIES
) -> np.ndarray:
    """Quantiles of a histogram, in levels."""
    levels = np.flatnonzero(histogram)
    return np.interp(probabilities, histogram.cumsum()[levels], levels)


def _split(channel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The level below each value, uint8, and how far above it that lies, in [0, 1)."""
    channel = channel.clip(0, 255)
    lower = channel.astype(np.uint8)
    return lower, channel - lower

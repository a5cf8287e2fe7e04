"""The settings of a conversion."""

from dataclasses import dataclass

from fsgan.faces.detector import FaceDetector
from fsgan.swap.color import COLOR_METHODS
from fsgan.swap.compositing import BLEND_METHODS, LAYOUTS
from fsgan.swap.inference import ENGINES

DIRECTIONS = {"AtoB": "b", "BtoA": "a"}


@dataclass(frozen=True)
class ConvertSettings:
    """How faces are found, generated and put back, and what is written."""

    direction: str = "AtoB"  # "AtoB": B's face on footage of A; "BtoA"
    # Looks
    color: str = "hist_match"  # none, adain, adain_xyz, hist_match, lab
    color_smoothing: float = 0.8  # [0, 1), share kept from the frame before
    blend: str = "alpha"  # alpha, poisson, multiband
    min_alpha: float = 0.0  # [0, 1], shows more of the face than the mask asks for
    feather: float = 0.15  # width of the faded border, share of the generated square
    sharpen: float = 0.0  # at least 0, of the generated face
    enhance: float = 0.0  # at least 0, contrast of the result against the source
    # Faces found
    smoothing: float | None = 0.03  # Kalman process noise, less is smoother; None: off
    min_face: float = 35  # pixels, smaller faces are left alone
    min_confidence: float = 0.8  # of the detector, [0.7, 1]
    search_every: int = 5  # frames; those between are looked at where faces were
    # Output
    layout: int = 1  # 1 result; 2 source, result; 3 source, result, mask
    layers: bool = False  # faces, masks and matrices as files beside a video
    crf: int = 18  # quality of a video, 0 best to 51
    lossless: bool = False  # .mkv alone: every pixel as it was made
    mark: bool = True  # the file says that it is synthetic
    label: bool = False  # so does the picture
    certificate: str | None = None  # PEM file to sign with; None: one of our own
    private_key: str | None = None  # PEM file that belongs to it
    engine: str = "auto"  # what generates, as of `fsgan.swap.inference.ENGINES`

    def __post_init__(self) -> None:
        """Checks names and ranges."""
        for name, accepted in (
            ("direction", tuple(DIRECTIONS)),
            ("color", COLOR_METHODS),
            ("blend", BLEND_METHODS),
            ("layout", tuple(LAYOUTS)),
            ("engine", ENGINES),
        ):
            value = getattr(self, name)
            if value not in accepted:
                raise ValueError(f"{name} must be one of {accepted}, got {value!r}")
        for name, right, accepted in (
            ("min_alpha", 0 <= self.min_alpha <= 1, "in [0, 1]"),
            ("feather", 0 < self.feather <= 0.5, "in (0, 0.5]"),
            ("color_smoothing", 0 <= self.color_smoothing < 1, "in [0, 1)"),
            ("sharpen", self.sharpen >= 0, "at least 0"),
            ("enhance", self.enhance >= 0, "at least 0"),
            ("crf", self.crf in range(52), "in 0..51"),
            ("search_every", self.search_every >= 1, "at least 1"),
            (
                "smoothing",
                self.smoothing is None or self.smoothing > 0,
                "above 0, or None",
            ),
        ):
            if not right:
                raise ValueError(
                    f"{name} must be {accepted}, got {getattr(self, name)}"
                )
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key must be given together")
        FaceDetector(self.min_face, self.min_confidence)

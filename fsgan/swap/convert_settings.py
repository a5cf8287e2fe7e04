"""The settings of a conversion."""

from dataclasses import dataclass

from fsgan.faces.detector import FaceDetector
from fsgan.swap.color import COLOR_METHODS
from fsgan.swap.compositing import BLEND_METHODS, LAYOUTS
from fsgan.swap.inference import ENGINES

DIRECTIONS = {"AtoB": "b", "BtoA": "a"}


@dataclass(frozen=True)
class ConvertSettings:
    """How faces are found, generated and put back, and what is written.

    Attributes:
        direction: "AtoB" puts B's face on footage of A; or "BtoA".
        color: none, adain, adain_xyz, hist_match, lab.
        color_smoothing: [0, 1), share kept from the frame before.
        blend: alpha, poisson, multiband.
        min_alpha: [0, 1], shows more of the face than the mask asks for.
        feather: width of the faded border, share of the generated square.
        sharpen: at least 0, of the generated face.
        enhance: at least 0, contrast of the result against the source.
        smoothing: Kalman process noise, less is smoother; None: off.
        min_face: pixels, smaller faces are left alone.
        min_confidence: of the detector, [0.7, 1].
        search_every: frames; those between are looked at where faces were.
        layout: 1 result; 2 source, result; 3 source, result, mask.
        layers: also write faces, masks and matrices as files beside a video.
        crf: quality of a video, 0 best to 51.
        lossless: every pixel as it was made, .mkv only.
        mark: whether the file says that it is synthetic.
        label: whether the picture says so, too.
        certificate: PEM file to sign with; None: a key made for this one file.
        private_key: PEM file that belongs to it.
        engine: what generates, as of `fsgan.swap.inference.ENGINES`.
    """

    direction: str = "AtoB"
    color: str = "hist_match"
    color_smoothing: float = 0.8
    blend: str = "alpha"
    min_alpha: float = 0.0
    feather: float = 0.15
    sharpen: float = 0.0
    enhance: float = 0.0
    smoothing: float | None = 0.03
    min_face: float = 35
    min_confidence: float = 0.8
    search_every: int = 5
    layout: int = 1
    layers: bool = False
    crf: int = 18
    lossless: bool = False
    mark: bool = True
    label: bool = False
    certificate: str | None = None
    private_key: str | None = None
    engine: str = "auto"

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

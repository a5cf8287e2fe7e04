"""Faces in a frame (MTCNN) and 68 landmarks of a crop (face-alignment)."""

import importlib.util
import logging
from pathlib import Path
from urllib.error import URLError

import cv2
import numpy as np

from fsgan.geometry import Face
from fsgan.weights import check_weights, find_weights

log = logging.getLogger(__name__)

# The package's image pyramid is right for its default alone: with other values of
# `min_face_size` it silently finds nothing. The frame is scaled instead.
_NETWORK_MIN_FACE = 20
_NETWORK_CONFIDENCE = 0.7


class FaceDetector:
    """Finds faces and their five points with MTCNN.

    The networks are loaded with the first frame; that starts TensorFlow.

    Source: Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded
    Convolutional Networks", 2016; package `mtcnn`.
    """

    def __init__(self, min_face: float = 30, min_confidence: float = 0.9) -> None:
        """Sets the thresholds.

        Args:
            min_face: shorter side of the smallest face of interest, in frame pixels,
                at least 20. Larger values are faster: the frame is searched at
                20 / `min_face` of its size.
            min_confidence: smallest score of a face, in [0.7, 1].

        Raises:
            ValueError: a threshold is out of its range.
        """
        if not min_face >= _NETWORK_MIN_FACE:
            raise ValueError(f"min_face must be at least 20 pixels, got {min_face}")
        if not _NETWORK_CONFIDENCE <= min_confidence <= 1:
            raise ValueError(
                f"min_confidence must be in [0.7, 1], got {min_confidence}"
            )
        self.min_face = min_face
        self.min_confidence = min_confidence
        self._mtcnn = None

    def detect(self, image: np.ndarray) -> list[Face]:
        """Finds the faces of one frame.

        Args:
            image: RGB uint8 (height, width, 3).

        Returns:
            The faces, largest first, in pixels of `image`.
        """
        # The search is a little finer than asked, so that a face of just `min_face`
        # is not lost to rounding.
        scale = min(1.0, 1.2 * _NETWORK_MIN_FACE / self.min_face)
        height, width = (round(side * scale) for side in image.shape[:2])
        if min(height, width) < _NETWORK_MIN_FACE:
            return []
        if scale < 1:
            image_small = cv2.resize(
                image, (width, height), interpolation=cv2.INTER_AREA
            )
        else:
            image_small = image
        # As arrays, not as the package's dictionaries: those are rounded to pixels.
        rows = self._networks().detect_faces(
            image_small,
            fit_to_image=False,
            box_format="xyxy",
            output_type="numpy",
            threshold_onet=_NETWORK_CONFIDENCE,
        )
        # Sides are rounded, so each axis has its own exact scale.
        to_frame = np.array([image.shape[1] / width, image.shape[0] / height])
        faces = [_to_face(row, to_frame) for row in rows]
        faces = [
            face
            for face in faces
            if face.confidence >= self.min_confidence and face.size >= self.min_face
        ]
        return sorted(faces, key=lambda face: face.size, reverse=True)

    def _networks(self):
        """The package's detector, made once."""
        if self._mtcnn is None:
            from mtcnn import MTCNN

            self._mtcnn = MTCNN()
        return self._mtcnn


def _to_face(row: np.ndarray, to_frame: np.ndarray) -> Face:
    """Turns (image, box, confidence, five x, five y) into a `Face` of the frame."""
    return Face(
        box=row[1:5] * np.tile(to_frame, 2),
        landmarks=(row[6:16].reshape(2, 5).T + 0.5) * to_frame - 0.5,
        confidence=float(row[5]),
    )


FAN_WEIGHTS = "hub/checkpoints/2DFAN4-11f355bf06.pth.tar"
FAN_SHA256 = "11f355bf06"


class LandmarkDetector:
    """Finds 68 landmarks of an aligned crop with the package `face-alignment`.

    Source: Bulat and Tzimiropoulos, "How far are we from solving the 2D & 3D face
    alignment problem?", 2017.
    """

    def __init__(self, download: bool = False) -> None:
        """Loads the network.

        Args:
            download: lets the package download its weights (about 100 MB) when they are
                neither in `weights/` nor in its own cache.

        Raises:
            FileNotFoundError: the package or its weights are missing; the sentence
                says what to do.
            ValueError: the weight file is damaged.
        """
        if importlib.util.find_spec("face_alignment") is None:
            raise FileNotFoundError(
                "the package face-alignment is not installed: "
                "pip install 'fsgan[landmarks]'"
            )
        import torch.hub
        from face_alignment import FaceAlignment, LandmarksType

        own = torch.hub.get_dir()
        placed = find_weights(FAN_WEIGHTS, FAN_SHA256)
        cached = Path(own).parent / FAN_WEIGHTS
        if placed is None and cached.is_file():
            check_weights(cached, FAN_SHA256)
        elif placed is None and not download:
            raise FileNotFoundError(
                f"the weights of face-alignment are missing: put {cached.name} into "
                f"weights/{Path(FAN_WEIGHTS).parent}/, or allow the download"
            )
        try:
            torch.hub.set_dir(own if placed is None else placed.parents[1])
            self._network = FaceAlignment(
                LandmarksType.TWO_D,
                device="cuda" if torch.cuda.is_available() else "cpu",
                face_detector="folder",  # the only one without weights; never asked
                compile=False,
            )
        except URLError as error:
            raise FileNotFoundError(
                f"the weights of face-alignment could not be downloaded "
                f"({error.reason}): put {cached.name} into "
                f"weights/{Path(FAN_WEIGHTS).parent}/ by hand"
            ) from error
        finally:
            torch.hub.set_dir(own)

    def detect(self, crop: np.ndarray) -> np.ndarray:
        """Finds the landmarks of the face that fills a crop.

        Args:
            crop: RGB uint8 (size, size, 3), as saved by `fsgan.extract_faces`.

        Returns:
            float (68, 2), (x, y) pixels of the crop, in the order of iBUG 300-W.
        """
        size = crop.shape[0]
        return self._network.get_landmarks_from_image(
            crop, detected_faces=[[0, 0, size, size]]
        )[0]

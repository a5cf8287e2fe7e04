"""68 landmarks of aligned crops, with the package face-alignment."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.error import URLError

import numpy as np

from fsgan.assets import check_weights, find_weights

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
            download: lets the package fetch its weights, 100 MB, where none are found.

        Raises:
            FileNotFoundError: the package or its weights are missing.
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
        weights = find_weights(FAN_WEIGHTS, FAN_SHA256)
        cached = Path(own).parent / FAN_WEIGHTS
        place = f"put {cached.name} into weights/{Path(FAN_WEIGHTS).parent}/"
        if weights is None and cached.is_file():
            check_weights(cached, FAN_SHA256)
        elif weights is None and (not download or os.environ.get("FSGAN_OFFLINE")):
            raise FileNotFoundError(
                f"the weights of face-alignment are missing: {place}, or allow the "
                "download"
            )
        try:
            torch.hub.set_dir(own if weights is None else weights.parents[1])
            self._network = FaceAlignment(
                LandmarksType.TWO_D,
                device="cuda" if torch.cuda.is_available() else "cpu",
                face_detector="folder",  # the only one without weights; never asked
                compile=False,
                max_batch_size=16 if torch.cuda.is_available() else 1,
            )
        except URLError as error:
            raise FileNotFoundError(
                "the weights of face-alignment could not be downloaded "
                f"({error.reason}): {place} by hand"
            ) from error
        finally:
            torch.hub.set_dir(own)

    def detect(self, crops: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Finds the landmarks of the faces that fill some crops.

        Args:
            crops: RGB uint8 (size, size, 3) each, standard crops as of
                `fsgan.faces.geometry`.

        Returns:
            For each crop float (68, 2), (x, y) pixels of it, in the order of iBUG
            300-W.
        """
        if not crops:
            return []
        # The package takes many faces only if they are of one image. It looks half a
        # face beyond each box, so the crops are set apart on black, as it would itself
        # fill the outside of a crop.
        size = max(len(crop) for crop in crops)
        image = np.zeros((3 * size, 3 * size * len(crops), 3), np.uint8)
        boxes = []
        for index, crop in enumerate(crops):
            left, side = size * (3 * index + 1), len(crop)
            image[size : size + side, left : left + side] = crop
            boxes.append([left, size, left + side, size + side])
        found = self._network.get_landmarks_from_image(image, detected_faces=boxes)
        return [points - box[:2] for points, box in zip(found, boxes, strict=True)]

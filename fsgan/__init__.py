"""Trainable face swapping: a GAN with one shared encoder and a decoder a person.

The stages, in the order in which they are run:

    fsgan.extract_faces("a.mp4", "faces/a")           # video or photos -> face crops
    fsgan.make_masks("faces/a", "masks/a")            # face crops -> masks
    fsgan.train("faces/a", "faces/b", "model", ...)   # face crops -> trained model
    fsgan.convert_video("a.mp4", "swap.mp4", "model") # video -> swapped video
    fsgan.evaluate("a.mp4", "swap.mp4", ...)          # both -> how good it is

Conventions that hold everywhere in the package:

* Frames and crops are RGB uint8 arrays of shape (height, width, 3). BGR exists only
  at a border that demands it.
* Network tensors are RGB float32 in [-1, 1], shape (batch, height, width, 3).
* Masks are float32 in [0, 1], shape (..., 1); stored, they are pictures with red eyes,
  green face and blue mouth.
* Boxes are (left, top, right, bottom) in float pixels. Landmarks are (n, 2) float
  (x, y) pixels; pixel centres lie on whole numbers. Five points come in the order left
  eye, right eye (as seen in the image), nose, left and right corner of the mouth.
* The sides are A and B. The direction "AtoB" puts B's face on footage of A.
* Frame rates and times of frames are exact fractions.

Names are loaded when they are first used: ``import fsgan`` itself starts neither Keras
nor TensorFlow.
"""

import os

import lazy_loader

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's notes on itself

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["data", "evaluation", "faces", "media", "models", "swap", "training"],
    submod_attrs={
        "data.augmentation": ["AugmentationSettings"],
        "data.curation": ["curate", "examine_faces", "restore_faces"],
        "data.extract": ["extract_faces", "extract_videos"],
        "data.masks": ["make_masks"],
        "data.quality": ["DoctorSettings", "ExamineSettings"],
        "data.sample": ["make_sample_clips"],
        "evaluation.bench": ["benchmark"],
        "evaluation.evaluate": ["evaluate"],
        "evaluation.player": ["compare"],
        "evaluation.review": ["review"],
        "faces.tracks": ["follow_faces"],
        "media.provenance": ["verify"],
        "models.legacy": ["import_legacy"],
        "models.networks": ["ModelConfig"],
        "swap.convert": [
            "convert_image",
            "convert_images",
            "convert_video",
            "convert_videos",
        ],
        "swap.export": ["export"],
        "swap.live": ["live"],
        "swap.swapper": ["ConvertSettings", "FaceSwapper"],
        "training.losses": ["LossWeights"],
        "training.monitor": [
            "NotebookPreview",
            "draw_preview",
            "make_timelapse",
            "plot_training",
            "read_losses",
            "read_validation",
        ],
        "training.pairs": ["train_pairs"],
        "training.recipes": ["TrainSettings", "recipe"],
        "training.train": ["train"],
    },
)

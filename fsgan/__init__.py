"""Trainable face swapping: a GAN with one shared encoder and a decoder a person.

The stages, in the order in which they are run::

    fsgan.extract_faces("a.mp4", "faces/a")           # video or photos -> face crops
    fsgan.make_eye_masks("faces/a", "eye_masks/a")    # face crops -> eye masks
    fsgan.train("faces/a", "faces/b", "model", ...)   # face crops -> trained model
    fsgan.convert_video("a.mp4", "swap.mp4", "model") # video -> swapped video
    fsgan.evaluate("a.mp4", "swap.mp4", ...)          # both -> how good it is

Conventions that hold everywhere in the package:

* Frames and crops are RGB uint8 arrays of shape (height, width, 3). BGR exists only
  at a border that demands it.
* Network tensors are RGB float32 in [-1, 1], shape (batch, height, width, 3).
* Masks are float32 in [0, 1], shape (..., 1).
* Boxes are (left, top, right, bottom) in float pixels. Landmarks are (n, 2) float
  (x, y) pixels; pixel centres lie on whole numbers. Five points come in the order left
  eye, right eye (as seen in the image), nose, left and right corner of the mouth.
* The sides are A and B. The direction "AtoB" puts B's face on footage of A.
* Frame rates and times of frames are exact fractions.

Names are loaded when they are first used: ``import fsgan`` itself starts neither Keras
nor TensorFlow.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "arguments",
        "attention",
        "augmentation",
        "backend",
        "camera",
        "cascade",
        "certificates",
        "checkpoint",
        "colors",
        "comparison",
        "compositing",
        "content_credentials",
        "convert",
        "convert_many",
        "convert_settings",
        "curation",
        "dataset",
        "demo",
        "descriptors",
        "detection",
        "doctor",
        "evaluation",
        "evaluation_faces",
        "evaluation_pass",
        "evaluation_plots",
        "evaluation_record",
        "evaluation_report",
        "evaluation_verdicts",
        "extract",
        "face_metrics",
        "face_record",
        "figures",
        "following",
        "gan",
        "geometry",
        "gif",
        "hardware",
        "head_pose",
        "identity",
        "image_sequence",
        "images",
        "inference",
        "landmarks",
        "layer_files",
        "layers",
        "legacy",
        "losses",
        "masks",
        "media",
        "metrics",
        "models",
        "mtcnn_networks",
        "objective",
        "pipeline",
        "pixels",
        "player",
        "presets",
        "preview",
        "provenance",
        "quality",
        "quality_report",
        "sample",
        "second_pass",
        "segments",
        "sequence_path",
        "sound",
        "swapper",
        "tracking",
        "training",
        "training_log",
        "verification",
        "vggface",
        "video",
        "video_formats",
        "video_metrics",
        "video_parts",
        "video_writer",
        "weights",
        "xmp",
    ],
    submod_attrs={
        "augmentation": ["AugmentationSettings"],
        "convert": ["convert_image", "convert_video"],
        "convert_many": ["convert_images", "convert_videos"],
        "convert_settings": ["ConvertSettings"],
        "curation": ["curate"],
        "doctor": ["examine_faces", "restore_faces"],
        "evaluation": ["evaluate"],
        "evaluation_record": ["worst_stretches"],
        "extract": ["extract_faces", "make_eye_masks"],
        "following": ["follow_faces"],
        "legacy": ["import_legacy"],
        "losses": ["LossWeights"],
        "models": ["ModelConfig"],
        "player": ["compare"],
        "presets": ["preset"],
        "quality": ["DoctorSettings"],
        "preview": ["draw_preview", "make_timelapse"],
        "sample": ["make_sample_clips"],
        "swapper": ["FaceSwapper"],
        "training": ["TrainSettings", "train"],
        "training_log": ["plot_training", "read_losses", "read_validation"],
        "verification": ["verify"],
    },
)

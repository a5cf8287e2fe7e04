"""Stage: the whole road once, on the sample footage."""

from pathlib import Path

from fsgan.data.augmentation import AugmentationSettings
from fsgan.data.extract import extract_faces
from fsgan.data.masks import make_eye_masks
from fsgan.data.sample import make_sample_clips
from fsgan.models.networks import ModelConfig
from fsgan.swap.convert import convert_video
from fsgan.swap.swapper import ConvertSettings
from fsgan.training.losses import LossWeights
from fsgan.training.train import TrainSettings, train

OUT = "side_by_side.mp4"

# What shows a face after minutes: little to vary, little to tell apart.
_MODEL = ModelConfig(capacity="lite", norm="none", attention=False)
_AUGMENTATION = AugmentationSettings(
    rotation=5, zoom=0.05, shift=0.02, flip=0, color_match=1
)


def run_demo(
    folder: str | Path = "fsgan-demo", *, iterations: int = 1400, seconds: float = 8.0
) -> Path:
    """Goes the whole road on sample footage, from two clips to a swapped one.

    Makes the clips, extracts faces and eye masks, trains and converts. Called again,
    training goes on where it was; a larger number of iterations makes it better.

    Args:
        folder: where everything goes, made when it is missing.
        iterations: of training, in all; 1400 take some five minutes on two cores.
        seconds: length of each clip.

    Returns:
        The video: source, result and mask, side by side.

    Raises:
        ValueError: `iterations` or `seconds` is out of its range, or `folder` holds
            another training.
        OSError: `folder` cannot be written.
    """
    settings = TrainSettings(
        iterations=iterations,
        batch_size=4,
        perceptual="off",
        swap_decoders=False,
        preview_every=200,
        augmentation=_AUGMENTATION,
        losses=LossWeights(eyes=10),
    )
    folder = Path(folder)
    clips = make_sample_clips(folder / "sample", seconds=seconds)
    faces = [folder / "faces" / name for name in "ab"]
    masks = [folder / "eye_masks" / name for name in "ab"]
    for clip, crops, eyes in zip(clips, faces, masks, strict=True):
        extract_faces(clip, crops, every=2, min_confidence=0.9)
        make_eye_masks(crops, eyes)
    model = folder / "model"
    train(
        *faces,
        model,
        masks_a=masks[0],
        masks_b=masks[1],
        model=_MODEL,
        settings=settings,
    )
    looks = ConvertSettings(color="lab", min_alpha=0.7, layout=3)
    return convert_video(clips[0], folder / OUT, model, looks, overwrite=True).path

"""A frame and its swap compared."""

from fractions import Fraction

import numpy as np
import pytest
from skimage.data import astronaut

from fsgan.evaluation.comparison import Comparison
from fsgan.faces.detector import FaceDetector
from fsgan.faces.geometry import Face, crop_matrix, invert, transform_points
from fsgan.media.reader import Frame

PORTRAIT = astronaut()[:240, 100:340].copy()
MIRRORED = np.hstack([PORTRAIT, PORTRAIT[:, ::-1]])


def shown(index: int, image: np.ndarray, damaged: bool = False) -> Frame:
    return Frame(index, Fraction(index, 25), image, damaged)


def found(image: np.ndarray, *runs: int) -> list[Face]:
    """The faces of a picture from left to right, with the numbers of their runs."""
    faces = sorted(FaceDetector(40).detect(image), key=lambda face: face.box[0])
    return [
        Face(face.box, face.landmarks, face.confidence, run=run)
        for face, run in zip(faces, runs, strict=True)
    ]


def test_of_two_faces_the_mean_and_the_missed_one_count():
    comparison = Comparison(None, chosen=[0, 1])
    faces = found(MIRRORED, 0, 1)
    comparison.add(shown(0, MIRRORED), MIRRORED, faces)
    covered = MIRRORED.copy()
    covered[:, 240:] = 128
    comparison.add(shown(1, MIRRORED), covered, faces)
    assert [frame.found for frame in comparison.frames] == [True, False]
    assert comparison.frames[0].expression == pytest.approx(0, abs=1e-9)
    assert comparison.missed == 1 / 4
    assert comparison.crops_of == [0, 0, 1]
    assert len(comparison.crops) == len(comparison.expression) == 3


def test_crops_are_cut_out_of_chosen_frames_by_their_own_landmarks():
    comparison, faces = Comparison(None, chosen=[4]), found(PORTRAIT, 0)
    for index, shift in ((3, 0), (4, 6)):
        after = np.roll(PORTRAIT, shift, axis=1)
        comparison.add(shown(index, PORTRAIT), after, faces)
    [(old, new)] = comparison.crops
    assert old.shape == new.shape == (256, 256, 3)
    # The face moved, its crop did not.
    difference = np.abs(old.astype(int) - new)[60:200, 60:200]
    assert difference.mean() < 4


def test_a_damaged_frame_has_no_face_and_must_stay_as_it_is():
    comparison = Comparison(None, chosen=[])
    changed = PORTRAIT.copy()
    changed[120, 120] ^= 16
    comparison.add(shown(0, PORTRAIT, damaged=True), changed, found(PORTRAIT, 0))
    assert comparison.frames == []
    assert comparison.outside.psnr < 100


def test_jitter_does_not_reach_over_gaps_and_other_faces():
    """Runs that jump against each other, each of them still; a gap in one of them."""
    comparison, jump = Comparison(None, []), np.roll(PORTRAIT, 9, axis=1)
    places = {index: (PORTRAIT, 0) for index in (0, 1, 2)}
    places |= {index: (jump, 1) for index in (3, 4, 5)}
    places |= {index: (PORTRAIT, 1) for index in (8, 9)}
    for index, (image, run) in places.items():
        comparison.add(shown(index, image), image, found(image, run))
    assert comparison.jitter == 1  # nothing moves, in both
    # The swap alone jumps, where no three frames of one face touch it.
    moving = Comparison(None, [])
    for index, (image, run) in places.items():
        after = np.roll(image, 5 if index in (3, 4, 5) else 0, axis=1)
        moving.add(shown(index, image), after, found(image, run))
    assert moving.jitter == 1
    # Where they do, it shows.
    after = np.roll(PORTRAIT, 5, axis=1)
    moving.add(shown(10, PORTRAIT), after, found(PORTRAIT, 1))
    assert moving.jitter > 1


def test_a_change_of_faces_is_no_flicker():
    comparison = Comparison(None, [])
    for index, run in enumerate((0, 0, 1, 1)):
        light = PORTRAIT // 2 + 60 * run
        comparison.add(shown(index, light), light + 30 * run, found(light, run))
    assert comparison.flicker.value == 1


def test_two_frames_are_too_few_for_jitter():
    comparison = Comparison(None, [])
    for index in range(2):
        comparison.add(shown(index, PORTRAIT), PORTRAIT, found(PORTRAIT, 0))
    assert comparison.jitter is None


def test_an_estimated_mask_is_the_square_of_the_face():
    """What changes in the middle is a seam of nobody; the corners are outside."""
    comparison, [face] = Comparison(None, []), found(PORTRAIT, 0)
    after = PORTRAIT.copy()
    nose = face.landmarks[2].astype(int)
    after[nose[1] - 5 : nose[1] + 5, nose[0] - 5 : nose[0] + 5] = 0
    comparison.add(shown(0, PORTRAIT), after, [face])
    after[0, 0] ^= 4
    comparison.add(shown(1, PORTRAIT), after, [face])
    assert [frame.outside for frame in comparison.frames] == [0, 4]
    assert [frame.seam for frame in comparison.frames] == [1, 1]
    assert (comparison.frames[1].index, comparison.frames[1].seconds) == (1, 0.04)
    # Of 64 pixels a side, the border fades over 10.
    to_frame = invert(crop_matrix(face.landmarks, 64, 0.8))
    [(x, y)] = transform_points([[5, 32]], to_frame).astype(int)
    after[y : y + 2, x : x + 2] = 0
    comparison.add(shown(2, PORTRAIT), after, [face])
    assert comparison.frames[2].seam > 1
    assert comparison.frames[2].outside == 4

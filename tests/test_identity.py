"""A person known from pictures and found again."""

import numpy as np
import pytest

from fsgan.faces import descriptors, identity
from fsgan.faces.descriptors import describe, load_descriptor
from fsgan.faces.identity import Identity
from fsgan.media.images import write_image


@pytest.fixture(autouse=True)
def without_weights(monkeypatch, detector):
    """Patterns alone, as nothing else is at hand."""
    monkeypatch.setattr(descriptors, "find_weights", lambda name: None)
    monkeypatch.setattr(descriptors, "find_spec", lambda name: None)
    monkeypatch.setattr(identity, "FaceDetector", lambda: detector)
    load_descriptor.cache_clear()
    yield
    load_descriptor.cache_clear()


# References


def test_a_person_is_known_from_a_photo(portrait, collins, hopper, tmp_path):
    write_image(tmp_path / "photo.png", portrait)
    person = Identity.of(tmp_path / "photo.png")
    assert person.matches(collins).all()
    assert not person.matches(hopper).any()


def test_a_person_is_known_from_a_folder_of_crops(collins, hopper, tmp_path):
    for number, crop in enumerate(hopper):
        write_image(tmp_path / f"{number}.png", crop)
    person = Identity.of(tmp_path, max_crops=3)
    np.testing.assert_array_equal(person.descriptors, describe(hopper[[0, 3, 7]]))
    assert person.matches(hopper).all()
    assert not person.matches(collins).any()


def test_the_similarity_is_that_with_the_nearest_picture(collins, hopper):
    person = Identity.of([hopper[0], collins[0]])
    np.testing.assert_allclose(person.similarity(collins[:1]), 1, atol=1e-6)


def test_photos_with_no_face_or_two_are_refused(portrait, tmp_path):
    write_image(tmp_path / "none.png", np.full((200, 200, 3), 128, np.uint8))
    write_image(tmp_path / "two.png", np.hstack([portrait, portrait]))
    with pytest.raises(ValueError, match=r"must show one face, but .*none.png shows n"):
        Identity.of(tmp_path / "none.png")
    with pytest.raises(ValueError, match=r"must show one face, but .*two.png shows 2"):
        Identity.of(tmp_path / "two.png")


def test_missing_references_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Identity.of(tmp_path / "missing.png")
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        Identity.of(tmp_path)
    with pytest.raises(ValueError, match="at least one face crop"):
        Identity.of([])


# Tracks


def test_the_track_of_the_person_is_chosen(collins, hopper):
    person = Identity.of(list(hopper[:2]))
    assert person.choose([collins, hopper[2:]]) == [False, True]
    assert person.choose([]) == []


def test_later_tracks_of_the_person_are_chosen_too(collins, hopper):
    tracks = [hopper[1:4], collins, hopper[4:]]
    spans = [(0, 9), (0, 30), (12, 30)]
    assert Identity.of([hopper[0]]).choose(tracks, spans) == [True, False, True]


def test_nobody_like_the_person_chooses_nobody(collins, hopper, caplog):
    assert Identity.of(list(hopper)).choose([collins]) == [False]
    assert "no face in the clip is like the person" in caplog.text


def test_two_equally_like_the_person_at_once_choose_nobody(hopper, caplog):
    tracks, spans = [hopper[1:], hopper[1:]], [(0, 9), (9, 20)]
    assert Identity.of([hopper[0]]).choose(tracks, spans) == [False, False]
    assert "two faces in the clip are about equally like" in caplog.text


def test_spans_have_to_be_those_of_the_tracks(hopper):
    with pytest.raises(ValueError, match="one for each of 1 tracks, got 2"):
        Identity.of(list(hopper)).choose([hopper], [(0, 1), (2, 3)])

import numpy as np
import pytest

from fsgan.figures import draw_curves, draw_hand, draw_networks, draw_rows


def test_each_row_shows_its_pictures_beside_its_label():
    faces = np.stack([np.full((4, 4, 3), value, np.float32) for value in (-1, 0, 1)])
    masks = np.full((2, 4, 4, 1), 0.25, np.float32)
    figure = draw_rows({"face": faces, "mask": masks}, size=0.5)
    assert [text.get_text() for text in figure.texts] == ["face", "mask"]
    shown = [[image.get_array() for image in axis.images] for axis in figure.axes]
    assert [len(images) for images in shown] == [1, 1, 1, 1, 1, 0]
    assert [float(images[0].max()) for images in shown[:3]] == [0, 0.5, 1]
    assert shown[3][0].shape == (4, 4)
    assert figure.axes[3].images[0].get_clim() == (0, 1)


def test_bytes_are_shown_as_they_are():
    faces = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    shown = draw_rows({"face": faces}).axes[0].images[0].get_array()
    assert shown.dtype == np.uint8
    assert np.array_equal(shown, faces[0])


@pytest.mark.parametrize("rows", [{}, {"face": np.zeros((0, 4, 4, 3))}])
def test_no_picture_to_draw_is_refused(rows):
    with pytest.raises(ValueError, match="rows must hold one row or more"):
        draw_rows(rows)


def test_panels_of_curves_share_one_scale_from_zero():
    iterations = np.array([10.0, 20.0])
    low = {"low": (iterations, np.array([0.2, 0.1]))}
    high = {"high": (iterations, np.array([0.9, 0.5]))}
    left, right = draw_curves({"one": low, "two": high}).axes
    assert (left.get_title(), right.get_title()) == ("one", "two")
    assert left.get_ylim() == right.get_ylim()
    assert left.get_ylim()[0] == 0 and left.get_ylim()[1] > 0.9
    assert np.array_equal(left.lines[0].get_ydata(), [0.2, 0.1])


def test_no_panel_to_draw_is_refused():
    with pytest.raises(ValueError, match="panels must hold one panel or more"):
        draw_curves({})


def test_the_swap_leads_a_face_past_its_own_decoder():
    training, swap = draw_networks().axes

    def arrows(axis):
        return [text.xyann for text in axis.texts if not text.get_text()]

    assert len(arrows(training)) == 6
    assert len(arrows(swap)) == 3
    above = [start for start in arrows(swap) if start[0] > 4 and start[1] > 2.5]
    assert above == []


def test_only_where_the_hand_covers_it_the_face_changes():
    face = np.random.default_rng(1).integers(0, 256, (128, 128, 3), np.uint8)
    painted, cover = draw_hand(face, np.random.default_rng(0))
    assert (painted.dtype, painted.shape) == (np.uint8, face.shape)
    assert (cover.dtype, cover.shape) == (np.float32, (128, 128, 1))
    assert (cover.min(), cover.max()) == (0, 1)
    assert np.array_equal(painted[cover[..., 0] == 0], face[cover[..., 0] == 0])
    hand = painted[cover[..., 0] == 1].astype(int)
    assert (hand[:, 0] > hand[:, 1]).all() and (hand[:, 1] > hand[:, 2]).all()


def test_hands_cover_a_good_part_of_the_face_and_differ():
    face, rng = np.zeros((64, 64, 3), np.uint8), np.random.default_rng(3)
    covers = [draw_hand(face, rng)[1] for _ in range(20)]
    shares = [cover.mean() for cover in covers]
    assert min(shares) > 0.1 and max(shares) < 0.5
    assert not np.array_equal(covers[0], covers[1])


def test_the_same_generator_draws_the_same_hand():
    face = np.zeros((64, 64, 3), np.uint8)
    one, other = (draw_hand(face, np.random.default_rng(5))[0] for _ in range(2))
    assert np.array_equal(one, other)

import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from test_video import NTSC, clicks, flash_pictures, flashes, make_clip

from fsgan.media import reader as video
from fsgan.media.images import list_images, read_image
from fsgan.media.segments import ResumableWriter

COUNT, PART = 40, 9  # frames in all, and in a part
VARIABLE = [Fraction(k * k + 40 * k, 2400) for k in range(COUNT)]
STEADY = [Fraction(k, 25) for k in range(COUNT)]
OUTPUTS = {
    "film.mp4": STEADY,
    "variable.mp4": VARIABLE,
    "film.webm": STEADY,
    "film.gif": VARIABLE,
    "pictures": STEADY,
}


def picture(index):
    rng = np.random.default_rng(index)
    image = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1)))
    return image.astype(np.uint8)


def write_all(path, times, count=COUNT, audio_from=None, settings=None, **options):
    """Convert as a stage does: frames in parts, from where it stopped."""
    writer = ResumableWriter(
        path, 64, 48, 25, settings=settings or {}, audio_from=audio_from, **options
    )
    with writer:
        total = writer.state.get("total", np.zeros(1))
        for index in range(writer.frames_done, count):
            writer.write(picture(index), times[index])
            total = total + index
            if (index + 1) % PART == 0:
                writer.end_part({"total": total})
        return float(total[0])


def write_and_die(path, times, audio_from, deadline):
    """Die by SIGKILL at the so-manieth thing that changes a file."""
    left = deadline

    def count(event, arguments):
        nonlocal left
        changes = event in {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}
        if changes or (event == "open" and str(path.parent) in str(arguments[0])):
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    class Counted(list):
        def __getitem__(self, index):
            count("os.rename", ())
            return super().__getitem__(index)

    sys.addaudithook(count)
    write_all(path, Counted(times), audio_from=audio_from)


def killed(path, times, audio_from, deadline):
    """Run `write_and_die` in a process of its own; return whether it was killed."""
    code = (
        "import sys; from pathlib import Path; import test_segments as test; "
        "path = Path(sys.argv[1]); audio = sys.argv[2] or None; "
        "times = test.OUTPUTS[path.name]; "
        "test.write_and_die(path, times, audio, int(sys.argv[3]))"
    )
    here = Path(__file__).parent
    command = [sys.executable, "-c", code, path, str(audio_from or ""), str(deadline)]
    return subprocess.run(command, cwd=here).returncode == -signal.SIGKILL


def contents(path):
    """Return all that can be told of an output: packets, frames, times."""
    if path.is_dir():
        return [(file.name, read_image(file)) for file in list_images(path)]
    with av.open(str(path)) as container:
        packets = [
            (p.stream.type, p.pts, p.dts, p.duration, p.is_keyframe, bytes(p))
            for p in container.demux()
        ]
        length = container.duration
    frames = [(frame.time, frame.image) for frame in video.read_frames(path)]
    return [length, *packets, *frames]


def same(first, second):
    return len(first) == len(second) and all(
        all(map(np.array_equal, a, b)) if isinstance(a, tuple) else a == b
        for a, b in zip(first, second, strict=True)
    )


def parts_of(path):
    return path.with_name(f".{path.name}.parts")


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_conversion_killed_anywhere_ends_as_if_it_was_not(tmp_path, name):
    (tmp_path / "straight").mkdir()
    times, sound = OUTPUTS[name], None
    if name.endswith((".mp4", ".webm")):
        kind = "aac" if name.endswith(".mp4") else "libopus"
        source = f"source{Path(name).suffix}"
        codec = "libx264" if kind == "aac" else "libvpx-vp9"
        rate = 44_100 if kind == "aac" else 48_000
        sound = make_clip(
            tmp_path / source, flash_pictures(), codec=codec, sound=kind, rate=rate
        )
    write_all(tmp_path / "straight" / name, times, audio_from=sound)
    rng = np.random.default_rng(len(name))
    path = tmp_path / name
    for deadline in rng.integers(8, 25, 3):
        assert killed(path, times, sound, deadline)
    assert not path.exists() and parts_of(path).exists()
    total = write_all(path, times, audio_from=sound)
    assert total == sum(range(COUNT))
    assert not parts_of(path).exists()
    assert same(contents(path), contents(tmp_path / "straight" / name))


def test_parts_join_without_a_seam(tmp_path):
    path = tmp_path / "film.mp4"
    write_all(path, STEADY)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        starts = [k for k, packet in enumerate(packets) if packet.is_keyframe]
        assert set(starts) >= set(range(0, COUNT, PART))
        assert {packet.duration * packet.time_base for packet in packets} == {
            Fraction(1, 25)
        }
    info = video.probe(path)
    assert (info.fps, info.frame_count, info.duration) == (25, COUNT, COUNT / 25)
    frames = list(video.read_frames(path))
    assert [frame.time for frame in frames] == STEADY
    for index, frame in enumerate(frames):
        assert np.abs(frame.image.astype(int) - picture(index)).mean() < 15


def test_what_is_done_and_its_state_come_back_after_an_exception(tmp_path):
    path = tmp_path / "new" / "film.mp4"
    stop = [*STEADY[:23], "no time"]
    with pytest.raises(ValueError, match="no time"):
        write_all(path, stop)
    assert [entry.name for entry in path.parent.iterdir()] == [".film.mp4.parts"]
    left = {entry.name for entry in parts_of(path).iterdir()}
    numbered = {f"00000{n}{suffix}" for n in (0, 1) for suffix in (".nut", ".npz")}
    assert left == {"lock", "conversion.json", *numbered}
    with (
        pytest.raises(KeyboardInterrupt),
        ResumableWriter(path, 64, 48, 25, settings={}) as writer,
    ):
        assert writer.frames_done == 18
        assert writer.state.keys() == {"total"}
        assert writer.state["total"] == sum(range(18))
        writer.write(picture(18), STEADY[18])
        raise KeyboardInterrupt
    assert {entry.name for entry in parts_of(path).iterdir()} == left


def test_what_a_killed_process_left_unfinished_does_not_get_into_the_output(tmp_path):
    path = tmp_path / "pictures"
    with pytest.raises(ValueError, match="no time"):
        write_all(path, [*STEADY[:23], "no time"])
    names = [file.name for file in list_images(parts_of(path) / "pictures")]
    assert names == [f"{index:06d}.png" for index in range(18)]
    for left in ("pictures/000099.png", "pictures/.000018-1.png", "unfinished.npz"):
        (parts_of(path) / left).write_bytes(b"half of it")
    write_all(path, STEADY)
    assert len(list(path.iterdir())) == COUNT
    assert [entry.name for entry in tmp_path.iterdir()] == ["pictures"]


def test_ending_a_part_without_a_frame_does_nothing(tmp_path):
    path = tmp_path / "film.mp4"
    with ResumableWriter(path, 64, 48, 25, settings={}) as writer:
        writer.end_part({"a": np.zeros(1)})
        assert (writer.frames_done, writer.state) == (0, {})
        for index in range(2):
            writer.write(picture(index))
        for value in range(2):
            writer.end_part({"a": np.full(1, value)})
        assert (writer.frames_done, writer.state["a"]) == (2, 0)
        assert len(list(parts_of(path).glob("*.npz"))) == 1


@pytest.mark.parametrize("name", ["film.mp4", "film.gif", "pictures"])
def test_without_a_finished_part_nothing_stays(tmp_path, name):
    with (
        pytest.raises(KeyboardInterrupt),
        ResumableWriter(tmp_path / name, 64, 48, 25, settings={}) as writer,
    ):
        assert (writer.frames_done, writer.state) == (0, {})
        writer.write(picture(0), 0)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [{"settings": {"model": 2}}, {"crf": 30}, {"end": 3.0}, {"preset": "ultrafast"}],
)
def test_parts_of_another_conversion_are_thrown_away(tmp_path, caplog, change):
    path = tmp_path / "film.mp4"
    with pytest.raises(ValueError, match="no time"):
        write_all(path, [*STEADY[:23], "no time"], settings={"model": 1})
    changed = {"settings": {"model": 1}, **change}
    with (
        pytest.raises(KeyboardInterrupt),
        ResumableWriter(path, 64, 48, 25, **changed) as writer,
    ):
        assert (writer.frames_done, writer.state) == (0, {})
        raise KeyboardInterrupt
    assert "of another conversion" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_all_done_and_nothing_more_to_write_is_joined(tmp_path):
    path, whole = tmp_path / "film.mp4", 2 * PART

    def no_signature(_):
        raise RuntimeError("no signature")

    with pytest.raises(RuntimeError, match="no signature"):
        write_all(path, STEADY, count=whole, finish=no_signature)
    assert not path.exists()
    write_all(path, STEADY, count=whole)
    assert video.probe(path).frame_count == whole


def test_the_finished_file_passes_by_before_it_takes_its_name(tmp_path):
    path, seen = tmp_path / "film.webm", []

    def look(whole):
        assert not path.exists()
        seen.append((whole.suffix, video.probe(whole).frame_count))

    write_all(path, STEADY, finish=look)
    assert seen == [(".webm", COUNT)]


def test_two_writers_of_one_output_are_refused(tmp_path):
    path = tmp_path / "film.mp4"
    with ResumableWriter(path, 64, 48, 25, settings={}) as first:
        second = ResumableWriter(path, 64, 48, 25, settings={})
        with pytest.raises(BlockingIOError, match="being written by another"), second:
            pass
        first.write(picture(0))
    assert video.probe(path).frame_count == 1


def test_a_resumed_film_stays_in_step_with_its_sound(tmp_path):
    source = make_clip(tmp_path / "clip.mp4", flash_pictures(), fps=NTSC, sound="aac")
    frames = list(video.read_frames(source, 0.5))
    path = tmp_path / "copy.mp4"
    writer = dict(settings={}, audio_from=source, start=0.5)
    with (
        pytest.raises(KeyboardInterrupt),
        ResumableWriter(path, 64, 48, NTSC, **writer) as first,
    ):
        for frame in frames[:20]:
            first.write(frame.image, frame.time)
        first.end_part({})
        raise KeyboardInterrupt
    with ResumableWriter(path, 64, 48, NTSC, **writer) as second:
        for frame in frames[second.frames_done :]:
            second.write(frame.image, frame.time)
    assert len(flashes(path)) == len(clicks(path)) == 2
    assert np.abs(np.array(flashes(path), float) - clicks(path)).max() < 0.005


def test_a_full_disk_keeps_the_finished_parts(tmp_path):
    path = tmp_path / "film.mp4"
    with (
        pytest.raises(OSError, match=f"{path} cannot be written: the disk is full"),
        ResumableWriter(path, 64, 48, 25, settings={}) as writer,
    ):
        for index in range(PART):
            writer.write(picture(index))
        writer.end_part({})
        (parts_of(path) / "000001.nut").symlink_to("/dev/full")
        for index in range(COUNT):
            writer.write(picture(index))
        writer.end_part({})
    assert not path.exists()
    left = {entry.name for entry in parts_of(path).iterdir()}
    assert left == {"lock", "conversion.json", "000000.nut", "000000.npz"}


def test_parts_encoded_in_another_way_are_told(tmp_path):
    path = tmp_path / "film.mp4"
    with (
        pytest.raises(ValueError, match=r"not all encoded .* delete that folder"),
        ResumableWriter(path, 64, 48, 25, settings={}) as writer,
    ):
        writer.write(picture(0))
        writer.end_part({})
        other = make_clip(tmp_path / "other.nut", [picture(0)])
        os.replace(other, parts_of(path) / "000000.nut")


def test_settings_that_json_does_not_know_are_refused(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        ResumableWriter(tmp_path / "film.mp4", 64, 48, 25, settings={"a": object()})

"""How fast a machine is: what is counted, what is shown; no test knows a time."""

import json
import re

import keras
import pytest

from fsgan.__main__ import main
from fsgan.evaluation import bench
from fsgan.evaluation.bench import Benchmark, TrainingSpeed, flops_of_a_face
from fsgan.models.layers import SelfAttention

TINY = {"recipe": "quick", "resolution": 64, "seconds": 0.01}
SPEED = TrainingSpeed("quick", "lite", 64, 8, 100.0, 0.25)


def test_the_command_prints_the_table_of_the_figures_that_it_writes(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(bench, "fastest_precision", lambda: "float32")
    file = tmp_path / "new" / "bench.json"
    options = "--recipe quick --resolution 64 --seconds 0.01 --largest_batch 1"
    assert main(["-q", "bench", "--out", str(file), *options.split()]) == 0
    figures = json.loads(file.read_text())
    [row] = figures.pop("training")
    done = Benchmark(training=[TrainingSpeed(**row)], **figures)
    assert capsys.readouterr().out == f"{done}\n"
    assert (row["recipe"], row["capacity"]) == ("quick", "lite")
    assert (row["resolution"], row["batch_size"]) == (64, 1)
    assert row["faces_per_second"] > 0 < row["matrix_share"]
    assert done.conversion > 0 < done.augmentation["quick 64"]
    assert done.machine.keys() >= {"processor", "cores", "keras", "python", "date"}
    assert [it.name for it in file.parent.iterdir()] == [file.name]


def test_a_row_says_faces_of_both_persons_a_second_and_the_time_of_an_update():
    done = Benchmark({"cores": 2}, "float32", 0.5, [SPEED], {"quick 64": 9}, 5)
    assert str(SPEED) == "| quick lite | 64 | 8 | 100.0 | 160.0 | 25.0% |"
    assert done._repr_markdown_() == str(done)
    rows = [row for row in str(done).splitlines() if row]
    assert {row.count("|") for row in rows[:3]} == {7}
    assert {row.count("|") for row in rows[3:]} == {3}
    assert "| matrix product, float32 | 0.5 TFLOP/s |" in rows


def test_operations_are_those_of_two_networks_counted_by_hand():
    conv = keras.layers.Conv2D(4, 3, strides=2, padding="same")
    more = [keras.layers.BatchNormalization(), keras.layers.Flatten()]
    layers = [keras.Input((8, 8, 3)), conv, *more, keras.layers.Dense(10)]
    encoder = keras.Sequential(layers)
    forward = (4 * 4) * (3 * 3 * 3 * 4) + (4 * 4 * 4) * 10
    assert flops_of_a_face({"encoder": encoder}) == 3 * 2 * forward
    attention = keras.Sequential([keras.Input((4, 4, 8)), SelfAttention()])
    projections = 16 * (8 * 1 + 8 * 1 + 8 * 8)
    products = 16 * 16 * 1 + 16 * 16 * 8
    # Each face passes one of the two, so one is counted: two pictures there and back
    # for its own update, and through it to the generator.
    networks = {"discriminator_a": attention, "discriminator_b": attention}
    assert flops_of_a_face(networks) == (6 + 4) * 2 * (projections + products)


class Small:
    """A model that fits into the memory with up to 16 faces."""

    def __init__(self, model, losses, precision):
        self.networks = {}

    def enter_phase(self, phase):
        pass

    def train_on_batches(self, *batches):
        if len(batches[0].sides[0].warped) > 16:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory allocating 9 bytes")
        return {}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(bench, "fastest_precision", lambda: "float32")
    monkeypatch.setattr(bench, "_conversion_speed", lambda folder, clip: 1.0)
    monkeypatch.setattr(bench, "FaceSwapGAN", Small)


def test_batches_are_doubled_until_the_memory_is_full(small):
    done = bench.benchmark(**TINY, largest_batch=4096)
    rows = [(it.batch_size, it.faces_per_second is None) for it in done.training]
    assert rows == [(8, False), (16, False), (32, True)]
    assert "| quick lite | 64 | 32 | out of memory |  |  |" in str(done).splitlines()


def test_what_fails_otherwise_is_raised_and_an_older_file_stays(
    small, monkeypatch, tmp_path
):
    def fail(self, *batches):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(Small, "train_on_batches", fail)
    file = tmp_path / "bench.json"
    file.write_text("older")
    with pytest.raises(RuntimeError, match="no kernel"):
        bench.benchmark(file, **TINY)
    assert file.read_text() == "older"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"recipe": "v3"}, "recipe must be 'quick' or 'v2.2', got 'v3'"),
        ({"resolution": 100}, "resolution must be 64, 96, 128 or 256, got 100"),
        ({"resolution": 256}, "resolution must be 64, 96 or 128, got 256"),
        ({"capacity": "huge"}, "capacity must be 'standard' or 'lite'"),
        ({"largest_batch": 0}, "largest_batch must be"),
        ({"seconds": 0.0}, "seconds must be"),
        ({"seconds": float("inf")}, "seconds must be"),
    ],
)
def test_a_wrong_argument_is_named(wrong, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as raised:
        bench.benchmark(**TINY | wrong)
    assert "\n" not in str(raised.value)


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder; give the name of a file"):
        bench.benchmark(tmp_path, **TINY)

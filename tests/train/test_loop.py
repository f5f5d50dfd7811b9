"""Long work is safe: a diverging loss and a full disk stop with one line and leave the last good state."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
import cv2  # noqa: E402
from support import full_disk  # noqa: E402

from edge_centernet.data import Dataset, Sample  # noqa: E402
from edge_centernet.errors import ConfigError  # noqa: E402
from edge_centernet.manifest import ModelSpec  # noqa: E402
from edge_centernet.network.centernet import CenterNet  # noqa: E402
from edge_centernet.network.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from edge_centernet.network.losses import OFFSET_WEIGHT, OVERLAP_WEIGHT, SIZE_WEIGHT  # noqa: E402
from edge_centernet.train.config import TrainConfig  # noqa: E402
from edge_centernet.train.loop import Step, Trainer, TrainingDiverged, learning_rate  # noqa: E402
from edge_centernet.train.run_folder import CannotSave  # noqa: E402

TINY = TrainConfig(
    width=0.25, neck=(16, 16, 16), head=16, context=0, size=64, early_side=64, epochs=2, qat_epochs=0,
    batch_size=4, workers=0, eval_every=0, amp="off",
)  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Eight grey images with one box each."""
    samples = []
    for i in range(8):
        path = tmp_path / f"{i}.png"
        cv2.imwrite(str(path), np.full((64, 64, 3), 20 * i, np.uint8))
        box = np.array([[10, 10, 40, 40]], np.float32)
        samples.append(Sample(path, 64, 64, box, np.array([0]), np.array([False])))
    return Dataset(("thing",), tuple(samples))


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_state(
    data: Dataset, tmp_path: Path
) -> None:
    """A weight becomes NaN after the first epoch: TrainingDiverged, and state.pt is still the first's."""
    trainer = Trainer(TINY, data, None, tmp_path, "t")
    trainer._stage(1)
    saved = (tmp_path / "state.pt").read_bytes()
    with torch.no_grad():
        trainer.model.heat.conv.weight[0] = float("nan")

    with pytest.raises(TrainingDiverged, match=r"the loss became nan in float epoch 2, step 1.*--resume"):
        trainer._stage(2)
    assert (tmp_path / "state.pt").read_bytes() == saved


@pytest.mark.slow
def test_a_teacher_s_part_of_the_loss_is_learned_and_logged(data: Dataset, tmp_path: Path) -> None:
    """The total is the labels' losses and three times the teacher's, who says 0.5 in every cell."""
    network = CenterNet(ModelSpec("teacher", "1", 64, 64, ("thing",)), TINY.architecture())
    torch.nn.init.zeros_(network.heat.conv.weight)
    torch.nn.init.zeros_(network.heat.conv.bias)
    save_checkpoint(tmp_path / "teacher.safetensors", network, "float")
    config = replace(TINY, epochs=1, teacher=str(tmp_path / "teacher.safetensors"), teacher_weight=3.0)
    Trainer(config, data, None, tmp_path, "student").run()
    with (tmp_path / "metrics.csv").open() as file:
        row = {k: float(v) for k, v in next(csv.DictReader(file)).items() if v and k != "stage"}

    labels = (
        row["heat"]
        + OVERLAP_WEIGHT * row["overlap"]
        + SIZE_WEIGHT * row["size"]
        + OFFSET_WEIGHT * row["offset"]
    )
    assert row["teacher"] > 10, "256 cells, each about 0.1 or more away"
    assert row["loss"] == pytest.approx(labels + 3 * row["teacher"], rel=1e-3)


@pytest.mark.slow
def test_int8_learns_from_the_float_network_after_resuming_too(data: Dataset, tmp_path: Path) -> None:
    """The teacher answers as float.safetensors does; without that file the run cannot go on."""
    config = replace(TINY, epochs=1, qat_epochs=1)
    whole = Trainer(config, data, None, tmp_path, "t")
    whole.run()
    resumed = Trainer(config, data, None, tmp_path, "t")
    resumed.resume()
    wanted, _ = load_checkpoint(tmp_path / "float.safetensors")
    image = torch.rand(1, 3, 64, 64) * 255

    for trainer in (whole, resumed):
        assert isinstance(trainer.step, Step)
        assert trainer.step.teacher is not None
        for ours, theirs in zip(trainer.step.teacher.network(image), wanted(image), strict=True):
            torch.testing.assert_close(ours, theirs)
    (tmp_path / "float.safetensors").unlink()
    with pytest.raises(ConfigError, match="expected the float stage's result, found no"):
        Trainer(config, data, None, tmp_path, "t").resume()


def test_a_full_disk_is_one_clear_error_and_the_old_state_stays(data: Dataset, tmp_path: Path) -> None:
    """state.pt cannot be written again: CannotSave names it, the old file and nothing else is there."""
    trainer = Trainer(TINY, data, None, tmp_path, "t")
    trainer.save()
    saved = (tmp_path / "state.pt").read_bytes()
    trainer.position.epoch = 1

    with (
        pytest.raises(
            CannotSave, match=r"state\.pt: cannot write: File too large; what was saved before is intact"
        ),
        full_disk(65536),  # around no more: what pytest prints may go to a file, too
    ):
        trainer.save()
    assert (tmp_path / "state.pt").read_bytes() == saved
    assert not (tmp_path / "state.pt.tmp").exists()


def test_labels_count_by_their_weight(data: Dataset, tmp_path: Path) -> None:
    """With 0, as in quantization-aware training, they teach nothing; with 2 twice as much as with 1."""
    trainer = Trainer(TINY, data, None, tmp_path, "t")
    trainer.sampler.set_epoch(0, [(64, 64)])
    batch = next(iter(trainer.loader))
    none, one, two = (
        float(trainer.step(batch, weight, 0.0, False)[0].detach()) for weight in (0.0, 1.0, 2.0)
    )

    assert none == 0
    assert one > 0
    assert two == pytest.approx(2 * one)


def test_the_learning_rate_warms_up_and_falls_to_a_hundredth() -> None:
    """Of 100 steps only ten warm up, though 300 are asked for; half way the cosine is at half its height."""
    rates = [learning_rate(4e-3, 300, step, 100) for step in range(100)]

    assert rates[0] == pytest.approx(4e-4)
    assert rates[50] == pytest.approx(4e-3 * 0.505)
    assert rates[99] == pytest.approx(4e-5, rel=0.03)
    assert max(rates) == rates[9] == pytest.approx(4e-3 * (0.01 + 0.495 * (1 + np.cos(0.09 * np.pi))))
    assert learning_rate(4e-3, 0, 0, 100) == 4e-3

"""Scores say how often a detection is right: the fit by hand, the fold to the bit, a run with both."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("faster_coco_eval", reason="needs the eval extra")
import cv2  # noqa: E402

from edge_centernet.data import Dataset, Sample  # noqa: E402
from edge_centernet.evaluation.scores import Outcomes, sigmoid  # noqa: E402
from edge_centernet.manifest import ModelSpec  # noqa: E402
from edge_centernet.network.centernet import CenterNet  # noqa: E402
from edge_centernet.network.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from edge_centernet.train import score_calibration  # noqa: E402
from edge_centernet.train.config import TrainConfig  # noqa: E402
from edge_centernet.train.loop import Trainer  # noqa: E402
from edge_centernet.train.score_calibration import (  # noqa: E402
    FEWEST,
    SMALLEST,
    Fitted,
    ScoreCalibration,
    cross_fitted,
    fit_logistic,
    fit_score_calibration,
    set_scores,
    summary,
    unfold,
)
from edge_centernet.train.start import start_network  # noqa: E402

TINY = TrainConfig(
    width=0.25, neck=(16, 16, 16), head=16, context=0, size=64, early_side=64, epochs=1, qat_epochs=0,
    batch_size=4, workers=0, eval_every=0, amp="off",
)  # fmt: skip
SPEC = ModelSpec("t", "1", 64, 64, ("car", "dog"))
FITTED = Fitted(ScoreCalibration(np.array([2.0, 0.5]), np.array([1.0, -1.0])), 0.4, (0.4, 0.6), {})


def judged(logits: np.ndarray, right: np.ndarray, class_id: np.ndarray, classes: int = 2) -> Outcomes:
    """As `scores.outcomes` would have them, two objects found and not in each image."""
    image = np.arange(len(logits)) // 4
    split = np.full((2, classes), max(1, len(logits) // 4))
    return Outcomes(sigmoid(logits), right.astype(np.bool_), class_id.astype(np.int64), image, split)


def drawn(scale: list[float], shift: list[float], each: list[int], seed: int = 0) -> Outcomes:
    """Detections that are right with sigmoid(scale * logit + shift) of their class."""
    random = np.random.default_rng(seed)
    class_id = random.permutation(np.repeat(np.arange(len(each)), each))
    logits = random.uniform(-2.9, 2.0, len(class_id))
    promise = sigmoid(np.array(scale)[class_id] * logits + np.array(shift)[class_id])
    return judged(logits, random.random(len(logits)) < promise, class_id, len(each))


@pytest.fixture
def model() -> CenterNet:
    """Small, with heat weights that matter."""
    torch.manual_seed(0)
    made = CenterNet(SPEC, TINY.architecture())
    torch.nn.init.normal_(made.heat.conv.weight, std=0.5)
    return made.eval()


# ---- the fit
# ---------------------------------------------------------------------------------------------------


def test_a_fit_without_a_prior_is_the_logistic_regression_by_hand() -> None:
    """1 of 4 right at -1 and 3 of 4 at 1: odds of 3, so a = ln 3 and b = 0; shifted by 5, b = -5 ln 3."""
    x = np.array([-1.0] * 4 + [1.0] * 4)
    right = np.array([1, 0, 0, 0, 1, 1, 1, 0.0])
    assert fit_logistic(x, right, (1.0, 0.0), (1e6, 1e6)) == pytest.approx((np.log(3), 0.0), abs=1e-6)
    a, b = fit_logistic(x + 5, right, (1.0, 0.0), (1e6, 1e6))
    assert (a, b) == pytest.approx((np.log(3), -5 * np.log(3)), abs=1e-5)


def test_a_fit_to_nothing_is_the_prior() -> None:
    """One detection moves it a little: the gradient at the prior is p - 1 = -1/2, the curvature 1/4 + 4."""
    assert fit_logistic(np.zeros(0), np.zeros(0), (2.0, 0.5), (0.1, 0.5)) == (2.0, 0.5)
    _, b = fit_logistic(np.zeros(1), np.ones(1), (2.0, 0.0), (0.1, 0.5))
    assert b == pytest.approx(0.5 / 4.25, abs=1e-3)


def test_a_higher_logit_stays_a_higher_score() -> None:
    """Where surer detections are wrong more often the scale stays positive, with the best shift for it."""
    x = np.array([-1.0] * 50 + [1.0] * 50)
    right = np.array([1.0] * 40 + [0.0] * 10 + [1.0] * 10 + [0.0] * 40)
    a, b = fit_logistic(x, right, (1.0, 0.0), (3.0, 3.0))
    assert (a, b) == (SMALLEST, pytest.approx(0.0, abs=1e-9))


def test_a_score_of_one_half_is_right_half_of_the_time() -> None:
    """Two classes with 4,000 detections each are fitted as drawn; the rare third stays close to them."""
    found = drawn([2.0, 1.6, 0.5], [1.0, 0.2, -2.0], [4000, 4000, 6])
    fitted = fit_score_calibration(found)
    assert fitted is not None
    assert fitted.scale[:2] == pytest.approx([2.0, 1.6], abs=0.2)
    assert fitted.shift[:2] == pytest.approx([1.0, 0.2], abs=0.15)
    assert 1.5 < fitted.scale[2] < 2.1
    new = fitted.apply(found)
    about = np.abs(new.score - 0.5) < 0.1
    assert about.sum() > 500
    assert new.right[about].mean() == pytest.approx(0.5, abs=0.05)


def test_too_few_right_detections_are_not_fitted_to() -> None:
    """One less than FEWEST: none, and the line on the screen says so."""
    right = np.arange(200) < FEWEST
    logits = np.linspace(2, 0, 200)
    assert fit_score_calibration(judged(logits, right, np.zeros(200))) is not None
    right[0] = False
    assert fit_score_calibration(judged(logits, right, np.zeros(200))) is None
    assert "fewer than 20 detections" in summary(None)


def test_each_half_is_judged_by_a_fit_to_the_other() -> None:
    """Images of odd position are drawn otherwise: the even ones get their scores, and the other way round."""
    even, odd = drawn([2.0], [1.0], [2000]), drawn([1.0], [-1.0], [2000], seed=1)
    both = Outcomes(
        np.concatenate([even.score, odd.score]), np.concatenate([even.right, odd.right]),
        np.zeros(4000, np.int64),
        np.concatenate([2 * even.image, 2 * odd.image + 1]), even.split,
    )  # fmt: skip
    whole = fit_score_calibration(both)
    assert whole is not None
    score = cross_fitted(both, whole).score
    by_odd = fit_score_calibration(odd)
    assert by_odd is not None
    assert score[:2000] == pytest.approx(by_odd.apply(even).score, abs=1e-12)


# ---- the fold
# --------------------------------------------------------------------------------------------------


def test_the_fold_changes_the_heat_of_each_class_and_nothing_else(model: CenterNet) -> None:
    """New heat = scale * heat + shift, sizes and offsets as before; again is no change; it can be undone."""
    image = torch.rand(1, 3, 64, 64) * 255
    heat, size, offset = model(image)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    set_scores(model, FITTED)
    changed = model(image)
    torch.testing.assert_close(changed[0][:, 0], 2.0 * heat[:, 0] + 1.0)
    torch.testing.assert_close(changed[0][:, 1], 0.5 * heat[:, 1] - 1.0)
    assert torch.equal(changed[1], size)
    assert torch.equal(changed[2], offset)
    assert (model.spec.score_scale, model.spec.score_shift) == ((2.0, 0.5), (1.0, -1.0))
    assert model.spec.suggested == (0.4, 0.6)
    set_scores(model, FITTED)
    torch.testing.assert_close(model(image)[0], changed[0])
    set_scores(model, None)
    torch.testing.assert_close(model(image)[0], changed[0])
    unfold(model)
    assert model.spec == SPEC
    torch.testing.assert_close(model.state_dict(), before)


def test_training_starts_from_scores_as_trained(model: CenterNet, tmp_path: Path) -> None:
    """Where nothing is trained the calibration stays, in the new order of classes."""
    heat = model.heat.conv.weight.clone()
    set_scores(model, FITTED)
    path = tmp_path / "float.safetensors"
    save_checkpoint(path, model, "float")
    spec = replace(SPEC, classes=("dog", "owl"))
    trained, _ = start_network(TINY, spec, path)
    assert trained.spec == replace(spec, stride=trained.spec.stride)
    torch.testing.assert_close(trained.heat.conv.weight[0], heat[1])
    kept, _ = start_network(replace(TINY, epochs=0), spec, path)
    assert (kept.spec.score_scale, kept.spec.score_shift) == ((0.5, 1.0), (-1.0, 0.0))
    assert (kept.spec.threshold, kept.spec.class_thresholds) == (0.4, (0.6, 0.4))
    torch.testing.assert_close(kept.heat.conv.weight[0], model.heat.conv.weight[1])


# ---- the run
# ---------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Four grey images with a box each."""
    samples = []
    for i in range(4):
        path = tmp_path / f"{i}.png"
        cv2.imwrite(str(path), np.full((64, 64, 3), 40 * i, np.uint8))
        box = np.array([[10, 10, 40, 40]], np.float32)
        samples.append(Sample(path, 64, 64, box, np.array([i % 2]), np.array([False])))
    return Dataset(SPEC.classes, tuple(samples))


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Outcomes:
    """What every network finds here, for none that was trained for a second finds anything."""
    one = drawn([2.0, 2.0], [1.0, 1.0], [1000, 1000])
    monkeypatch.setattr(score_calibration, "judge", lambda model, data: one)
    return one


def test_a_run_calibrates_between_its_stages_and_int8_keeps_it(
    data: Dataset, found: Outcomes, tmp_path: Path
) -> None:
    """float.safetensors and qat.safetensors record it and answer alike; resuming in int8 does not lose it."""
    trainer = Trainer(TINY, data, data, tmp_path, "t")
    trainer.run()
    network, _ = load_checkpoint(tmp_path / "float.safetensors")
    int8, stage = load_checkpoint(tmp_path / "qat.safetensors")
    fitted = fit_score_calibration(found)
    assert fitted is not None
    assert network.spec.score_scale == tuple(fitted.scale.tolist())
    assert network.spec.threshold != ModelSpec.threshold
    assert (int8.spec, stage) == (network.spec, "qat")
    image = torch.rand(1, 3, 64, 64) * 255
    assert (network(image)[0].clamp(min=-8) - int8(image)[0]).abs().mean() < 0.2

    record = json.loads((tmp_path / "scores.json").read_text())
    assert record["after"]["error"] < 0.05 < record["before"]["error"]
    assert record["at_threshold"]["threshold"] == network.spec.threshold
    assert (tmp_path / "reliability.png").read_bytes()[:4] == b"\x89PNG"

    resumed = Trainer(TINY, data, data, tmp_path, "t")
    resumed.resume()
    assert resumed.position.stage == "qat"
    assert resumed.ema.spec == network.spec


def test_calibrating_what_was_calibrated_gives_the_same(
    data: Dataset, found: Outcomes, tmp_path: Path
) -> None:
    """Quantize what a run ended with once more: the same scale, shift and weights, not both of them twice."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    Trainer(TINY, data, data, tmp_path / "a", "t").run(quantize=False)
    path = tmp_path / "a" / "float.safetensors"
    Trainer(replace(TINY, epochs=0), data, data, tmp_path / "b", "t", path).run(quantize=False)
    first, _ = load_checkpoint(path)
    second, _ = load_checkpoint(tmp_path / "b" / "float.safetensors")
    assert second.spec == first.spec
    torch.testing.assert_close(second.heat.conv.weight, first.heat.conv.weight)


@pytest.mark.parametrize("how", ["no validation set", "switched off"])
def test_scores_stay_as_trained_where_nothing_is_fitted(
    data: Dataset, found: Outcomes, tmp_path: Path, how: str
) -> None:
    """No record, the threshold of every network."""
    val, config = (
        (None, TINY) if how == "no validation set" else (data, replace(TINY, calibrate_scores=False))
    )
    Trainer(config, data, val, tmp_path, "t").run(quantize=False)
    network, _ = load_checkpoint(tmp_path / "float.safetensors")
    assert (network.spec.score_scale, network.spec.threshold) == ((), 0.3)
    assert not (tmp_path / "scores.json").exists()

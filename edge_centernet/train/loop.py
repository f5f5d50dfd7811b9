"""The training loop: first in float, then with simulated int8, on a CPU, a GPU or several of either.

`Trainer` reads from top to bottom: a run, a stage, an epoch, a step, then what has to be built for them.
`train.run_folder` has the files of a run, `train.stop` how it stops, `train.qat` the start of the
quantization-aware stage.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import cv2
import numpy as np
import onnx
import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from edge_centernet import qdq
from edge_centernet.data import Dataset
from edge_centernet.errors import ConfigError, EdgeCenterNetError
from edge_centernet.manifest import SCORE_FIELDS, ModelSpec
from edge_centernet.network import distributed
from edge_centernet.network.centernet import CenterNet
from edge_centernet.network.checkpoint import Stage, load_state
from edge_centernet.network.fake_quant import (
    freeze_ranges,
    prepare_qat,
    set_observing,
    settle_weights,
    start_from,
)
from edge_centernet.network.losses import Teacher, centernet_loss
from edge_centernet.train.config import TrainConfig
from edge_centernet.train.dataset import Augment, BatchSampler, TrainingSet, input_shapes, make_loader
from edge_centernet.train.qat import quantize_post_training, relative_step, teacher_from_float_stage
from edge_centernet.train.report import write_report
from edge_centernet.train.run_folder import Best, Position, RunFolder
from edge_centernet.train.score_calibration import Fitted, fit_to, set_scores, summary
from edge_centernet.train.start import freeze_layers, start_network
from edge_centernet.train.stop import StopRequest
from edge_centernet.train.validate import validate

LOSSES = ("loss", "heat", "overlap", "size", "offset", "teacher")  # the fields of Loss, and the teacher's
# Columns of metrics.csv. side: of the square images of early epochs, else the longer one of the input.
METRICS = ("stage", "epoch", "side", "lr", *LOSSES, "AP50", "AP", "images_per_s", "seconds")
_Result = TypeVar("_Result")


class TrainingDiverged(EdgeCenterNetError):
    """The loss is not a number; the last good state is kept."""


class Step(nn.Module):
    """Forward pass and losses of one batch: the module that processes share."""

    def __init__(self, model: CenterNet, teacher: Teacher | None) -> None:
        """teacher: whose answers are learned beside the labels, or None."""
        super().__init__()
        self.model, self.teacher = model, teacher

    def forward(
        self, batch: dict[str, Tensor], label_weight: float, teacher_weight: float, amp: bool
    ) -> Tensor:
        """This process's part of the losses of the global batch, (6,) in the order of LOSSES.

        The sum over all processes is the loss of the global batch.

        batch: images (B, 3, H, W) uint8 and the fields of `Targets`. amp: compute in bfloat16 where that is
            safe.
        """
        images = batch["image"].to(memory_format=torch.channels_last)
        taught = torch.zeros((), device=images.device)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
            x = self.model.normalize(images.float())
            outputs = self.model.core(x)
            if self.teacher is not None:
                taught = self.teacher(x, outputs)
        objects = distributed.total(batch["score"].sum()).clamp(min=1)
        loss = centernet_loss(outputs, batch, objects)
        taught = taught / objects
        return torch.stack([label_weight * loss.total + teacher_weight * taught, *loss[1:], taught])


class Trainer:
    """One training run; `run` trains, from the start or, after `resume`, from where an earlier run stopped.

    model: the network that learns. ema: its moving average, which is evaluated and saved.
    step: the forward pass and losses of a batch, shared between processes.
    position: how far the run has come.
    metrics: set at the end of `run`, in the first process: what `evaluate_samples` says of the result on
        "val" and on "test", where there are such sets.
    """

    model: CenterNet
    ema: CenterNet
    step: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        config: TrainConfig,
        train: Dataset,
        val: Dataset | None,
        out: Path,
        name: str,
        weights: Path | None = None,
        device: str = "auto",
        test: Dataset | None = None,
        stop: StopRequest | None = None,
    ) -> None:
        """Build the network and everything around it; nothing is written.

        Args:
            config: every option of training.
            train: the training set; its classes become the network's.
            val: the validation set, or None to train without evaluating.
            out: the run folder, which exists.
            name: the model's name in its manifest.
            weights: what to start from, see `start_network`; None for random weights.
            device: a PyTorch device, or "auto" for a GPU where there is one.
            test: images that only the result is evaluated on, or None.
            stop: what the caller listens with for a stop; None for one of its own.

        Raises ConfigError for `patience` without a validation set.
        """
        if config.patience and val is None:
            raise ConfigError(
                "patience: expected a validation set to tell whether AP still rises; give --val"
            )
        self.folder, self.val, self.test = RunFolder(out, METRICS), val, test
        self.metrics: dict[str, dict[str, Any]] = {}
        self.device = distributed.default_device() if device == "auto" else torch.device(device)
        width, height = config.size
        spec = ModelSpec(name, "1", height, width, train.classes)  # the stride follows from the network
        torch.manual_seed(config.seed)
        # A stop may come in the midst of a bar, which then keeps tqdm's lock: its thread would wait for ever.
        tqdm.monitor_interval = 0
        cv2.setNumThreads(1)  # the warps are small, and OpenCV's threads would fight those that train
        model, self.config = start_network(config, spec, weights)
        self.frozen = config.freeze if weights is not None else 0  # backbone layers up to this stride
        self.position = Position()
        self._sums = np.zeros(len(LOSSES))  # of the losses in this epoch
        self._row: dict[str, Any] | None = None  # metrics of an epoch that is trained, but not yet evaluated
        self._best = Best()
        self._stop = stop or StopRequest()
        self.amp = config.amp == "on" or (config.amp == "auto" and _has_bfloat16(self.device))
        self._set_model(model)
        augment = Augment(scale=(config.scale_min, config.scale_max), occlude=config.occlude)
        mosaic_epochs = int(config.mosaic_part * config.epochs)
        dataset = TrainingSet(train, model.spec, augment, config.seed, config.mosaic, mosaic_epochs)
        self.sampler = BatchSampler(
            len(dataset), config.batch_size, config.seed, distributed.rank(), distributed.processes()
        )
        self.loader = make_loader(dataset, self.sampler, config.workers)
        self.steps = len(self.sampler)  # per epoch

    # ---- the schedule

    def run(self, quantize: bool = True) -> None:
        """Train through both stages, from `position` on.

        Ctrl-C and SIGTERM end the run at once, with its state saved (KeyboardInterrupt): `resume` does the
        step, evaluation or calibration again that was under way. Several processes finish their step.
        quantize: False stops after the float stage.
        """
        options = {**self.config.to_dict(), "classes": list(self.model.spec.classes)}
        self.folder.write("config.json", json.dumps(options, indent=1) + "\n")
        with self._stop.on_signals(), self._stop.held(), self.folder.logging():
            if self.position.stage == "float":
                # 1. Learn from the labels, in float.
                self._stage(self.config.epochs)
                # 2. Take the best of it, and make scores say how often a detection is right: before
                # quantization, because it changes the weights of the last convolution.
                self._take_best()
                self._calibrate_scores()
                self.folder.save_weights("float.safetensors", self.ema, "float")
                if not quantize:
                    return
                # 3. Quantize what was learned.
                self._start_qat()
                self.save()
                self._heed()
            # 4. Learn to answer in int8 as the float network does.
            self._stage(self.config.qat_epochs)
            # 5. The averaged weights, rounded, are the result.
            settle_weights(self.ema)
            stage: Stage = "qat_symmetric" if self.config.symmetric else "qat"
            self.folder.save_weights("qat.safetensors", self.ema, stage)
            # 6. The report; without a single epoch there is nothing to report.
            if distributed.is_first() and self.config.epochs + self.config.qat_epochs > 0:
                with self._stop.at_once():
                    if metrics := write_report(self.folder.path, self.ema, self.val):
                        self.metrics["val"] = metrics
                    if self.test is not None:
                        self.metrics["test"] = validate(self.ema, self.test)

    def _stage(self, epochs: int) -> None:
        """The rest of the current stage: train, evaluate and save, epoch by epoch."""
        every = self.config.eval_every
        patience = self.config.patience if self.position.stage == "float" else 0
        while self.position.epoch < epochs and not 0 < patience <= self._best.stale:
            epoch = self.position.epoch
            if self.position.stage == "qat" and epoch >= self.config.qat_freeze * epochs:
                freeze_ranges(self.model)
            due = epoch + 1 == epochs or (every and (epoch + 1) % every == 0)
            if self._row is None:
                self._row = self._epoch(epoch, epochs)
                if due and self.val is not None:
                    self.save()  # an evaluation that is interrupted is done again
            row = self._row
            if due and self.val is not None:
                row |= self._evaluate(epoch + 1, epochs, row["loss"])
            self.folder.log(row)
            if self.position.stage == "float":
                self.folder.save_weights("last.safetensors", self.ema, "float")
            # The state last: a crash before it repeats the epoch, one after it loses nothing.
            self.position.epoch, self.position.step, self._row = epoch + 1, 0, None
            self._sums[:] = 0
            self.save()
            self._heed()
        if 0 < patience <= self._best.stale and distributed.is_first():
            tqdm.write(
                f"Stopped early: no better AP in {self._best.stale} evaluations (patience); "
                f"the best is that of epoch {self._best.epoch}"
            )

    def _evaluate(self, epoch: int, epochs: int, loss: float) -> dict[str, float]:
        """Evaluate the averaged network after `epoch` epochs, keep it if it is the best; AP50 and AP."""
        val = cast(Dataset, self.val)

        def measure() -> dict[str, float]:
            metrics = validate(self.ema, val)
            return {name: round(metrics[name], 4) for name in ("AP50", "AP")}

        found = self._in_first(measure)
        best = self.position.stage == "float" and self._best.takes(found["AP"], epoch)
        if best:
            self.folder.save_weights("best.safetensors", self.ema, "float")
        if distributed.is_first():
            figures = f"loss {loss:.3f}, AP50 {found['AP50']:.3f}, AP {found['AP']:.3f}"
            tqdm.write(f"{self.position.stage} {epoch}/{epochs}: {figures}{' (best)' if best else ''}")
        return found

    def _heed(self) -> None:
        """End the run, whose state has just been saved, if a stop has come."""
        if distributed.anywhere(self._stop.made):
            raise KeyboardInterrupt

    def _in_first(self, work: Callable[[], _Result]) -> _Result:
        """What the first process alone works out, in all of them; a stop ends it and them at once."""
        result, stopped = None, False
        if distributed.is_first():
            try:
                with self._stop.at_once():
                    result = work()
            except KeyboardInterrupt:
                stopped = True
        result, stopped = cast("tuple[_Result, bool]", distributed.from_first((result, stopped)))
        if stopped:
            raise KeyboardInterrupt
        return result

    def _epoch(self, epoch: int, epochs: int) -> dict[str, Any]:
        """The rest of one epoch; returns its line of metrics."""
        # 1. The size of the images: small at first, because coarser first is no worse and cheaper.
        config, qat = self.config, self.position.stage == "qat"
        width, height = config.size
        early = not qat and epoch < config.early_part * epochs
        if early and config.early_side**2 < width * height:
            width = height = config.early_side
        shapes = input_shapes(height, width, 0.0 if qat else config.multiscale)
        # 2. The batches that are left of the epoch. Its number goes on through the stages, so that the
        # quantization-aware stage sees other crops than the first float epochs.
        first = self.position.step
        self.sampler.set_epoch(epoch + (config.epochs if qat else 0), shapes, first)
        self.model.train()
        start = saved = time.perf_counter()
        bar = tqdm(
            desc=f"{self.position.stage} {epoch + 1}/{epochs} {width}x{height}px",
            unit="batch",
            initial=first,
            total=self.steps,
            dynamic_ncols=True,
            mininterval=2.0,
            leave=False,  # unless it comes to its end
            disable=not distributed.is_first(),
        )
        with bar:
            for batch in self._batches():
                # 3. One step, and its figures on the screen.
                moved = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
                done = epoch * self.steps + self.position.step
                lr, losses = self._train_step(moved, done, epochs * self.steps)
                self._sums += losses
                self.position.step += 1
                mean = dict(zip(LOSSES, self._sums / self.position.step, strict=True))
                speed = (self.position.step - first) * config.batch_size / (time.perf_counter() - start)
                bar.set_postfix_str(f"loss {mean['loss']:.3f}, IoU {1 - mean['overlap']:.3f}", refresh=False)
                bar.update()
                if self.position.step == self.steps:
                    continue  # the state is saved in a moment, as that of a finished epoch
                # 4. Save the state every few minutes, and before a stop.
                if distributed.anywhere(self._stop.made):
                    self.save()
                    raise KeyboardInterrupt
                if time.perf_counter() - saved > config.save_every:
                    self.save()
                    saved = time.perf_counter()
            bar.leave = True
        row = {
            "stage": self.position.stage,
            "epoch": epoch + 1,
            "side": max(width, height),
            "lr": f"{lr:.3g}",
        }
        row |= {name: round(float(value), 5) for name, value in mean.items()}
        seconds = time.perf_counter() - start
        return row | {"images_per_s": round(speed, 1), "seconds": round(seconds, 1)}

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        """What the sampler draws; a stop that comes while a batch is loaded is heeded at once."""
        source = iter(self.loader)
        while True:
            if self.position.step < self.steps:
                with self._may_be_dropped():
                    batch = next(source, None)
            else:  # the end of the epoch, which is saved in a moment
                batch = next(source, None)
            if batch is None:
                return
            yield batch

    @contextmanager
    def _may_be_dropped(self, changing: Iterable[Tensor] = ()) -> Iterator[None]:
        """A part of a step: a stop ends it at once, and the state is saved as if the step had not begun.

        changing: the tensors that this part changes; they are put back.
        Several processes are not stopped here: they stop together, after the step.
        """
        if distributed.processes() > 1:
            yield
            return
        kept = [(tensor, tensor.clone()) for tensor in changing]
        try:
            with self._stop.at_once():
                yield
        except KeyboardInterrupt:
            for tensor, before in kept:
                tensor.copy_(before)
            self.save()
            raise

    def _train_step(self, batch: dict[str, Tensor], step: int, steps: int) -> tuple[float, list[float]]:
        """Update the network by one batch: step number `step` of the `steps` of the stage.

        Returns the learning rate, and the losses of the global batch in the order of LOSSES.
        """
        qat = self.position.stage == "qat"
        # 1. The learning rate of every group of parameters.
        lr = learning_rate(self.config.qat_lr if qat else self.config.lr, self.config.warmup, step, steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        # 2. The losses. One that is not a number ends the run before it reaches weights or saved state.
        label_weight = self.config.qat_labels if qat else 1.0
        # All that changes before the optimizer's step: the statistics of BatchNorm and the ranges.
        with self._may_be_dropped(self.model.buffers()):
            losses = self.step(batch, label_weight, self.config.teacher_weight, self.amp)
            values: list[float] = distributed.total(losses.detach().clone()).tolist()
            if not math.isfinite(values[0]):
                raise TrainingDiverged(
                    f"the loss became {values[0]} in {self.position.stage} epoch {self.position.epoch + 1}, "
                    f"step {self.position.step + 1}: the last good state is "
                    f"{self.folder.path / 'state.pt'}; go on from it with --resume and a lower --set lr"
                )
            # 3. The gradients. Those of several processes are averaged, but those of the sum are wanted.
            self.optimizer.zero_grad(set_to_none=True)
            (losses[0] * distributed.processes()).backward()
        if self.config.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        # 4. The step.
        if qat:
            relative_step(self.optimizer)
        else:
            self.optimizer.step()
        # 5. The moving average, which forgets faster at first: the earliest weights are worth little.
        decay = min(self.config.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            ours, theirs = self.ema.state_dict(), self.model.state_dict()
            floats = [k for k, v in ours.items() if v.is_floating_point()]
            torch._foreach_lerp_([ours[k] for k in floats], [theirs[k] for k in floats], 1 - decay)
            for key in ours.keys() - set(floats):
                ours[key].copy_(theirs[key])
        return lr, values

    # ---- between the stages

    def _take_best(self) -> None:
        """Make the averaged network the best of the stage, where that is not the last."""
        if self._best.epoch and self._best.stale:
            name = "best.safetensors"
            content = self.folder.read(name, "the best weights of the float stage")
            load_state(self.ema, load(content), self.folder.path / name)

    def _calibrate_scores(self) -> None:
        """Calibrate the averaged float network on the validation set: in the first process, alike in all."""
        val = self.val
        if val is None or not self.config.calibrate_scores:
            return
        fitted: Fitted | None = self._in_first(lambda: fit_to(self.ema, val))
        set_scores(self.ema, fitted)
        if fitted is not None:
            self.folder.write("scores.json", json.dumps(fitted.record, indent=1) + "\n")
        if distributed.is_first():
            tqdm.write(summary(fitted))

    def _start_qat(self) -> None:
        """Go on from the averaged float network, quantized after training."""
        self.model.load_state_dict(self.ema.state_dict())
        self.model.spec = self.ema.spec  # with what the scores mean
        train = cast(TrainingSet, self.loader.dataset).data
        found = self._in_first(lambda: quantize_post_training(self.model, train, self.config.symmetric))
        quantized = qdq.parse(onnx.load_from_string(found))
        self._insert_quantizers()
        start_from(self.model, quantized, fixed=self.config.qat_freeze == 0)
        self.ema = copy.deepcopy(self.model).eval()
        set_observing(self.ema, False)
        self.position = Position("qat")

    # ---- the network, its average, its teacher and its optimizer

    def _set_model(self, model: CenterNet) -> None:
        """Prepare a network for the float stage."""
        freeze_layers(model, self.frozen)
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.model).eval()
        distributed.share_batchnorm(self.model)
        self._set_step(Teacher.load(self.config.teacher, model.spec) if self.config.teacher else None)

    def _insert_quantizers(self) -> None:
        """Turn the float network into one with quantizers that observe, taught by what it was."""
        taught = self.config.qat_epochs > 0  # otherwise there is nothing to learn
        teacher = teacher_from_float_stage(self.folder, self.model) if taught else None
        prepare_qat(self.model, self.config.symmetric)
        self.model.to(self.device)
        self.ema = copy.deepcopy(self.model).eval()
        set_observing(self.model, True)
        self._set_step(teacher)

    def _set_step(self, teacher: Teacher | None) -> None:
        """Join network and teacher, with a new optimizer for the parameters that learn."""
        if teacher is not None:
            teacher.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.step = Step(self.model, teacher)
        # AdamW with a factor on the learning rate of the backbone, which is usually pretrained, and with
        # weight decay on convolution weights alone, not on biases and BatchNorm.
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.step.named_parameters():
            if parameter.requires_grad:
                key = name.startswith("model.backbone."), parameter.ndim > 1
                groups.setdefault(key, []).append(parameter)
                # Otherwise the backward pass is one call, seconds long, in which Python hears no signal.
                parameter.register_post_accumulate_grad_hook(_listen)  # type: ignore[no-untyped-call]
        options = [
            {
                "params": parameters,
                "factor": self.config.backbone_lr if backbone else 1.0,
                "weight_decay": self.config.weight_decay if decay else 0.0,
            }
            for (backbone, decay), parameters in groups.items()
        ]
        self.optimizer = torch.optim.AdamW(options, lr=self.config.lr)
        if distributed.processes() > 1:
            # Buffers are equal already: BatchNorm and ranges are measured over all processes.
            self.step = DistributedDataParallel(self.step, broadcast_buffers=False)

    # ---- saving and resuming

    def save(self) -> None:
        """Write state.pt: weights, average, optimizer, position, random state; raises CannotSave."""
        state = {
            "stage": self.position.stage,
            "epoch": self.position.epoch,
            "step": self.position.step,
            "frozen": self.frozen,
            "sums": self._sums.tolist(),
            "row": self._row,
            "best": [self._best.ap, self._best.epoch, self._best.stale],
            "scores": {name: getattr(self.ema.spec, name) for name in SCORE_FIELDS},
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        self.folder.save_state(state)

    def resume(self) -> None:
        """Continue from state.pt; metrics of epochs that will be repeated are dropped.

        Raises ConfigError where the folder holds no earlier run.
        """
        state = self.folder.load_state(self.device)
        self.position = Position(state["stage"], state["epoch"], state["step"])
        self.frozen = state["frozen"]
        self._sums = np.array(state["sums"])
        self._row = state.get("row")
        self._best = Best(*state.get("best", ()))
        # The same modules as in the run that was saved come first, then their weights, then the random state,
        # which building them has moved.
        self._set_model(CenterNet(replace(self.model.spec, **state.get("scores", {})), self.model.arch))
        if self.position.stage == "qat":
            self._insert_quantizers()
        path = self.folder.path / "state.pt"
        load_state(self.model, state["model"], path)
        load_state(self.ema, state["ema"], path)
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"].cpu())
        self.folder.drop_metrics_after(self.position)


def _listen(parameter: Tensor) -> None:
    """Do nothing, in Python, which runs the handlers of signals on the way."""


def learning_rate(peak: float, warmup: int, step: int, steps: int) -> float:
    """Linear warm-up, then cosine from `peak` to 1 % of it (arXiv 1608.03983).

    step: 0 to steps - 1, within a stage of `steps`. warmup: steps, at most a tenth of the stage.
    """
    warm = min(1.0, (step + 1) / max(1, min(warmup, steps // 10)))
    half_cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))  # 1 at the start, 0 at the end
    return peak * warm * (0.01 + 0.99 * half_cosine)


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware computes in bfloat16: emulated, it is several times slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags

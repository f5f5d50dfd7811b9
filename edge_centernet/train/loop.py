"""One readable training loop: float, then quantization-aware. Resumable, on a CPU, a GPU or several of either.

A run folder holds
    config.json            options and classes
    metrics.csv            one line an epoch; the same in tensorboard/
    state.pt               everything needed to go on (kept current; torch.load with weights_only=True)
    float.safetensors      averaged float weights, scores calibrated at the end of the stage
    scores.json            what the calibration of scores was fitted from, and how far it helps
    (docs/scores.md) qat.safetensors        averaged quantization-aware weights, BatchNorm folded
    curves.png, pr.png, reliability.png, contact_sheet.jpg   what there is to look at, when it is done
"""

from __future__ import annotations

import copy
import csv
import errno
import io
import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal, cast

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from edge_centernet import qdq
from edge_centernet.calibration.images import CALIBRATION_IMAGES, readers, spread
from edge_centernet.calibration.quantize import Options, quantize
from edge_centernet.data import Dataset
from edge_centernet.errors import ConfigError, EdgeCenterNetError
from edge_centernet.files import write_atomic
from edge_centernet.manifest import SCORE_FIELDS, ModelSpec
from edge_centernet.network import distributed
from edge_centernet.network.centernet import CenterNet
from edge_centernet.network.checkpoint import Stage, load_state, save_checkpoint
from edge_centernet.network.fake_quant import (
    freeze_ranges,
    prepare_qat,
    set_observing,
    settle_weights,
    start_from,
)
from edge_centernet.network.losses import centernet_loss
from edge_centernet.progress import bars
from edge_centernet.train.augment import Augment
from edge_centernet.train.config import TrainConfig
from edge_centernet.train.dataset import BatchSampler, TrainingSet, input_shapes, make_loader
from edge_centernet.train.export import float_onnx
from edge_centernet.train.report import TensorBoardLog, write_report
from edge_centernet.train.score_calibration import Fitted, fit_to, set_scores, summary
from edge_centernet.train.start import freeze_layers, start_network
from edge_centernet.train.teacher import Teacher
from edge_centernet.train.validate import validate

LOSSES = ("loss", "heat", "overlap", "size", "offset", "teacher")  # Loss's fields, and the teacher's
# side: of the square images of early epochs, else the longer one of the network's input.
METRICS = ("stage", "epoch", "side", "lr", *LOSSES, "AP50", "AP", "images_per_s", "seconds")


class TrainingDiverged(EdgeCenterNetError):
    """The loss is not a number; the last good state is kept."""


class CannotSave(EdgeCenterNetError):
    """The disk is full, or the folder has gone; what was saved before is intact."""


@dataclass
class Progress:
    """Where the run stands: `epoch` epochs of `stage` are done, and `step` batches of the next one."""

    stage: str = "float"
    epoch: int = 0
    step: int = 0


class Step(nn.Module):
    """Forward pass and losses of one batch: what is shared between processes."""

    def __init__(self, model: CenterNet, teacher: Teacher | None) -> None:
        """teacher: distillation of the heatmap, or None."""
        super().__init__()
        self.model, self.teacher = model, teacher

    def forward(
        self, batch: dict[str, Tensor], label_weight: float, teacher_weight: float, amp: bool
    ) -> Tensor:
        """Images (B, 3, H, W) uint8 and the fields of Targets -> (6,) losses of the global batch, as in LOSSES.

        Each process's part of them: their sum over all processes is the loss of the global batch.
        """
        images = batch["image"].to(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
            x = self.model.normalize(images.float())
            outputs = self.model.core(x)
            taught = (
                torch.zeros((), device=images.device) if self.teacher is None else self.teacher(x, outputs)
            )
        objects = distributed.total(batch["score"].sum()).clamp(min=1)
        loss = centernet_loss(outputs, batch, objects)
        taught = taught / objects
        return torch.stack([label_weight * loss.total + teacher_weight * taught, *loss[1:], taught])


class Trainer:
    """Holds what one run needs; `run` does everything."""

    def __init__(
        self,
        config: TrainConfig,
        train: Dataset,
        val: Dataset | None,
        out: Path,
        name: str,
        weights: Path | None = None,
        device: str = "auto",
    ) -> None:
        """name: the model's name in the manifest. weights: see `start_network`."""
        self.out, self.val = out, val
        self.device = distributed.default_device() if device == "auto" else torch.device(device)
        width, height = config.size
        spec = ModelSpec(name, "1", height, width, train.classes)  # the stride follows from the network
        torch.manual_seed(config.seed)
        cv2.setNumThreads(1)  # the warps are small, and its threads fight the ones that train
        model, self.config = start_network(config, spec, weights)
        self.frozen = config.freeze if weights is not None else 0  # backbone layers up to this stride
        self.progress = Progress()
        self._sums = np.zeros(len(LOSSES))  # of the losses in this epoch
        self._stopped = False
        self._board: TensorBoardLog | None = None
        self.amp = _use_amp(config.amp, self.device)
        self._set_model(model)
        augment = Augment(scale=(config.scale_min, config.scale_max))
        mosaic_epochs = int(config.mosaic_part * config.epochs)
        dataset = TrainingSet(train, model.spec, augment, config.seed, config.mosaic, mosaic_epochs)
        self.sampler = BatchSampler(
            len(dataset), config.batch_size, config.seed, distributed.rank(), distributed.processes()
        )
        self.loader = make_loader(dataset, self.sampler, config.workers)
        self.steps = len(self.sampler)  # per epoch

    def _set_model(self, model: CenterNet) -> None:
        """Prepare a network for the float stage: frozen layers, its average, the teacher, the optimizer."""
        freeze_layers(model, self.frozen)
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.model).eval()
        distributed.share_batchnorm(self.model)
        teacher = Teacher.load(self.config.teacher, self.model.spec) if self.config.teacher else None
        self._set_step(teacher)

    def _set_step(self, teacher: Teacher | None) -> None:
        if teacher is not None:
            teacher.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.step: nn.Module = Step(self.model, teacher)
        self.optimizer = self._optimizer(self.step)
        if distributed.processes() > 1:
            self.step = DistributedDataParallel(self.step, broadcast_buffers=False)

    def run(self, quantize: bool = True) -> None:
        """Both stages, from wherever `progress` stands. Ctrl-C ends it after the current step, saved.

        quantize: False stops behind the float stage.
        """
        options = {**self.config.to_dict(), "classes": list(self.model.spec.classes)}
        self._write(self.out / "config.json", json.dumps(options, indent=1) + "\n")
        with self._stop_on_signal(), self._logging():
            if self.progress.stage == "float":
                self._stage(self.config.epochs)
                self._calibrate_scores()
                self._save_weights("float")
                if not quantize:
                    return
                self._start_qat()
                self.save()
            self._stage(self.config.qat_epochs)
        settle_weights(self.ema)
        self._save_weights("qat")
        if self._first() and self.config.epochs + self.config.qat_epochs > 0:
            write_report(self.out, self.ema, self.val)

    # ---- one stage, one epoch, one step
    # ------------------------------------------------------------------------

    def _stage(self, epochs: int) -> None:
        while self.progress.epoch < epochs:
            epoch = self.progress.epoch
            if self.progress.stage == "qat" and epoch >= self.config.qat_freeze * epochs:
                freeze_ranges(self.model)
            row = self._epoch(epoch, epochs)
            self.progress.epoch, self.progress.step = epoch + 1, 0
            last = self.progress.epoch == epochs
            every = self.config.eval_every
            if (
                self.val is not None
                and (last or (every and self.progress.epoch % every == 0))
                and self._first()
            ):
                metrics = validate(self.ema, self.val)
                row.update(AP50=round(metrics["AP50"], 4), AP=round(metrics["AP"], 4))
            self._log(row)
            if self.progress.stage == "float":
                self._save_weights("float")
            self.save()
            if distributed.anywhere(self._stopped):
                raise KeyboardInterrupt

    def _epoch(self, epoch: int, epochs: int) -> dict[str, Any]:
        qat = self.progress.stage == "qat"
        early = not qat and epoch < self.config.early_part * epochs
        size, small = self.config.size, self.config.early_side
        early = early and small**2 < size.width * size.height
        height, width = (small, small) if early else (size.height, size.width)
        shapes = input_shapes(height, width, 0.0 if qat else self.config.multiscale)
        first = self.progress.step
        # Epoch numbers go on through the stages, so that QAT sees other crops than the first float epochs.
        self.sampler.set_epoch(epoch + (self.config.epochs if qat else 0), shapes, first)
        self.model.train()
        start = saved = time.perf_counter()
        title = f"{self.progress.stage} {epoch + 1}/{epochs} {width}x{height}px"
        bar = tqdm(
            self.loader, desc=title, unit="batch", initial=first, total=self.steps, dynamic_ncols=True, mininterval=2.0,
            disable=not self._first(),
        )  # fmt: skip
        for batch in bar:
            lr = self._set_lr(epoch * self.steps + self.progress.step, epochs * self.steps)
            self._sums += self._train_step(
                {k: v.to(self.device, non_blocking=True) for k, v in batch.items()}
            )
            self.progress.step += 1
            mean = dict(zip(LOSSES, self._sums / self.progress.step, strict=True))
            images_per_s = (
                (self.progress.step - first) * self.config.batch_size / (time.perf_counter() - start)
            )
            bar.set_postfix(
                loss=f"{mean['loss']:.3f}", heat=f"{mean['heat']:.3f}", IoU=f"{1 - mean['overlap']:.3f}",
                img_s=f"{images_per_s:.0f}", refresh=False,
            )  # fmt: skip
            if self.progress.step == self.steps:
                continue  # saved as a finished epoch, in a moment
            stop = distributed.anywhere(self._stopped)
            if stop or time.perf_counter() - saved > self.config.save_every:
                self.save()
                saved = time.perf_counter()
            if stop:
                bar.close()
                raise KeyboardInterrupt
        self._sums[:] = 0
        return {
            "stage": self.progress.stage, "epoch": epoch + 1, "side": max(width, height), "lr": f"{lr:.3g}",
            **{k: round(float(v), 5) for k, v in mean.items()},
            "images_per_s": round(images_per_s, 1), "seconds": round(time.perf_counter() - start, 1),
        }  # fmt: skip

    def _train_step(self, batch: dict[str, Tensor]) -> list[float]:
        """One update; returns the global batch's losses, in the order of LOSSES."""
        labels = self.config.qat_labels if self.progress.stage == "qat" else 1.0
        losses = self.step(batch, labels, self.config.teacher_weight, self.amp)
        values: list[float] = distributed.total(losses.detach().clone()).tolist()
        if not math.isfinite(values[0]):
            raise TrainingDiverged(
                f"the loss became {values[0]} in {self.progress.stage} epoch {self.progress.epoch + 1}, "
                f"step {self.progress.step + 1}: the last good state is {self.out / 'state.pt'}; "
                "go on from it with --resume and a lower --set lr"
            )
        self.optimizer.zero_grad(set_to_none=True)
        # Gradients are averaged over the processes; those of the sum are wanted.
        (losses[0] * distributed.processes()).backward()
        if self.config.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        if self.progress.stage == "qat":
            relative_step(self.optimizer)
        else:
            self.optimizer.step()
        self._update_ema()
        return values

    # ---- optimizer, schedule, averaging
    # ------------------------------------------------------------------------

    def _optimizer(self, step: nn.Module) -> torch.optim.Optimizer:
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in step.named_parameters():
            if parameter.requires_grad:
                key = (
                    name.startswith("model.backbone."),
                    parameter.ndim > 1,
                )  # no decay for biases and BatchNorm
                groups.setdefault(key, []).append(parameter)
        return torch.optim.AdamW(
            [
                {
                    "params": parameters,
                    "factor": self.config.backbone_lr if backbone else 1.0,
                    "weight_decay": self.config.weight_decay if decay else 0.0,
                }
                for (backbone, decay), parameters in groups.items()
            ],
            lr=self.config.lr,
        )

    def _steps_done(self) -> int:
        """In this stage."""
        return self.progress.epoch * self.steps + self.progress.step

    def _set_lr(self, step: int, steps: int) -> float:
        """Linear warm-up, then cosine to 1 % (arXiv 1608.03983)."""
        qat = self.progress.stage == "qat"
        peak = self.config.qat_lr if qat else self.config.lr
        warm = min(1.0, (step + 1) / max(1, min(self.config.warmup, steps // 10)))
        lr = peak * warm * (0.01 + 0.99 * _half_cosine(step / steps))
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        return lr

    @torch.no_grad()
    def _update_ema(self) -> None:
        steps = self._steps_done()
        decay = min(self.config.ema, (1 + steps) / (10 + steps))  # the first ones count little
        ours, theirs = self.ema.state_dict(), self.model.state_dict()
        floats = [k for k, v in ours.items() if v.is_floating_point()]
        torch._foreach_lerp_([ours[k] for k in floats], [theirs[k] for k in floats], 1 - decay)
        for key in ours.keys() - set(floats):
            ours[key].copy_(theirs[key])

    # ---- quantization-aware stage
    # ------------------------------------------------------------------------------

    def _calibrate_scores(self) -> None:
        """The averaged float network's, on the validation set, by the first process; alike everywhere."""
        if self.val is None or not self.config.calibrate_scores:
            return
        found = fit_to(self.ema, self.val) if self._first() else None
        fitted = cast("Fitted | None", distributed.from_first(found))
        set_scores(self.ema, fitted)
        if fitted is not None:
            self._write(self.out / "scores.json", json.dumps(fitted.record, indent=1) + "\n")
        if self._first():
            tqdm.write(summary(fitted))

    def _start_qat(self) -> None:
        """The averaged float network, quantized as `convert --calibration` does it: training goes on from there."""
        self.model.load_state_dict(self.ema.state_dict())
        self.model.spec = self.ema.spec  # with what the scores mean
        quantized = self._post_training()
        self._quantize()
        start_from(self.model, quantized, fixed=self.config.qat_freeze == 0)
        self.ema = copy.deepcopy(self.model).eval()
        set_observing(self.ema, False)
        self.progress = Progress("qat")

    def _post_training(self) -> qdq.Network:
        """Measured on images of the training set as a device will see them, by the first process; alike everywhere."""
        content = b""
        if self._first():
            dataset = cast(TrainingSet, self.loader.dataset)
            files = [sample.path for sample in spread(dataset.data.samples, CALIBRATION_IMAGES)]
            network = float_onnx(copy.deepcopy(self.model).cpu())
            options = Options(symmetric=self.config.symmetric)
            with bars() as progress:
                proto, report = quantize(network, self.model.spec, readers(files), options, progress)
            for line in report.lines():
                tqdm.write(line)
            content = proto.SerializeToString()
        import onnx

        return qdq.parse(onnx.load_from_string(cast(bytes, distributed.from_first(content))))

    def _quantize(self) -> None:
        """Insert quantizers, observing, into the network and its average; the float network becomes the teacher."""
        teacher = (
            Teacher(self._float_network(), self.model.spec, copied=True) if self.config.qat_epochs else None
        )
        prepare_qat(self.model, self.config.symmetric)
        self.model.to(self.device)
        self.ema = copy.deepcopy(self.model).eval()
        set_observing(self.model, True)
        self._set_step(teacher)

    def _float_network(self) -> CenterNet:
        """What the float stage ended with."""
        from safetensors.torch import load

        path = self.out / "float.safetensors"
        if self._first() and not path.is_file():
            raise ConfigError(f"--resume: expected the float stage's result, found no {path}")
        content = cast(bytes, distributed.from_first(path.read_bytes() if self._first() else b""))
        network = CenterNet(self.model.spec, self.model.arch)
        load_state(network, load(content), path)
        return network

    # ---- files -------------------------------------------------------------------------------------------------

    def _first(self) -> bool:
        """Whether this process writes files and talks."""
        return distributed.rank() == 0

    def save(self) -> None:
        """Write state.pt atomically: weights, average, optimizer, position, random state."""
        if not self._first():
            return
        state = {
            "stage": self.progress.stage,
            "epoch": self.progress.epoch,
            "step": self.progress.step,
            "frozen": self.frozen,
            "sums": self._sums.tolist(),
            "scores": {name: getattr(self.ema.spec, name) for name in SCORE_FIELDS},
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self._write(self.out / "state.pt", buffer.getvalue())

    def resume(self) -> None:
        """Go on from state.pt; metrics of epochs that will be repeated are dropped."""
        path = self.out / "state.pt"
        if self._first() and not path.is_file():
            raise ConfigError(f"--resume: expected an earlier run, found no {path}")
        content = path.read_bytes() if self._first() else b""
        content = cast(bytes, distributed.from_first(content))
        state = torch.load(io.BytesIO(content), map_location=self.device, weights_only=True)
        self.progress = Progress(state["stage"], state["epoch"], state["step"])
        self.frozen = state["frozen"]
        self._sums = np.array(state["sums"])
        self._set_model(CenterNet(replace(self.model.spec, **state.get("scores", {})), self.model.arch))
        if self.progress.stage == "qat":
            self._quantize()
        load_state(self.model, state["model"], path)
        load_state(self.ema, state["ema"], path)
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"].cpu())
        if self._first():
            self._drop_repeated_rows()

    def _drop_repeated_rows(self) -> None:
        """Remove metrics of epochs that finished, but not in time for state.pt."""
        path = self.out / "metrics.csv"
        if not path.exists():
            return
        header, *rows = path.read_text().splitlines(keepends=True)
        now = self.progress

        def finished(row: str) -> bool:
            stage, epoch = row.split(",")[:2]
            earlier_stage = stage == "float" and now.stage == "qat"
            return earlier_stage or (stage == now.stage and int(epoch) <= now.epoch)

        self._write(path, header + "".join(row for row in rows if finished(row)))

    def _log(self, row: dict[str, Any]) -> None:
        if not self._first():
            return
        path = self.out / "metrics.csv"
        before = path.read_text() if path.exists() else ",".join(METRICS) + "\n"
        line = io.StringIO(newline="")
        csv.DictWriter(line, METRICS, lineterminator="\n").writerow(row)
        self._write(path, before + line.getvalue())
        if self._board is not None:
            self._board.add(row)

    def _save_weights(self, name: Literal["float", "qat"]) -> None:
        stage: Stage = "qat_symmetric" if name == "qat" and self.config.symmetric else name
        if self._first():
            try:
                save_checkpoint(self.out / f"{name}.safetensors", self.ema, stage)
            except OSError as error:
                raise self._cannot_save(error) from None

    def _write(self, path: Path, content: str | bytes) -> None:
        if not self._first():
            return
        try:
            write_atomic(path, content)
        except OSError as error:
            raise self._cannot_save(error) from None

    def _cannot_save(self, error: OSError) -> CannotSave:
        advice = "free some space" if error.errno == errno.ENOSPC else "check the folder"
        return CannotSave(
            f"{error.filename}: {error.strerror}; what was saved before is intact: {advice}, then go on with --resume"
        )

    @contextmanager
    def _logging(self) -> Iterator[None]:
        """TensorBoard's file, open in the first process."""
        if not self._first():
            yield
            return
        with TensorBoardLog(self.out) as self._board:
            yield
        self._board = None

    @contextmanager
    def _stop_on_signal(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM let the current step finish and be saved; a second Ctrl-C does not wait."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self._stopped:
                raise KeyboardInterrupt
            self._stopped = True

        before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@torch.no_grad()
def relative_step(optimizer: torch.optim.Optimizer) -> None:
    """The optimizer's step, with convolution weights moved by it times the largest weight of their output channel.

    Adam moves every weight by about the learning rate. With BatchNorm folded, weights of one layer differ by
    orders of magnitude from channel to channel, and so do their int8 steps: small channels would be shaken,
    large ones stand still. A learning rate of 1e-4 now means a ten-thousandth of the channel's range.
    """
    learned = [p for group in optimizer.param_groups for p in group["params"] if p.ndim == 4]
    before = [p.detach().clone() for p in learned]
    optimizer.step()
    for p, old in zip(learned, before, strict=True):
        p.copy_(old + (p - old) * old.abs().amax(dim=(1, 2, 3), keepdim=True))


def _half_cosine(done: float) -> float:
    """1 at 0, falling to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _use_amp(wanted: str, device: torch.device) -> bool:
    """bfloat16 only where the hardware has it: emulated, it is several times slower than float32."""
    if wanted != "auto":
        return wanted == "on"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags

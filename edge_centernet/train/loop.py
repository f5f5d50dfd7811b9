"""One readable training loop: float, then quantization-aware. Resumable, on a CPU or a GPU.

A run folder holds
    config.json            options and classes
    metrics.csv            one line an epoch
    state.pt               everything needed to go on (kept current; torch.load with weights_only=True)
    float.safetensors      averaged float weights
    qat.safetensors        averaged quantization-aware weights, BatchNorm folded
"""

from __future__ import annotations

import copy
import csv
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from edge_centernet.data import Dataset
from edge_centernet.errors import ConfigError, EdgeCenterNetError
from edge_centernet.manifest import ModelSpec
from edge_centernet.model.backbones import load_pretrained
from edge_centernet.model.centernet import Architecture, CenterNet
from edge_centernet.model.checkpoint import load_state, save_checkpoint
from edge_centernet.model.layers import fold_batchnorm
from edge_centernet.model.losses import centernet_loss
from edge_centernet.train.augment import Augment
from edge_centernet.train.config import TrainConfig
from edge_centernet.train.dataset import EpochSampler, TrainingSet, make_loader
from edge_centernet.train.qat import freeze_ranges, prepare_qat, set_observing, settle_weights
from edge_centernet.train.validate import validate

METRICS = ("stage", "epoch", "side", "lr", "loss", "heat", "size", "offset", "AP50", "AP", "images_per_s", "seconds")
CALIBRATION_BATCHES = 24


class TrainingDiverged(EdgeCenterNetError):
    """The loss is not a number; the last good state is kept."""


@dataclass
class Progress:
    """Where the run stands: `epoch` epochs of `stage` are done."""

    stage: str = "float"
    epoch: int = 0


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
        """name: the model's name in the manifest. weights: pretrained backbone, torchvision names."""
        self.config, self.out, self.val = config, out, val
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        spec = ModelSpec(name=name, version="1", height=config.size, width=config.size, classes=train.classes)
        torch.manual_seed(config.seed)
        cv2.setNumThreads(1)  # the warps are small, and its threads fight the ones that train
        arch = Architecture(config.backbone, config.width)
        self.model = CenterNet(spec, arch)
        if weights is not None:
            load_pretrained(self.model.backbone, weights)
            self._freeze()
        self.model = self.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(self.model).eval()
        self.progress = Progress()
        self._steps_done = 0  # in this stage; the average's decay grows with it
        dataset = TrainingSet(train, spec, Augment(), config.seed)
        self.sampler = EpochSampler(len(dataset), config.seed)
        self.loader = make_loader(dataset, self.sampler, config.batch_size, config.workers)
        self.steps = len(self.loader)  # per epoch
        self.optimizer = self._optimizer()
        self.amp = _use_amp(config.amp, self.device)

    def run(self) -> None:
        """Both stages, from wherever `progress` stands."""
        options = {**self.config.to_dict(), "classes": list(self.model.spec.classes)}
        _write_text(self.out / "config.json", json.dumps(options, indent=1) + "\n")
        if self.progress.stage == "float":
            self._stage(self.config.epochs)
            save_checkpoint(self.out / "float.safetensors", self.ema, "float")
            self._start_qat()
            self.save()
        self._stage(self.config.qat_epochs)
        settle_weights(self.ema)
        save_checkpoint(self.out / "qat.safetensors", self.ema, "qat")

    # ---- one stage, one epoch, one step ------------------------------------------------------------------------

    def _stage(self, epochs: int) -> None:
        while self.progress.epoch < epochs:
            epoch = self.progress.epoch
            if self.progress.stage == "qat" and epoch >= self.config.qat_freeze * epochs:
                freeze_ranges(self.model)
            row = self._epoch(epoch, epochs)
            self.progress.epoch += 1
            last = self.progress.epoch == epochs
            every = self.config.eval_every
            if self.val is not None and (last or (every and self.progress.epoch % every == 0)):
                metrics = validate(self.ema, self.val)
                row.update(AP50=round(metrics["AP50"], 4), AP=round(metrics["AP"], 4))
            self._log(row)
            self.save()
            if self.progress.stage == "float":
                save_checkpoint(self.out / "float.safetensors", self.ema, "float")

    def _epoch(self, epoch: int, epochs: int) -> dict[str, Any]:
        qat = self.progress.stage == "qat"
        early = not qat and epoch < self.config.early_part * epochs
        side = self.config.early_side if early else self.config.size
        # Epoch numbers go on through the stages, so that QAT sees other crops than the first float epochs.
        self.sampler.set_epoch(epoch + (self.config.epochs if qat else 0), side)
        self.model.train()
        start, sums, lr = time.perf_counter(), np.zeros(4), 0.0
        title = f"{self.progress.stage} {epoch + 1}/{epochs} {side}px"
        bar = tqdm(self.loader, desc=title, unit="batch", dynamic_ncols=True, mininterval=2.0)
        for i, batch in enumerate(bar):
            lr = self._set_lr(epoch * self.steps + i, epochs * self.steps)
            losses = self._step({k: v.to(self.device, non_blocking=True) for k, v in batch.items()})
            sums += losses
            mean = sums / (i + 1)
            bar.set_postfix(loss=f"{mean[0]:.3f}", heat=f"{mean[1]:.3f}", size=f"{mean[2]:.2f}", refresh=False)
        seconds = time.perf_counter() - start
        total, heat, size, offset = (round(float(v), 5) for v in sums / self.steps)
        return {
            "stage": self.progress.stage, "epoch": epoch + 1, "side": side, "lr": f"{lr:.3g}",
            "loss": total, "heat": heat, "size": size, "offset": offset,
            "images_per_s": round(self.steps * self.config.batch_size / seconds, 1), "seconds": round(seconds, 1),
        }  # fmt: skip

    def _step(self, batch: dict[str, Tensor]) -> list[float]:
        images = batch["image"].to(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            outputs = self.model(images.float())
        loss = centernet_loss(outputs, batch)
        values = torch.stack([v.detach() for v in loss]).tolist()
        if not math.isfinite(values[0]):
            raise TrainingDiverged(
                f"the loss became {values[0]} in {self.progress.stage} epoch {self.progress.epoch + 1}: "
                f"the last good state is {self.out / 'state.pt'}; go on from it with --resume and a lower --set lr"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()  # type: ignore[no-untyped-call]
        if self.config.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self._update_ema()
        return values

    # ---- optimizer, schedule, averaging ------------------------------------------------------------------------

    def _freeze(self) -> None:
        """Leading layers stay as pretrained; folding their BatchNorm is exact and saves its time."""
        if not self.config.freeze:
            return
        backbone = self.model.backbone
        for layer in list(backbone.layers)[: backbone.last[self.config.freeze] + 1]:
            fold_batchnorm(layer)
            layer.requires_grad_(False)

    def _optimizer(self) -> torch.optim.Optimizer:
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                key = (name.startswith("backbone."), parameter.ndim > 1)  # no decay for biases and BatchNorm
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

    def _set_lr(self, step: int, steps: int) -> float:
        """Linear warm-up, then cosine to 1 % (arXiv 1608.03983)."""
        qat = self.progress.stage == "qat"
        peak = self.config.qat_lr if qat else self.config.lr
        warm = min(1.0, (step + 1) / max(1, min(self.config.warmup, steps // 10)))
        lr = peak * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        self._steps_done = step + 1
        return lr

    @torch.no_grad()
    def _update_ema(self) -> None:
        decay = min(self.config.ema, (1 + self._steps_done) / (10 + self._steps_done))
        ours, theirs = self.ema.state_dict(), self.model.state_dict()
        floats = [k for k, v in ours.items() if v.is_floating_point()]
        torch._foreach_lerp_([ours[k] for k in floats], [theirs[k] for k in floats], 1 - decay)
        for key in ours.keys() - set(floats):
            ours[key].copy_(theirs[key])

    # ---- quantization-aware stage ------------------------------------------------------------------------------

    def _start_qat(self) -> None:
        """Averaged float weights, BatchNorm folded, quantizers inserted and their ranges measured."""
        self.model.load_state_dict(self.ema.state_dict())
        self.model.eval()
        prepare_qat(self.model)
        self.model.to(self.device)
        set_observing(self.model, True)
        self.sampler.set_epoch(0, self.config.size)
        with torch.no_grad():
            for _, batch in zip(range(CALIBRATION_BATCHES), self.loader, strict=False):
                self.model(batch["image"].to(self.device).float())
        self.ema = copy.deepcopy(self.model).eval()
        set_observing(self.ema, False)
        self.progress = Progress("qat", 0)
        self.optimizer = self._optimizer()

    # ---- files -------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write state.pt atomically."""
        state = {
            "stage": self.progress.stage,
            "epoch": self.progress.epoch,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        path = self.out / "state.pt"
        temporary = path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def resume(self) -> None:
        """Go on from state.pt; metrics of epochs that will be repeated are dropped."""
        path = self.out / "state.pt"
        if not path.is_file():
            raise ConfigError(f"--resume: expected an earlier run, found no {path}")
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.progress = Progress(state["stage"], state["epoch"])
        if self.progress.stage == "qat":
            prepare_qat(self.model)
            self.model.to(self.device)
            self.ema = copy.deepcopy(self.model).eval()
            set_observing(self.model, True)
            self.optimizer = self._optimizer()
        load_state(self.model, state["model"], path)
        load_state(self.ema, state["ema"], path)
        self.optimizer.load_state_dict(state["optimizer"])
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

        kept = [row for row in rows if finished(row)]
        _write_text(path, header + "".join(kept))

    def _log(self, row: dict[str, Any]) -> None:
        path = self.out / "metrics.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, METRICS)
            if new:
                writer.writeheader()
            writer.writerow(row)


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


def _write_text(path: Path, text: str) -> None:
    """Write under a temporary name, then rename."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)

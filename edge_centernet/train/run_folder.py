"""The folder of one training run: what is saved and logged in it.

    config.json            options and classes
    metrics.csv            one line an epoch; the same in tensorboard/
    state.pt               everything needed to resume (kept current; torch.load with weights_only=True)
    last.safetensors       averaged float weights after the last epoch, as trained
    best.safetensors       those with the best AP on the validation set, as trained; without one there is none
    float.safetensors      the float stage's result: the best, else the last, with calibrated scores
    scores.json            what the calibration of scores was fitted to, and how far it helps (docs/scores.md)
    qat.safetensors        averaged quantization-aware weights, BatchNorm folded
    curves.png, pr.png, reliability.png, contact_sheet.jpg   the report at the end (`train.report`)

Every file is written atomically, so that a crash or a full disk leaves the earlier one.
"""

from __future__ import annotations

import csv
import errno
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from edge_centernet.errors import ConfigError, EdgeCenterNetError
from edge_centernet.files import write_atomic
from edge_centernet.network import distributed
from edge_centernet.network.centernet import CenterNet
from edge_centernet.network.checkpoint import Stage, save_checkpoint
from edge_centernet.train.report import TensorBoardLog


class CannotSave(EdgeCenterNetError):
    """The disk is full, or the folder has gone; what was saved before is intact."""


@dataclass
class Position:
    """How far a run has come: `epoch` epochs of `stage` are done, and `step` batches of the next one."""

    stage: str = "float"
    epoch: int = 0
    step: int = 0


@dataclass
class Best:
    """The best evaluation of the float stage so far: AP and epoch, and how many came since; epoch 0: none."""

    ap: float = -1.0
    epoch: int = 0
    stale: int = 0

    def takes(self, ap: float, epoch: int) -> bool:
        """Count an evaluation; whether it is the best."""
        if ap > self.ap:
            self.ap, self.epoch, self.stale = ap, epoch, 0
            return True
        self.stale += 1
        return False


class RunFolder:
    """Reads and writes the files of one run.

    With several processes only the first one touches the disk: writing does nothing in the others, and what
    is read is sent to them.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        """path: the folder, which exists. columns: of metrics.csv, in their order."""
        self.path, self.columns = path, columns
        self._board: TensorBoardLog | None = None

    # ---- state and weights

    def save_state(self, state: dict[str, Any]) -> None:
        """Write state.pt; raises CannotSave."""
        if distributed.is_first():
            buffer = io.BytesIO()
            torch.save(state, buffer)
            self.write("state.pt", buffer.getvalue())

    def load_state(self, device: torch.device) -> dict[str, Any]:
        """What `save_state` wrote, tensors on `device`; raises ConfigError where there is no state.pt."""
        content = self.read("state.pt", "an earlier run")
        return cast("dict[str, Any]", torch.load(io.BytesIO(content), map_location=device, weights_only=True))

    def save_weights(self, name: str, model: CenterNet, stage: Stage) -> None:
        """Write a checkpoint under this file name; raises CannotSave."""
        if distributed.is_first():
            with self._saving():
                save_checkpoint(self.path / name, model, stage)

    def write(self, name: str, content: str | bytes) -> None:
        """Write one file; raises CannotSave."""
        if distributed.is_first():
            with self._saving():
                write_atomic(self.path / name, content)

    def read(self, name: str, expected: str) -> bytes:
        """A file's content, in every process; expected: what the ConfigError says where it is missing."""
        path = self.path / name
        if distributed.is_first() and not path.is_file():
            raise ConfigError(f"--resume: expected {expected}, found no {path}")
        content = path.read_bytes() if distributed.is_first() else b""
        return cast(bytes, distributed.from_first(content))

    @contextmanager
    def _saving(self) -> Iterator[None]:
        """Turn what the operating system reports into one line that says how to go on."""
        try:
            yield
        except OSError as error:
            advice = "free some space" if error.errno == errno.ENOSPC else "check the folder"
            raise CannotSave(
                f"{error.filename}: {error.strerror}; what was saved before is intact: {advice}, then go on "
                "with --resume"
            ) from None

    # ---- metrics

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Keep TensorBoard's file open in the first process for the duration of the block."""
        if not distributed.is_first():
            yield
            return
        with TensorBoardLog(self.path) as self._board:
            yield
        self._board = None

    def log(self, row: dict[str, Any]) -> None:
        """Append one epoch to metrics.csv and, inside `logging`, to TensorBoard."""
        if not distributed.is_first():
            return
        path = self.path / "metrics.csv"
        before = path.read_text() if path.exists() else ",".join(self.columns) + "\n"
        line = io.StringIO(newline="")
        csv.DictWriter(line, self.columns, lineterminator="\n").writerow(row)
        # The whole file is written again rather than appended to, so that a crash never leaves half a line.
        self.write("metrics.csv", before + line.getvalue())
        if self._board is not None:
            self._board.add(row)

    def drop_metrics_after(self, now: Position) -> None:
        """Remove the metrics of epochs that finished, but not in time for state.pt: they will be repeated."""
        path = self.path / "metrics.csv"
        if not distributed.is_first() or not path.exists():
            return
        header, *rows = path.read_text().splitlines(keepends=True)
        finished = []
        for row in rows:
            stage, epoch = row.split(",")[:2]
            earlier_stage = stage == "float" and now.stage == "qat"
            if earlier_stage or (stage == now.stage and int(epoch) <= now.epoch):
                finished.append(row)
        self.write("metrics.csv", header + "".join(finished))

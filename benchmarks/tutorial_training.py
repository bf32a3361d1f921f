"""The tutorial's training: Lightning's Trainer with what its configuration asks of it, epoch by epoch."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from common import now
from lightning_fabric.utilities.warnings import PossibleUserWarning
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from tutorial import TutorialModel, TutorialPictures, give_weights, quiet_worker

from cifarlab.config import Config
from cifarlab.config.recipes import import_and_validate
from cifarlab.data.splits import Split
from cifarlab.training.setup import Job, prepare

# Files of weights that the tutorial's callback keeps, beside the last epoch's.
KEPT = 5
# Steps at which the rate falls: none of them is reached.
MILESTONES = (100_000, 200_000)
# What A' computes in, where ours does: a processor without bfloat16 would emulate it.
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
MIXED: dict[torch.dtype, Precision] = {torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}


class TutorialModule(pl.LightningModule):
    """Cross-entropy by AdamW; each step shows rate, loss and accuracy, each epoch ends with a score on test.

    layout: memory format of the pictures.
    """

    def __init__(self, model: TutorialModel, num_classes: int, config: Config, layout: torch.memory_format):
        super().__init__()
        self.model, self.config, self.layout = model, config, layout
        self.accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.guessed: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.contiguous(memory_format=self.layout))

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        shown = {
            "lr": self.trainer.optimizers[0].param_groups[0]["lr"],
            "loss": loss,
            "accuracy": self.accuracy(logits, labels),
        }
        self.log_dict(shown, prog_bar=True, on_step=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.guessed.append((self(images), labels))

    def on_validation_epoch_end(self) -> None:
        # Picture by picture, as the tutorial puts them together.
        logits = torch.stack([row for batch, _ in self.guessed for row in batch])
        labels = torch.stack([label for _, batch in self.guessed for label in batch])
        self.log("test_accuracy", self.accuracy(logits, labels), sync_dist=True)
        self.guessed.clear()

    def configure_optimizers(self) -> Any:
        optim = self.config.optim
        named = list(self.named_parameters())
        groups = [
            {"params": [value for name, value in named if "bias" not in name]},
            {"params": [value for name, value in named if "bias" in name], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=optim.lr, weight_decay=optim.weight_decay)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, MILESTONES)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Losses(pl.Callback):
    """The loss of every step."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.found.append(outputs["loss"].item())


class Tutorial:
    """The tutorial's model, with the weights of `job`, and its trainers. tuned: A' instead of A."""

    def __init__(self, config: Config, job: Job, tuned: bool):
        self.config, self.job, self.tuned, self.device = config, job, tuned, job.engine.device
        self.model = TutorialModel(len(job.splits.classes))
        give_weights(job.engine.model, self.model)
        layout = torch.channels_last if tuned else torch.contiguous_format
        self.model.to(device=self.device).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
        self.module = TutorialModule(self.model, len(job.splits.classes), config, layout)

    def train_on(self, batches: DataLoader) -> list[float]:
        """The loss of a step on each of the batches, (N, 3, H, W) and (N,); no evaluation, no files."""
        losses = Losses()
        self._trainer([losses], logger=False, enable_progress_bar=False, enable_checkpointing=False).fit(
            self.module, batches
        )
        return losses.found

    def train(self, turns: Turns, workers: tuple[int, int], folder: Path, epochs: int) -> None:
        """Epochs as the tutorial runs them. workers: of the training loader and of the test set's."""
        assert self.job.splits.test is not None, "the recipe scores on test"
        files = ModelCheckpoint(
            folder,
            monitor="test_accuracy",
            mode="max",
            save_top_k=1 if self.tuned else KEPT,
            save_last=not self.tuned,
        )
        rates = LearningRateMonitor("step")
        trainer = self._trainer(
            [TQDMProgressBar(), rates, files, turns], logger=TensorBoardLogger(folder), max_epochs=epochs
        )
        trainer.fit(
            self.module,
            self._loader(self.job.splits.train, workers[0]),
            self._loader(self.job.splits.test, workers[1]),
        )

    def _loader(self, split: Split, workers: int) -> DataLoader:
        return DataLoader(
            TutorialPictures(split, self.config.data.image_size, augmented=False),
            self.config.data.batch_size,
            num_workers=workers,
            worker_init_fn=quiet_worker,
            persistent_workers=self.tuned and workers > 0,
            pin_memory=self.tuned and self.device.type == "cuda",
        )

    def _trainer(self, callbacks: list[pl.Callback], max_epochs: int = 1, **options: Any) -> pl.Trainer:
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        # It would have more workers and more steps between logs, and is behind torch's newest words.
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        on_gpu = self.device.type == "cuda"
        precision: Precision = "32-true"
        if self.tuned:
            precision = MIXED.get(self.job.engine.precision.dtype, precision)
        return pl.Trainer(
            accelerator="gpu" if on_gpu else "cpu",
            devices=[self.device.index or 0] if on_gpu else 1,
            precision=precision,
            # What `prepare` has set holds for the whole process, and the tutorial leaves it off.
            benchmark=self.tuned,
            gradient_clip_val=self.config.train.grad_clip,
            callbacks=callbacks,
            max_epochs=max_epochs,
            num_sanity_val_steps=0,
            enable_model_summary=False,
            **options,
        )


class Turns(pl.Callback):
    """Waits before each epoch until it is asked for, and sends what it took, in seconds.

    An epoch ends where the next would begin: evaluation, files and what Lightning does in between are in it.
    """

    def __init__(self, line: Connection, device: torch.device):
        self.line, self.device = line, device
        self.begun: float | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end()
        self.line.recv()
        self.begun = now(self.device)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end()

    def _end(self) -> None:
        if self.begun is not None:
            self.line.send(now(self.device) - self.begun)


@dataclass(frozen=True)
class Contestant:
    """What is timed: A or, tuned, A', with so many workers for training and for the test set.

    config: plain, as `Config.dump` gives it; classes that a registry makes do not go from process to process.
    """

    config: dict[str, Any]
    workers: tuple[int, int]
    tuned: bool
    folder: Path
    epochs: int


class InTurns:
    """A contestant's run in a process of its own, which waits between its epochs.

    The threads and the memory of the others' runs are not in it, nor its own in theirs.
    """

    def __init__(self, contestant: Contestant):
        # A process that is forked has the parent's locks and no device.
        context = multiprocessing.get_context("spawn")
        self.line, theirs = context.Pipe()
        # One that is spawned would spawn its workers, too.
        usual = multiprocessing.get_start_method()
        self.process = context.Process(target=_train, args=(contestant, theirs, usual))
        self.process.start()
        theirs.close()
        self.left = contestant.epochs

    def run_epoch(self) -> float:
        """Seconds of the next epoch: every training picture, every test picture, the files.

        Raises RuntimeError with what the process raised.
        """
        with suppress(BrokenPipeError):  # It has ended, and perhaps said why.
            self.line.send("go on")
        try:
            found = self.line.recv()
        except EOFError:
            found = "the process ended"
        if isinstance(found, str):
            raise RuntimeError(f"the tutorial's side: {found}")
        self.left -= 1
        if not self.left:
            self.process.join()  # What it tidies up after its last epoch is in nobody's turn.
        return found

    def stop(self) -> None:
        self.process.kill()  # Lightning takes a polite request for one to end its epoch.
        self.process.join()
        self.line.close()


def _train(contestant: Contestant, line: Connection, start_method: str) -> None:
    multiprocessing.set_start_method(start_method, force=True)
    # Ctrl-C in a terminal reaches every process; who started this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What Lightning prints, its progress bar included, is made and goes nowhere.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        torch.set_float32_matmul_precision("high")  # TF32, where the device has it.
        config = import_and_validate(contestant.config)
        tutorial = Tutorial(config, prepare(config), contestant.tuned)
        turns = Turns(line, tutorial.device)
        tutorial.train(turns, contestant.workers, contestant.folder, contestant.epochs)
    except BaseException:
        line.send(traceback.format_exc())

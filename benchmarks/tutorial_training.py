"""The tutorial's training: Lightning's Trainer, its progress bar, logger and files, epoch by epoch."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader
from tutorial import TutorialModel, TutorialPictures, give_weights, now, quiet_worker

from cifarlab.config import Config
from cifarlab.data.splits import Split
from cifarlab.prepare import Job

# Files of weights that the tutorial's callback keeps.
KEPT = 5


class TutorialModule(pl.LightningModule):
    """Cross-entropy by AdamW; the share of right guesses on test. layout: memory format of the pictures."""

    def __init__(self, model: TutorialModel, config: Config, layout: torch.memory_format):
        super().__init__()
        self.model, self.config, self.layout = model, config, layout

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.contiguous(memory_format=self.layout))

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        images, labels = batch
        right = (self(images).argmax(-1) == labels).float().mean()
        self.log("val_accuracy", right, prog_bar=True, batch_size=len(labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optim = self.config.optim
        return torch.optim.AdamW(self.model.parameters(), lr=optim.lr, weight_decay=optim.weight_decay)


class Turns(pl.Callback):
    """Holds a training run, which has a thread of its own, between epochs, and tells what each of them took.

    An epoch ends where the next would begin: evaluation, files and what Lightning does in between are in it.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.may_go = threading.Semaphore(0)
        # Seconds of an epoch, or what ended the run.
        self.ended: queue.SimpleQueue[float | BaseException] = queue.SimpleQueue()
        self.begun: float | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end()
        self.may_go.acquire()
        self.begun = now(self.device)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end()

    def _end(self) -> None:
        if self.begun is not None:
            self.ended.put(now(self.device) - self.begun)


class Losses(pl.Callback):
    """The loss of every step."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.found.append(outputs["loss"].item())


class Tutorial:
    """A run of the tutorial's pipeline, from the weights of `job`. tuned: A' instead of A.

    A' computes in bfloat16 where `job` does: a processor without it emulates it, which nobody would choose.
    workers: of the training loader and of the test set's. Either `run_epoch`, which goes on where it was, or
    `train_on`; a run is good for one of them.
    """

    def __init__(self, config: Config, job: Job, workers: tuple[int, int], tuned: bool):
        self.config, self.tuned, self.device = config, tuned, job.engine.device
        half = tuned and job.engine.precision.dtype == torch.bfloat16
        self.precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed" if half else "32-true"
        self.model = TutorialModel(len(job.splits.classes))
        give_weights(job.engine.model, self.model)
        layout = torch.channels_last if tuned else torch.contiguous_format
        self.model.to(device=self.device).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
        self.module = TutorialModule(self.model, config, layout)
        assert job.splits.test is not None, "the recipe scores on test"
        self.train_loader = self._loader(job.splits.train, workers[0])
        self.test_loader = self._loader(job.splits.test, workers[1])
        self.turns = Turns(self.device)
        self.thread: threading.Thread | None = None
        self.epochs_run = 0

    def _loader(self, split: Split, workers: int) -> DataLoader:
        return DataLoader(
            TutorialPictures(split, self.config.data.image_size, augmented=False),
            self.config.data.batch_size,
            num_workers=workers,
            worker_init_fn=quiet_worker,
            persistent_workers=self.tuned and workers > 0,
            pin_memory=self.tuned and self.device.type == "cuda",
        )

    def run_epoch(self, folder: Path, epochs: int) -> float:
        """Seconds of the next of so many epochs: every training picture, every test picture, the files.

        Raises what Lightning raised.
        """
        self.epochs_run += 1
        with _quiet():
            if self.thread is None:
                # Each call of `fit` would begin with a new optimizer, and start its workers anew.
                self.thread = threading.Thread(target=self._train, args=(folder, epochs), daemon=True)
                self.thread.start()
            self.turns.may_go.release()
            ended = self.turns.ended.get()
            if self.epochs_run == epochs:
                self.thread.join()  # What is tidied up after the last epoch is in nobody's turn.
        if isinstance(ended, BaseException):
            raise ended
        return ended

    def _train(self, folder: Path, epochs: int) -> None:
        try:
            files = ModelCheckpoint(
                folder, monitor="val_accuracy", mode="max", save_top_k=1 if self.tuned else KEPT
            )
            logger = TensorBoardLogger(folder)
            trainer = self._trainer([self.turns, files], logger=logger, max_epochs=epochs)
            trainer.fit(self.module, self.train_loader, self.test_loader)
        except BaseException as error:
            self.turns.ended.put(error)

    def train_on(self, batches: DataLoader) -> list[float]:
        """The loss of a step on each of the batches, (N, 3, H, W) and (N,); no evaluation, no files."""
        losses = Losses()
        with _quiet():
            trainer = self._trainer([losses], logger=False, max_epochs=1, enable_checkpointing=False)
            trainer.fit(self.module, batches)
        return losses.found

    def _trainer(self, callbacks: list[pl.Callback], **options: Any) -> pl.Trainer:
        return pl.Trainer(
            accelerator="gpu" if self.device.type == "cuda" else "cpu",
            devices=1,
            precision=self.precision,
            gradient_clip_val=self.config.train.grad_clip,
            # Rich's refreshes itself in a thread of its own, which writes to the terminal between the turns.
            callbacks=[TQDMProgressBar(), *callbacks],
            num_sanity_val_steps=0,
            enable_model_summary=False,
            **options,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """What Lightning prints, its progress bar included, is made and goes nowhere."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with redirect_stdout(_NOWHERE), redirect_stderr(_NOWHERE):
        yield


# Open to the end: a progress bar keeps what it began to write to.
_NOWHERE = Path(os.devnull).open("w")  # noqa: SIM115

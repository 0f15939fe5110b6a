"""The loop: one pass over the data after another, measured, saved, resumable at any moment."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mobilenetv2.data.pictures import EpochBatches
from mobilenetv2.errors import UserError
from mobilenetv2.files import write_aside
from mobilenetv2.modelfile import ModelFile
from mobilenetv2.networks.fake_quantised import FakeQuantised
from mobilenetv2.training.checkpoint import Progress, load_state, save_state
from mobilenetv2.training.optim import build_average, build_optimizer, build_schedule, frozen_parts
from mobilenetv2.training.recipe import Recipe

STATE = "state.safetensors"
MODEL = "model.safetensors"
METRICS = "metrics.jsonl"


class Task(Protocol):
    """What the loop asks of classification, detection or segmentation."""

    network: nn.Module
    training_set: Dataset[Any]
    best_metric: str

    def loss(self, network: Callable[[Tensor], Tensor], batch: Any) -> Tensor: ...

    def measure(self, network: nn.Module, device: torch.device, workers: int) -> dict[str, float]: ...

    def model_file(self, network: nn.Module, metrics: dict[str, float], epoch: int) -> ModelFile: ...


class Listener(Protocol):
    """Whoever shows the progress."""

    def epoch_begins(self, epoch: int, epochs: int, done: int, steps: int) -> None: ...

    def step(self, loss: float, images_per_s: float) -> None: ...

    def measuring(self) -> None: ...

    def epoch_ends(self, record: dict[str, Any], is_best: bool) -> None: ...


class Interrupted(Exception):  # noqa: N818
    """The user stopped the run; its state is saved."""


def train(task: Task, recipe: Recipe, run: Path, listener: Listener) -> Progress:
    """Train to the last epoch of `recipe`, from the state in `run` if there is one.

    Leaves `model.safetensors` (the best epoch's average weights), `metrics.jsonl` (a line an epoch) and
    `state.safetensors`. On Ctrl-C or SIGTERM the state is saved and Interrupted is raised. A run that is
    resumed ends with the same weights as one that was never interrupted.
    Raises UserError if the loss is no longer finite.
    """
    accelerator = Accelerator(mixed_precision=recipe.precision, cpu=not torch.cuda.is_available())
    frozen = list(frozen_parts(task.network, recipe.freeze_stages))
    for part in frozen:
        part.requires_grad_(False)
    average = build_average(task.network, recipe).to(accelerator.device)
    optimizer = build_optimizer(task.network, recipe)
    quantised = FakeQuantised(task.network) if recipe.qat else None
    network, stepper = accelerator.prepare(quantised or task.network, optimizer)
    # What resumes; with qat the ranges of the activations belong to it.
    whole: nn.Module = accelerator.unwrap_model(network)
    plain = task.network if quantised else whole

    workers = recipe.workers if recipe.workers >= 0 else min(max((os.cpu_count() or 2) - 1, 1), 4)
    batches = EpochBatches(
        len(task.training_set),  # type: ignore[arg-type]
        recipe.batch_size,
        recipe.seed,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    loader = DataLoader(
        task.training_set,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_leave_signals_to_the_parent,
        # Its own generator, so that starting the workers draws nothing from the run's.
        generator=torch.Generator().manual_seed(recipe.seed),
    )
    schedule = build_schedule(optimizer, recipe, len(batches))
    progress, steps = Progress(), 0
    if (run / STATE).exists():
        steps, progress = load_state(run / STATE, whole, average, optimizer)
        schedule.last_epoch = steps

    def save() -> None:
        if accelerator.is_main_process:
            save_state(run / STATE, whole, average, optimizer, steps, progress)

    with _stop_signals() as stop:
        saved = time.monotonic()
        while progress.epoch < recipe.epochs:
            batches.start(progress.epoch, progress.step)
            network.train()
            for part in frozen:
                part.eval()
            listener.epoch_begins(progress.epoch, recipe.epochs, progress.step, len(batches))
            began, first = time.monotonic(), progress.step
            for batch in loader:
                batch = [part.to(accelerator.device, non_blocking=True) for part in batch]
                with accelerator.autocast():
                    loss = task.loss(network, batch)
                value = float(loss.detach())
                if not value < float("inf"):
                    raise UserError(
                        f"{run}: the loss became {value} at epoch {progress.epoch + 1}, step {progress.step + 1}; "
                        f"start again with a smaller --set learning_rate (now {recipe.learning_rate:g})"
                    )
                stepper.zero_grad()
                accelerator.backward(loss)
                if recipe.clip_gradient_norm:
                    accelerator.clip_grad_norm_(network.parameters(), recipe.clip_gradient_norm)
                stepper.step()
                schedule.step()
                average.update_parameters(plain)
                steps += 1
                progress.step += 1
                progress.loss_sum += value
                pictures = (progress.step - first) * batches.batch_size * accelerator.num_processes
                listener.step(progress.loss_sum / progress.step, pictures / (time.monotonic() - began))
                if stop or time.monotonic() - saved > recipe.save_every_s:
                    save()
                    saved = time.monotonic()
                if stop:
                    raise Interrupted
            seconds = time.monotonic() - began
            chosen = average.module if recipe.ema_decay else plain
            metrics: dict[str, float] = {}
            is_last = progress.epoch + 1 == recipe.epochs
            if accelerator.is_main_process and (is_last or (progress.epoch + 1) % recipe.measure_every == 0):
                listener.measuring()
                metrics = task.measure(chosen, accelerator.device, workers)
            record = {
                "epoch": progress.epoch + 1,
                "loss": round(progress.loss_sum / len(batches), 5),
                "learning_rate": schedule.get_last_lr()[0],
                "seconds": round(seconds, 1),
                **{f"val_{name}": round(value, 6) for name, value in metrics.items()},
            }
            progress.history.append(record)
            progress.epoch += 1
            progress.step, progress.loss_sum = 0, 0.0
            if accelerator.is_main_process:
                is_best = bool(metrics) and metrics[task.best_metric] > progress.best
                if is_best:
                    progress.best = metrics[task.best_metric]
                    model = task.model_file(chosen, metrics, progress.epoch)
                    if quantised:
                        card = replace(model.card, activation_ranges=quantised.activation_ranges())
                        model = replace(model, card=card)
                    model.save(run / MODEL)
                lines = "".join(json.dumps(line) + "\n" for line in progress.history)
                write_aside(run / METRICS, lines.encode())
                listener.epoch_ends(record, is_best)
            save()
            saved = time.monotonic()
            accelerator.wait_for_everyone()
            if stop and progress.epoch < recipe.epochs:
                raise Interrupted
    return progress


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """The signals that asked the run to end, so that it can end between two steps. A second one ends it at once."""
    caught: list[int] = []

    def remember(number: int, _: Any) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_signals_to_the_parent(_: int) -> None:
    # A terminal, or a scheduler, sends them to the whole group; a dead worker would end the run without its state.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # One thread a worker: the processors belong to the network.
    torch.set_num_threads(1)

"""One run, from its first step or from a checkpoint to its final row.

Every epoch ends with its rows and a checkpoint; a signal makes a checkpoint at once. What a step
draws depends on the step alone (`benchmarks.ssl.seeds`), so a resumed run goes on as if nothing had
been: on a CPU bit for bit.
"""

import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.data import ImageSet, load
from benchmarks.networks import Encoder, resnet18_encoder, small_encoder
from benchmarks.ssl import checkpoint, figures, parallel, seeds
from benchmarks.ssl.board import Board
from benchmarks.ssl.checkpoint import Position
from benchmarks.ssl.config import Config, ConfigError
from benchmarks.ssl.final import evaluation_row, final_row
from benchmarks.ssl.methods import Views
from benchmarks.ssl.networks import Networks
from benchmarks.ssl.optim import build_optimizer, rate_factor, set_rate
from benchmarks.ssl.parallel import World
from benchmarks.ssl.progress import Quiet, Reporter
from benchmarks.ssl.runs import RunFolder
from benchmarks.ssl.signals import Interrupted, Interruption
from benchmarks.ssl.splits import split
from benchmarks.ssl.step import Parts, step_loss, uniformity_loss
from benchmarks.ssl.watch import LossError, Watch

DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def encoder_of(config: Config, channels: int, side: int) -> Encoder:
    """The backbone for images of so many channels."""
    if config.network.backbone == "resnet18":
        return resnet18_encoder(channels, side)
    return small_encoder(config.network.width, channels, side)


class Training:
    """Networks, optimiser and data of a run, and where it stands."""

    def __init__(
        self, config: Config, images: ImageSet, device: torch.device, world: World | None = None
    ) -> None:
        self.config, self.device, self.world = config, device, world or World()
        if config.precision != "float32" and device.type != "cuda":
            raise ConfigError(
                f"precision: {config.precision} is for CUDA, {device.type} has float32"
            )
        if config.batch % self.world.size or config.batch < 2 * self.world.size:
            raise ConfigError(f"batch: {config.batch} images for {self.world.size} processes")
        self.source = str(images)
        self.splits = split(config, images, device)
        self.method = config.build_method()
        seeds.seed_for(config.seed, "weights")
        encoder = encoder_of(config, self.splits.channels, self.splits.side)
        networks = Networks(self.method, encoder, config.network.dim, config.network.hidden)
        networks = networks.to(device)
        shared = parallel.share_statistics(networks, device)
        assert isinstance(shared, Networks)
        self.networks = shared.train()
        self.model = parallel.average_gradients(self.networks, device)
        self.optimizer = build_optimizer(config.optimizer, self.networks.trainable())
        self.scaler = torch.amp.GradScaler("cuda", enabled=config.precision == "float16")
        self.uniformity = uniformity_loss(config.uniformity)
        self.steps_per_epoch = len(self.splits.train.images) // config.batch
        self.position = Position()
        self.watch = Watch(check_every=1 if device.type == "cpu" else 50)

    def weight(self, epoch: int) -> float:
        """Of the uniformity loss in the epoch after `epoch` whole ones."""
        return self.config.uniformity.weight(epoch + 1, self.config.epochs)

    def views(self, epoch: int, step: int, order: torch.Tensor) -> Views:
        """Both views of this process's share of a step's images."""
        share = self.config.batch // self.world.size
        start = step * self.config.batch + self.world.rank * share
        batch = self.splits.train.images[order[start : start + share]]
        seeds.seed_for(self.config.seed, "views", epoch, step, self.world.rank)
        return Views(self.splits.view(batch), self.splits.view(batch))

    def step(self, views: Views, weight: float, number: int) -> Parts:
        """One update; `number` counts the run's steps from 0."""
        optimizer, settings = self.optimizer, self.config.optimizer
        steps = self.config.epochs * self.steps_per_epoch
        warmup = round(settings.warmup_epochs * self.steps_per_epoch)
        set_rate(optimizer, self.rate(number, steps, warmup))
        dtype = DTYPES[self.config.precision]
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            outputs = self.model(views)
        parts = step_loss(self.method, self.uniformity, weight, outputs, self.networks.queue)
        optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(parts.total).backward()
        self.scaler.step(optimizer)
        self.scaler.update()
        if outputs.target is not None:
            keys = outputs.target
            if self.networks.queue is not None:
                keys = Views(*(parallel.gather(view.to(self.networks.queue)) for view in keys))
            self.networks.after_step(keys, self.method.decay((number + 1) / steps))
        return Parts(*(part.detach() for part in parts))

    def rate(self, number: int, steps: int, warmup: int) -> float:
        """What the configured rates are multiplied with, in proportion to the batch."""
        settings = self.config.optimizer
        factor = rate_factor(number, steps, warmup, settings.final_factor)
        return factor * self.config.batch / 256

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "networks": self.networks.state_dict(),
            "queue_head": self.networks.queue_head,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "watch": self.watch.state(),
        }

    def restore(self, path: Path) -> None:
        """Go on where the checkpoint was made."""
        position, state = checkpoint.read(path, self.device)
        checkpoint.load_into(self.networks, state["networks"], path)
        self.networks.queue_head = state["queue_head"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.watch.restore(state["watch"])
        self.position = position


def run(
    config: Config,
    folder: RunFolder,
    *,
    data: str | None = None,
    device: str = "cpu",
    resume: Path | None = None,
    world: World | None = None,
    reporter: Reporter | None = None,
    images: ImageSet | None = None,
) -> dict[str, Any] | None:
    """Train to the end and return the final row (on the main process; None on others).

    resume: a checkpoint of the run in `folder` to go on from; otherwise the folder must be new.
    Raises Interrupted after a signal, LossError at a loss that is not finite.
    """
    world = world or World()
    reporter = reporter if reporter and world.main else Quiet()
    images = images or load(config.data.dataset, data, verify=config.data.verify)
    place = torch.device(device, world.local_rank) if device == "cuda" else torch.device(device)
    training = Training(config, images, place, world)
    if resume:
        folder.reopen(config)
        if folder.final:
            reporter.note(f"{folder.path}: finished already")
            return folder.final
        training.restore(resume)
        if world.main:
            folder.keep_until(training.position.epoch)
        reporter.note(f"{folder.path}: continues {training.position}, from {resume.name}")
    elif world.main:
        folder.start(config)
    reporter.note(f"{training.source}; {folder.path}")
    board = Board(folder.path, training.position.epoch) if world.main else None
    if board and board.missing:
        reporter.note(board.missing)
    try:
        with Interruption() as interruption:
            _epochs(training, folder, interruption, reporter, board)
            parallel.leave()
            if not world.main:
                return None
            row = final_row(training, reporter, lambda: _stop_if(interruption, folder))
            if board:
                board.add(row)
    except LossError as error:
        if world.main:
            folder.fail(error.row())
        raise
    finally:
        reporter.end()
        if board:
            board.close()
    folder.append(row)
    figures.draw_run(folder)
    return row


def _epochs(
    training: Training,
    folder: RunFolder,
    interruption: Interruption,
    reporter: Reporter,
    board: Board | None,
) -> None:
    config, world = training.config, training.world
    reporter.begin(config.name(), config.epochs, training.steps_per_epoch)
    while training.position.epoch < config.epochs:
        epoch = training.position.epoch
        _steps(training, folder, interruption, reporter)
        training.position = Position(epoch + 1, 0)
        means, seconds = training.watch.finish()
        if world.main:
            row = {
                "kind": "epoch",
                "epoch": epoch + 1,
                "loss": means.total,
                "method_loss": means.method,
                "uniformity_loss": means.uniformity,
                "weight": training.weight(epoch),
                "rate": training.optimizer.param_groups[0]["lr"],
                "seconds": round(seconds, 3),
            }
            rows = [row]
            if (epoch + 1) % config.evaluation.every == 0 and epoch + 1 < config.epochs:
                rows.append({"kind": "evaluation", "epoch": epoch + 1} | evaluation_row(training))
            for made in rows:
                folder.append(made)
                reporter.row(made)
                if board:
                    board.add(made)
            checkpoint.write(folder.checkpoint, training.position, training.state())
        if parallel.any_process(interruption.asked, training.device):
            _stop(folder, training.position, interruption)


def _steps(
    training: Training, folder: RunFolder, interruption: Interruption, reporter: Reporter
) -> None:
    """What is left of the epoch in hand."""
    config, epoch = training.config, training.position.epoch
    order = seeds.order(len(training.splits.train.images), config.seed, epoch).to(training.device)
    weight = training.weight(epoch)
    ask_every = 10 if parallel.spread() else 1  # asking other processes makes the host wait
    started = time.perf_counter()
    for step in range(training.position.step, training.steps_per_epoch):
        number = epoch * training.steps_per_epoch + step
        done, last = step + 1, step + 1 == training.steps_per_epoch
        try:
            training.watch.add(training.step(training.views(epoch, step, order), weight, number))
            reporter.step(epoch, done)
            stop = (done % ask_every == 0 or last) and parallel.any_process(
                interruption.asked, training.device
            )
            if last or stop:
                training.watch.check()
                training.watch.took(time.perf_counter() - started)
        except LossError as error:
            error.explain(config, epoch, weight, _last_good(folder))
            raise
        if stop:
            training.position = Position(epoch, done)
            if training.world.main:
                checkpoint.write(folder.checkpoint, training.position, training.state())
            _stop(folder, training.position, interruption)


def _last_good(folder: RunFolder) -> str:
    if not folder.checkpoint.exists():
        return "there is no checkpoint yet"
    try:
        position, _ = checkpoint.read(folder.checkpoint, torch.device("cpu"))
    except checkpoint.CheckpointError as error:
        return str(error)
    return f"the last good checkpoint is {folder.checkpoint}, {position}"


def _stop(folder: RunFolder, position: Position, interruption: Interruption) -> None:
    number = interruption.signal_number or 15  # another process heard it
    raise Interrupted(f"{folder.path}: stopped {position}; --resume continues", number)


def _stop_if(interruption: Interruption, folder: RunFolder) -> None:
    if interruption.asked:
        number = interruption.signal_number or 15
        raise Interrupted(
            f"{folder.path}: stopped in the final evaluation; --resume makes it anew", number
        )

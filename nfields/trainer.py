"""The trainer: its options, the start of a run (new or resumed) and its end.

It knows no task and no model. What happens step by step is in training_loop.py; what a run
consists of, in training_state.py.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import torch
from rich.console import Console
from torch import Tensor

from nfields.budget import Budget, Clock, format_duration, parse_duration, parse_targets
from nfields.distributed import local_device, processes
from nfields.ema import WeightAverage
from nfields.errors import ConfigError
from nfields.export.fit_film import FitFilm, TakesSnapshots
from nfields.interrupt import Interrupt, TrainingInterrupted
from nfields.logger import Logger
from nfields.logger.jsonl import JsonLines
from nfields.loss_scale import LossScale
from nfields.machine import choose_device, peak_memory_bytes, use_threads
from nfields.model.field import Field
from nfields.ops.backend import Precision, matrix_products
from nfields.optimizer import Adam, ParameterGroup
from nfields.progress import Progress
from nfields.run_folder import RunFolder, write_json
from nfields.schedule import Schedule
from nfields.step_graph import Record, own_stream, record_on_cuda
from nfields.task.task import Task
from nfields.training_loop import TrainingDiverged, TrainingLoop
from nfields.training_state import TrainingState, named_parameters

__all__ = ["TrainSummary", "Trainer", "TrainingDiverged", "TrainingInterrupted"]


@dataclass(frozen=True)
class TrainSummary:
    """What training took, over all parts of a resumed run; memory in bytes, None if unknown."""

    steps: int
    train_seconds: float
    parameters: int
    num_samples: int
    peak_memory_bytes: int | None
    peak_gpu_memory_bytes: int | None
    compile_seconds: float
    prepare_seconds: float
    device: str
    threads: int
    stop_reason: str


class Trainer:
    """Trains a model on a task within a budget; every option is explained in configs/trainer."""

    def __init__(
        self,
        *,
        max_steps: int | None,
        max_time: str | float | int | None,
        stop_at: Mapping[str, float | int | str],
        device: str,
        precision: Precision,
        threads: int | None,
        deterministic: bool,
        cuda_graph: bool | Literal["auto"],
        betas: Sequence[float],
        eps: float,
        warmup_steps: int,
        decay: Literal["constant", "exponential", "cosine"],
        decay_start: float,
        final_lr_factor: float,
        ema: float | None,
        log_every: int,
        eval_every: int | None,
        checkpoint_every: str | float | int | None,
        progress_every: str | float | int,
        snapshots: int,
        viewer: bool | int,
    ):
        self.budget = Budget(
            max_steps, parse_duration(max_time, "trainer.max_time"), parse_targets(stop_at)
        )
        self.schedule = Schedule(warmup_steps, decay, decay_start, final_lr_factor)
        self.device = choose_device(local_device(device))
        self.processes = processes()
        self.checkpoint_seconds = parse_duration(checkpoint_every, "trainer.checkpoint_every")
        self.progress_seconds = parse_duration(progress_every, "trainer.progress_every") or 0.0
        if precision not in get_args(Precision):
            allowed = " or ".join(get_args(Precision))
            raise ConfigError(f"trainer.precision={precision!r} must be {allowed}")
        if precision == "fp16" and self.device.type == "cpu":
            raise ConfigError(
                f"trainer.precision=fp16 is for CUDA, and trainer.device={device} is the CPU; use "
                "trainer.device=cuda, or trainer.precision=bf16 or fp32"
            )
        self.record = self._graph_of(cuda_graph, device)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"trainer.betas={list(betas)} must be two numbers in [0, 1)")
        if eps <= 0:
            raise ConfigError(f"trainer.eps={eps} must be above 0")
        if ema is not None and not 0 < ema < 1:
            raise ConfigError(f"trainer.ema={ema} must lie between 0 and 1 (0.99), or be null")
        if log_every < 1:
            raise ConfigError(f"trainer.log_every={log_every} must be at least 1")
        if eval_every is not None and eval_every < 1:
            raise ConfigError(f"trainer.eval_every={eval_every} must be at least 1, or null")
        if self.budget.targets and eval_every is None:
            raise ConfigError(
                "trainer.stop_at is checked at validations, and trainer.eval_every is null; "
                "set trainer.eval_every, for example 200"
            )
        if snapshots < 0:
            raise ConfigError(f"trainer.snapshots={snapshots} must be at least 1, or 0 for none")
        self.threads, self.deterministic, self.snapshots = threads, deterministic, snapshots
        self.precision: Precision = precision
        self.betas, self.eps = (float(betas[0]), float(betas[1])), eps
        if viewer is not False and not 1 <= viewer <= 65535:
            raise ConfigError(f"trainer.viewer={viewer} must be true, false or a port in 1..65535")
        self.viewer = viewer
        self.ema, self.log_every, self.eval_every = ema, log_every, eval_every

    def fit(
        self,
        task: Task,
        model: Field,
        run: RunFolder,
        loggers: Sequence[Logger],
        seed: int,
        resume_from: RunFolder | None = None,
    ) -> TrainSummary:
        """Returns what training took; the model then holds the weights to evaluate (EMA, if on).

        `resume_from` (mostly `run` itself) has the checkpoint to go on from; on the CPU, with the
        same options and threads, the result has the same bits as if training had never stopped
        (as far as the budget is in steps). Raises TrainingInterrupted after Ctrl-C or SIGTERM.
        """
        if self.snapshots > 0 and not isinstance(task, TakesSnapshots):
            raise ConfigError(
                f"trainer.snapshots={self.snapshots}: this task has no picture to show while it is "
                "trained (task=image has one); set trainer.snapshots=0"
            )
        num_threads = use_threads(self.threads)
        torch.use_deterministic_algorithms(self.deterministic)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        progress = Progress(Console(quiet=not self.processes.is_first), self.progress_seconds)
        with progress, Interrupt(progress.note) as interrupt:
            for note in getattr(task.data, "notes", ()):
                progress.note(note)
            state = self._start(task, model, seed)
            if resume_from is None:
                progress.note("preparing the model from samples of the data")
                seconds = self._prepare(state)
            else:
                seconds = state.load(resume_from, run.config())
                progress.note(
                    f"resumed {resume_from.path} at step {state.step:,}, "
                    f"{format_duration(seconds)} of training"
                )
            self.processes.make_equal(state.tensors())
            clock = Clock(seconds, self.device)
            reason = self.budget.stop_reason(state.step, seconds, state.validation)
            if reason is None or resume_from is None:
                with matrix_products(self.precision):
                    reason = self._loop(state, clock, run, loggers, progress, interrupt, seed)
            else:
                progress.note(f"nothing to do at step {state.step:,}: {reason}")
            if interrupt.signal_number is not None:
                raise TrainingInterrupted(interrupt.signal_number, state.step, run.path)
            if state.average is not None:
                state.average.copy_to_weights()
            summary = self._summary(state, clock, reason or "", num_threads)
            if self.processes.is_first:
                write_json(run.summary_file, asdict(summary))
            progress.note(
                f"trained {summary.steps:,} steps in {summary.train_seconds:.1f} s "
                f"({summary.parameters:,} parameters): {summary.stop_reason}"
            )
        return summary

    def _start(self, task: Task, model: Field, seed: int) -> TrainingState:
        model.to(self.device)
        task.to(self.device)
        task.holds_shapes = self.record is not None
        modules = {"model": model, "task": task}
        groups = [*model.parameter_groups(), *task.parameter_groups()]
        _check_groups(groups, named_parameters(modules))
        average = None
        if self.ema is not None:
            average = WeightAverage(named_parameters(modules), self.ema)
        return TrainingState(
            model=model,
            task=task,
            optimizer=Adam(groups, self.betas, self.eps),
            average=average,
            generator=torch.Generator().manual_seed(seed),
            loss_scale=LossScale(self.device) if self.precision == "fp16" else None,
        )

    def _prepare(self, state: TrainingState) -> float:
        started = time.perf_counter()
        state.task.prepare(state.model, state.generator)
        if state.average is not None:
            state.average.restart()
        state.prepare_seconds = time.perf_counter() - started
        return 0.0

    def _loop(
        self,
        state: TrainingState,
        clock: Clock,
        run: RunFolder,
        loggers: Sequence[Logger],
        progress: Progress,
        interrupt: Interrupt,
        seed: int,
    ) -> str | None:
        all_loggers: list[Logger] = []
        if self.processes.is_first:
            run.path.mkdir(parents=True, exist_ok=True)
            run.summary_file.unlink(missing_ok=True)  # it marks a run as finished
            all_loggers = [JsonLines(), *loggers]
        view = None
        if self.viewer is not False and self.processes.is_first:
            from nfields.viewer.training import PORT, TrainingView  # viser is an extra

            port = PORT if self.viewer is True else self.viewer
            view = TrainingView(state.task, state.model, run, port=port, note=progress.note)
        try:
            for logger in all_loggers:
                logger.start(run, state.step)
            loop = TrainingLoop(
                budget=self.budget,
                schedule=self.schedule,
                log_every=self.log_every,
                eval_every=self.eval_every,
                checkpoint_seconds=self.checkpoint_seconds,
                seed=seed,
                processes=self.processes,
                state=state,
                clock=clock,
                run=run,
                loggers=all_loggers,
                progress=progress,
                interrupt=interrupt,
                film=self._film(run),
                view=view,
                record=self.record,
            )
            is_captured = self.record is not None and self.device.type == "cuda"
            with own_stream(self.device) if is_captured else nullcontext():
                return loop.train()
        finally:
            for logger in all_loggers:
                logger.close()
            if view is not None:
                view.close()

    def _graph_of(self, cuda_graph: bool | str, device: str) -> Record | None:
        if cuda_graph not in (True, False, "auto"):
            raise ConfigError(f"trainer.cuda_graph={cuda_graph!r} must be auto, true or false")
        if cuda_graph is not True:  # auto: not before it has been measured on a GPU
            return None
        if self.device.type != "cuda":
            raise ConfigError(
                f"trainer.cuda_graph=true is for CUDA, and trainer.device={device} is the CPU; use "
                "trainer.device=cuda, or trainer.cuda_graph=auto"
            )
        if self.processes.size > 1:
            raise ConfigError(
                f"trainer.cuda_graph=true: a step that {self.processes.size} processes share is "
                "not captured; leave it auto"
            )
        return record_on_cuda

    def _film(self, run: RunFolder) -> FitFilm | None:
        if self.snapshots == 0 or not self.processes.is_first:
            return None
        return FitFilm(run.path / "snapshots", self.snapshots)

    def _summary(
        self, state: TrainingState, clock: Clock, reason: str, num_threads: int
    ) -> TrainSummary:
        is_cuda = self.device.type == "cuda"
        return TrainSummary(
            steps=state.step,
            train_seconds=clock.seconds,
            parameters=sum(p.numel() for p in named_parameters(state.modules).values()),
            num_samples=int(state.num_samples),
            peak_memory_bytes=max(peak_memory_bytes() or 0, state.peak_memory_bytes) or None,
            peak_gpu_memory_bytes=torch.cuda.max_memory_allocated(self.device) if is_cuda else None,
            compile_seconds=state.compile_seconds,
            prepare_seconds=state.prepare_seconds,
            device=str(self.device),
            threads=num_threads,
            stop_reason=reason,
        )


def _check_groups(groups: Sequence[ParameterGroup], parameters: Mapping[str, Tensor]) -> None:
    """Every trainable parameter is in one group; group names are keys of checkpoints: unique."""
    names = [group.name for group in groups]
    assert len(set(names)) == len(names), f"parameter groups share a name: {names}"
    for group in groups:
        if group.lr < 0:
            raise ConfigError(f"the learning rate of {group.name} is {group.lr}; it must be >= 0")
    grouped = [id(param) for group in groups for param in group.params]
    for name, param in parameters.items():
        count = grouped.count(id(param))
        assert count == int(param.requires_grad), f"{name} is in {count} parameter groups"

"""Step after step: the clock, the learning rate, and what comes between steps.

A step is before_step, batch, losses, backward, optimiser, after_step; of these, losses to optimiser
may be one launch of a CUDA graph (nfields/step_graph.py). Everything else (validation, logs,
checkpoints, frames of a film, and one discarded step that compiles kernels) happens while the clock
stands.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nfields.budget import Budget, Clock
from nfields.checkpoint import checkpoint_in_use, read_state
from nfields.distributed import Processes
from nfields.errors import ConfigError
from nfields.export.fit_film import FitFilm, TakesSnapshots
from nfields.failed_step import is_out_of_memory, keep_batch
from nfields.interrupt import Interrupt
from nfields.late_numbers import LateNumbers
from nfields.logger import Logger
from nfields.loss_scale import SMALLEST
from nfields.machine import peak_memory_bytes
from nfields.ops.backend import matrix_products
from nfields.progress import Progress
from nfields.run_folder import RunFolder
from nfields.schedule import Schedule
from nfields.step_graph import Record, StepGraph
from nfields.task.task import StepResult
from nfields.training_state import TrainingState

_USUAL_FIX = "Usual fix: lower the learning rates (model.lr) or look for bad values in the data"

if TYPE_CHECKING:
    from nfields.viewer.training import TrainingView


class TrainingDiverged(ConfigError):
    """A loss or a weight became NaN or infinite; the last good checkpoint was kept."""


@dataclass(frozen=True)
class _StepOfLoss:
    """The step that a total loss is of: its number, counted from 1, its batch, its losses."""

    number: int
    batch: Any
    losses: dict[str, Tensor]


@dataclass
class TrainingLoop:
    """One call of `train` runs until the budget is used up or a signal came."""

    budget: Budget
    schedule: Schedule
    log_every: int
    eval_every: int | None
    checkpoint_seconds: float | None
    seed: int
    processes: Processes
    state: TrainingState
    clock: Clock
    run: RunFolder
    loggers: Sequence[Logger]
    progress: Progress
    interrupt: Interrupt
    film: FitFilm | None
    view: "TrainingView | None" = None
    record: Record | None = None  # makes a graph of a step, if there is to be one
    _graph: StepGraph | None = field(default=None, init=False)
    _saved_at: float = field(default=0.0, init=False)
    _seconds: float = field(default=0.0, init=False)  # of training before the present step
    _values: dict[str, float] = field(default_factory=dict, init=False)  # on the progress line
    _totals: LateNumbers[_StepOfLoss] = field(default_factory=LateNumbers, init=False)

    def train(self) -> str | None:
        """Returns why training is over, None if it was interrupted; a checkpoint is written."""
        state, clock = self.state, self.clock
        if self.record is not None:
            self._graph = StepGraph(state, self._gradients, self.record, self.progress.note)
        if self._goes_on():
            self._rehearse()
            self._start_film()
        self._saved_at = time.perf_counter()
        clock.start()
        try:
            while self._goes_on():
                total, result = self._step_within_memory()
                state.step += 1
                state.num_samples = state.num_samples + result.num_samples
                if state.average is not None:
                    state.average.update()
                state.running.add(total, result)
                if self._is_anything_due():
                    clock.stop()
                    self._between_steps()
                    clock.start()
        finally:
            clock.stop()
        self._check_losses()
        reason = None if self.interrupt.signal_number is not None else self._stop_reason()
        if reason is not None and state.step % self.log_every != 0 and state.running.means():
            self._log()
        self._show()
        if reason is not None and self.film is not None:
            self._snapshot(self.film)
        self._save()
        if reason is not None and self.film is not None:
            self.film.make_or_say_why_not(self.progress.note)
        return reason

    def _goes_on(self) -> bool:
        """Whether there is a next step: the same answer for all processes of the run."""
        self._seconds, signal_number = self.processes.agree(
            self.clock.seconds, self.interrupt.signal_number
        )
        self.interrupt.signal_number = signal_number
        return signal_number is None and self._stop_reason() is None

    def _stop_reason(self) -> str | None:
        return self.budget.stop_reason(self.state.step, self._seconds, self.state.validation)

    def _rehearse(self) -> None:
        """Compiles every kernel by one step (and validation) that is then undone."""
        self.progress.note("compiling kernels, once (not timed as training)")
        started = time.perf_counter()
        with self.state.put_back():
            self._step_within_memory()
        self._totals.forget()
        if self.budget.targets:
            measured = self._measure()
            for target in self.budget.targets:
                target.is_reached(measured)  # an unknown measure is an error now, not in an hour
        seconds = time.perf_counter() - started
        self.state.compile_seconds += seconds
        self.progress.note(f"ready after {seconds:.1f} s")

    def _step_within_memory(self) -> tuple[Tensor, StepResult]:
        """A step; where memory runs out, the step again with half of its samples."""
        while True:
            try:
                return self._step()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0] or type(error).__name__
            # Here the error is gone, and with its frames the tensors that they held.
            self._make_room(reason)

    def _make_room(self, reason: str) -> None:
        self.state.optimizer.zero_grad(set_to_none=True)
        self._totals.forget()
        if self._graph is not None:
            self._graph.forget()
        if self.processes.size > 1:
            raise ConfigError(
                f"out of memory in step {self.state.step + 1:,} of process {self.processes.rank}: "
                f"{reason}. One process alone cannot take a smaller part; start again with a "
                f"smaller step (task.samples_per_step, ...). {self._last_checkpoint(advice=None)}"
            )
        if self.clock.device.type == "cuda":
            torch.cuda.empty_cache()
        smaller = self.state.task.halve_step()
        if smaller is None:
            raise ConfigError(
                f"out of memory in step {self.state.step + 1:,}, and its batch cannot be smaller: "
                f"{reason}. Lower the size of the model, or close what else uses the memory. "
                + self._last_checkpoint(advice=None)
            )
        self.progress.note(
            f"out of memory in step {self.state.step + 1:,} ({reason}); going on with {smaller}"
        )

    def _step(self) -> tuple[Tensor, StepResult]:
        state = self.state
        model, task, step = state.model, state.task, state.step
        used = self.budget.progress(step, self._seconds)
        state.optimizer.set_rates(self.schedule.factor(used, step), used)
        task.before_step(model, step, state.generator)
        batch = self.processes.share(task.batch(state.generator))
        if self._graph is not None:
            total, result = self._graph.step(batch)
            self._watch(total, result, batch)
        else:
            total, result = self._gradients(batch)
            parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
            total, result = self.processes.average(parameters, total, result)
            self._watch(total, result, batch)
            scale = state.loss_scale
            state.optimizer.step(scaling=None if scale is None else scale.judge(parameters))
        task.after_step(model, result, step)
        return total, result

    def _gradients(self, batch: Any) -> tuple[Tensor, StepResult]:
        """The total loss and the results of a batch, whose gradients are then there."""
        state = self.state
        result = state.task.losses(state.model, batch)
        total = torch.stack([*result.losses.values()]).sum()
        if not total.requires_grad:
            raise TrainingDiverged(
                f"no loss of step {state.step + 1:,} depends on the model: no sample of the batch "
                "was in the scene, or the field became empty; check the cameras and the scene's "
                f"scale, or lower the learning rates. {self._last_checkpoint()}"
            )
        state.optimizer.zero_grad(set_to_none=True)
        scale = state.loss_scale
        (total if scale is None else scale.of(total)).backward()
        return total, result

    def _watch(self, total: Tensor, result: StepResult, batch: Any) -> None:
        losses = {name: loss.detach() for name, loss in result.losses.items()}
        self._totals.put(total, _StepOfLoss(self.state.step + 1, batch, losses))
        self._check_losses()

    def _is_anything_due(self) -> bool:
        step = self.state.step
        return (
            step % self.log_every == 0
            or (self.eval_every is not None and step % self.eval_every == 0)
            or self._is_checkpoint_due()
            or self.progress.is_due()
            or (self.film is not None and self.film.is_due(step))
            or (self.view is not None and self.view.is_due())
        )

    def _is_checkpoint_due(self) -> bool:
        if self.checkpoint_seconds is None:
            return False
        return time.perf_counter() - self._saved_at >= self.checkpoint_seconds

    def _between_steps(self) -> None:
        state = self.state
        self._check_losses()
        self._values = state.running.means() or self._values
        if state.step % self.log_every == 0:
            self._log()
            state.running.clear()
            self._check_scale()
        if self.eval_every is not None and state.step % self.eval_every == 0:
            state.validation = self._measure()
            self._record({f"validation_{name}": v for name, v in state.validation.items()})
        if self.film is not None and self.film.is_due(state.step):
            self._snapshot(self.film)
        if self._is_checkpoint_due():
            self._save()
        if self.progress.is_due():
            self._show()
        if self.view is not None and self.view.is_due():
            self.view.work(
                state.step, self.clock.seconds, self._values, self._evaluated,
                lambda: self.interrupt.signal_number is not None,
            )  # fmt: skip

    def _log(self) -> None:
        means = self.state.running.means()
        means["lr"] = self.state.optimizer.param_groups[0]["lr"]
        if self.state.loss_scale is not None:
            means["loss_scale"] = self.state.loss_scale.value()
        self._record(means)

    def _record(self, values: dict[str, float]) -> None:
        line = {"seconds": self.clock.seconds, **values}
        for logger in self.loggers:
            logger.log(self.state.step, line)

    def _show(self) -> None:
        state, seconds = self.state, self.clock.seconds
        rate, samples_rate = self.progress.rate(seconds, state.step, int(state.num_samples))
        validation = {f"validation {name}": value for name, value in state.validation.items()}
        self.progress.show(
            step=state.step,
            used=self.budget.progress(state.step, seconds),
            steps_per_second=rate,
            samples_per_second=samples_rate,
            seconds_left=self.budget.seconds_left(state.step, seconds, rate),
            values=self._values | validation,
        )

    def _measure(self) -> dict[str, float]:
        """Returns the task's quick validation, on the same held-out items every time."""
        measured = None
        if self.processes.is_first:
            generator = torch.Generator().manual_seed(self.seed)
            with self._evaluated():
                measured = self.state.task.validate(self.state.model, generator)
        return self.processes.tell(measured)

    def _start_film(self) -> None:
        if self.film is not None:
            self.film.forget_after(self.state.step)
            if self.film.is_due(self.state.step):
                self._snapshot(self.film)

    def _snapshot(self, film: FitFilm) -> None:
        task = self.state.task
        assert isinstance(task, TakesSnapshots), "Trainer.fit checks this"
        with self._evaluated():
            picture = task.snapshot(self.state.model)
        film.add(self.state.step, self.clock.seconds, picture)

    @contextmanager
    def _evaluated(self) -> Iterator[None]:
        """Lets model and task be looked at as at the end: evaluation mode, averaged weights."""
        state = self.state
        for module in state.modules.values():
            module.eval()
        try:
            averaged = nullcontext() if state.average is None else state.average.swapped_in()
            with averaged, matrix_products("fp32"):
                yield
        finally:
            for module in state.modules.values():
                module.train()

    def _save(self) -> None:
        if not self.processes.is_first:
            return
        bad = self.state.bad_weights()
        if bad:
            raise TrainingDiverged(
                f"{', '.join(bad[:3])} became NaN or infinite by step {self.state.step:,}. "
                + self._last_checkpoint()
            )
        self.state.peak_memory_bytes = max(peak_memory_bytes() or 0, self.state.peak_memory_bytes)
        self.state.save(self.run, self.clock.seconds)
        self._saved_at = time.perf_counter()

    def _check_losses(self) -> None:
        """Stops at the first total loss that is not finite, of those the host knows by now.

        Of a GPU it knows them some steps late: the weights are lost, the last checkpoint is not.
        """
        for total, step in self._totals.arrived():
            if not math.isfinite(total):
                self._totals.forget()
                names = [name for name, loss in step.losses.items() if not loss.isfinite()]
                name = "failed_step"
                if self.processes.size > 1:
                    name = f"failed_step_{self.processes.rank}"  # each has its part of the batch
                kept = keep_batch(self.run.path / name, step.number, step.batch, step.losses)
                raise TrainingDiverged(
                    f"the loss became NaN or infinite in step {step.number:,} "
                    f"({', '.join(names) or 'the sum'}). {kept} {self._last_checkpoint()}"
                )

    def _check_scale(self) -> None:
        """Stops where all steps are left out, as gradients are not finite whatever the scale."""
        scale = self.state.loss_scale
        if scale is not None and scale.value() < SMALLEST:
            raise TrainingDiverged(
                f"gradients are not finite by step {self.state.step:,}, however small the scale of "
                f"the loss (trainer.precision=fp16). {self._last_checkpoint()}"
            )

    def _last_checkpoint(self, advice: str | None = _USUAL_FIX) -> str:
        more = f" {advice}" if advice else ""
        if not checkpoint_in_use(self.run.checkpoint).is_dir():
            return f"No checkpoint had been written yet.{more}"
        step = read_state(self.run.checkpoint)["step"]
        return f"The checkpoint of step {step:,} in {self.run.checkpoint} was kept.{more}"

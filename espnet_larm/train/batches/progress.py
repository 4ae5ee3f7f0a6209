"""Lines on the progress of an epoch: step, loss, learning rate, seconds a step, and the time left."""

import logging
import time
from collections.abc import Callable

import humanfriendly  # type: ignore[import-untyped]

from espnet2.train.reporter import SubReporter, aggregate

logger = logging.getLogger(__name__)

SECONDS_BEFORE_FIRST_LINE = 10.0
SECONDS_BETWEEN_LINES = 60.0


class Progress:
    """Logs a line a minute while an epoch is trained; the first one comes sooner.

    Args:
        reporter: ESPnet's reporter of the epoch, which has the losses and learning rates.
        accum_grad: Batches of a step.
        num_batches: Batches of the epoch; None if nobody knows.
        num_used: Batches that were trained on before an interruption.
        num_epochs_after: Epochs that follow this one.
        clock: Tells the time in seconds.
    """

    def __init__(
        self,
        reporter: SubReporter,
        accum_grad: int,
        num_batches: int | None,
        num_used: int = 0,
        num_epochs_after: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._reporter = reporter
        self._accum_grad = accum_grad
        self._num_steps = None if num_batches is None else num_batches // accum_grad
        self._num_used = num_used // accum_grad
        self._num_epochs_after = num_epochs_after
        self._clock = clock
        # Set at the first step: before it, a loader starts, and batches of before an interruption are skipped.
        self._start = 0.0
        self._last = 0.0
        self._interval = SECONDS_BEFORE_FIRST_LINE
        self._num_told = 0

    def tell(self, num_steps: int) -> None:
        """Log a line if it is time; call this between two steps.

        Args:
            num_steps: Steps made in this process since the epoch began or was resumed.
        """
        now = self._clock()
        if num_steps == 0:
            self._start = self._last = now
        # Without a forward pass (ESPnet's no_forward_run) there is nothing to tell.
        if num_steps <= self._num_told or now - self._last < self._interval or "loss" not in self._reporter.stats:
            return
        new = (num_steps - self._num_told) * self._accum_grad
        loss = aggregate(self._reporter.stats["loss"][-new:])
        logger.info(
            "step %d%s of epoch %d: loss %.4g, learning rate %.3g, %.2f s a step%s",
            self._num_used + num_steps,
            f"/{self._num_steps}" if self._num_steps else "",
            self._reporter.get_epoch(),
            loss,
            self._learning_rate(),
            (now - self._last) / (num_steps - self._num_told),
            self._left((now - self._start) / num_steps, self._num_used + num_steps),
        )
        self._last, self._num_told, self._interval = now, num_steps, SECONDS_BETWEEN_LINES

    def _learning_rate(self) -> float:
        rates = self._reporter.stats.get("optim0_lr0")
        return float(rates[-1].value) if rates else float("nan")

    def _left(self, seconds_a_step: float, num_steps: int) -> str:
        if not self._num_steps:
            return ""
        left = max(0, self._num_steps - num_steps) * seconds_a_step
        text = f"; the epoch takes about {_in_words(left)} more"
        if self._num_epochs_after:
            # Validations, whose length nobody knows in the first epoch, are left out.
            left += self._num_epochs_after * self._num_steps * seconds_a_step
            text += f", all of max_epoch about {_in_words(left)}"
        return text


def _in_words(seconds: float) -> str:
    text: str = humanfriendly.format_timespan(round(seconds), max_units=2)
    return text

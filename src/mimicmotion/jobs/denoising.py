"""The denoising steps of a job: reported, kept as states, and the last one made while its frames are written."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from mimicmotion.arrays import Frame
from mimicmotion.jobs.interrupt import Interrupts, Stopped
from mimicmotion.jobs.progress import Job, Progress
from mimicmotion.jobs.record import RunRecord

if TYPE_CHECKING:
    from mimicmotion.pipeline import StepState


class Denoising:
    """Steps that are being made; use it in a `with` block around all that happens until the last one is complete.

    Inside the block a first Ctrl-C is a wish, which is met when a step is complete and kept. If the block is left by an
    error or is closed while the last step is being made, that step is finished first, without its frames, and kept.

    Args:
        states: of the steps that are still to be made, one after the other (`MimicMotionPipeline.denoise`).
        before_last: how many they are without the last one.
        record: where states are kept.
        interrupts: wishes to stop.
        preview: called after each complete step.
    """

    def __init__(
        self,
        states: Iterator[StepState],
        before_last: int,
        record: RunRecord,
        interrupts: Interrupts,
        preview: Callable[[StepState], object] | None = None,
    ) -> None:
        self._states, self._before_last = states, before_last
        self._record, self._interrupts, self._preview = record, interrupts, preview
        self._in_last = False
        self._state: StepState | None = None
        self._patience = contextlib.ExitStack()

    def __enter__(self) -> Denoising:
        if self._record.state.enabled:
            self._patience.enter_context(self._interrupts.patiently())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._patience:
            at_once = kind is not None and issubclass(kind, KeyboardInterrupt)
            if kind is not None and not at_once and self._in_last and self._record.state.enabled:
                self._keep_last()

    def steps(self) -> Job[None]:
        """Make all steps but the last."""
        for state in itertools.islice(self._states, self._before_last):
            self._show(state)
            try:
                yield Progress("denoise", state.index + 1, state.total)
            except GeneratorExit:
                self._record.keep_step(state)
                raise
            if self._interrupts.asked or self._record.is_due(state):
                self._record.keep_step(state)
            if self._interrupts.asked:
                raise Stopped
        self._in_last = True

    def last(
        self, meanwhile: Callable[[Iterable[StepState]], Iterator[StepState | Frame]]
    ) -> Iterator[Progress | Frame]:
        """Make the last step and pass its frames on.

        Args:
            meanwhile: decodes (`MimicMotionPipeline.decode_meanwhile`).
        """
        from mimicmotion.pipeline import StepState

        for item in meanwhile(self._seen()):
            if not isinstance(item, StepState):
                yield item
            elif item.is_complete:
                self._show(item)
                yield Progress("denoise", item.index + 1, item.total)
                self._keep_last()
                if self._interrupts.asked:
                    raise Stopped
            else:
                yield Progress("denoise", item.index, item.total, f"last step: {item.ready} frames are ready")
            if self._in_last and self._interrupts.asked:
                self._keep_last()
                raise Stopped

    def _seen(self) -> Iterator[StepState]:
        for state in self._states:
            self._state = state
            yield state

    def _keep_last(self) -> None:
        """Make what is missing of the last step, and keep it; Ctrl-C stops at once from then on."""
        for state in self._states:
            self._state = state
        if self._state is not None and self._state.is_complete:
            self._record.keep_step(self._state)
            self._in_last = False
            self._patience.close()

    def _show(self, state: StepState) -> None:
        if self._preview is not None:
            self._preview(state)

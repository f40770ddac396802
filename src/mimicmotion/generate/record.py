"""Bookkeeping of a generate job: provenance, saving and resuming, and the contents of the sidecar."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING

from mimicmotion.generate.inputs import Inputs
from mimicmotion.generate.outputs import GenerateResult, clear_partial, peak_memory
from mimicmotion.generate.provenance import (
    CONTENTS,
    NOTED,
    Checksums,
    Facts,
    check_same,
    differences,
    inputs_provenance,
    model_provenance,
    plain,
)
from mimicmotion.generate.run_state import RunState, Saved
from mimicmotion.generate.setup import fusion_config, with_estimator
from mimicmotion.runtime.progress import Stopwatch
from mimicmotion.settings import ExecutionOptions, FusionConfig, GenerateConfig, parse, resolve_tier

if TYPE_CHECKING:
    from mimicmotion.diffusion.sampling import Step
    from mimicmotion.pipeline import MimicMotionPipeline


class RunRecord:
    """Record of one run: checks its provenance, saves its state, and builds its sidecar.

    Args:
        config: settings of the run.
        state: state folder of the run.
        expected: provenance of an earlier result, whose inputs and model this run must match.

    Attributes:
        saved: state of the interrupted run that this one continues; None for a new run.
        resumed_at: number of completed steps each time the run was resumed.
        has_saved: whether this run has saved its state.
    """

    def __init__(self, config: GenerateConfig, state: RunState, expected: Facts | None = None) -> None:
        self.config, self.state, self.expected = config, state, expected
        self.watch = Stopwatch()
        self.saved: Saved | None = None
        self.resumed_at: list[int] = []
        self.has_saved = False
        self._notes: list[str] = []
        self._sums = Checksums()
        self._origin: Facts = {}
        self._earlier: Facts = {}
        self._earlier_facts: Facts = {}
        self._total: int | None = None
        self._pipe: MimicMotionPipeline | None = None

    def begin(self) -> None:
        """Before the model is loaded, read the state of an interrupted run and check that settings and inputs match.

        Raises:
            ConfigError: they differ, another process writes the same output, or a state exists but `resume` is off.
        """
        exists = self.state.exists
        if not self.config.resume:
            self.state.check_absent()
        elif not exists:
            self._notes.append(f"nothing to resume: {self.state.folder} does not exist")
        elif saved := self.state.read():
            self.saved, self._earlier, self._earlier_facts = saved, saved.origin, saved.facts
            if self.config.estimator is None:  # keep the one that estimated the poses
                self.config = dataclasses.replace(self.config, estimator=saved.origin["settings"].get("estimator"))
            self.watch.seconds.update(saved.facts.get("seconds", {}))
            self.resumed_at = [*saved.facts.get("resumed_at", []), saved.step.index + 1 if saved.step else 0]
        if exists:
            clear_partial(self.config.output)
        if self.saved or self.expected:
            self._origin |= inputs_provenance(self.config, self._sums)
            self._compare()

    def choose_estimator(self, pipeline: MimicMotionPipeline | None) -> None:
        """Choose the pose estimator if the settings do not specify one."""
        self.config, notes = with_estimator(self.config, pipeline)
        self._notes += notes

    def record_model(self, pipe: MimicMotionPipeline) -> None:
        """Record the model, and check that it matches the interrupted run and the expected provenance.

        Raises:
            ConfigError: the model differs.
        """
        self._pipe = pipe
        if not (self.saved or self.expected):
            return
        self._origin |= model_provenance(self.config, pipe, self._sums)
        self._compare()
        found = [d for old in (self._earlier, self.expected or {}) for d in differences(old, self._origin, NOTED)]
        if found:
            self._notes.append(f"the result may differ slightly from that of the earlier run: {'; '.join(found)}")

    def _compare(self) -> None:
        if self.expected:
            fix = "pass the original files (see --help); for a different result, use `mimicmotion generate`"
            check_same("what the sidecar describes", self.expected, self._origin, fix, CONTENTS)
        if self.saved:
            fix = f"restore it, or leave out --resume to start over (or delete {self.state.folder})"
            check_same(f"the state in {self.state.folder}", self._earlier, self._origin, fix)

    def origin(self, pipe: MimicMotionPipeline) -> Facts:
        """Return the provenance of the result. Checksums are computed once."""
        if "settings" not in self._origin:
            self._origin |= inputs_provenance(self.config, self._sums)
        if "weights" not in self._origin:
            self._origin |= model_provenance(self.config, pipe, self._sums)
        return self._origin

    def result_id(self, pipe: MimicMotionPipeline) -> str:
        """Return the id of the result: a hash of settings, inputs and model."""
        origin = self.origin(pipe)
        facts = json.dumps({part: origin[part] for part in ("settings", *CONTENTS)})
        normalised = json.dumps(json.loads(facts, parse_int=float), sort_keys=True)  # 127 and 127.0 are the same
        return hashlib.sha256(normalised.encode()).hexdigest()[:32]

    # --- saving -------------------------------------------------------------------------------------------------

    def save_inputs(self, inputs: Inputs, pipe: MimicMotionPipeline) -> None:
        """Save the picture and the poses, unless saving is disabled or they were read from the state."""
        if self.state.enabled:
            self.state.origin = self.origin(pipe)
            if self.saved is None:
                self.state.save_inputs(inputs, self.facts())
                self.has_saved = self.state.done is not None

    def is_due(self, step: Step) -> bool:
        """Return whether to save the state after this step: every `save_every` steps, and after the last."""
        every, done = self.config.save_every, step.index + 1
        return every > 0 and (done % every == 0 or done == step.total)

    def save_step(self, step: Step) -> None:
        """Save the state of the sampler, unless this step is already saved."""
        self._total = step.total
        if self.state.done != step.index + 1:
            self.state.save_step(step, self.facts())
            self.has_saved = self.state.done is not None

    def describe_saved(self) -> str:
        """Describe what is saved, and how to resume."""
        total = f" of {self._total}" if self._total else ""
        done = f"{self.state.done}{total} steps" if self.state.done else "the poses"
        return f"{done} are saved in {self.state.folder}: to continue, repeat the command with --resume"

    # --- facts --------------------------------------------------------------------------------------------------

    def facts(self) -> Facts:
        """Return facts about the run so far, which are saved with its state."""
        return {
            "seconds": self.watch.seconds,
            "peak_memory": self.peak_memory(),
            "resumed_at": self.resumed_at,
            "options": self._options(),
            "execution": None if self._pipe is None else plain(dataclasses.asdict(self._pipe.backbone.plan)),
        }

    def _options(self) -> Facts:
        return plain({f.name: getattr(self.config, f.name) for f in dataclasses.fields(ExecutionOptions)})

    def earlier_plan(self) -> Facts | None:
        """Return the execution plan of the interrupted run if its options are the same; others round differently."""
        same = self._earlier_facts.get("options") == self._options()
        return self._earlier_facts.get("execution") if same and self.resumed_at[-1] else None

    def peak_memory(self) -> dict[str, int]:
        """Return the peak memory in bytes over all parts of the run."""
        now, earlier = peak_memory(), self._earlier_facts.get("peak_memory", {})
        return {k: max(now.get(k, 0), earlier.get(k, 0)) for k in earlier | now}

    def warnings(self) -> list[str]:
        """Return notes for the user on resuming and saving."""
        return [*self._notes, *self.state.warnings]

    def sidecar(self, result: GenerateResult, pipe: MimicMotionPipeline) -> Facts:
        """Return the contents of the sidecar: what is needed to reproduce the result, and the time and memory used."""
        from mimicmotion.diffusion.recipe import default_steps

        config, origin, model = self.config, self.origin(pipe), pipe.backbone.settings
        inputs = {str(getattr(config, name)): sha for name, sha in origin["inputs"].items()}
        return {
            "settings": plain(dataclasses.asdict(config)),
            "versions": origin["versions"],
            "weights_sha256": {str(p): self._sums[p] for p in pipe.backbone.files} or origin["weights"],
            "inputs_sha256": inputs,
            "output_sha256": self._sums[config.output],
            "unsigned_sha256": result.unsigned_sha256,
            "origin": origin,
            "execution": plain(dataclasses.asdict(pipe.backbone.plan)),
            "sampling": plain(dataclasses.asdict(resolve_tier(config, default_steps(model)))),
            # includes the model's defaults; evaluation derives the segment borders from it
            "fusion": plain(dataclasses.asdict(fusion_config(config, parse(FusionConfig, model.get("fusion", {}))))),
            "frames": result.num_frames,
            "size": result.size,
            "seconds": result.seconds,
            "peak_memory": result.peak_memory,
            "resumed_at": result.resumed_at,
            "warnings": result.warnings,
        }

"""Small stand-ins for what our nodes use of ComfyUI, and for its own nodes in our workflows.

They take the same arguments as ComfyUI's classes, and no others. `ComfyUI` runs a workflow in API format like ComfyUI:
each node once its inputs are available, in inference mode.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mimicmotion.video.picture import read_picture
from mimicmotion.video.reader import open_video
from mimicmotion.video.writer import open_writer

FOLDER = Path(__file__).parents[1] / "integrations" / "comfyui"
SOCKET = {"id", "display_name", "optional", "tooltip", "lazy", "extra_dict"}
WIDGET = SOCKET - {"extra_dict"} | {"default", "socketless"}
NUMBER = WIDGET | {"min", "max", "step", "display_mode", "force_input"}
TAKES = {
    "INT": NUMBER | {"control_after_generate"},
    "FLOAT": NUMBER | {"round"},
    "BOOLEAN": WIDGET | {"label_on", "label_off", "force_input"},
    "STRING": WIDGET | {"multiline", "placeholder", "dynamic_prompts", "force_input"},
    "COMBO": WIDGET | {"options", "control_after_generate", "upload", "image_folder", "remote"},
}


class Input:
    """An input of a node: its properties by name."""

    io_type = ""

    def __init__(self, id: str, *args: Any, **facts: Any) -> None:
        if self.io_type == "COMBO" and args:
            facts["options"], args = args[0], args[1:]
        unknown = set(facts) - TAKES.get(self.io_type, SOCKET)
        assert not args, f"{id}: {args}"
        assert not unknown, f"{id}: ComfyUI takes no {unknown}"
        self.id, self.facts, self.optional = id, facts, facts.get("optional", False)

    def get_io_type(self) -> str:
        return self.io_type

    @property
    def is_widget(self) -> bool:
        return self.io_type in TAKES


class Output:
    """An output of a node."""

    io_type = ""

    def __init__(self, id: str, display_name: str = "", tooltip: str = "", is_output_list: bool = False) -> None:
        self.id, self.display_name = id, display_name


def custom(io_type: str) -> Any:
    inner = {kind.__name__: type(kind.__name__, (kind,), {"io_type": io_type}) for kind in (Input, Output)}
    return type(io_type, (), {"io_type": io_type, **inner})


class MultiType:
    class Input(Input):
        def __init__(self, id: str, types: list[Any], **facts: Any) -> None:
            super().__init__(id, **facts)
            self.io_type = ",".join(t.io_type for t in types)


class Schema:
    def __init__(
        self,
        node_id: str,
        display_name: str,
        category: str,
        inputs: list[Input],
        outputs: list[Output],
        description: str,
        is_output_node: bool = False,
    ) -> None:
        self.node_id, self.inputs, self.outputs, self.is_output_node = node_id, inputs, outputs, is_output_node
        self.display_name, self.category, self.description = display_name, category, description
        ids = [part.id for part in (*inputs, *outputs)]
        assert len(set(ids)) == len(ids), f"{node_id}: ids of inputs and outputs must differ"


class NodeOutput:
    def __init__(self, *args: Any, ui: Any = None) -> None:
        self.args, self.ui = args, ui


class VideoFromFile:
    """A file, or a part of it that begins later."""

    def __init__(self, file: str, *, start_time: float = 0) -> None:
        self.file, self.start_time = file, start_time

    def get_stream_source(self) -> str:
        return self.file

    def get_dimensions(self) -> tuple[int, int]:
        info = open_video(self.file).info
        return info.width, info.height

    def get_duration(self) -> float:
        return (open_video(self.file).info.duration or 0) - self.start_time

    def save_to(self, path: str) -> None:
        reader = open_video(self.file)
        with open_writer(path, (reader.info.height, reader.info.width), reader.info.fps) as writer:
            for frame in reader.frames(start=self.start_time):
                writer.write(frame)


class InterruptProcessingException(Exception):
    pass


class ComfyUI:
    """ComfyUI with our nodes, its folders in a folder of the test.

    Attributes:
        progress: (value, total) of each update of the progress bar.
        interrupt_at: the report at which the user asks to stop, if ever.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.progress: list[tuple[int, int]] = []
        self.interrupt_at: int | None = None
        for name in ("input", "output", "temp"):
            (folder / name).mkdir()
        self.modules = self._modules()
        saved = {name: sys.modules.get(name) for name in self.modules}
        name = str(FOLDER).replace(".", "_x_")  # as ComfyUI does
        for other in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
            del sys.modules[other]  # of another folder
        sys.modules.update(self.modules)
        try:
            spec = importlib.util.spec_from_file_location(name, FOLDER / "__init__.py")
            assert spec is not None
            assert spec.loader is not None
            module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            extension = asyncio.run(module.comfy_entrypoint())
            self.nodes = {n.define_schema().node_id: n for n in asyncio.run(extension.get_node_list())}
        finally:
            for key, before in saved.items():
                if before is None:
                    del sys.modules[key]
                else:
                    sys.modules[key] = before
        self.package = module

    def part(self, name: str) -> Any:
        """Import a module of our folder."""
        return sys.modules[f"{self.package.__name__}.{name}"]

    def run(self, workflow: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
        """Run a workflow in API format; gives the outputs of each node."""
        done: dict[str, tuple[Any, ...]] = {}

        def value(given: Any) -> Any:
            return result(given[0])[given[1]] if isinstance(given, list) else given

        def result(number: str) -> tuple[Any, ...]:
            if number not in done:
                node = workflow[number]
                given = {name: value(v) for name, v in node["inputs"].items()}
                done[number] = self._execute(node["class_type"], given)
            return done[number]

        with torch.inference_mode():
            for number in workflow:
                result(number)
        return done

    def _execute(self, kind: str, given: dict[str, Any]) -> tuple[Any, ...]:
        if kind == "LoadImage":
            picture = read_picture(self.folder / "input" / given["image"])
            return torch.from_numpy(picture.astype(np.float32) / 255)[None], None
        if kind == "LoadVideo":
            return (VideoFromFile(str(self.folder / "input" / given["file"])),)
        node = self.nodes[kind]
        schema = node.define_schema()
        wanted = {i.id for i in schema.inputs if not i.optional}
        assert wanted <= set(given) <= {i.id for i in schema.inputs}, f"{kind}: {sorted(given)}"
        made = node.execute(**given)
        assert len(made.args) == len(schema.outputs)
        return made.args

    def _report(self, value: int, total: int) -> None:
        self.progress.append((value, total))

    def _modules(self) -> dict[str, Any]:
        ui = self

        class ProgressBar:
            def __init__(self, total: int) -> None:
                pass

            def update_absolute(self, value: int, total: int) -> None:
                ui._report(value, total)

        def throw() -> None:
            if ui.interrupt_at is not None and len(ui.progress) >= ui.interrupt_at:
                raise InterruptProcessingException

        def save_path(prefix: str, base: str, width: int, height: int) -> tuple[str, str, int, str, str]:
            place = Path(base) / Path(prefix).parent
            place.mkdir(parents=True, exist_ok=True)
            count = len(list(place.glob(f"{Path(prefix).name}_*_.*"))) + 1
            return str(place), Path(prefix).name, count, str(Path(prefix).parent), prefix

        kinds = {"Image": "IMAGE", "Video": "VIDEO", "Sigmas": "SIGMAS", "Boolean": "BOOLEAN", "Int": "INT"}
        kinds |= {"Float": "FLOAT", "String": "STRING", "Combo": "COMBO"}
        io = types.SimpleNamespace(
            **{name: custom(kind) for name, kind in kinds.items()},
            Custom=custom,
            MultiType=MultiType,
            Schema=Schema,
            NodeOutput=NodeOutput,
            ComfyNode=type("ComfyNode", (), {}),
            Input=Input,
            FolderType=types.SimpleNamespace(output="output"),
        )
        saved = types.SimpleNamespace(SavedResult=lambda *facts: facts, PreviewVideo=lambda results: results)
        parts: dict[str, dict[str, Any]] = {
            "comfy": {},
            "comfy.utils": {"ProgressBar": ProgressBar},
            "comfy.model_management": {
                "throw_exception_if_processing_interrupted": throw,
                "unload_all_models": lambda: None,
                "soft_empty_cache": lambda: None,
            },
            "comfy_api": {},
            "comfy_api.v0_0_2": {
                "ComfyExtension": type("ComfyExtension", (), {}),
                "InputImpl": types.SimpleNamespace(VideoFromFile=VideoFromFile),
                "io": io,
                "ui": saved,
            },
            "folder_paths": {
                "get_temp_directory": lambda: str(self.folder / "temp"),
                "get_output_directory": lambda: str(self.folder / "output"),
                "get_save_image_path": save_path,
            },
        }
        modules = {name: types.ModuleType(name) for name in parts}
        for name, facts in parts.items():
            vars(modules[name]).update(facts)
            parent, _, own = name.rpartition(".")
            if parent:
                setattr(modules[parent], own, modules[name])
        return modules

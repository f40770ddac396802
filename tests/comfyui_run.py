"""Run a workflow with a checkout of ComfyUI: `comfyui_run.py CHECKOUT FOLDER`; FOLDER holds workflow.json and input/.

Prints facts as JSON. torchvision, torchaudio and torchsde, which ComfyUI imports but our nodes never use, are replaced
by empty modules if they are not installed. Exit code 3: another of its packages is missing.
"""

from __future__ import annotations

import asyncio
import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

CHECKOUT, PLACE = Path(sys.argv[1]), Path(sys.argv[2])
NODES = Path(__file__).parents[1] / "integrations" / "comfyui"
EMPTY = [name for name in ("torchvision", "torchaudio", "torchsde") if importlib.util.find_spec(name) is None]


class Empty(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        found = name.partition(".")[0] in EMPTY
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if found else None

    def create_module(self, spec: Any) -> Any:
        module = MagicMock(name=spec.name)
        module.__spec__, module.__path__ = spec, []
        return module

    def exec_module(self, module: Any) -> None:
        pass


def main() -> None:
    sys.meta_path.append(Empty())
    sys.path.insert(0, str(CHECKOUT))
    folders = [f"--{name}-directory={PLACE / name}" for name in ("input", "output")]
    sys.argv = ["main.py", "--cpu", *folders, f"--temp-directory={PLACE}"]  # ComfyUI adds temp/
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import nodes

        import execution
    except ImportError as e:
        sys.stdout.write(f"{e}\n")
        sys.exit(3)
    import comfy.model_management
    import folder_paths

    folder_paths.set_input_directory(str(PLACE / "input"))
    folder_paths.set_output_directory(str(PLACE / "output"))
    folder_paths.set_temp_directory(str(PLACE / "temp"))
    before = set(nodes.NODE_CLASS_MAPPINGS)
    assert asyncio.run(nodes.load_custom_node(str(CHECKOUT / "comfy_extras" / "nodes_video.py")))
    known = set(nodes.NODE_CLASS_MAPPINGS)
    assert asyncio.run(nodes.load_custom_node(str(NODES)))
    ours = sorted(set(nodes.NODE_CLASS_MAPPINGS) - known)
    assert before < known
    workflow = json.loads((PLACE / "workflow.json").read_text())
    valid, error, outputs, errors = asyncio.run(execution.validate_prompt("1", workflow, None))
    assert valid, (error, errors)

    def sent(event: str, data: Any, client: Any = None) -> None:
        if interrupt and event == "progress_state":
            comfy.model_management.interrupt_current_processing()

    interrupt = False
    server = SimpleNamespace(client_id="1", last_node_id=None, send_sync=sent, sockets_metadata={})
    executor = execution.PromptExecutor(server)
    executor.execute(workflow, "1", {"client_id": "1"}, outputs)
    assert executor.success, executor.status_messages
    files = sorted(p.relative_to(PLACE / "output").as_posix() for p in (PLACE / "output").rglob("*.mp4"))
    interrupt = True
    executor.reset()
    executor.execute(workflow, "2", {"client_id": "1"}, outputs)
    ended = [event for event, _ in executor.status_messages if event in ("execution_interrupted", "execution_error")]
    widgets = {}
    for name in ours:
        kinds = nodes.NODE_CLASS_MAPPINGS[name].INPUT_TYPES(include_hidden=False)
        widgets[name] = [key for kind in ("required", "optional") for key in kinds.get(kind, {})]
    sys.stdout.write(json.dumps({"nodes": ours, "files": files, "interrupted": ended, "widgets": widgets}) + "\n")


main()

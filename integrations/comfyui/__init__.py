"""MimicMotion as nodes of ComfyUI."""

from .api import ComfyExtension, io
from .nodes import NODES


class MimicMotionExtension(ComfyExtension):
    """The extension that ComfyUI asks for its nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return all nodes."""
        return NODES


async def comfy_entrypoint() -> MimicMotionExtension:
    """Entry point that ComfyUI calls when it loads this folder."""
    return MimicMotionExtension()

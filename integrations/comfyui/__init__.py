"""MimicMotion as nodes of ComfyUI."""

from .api import ComfyExtension, io
from .nodes import NODES


class MimicMotionExtension(ComfyExtension):
    """What ComfyUI asks for its nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes."""
        return NODES


async def comfy_entrypoint() -> MimicMotionExtension:
    """Called by ComfyUI when it loads this folder."""
    return MimicMotionExtension()

"""ComfyUI-RePoseDM: pose-guided person images as ComfyUI nodes."""

from .nodes import WEB_DIRECTORY, comfy_entrypoint

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]

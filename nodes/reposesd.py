"""RePoseSD Loader: Stable Diffusion 2.1 with the pose latent beside the noise latent (eq. 17)."""

from __future__ import annotations

from comfy_api.latest import io


class RePoseSDLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="RePoseDMSDLoader", display_name="RePoseSD Loader", category="RePoseDM")

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput()

"""RePoseDM: recurrent pose alignment and pose-field gradient guidance for pose-guided person images.

from reposedm_core import RePoseDMPipeline
RePoseDMPipeline.from_pretrained()("person.png", "pose.json", seed=1).to_pil().save("result.png")
"""

from .config import ModelConfig
from .errors import InputError
from .networks import load_networks
from .pipeline import PoseTransferResult, RePoseDMPipeline
from .pose import Pose, draw_pose, parse_keypoints
from .presets import PRESETS

__all__ = [
    "PRESETS",
    "InputError",
    "ModelConfig",
    "Pose",
    "PoseTransferResult",
    "RePoseDMPipeline",
    "draw_pose",
    "load_networks",
    "parse_keypoints",
]

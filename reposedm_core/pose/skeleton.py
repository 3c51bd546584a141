"""Joint orders, limbs, colours and tolerances of the skeletons used here. Data only.

OpenPose-18 is what POSE_KEYPOINT carries and what is drawn; COCO-17 is what estimators predict and what
data sets store. Left and right are the person's own.
"""

from __future__ import annotations

import colorsys

OPENPOSE18 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow",
    "left_wrist", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip

COCO17 = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip",
    "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip

NECK = OPENPOSE18.index("neck")

# Limbs in the order in which OpenPose pictures are painted; limb i has colour i.
OPENPOSE_LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
    (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip

# RGB, one per joint; the first seventeen also colour the limbs.
OPENPOSE_COLOURS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0),
    (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255),
    (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip

COCO_LIMBS = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9),
    (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip

# mmpose's colours of COCO-17: the person's left is green, the right orange, middle and head blue.
_LEFT, _RIGHT, _MIDDLE = (0, 255, 0), (255, 128, 0), (51, 153, 255)
COCO_LIMB_COLOURS = (
    _LEFT, _LEFT, _RIGHT, _RIGHT, _MIDDLE, _MIDDLE, _MIDDLE, _MIDDLE, _LEFT, _RIGHT, _LEFT, _RIGHT, *(_MIDDLE,) * 7,
)  # fmt: skip
COCO_COLOURS = (*(_MIDDLE,) * 5, *(_LEFT, _RIGHT) * 6)

# What HumanSD (github.com/IDEA-Research/HumanSD, its training configuration) draws of COCO-17, in its order.
HUMANSD_LIMBS = (
    (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7), (6, 8), (7, 9), (8, 10), (5, 11), (6, 12), (11, 13),
    (12, 14), (13, 15), (14, 16),
)  # fmt: skip
# Its colours are seaborn's palette "hls": hues evenly from 0.01 on, lightness 0.6, saturation 0.65, cut to bytes.
HUMANSD_COLOURS = tuple(
    tuple(int(255 * channel) for channel in colorsys.hls_to_rgb((0.01 + i / len(HUMANSD_LIMBS)) % 1, 0.6, 0.65))
    for i in range(len(HUMANSD_LIMBS))
)

# Wrist 0, then four joints a finger from the thumb to the little one.
HAND_LIMBS = (
    (0, 1), (1, 2), (2, 3), (3, 4), (0, 5), (5, 6), (6, 7), (7, 8), (0, 9), (9, 10), (10, 11), (11, 12),
    (0, 13), (13, 14), (14, 15), (15, 16), (0, 17), (17, 18), (18, 19), (19, 20),
)  # fmt: skip

# joints[..., FLIP, :] names the joints of a mirrored picture.
OPENPOSE_FLIP = (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)
# Faces: the 68 points of iBUG (jaw, brows, nose, eyes, mouth outside and inside) and OpenPose's two pupils.
FACE_FLIP = (
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, *range(35, 30, -1), 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
    41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65, 69, 68,
)  # fmt: skip
FOOT_FLIP = (3, 4, 5, 0, 1, 2)
COCO_FLIP = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)

# Where each joint is found in another order. The neck has no COCO joint: it is made of the shoulders.
COCO_TO_OPENPOSE = tuple(None if name == "neck" else COCO17.index(name) for name in OPENPOSE18)
OPENPOSE_TO_COCO = tuple(OPENPOSE18.index(name) for name in COCO17)
# BODY_25 has a mid-hip at 8 and six foot points after 18; the others keep their order.
BODY25_TO_OPENPOSE = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)

# Object keypoint similarity tolerances of COCO-17 (the COCO keypoint evaluation's own numbers).
COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
    0.089, 0.089,
)  # fmt: skip

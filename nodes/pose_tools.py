"""Select Person, Smooth Poses, Retarget Pose, Edit Pose and Interpolate Poses."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..reposedm_core.pose import (
    ANCHORS,
    EASINGS,
    FLIPS,
    MATCHES,
    METHODS,
    ORDERS,
    agreed,
    edit_joint,
    edit_people,
    fill_empty,
    has_person,
    interpolate_poses,
    retarget_pose,
    select_people,
    smooth_poses,
)
from ..reposedm_core.pose.skeleton import OPENPOSE18
from .host.poses import asked_to_stop, read_poses, write_poses
from .host.sockets import PoseKeypoint

CATEGORY = "RePoseDM/pose"
NO_JOINT = "none"
EMPTY = ("keep", "fill", "leave out")
SIZES = ("proportions", "proportions and size")
MEASURES = ("all frames", "each frame")
ACTIONS = ("move with limb", "move alone", "remove with limb", "remove alone")
FAR = 32768.0


class SelectPerson(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMSelectPerson",
            display_name="Select Person",
            category=CATEGORY,
            description="Takes one person, or some, out of poses with several: by number, or the largest, the most "
            "central, the most confident or the leftmost.",
            search_aliases=["choose person", "filter people", "pick pose", "person index", "track person"],
            inputs=[
                PoseKeypoint.Input("pose", tooltip="Poses with any number of people."),
                io.Combo.Input(
                    "order",
                    options=list(ORDERS),
                    default=ORDERS[0],
                    tooltip="The order in which people are counted: as the pose has them, or with the "
                    "largest, most central, most confident or leftmost first.",
                ),
                io.Int.Input(
                    "index",
                    default=0,
                    min=0,
                    max=999,
                    tooltip="Who is taken, counted from 0 in that order: 0 is the first.",
                ),
                io.Int.Input(
                    "count",
                    default=1,
                    min=0,
                    max=999,
                    tooltip="How many people are taken from there on; 0 takes all, in that order.",
                ),
                io.Boolean.Input(
                    "follow",
                    default=False,
                    tooltip="Choose in the first frame that has somebody and follow these people through "
                    "the others. Off: every frame is ordered anew.",
                ),
                io.Combo.Input(
                    "empty_frames",
                    options=list(EMPTY),
                    default=EMPTY[0],
                    optional=True,
                    tooltip="Frames without anybody, as where a detector missed the person: keep them; "
                    "fill them with poses between those of their neighbours; leave them out.",
                ),
            ],
            outputs=[PoseKeypoint.Output("pose", tooltip="The frames with these people alone.")],
        )

    @classmethod
    def execute(
        cls, pose: Any, order: str, index: int, count: int, follow: bool, empty_frames: str = EMPTY[0]
    ) -> io.NodeOutput:
        poses = select_people(read_poses(pose, "pose"), order, index, count, follow, asked_to_stop)
        if empty_frames == "fill":
            poses = fill_empty(poses, asked_to_stop)
        elif empty_frames == "leave out":
            poses = [frame for frame in poses if len(frame.joints)]
        return io.NodeOutput(write_poses(poses))


class SmoothPoses(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMSmoothPoses",
            display_name="Smooth Poses",
            category=CATEGORY,
            description="Makes the poses of a video smooth: no trembling, no joints that jump, gaps filled, and "
            "everybody stays who he is.",
            search_aliases=[
                "smooth video",
                "one euro filter",
                "temporal filter",
                "stabilize pose",
                "jitter",
                "flicker",
            ],
            inputs=[
                PoseKeypoint.Input("pose", tooltip="The poses of a video, frame by frame, with any number of people."),
                io.Float.Input(
                    "smoothing",
                    default=3.0,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    tooltip="Over how many frames joints at rest are averaged. More is calmer; 0 does not smooth.",
                ),
                io.Float.Input(
                    "fast_moves",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.1,
                    tooltip="How closely fast moves are followed: joints are averaged less the faster they move. 0: "
                    "all moves are averaged alike, and fast ones get smaller.",
                ),
                io.Int.Input(
                    "fill_gaps",
                    default=8,
                    min=0,
                    max=999,
                    tooltip="For how many frames a joint or a person may be missing and is filled in from before and "
                    "after. Joints that jump away for a frame or two, no longer than this, are filled in too. 0 fills "
                    "nothing.",
                ),
                io.Boolean.Input(
                    "one_person",
                    default=False,
                    tooltip="Follow one person only: who is largest and longest in the picture.",
                ),
            ],
            outputs=[PoseKeypoint.Output("pose", tooltip="As many frames, smooth in time.")],
        )

    @classmethod
    def execute(cls, pose: Any, smoothing: float, fast_moves: float, fill_gaps: int, one_person: bool) -> io.NodeOutput:
        (poses,) = agreed(read_poses(pose, "pose"))
        return io.NodeOutput(
            write_poses(smooth_poses(poses, smoothing, fast_moves, fill_gaps, one_person, asked_to_stop))
        )


class RetargetPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMRetargetPose",
            display_name="Retarget Pose",
            category=CATEGORY,
            description="Gives a pose the body of another person: the limbs keep their directions and take that "
            "person's lengths.",
            search_aliases=["body proportions", "limb length", "align pose", "pose to person", "rescale skeleton"],
            inputs=[
                PoseKeypoint.Input("pose", tooltip="The pose to reach, of anybody; several frames too."),
                PoseKeypoint.Input(
                    "source_pose",
                    tooltip="Whose proportions to use: the pose of the source picture. One person serves everybody.",
                ),
                io.Combo.Input(
                    "take",
                    options=list(SIZES),
                    default=SIZES[0],
                    tooltip="proportions: limbs relative to one another, the person stays as large as the "
                    "pose has it. proportions and size: as large as in the source picture too.",
                ),
                io.Combo.Input(
                    "keep",
                    options=list(ANCHORS),
                    default=ANCHORS[0],
                    tooltip="What stays where the pose has it: the hips, the neck, or the lower foot.",
                ),
                io.Combo.Input(
                    "measure",
                    options=list(MEASURES),
                    default=MEASURES[0],
                    tooltip="all frames: they show the same people, who are measured once, so that nothing "
                    "flickers. each frame: unrelated poses, every one is measured alone.",
                ),
            ],
            outputs=[PoseKeypoint.Output("pose", tooltip="The pose with the person's limbs, on the same canvas.")],
        )

    @classmethod
    def execute(cls, pose: Any, source_pose: Any, take: str, keep: str, measure: str) -> io.NodeOutput:
        target, source = agreed(read_poses(pose, "pose"), read_poses(source_pose, "source_pose"))
        return io.NodeOutput(
            write_poses(retarget_pose(target, source, take == SIZES[1], keep, measure == MEASURES[0], asked_to_stop))
        )


class EditPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMEditPose",
            display_name="Edit Pose",
            category=CATEGORY,
            description="Mirrors, scales, turns and moves people in a pose around their own middle, and moves or "
            "removes one of their joints. The canvas stays.",
            search_aliases=["move pose", "flip pose", "mirror skeleton", "rotate pose", "scale pose", "remove joint"],
            inputs=[
                PoseKeypoint.Input("pose", tooltip="The poses; every frame is edited alike."),
                io.Int.Input(
                    "person", default=-1, min=-1, max=999, tooltip="Who is edited, counted from 0; -1 is everybody."
                ),
                io.Combo.Input(
                    "flip",
                    options=list(FLIPS),
                    default=FLIPS[0],
                    tooltip="Mirrors left and right, with the names of the joints swapped: at each person's "
                    "own middle, or at the middle of the canvas.",
                ),
                io.Float.Input(
                    "scale",
                    default=1.0,
                    min=0.01,
                    max=100.0,
                    step=0.01,
                    tooltip="Makes people larger or smaller around their middle.",
                ),
                io.Float.Input(
                    "rotate",
                    default=0.0,
                    min=-360.0,
                    max=360.0,
                    step=1.0,
                    tooltip="Turns people around their middle, in degrees, clockwise.",
                ),
                io.Float.Input(
                    "move_x",
                    default=0.0,
                    min=-FAR,
                    max=FAR,
                    step=1.0,
                    tooltip="Moves people to the right, in pixels of the canvas.",
                ),
                io.Float.Input(
                    "move_y",
                    default=0.0,
                    min=-FAR,
                    max=FAR,
                    step=1.0,
                    tooltip="Moves people down, in pixels of the canvas.",
                ),
                io.Combo.Input(
                    "joint",
                    options=[NO_JOINT, *OPENPOSE18],
                    default=NO_JOINT,
                    tooltip="A joint to move or remove at last; left and right are the person's own.",
                ),
                io.Combo.Input(
                    "joint_action",
                    options=list(ACTIONS),
                    default=ACTIONS[0],
                    tooltip="Move the joint by joint_x and joint_y or remove it: with what hangs on it, as "
                    "a hand on an elbow, or alone.",
                ),
                io.Float.Input(
                    "joint_x",
                    default=0.0,
                    min=-FAR,
                    max=FAR,
                    step=1.0,
                    tooltip="Moves the joint to the right, in pixels of the canvas.",
                ),
                io.Float.Input(
                    "joint_y",
                    default=0.0,
                    min=-FAR,
                    max=FAR,
                    step=1.0,
                    tooltip="Moves the joint down, in pixels of the canvas.",
                ),
            ],
            outputs=[PoseKeypoint.Output("pose", tooltip="The edited poses, with everybody in them.")],
        )

    @classmethod
    def execute(
        cls,
        pose: Any,
        person: int,
        flip: str,
        scale: float,
        rotate: float,
        move_x: float,
        move_y: float,
        joint: str,
        joint_action: str,
        joint_x: float,
        joint_y: float,
    ) -> io.NodeOutput:
        poses = read_poses(pose, "pose", allow_nobody=True)
        who = None if person < 0 else person
        if any(len(frame.joints) for frame in poses):
            has_person(poses, who)
        remove, limb = joint_action.startswith("remove"), joint_action.endswith("limb")
        edited = []
        for frame in poses:
            asked_to_stop()
            frame = edit_people(frame, who, (move_x, move_y), scale, rotate, flip)
            edited.append(
                frame if joint == NO_JOINT else edit_joint(frame, joint, (joint_x, joint_y), remove, limb, who)
            )
        return io.NodeOutput(write_poses(edited))


class InterpolatePoses(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="RePoseDMInterpolatePoses",
            display_name="Interpolate Poses",
            category=CATEGORY,
            description="Makes a batch of poses between two, or through all frames of a sequence: a short animation in "
            "which limbs turn and do not shrink.",
            search_aliases=[
                "animate",
                "animation",
                "pose video",
                "pose animation",
                "tween",
                "inbetween",
                "pose sequence",
                "morph pose",
                "keyframes",
            ],
            inputs=[
                PoseKeypoint.Input("pose", tooltip="The first pose, or a sequence of poses to go through."),
                io.Int.Input(
                    "frames",
                    default=16,
                    min=1,
                    max=4096,
                    tooltip="How many poses come out, the first and the last among them.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=METHODS[0],
                    tooltip="limb angles: limbs turn and keep their lengths. straight lines: every joint "
                    "moves on a line, and limbs that turn far shrink on the way.",
                ),
                io.Combo.Input(
                    "easing",
                    options=list(EASINGS),
                    default=EASINGS[0],
                    tooltip="even: at one speed. ease: slow at the beginning, at the end, or at both.",
                ),
                io.Combo.Input(
                    "match",
                    options=list(MATCHES),
                    default=MATCHES[0],
                    tooltip="Who is who in the next pose, where there are several people: whoever is "
                    "nearest, or first with first and second with second.",
                ),
                io.Boolean.Input(
                    "loop",
                    default=False,
                    tooltip="Go back to the first pose after the last one, so that the frames repeat smoothly.",
                ),
                PoseKeypoint.Input(
                    "end_pose", optional=True, tooltip="The last pose; its frames follow those of the first input."
                ),
            ],
            outputs=[PoseKeypoint.Output("pose", tooltip="The batch of poses, on the canvas of the first.")],
        )

    @classmethod
    def execute(
        cls, pose: Any, frames: int, method: str, easing: str, match: str, loop: bool, end_pose: Any = None
    ) -> io.NodeOutput:
        poses = read_poses(pose, "pose")
        if end_pose is not None:
            poses += read_poses(end_pose, "end_pose")
        (poses,) = agreed(poses)
        return io.NodeOutput(write_poses(interpolate_poses(poses, frames, method, easing, match, loop, asked_to_stop)))

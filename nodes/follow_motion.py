"""Follow Motion (no adapter)."""

from __future__ import annotations

import uuid

import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io
from torch import Tensor

from ..echoreel_core.errors import EchoReelError
from ..echoreel_core.guide.course import Fade
from ..echoreel_core.guide.gradient import MotionLoss
from .sampling.guidance import GuidancePatch

MOTION, MOTION_AND_PLACE = "motion only", "motion and place"
FOLLOW = [MOTION, MOTION_AND_PLACE]


class FollowMotion(io.ComfyNode):
    """Guides any video model by a clip, with nothing that was trained for it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EchoReelFollowMotion",
            display_name="Follow Motion (no adapter)",
            category="EchoReel",
            description=(
                "Makes any video model follow how a clip moves, without an adapter and without training. It keeps the "
                "clip's place and pace: what moves on the left there moves on the left here. If there is an EchoReel "
                "adapter for your model, Apply EchoReel takes only the action from the clip. Needs no extra pass of "
                "the model."
            ),
            search_aliases=[
                "motion transfer",
                "motion control",
                "flowmotion",
                "motion guidance",
                "training-free",
                "v2v",
                "vid2vid",
                "video to video",
                "mimic motion",
                "copy motion",
                "copy movement",
                "pose",
                "dance",
                "animate",
                "controlnet",
            ],
            inputs=[
                io.Model.Input("model", tooltip="Any video model, with LoRAs and other patches if you like."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.Image.Input(
                    "frames",
                    tooltip=(
                        "The clip to follow, from Load Reference Video or Place Reference. It is stretched to the "
                        "length of your video and fills its picture; what does not fit is cut off."
                    ),
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=3.0,
                    step=0.01,
                    tooltip=(
                        "How closely the video follows the clip. Lower leaves the model more freedom, and 0 is off. "
                        "Well above 1, shapes of the clip begin to show, and soon the clip is copied."
                    ),
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip=(
                        "When in the sampling it begins. Motion is decided in the first steps, so 0 is almost always "
                        "right."
                    ),
                ),
                io.Float.Input(
                    "end_percent",
                    default=0.25,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip=(
                        "When in the sampling it has faded out. Later follows the clip more closely, its looks "
                        "included. The strength is spread over this range, so more steps do not make it stronger; of "
                        "4 steps, only the first is in it."
                    ),
                ),
                io.Combo.Input(
                    "follow",
                    options=FOLLOW,
                    default=MOTION,
                    tooltip=(
                        "motion only: follows what changes in the clip, and only where something moves; a clip in "
                        "which nothing moves has no effect. motion and place: also follows what stands still, so more "
                        "of the clip's layout and colours comes along."
                    ),
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "Where in your video the motion applies: white fully, grey half, black not at all. One mask "
                        "for the whole video, or several that are spread over it."
                    ),
                ),
            ],
            outputs=[io.Model.Output(tooltip="The same model, following the clip.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        vae,
        frames: Tensor,
        strength: float,
        start_percent: float,
        end_percent: float,
        follow: str,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        return io.NodeOutput(follow_motion(model, vae, frames, strength, start_percent, end_percent, follow, mask))


def follow_motion(
    model,
    vae,
    frames: Tensor,
    strength: float = 1.0,
    start_percent: float = 0.0,
    end_percent: float = 0.25,
    follow: str = MOTION,
    mask: Tensor | None = None,
):
    """A clone of `model` that follows the frames [S, H, W, 3 or 4]; `model` itself is not touched.

    Raises: EchoReelError where the frames are fewer than two, or hold NaN or infinity.
    """
    if len(frames) < 2:
        raise EchoReelError(
            f"Follow Motion needs a clip, the reference holds {len(frames)} frame: connect at least 2 frames."
        )
    if not torch.isfinite(frames).all():
        raise EchoReelError("The reference of Follow Motion holds NaN or infinity: check the frames that lead into it.")
    patched = model.clone()
    if strength == 0.0 or start_percent >= end_percent:
        return patched
    patch = GuidancePatch(
        key=f"echoreel_guide_{uuid.uuid4().hex}",
        vae=vae,
        frames=frames,
        loss=MotionLoss(keeps_mean=follow == MOTION_AND_PLACE),
        strength=strength,
        fade=Fade(start_percent, end_percent),
        moving_only=follow == MOTION,
        mask=mask,
    )
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, patch.key, patch.outer_sample)
    patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, patch.key, patch.sampler_sample)
    patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, patch.key, patch.predict_noise)
    return patched


NODES = [FollowMotion]

"""Apply EchoReel."""

from __future__ import annotations

import uuid

from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io
from torch import Tensor

from ..echoreel_core.action.action import Action
from ..echoreel_core.action.compiled import uncompiled
from ..echoreel_core.errors import EchoReelError
from .action_prism_encode import NO_ECHOREEL
from .families import find_family
from .models.adapter import LoadedAdapter
from .sampling.control import BLOCKS, CUSTOM, OWN_PACE, STEPS, STRETCH, TIMINGS, Control, curve, spread
from .sampling.patch import ActionPatch, check_fit
from .wires import ActionWire, EchoReelWire


class ApplyEchoReel(io.ComfyNode):
    """Adds an action to a model's attention and outputs a stock MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EchoReelApply",
            display_name="Apply EchoReel",
            category="EchoReel",
            description=(
                "Makes the video model perform the action. The input model does not change; the output model works "
                "with every sampler. Apply twice to add two actions on top of each other."
            ),
            search_aliases=[
                "echoreel",
                "motion transfer",
                "motion control",
                "mimic motion",
                "copy motion",
                "copy movement",
                "motion capture",
                "mocap",
                "reenactment",
                "retarget",
                "action",
                "pose",
                "gesture",
                "choreography",
                "dance",
                "animate",
                "animate character",
                "controlnet",
                "v2v",
                "vid2vid",
                "video to video",
            ],
            inputs=[
                io.Model.Input("model", tooltip="The video model, with LoRAs and other patches if you like."),
                EchoReelWire.Input("echoreel", tooltip="The EchoReel adapter trained for this model."),
                ActionWire.Input("action", tooltip="From Action Prism Encode, Combine Actions or Load Action."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip=(
                        "How strongly the video follows the action. 1 is as trained. Higher values follow it more "
                        "closely and eventually break the picture; lower values leave more to the model; 0 changes "
                        "nothing. With few-step models (4 steps, cfg 1), leave it at 1: more gains nothing and soon "
                        "breaks the picture."
                    ),
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip=(
                        "When the action starts during sampling. The later it starts, the more the model has already "
                        "laid out without it. Motion is decided early, so 0 is almost always right. With few-step "
                        "models (4 steps), leave it at 0: without its first step, the action is lost."
                    ),
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip=(
                        "When the action ends during sampling. Ending earlier, for example at 0.6, keeps the motion, "
                        "leaves fine detail to the model, and takes less time. With few-step models (4 steps), leave "
                        "out the last step at most: 0.7."
                    ),
                ),
                io.Combo.Input(
                    "timing",
                    options=TIMINGS,
                    default=STRETCH,
                    optional=True,
                    tooltip=(
                        "How the reference's time maps to your clip's. Stretched over the clip: the action begins and "
                        "ends with your clip, faster or slower. At its own pace: it lasts as long as in the reference;"
                        " after that, the model runs without it."
                    ),
                ),
                io.Float.Input(
                    "start_second",
                    default=0.0,
                    min=0.0,
                    max=100000.0,
                    step=0.05,
                    optional=True,
                    tooltip=(
                        "When the action begins in the clip, in seconds; before that, the model runs without it. With "
                        "two Apply EchoReel in a row, one can run from 0 to 2 and the other can jump from 2 to 4."
                    ),
                ),
                io.Float.Input(
                    "end_second",
                    default=0.0,
                    min=0.0,
                    max=100000.0,
                    step=0.05,
                    optional=True,
                    tooltip="When the action ends in the clip, in seconds. 0 means the end of the clip.",
                ),
                io.Float.Input(
                    "fps",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Frames per second of the video you make, used to convert seconds to frames. 0 uses the rate "
                        "the model was made for."
                    ),
                ),
                io.Float.Input(
                    "reference_fps",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Frames per second of the loaded reference (the fps of Load Reference Video), for an action at"
                        " its own pace. 0 uses the rate of the video."
                    ),
                ),
                io.Combo.Input(
                    "steps",
                    options=[*STEPS, CUSTOM],
                    default="constant",
                    optional=True,
                    tooltip=(
                        "How the strength changes from the most noise to none, along the model's own schedule: two "
                        "samplers that share the steps of a clip share the curve. Strong early steps give more of the "
                        "action; strong late steps give more of its detail."
                    ),
                ),
                io.String.Input(
                    "step_strengths",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "For steps: custom. Factors separated by commas, spread evenly over the steps: 1, 1, 0.3 is "
                        "full strength until the middle and then fades."
                    ),
                ),
                io.Combo.Input(
                    "blocks",
                    options=[*BLOCKS, CUSTOM],
                    default="all",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Which of the model's blocks receive the action. Early blocks lay out the scene and its "
                        "motion, late blocks its detail. Blocks without the action cost no time."
                    ),
                ),
                io.String.Input(
                    "block_strengths",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "For blocks: custom. Factors separated by commas, spread evenly from the first block to the "
                        "last: 1, 0.5, 0. With as many numbers as blocks, each block gets its own."
                    ),
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "Where in the picture the action applies: fully where the mask is white, half where it is "
                        "grey. Use one mask for the whole clip, or several that are spread over it."
                    ),
                ),
                io.Float.Input(
                    "clip_start_second",
                    default=0.0,
                    min=0.0,
                    max=100000.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Where in a longer clip this sampler begins, in seconds, when you make that clip in parts. "
                        "The action continues there instead of starting again. Set clip_seconds too."
                    ),
                ),
                io.Float.Input(
                    "clip_seconds",
                    default=0.0,
                    min=0.0,
                    max=100000.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="How long that longer clip is, in seconds. 0 means that this sampler makes the whole clip.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[io.Model.Output(tooltip="The same model, performing the action.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        echoreel: LoadedAdapter | None,
        action: Action,
        strength: float,
        start_percent: float,
        end_percent: float,
        timing: str = STRETCH,
        start_second: float = 0.0,
        end_second: float = 0.0,
        fps: float = 0.0,
        reference_fps: float = 0.0,
        steps: str = "constant",
        step_strengths: str = "",
        blocks: str = "all",
        block_strengths: str = "",
        mask: Tensor | None = None,
        clip_start_second: float = 0.0,
        clip_seconds: float = 0.0,
    ) -> io.NodeOutput:
        if echoreel is None:
            raise EchoReelError(NO_ECHOREEL)
        if start_percent > end_percent:
            raise EchoReelError(
                f"start_percent is {start_percent:g} and end_percent {end_percent:g}: the action must end after it "
                "starts."
            )
        if clip_start_second >= clip_seconds and (clip_start_second or clip_seconds):
            raise EchoReelError(
                f"This part begins at {clip_start_second:g} seconds of a clip of {clip_seconds:g}: set clip_seconds to "
                "the whole clip's length, which is longer than that."
            )
        if end_second and end_second <= start_second:
            raise EchoReelError(
                f"The action ends at {end_second:g} s but begins at {start_second:g} s: set a later end, or 0 for the "
                "end of the clip."
            )
        block_curve = curve(blocks, BLOCKS, block_strengths, "block_strengths")
        control = Control(
            span=(start_second, end_second),
            own_pace=timing == OWN_PACE,
            fps=fps,
            reference_fps=reference_fps,
            block_factors=spread(block_curve, len(echoreel.config.sites)),
            step_factors=curve(steps, STEPS, step_strengths, "step_strengths"),
            mask=mask,
            clip_start=clip_start_second,
            clip_length=clip_seconds,
        )
        node_id = cls.hidden.unique_id if cls.hidden else None
        return io.NodeOutput(
            apply_action(model, echoreel, action, strength, start_percent, end_percent, control, node_id)
        )


def apply_action(
    model,
    echoreel: LoadedAdapter,
    action: Action,
    strength: float,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    control: Control | None = None,
    node_id: str | None = None,
):
    """A clone of `model` with the action in its attention; `model` itself is not touched.

    Raises: EchoReelError if model, adapter and action do not belong together.
    """
    config = echoreel.config
    diffusion_model = uncompiled(model.get_model_object("diffusion_model"))
    family = find_family(diffusion_model)
    if config.host != family.name:
        raise EchoReelError(
            f"The EchoReel adapter was trained for {config.host!r} models, but the connected model is "
            f"{family.title} ({family.name!r}): use an adapter that was trained for it."
        )
    check_fit(family, diffusion_model, {site.name: site.dim for site in config.sites})
    channels = family.video_channels or model.get_model_object("latent_format").latent_channels
    if channels != config.prism.latent_channels:
        raise EchoReelError(
            f"The EchoReel adapter was trained on latents with {config.prism.latent_channels} channels, but this "
            f"{family.title} model has {channels}: use the adapter made for it."
        )
    if not echoreel.made(action):
        raise EchoReelError(
            f"The action was made with the EchoReel adapter {action.adapter_id}, but {echoreel.id} is connected here: "
            "encode the reference with the adapter you apply."
        )
    patched = model.clone()
    if strength == 0.0 or start_percent >= end_percent:
        return patched
    key = f"echoreel_{uuid.uuid4().hex}"
    attentions = echoreel.attentions.clone()
    patch = ActionPatch(
        key=key,
        family=family,
        sites=tuple(site.name for site in config.sites),
        attentions=attentions,
        action=action,
        strength=strength,
        start_percent=start_percent,
        end_percent=end_percent,
        control=control or Control(),
        node_id=node_id,
    )
    patched.set_additional_models(key, [attentions])
    patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, key, patch.sampling)
    patched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, key, patch.batch)
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, key, patch.model_call)
    return patched


NODES = [ApplyEchoReel]

"""Apply EchoReel."""

from __future__ import annotations

import uuid

from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io

from ..echoreel_core.action import Action
from .action_prism_encode import NO_ECHOREEL
from .control import Control
from .hosts import find_host
from .loaded_adapter import LoadedAdapter
from .patch import ActionPatch, check_fit, uncompiled
from .wires import ActionWire, EchoReelWire


class ApplyEchoReel(io.ComfyNode):
    """Brings an action into a model's attention; hands on a stock MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EchoReelApply",
            display_name="Apply EchoReel",
            category="EchoReel",
            description=(
                "Makes the video model perform the action. The model that goes in is left as it was; the one that "
                "comes out works with every sampler. Apply twice to bring in two actions on top of each other."
            ),
            search_aliases=["echoreel", "motion transfer", "action"],
            inputs=[
                io.Model.Input("model", tooltip="The video model."),
                EchoReelWire.Input("echoreel", tooltip="The EchoReel that was trained for this model."),
                ActionWire.Input("action", tooltip="From Action Prism Encode, Combine Actions or Load Action."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip=(
                        "How firmly the video follows the action. 1 is as trained; less leaves the model more of its "
                        "own ideas, 0 leaves it entirely alone."
                    ),
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="When in the sampling the action sets in. Motion is decided early, so leave this at 0.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="When it ends. Earlier, like 0.6, frees the fine detail while the motion stays.",
                ),
            ],
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
    ) -> io.NodeOutput:
        if echoreel is None:
            raise ValueError(NO_ECHOREEL)
        return io.NodeOutput(apply_action(model, echoreel, action, strength, start_percent, end_percent))


def apply_action(
    model,
    echoreel: LoadedAdapter,
    action: Action,
    strength: float,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    control: Control | None = None,
):
    """A clone of `model` with the action in its attention; `model` itself is not touched.

    Raises: ValueError in one sentence where model, adapter and action do not belong together.
    """
    config = echoreel.config
    diffusion_model = uncompiled(model.get_model_object("diffusion_model"))
    host = find_host(diffusion_model)
    if config.host != host.family:
        raise ValueError(
            f"The EchoReel adapter was trained for {config.host!r} models, the model that is connected is {host.title} "
            f"({host.family!r}): use an adapter that was trained for it."
        )
    check_fit(host, diffusion_model, {site.name: site.dim for site in config.sites})
    channels = host.video_channels or model.get_model_object("latent_format").latent_channels
    if channels != config.prism.latent_channels:
        raise ValueError(
            f"The EchoReel adapter was trained on latents of {config.prism.latent_channels} channels, this "
            f"{host.title} model has {channels}: use the adapter made for it."
        )
    if action.adapter_id != echoreel.id:
        raise ValueError(
            f"The action was made with another EchoReel adapter ({action.adapter_id}) than the one connected here "
            f"({echoreel.id}): encode the reference with the one you apply."
        )
    patched = model.clone()
    if strength == 0.0 or start_percent >= end_percent:
        return patched
    key = f"echoreel_{uuid.uuid4().hex}"
    attentions = echoreel.attentions.clone()
    patch = ActionPatch(
        key=key,
        host=host,
        sites=tuple(site.name for site in config.sites),
        attentions=attentions,
        action=action,
        strength=strength,
        start_percent=start_percent,
        end_percent=end_percent,
        control=control or Control(),
    )
    patched.set_additional_models(key, [attentions])
    patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, key, patch.sampling)
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, key, patch.model_call)
    return patched


NODES = [ApplyEchoReel]

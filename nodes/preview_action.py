"""Preview Action."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ..echoreel_core.action.action import Action
from ..echoreel_core.action.motion import action_motion
from ..echoreel_core.errors import EchoReelError
from .action_prism_encode import NO_ECHOREEL
from .models.adapter import LoadedAdapter
from .pictures.action_preview import draw_motion
from .wires import ActionWire, EchoReelWire


class PreviewAction(io.ComfyNode):
    """Where and when the action's features change, over the clip it came from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EchoReelPreviewAction",
            display_name="Preview Action",
            category="EchoReel",
            description=(
                "Shows what the prism took from a reference clip: frame by frame, lit up where the action changes, "
                "and below it how much, from the first frame to the last. Where little is lit, little was taken."
            ),
            search_aliases=["action heatmap", "motion curve", "show action", "debug action"],
            is_output_node=True,
            inputs=[
                ActionWire.Input("action", tooltip="From Action Prism Encode, Combine Actions or Load Action."),
                EchoReelWire.Input("echoreel", tooltip="The EchoReel that the action was made with."),
                io.Image.Input(
                    "frames", tooltip="The reference clip that went into Action Prism Encode: the same frames."
                ),
                io.Int.Input(
                    "reference",
                    default=1,
                    min=1,
                    max=256,
                    optional=True,
                    tooltip="Which clip of a combined action to show, 1 being the first. The frames must be its own.",
                ),
            ],
            outputs=[io.Image.Output(display_name="picture", tooltip="The picture that is shown.")],
        )

    @classmethod
    def execute(
        cls, action: Action, echoreel: LoadedAdapter | None, frames: Tensor, reference: int = 1
    ) -> io.NodeOutput:
        if echoreel is None:
            raise EchoReelError(NO_ECHOREEL)
        if not echoreel.made(action):
            raise EchoReelError(
                f"The action was made with another EchoReel adapter ({action.adapter_id}) than the one connected here "
                f"({echoreel.id}): connect the one it was encoded with."
            )
        references = action.references
        if reference > len(references):
            raise EchoReelError(f"The action holds {len(references)} references, there is no number {reference}.")
        shown = references[reference - 1]
        count = shown.source.get("frames", len(frames))
        if count != len(frames):
            raise EchoReelError(
                f"The action was taken from {count} frames, {len(frames)} are connected: connect the ones that went "
                "into Action Prism Encode."
            )
        motion = action_motion(shown.positive[0], echoreel.config.prism.grid)
        picture = draw_motion(frames, motion)
        return io.NodeOutput(picture, ui=ui.PreviewImage(picture, cls=cls))


NODES = [PreviewAction]

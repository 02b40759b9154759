"""Preview Action."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ..echoreel_core.action.action import Action
from ..echoreel_core.action.motion import action_motion
from ..echoreel_core.errors import EchoReelError, counted
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
                "Shows what the prism extracted from a reference clip: its frames, lit where the action changes, and "
                "below them a curve of how much it changes over time. If little is lit, little was extracted."
            ),
            search_aliases=["action heatmap", "motion curve", "show action", "debug action"],
            is_output_node=True,
            inputs=[
                ActionWire.Input("action", tooltip="From Action Prism Encode, Combine Actions or Load Action."),
                EchoReelWire.Input("echoreel", tooltip="The EchoReel adapter that made the action."),
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
            outputs=[io.Image.Output(display_name="picture", tooltip="The picture shown on the node.")],
        )

    @classmethod
    def execute(
        cls, action: Action, echoreel: LoadedAdapter | None, frames: Tensor, reference: int = 1
    ) -> io.NodeOutput:
        if echoreel is None:
            raise EchoReelError(NO_ECHOREEL)
        if not echoreel.made(action):
            raise EchoReelError(
                f"The action was made with the EchoReel adapter {action.adapter_id}, but {echoreel.id} is connected "
                "here: connect the adapter it was encoded with."
            )
        references = action.references
        if reference > len(references):
            raise EchoReelError(
                f"There is no reference {reference}: the action has {counted(len(references), 'reference')}. Choose a "
                "lower number."
            )
        shown = references[reference - 1]
        count = shown.source.get("frames", len(frames))
        if count != len(frames):
            raise EchoReelError(
                f"The action was made from {counted(count, 'frame')}, but the connected clip has {len(frames)}: "
                "connect the frames that went into Action Prism Encode."
            )
        motion = action_motion(shown.positive[0], echoreel.config.prism.grid)
        picture = draw_motion(frames, motion)
        return io.NodeOutput(picture, ui=ui.PreviewImage(picture, cls=cls))


NODES = [PreviewAction]

"""Combine Actions."""

from __future__ import annotations

from comfy_api.latest import io

from ..echoreel_core.action import Action, combine
from .wires import ActionWire

MOST_ACTIONS = 16


def parse_weights(text: str, count: int) -> list[float]:
    """One weight per action from "1, 0.5, …"; all 1 where the text is empty.

    Raises: ValueError where it is no list of numbers, or of another length.
    """
    if not text.strip():
        return [1.0] * count
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"The weights are {text!r}: write numbers with commas between, like 1, 0.5") from None
    if len(weights) != count:
        raise ValueError(f"There are {count} actions but {len(weights)} weights ({text}): write one for each.")
    return weights


class CombineActions(io.ComfyNode):
    """Several references at once."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        actions = io.Autogrow.TemplatePrefix(ActionWire.Input("action"), prefix="action_", min=2, max=MOST_ACTIONS)
        return io.Schema(
            node_id="EchoReelCombineActions",
            display_name="Combine Actions",
            category="EchoReel",
            description="Brings several reference actions together into one, for Apply EchoReel.",
            search_aliases=["blend actions", "merge actions", "several references"],
            inputs=[
                io.Autogrow.Input("actions", template=actions),
                io.Combo.Input(
                    "how",
                    options=["attend to all", "blend"],
                    default="attend to all",
                    tooltip=(
                        "attend to all: the video looks at all clips together and takes at each moment what fits best; "
                        "right for several clips of the same action. "
                        "blend: a mixture of the actions in the proportion of the weights."
                    ),
                ),
                io.String.Input(
                    "weights",
                    default="",
                    tooltip="How much each action counts, with commas between: 1, 0.5. Empty: all the same.",
                ),
            ],
            outputs=[ActionWire.Output(display_name="action")],
        )

    @classmethod
    def execute(cls, actions: dict[str, Action], how: str, weights: str) -> io.NodeOutput:
        connected = [action for action in actions.values() if action is not None]
        return io.NodeOutput(combine(connected, how, parse_weights(weights, len(connected))))


NODES = [CombineActions]

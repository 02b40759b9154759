"""Combine Actions."""

from __future__ import annotations

from comfy_api.latest import io

from ..echoreel_core.action.action import Action
from ..echoreel_core.action.combine import combine
from ..echoreel_core.errors import EchoReelError, counted
from .wires import ActionWire

MOST_ACTIONS = 16
SEQUENCE = "one after another"


def parse_weights(text: str, count: int) -> list[float]:
    """One weight per action from "1, 0.5, …"; all 1 if the text is empty.

    Raises: EchoReelError if it is not a list of numbers, or has another length.
    """
    if not text.strip():
        return [1.0] * count
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        raise EchoReelError(
            f"The weights are {text!r}: write numbers separated by commas, for example 1, 0.5."
        ) from None
    if len(weights) != count:
        raise EchoReelError(
            f"Got {counted(len(weights), 'weight')} ({text}) for {counted(count, 'action')}: write one weight for each "
            "action."
        )
    return weights


class CombineActions(io.ComfyNode):
    """Several references at once, or one after another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        action = ActionWire.Input(
            "action", tooltip=("From Action Prism Encode or Load Action. Connecting it adds another socket.")
        )
        actions = io.Autogrow.TemplatePrefix(action, prefix="action_", min=2, max=MOST_ACTIONS)
        return io.Schema(
            node_id="EchoReelCombineActions",
            display_name="Combine Actions",
            category="EchoReel",
            description=(
                "Combines several reference actions into one for Apply EchoReel: all at once, as a mixture, or one "
                "after another. The result can be combined again."
            ),
            search_aliases=["blend actions", "merge actions", "several references", "sequence", "crossfade"],
            inputs=[
                io.Autogrow.Input(
                    "actions",
                    template=actions,
                    tooltip=(
                        "The actions to combine, from Action Prism Encode or Load Action. Each connected action adds "
                        "another socket."
                    ),
                ),
                io.Combo.Input(
                    "how",
                    options=["attend to all", "blend", SEQUENCE],
                    default="attend to all",
                    tooltip=(
                        "attend to all: the video attends to all clips together and takes what fits best at each "
                        "moment; use it for several clips of the same action. blend: mixes the actions in proportion "
                        "to the weights. one after another: first this action, then the next; the weights set how long"
                        " each lasts."
                    ),
                ),
                io.String.Input(
                    "weights",
                    default="",
                    advanced=True,
                    tooltip=(
                        "All weights at once, separated by commas: 1, 0.5. They multiply the weights set for each "
                        "action. Empty changes nothing."
                    ),
                ),
                io.Float.Input(
                    "crossfade",
                    default=0.2,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip=(
                        "For one after another: how long the change from one action to the next takes, as a fraction "
                        "of the clip. Higher is softer: 0.2 takes a fifth of the clip, 0 changes at once. It is never "
                        "longer than the shorter of the two actions."
                    ),
                ),
                *(
                    io.Float.Input(
                        f"weight_{index}",
                        default=1.0,
                        min=0.0,
                        max=100.0,
                        step=0.05,
                        optional=True,
                        tooltip=(
                            f"How much action_{index} counts relative to the others; for one after another, how long "
                            "it lasts. 2 counts twice as much as 1; 0 leaves the action out."
                        ),
                    )
                    for index in range(MOST_ACTIONS)
                ),
            ],
            outputs=[ActionWire.Output(display_name="action", tooltip="For Apply EchoReel.")],
        )

    @classmethod
    def execute(
        cls, actions: dict[str, Action], how: str, weights: str, crossfade: float = 0.2, **weight: float
    ) -> io.NodeOutput:
        connected = {name: action for name, action in actions.items() if action is not None}
        own = [weight.get(name.replace("action", "weight"), 1.0) for name in connected]
        further = parse_weights(weights, len(connected))
        both = [a * b for a, b in zip(own, further, strict=True)]
        return io.NodeOutput(combine(list(connected.values()), how, both, crossfade))


NODES = [CombineActions]

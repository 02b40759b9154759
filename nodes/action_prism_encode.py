"""Action Prism Encode."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor

from ..echoreel_core.action.action import Action, Reference
from ..echoreel_core.action.prism import ActionPrism, check_finite
from ..echoreel_core.errors import EchoReelError
from .families import family_named
from .models.adapter import LoadedAdapter
from .wires import ActionWire, EchoReelWire

NO_ECHOREEL = (
    "The connected checkpoint has no EchoReel in it: it is the base model alone. "
    "Load one that has it, or connect Load EchoReel Adapter."
)


class ActionPrismEncode(io.ComfyNode):
    """Distils the action of one reference clip, once for the positive and once for the negative prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EchoReelActionPrismEncode",
            display_name="Action Prism Encode",
            category="EchoReel",
            description=(
                "Watches a reference clip and extracts the action: what moves and how, not what it looks like. The "
                "result works with every seed; the node only runs again for another clip, caption or prompt."
            ),
            search_aliases=[
                "encode action",
                "reference video",
                "video reference",
                "motion transfer",
                "mimic motion",
                "copy motion",
                "choreography",
                "pose",
                "gesture",
                "dance",
                "v2v",
            ],
            inputs=[
                EchoReelWire.Input("echoreel", tooltip="From Load EchoReel Checkpoint or Load EchoReel Adapter."),
                io.Vae.Input("vae", tooltip="The VAE of the video model."),
                io.Clip.Input("clip", tooltip="The text encoder of the video model. It reads the caption."),
                io.Image.Input("frames", tooltip="The reference clip, from Load Reference Video."),
                io.String.Input(
                    "caption",
                    default="",
                    multiline=True,
                    tooltip="What happens in the reference clip, in a few words: 'a man jumping on a beach'.",
                ),
                io.Conditioning.Input("positive", tooltip="The prompt of the video you want, as the sampler gets it."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, as the sampler gets it."),
                io.String.Input(
                    "info",
                    optional=True,
                    force_input=True,
                    tooltip=(
                        "The info of Load Reference Video. It is saved with the action, so that you know its source."
                    ),
                ),
            ],
            outputs=[ActionWire.Output(display_name="action", tooltip="For Apply EchoReel.")],
        )

    @classmethod
    def execute(
        cls,
        echoreel: LoadedAdapter | None,
        vae,
        clip,
        frames: Tensor,
        caption: str,
        positive: list,
        negative: list,
        info: str | None = None,
    ) -> io.NodeOutput:
        if echoreel is None:
            raise EchoReelError(NO_ECHOREEL)
        latents = reference_latents(echoreel, vae, frames)
        caption_tokens = clip.encode_from_tokens(clip.tokenize(caption))
        source = {"caption": caption, "frames": frames.shape[0], **({"info": info} if info else {})}
        tokens = _run_prism(echoreel, latents, caption_tokens, [positive, negative])
        reference, host = Reference(*tokens, source=source), echoreel.config.host
        return io.NodeOutput(Action.of(reference, echoreel.id, host, echoreel.former_id))


def reference_latents(echoreel: LoadedAdapter, vae, frames: Tensor) -> Tensor:
    """Encodes a reference clip as the prism takes it.

    Args:
        frames: [T, H, W, 3 or 4] in 0 … 1; stretched to the prism's size if they differ from it. Where the VAE takes
            frames in groups, T is brought to the nearest whole number of them: the last frame held, or left out.

    Returns: [1, C, T', H', W'], scaled as the host's model takes latents; T' < T where the VAE compresses time.
    Raises: EchoReelError if the frames contain NaN or infinity, or the VAE belongs to another model.
    """
    check_finite(frames)
    prism = echoreel.config.prism
    factor = vae.spacial_compression_encode()
    height, width = (size * factor for size in prism.latent_size)
    frames = frames[torch.arange(_in_whole_groups(vae, len(frames))).clamp(max=len(frames) - 1), ..., :3]
    if frames.shape[1:3] != (height, width):
        frames = comfy.utils.common_upscale(frames.movedim(-1, 1), width, height, "area", "disabled").movedim(1, -1)
    latents = encode_frames(vae, frames)
    latents = family_named(echoreel.config.host).latent_format(latents.shape[1]).process_in(latents)
    check_finite(latents)
    return latents


def _in_whole_groups(vae, count: int) -> int:
    """The number nearest to `count` of which the VAE leaves none out: for most video VAEs, 4n + 1."""
    ratio = getattr(vae, "downscale_ratio", None)
    if not isinstance(ratio, tuple) or count < 2:
        return count
    latent_frames = ratio[0]
    near = (n for distance in range(count) for n in (count + distance, count - distance) if n > 0)
    return next((n for n in near if n == 1 or latent_frames(n) > latent_frames(n - 1)), count)


def encode_frames(vae, frames: Tensor) -> Tensor:
    """Frames [T, H, W, 3] through an image VAE or a video VAE → latents [1, C, T', H', W'], as the VAE gives them."""
    latents = vae.encode(frames)
    return latents.movedim(0, 1)[None] if latents.dim() == 4 else latents


def _run_prism(echoreel: LoadedAdapter, latents: Tensor, caption_tokens: Tensor, prompts: list[list]) -> list[Tensor]:
    """Action tokens [1, S, action_dim] per prompt, with progress and interrupt after each layer."""
    patcher = echoreel.prism
    prism: ActionPrism = patcher.model
    dtype = echoreel.prism_dtype
    tokens_in_all = latents.shape[2] * prism.config.grid[0] * prism.config.grid[1]
    activations = 24 * tokens_in_all * prism.config.width * dtype.itemsize  # the gated feed-forward at its widest
    comfy.model_management.load_models_gpu([patcher], memory_required=activations)
    device = patcher.load_device
    bar = comfy.utils.ProgressBar(len(prompts) * prism.config.depth)

    def progress(_done: int, _total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update(1)

    latents = latents.to(device, dtype)
    actions = []
    for prompt in prompts:
        text = _prism_text(prompt, caption_tokens).to(device, dtype)
        action = prism(latents.expand(text.shape[0], -1, -1, -1, -1), text, progress).to(
            comfy.model_management.intermediate_device(), torch.float32
        )
        check_finite(action)
        actions.append(action)
    return actions


def _prism_text(prompt: list, caption_tokens: Tensor) -> Tensor:
    """[B, L, text_width]: the prompt's tokens followed by the caption's.

    Raises: EchoReelError if they do not match.
    """
    tokens = prompt[0][0]
    if tokens.shape[-1] != caption_tokens.shape[-1]:
        raise EchoReelError(
            f"The prompt's text tokens are {tokens.shape[-1]} wide, but the caption's are {caption_tokens.shape[-1]}: "
            "connect the CLIP that encoded the prompts."
        )
    return torch.cat((tokens, caption_tokens.to(tokens).expand(tokens.shape[0], -1, -1)), dim=1)


NODES = [ActionPrismEncode]

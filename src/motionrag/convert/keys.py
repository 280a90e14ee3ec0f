"""Names in the published checkpoints to names in a bundle.

Three files a base: `motion_proj.ckpt` (motion resampler, bare), `motion_transformer.ckpt` (context
transformer, appearance resampler, perhaps the start token) and `Motion-Adapter.ckpt` (adapter sites; after
stage 3 also everything above under `condition_transformer.`; after stage 1 the resampler under
`action_proj_model.`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from motionrag.errors import MotionRAGError

_RESAMPLER = {
    r"layers\.(\d+)\.0\.norm1\.(weight|bias)": r"blocks.\1.attention.norm_features.\2",
    r"layers\.(\d+)\.0\.norm2\.(weight|bias)": r"blocks.\1.attention.norm_latents.\2",
    r"layers\.(\d+)\.0\.(to_q|to_kv|to_out)\.weight": r"blocks.\1.attention.\2.weight",
    r"layers\.(\d+)\.1\.0\.(weight|bias)": r"blocks.\1.feed_forward.norm.\2",
    r"layers\.(\d+)\.1\.1\.weight": r"blocks.\1.feed_forward.up.weight",
    r"layers\.(\d+)\.1\.3\.weight": r"blocks.\1.feed_forward.down.weight",
    r"(latents|(?:proj_in|proj_out|norm_out)\.(?:weight|bias))": r"\1",
}
_PARTS = {
    r"(?:condition_transformer\.)?condition_proj\.": "appearance_resampler.",
    r"(?:condition_transformer\.)?vision_proj\.": "motion_resampler.",
    r"action_proj_model\.": "motion_resampler.",
    r"": "motion_resampler.",
}
_CONTEXT = {
    r"(?:condition_transformer\.)?sos_token": r"context.start",
    r"(?:condition_transformer\.)?transformer\.(layers\.\d+\..+)": r"context.encoder.\1",
}
_SITES = {
    "cogvideox": r"transformer\.(transformer_blocks\.\d+\.attn1)\.processor\.(to_[qkv])_ip\.0\.weight",
    "svd": r"unet\.(.+\.attn2)\.processor\.(to_[qkv])_ip\.0\.weight",
    "dynamicrafter": r"model\.diffusion_model\.(.+\.attn2)\.(to_[qkv])_a\.weight",
}
WITHOUT_QUERIES = {"dynamicrafter"}
"""Bases whose released adapters hold no query projections: they were neither trained nor saved."""
_RECOMPUTED = {
    r"(?:condition_transformer\.)?(?:vision_model|condition_model)\.|action_embedder\.": (
        "a frozen encoder's weight; it loads from its own repository"
    ),
    r"(?:condition_transformer\.)?(?:vision_pe|condition_pe)\.": "a position table; it is computed",
}
_OF_THE_METHOD = (
    r"(?:condition_transformer|condition_proj|vision_proj|action_proj_model|transformer\.layers|transformer\.norm)\."
    r"|.+\.to_[qkv]_(?:ip|a)\."
)
_OF_THE_BASE = {
    r"(?:transformer|unet|vae|text_encoder|image_encoder|model\.diffusion_model|first_stage_model"
    r"|cond_stage_model|embedder|image_proj_model)\.": "a weight of the frozen base; it loads with the base",
    r"": "not of the method",
}


@dataclass(frozen=True)
class Target:
    """Where a published key goes."""

    name: str | None
    """Name in the bundle; None for a key that is dropped."""
    note: str = ""
    """Why it is dropped."""
    base: str | None = None
    """The base model that the key reveals."""
    site: str | None = None
    """The adapter site it belongs to."""


def target_of(key: str) -> Target:
    """The bundle's name for a published key, or the reason why it has none.

    Raises:
        MotionRAGError: If the key is one of the method's by its name, but not one the method has; leaving it
            out would give another model.
    """
    for base, pattern in _SITES.items():
        if match := re.fullmatch(pattern, key):
            site, projection = match.groups()
            name = f"adapter.sites.{site.replace('.', '/')}.{projection}.weight"
            return Target(name, base=base, site=site)
    for pattern, name in _CONTEXT.items():
        if match := re.fullmatch(pattern, key):
            return Target(match.expand(name))
    for prefix, part in _PARTS.items():
        for pattern, name in _RESAMPLER.items():
            if match := re.fullmatch(prefix + pattern, key):
                return Target(part + match.expand(name))
    for pattern, reason in _RECOMPUTED.items():
        if re.match(pattern, key):
            return Target(None, note=reason)
    if re.match(_OF_THE_METHOD, key):
        raise MotionRAGError(f"unknown weight {key!r}: another version of the method?")
    return Target(None, note=next(reason for pattern, reason in _OF_THE_BASE.items() if re.match(pattern, key)))

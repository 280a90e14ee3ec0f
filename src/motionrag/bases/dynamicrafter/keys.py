"""Names in the released DynamiCrafter checkpoints to names in our modules: one table for each part of the model."""

from __future__ import annotations

import re
from dataclasses import dataclass

PARTS = {
    "model.diffusion_model.": "unet",
    "image_proj_model.": "image_projection",
    "first_stage_model.": "vae",
    "cond_stage_model.model.": "text_encoder",
    "embedder.model.": "image_encoder",
}
"""What the released names of a part begin with."""

_TRANSFORMER = {  # one of OpenCLIP's to one of transformers'
    r"resblocks\.(\d+)\.ln_([12])\.(.+)": r"encoder.layers.\1.layer_norm\2.\3",
    r"resblocks\.(\d+)\.attn\.in_proj_(weight|bias)": r"encoder.layers.\1.self_attn.qkv_proj.\2",
    r"resblocks\.(\d+)\.attn\.out_proj\.(.+)": r"encoder.layers.\1.self_attn.out_proj.\2",
    r"resblocks\.(\d+)\.mlp\.c_fc\.(.+)": r"encoder.layers.\1.mlp.fc1.\2",
    r"resblocks\.(\d+)\.mlp\.c_proj\.(.+)": r"encoder.layers.\1.mlp.fc2.\2",
}
_BLOCK = r"((?:in|out)put_blocks\.\d+\.0|middle_block\.[03])\."
_NAMES = {
    "unet": {
        r"time_embed\.0\.(.+)": r"time_embed.linear_1.\1",
        r"time_embed\.2\.(.+)": r"time_embed.linear_2.\1",
        r"(?:fps_embedding|framestride_embed)\.0\.(.+)": r"rate_embed.linear_1.\1",
        r"(?:fps_embedding|framestride_embed)\.2\.(.+)": r"rate_embed.linear_2.\1",
        r"init_attn\.0\.(.+)": r"init_attn.\1",
        _BLOCK + r"in_layers\.0\.(.+)": r"\1.norm1.\2",
        _BLOCK + r"in_layers\.2\.(.+)": r"\1.conv1.\2",
        _BLOCK + r"emb_layers\.1\.(.+)": r"\1.time_emb_proj.\2",
        _BLOCK + r"out_layers\.0\.(.+)": r"\1.norm2.\2",
        _BLOCK + r"out_layers\.3\.(.+)": r"\1.conv2.\2",
        _BLOCK + r"skip_connection\.(.+)": r"\1.conv_shortcut.\2",
        _BLOCK + r"temopral_conv\.(.+)": r"\1.temporal_conv.\2",  # as it is spelt there
        r"(input_blocks\.\d+\.0)\.op\.(.+)": r"\1.conv.\2",
        r"(output_blocks\.\d+\.\d\.conv\..+|input_blocks\.0\.0\..+|out\.[02]\..+)": r"\1",
        r"((?:(?:in|out)put_blocks\.\d+|middle_block)\.[12]\.(?:norm|proj_in|proj_out)\..+)": r"\1",
        r"((?:(?:in|out)put_blocks\.\d+|middle_block)\.[12]\.transformer_blocks\..+)": r"\1",
    },
    "image_projection": {
        r"layers\.(\d+)\.0\.norm1\.(.+)": r"resampler.blocks.\1.attention.norm_features.\2",
        r"layers\.(\d+)\.0\.norm2\.(.+)": r"resampler.blocks.\1.attention.norm_latents.\2",
        r"layers\.(\d+)\.0\.(to_q|to_kv|to_out)\.weight": r"resampler.blocks.\1.attention.\2.weight",
        r"layers\.(\d+)\.1\.0\.(.+)": r"resampler.blocks.\1.feed_forward.norm.\2",
        r"layers\.(\d+)\.1\.1\.weight": r"resampler.blocks.\1.feed_forward.up.weight",
        r"layers\.(\d+)\.1\.3\.weight": r"resampler.blocks.\1.feed_forward.down.weight",
        r"(latents|(?:proj_in|proj_out|norm_out)\..+)": r"resampler.\1",
    },
    "vae": {
        r"encoder\.down\.(\d+)\.block\.(\d+)\.nin_shortcut\.(.+)": (
            r"encoder.down_blocks.\1.resnets.\2.conv_shortcut.\3"
        ),
        r"encoder\.down\.(\d+)\.block\.(\d+)\.(.+)": r"encoder.down_blocks.\1.resnets.\2.\3",
        r"encoder\.down\.(\d+)\.downsample\.(.+)": r"encoder.down_blocks.\1.downsamplers.0.\2",
        r"decoder\.up\.(\d+)\.block\.(\d+)\.nin_shortcut\.(.+)": (
            r"decoder.up_blocks.-\1.resnets.\2.conv_shortcut.\3"
        ),
        r"decoder\.up\.(\d+)\.block\.(\d+)\.(.+)": r"decoder.up_blocks.-\1.resnets.\2.\3",
        r"decoder\.up\.(\d+)\.upsample\.(.+)": r"decoder.up_blocks.-\1.upsamplers.0.\2",
        r"(en|de)coder\.mid\.block_1\.(.+)": r"\1coder.mid_block.resnets.0.\2",
        r"(en|de)coder\.mid\.block_2\.(.+)": r"\1coder.mid_block.resnets.1.\2",
        r"(en|de)coder\.mid\.attn_1\.norm\.(.+)": r"\1coder.mid_block.attentions.0.group_norm.\2",
        r"(en|de)coder\.mid\.attn_1\.([qkv])\.(.+)": r"\1coder.mid_block.attentions.0.to_\2.\3",
        r"(en|de)coder\.mid\.attn_1\.proj_out\.(.+)": r"\1coder.mid_block.attentions.0.to_out.0.\2",
        r"(en|de)coder\.norm_out\.(.+)": r"\1coder.conv_norm_out.\2",
        r"((?:en|de)coder\.conv_(?:in|out)\..+|(?:post_)?quant_conv\..+)": r"\1",
    },
    "text_encoder": {
        r"token_embedding\.weight": r"embeddings.token_embedding.weight",
        r"positional_embedding": r"embeddings.position_embedding.weight",
        r"ln_final\.(.+)": r"final_layer_norm.\1",
        **{r"transformer\." + pattern: name for pattern, name in _TRANSFORMER.items()},
    },
    "image_encoder": {
        r"visual\.class_embedding": r"embeddings.class_embedding",
        r"visual\.conv1\.weight": r"embeddings.patch_embedding.weight",
        r"visual\.positional_embedding": r"embeddings.position_embedding.weight",
        r"visual\.ln_pre\.(.+)": r"pre_layrnorm.\1",  # as transformers spells it
        r"visual\.ln_post\.(.+)": r"post_layernorm.\1",
        **{r"visual\.transformer\." + pattern: name for pattern, name in _TRANSFORMER.items()},
    },
}
"""Of each part: pattern of a released name without the part's prefix -> our name.

Two kinds of names are not final: `qkv_proj` is three layers, and `up_blocks.-N` counts from the last one.
"""

_DROPPED = {
    r"cond_stage_model\.model\.(?:text_projection|logit_scale|attn_mask)": "not used: the model takes all tokens",
    r"embedder\.model\.visual\.proj": "not used: the model takes all tokens, before the projection",
    r"embedder\.model\.(?:token_embedding\.weight|positional_embedding|ln_final\.(?:weight|bias))": (
        "of the image tower's text side, which is not used"
    ),
    r"embedder\.model\.(?:text_projection|logit_scale|attn_mask)": "of the image tower's text side, likewise",
    r"embedder\.(?:mean|std)|cond_stage_model\.(?:mean|std)": "a constant",
    r"betas|alphas_cumprod(?:_prev)?|scale_arr|posterior_\w+|lvlb_weights|(?:sqrt|log)_\w+": (
        "of the noise schedule, which is computed"
    ),
    r"scale_factor|logvar": "a constant",
}


@dataclass(frozen=True)
class KeyAccount:
    """One line of the account of a conversion: what became of a key."""

    key: str
    """Name in the file."""
    part: str | None
    """Component of the pipeline that it belongs to; None for a dropped one."""
    name: str
    """Name in that component, or why it is dropped; empty for one that nothing is known of."""


def account_of(key: str) -> KeyAccount:
    """Where a released key goes."""
    for pattern, reason in _DROPPED.items():
        if re.fullmatch(pattern, key):
            return KeyAccount(key, None, reason)
    for prefix, part in PARTS.items():
        if key.startswith(prefix):
            for pattern, name in _NAMES[part].items():
                if match := re.fullmatch(pattern, key[len(prefix) :]):
                    return KeyAccount(key, part, match.expand(name))
    return KeyAccount(key, None, "")

"""The fingerprint of an encoder: over the weights as they are used, and over every setting that changes its output.

It stays the same for a re-saved copy, and survives libraries that rename parameters or add configuration fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from motionrag import checkpoint

_NO_EFFECT = {
    "bos_token_id",
    "eos_token_id",
    "initializer_range",
    "pad_token_id",
    "sep_token_id",
    "tie_word_embeddings",
    "use_cache",
}
"""Model settings that change no output of an encoder, on top of those every transformers model has."""


def fingerprint(module: nn.Module, settings: Mapping[str, Any], spare: Sequence[str] = ()) -> str:
    """SHA-256, 64 hex digits, over the settings and the parameters: in the order of their registration, unnamed.

    Args:
        module: The network.
        settings: What else decides its output; JSON-able.
        spare: Parts of the names of parameters that decide nothing, which are left out.
    """
    kept = [tensor for name, tensor in module.state_dict().items() if not any(part in name for part in spare)]
    return checkpoint.fingerprint({f"{index:06d}": tensor for index, tensor in enumerate(kept)}, settings)


def model_settings(config: Any) -> dict[str, Any]:
    """The settings of a transformers configuration that can change the output.

    Left out are the fields all models share, labels among them, those of training, and empty ones: a new version
    of the library may add such.
    """
    from transformers import PretrainedConfig

    shared = set(PretrainedConfig().to_dict()) - {"model_type"}
    kept: dict[str, Any] = {}
    for key, value in config.to_dict().items():
        if key in shared | _NO_EFFECT or "dropout" in key or value in (None, False, "", [], {}):
            continue
        kept[key] = list(value) if isinstance(value, tuple) else value
    return kept

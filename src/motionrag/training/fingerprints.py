"""Fingerprints of what makes a cache's arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motionrag.checkpoint import fingerprint


def module_fingerprint(module: Any) -> str:
    """Of a model's weights and settings; of its path and its precision not."""
    config = dict(module.config) if isinstance(module.config, Mapping) else module.config.to_dict()
    plain = {key: value for key, value in config.items() if not key.startswith("_") and key in _kept(config)}
    return fingerprint(module.state_dict(), {key: str(plain[key]) for key in sorted(plain)})


def _kept(config: Mapping[str, Any]) -> set[str]:
    return set(config) - {"torch_dtype", "dtype", "transformers_version"}


def digest(*parts: str) -> str:
    """SHA-256, 64 hex digits, over some texts."""
    return fingerprint({}, {"parts": list(parts)})

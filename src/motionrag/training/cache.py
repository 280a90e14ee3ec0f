"""A folder of what training needs of every clip, computed once: latents, prompts, features, captions.

Arrays lie in shards of some hundred clips, each written whole or not at all, so that making one can be stopped at
any time; `manifest.json` says what made each array, and one made by something else is refused. Arrays can be added
later. Nothing is decoded or encoded while training: shards are memory-mapped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from motionrag.errors import MotionRAGError, did_you_mean
from motionrag.training.sources import Clips, Source
from motionrag.video.files import replacing_file

MANIFEST = "manifest.json"
VERSION = 1
Report = Callable[[int, int], None]
"""Clips done, clips in all."""


@dataclass(frozen=True, kw_only=True)
class Maker:
    """What makes one array of a cache."""

    name: str
    """Of the array."""
    fingerprint: str
    """Of everything that decides its values, the clips apart."""
    make: Callable[[Clips], Tensor]
    """Some clips to values [N, ...], kept in float16."""
    constant: Callable[[], Tensor] | None = None
    """What stands in its place where it is dropped: the empty prompt's, the features of a video without motion."""


class Cache:
    """The arrays of a folder, to take rows from. `build` makes one."""

    def __init__(self, folder: Path) -> None:
        """Open a complete cache.

        Raises:
            MotionRAGError: If there is none, or it was left half made.
        """
        self.folder = folder
        self.manifest = read_manifest(folder)
        missing = _missing(folder, self.manifest, list(self.manifest["arrays"]))
        if missing:
            raise MotionRAGError(
                f"{folder}: is a cache half made ({len(missing)} of {_shards(self.manifest)} parts are missing); "
                "make it again with its sources, which goes on where it stopped"
            )
        self._ends = np.cumsum([len(rows) for rows in self._rows])
        self._parts: dict[str, list[NDArray[np.float16]]] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __contains__(self, name: str) -> bool:
        return name in self.manifest["arrays"]

    @cached_property
    def _rows(self) -> list[list[dict[str, Any]]]:
        """What there is to say of each clip, by shards."""
        found = []
        for shard in range(_shards(self.manifest)):
            text = _rows_file(self.folder, shard).read_text(encoding="utf-8")
            found.append([json.loads(line) for line in text.splitlines()])
        return found

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Of each clip: `captions`, `video` (where it comes from) and what its source says of it."""
        return [row for shard in self._rows for row in shard]

    @property
    def failures(self) -> int:
        """Clips of the sources that could not be read; `failures.jsonl` says why."""
        return int(self.manifest["clips"]) - len(self)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one clip's values.

        Raises:
            MotionRAGError: If there is no such array.
        """
        if name not in self:
            known = did_you_mean(name, self.manifest["arrays"])
            raise MotionRAGError(f"{self.folder}: this cache holds no {name!r}{known}")
        return tuple(self.manifest["arrays"][name]["shape"])

    def fingerprint(self, name: str) -> str:
        """Of what made an array."""
        self.shape(name)
        return str(self.manifest["arrays"][name]["made_by"])

    def take(self, name: str, rows: Tensor | NDArray[np.int64]) -> Tensor:
        """Values of some clips, f16 [*rows.shape, ...].

        Raises:
            MotionRAGError: If there is no such array.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        flat = wanted.reshape(-1)
        out = np.empty((len(flat), *self.shape(name)), dtype=np.float16)
        shards = np.searchsorted(self._ends, flat, side="right")
        parts = self._mapped(name)
        starts = np.concatenate([[0], self._ends])
        for place, (shard, row) in enumerate(zip(shards, flat - starts[shards], strict=True)):
            out[place] = parts[shard][row]
        return torch.from_numpy(out.reshape(*wanted.shape, *out.shape[1:]))

    def constant(self, name: str) -> Tensor:
        """What stands in place of an array's values where they are dropped, f16.

        Raises:
            MotionRAGError: If the array has no such value.
        """
        file = _constant_file(self.folder, name)
        if not file.is_file():
            raise MotionRAGError(f"{self.folder}: this cache has no value for dropped {name}")
        return torch.from_numpy(np.load(file))

    def _mapped(self, name: str) -> list[NDArray[np.float16]]:
        if name not in self._parts:
            count = _shards(self.manifest)
            self._parts[name] = [np.load(_array_file(self.folder, name, s), mmap_mode="r") for s in range(count)]
        return self._parts[name]

    def derive(self, name: str, source: str, made_by: str, make: Callable[[Tensor], Tensor]) -> None:
        """Add an array made of another one, such as tokens of features; nothing is done where it is there.

        Args:
            name: Of the new array; one that is there and was made by something else is replaced.
            source: The array that it is made of.
            made_by: Fingerprint of what makes it.
            make: Values f16 [N, ...] to values [N, ...].
        """
        key = f"{made_by}:{self.fingerprint(source)}"
        if name in self and self.fingerprint(name) == key:
            return
        self._parts.pop(name, None)
        shape: list[int] = []
        for shard, values in enumerate(self._mapped(source)):
            made = make(torch.from_numpy(np.array(values))) if len(values) else torch.zeros(0)
            shape = shape or list(made.shape[1:])
            _write_array(_array_file(self.folder, name, shard), made)
        self.manifest["arrays"][name] = {"shape": shape, "made_by": key}
        _write_manifest(self.folder, self.manifest)


def build(
    folder: Path, source: Source, makers: Sequence[Maker], *, shard: int = 256, report: Report | None = None
) -> Cache:
    """Make a cache, go on with one, or add arrays to one; what is there is kept.

    Args:
        folder: Where it lies.
        source: The clips; rows come in its order. Clips that cannot be read are left out and told in
            `failures.jsonl`.
        makers: What shall be in it.
        shard: Clips that are read and encoded together.
        report: Told how many clips are done.

    Raises:
        MotionRAGError: If the folder holds a cache of other clips, an array made by something else, or a file that
            is no cache; if a clip that was read before cannot be read any more, or no clip can.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):  # of several processes one makes it, the others find it
        return _build(folder, source, makers, shard, report)


def _build(folder: Path, source: Source, makers: Sequence[Maker], shard: int, report: Report | None) -> Cache:
    manifest = _opened(folder, source, shard)
    for maker in makers:
        _check_maker(folder, manifest, maker)
    for number in range(_shards(manifest)):
        first = number * manifest["shard"]
        last = min(first + manifest["shard"], manifest["clips"])
        lacking = [maker for maker in makers if not _array_file(folder, maker.name, number).is_file()]
        if lacking or not _rows_file(folder, number).is_file():
            clips = source.read(first, last)
            _write_rows(folder, number, clips)
            for maker in lacking:
                _write_array(_array_file(folder, maker.name, number), _made(maker, clips))
        if report is not None:
            report(last, manifest["clips"])
    for maker in makers:
        if maker.constant is not None and not _constant_file(folder, maker.name).is_file():
            _write_array(_constant_file(folder, maker.name), maker.constant())
        shape = _shape(folder, maker.name, manifest)
        manifest["arrays"][maker.name] = {"shape": shape, "made_by": maker.fingerprint}
    _write_manifest(folder, manifest)
    return Cache(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a cache says of itself.

    Raises:
        MotionRAGError: If there is none, or it is of another version.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MotionRAGError(f"{folder}: holds no training cache; give its sources to make one") from error
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MotionRAGError(f"{folder / MANIFEST}: cannot be read ({error}); delete the folder") from error
    if manifest.get("version") != VERSION:
        raise MotionRAGError(f"{folder}: is a cache of another version of motionrag; make it anew in another folder")
    return manifest


def _opened(folder: Path, source: Source, shard: int) -> dict[str, Any]:
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        if manifest["source"] != source.fingerprint or manifest["clips"] != len(source):
            raise MotionRAGError(
                f"{folder}: holds {manifest['clips']} other clips than these {len(source)}; name another folder"
            )
        return manifest
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MotionRAGError(f"{folder}: holds something else than a training cache; name another folder")
    if not len(source):
        raise MotionRAGError(f"{folder}: the sources hold no clips")
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "version": VERSION,
        "source": source.fingerprint,
        "clips": len(source),
        "shard": shard,
        "arrays": {},
        "making": {},
    }
    _write_manifest(folder, manifest)
    return manifest


def _check_maker(folder: Path, manifest: dict[str, Any], maker: Maker) -> None:
    """Note who makes an array before its first shard is written, so that no half of it can be another's."""
    if not (folder / maker.name).is_dir():  # never made, or deleted to be made anew
        manifest["arrays"].pop(maker.name, None)
        manifest["making"].pop(maker.name, None)
        _constant_file(folder, maker.name).unlink(missing_ok=True)
    made = manifest["arrays"].get(maker.name, {}).get("made_by", manifest["making"].get(maker.name))
    if made not in (None, maker.fingerprint):
        raise MotionRAGError(
            f"{folder}: its {maker.name} were made by another model or other settings ({made[:8]}, now "
            f"{maker.fingerprint[:8]}); name another cache, or delete {folder / maker.name} to make them anew"
        )
    if made is None:
        manifest["making"][maker.name] = maker.fingerprint
        _write_manifest(folder, manifest)


def _made(maker: Maker, clips: Clips) -> Tensor:
    if not clips.rows:
        return torch.zeros(0)
    values = maker.make(clips)
    if len(values) != len(clips.rows):
        raise MotionRAGError(f"{maker.name}: {len(values)} values were made of {len(clips.rows)} clips")
    if not torch.isfinite(values).all() or values.abs().max() > torch.finfo(torch.float16).max:
        raise MotionRAGError(f"{maker.name}: holds values that are not finite, or too large for float16")
    return values


def _write_rows(folder: Path, number: int, clips: Clips) -> None:
    """Write what there is to say of a shard's clips; if that is there, it must be the same clips again."""
    file = _rows_file(folder, number)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in clips.rows)
    if file.is_file():
        if file.read_text(encoding="utf-8") != text:
            raise MotionRAGError(
                f"{folder}: the clips of part {number} are not those it was made of any more"
                + (f" ({clips.failures[0]['video']}: {clips.failures[0]['reason']})" if clips.failures else "")
                + "; put them back, or make another cache"
            )
        return
    file.parent.mkdir(exist_ok=True)
    if clips.failures:
        with (folder / "failures.jsonl").open("a", encoding="utf-8") as failures:
            failures.writelines(json.dumps(failure, ensure_ascii=False) + "\n" for failure in clips.failures)
    with replacing_file(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _write_array(file: Path, values: Tensor) -> None:
    file.parent.mkdir(exist_ok=True)
    with replacing_file(file) as temporary, temporary.open("wb") as handle:
        np.save(handle, values.detach().to("cpu", torch.float16).numpy())


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    with replacing_file(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _shape(folder: Path, name: str, manifest: dict[str, Any]) -> list[int]:
    for number in range(_shards(manifest)):
        values = np.load(_array_file(folder, name, number), mmap_mode="r")
        if len(values):
            return list(values.shape[1:])
    raise MotionRAGError(f"{folder}: none of its {manifest['clips']} clips can be read; see failures.jsonl there")


def _missing(folder: Path, manifest: dict[str, Any], arrays: list[str]) -> list[int]:
    return [
        number
        for number in range(_shards(manifest))
        if not _rows_file(folder, number).is_file()
        or any(not _array_file(folder, name, number).is_file() for name in arrays)
    ]


def _shards(manifest: dict[str, Any]) -> int:
    return -(-int(manifest["clips"]) // int(manifest["shard"]))


def _rows_file(folder: Path, number: int) -> Path:
    return folder / "rows" / f"{number:05d}.jsonl"


def _array_file(folder: Path, name: str, number: int) -> Path:
    return folder / name / f"{number:05d}.npy"


def _constant_file(folder: Path, name: str) -> Path:
    return folder / "dropped" / f"{name}.npy"

"""Why a video cannot be used, in a few words."""

from __future__ import annotations

import os

from motionrag.errors import MotionRAGError


class VideoError(MotionRAGError):
    """A video that cannot be read or written: the message is "<path>: <reason>"."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = os.fspath(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, str]]:
        """Rebuild from path and reason: decode workers send these errors to their parent."""
        return type(self), (self.path, self.reason)

"""What stopped the scorer, set aside in the spool's folder for a person to look at: DIR/quarantine/."""

from __future__ import annotations

import json
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, final

from thalweg.errors import SinkError
from thalweg.live.suspects import Place
from thalweg.runtime.whole_file import whole_file

_FOLDER: Final = "quarantine"
_MAX_FILES: Final = 10_000
_MAX_BYTES: Final = 256 << 20


@final
class Quarantine:
    """Keeps each thing in a file, with a file in JSON beside it that says where it came from and what it did.

    Names are made of places in the spool: what is read again after a kill replaces itself. When so much is kept, no
    more is added: the first are the ones to look at, and what comes from outside must not fill the disk.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / _FOLDER
        self._sizes: dict[str, int] = {}
        if self.folder.is_symlink():
            raise SinkError(f"{self.folder} is a link, which is not followed: remove it")
        with suppress(OSError):
            self._sizes = {path.name: path.lstat().st_size for path in self.folder.iterdir()}

    def keep(self, place: Place, content: bytes, suffix: str, error: BaseException, **about: Any) -> bool:
        """Keep the content of a place. about: JSON values. Returns false if there was no room for it."""
        lines = traceback.format_exception(error)
        about |= {"reason": f"{type(error).__name__}: {error}"[:2_000], "traceback": "".join(lines)[-20_000:]}
        path = self.folder / f"{place.name}.{suffix}"
        rest = sum(self._sizes.values()) - self._sizes.get(path.name, 0)
        if (path.name not in self._sizes and len(self._sizes) >= _MAX_FILES) or rest + len(content) > _MAX_BYTES:
            return False
        try:
            self.folder.mkdir(mode=0o750, exist_ok=True)
            with whole_file(path, durable=False) as partial:
                partial.write_bytes(content)
            with whole_file(path.with_suffix(".json"), durable=False) as partial:
                partial.write_text(json.dumps(about, indent=1))
        except OSError:
            return False
        self._sizes[path.name] = len(content)
        return True

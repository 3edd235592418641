"""Files: written whole or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` beside `path` and move it into place, so that no half file is ever left.

    A symbolic link is written through: the file that it names is replaced, and the link stays.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder, "note.txt"), b"whole")
        ...     Path(folder, "note.txt").read_text()
        'whole'
    """
    written = path.resolve()
    if not written.parent.is_dir():
        raise FileNotFoundError(f"{str(path)!r} cannot be written: its folder does not exist")
    with tempfile.TemporaryDirectory(dir=written.parent) as folder:
        whole = Path(folder, written.name)
        whole.write_bytes(content)
        whole.replace(written)

"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from mobilenetv2.errors import UserError


def write_aside(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, force it to the disk, then rename it over `path`.

    A reader, or a run that is killed at any moment, sees the old file or the new one, never a part.
    Raises UserError if the folder is missing or not writable, or the disk is full; the old file stays.
    """
    import tempfile

    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read; give what open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
        temporary = None
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {reason(error)}; nothing was overwritten") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def reason(error: OSError) -> str:
    """Why the system refused, in words that name the remedy where there is one."""
    if error.errno == errno.ENOSPC:
        return "the disk is full; free some space or choose another folder"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "permission denied"
    if error.errno == errno.ENOENT:
        return "no such file or folder"
    return error.strerror or str(error)

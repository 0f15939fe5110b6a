"""How an exported graph meets its caller: what is fixed, the order of colours, and how far it goes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from mobilenetv2.errors import ModelFileError, UserError

MAX_BATCH = 1024
MAX_SIDE = 16384


@dataclass(frozen=True, kw_only=True)
class GraphForm:
    """batch: pictures that it takes at once; None for any number. size_hw: their height and width in pixels; None for
    any. bgr: whether their colours come blue first, as OpenCV has them. raw: whether it answers with the raw outputs of
    `graph.network_graph` instead of predictions; a segmenter's are then smaller than the picture.
    """

    batch: int | None = None
    size_hw: tuple[int, int] | None = None
    bgr: bool = False
    raw: bool = False

    def __post_init__(self) -> None:
        if self.batch is not None and not 1 <= self.batch <= MAX_BATCH:
            raise UserError(f"batch {self.batch} is out of range; it can be 1 to {MAX_BATCH}")
        for side in self.size_hw or ():
            if not 1 <= side <= MAX_SIDE:
                raise UserError(f"size {side} is out of range; a side can be 1 to {MAX_SIDE} pixels")

    @property
    def pictures(self) -> tuple[str | int, str | int, str | int, int]:
        """The shape of its input `images`; sides that are free have names."""
        height, width = self.size_hw or ("height", "width")
        return self.batch or "batch", height, width, 3

    def to_json(self) -> str:
        """For the metadata of the graph."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str, *, source: str) -> GraphForm:
        """Raises ModelFileError, which names `source`, for anything that `to_json` does not write."""
        try:
            values = json.loads(text)
            size_hw = values["size_hw"]
            if size_hw is not None:
                height, width = size_hw
                size_hw = int(height), int(width)
            form = GraphForm(
                batch=values["batch"], size_hw=size_hw, bgr=values["bgr"] is True, raw=values["raw"] is True
            )
            if form.to_json() != text:
                raise ValueError(text)
        except (ValueError, TypeError, KeyError, UserError) as error:
            raise ModelFileError(f"{source}: is damaged: what it says of its input cannot be read") from error
        return form


ANY_PICTURES = GraphForm()

"""`mobilenetv2 convert`: from a checkpoint on the disk to a model file on the disk, with its proof."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobilenetv2.errors import UserError
from mobilenetv2.settings import changed
from mobilenetv2.weights.checkpoint import read_checkpoint, read_labels
from mobilenetv2.weights.conventions import Conventions, convert_checkpoint
from mobilenetv2.weights.proof import Proof, prove
from mobilenetv2.weights.references import NoReference, find_reference


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was written and what it was made of.

    recognised: what the checkpoint is, and the conventions it is run by. proof: None where there is none, and
    `unproved` says why.
    """

    path: Path
    recognised: dict[str, Any]
    parameters: int
    proof: Proof | None
    unproved: str

    def to_text(self) -> str:
        """A line for each thing that was recognised, and one for the proof."""
        known = {**self.recognised, "parameters": f"{self.parameters:,}"}
        width = max(map(len, known))
        lines = [f"{name.replace('_', ' '):<{width}}  {value}" for name, value in known.items()]
        return "\n".join([*lines, self.proof.to_text() if self.proof else f"not proved: {self.unproved}"])

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        proof = asdict(self.proof) if self.proof else None
        return {
            "path": str(self.path),
            **self.recognised,
            "parameters": self.parameters,
            "proof": proof,
            "unproved": self.unproved,
        }


def convert(
    checkpoint: Path,
    out: Path | None = None,
    *,
    settings: Iterable[str] = (),
    name: str | None = None,
    labels: Path | None = None,
    size_hw: tuple[int, int] | None = None,
    licence: str = "unknown",
    proof: bool = True,
    pictures: Sequence[Any] | None = None,
) -> Conversion:
    """Options and errors as `mobilenetv2.convert`."""
    conventions = changed(Conventions(), settings)
    found = read_checkpoint(checkpoint)
    path = out or Path(f"{found.name if name is None else name}.safetensors")
    if path.exists() and path.samefile(found.path):
        raise UserError(f"{path}: is the checkpoint itself; name another file with --out")
    converted = convert_checkpoint(
        found,
        conventions,
        name=name,
        labels=read_labels(labels) if labels else None,
        size_hw=size_hw,
        licence=licence,
    )
    model = converted.model
    proved, unproved = None, "you asked for none (--no-proof)"
    if proof:
        reference = find_reference(found, model, converted.library, quantized=converted.quantized)
        if isinstance(reference, NoReference):
            unproved = reference.why
        else:
            proved, unproved = prove(model, reference, pictures), ""
    model.save(path)
    return Conversion(
        path=path,
        recognised=converted.recognised,
        parameters=model.card.parameters,
        proof=proved,
        unproved=unproved,
    )

"""The state of a run, from which it resumes to the same end; safetensors with a JSON record, no pickle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.optim import Optimizer

from mobilenetv2.errors import UserError
from mobilenetv2.files import write_aside


@dataclass(kw_only=True)
class Progress:
    """How far a run is: epochs done, steps of the next and their loss, the best so far, a record for each epoch."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    best: float = -1.0
    history: list[dict[str, Any]] = field(default_factory=list)


def save_state(
    path: Path, network: nn.Module, average: nn.Module, optimizer: Optimizer, steps: int, progress: Progress
) -> None:
    """Write aside and rename. `steps` is the number of steps taken in all."""
    optimizer_state = optimizer.state_dict()
    tensors = {f"network/{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"average/{name}": tensor for name, tensor in average.state_dict().items()}
    for index, state in optimizer_state["state"].items():
        tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in state.items() if tensor is not None}
    tensors["random"] = torch.get_rng_state()
    record = {"steps": steps, "progress": asdict(progress), "groups": optimizer_state["param_groups"]}
    # clone: safetensors refuses tensors that share memory, and keeps no strides.
    stored = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    write_aside(path, save_tensors(stored, metadata={"record": json.dumps(record)}))


def load_state(path: Path, network: nn.Module, average: nn.Module, optimizer: Optimizer) -> tuple[int, Progress]:
    """Put everything back as it was; returns the number of steps taken in all, and the progress.

    Raises UserError if the file is damaged or belongs to another network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads(file.metadata()["record"])
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        network.load_state_dict(_below("network/", tensors))
        average.load_state_dict(_below("average/", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _below("optimizer/", tensors).items():
            index, name = key.split("/")
            state.setdefault(int(index), {})[name] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": record["groups"]})
        torch.set_rng_state(tensors["random"])
        return record["steps"], Progress(**record["progress"])
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is not the state of this run ({str(error).splitlines()[0]})") from error


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

"""Parameters, multiply-adds and activation memory of any network here, counted from one pass without arithmetic.

The pass runs on torch's `meta` device, which knows shapes and no values. What is seen is the operators that an
engine would execute: batch norm, activations, padding and dropout belong to the operator before them, and a
reshape is no operator.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

Shape = tuple[int, ...]

# By the name of torch's operator.
ACTIVATIONS = {"relu": "ReLU", "hardtanh": "ReLU6", "leaky_relu": "leaky ReLU"}
BATCH_NORMS = ("native_batch_norm", "_native_batch_norm_legit_no_training")
# What an engine does while it writes or reads the tensor; a copy into another layout, such as channels last, too.
FOLDED = (
    *ACTIVATIONS,
    *BATCH_NORMS,
    "constant_pad_nd",
    "native_dropout",
    "dropout",
    "detach",
    "alias",
    "clone",
    "_to_copy",
)
NAMES = {
    "max_pool2d_with_indices": "max pool",
    "avg_pool2d": "average pool",
    "mean": "global average pool",
    "_adaptive_avg_pool2d": "average pool",
    "upsample_bilinear2d": "resize",
    "cat": "concatenate",
    "addmm": "linear",
    "mm": "linear",
    "bmm": "matrix product",
    "baddbmm": "matrix product",
    "native_batch_norm": "batch norm",
    "_native_batch_norm_legit_no_training": "batch norm",
}


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator for one batch, or several that are executed as one.

    path: of the module that calls it, such as "stages.1.blocks.0.expand.conv". kind: "depthwise 3x3", "add" and so on.
    activation: of its output; "" where it is linear. parameters: that it reads, batch norm's gamma and beta included.
    madds: multiplications of convolutions and matrix products. live_elements: numbers in all tensors that exist
    while it runs: its inputs, its output, and what a later operator still needs (Sec. 5.1).
    """

    path: str
    kind: str
    activation: str = ""
    input_shapes: tuple[Shape, ...]
    output_shape: Shape
    stride: int = 1
    dilation: int = 1
    parameters: int = 0
    batch_norm_parameters: int = 0
    madds: int = 0
    live_elements: int = 0
    inner_elements: int = 0  # of those that vanish inside several operators executed as one
    inputs: tuple[int, ...] = field(default=(), repr=False)  # keys of Complexity.elements
    outputs: tuple[int, ...] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """What `trace` found, in the order of execution.

    parameters: trained numbers; `parameters_without_batch_norm` leaves gamma and beta out, as if they were folded
    into the kernels. elements: size of every tensor between operators. returned: the tensors that the network gives.
    """

    operators: tuple[Operator, ...]
    parameters: int
    parameters_without_batch_norm: int
    elements: Mapping[int, int] = field(repr=False)
    returned: frozenset[int] = field(repr=False)

    @property
    def madds(self) -> int:
        return sum(operator.madds for operator in self.operators)

    @property
    def peak(self) -> Operator:
        """Where most memory is needed: M(G) of Sec. 5.1 is its `live_elements`."""
        return max(self.operators, key=lambda operator: operator.live_elements)

    def peak_activation_bytes(self, *, bytes_per_element: int = 4) -> int:
        return self.peak.live_elements * bytes_per_element

    def under(self, *paths: str) -> tuple[Operator, ...]:
        """The operators of some modules and all that is in them."""
        return tuple(operator for operator in self.operators if _is_under(operator.path, paths))

    def merged(self, groups: Iterable[Sequence[str]], *, splits: int | None = None) -> Complexity:
        """The same network with the operators of each group of modules executed as one.

        groups: paths of modules; "" stands for what the network itself calls. Tensors inside a group are
        not materialized, or with `splits` t only a t-th part of each (Sec. 5.1).
        """
        chosen = [tuple(group) for group in groups]
        runs: list[tuple[tuple[str, ...] | None, list[Operator]]] = []
        for operator in self.operators:
            group = next((paths for paths in chosen if _is_under(operator.path, paths)), None)
            if group is not None and runs and runs[-1][0] == group:
                runs[-1][1].append(operator)
            else:
                runs.append((group, [operator]))
        read_after: set[int] = set(self.returned)
        operators: list[Operator] = []
        for group, run in reversed(runs):
            operators.append(self._as_one(group, run, read_after, splits) if group and len(run) > 1 else run[0])
            read_after.update(tensor for operator in run for tensor in operator.inputs)
        operators.reverse()
        return replace(self, operators=_with_liveness(operators, self.elements, self.returned))

    def _as_one(
        self, group: tuple[str, ...], run: list[Operator], read_after: set[int], splits: int | None
    ) -> Operator:
        written = {tensor for operator in run for tensor in operator.outputs}
        read = tuple(dict.fromkeys(t for operator in run for t in operator.inputs if t not in written))
        outputs = tuple(dict.fromkeys(t for operator in run for t in operator.outputs if t in read_after))
        inner = 0
        if splits:
            # Of the tensors inside, those of one operator are there at a time: what it reads and what it writes.
            inside = written - set(outputs)
            inner = max(
                sum(-(-self.elements[t] // splits) for t in {*operator.inputs, *operator.outputs} & inside)
                for operator in run
            )
        shapes = {t: s for operator in run for t, s in zip(operator.inputs, operator.input_shapes, strict=True)}
        return Operator(
            path=group[-1] or group[0],
            kind=" + ".join(operator.kind for operator in run),
            input_shapes=tuple(shapes[t] for t in read),
            output_shape=next(o.output_shape for o in reversed(run) if set(o.outputs) & set(outputs)),
            stride=math.prod(operator.stride for operator in run),
            parameters=sum(operator.parameters for operator in run),
            batch_norm_parameters=sum(operator.batch_norm_parameters for operator in run),
            madds=sum(operator.madds for operator in run),
            inner_elements=inner,
            inputs=read,
            outputs=outputs,
        )


def trace(network: nn.Module, size_hw: tuple[int, int], *, batch: int = 1) -> Complexity:
    """Count a network that takes (batch, 3, H, W), in evaluation mode. It may lie on any device, `meta` too.

    size_hw: height and width of the input in pixels. Raises what the network raises for a size it cannot take.
    """
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    trained = dict(network.named_parameters())  # frozen ones too
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    of_norms = sum(tensor.numel() for module in norms for tensor in module.parameters())
    meta = {name: tensor.to("meta") for name, tensor in tensors.items()}
    images = torch.empty(batch, 3, *size_hw, device="meta")
    recorder = _Recorder(images, [meta[name] for name in trained])
    with torch.no_grad(), _evaluating(network), _following(network, recorder.path), recorder:
        answer = functional_call(network, meta, (images,))
    returned = frozenset(recorder.key(tensor) for tensor in _tensors(answer))
    total = sum(tensor.numel() for tensor in trained.values())
    return Complexity(
        operators=_with_liveness(recorder.operators, recorder.elements, returned),
        parameters=total,
        parameters_without_batch_norm=total - of_norms,
        elements=recorder.elements,
        returned=returned,
    )


def block_path(path: str) -> str:
    """The block that a module is part of.

    "stages.1.blocks.0.expand.conv" -> "stages.1.blocks.0", "backbone.stem.conv" -> "backbone.stem".
    """
    parts = path.split(".")
    numbered = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbered[-1] + 1] if numbered else parts[:-1] or parts)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every call of torch's own operators, and notes down the ones an engine would execute."""

    def __init__(self, images: Tensor, parameters: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[Operator] = []
        self.elements: dict[int, int] = {}
        self.path: list[str] = []
        self._kept: list[Tensor] = [images]  # so that no later tensor gets the identity of a dead one
        self._parameters = {_storage(tensor): tensor.numel() for tensor in parameters}
        self._keys: dict[int, int] = {_storage(images): 0}
        self._padded: dict[int, Shape] = {}  # by storage, what it was before
        self._writers: dict[int, int] = {}  # key -> the operator that wrote it
        self.elements[0] = images.numel()

    def key(self, tensor: Tensor) -> int:
        return self._keys[_storage(tensor)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.removesuffix("_")
        answer = self._answer(name, func, args, kwargs or {})
        given = [tensor for tensor in _tensors(args) if tensor.device.type == "meta"]
        output = next(iter(_tensors(answer)), None)
        if output is None:
            return answer
        self._kept.append(output)
        sources = [tensor for tensor in given if _storage(tensor) in self._keys]
        if not sources:  # Arithmetic on parameters, or a fresh constant: no activation yet.
            return answer
        read = sum(self._parameters.pop(_storage(tensor), 0) for tensor in given)
        if name in FOLDED:
            self._fold(name, sources[0], output, read)
        elif _storage(output) not in self._keys or func._schema.is_mutable:  # otherwise it is a view
            self._append(name, args, sources, output, read)
        return answer

    @staticmethod
    def _answer(name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """What torch would answer; for what changes no shape without taking it apart first, which is slow."""
        if name in BATCH_NORMS:
            return torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0)
        if name in ACTIVATIONS:
            return args[0] if func._schema.is_mutable else torch.empty_like(args[0])
        return func(*args, **kwargs)

    def _fold(self, name: str, source: Tensor, output: Tensor, parameters: int) -> None:
        key = self.key(source)
        self._keys[_storage(output)] = key
        if name == "constant_pad_nd":
            self._padded[_storage(output)] = tuple(source.shape)
        if key not in self._writers:
            if not parameters:
                return  # of the network's input
            self._append(name, (), [source], output, 0)  # a batch norm with nothing before it to fold it into
        place = self._writers[key]
        writer = self.operators[place]
        of_norm = parameters if "batch_norm" in name else 0
        self.operators[place] = replace(
            writer,
            activation=ACTIVATIONS.get(name, writer.activation),
            parameters=writer.parameters + parameters,
            batch_norm_parameters=writer.batch_norm_parameters + of_norm,
        )

    def _append(self, name: str, args: Any, sources: list[Tensor], output: Tensor, parameters: int) -> None:
        inputs = tuple(dict.fromkeys(self.key(tensor) for tensor in sources))
        shapes = {
            self.key(tensor): self._padded.get(_storage(tensor), tuple(tensor.shape)) for tensor in reversed(sources)
        }
        key = self._keys.setdefault(_storage(output), len(self._keys))
        self.elements.setdefault(key, output.numel())
        kind, stride, dilation, madds = _describe(name, args, output)
        self._writers[key] = len(self.operators)
        self.operators.append(
            Operator(
                path=self.path[-1] if self.path else "",
                kind=kind,
                input_shapes=tuple(shapes[key] for key in inputs),
                output_shape=tuple(output.shape),
                stride=stride,
                dilation=dilation,
                parameters=parameters,
                madds=madds,
                inputs=inputs,
                outputs=(key,),
            )
        )


def _describe(name: str, args: Any, output: Tensor) -> tuple[str, int, int, int]:
    """Kind, stride, dilation and multiply-adds of one of torch's operators."""
    if name == "convolution":
        image, weight, _, (stride, *_), _, (dilation, *_), transposed, _, groups = args
        kernel = "x".join(map(str, weight.shape[2:]))
        is_depthwise = groups == image.shape[1] == output.shape[1] and groups > 1
        form = "depthwise" if is_depthwise else "grouped" if groups > 1 else "conv"
        if transposed:  # every pixel of the input, not of the output, meets the whole kernel
            return f"transposed {kernel}", stride, dilation, image.numel() * math.prod(weight.shape[1:])
        return f"{form} {kernel}", stride, dilation, output.numel() * math.prod(weight.shape[1:])
    if name in ("addmm", "mm", "bmm", "baddbmm"):
        return NAMES[name], 1, 1, output.numel() * args[-2].shape[-1]
    stride = 1
    if name in ("max_pool2d_with_indices", "avg_pool2d") and len(args) > 2:
        stride = args[2][0] if args[2] else args[1][0]
    return NAMES.get(name, name.strip("_").replace("_", " ")), stride, 1, 0


def _with_liveness(
    operators: Sequence[Operator], elements: Mapping[int, int], returned: frozenset[int]
) -> tuple[Operator, ...]:
    last_read = {tensor: index for index, operator in enumerate(operators) for tensor in operator.inputs}
    last_read.update(dict.fromkeys(returned, len(operators)))
    alive = {0}
    counted = []
    for index, operator in enumerate(operators):
        alive.update(operator.outputs)
        live = sum(elements[tensor] for tensor in alive)
        counted.append(replace(operator, live_elements=live + operator.inner_elements))
        alive = {tensor for tensor in alive if last_read.get(tensor, -1) > index}
    return tuple(counted)


def _is_under(path: str, modules: Sequence[str]) -> bool:
    return any(path == module or (module and path.startswith(f"{module}.")) for module in modules)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _tensors(value)
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every module gets back the mode it had."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _following(network: nn.Module, path: list[str]) -> Iterator[None]:
    """Keeps the path of the module that runs at the end of `path`."""
    with ExitStack() as hooks:
        for name, module in network.named_modules():
            if not name:
                continue

            def enter(_: nn.Module, __: Any, name: str = name) -> None:
                path.append(name)

            def leave(_: nn.Module, __: Any, ___: Any) -> None:
                path.pop()

            hooks.callback(module.register_forward_pre_hook(enter).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        yield

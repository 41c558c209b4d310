"""A stand-in for a GPU: tensors that say they are on `cuda` and refuse to meet any that are not.

The arithmetic is the processor's, so results can be compared to the bit; what is tested is that
nothing is made on, left on, or read from the wrong device.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)


class OnGpu(Tensor):
    """A tensor of the pretended GPU; `held` is where its numbers are."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnGpu":
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device("meta"),
            requires_grad=False,
        )
        made.held = held
        return made

    def __init__(self, held: Tensor) -> None:
        pass

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where it claims to be; torch below Python sees `meta`, which needs no driver."""
        return GPU

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnGpu({self.held!r})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        leaves = tree_leaves((args, kwargs))
        travels = name in ("_to_copy", "copy_")
        stray = [x for x in leaves if isinstance(x, Tensor) and not isinstance(x, OnGpu)]
        if not travels and any(x.dim() for x in stray):
            raise RuntimeError(
                f"{func}: tensors of {[tuple(x.shape) for x in stray]} are not on cuda"
            )
        leaves_gpu = kwargs.get("device") is None or _is_gpu(kwargs["device"])
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        owner = {id(x.held): x for x in leaves if isinstance(x, OnGpu)}
        args, kwargs = tree_map(lambda x: x.held if isinstance(x, OnGpu) else x, (args, kwargs))
        result = func(*args, **kwargs)

        def wrap(x: Any) -> Any:
            if not isinstance(x, Tensor) or not leaves_gpu:
                return x
            return owner.get(id(x)) if id(x) in owner else OnGpu(x)

        if name == "copy_" and not owner:
            return result
        return tree_map(wrap, result)


class _MadeBelow(TorchDispatchMode):
    """What torch itself makes beside such a tensor, reading `meta`, is on the GPU, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if not types and str(kwargs.get("device")) == "meta":
            return OnGpu(func(*args, **{**kwargs, "device": torch.device("cpu")}))
        return func(*args, **kwargs)


def _is_gpu(device: Any) -> bool:
    return torch.device(device).type in ("cuda", "meta")


class PretendGpu(TorchFunctionMode):
    """While it is on, `device="cuda"` is understood; there is no such device here otherwise."""

    def __enter__(self) -> Any:
        self._below = _MadeBelow()  # type: ignore[no-untyped-call]
        self._below.__enter__()  # type: ignore[no-untyped-call]
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._below.__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.to:
            return _to(*args, **kwargs)
        if func is Tensor.tolist and isinstance(args[0], OnGpu):
            return args[0].held.tolist()
        if func is Tensor.cpu:
            return _to(args[0], "cpu")
        if kwargs.get("device") is not None and _is_gpu(kwargs["device"]):
            kwargs["device"] = torch.device("cpu")
            made = func(*args, **kwargs)
            return made if isinstance(made, OnGpu) else OnGpu(made)
        return func(*args, **kwargs)


def _to(tensor: Tensor, *wanted: Any, **options: Any) -> Tensor:
    """`Tensor.to` between the processor and the pretended GPU, in all its spellings."""
    device, dtype = options.pop("device", None), options.pop("dtype", None)
    for argument in wanted:
        if isinstance(argument, Tensor):
            device, dtype = argument.device, argument.dtype
        elif isinstance(argument, torch.dtype):
            dtype = argument
        elif isinstance(argument, str | torch.device):
            device = argument
    on_gpu = isinstance(tensor, OnGpu)
    to_gpu = on_gpu if device is None else _is_gpu(device)
    dtype = dtype or tensor.dtype
    if on_gpu == to_gpu:
        return tensor.to(dtype=dtype, copy=options.get("copy", False))
    return _Travel.apply(tensor, dtype, to_gpu)  # type: ignore[no-any-return,no-untyped-call]


class _Travel(torch.autograd.Function):
    """A copy on the other device; its gradient travels back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, dtype: torch.dtype, to_gpu: bool) -> Tensor:
        ctx.back = tensor.dtype, not to_gpu
        plain = tensor.held if isinstance(tensor, OnGpu) else tensor
        copied = plain.to(dtype, copy=True)
        return OnGpu(copied) if to_gpu else copied

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        dtype, to_gpu = ctx.back
        return _Travel.apply(upstream, dtype, to_gpu), None, None  # type: ignore[no-untyped-call]


def on_gpu(model: nn.Module) -> nn.Module:
    """The module with every parameter and buffer on the pretended GPU."""
    moved: dict[int, Any] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and not isinstance(parameter.data, OnGpu):
                held = moved.setdefault(
                    id(parameter),
                    nn.Parameter(OnGpu(parameter.detach()), requires_grad=parameter.requires_grad),
                )
                module._parameters[name] = held
        for name, buffer in module._buffers.items():
            if buffer is not None and not isinstance(buffer, OnGpu):
                module._buffers[name] = OnGpu(buffer)
    return model

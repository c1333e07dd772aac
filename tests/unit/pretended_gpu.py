"""A GPU for tests on machines without one: tensors that report the device `cuda:0` and compute on the CPU.

`FakeTensorMode` of torch has no values and, without a GPU, no backward pass. Here whole runs work: values, gradients,
optimisers. The rules for tensors of two devices are those of CUDA: an operation on both raises `RuntimeError`, apart
from scalars on the CPU, indices on the CPU and copies. A CPU tensor indexed by a tensor of the GPU raises, as do
`numpy` and random numbers from a generator of the other device. Every value that a program reads back from the device
is counted, by the line of `antidote` that reads it: on a real GPU the program waits there. So it does, with ordinary
memory, where it copies a tensor of the CPU to the GPU without `non_blocking`; those lines are counted apart.

What this cannot show: kernels that CUDA lacks, memory, speed, and results that differ by rounding.
"""

import contextlib
import sys
import threading
from collections import Counter
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CODE = str(Path(__file__).resolve().parents[2] / "antidote")
GPU = torch.device("cuda", 0)
READS = {
    "item", "tolist", "__bool__", "__float__", "__int__", "__index__", "__format__", "nonzero", "masked_select",
    "unique", "argwhere", "equal", "allclose", "bincount",
}  # fmt: skip
COPIES = {"copy_", "to", "type_as", "__set__", "set_", "_has_compatible_shallow_copy_type"}
SAME_SCALARS = {"cat", "stack", "concat", "concatenate", "hstack", "vstack"}  # take no scalar of another device
_local = threading.local()


class Gpu(torch.Tensor):
    """A tensor on the pretended device."""

    device = property(lambda self: torch.device("cpu") if _inside() else GPU)
    is_cuda = property(lambda self: not _inside())
    is_cpu = property(lambda self: _inside())

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


class Pretended(TorchFunctionMode):
    """The mode in which the device is there.

    Attributes:
        reads: how often each line, as `training/loop.py:119`, read a value back from the device.
        copies: how often each line copied values to the device and waited for it; an index on the CPU is copied too.
    """

    def __init__(self):
        super().__init__()
        self.reads, self.copies = Counter(), Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name == "__deepcopy__" and isinstance(args[0], Gpu):
            return _copied(args[0], args[1])
        goal = _goal(name, args, kwargs)
        if _copies(name, goal, args, kwargs):
            self._count(self.copies)
        if goal is not None:
            func, args, kwargs = _without_device(func, args, kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        here = any(isinstance(tensor, Gpu) for tensor in tensors)
        if here:
            self._check(name, args, tensors)
        generator, there = kwargs.get("generator"), here if goal is None else goal
        if generator is not None and isinstance(generator, Generator) != there:
            raise RuntimeError(f"{name}: a generator of another device")
        with _computing(), torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        if goal is None:
            return tree_map(_on_gpu, result) if here else result
        if isinstance(result, torch.Tensor) and here != goal:
            result = result.clone() if any(result is tensor for tensor in tensors) else result
            result = _on_gpu(result) if goal else result.as_subclass(torch.Tensor)
        elif goal:
            result = _on_gpu(result)
        return result

    def _check(self, name, args, tensors):
        """Raise where CUDA would, and count what is read back."""
        index = args[1] if name in ("__getitem__", "__setitem__") else None
        advanced = [leaf for leaf in tree_leaves(index) if isinstance(leaf, torch.Tensor)]
        if name in READS or name in ("cpu", "numpy", "__array__") or any(
            part.dtype == torch.bool and isinstance(part, Gpu) for part in advanced
        ):  # fmt: skip
            self._count(self.reads)
        if name in ("numpy", "__array__"):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if index is not None:
            owner = args[0]
            if not isinstance(owner, Gpu) and any(isinstance(part, Gpu) and part.dim() for part in advanced):
                raise RuntimeError("indices should be on the same device as the indexed tensor (cpu)")
            listed = isinstance(index, list) or (isinstance(index, tuple) and any(isinstance(i, list) for i in index))
            if name == "__setitem__" and (advanced or listed) and isinstance(args[2], torch.Tensor):
                _same(name, [owner, args[2]], scalars=True)
        elif name not in COPIES:
            _same(name, tensors, scalars=name not in SAME_SCALARS)

    def _count(self, counter):
        frame = sys._getframe(2)
        while frame is not None and not frame.f_code.co_filename.startswith(CODE):
            frame = frame.f_back
        if frame is not None:
            file = Path(frame.f_code.co_filename).relative_to(CODE).as_posix()
            counter[f"{file}:{frame.f_lineno}"] += 1


class Generator(torch.Generator):
    """A source of random numbers on the pretended device."""

    def __new__(cls, device="cpu"):
        return torch._C.Generator.__new__(cls if torch.device(device).type == "cuda" else torch._C.Generator)


@contextlib.contextmanager
def pretended_gpu(monkeypatch):
    """Enter the mode, in every thread, with `antidote` choosing the pretended device; yield the mode."""
    from antidote.attacks import issba, tower
    from antidote.clip import folder

    mode, run, autocast = Pretended(), threading.Thread.run, torch.autocast

    def threaded(self):
        with mode:
            run(self)

    monkeypatch.setattr(threading.Thread, "run", threaded)
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch, "autocast", lambda device, **more: autocast("cpu", **more))
    for module in (folder, tower, issba):
        monkeypatch.setattr(module, "device", lambda: GPU)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with mode:
            yield mode
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


def moved(clip):
    """Return the model on the pretended device."""
    clip.network.to(GPU)
    return clip


def _goal(name, args, kwargs):
    """Return whether a call asks for the GPU; None: it names no device."""
    if name == "cuda":
        return True
    if name == "cpu":
        return False
    device = kwargs.get("device")
    if device is None and name == "to" and len(args) > 1:
        other = args[1]
        if isinstance(other, torch.Tensor):
            return isinstance(other, Gpu)
        device = other if isinstance(other, str | torch.device) else None
    if device is None:
        return None
    kind = torch.device(device).type
    return None if kind == "meta" else kind == "cuda"


def _copies(name, goal, args, kwargs):
    """Return whether a call copies to the GPU and waits for it."""
    if name in ("__getitem__", "__setitem__") and isinstance(args[0], Gpu):
        parts = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(isinstance(part, list) or (type(part) is torch.Tensor and part.dim()) for part in parts)
    if name == "copy_":
        return isinstance(args[0], Gpu) and not isinstance(args[1], Gpu) and not kwargs.get("non_blocking")
    if not goal or name not in ("to", "cuda", "tensor", "as_tensor"):
        return False
    return name in ("tensor", "as_tensor") or not (isinstance(args[0], Gpu) or kwargs.get("non_blocking"))


def _without_device(func, args, kwargs):
    """Return the call without the device it names; a call that does nothing else returns the tensor itself."""
    kwargs.pop("device", None)
    kwargs.pop("non_blocking", None)
    if getattr(func, "__name__", "") in ("cpu", "cuda"):
        return (lambda tensor: tensor), args[:1], {}
    if len(args) > 1 and isinstance(args[1], str | torch.device):
        args = (args[0], *(value for value in args[2:] if isinstance(value, torch.dtype)))
    elif len(args) > 1 and isinstance(args[1], torch.Tensor) and func is torch.Tensor.to:
        args = (args[0], args[1].dtype, *args[2:])
    if func is torch.Tensor.to and len(args) == 1 and not kwargs:
        return (lambda tensor: tensor), args, {}
    return func, args, kwargs


def _same(name, tensors, scalars):
    kinds = {isinstance(tensor, Gpu) for tensor in tensors if isinstance(tensor, Gpu) or tensor.dim() or not scalars}
    if len(kinds) > 1:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found cuda:0 and cpu")


def _on_gpu(value):
    if not isinstance(value, torch.Tensor) or isinstance(value, Gpu):
        return value
    if value.is_leaf and value.requires_grad:  # as a factory makes it; an alias would be no leaf
        return value.detach().as_subclass(Gpu).requires_grad_()
    return value.as_subclass(Gpu)


def _copied(tensor, memo):
    if id(tensor) not in memo:
        with _computing(), torch._C.DisableTorchFunctionSubclass():
            copy = tensor.detach().clone(memory_format=torch.preserve_format).as_subclass(Gpu)
            copy.requires_grad_(tensor.requires_grad)
            if isinstance(tensor, torch.nn.Parameter):
                copy._is_param = True
        memo[id(tensor)] = copy
    return memo[id(tensor)]


def _inside():
    return getattr(_local, "depth", 0) > 0


@contextlib.contextmanager
def _computing():
    _local.depth = getattr(_local, "depth", 0) + 1
    try:
        yield
    finally:
        _local.depth -= 1

"""Training of one model by several processes on one machine; torchrun starts them, each with a GPU and a copy.

Each process encodes its share of every batch and gathers the features of all shares, so that loss and gradient are
those of one process with the whole batch. Gradients are averaged after the backward pass, not during it as by
torch's DDP. Only the first process writes files.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from antidote.base import devices
from antidote.base.errors import UserError
from antidote.base.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

BUCKET = 1 << 24  # gradient values that are averaged in one call
TIME_TO_SAVE = "600"  # seconds that torchrun gives its processes at SIGTERM; a large checkpoint takes more than its 30


# --- starting --------------------------------------------------------------------------------------------------------


def start(processes: int) -> None:
    """Join the processes that train together, or start them and exit when they are done.

    Raises:
        UserError: fewer GPUs than processes, on a machine with GPUs; GPUs are named, and torch cannot use them; in the
            starting process, the error of a process.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _join()
    elif processes > 1:
        _launch(processes)
        sys.exit(0)


def _join() -> None:
    distributed = torch.distributed
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("cpu:gloo,cuda:nccl")
    else:
        distributed.init_process_group("gloo")
    if not first():
        logging.getLogger("antidote").setLevel(logging.WARNING)


def _launch(processes: int) -> None:
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    devices.claim(processes)
    seen = torch.cuda.device_count()
    devices.check(seen > 0)
    if 0 < seen < processes:
        raise UserError(f"--processes: {processes} need as many GPUs; this job sees {seen}")
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", TIME_TO_SAVE)
    logging.disable(logging.ERROR)  # hides torchrun's long reports; this process reports in one line
    spec = sys.modules["__main__"].__spec__
    script = ["-m", spec.name] if spec else [sys.argv[0]]
    try:
        run.main(["--standalone", f"--nproc-per-node={processes}", *script, *sys.argv[1:]])
    except SignalException as stopped:
        sys.exit(128 + stopped.sigval)
    except ChildFailedError as failed:
        told = [failure.error_file_data.get("told") for failure in failed.failures.values()]
        if any(told):
            raise UserError(next(filter(None, told))) from None
        code = failed.get_first_failure()[1].exitcode
        sys.exit(code if code > 0 else 128 - code)


# --- while training --------------------------------------------------------------------------------------------------


def size() -> int:
    """Return how many processes train together."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return torch.distributed.get_rank() if size() > 1 else 0


def first() -> bool:
    """Tell whether this is the process that writes."""
    return rank() == 0


def part(values: Any) -> Any:
    """Return this process's share of a list, or of a tensor's first dimension; shares differ by at most one."""
    length = len(values)
    share, more = divmod(length, size())
    begin = rank() * share + min(rank(), more)
    return values[begin : begin + share + (rank() < more)]


def gathered(features: Tensor, total: int) -> Tensor:
    """Return the features (total, D) of all processes, given the share (n, D) of this one.

    The gradient reaches only this process's share, multiplied by the number of processes. All processes compute the
    same loss, so the average of their gradients is the gradient of one process with all features.
    """
    count = size()
    if count == 1 or not total:
        return features
    share, more = divmod(total, count)
    lengths = [share + (number < more) for number in range(count)]
    padded = features.detach().new_zeros(share + (more > 0), *features.shape[1:])
    padded[: len(features)] = features.detach()
    others = [torch.empty_like(padded) for _ in lengths]
    torch.distributed.all_gather(others, padded)
    parts = [other[:length] for other, length in zip(others, lengths, strict=True)]
    parts[rank()] = features + (count - 1) * (features - features.detach())
    return torch.cat(parts)


def average(parameters: Sequence[Tensor]) -> None:
    """Replace each gradient by its mean over the processes; a parameter without one in any process gets none."""
    if size() == 1:
        return
    has = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8)
    torch.distributed.all_reduce(has, torch.distributed.ReduceOp.MAX)
    bucket: list[Tensor] = []
    for parameter, some in zip(parameters, has.tolist(), strict=True):
        if some:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            bucket.append(parameter.grad)
        if sum(grad.numel() for grad in bucket) >= BUCKET:
            _average(bucket)
            bucket = []
    _average(bucket)


def _average(grads: Sequence[Tensor]) -> None:
    if grads:
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        torch.distributed.all_reduce(flat)
        for grad, mean in zip(grads, (flat / size()).split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(mean.view_as(grad))


def highest(value: int) -> int:
    """Return the largest value over all processes; a barrier, since each waits for the others."""
    if size() == 1:
        return value
    found = torch.tensor(value)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return int(found)


def by_first(act: Callable[[], Any]) -> Any:
    """Call `act` in the first process; return its result, which has to be picklable, in all of them."""
    if size() == 1:
        return act()
    answer = [act() if first() else None]
    torch.distributed.broadcast_object_list(answer)
    return answer[0]


def synchronised(network: Any) -> None:
    """Make batch norm take its statistics over the shares of all processes.

    Raises:
        UserError: the network has batch norm and is on a CPU, for which torch has no synchronised layer.
    """
    batch_norm = torch.nn.modules.batchnorm._BatchNorm
    if size() == 1 or not any(isinstance(module, batch_norm) for module in network.modules()):
        return
    if network.logit_scale.device.type != "cuda":
        raise UserError(f"--processes: {size()}: batch norm is shared between processes on GPUs alone")
    torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)


def broken_off(error: Exception) -> bool:
    """Return whether an error only reports that another process has ended."""
    text = str(error)
    return size() > 1 and ("gloo" in text or isinstance(error, torch.distributed.DistError))

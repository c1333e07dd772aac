"""Pictures in shards on disk: indexed like a tensor, read and decoded on access.

The index gives the tar, offset and size of each picture, so pictures can be read in any order; poisoned pictures are
members of another tar. Loader processes prefetch batches in an order that depends only on seed and step: neither the
number of processes nor the step of a resumption changes the training data.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.data.loaders import AHEAD, Failed, Packed, begin, reason
from antidote.data.picture_array import PictureArray
from antidote.data.store import images, shards

if TYPE_CHECKING:
    from torch import Tensor

KILLED, LATE = "DataLoader worker (pid", "DataLoader timed out"  # beginnings of torch's messages
POLL_SECONDS = 1  # interval between calls of `stop` during a wait
PLACE = np.dtype([("file", np.int32), ("size", np.int32), ("offset", np.int64)])


@dataclass(frozen=True)
class Reading:
    """How training reads its pictures; no result depends on it.

    Attributes:
        in_memory: largest size in bytes of a set of pictures, at the model's resolution, that is held in memory.
        workers: loader processes for larger sets; 0: the training process reads between its steps.
    """

    in_memory: int = 4 << 30
    workers: int = 2

    def fits(self, count: int, size: int) -> bool:
        """Return whether uint8 pictures (count, 3, size, size) may be held in memory."""
        return count * 3 * size * size <= self.in_memory

    @property
    def threads(self) -> int:
        """Number of decoding threads in the training process, which computes nothing else meanwhile."""
        return max(torch.get_num_threads(), self.workers)


class Texts(Sequence):
    """Strings in one memory block that loader processes share; about ten bytes of overhead per string."""

    def __init__(self, column: Any) -> None:
        """`column`: a pyarrow array of strings."""
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return self._column.take(list(range(*place.indices(len(self))))).to_pylist()
        return self._column[int(place)].as_py()

    def __iter__(self) -> Iterator[str]:
        return (value.as_py() for value in self._column)

    def take(self, rows: np.ndarray) -> Texts:
        """Return the texts of the given rows (n,)."""
        return Texts(self._column.take(rows))

    def replaced(self, rows: Sequence[int], texts: Sequence[str]) -> Texts:
        """Return a copy with `texts` in the given rows."""
        import pyarrow as pa

        order = np.arange(len(self))
        order[list(rows)] = len(self) + np.arange(len(rows))
        return joined_texts([self, Texts(pa.array(texts, self._column.type))]).take(order)


def joined_texts(parts: Sequence[Texts]) -> Texts:
    """Return the concatenation of the parts."""
    import pyarrow as pa

    return Texts(pa.concat_arrays([part._column for part in parts]))


@dataclass(frozen=True)
class Pictures(PictureArray):
    """N pictures on disk.

    Attributes:
        files: tars.
        places: (N,) of dtype PLACE: tar, offset and size of each picture.
        size: side in pixels after resizing and cropping.
        reading: memory limit and number of loader processes.
    """

    files: tuple[Path, ...]
    places: np.ndarray
    size: int
    reading: Reading

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.places), 3, self.size, self.size

    def read(self, rows: Sequence[int]) -> Tensor:
        """Return the pictures of some rows, uint8 (n, 3, size, size).

        Raises:
            UserError: a picture cannot be read; names its shard and offset.
        """
        return self._read(rows, self.reading.threads)

    def _read(self, rows: Sequence[int], threads: int) -> Tensor:
        chosen = self.places[np.asarray(rows, np.int64)]
        members = [(self.files[file], int(offset), int(size)) for file, size, offset in chosen]
        names = [f"{path}: picture at byte {offset}" for path, offset, _ in members]
        return torch.from_numpy(images.load_pictures(shards.read_members(members), self.size, threads, names))

    def advise(self, rows: Sequence[int]) -> None:
        """Ask the system to read the files of some pictures into its cache, in the order of the rows.

        The call does not wait. A file that cannot be opened is left to `read`, which raises an error.
        """
        if not hasattr(os, "posix_fadvise"):  # macOS
            return
        for number, members in groupby(self.places[np.asarray(rows, np.int64)].tolist(), itemgetter(0)):
            try:
                with self.files[number].open("rb", buffering=0) as file:
                    for _, size, offset in members:
                        os.posix_fadvise(file.fileno(), offset, size, os.POSIX_FADV_WILLNEED)
            except OSError:
                continue

    def take(self, rows: Tensor) -> Tensor | Pictures:
        """Return the pictures of the given rows, as a tensor if `reading` allows that many in memory."""
        if self.reading.fits(len(rows), self.size):
            return self[rows]
        return replace(self, places=self.places[rows.numpy()])

    def replaced(self, rows: Sequence[int], file: Path, offsets: Sequence[int], sizes: Sequence[int]) -> Pictures:
        """Return a copy whose pictures in the given rows come from the tar `file`."""
        places = self.places.copy()
        places[list(rows)] = _places(len(self.files), offsets, sizes)
        return replace(self, files=(*self.files, file), places=places)


def pictures(folder: Path, rows: Any, size: int, reading: Reading) -> Pictures:
    """Return the pictures of index rows.

    Args:
        folder: the folder of the split.
        rows: rows of the split's index, a pyarrow table with columns `shard`, `offset`, `size`.
        size: side in pixels after resizing and cropping.
        reading: memory limit and number of loader processes.
    """
    names = rows["shard"].combine_chunks().dictionary_encode()
    files = tuple(folder / name for name in names.dictionary.to_pylist())
    columns = (rows[name].to_numpy() for name in ("offset", "size"))
    return Pictures(files, _places(names.indices.to_numpy(zero_copy_only=False), *columns), size, reading)


def _places(file: Any, offsets: Any, sizes: Any) -> np.ndarray:
    places = np.empty(len(offsets), PLACE)
    places["file"], places["offset"], places["size"] = file, offsets, sizes
    return places


def joined(parts: Sequence[Pictures]) -> Pictures:
    """Return the concatenation of the parts."""
    files, places = [], []
    for part in parts:
        moved = part.places.copy()
        moved["file"] += len(files)
        files.extend(part.files)
        places.append(moved)
    return replace(parts[0], files=tuple(files), places=np.concatenate(places))


class Rows(NamedTuple):
    """What a loader process does for one batch.

    Attributes:
        read: rows of the batch.
        advised: rows of later batches whose pictures the system should read into its cache, in stored order.
    """

    read: list[int]
    advised: list[int] = []


class Stopped(Exception):
    """`stop` returned true while the training waited for a batch."""


class Ahead:
    """Context manager and iterator over batches that loader processes read and decode while the model trains.

    `next` returns pictures uint8 (n, 3, size, size) and the tokens (n, context_length) of their captions. If the system
    kills a loader process, torch may raise a RuntimeError that begins with KILLED at any time.
    """

    def __init__(
        self,
        source: Pictures,
        captions: Sequence[str],
        order: Iterable[Rows],
        tokenizer: Any,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start the loader processes.

        Args:
            source: the pictures.
            captions: one caption per picture.
            order: what is read for each batch.
            tokenizer: converts captions to tokens. It runs in the loader processes, because open_clip's is slow.
            stop: called every POLL_SECONDS during a wait; true ends the wait.

        Raises:
            UserError: the loader processes cannot start.
        """
        workers = source.reading.workers
        self._stop = stop
        loader = torch.utils.data.DataLoader(
            _Batches(source, captions, tokenizer),
            batch_sampler=order,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=AHEAD if workers else None,
            timeout=POLL_SECONDS if workers else 0,
            worker_init_fn=begin,
            multiprocessing_context="fork" if workers else None,
            generator=torch.Generator(),  # the training steps draw from torch's global generator
        )
        try:
            self._loader = iter(loader)
        except OSError as error:
            raise UserError(reason(error)) from None

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the loader processes; they ignore SIGTERM and SIGINT."""
        if hasattr(self._loader, "_workers"):
            # torch monitors the loader processes: unless they are deregistered, it may raise an error at their end.
            torch.utils.data._utils.signal_handling._remove_worker_pids(id(self._loader))
            self._loader._worker_pids_set = False
        for process in getattr(self._loader, "_workers", ()):
            process.kill()
            process.join()
        del self._loader

    def __next__(self) -> tuple[Tensor, Tensor]:
        """Return the next batch.

        Raises:
            UserError: a picture cannot be read, or a loader process or its transport has failed.
            Stopped: `stop` returned true during the wait.
            RuntimeError: the system killed a loader process; begins with KILLED.
        """
        while True:
            try:
                batch = next(self._loader)
                batch = batch.unpack() if isinstance(batch, Packed) else batch
            except (ConnectionError, EOFError, FileNotFoundError):  # killed during the transfer of a batch
                raise RuntimeError(KILLED) from None
            except OSError as error:
                raise UserError(reason(error)) from None
            except RuntimeError as error:
                self._judge(error)
            else:
                break
        if isinstance(batch, Failed):
            raise UserError(batch)
        return batch

    def _judge(self, error: RuntimeError) -> None:
        """Return if torch's timeout only means that no batch is ready; else raise the error that applies."""
        text = str(error)
        # torch copies batches to pinned memory in a thread; that thread ends if a loader process is killed.
        if "Pin memory thread" in text or (text.startswith(LATE) and not self._handed_on()):
            raise RuntimeError(KILLED) from None
        if not text.startswith(LATE):
            raise error
        if self._stop():
            raise Stopped from None

    def _handed_on(self) -> bool:
        thread = getattr(self._loader, "_pin_memory_thread", None)
        return thread is None or thread.is_alive()


class _Batches:
    """The dataset in a loader process: reads batches, and returns an error as a message in place of a batch."""

    def __init__(self, source: Pictures, captions: Sequence[str], tokenizer: Any) -> None:
        self._source, self._captions, self._tokenizer = source, captions, tokenizer

    def __getitems__(self, rows: Rows) -> tuple[Tensor, Tensor] | Packed | Failed:
        if not self._source.reading.workers:
            return self._read(rows, torch.get_num_threads())
        try:
            return Packed(self._read(rows, 1))
        except Exception as error:  # the training process must receive every error
            return Failed(reason(error))

    def _read(self, rows: Rows, threads: int) -> tuple[Tensor, Tensor]:
        self._source.advise(rows.advised)
        return self._source._read(rows.read, threads), self._tokenizer([self._captions[row] for row in rows.read])


def _as_it_is(batch: Any) -> Any:
    return batch

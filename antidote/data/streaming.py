"""Pictures that stay in their shards: indexed like a tensor, read and decoded when they are asked for.

Where a picture lies is known from the index, so any order can be read; a poisoned pair just lies in another tar. Loader
processes read ahead the batches of an order that seed and step alone determine: neither their number nor the step that
a run is resumed at changes what is trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from antidote.base.errors import UserError
from antidote.base.lazy import torch
from antidote.data.loaders import AHEAD, Failed, Packed, begin, reason
from antidote.data.picture_array import PictureArray
from antidote.data.store import images, shards

if TYPE_CHECKING:
    from torch import Tensor

KILLED, LATE = "DataLoader worker (pid", "DataLoader timed out"  # in torch's words
POLL_SECONDS = 1  # between two looks at whether a wait has to end
PLACE = np.dtype([("file", np.int32), ("size", np.int32), ("offset", np.int64)])


@dataclass(frozen=True)
class Reading:
    """How training reads its pictures; it changes no result.

    Attributes:
        in_memory: bytes of pictures, at the model's resolution, up to which they are held in memory.
        workers: loader processes where they are not; 0: the training process reads, between its steps.
    """

    in_memory: int = 4 << 30
    workers: int = 2

    def fits(self, count: int, size: int) -> bool:
        """Tell whether pictures (count, 3, size, size) may lie in memory."""
        return count * 3 * size * size <= self.in_memory

    @property
    def threads(self) -> int:
        """Threads that decode where no loader process does, while nothing else computes."""
        return max(torch.get_num_threads(), self.workers)


class Texts(Sequence):
    """Strings in one piece of memory, which loader processes share: some ten bytes more than their characters each."""

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
        """Return the texts of some rows (n,)."""
        return Texts(self._column.take(rows))

    def replaced(self, rows: Sequence[int], texts: Sequence[str]) -> Texts:
        """Return these texts, with others in some rows."""
        import pyarrow as pa

        order = np.arange(len(self))
        order[list(rows)] = len(self) + np.arange(len(rows))
        return joined_texts([self, Texts(pa.array(texts, self._column.type))]).take(order)


def joined_texts(parts: Sequence[Texts]) -> Texts:
    """Return the texts of all parts, one after the other."""
    import pyarrow as pa

    return Texts(pa.concat_arrays([part._column for part in parts]))


@dataclass(frozen=True)
class Pictures(PictureArray):
    """N pictures on disk.

    Attributes:
        files: tars.
        places: (N,) PLACE; where each picture lies.
        size: side in pixels that they are resized and cropped to.
        reading: how much may be held in memory, how many processes read.
    """

    files: tuple[Path, ...]
    places: np.ndarray
    size: int
    reading: Reading

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.places), 3, self.size, self.size

    def read(self, rows: Sequence[int]) -> Tensor:
        return self._read(rows, self.reading.threads)

    def _read(self, rows: Sequence[int], threads: int) -> Tensor:
        chosen = self.places[np.asarray(rows, np.int64)]
        members = [(self.files[file], int(offset), int(size)) for file, size, offset in chosen]
        names = [f"{path}: picture at byte {offset}" for path, offset, _ in members]
        return torch.from_numpy(images.load_pictures(shards.read_members(members), self.size, threads, names))

    def take(self, rows: Tensor) -> Tensor | Pictures:
        """Return the pictures of some rows: in memory where so many may lie there."""
        if self.reading.fits(len(rows), self.size):
            return self[rows]
        return replace(self, places=self.places[rows.numpy()])

    def replaced(self, rows: Sequence[int], file: Path, offsets: Sequence[int], sizes: Sequence[int]) -> Pictures:
        """Return these pictures, with those of some rows from another tar."""
        places = self.places.copy()
        places[list(rows)] = _places(len(self.files), offsets, sizes)
        return replace(self, files=(*self.files, file), places=places)


def pictures(folder: Path, rows: Any, size: int, reading: Reading) -> Pictures:
    """Return the pictures of rows of a split's index: a pyarrow table with `shard`, `offset`, `size`."""
    names = rows["shard"].combine_chunks().dictionary_encode()
    files = tuple(folder / name for name in names.dictionary.to_pylist())
    columns = (rows[name].to_numpy() for name in ("offset", "size"))
    return Pictures(files, _places(names.indices.to_numpy(zero_copy_only=False), *columns), size, reading)


def _places(file: Any, offsets: Any, sizes: Any) -> np.ndarray:
    places = np.empty(len(offsets), PLACE)
    places["file"], places["offset"], places["size"] = file, offsets, sizes
    return places


def joined(parts: Sequence[Pictures]) -> Pictures:
    """Return the pictures of all parts, one after the other."""
    files, places = [], []
    for part in parts:
        moved = part.places.copy()
        moved["file"] += len(files)
        files.extend(part.files)
        places.append(moved)
    return replace(parts[0], files=tuple(files), places=np.concatenate(places))


class Stopped(Exception):
    """The training has been told to stop while it waited for a batch."""


class Ahead:
    """Batches, read and decoded by loader processes while the model trains.

    A context manager. `next` gives pictures (n, 3, size, size) uint8, and the tokens (n, context_length) of their
    captions. Where the system has killed a loader process, torch may raise a RuntimeError of KILLED at any time.
    """

    def __init__(
        self,
        source: Pictures,
        captions: Sequence[str],
        order: Iterable[list[int]],
        tokenizer: Any,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start the loader processes.

        Args:
            order: the rows of each batch.
            tokenizer: turns captions into tokens; open_clip's is slow, in Python.
            stop: asked every second of a wait whether the wait has to end.

        Raises:
            UserError: they cannot start.
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
            generator=torch.Generator(),  # not torch's global stream, which the steps draw from
        )
        try:
            self._loader = iter(loader)
        except OSError as error:
            raise UserError(reason(error)) from None

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        """End the loader processes, which no signal but this ends."""
        if hasattr(self._loader, "_workers"):
            # Else torch, which watches them, may take their end for an accident and raise in whatever runs then.
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
            Stopped: the wait had to end.
        """
        while True:
            try:
                batch = next(self._loader)
                batch = batch.unpack() if isinstance(batch, Packed) else batch
            except (ConnectionError, EOFError, FileNotFoundError):  # killed while it handed over a batch
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
        """Return where torch only says that no batch has come yet; else raise what has to be raised."""
        text = str(error)
        # A thread of torch's takes the batch that is to go to a GPU, and ends with the loader.
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
    """What a loader process asks for batches; an error comes back as the line that tells of it."""

    def __init__(self, source: Pictures, captions: Sequence[str], tokenizer: Any) -> None:
        self._source, self._captions, self._tokenizer = source, captions, tokenizer

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, Tensor] | Packed | Failed:
        if not self._source.reading.workers:
            return self._read(rows, torch.get_num_threads())
        try:
            return Packed(self._read(rows, 1))
        except Exception as error:  # whatever it is, the training has to learn of it
            return Failed(reason(error))

    def _read(self, rows: list[int], threads: int) -> tuple[Tensor, Tensor]:
        return self._source._read(rows, threads), self._tokenizer([self._captions[row] for row in rows])


def _as_it_is(batch: Any) -> Any:
    return batch

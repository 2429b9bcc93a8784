"""Every exchange between processes: the one place of the package that calls torch.distributed.

What is copied travels as bytes, which every library moves whatever the dtype; what is added up is
float32 or float64. Tensors are exchanged where they are, or, for Gloo, on the CPU.
"""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Record = dict[str, Any]

RECORD = 1024
"""Bytes of a record: JSON, filled up with zeros."""


class ExchangeError(RuntimeError):
    """An exchange did not take place: a process has died, or has not made the same call."""


class Exchange:
    """One process in its group during one call of `call`. Rank 0 of the group leads."""

    def __init__(self, group: "ProcessGroup", call: str) -> None:
        self.group, self.call = group, call
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self._leader = dist.get_global_rank(group, 0)
        pairs = dist.get_backend_config(group).split(",")
        self.backends = dict(pair.split(":") for pair in pairs)
        # without an index: the current device, as the library of a GPU group takes it
        self.small = torch.device("cpu" if "cpu" in self.backends else next(iter(self.backends)))
        """Where records and flags are exchanged."""

    def wire(self, device: torch.device) -> torch.device:
        """Where tensors of a device are exchanged: there; or on the CPU, where Gloo knows every
        collective."""
        if self.backends.get(device.type, "gloo") == "gloo":
            return torch.device("cpu")
        return device

    def name(self, *ranks: int) -> str:
        """Ranks of the group in words, with their ranks in the whole job where those differ."""
        each = []
        for rank in ranks:
            whole = dist.get_global_rank(self.group, rank)
            each.append(str(rank) if whole == rank else f"{rank} of the group ({whole} of all)")
        return f"rank {each[0]}" if len(each) == 1 else f"ranks {', '.join(each)}"

    def who(self) -> str:
        return f"{self.call} over {self.size} processes"

    # sums

    def sum_everywhere(self, what: str, buffer: Tensor) -> Tensor:
        """The sum of every process's buffer, on every process."""
        wire = buffer.to(self.wire(buffer.device))
        self._run(what, dist.all_reduce, wire)
        return wire.to(buffer.device)

    def sum_on_leader(self, what: str, buffer: Tensor) -> Tensor | None:
        """The sum of every process's buffer on the leader, None on the others."""
        wire = buffer.to(self.wire(buffer.device))
        self._run(what, dist.reduce, wire, dst=self._leader)
        return wire.to(buffer.device) if self.rank == 0 else None

    # copies

    def from_leader(self, what: str, tensor: Tensor) -> Tensor:
        """The leader's tensor on every process; the others give one like it to be filled."""
        wire = tensor.to(self.wire(tensor.device)).contiguous()
        if wire.numel():
            self._run(what, dist.broadcast, _bytes(wire), src=self._leader)
        return wire.to(tensor.device)

    def record_from_leader(self, what: str, record: Record) -> Record:
        """The leader's record on every process; what the others give is not looked at."""
        return _decode(self.from_leader(what, _encode(record).to(self.small)))

    def records(self, what: str, record: Record) -> list[Record]:
        """The record of every process, on every process."""
        return [_decode(r) for r in self.gather(what, _encode(record).to(self.small)).cpu()]

    def gather(self, what: str, block: Tensor) -> Tensor:
        """Blocks of equal shape from every process, on every process: (size, *block.shape)."""
        wire = block.to(self.wire(block.device)).contiguous()
        every = torch.empty(self.size, *block.shape, dtype=block.dtype, device=wire.device)
        self._run(what, dist.all_gather, [_bytes(block) for block in every], _bytes(wire))
        return every.to(block.device)

    def gather_rows(self, what: str, z: Tensor, counts: list[int]) -> Tensor:
        """The rows of all processes (n, m), from z (counts[rank], m). Blocks are filled up to the
        longest: libraries want them equal."""
        block = torch.zeros(max(counts), z.shape[1], dtype=z.dtype, device=z.device)
        block[: len(z)] = z
        every = self.gather(what, block)
        return torch.cat([rows[:n] for rows, n in zip(every, counts, strict=True)])

    def slices(self, m: int) -> list[slice]:
        """The columns of each process: m split as evenly as it goes."""
        return [slice(a, b) for a, b in pairwise(m * r // self.size for r in range(self.size + 1))]

    def to_columns(self, what: str, z: Tensor, counts: list[int]) -> Tensor:
        """From this process's rows z (counts[rank], m) to its columns of all rows, (n, m_rank)."""
        slices = self.slices(z.shape[1])
        widths = [part.stop - part.start for part in slices]
        own, width = counts[self.rank], widths[self.rank]
        send = torch.cat([z[:, part].reshape(-1) for part in slices])
        got = self._all_to_all(what, send, [own * w for w in widths], [n * width for n in counts])
        return got.view(sum(counts), width)

    def to_rows(self, what: str, columns: Tensor, counts: list[int], m: int) -> Tensor:
        """The way back: from columns (n, m_rank) of all rows to this process's rows."""
        widths = [part.stop - part.start for part in self.slices(m)]
        own, width = counts[self.rank], widths[self.rank]
        sizes = [own * w for w in widths]
        got = self._all_to_all(what, columns.reshape(-1), [n * width for n in counts], sizes)
        blocks = zip(got.split(sizes), widths, strict=True)
        return torch.cat([block.view(own, w) for block, w in blocks], dim=1)

    def _all_to_all(self, what: str, send: Tensor, sent: list[int], got: list[int]) -> Tensor:
        wire = send.to(self.wire(send.device))
        out = torch.empty(sum(got), dtype=send.dtype, device=wire.device)
        width = send.element_size()
        self._run(
            what,
            dist.all_to_all_single,
            _bytes(out),
            _bytes(wire),
            output_split_sizes=[n * width for n in got],
            input_split_sizes=[n * width for n in sent],
        )
        return out.to(send.device)

    def _run(self, what: str, collective: Callable[..., Any], *tensors: Any, **how: Any) -> None:
        try:
            collective(*tensors, **how, group=self.group)
        except RuntimeError as error:
            raise ExchangeError(
                f"{self.who()}: exchanging {what} failed on {self.name(self.rank)}. A process has "
                "died or has not made the same call in time; the group cannot be used any more. "
                f"From torch.distributed: {error}"
            ) from error


def _bytes(t: Tensor) -> Tensor:
    return t.view(-1).view(torch.uint8)


def _encode(record: Record) -> Tensor:
    """A record as uint8 (RECORD,); an error's text is cut to what fits."""
    while len(text := json.dumps(record).encode()) > RECORD:
        kind, reason = record["error"]  # all else is short
        record = {**record, "error": [kind, reason[: len(reason) * 3 // 4]]}
    return torch.tensor(list(text.ljust(RECORD, b"\0")), dtype=torch.uint8)


def _decode(encoded: Tensor) -> Record:
    record: Record = json.loads(bytes(encoded.tolist()).rstrip(b"\0"))
    return record

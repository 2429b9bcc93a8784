"""Processes that compute one loss together, and stay in step when one of them fails.

An error on one process is an error on all, and none is left waiting:

* A call opens with one small record from each process (`agree`). Input that is wrong on one of
  them, or differs among them, is found before anything of size moves.
* Local work between exchanges runs inside `attempt`. If it fails, the process still takes part in
  the next exchange, which carries a flag; then all say what happened to them, and raise.

What these cannot help is a process that is killed or never makes the call: there the exchange
itself fails, at once or when the group's timeout is over, and `ExchangeError` says in which.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn, TypeVar

import torch
from torch import Tensor

from wssl_fast.distributed import halves
from wssl_fast.distributed.exchange import Exchange, ExchangeError, Record

T = TypeVar("T")


class Elsewhere(Exception):
    """Local work failed on some process, which will say why when all `explain`."""


class Opening(NamedTuple):
    """What is known of all processes once a call has opened."""

    counts: list[int]
    """Rows of each process."""
    grad: bool
    """Whether any process wants a gradient."""


class Team(Exchange):
    """One process among those of a group, during one call."""

    _error: Exception | None = None

    def agree(
        self, settings: Mapping[str, object], prepare: Callable[[], Sequence[Tensor]]
    ) -> tuple[list[Tensor], Opening]:
        """What `prepare` makes here, and the opening; or the same error on every process.

        `prepare` gives tensors (..., n, m) of one shape and raises what is wrong with the
        arguments. Processes must agree in `settings` and in all of z but its number of rows.
        """
        tensors = self.attempt(lambda: list(prepare()))
        mine: Record = {"call": self.call, "error": self._told()}
        mine["settings"] = {name: _say(value) for name, value in settings.items()}
        if tensors is not None:
            z = tensors[0]
            mine["rows"] = z.shape[-2]
            mine["grad"] = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
            mine["input"] = {
                "columns m": z.shape[-1],
                "leading dimensions": str(tuple(z.shape[:-2])),
                "dtype": str(z.dtype),
                "device": z.device.type,
            }
        records = self.records("what each was called with", mine)
        self._same("function", [record["call"] for record in records])
        self._raise_what_was_told(records)
        assert tensors is not None  # its error would have been raised
        for part in ("settings", "input"):
            for name in mine[part]:
                self._same(name, [record[part].get(name) for record in records])
        opening = Opening([r["rows"] for r in records], any(r["grad"] for r in records))
        return tensors, opening

    def check_device(self, name: str, device: torch.device) -> None:
        """Whether the group can exchange tensors of this device at all."""
        if self.wire(device).type not in self.backends:
            known = ", ".join(f"{kind} ({library})" for kind, library in self.backends.items())
            raise ValueError(
                f"{name} is on {device.type}, but group exchanges tensors of {known} only"
            )

    def attempt(self, work: Callable[[], T]) -> T | None:
        """What `work` makes, or None where it fails, now or already before; told at the next
        exchange."""
        if self._error is not None:
            return None
        try:
            return work()
        except ExchangeError:
            raise
        except Exception as error:
            self.fail(error)
            return None

    def fail(self, error: Exception) -> None:
        """Keeps an error of this process, to be told at the next exchange."""
        if self._error is None and not isinstance(error, Elsewhere):
            self._error = error

    def settle(self) -> None:
        """Goes on if no process has failed so far."""
        flag = torch.tensor(self._error is not None, dtype=torch.uint8, device=self.small)
        if bool(self.gather("whether all is well", flag).any()):
            self.explain()

    def explain(self) -> NoReturn:
        """Raises on every process what went wrong on some."""
        self._raise_what_was_told(self.records("what went wrong", {"error": self._told()}))
        raise RuntimeError(f"{self.who()}: a process failed and did not say why")

    def add_up(
        self,
        what: str,
        work: Callable[[], Tensor],
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
        *,
        everywhere: bool = False,
    ) -> Tensor | None:
        """The sum over processes of what `work` makes, of the given shape, dtype and device.

        On every process, or on the leader alone and None on the others. Where work has failed: an
        error on every process, or `Elsewhere` on the leader, which then has to make all explain.
        Square matrices are taken for symmetric, and half of them is sent.
        """
        symmetric = len(shape) == 2
        count = halves.size(shape[0]) if symmetric else math.prod(shape)
        buffer = torch.zeros(count + self.size, dtype=dtype, device=device)

        def fill() -> bool:
            part = work()
            if symmetric:
                halves.fold(part, buffer[:count])
            else:
                buffer[:count] = part
            return True

        if not self.attempt(fill):
            buffer[count + self.rank] = 1  # a place for each: a flag that no sum can hide
        add = self.sum_everywhere if everywhere else self.sum_on_leader
        total = add(what, buffer)
        if total is None:
            return None
        if bool(total[count:].any()):
            if everywhere:
                self.explain()
            raise Elsewhere
        return halves.unfold(total[:count], shape[0]) if symmetric else total[:count]

    def gather_values(self, what: str, work: Callable[[], Tensor], count: int) -> Tensor:
        """What `work` makes, float64 (count,), from every process: float64 (size, count)."""
        mine = torch.zeros(count + 1, dtype=torch.float64, device=self.small)
        part = self.attempt(work)
        if part is None:
            mine[count] = 1
        else:
            mine[:count] = part
        every = self.gather(what, mine)
        if bool(every[:, count].any()):
            self.explain()
        return every[:, :count]

    def half_from_leader(self, what: str, a: Tensor) -> Tensor:
        """`from_leader` of a symmetric matrix (k, k), of which half is sent."""
        half = torch.empty(halves.size(len(a)), dtype=a.dtype, device=a.device)
        if self.rank == 0:
            halves.fold(a, half)
        return halves.unfold(self.from_leader(what, half), len(a))

    def _told(self) -> list[str] | None:
        if self._error is None:
            return None
        return [type(self._error).__name__, str(self._error)]

    def _raise_what_was_told(self, records: list[Record]) -> None:
        told = {rank: record["error"] for rank, record in enumerate(records) if record["error"]}
        if not told:
            return
        reasons = []
        for rank, (kind, text) in told.items():
            plain = kind in ("TypeError", "ValueError")
            reasons.append(f"{self.name(rank)}: {text if plain else f'{kind}: {text}'}")
        first = next(iter(told.values()))[0]
        error = {"TypeError": TypeError, "ValueError": ValueError}.get(first, RuntimeError)
        raise error(f"{self.who()}: {'; '.join(reasons)}") from self._error

    def _same(self, what: str, said: list[object]) -> None:
        ranks: dict[str, list[int]] = {}
        for rank, value in enumerate(said):
            ranks.setdefault(str(value), []).append(rank)
        if len(ranks) > 1:
            views = "; ".join(f"{value} on {self.name(*who)}" for value, who in ranks.items())
            raise ValueError(f"{self.who()}: the processes differ in {what}: {views}")


def _say(setting: object) -> str:
    """A setting in at most 40 letters; 0 and 0.0 are the same."""
    return str(setting).removesuffix(".0")[:40]

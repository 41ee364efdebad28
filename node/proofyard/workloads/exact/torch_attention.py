"""Attention and its gradient (docs/exact.md) on torch tensors, batched over heads and over sequences of like length.

A batch's sequences are taken in groups; the shorter ones of a group are padded with rows of zeros which nothing sees.
That changes no bit: a pair that is not visible is +0 wherever it is summed, trees and maxima do not see zeros behind,
and integers have one sum. Work goes through in parts of so many pairs that a part's matrices stay in a cache.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch

from proofyard.workloads.exact.backend import AttentionShape
from proofyard.workloads.exact.torch_elementary import exp_, f32, inverse_, softcap_, softcap_slope_, tree, tree_
from proofyard.workloads.exact.torch_integers import Integers
from proofyard.workloads.exact.torch_slices import Cut, batch_over_rows_, batch_times_rows, cut

Tensor = torch.Tensor
Back = tuple[Tensor, Tensor, Tensor]
_OfPairs = Callable[[Sequence[Cut], "Hidden | None"], tuple[Tensor, ...]]

PAIRS_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 24}
_LIKE = 16  # lengths that are equal when rounded up to a multiple of this are padded to the longest of them


@dataclass(frozen=True)
class Heads:
    """How many query heads share each of the key heads."""

    kv: int
    group: int

    def queries(self, x: Tensor, sequences: int) -> Tensor:
        """(sequences * t, heads * d) to (sequences * kv, group * t, d): the rows that share keys together."""
        t, d = x.shape[0] // sequences, x.shape[1] // (self.kv * self.group)
        split = x.view(sequences, t, self.kv, self.group, d).permute(0, 2, 3, 1, 4)
        return split.reshape(sequences * self.kv, self.group * t, d)

    def keys(self, x: Tensor, sequences: int) -> Tensor:
        """(sequences * T, kv * d) to (sequences * kv, T, d)."""
        length, d = x.shape[0] // sequences, x.shape[1] // self.kv
        return x.view(sequences, length, self.kv, d).permute(0, 2, 1, 3).reshape(sequences * self.kv, length, d)

    def queries_back(self, x: Tensor, sequences: int) -> Tensor:
        t, d = x.shape[1] // self.group, x.shape[2]
        joined = x.view(sequences, self.kv, self.group, t, d).permute(0, 3, 1, 2, 4)
        return joined.reshape(sequences * t, self.kv * self.group * d)

    def keys_back(self, x: Tensor, sequences: int) -> Tensor:
        length, d = x.shape[1:]
        return x.view(sequences, self.kv, length, d).permute(0, 2, 1, 3).reshape(sequences * length, self.kv * d)


@dataclass(frozen=True)
class Rows:
    """Where a group's rows stand in the batch: `at` (sequences * length,) with the batch's size for padding, and which
    of them are none, `real`, with where those stand."""

    at: Tensor
    real: Tensor
    real_at: Tensor
    whole: bool  # the group is the batch, without padding

    def take(self, x: Tensor) -> Tensor:
        if self.whole:
            return x
        padded = torch.cat([x, x.new_zeros(1, x.shape[1])])
        return padded[self.at]

    def put(self, x: Tensor, into: Tensor) -> None:
        if self.whole:
            into.copy_(x)
            return
        into[self.real_at] = x[self.real]


@dataclass(frozen=True)
class Hidden:
    """The pairs that count as +0, and two ways of making them so.

    Filling by a mask is right whatever stands there. Adding -infinity before the maximum and multiplying by 0 later is
    ten times faster on CPUs and right where it makes no NaN: a NaN in a hidden pair makes a row of results NaN, so
    finite results prove that none was made."""

    mask: Tensor  # (sequences or 1, t, keys)
    bias: Tensor  # -infinity where hidden, else 0; rows of padding see their first key
    keep: Tensor  # 0 where hidden, else 1
    padding: Tensor  # (sequences or 1, t, 1): 1 for rows of padding, whose sum of +0 could not be divided by, else 0
    filled: bool = True

    @classmethod
    def of(cls, mask: npt.NDArray[np.bool_], device: torch.device) -> "Hidden":
        hidden = torch.from_numpy(mask).to(device)
        padding = hidden.all(-1, keepdim=True)
        bias = torch.zeros(hidden.shape, device=device).masked_fill_(hidden & ~padding, -torch.inf)
        return cls(hidden, bias, (~hidden).to(torch.float32), padding.to(torch.float32))

    def of_entries(self, sequences: list[int]) -> "Hidden":
        """For entries of some sequences: (entries or 1, 1, t, keys)."""
        some = sequences if len(self.mask) > 1 else slice(None)
        mask, bias, keep, padding = (part[some, None] for part in (self.mask, self.bias, self.keep, self.padding))
        return Hidden(mask, bias, keep, padding)

    def multiplied(self) -> "Hidden":
        return replace(self, filled=False)

    def exclude_(self, pairs: Tensor) -> Tensor:
        """Hidden pairs become -infinity."""
        return pairs.masked_fill_(self.mask, -torch.inf) if self.filled else pairs.add_(self.bias)

    def zero_(self, pairs: Tensor) -> Tensor:
        """Hidden pairs, which may hold anything, become +0."""
        return pairs.masked_fill_(self.mask, 0.0) if self.filled else pairs.mul_(self.keep)

    def still_zero_(self, pairs: Tensor) -> Tensor:
        """Hidden pairs that were zeros of some sign, or have been multiplied since, become zeros again."""
        return pairs.masked_fill_(self.mask, 0.0) if self.filled else pairs

    def sum(self, pairs: Tensor) -> Tensor:
        """The rows' trees, to be divided by."""
        total = tree(pairs)
        return total if self.filled else total.add_(self.padding)


@dataclass(frozen=True)
class Group:
    """Sequences that are computed together, padded to `t` queries and `length` keys."""

    sequences: int
    t: int
    length: int
    query_rows: Rows
    key_rows: Rows
    hidden: Hidden | None  # None where every pair is visible


@lru_cache(maxsize=2)
def groups(shape: AttentionShape, device: torch.device) -> tuple[Group, ...]:
    """The sequences that have queries, those of like lengths together; every layer of a model asks for the same."""
    return tuple(_groups(shape, device))


def _groups(shape: AttentionShape, device: torch.device) -> Iterator[Group]:
    alike: dict[tuple[int, int], list[int]] = {}
    for i, (t, length) in enumerate(zip(shape.queries, shape.keys, strict=True)):
        if t:
            alike.setdefault((-(-t // _LIKE), -(-length // _LIKE)), []).append(i)
    for members in alike.values():
        ts, lengths = [shape.queries[i] for i in members], [shape.keys[i] for i in members]
        t, length = max(ts), max(lengths)
        some = shape.causal or min(ts) < t or min(lengths) < length
        hidden = Hidden.of(_hidden(ts, lengths, shape), device) if some else None
        rows = _rows(shape.queries, members, t, device), _rows(shape.keys, members, length, device)
        yield Group(len(members), t, length, *rows, hidden)


def _rows(lengths: Sequence[int], members: list[int], padded: int, device: torch.device) -> Rows:
    starts = list(accumulate(lengths, initial=0))
    at = np.full((len(members), padded), starts[-1], np.int64)
    for row, i in zip(at, members, strict=True):
        row[: lengths[i]] = np.arange(starts[i], starts[i + 1])
    whole = len(members) == len(lengths) and all(lengths[i] == padded for i in members)
    real = np.flatnonzero(at < starts[-1])
    parts = [torch.from_numpy(x).to(device) for x in (at.reshape(-1), real, at.reshape(-1)[real])]
    return Rows(parts[0], parts[1], parts[2], whole)


def _hidden(ts: list[int], lengths: list[int], shape: AttentionShape) -> npt.NDArray[np.bool_]:
    if len(set(zip(ts, lengths, strict=True))) == 1:
        ts, lengths = ts[:1], lengths[:1]
    queries, keys = np.array(ts)[:, None, None], np.array(lengths)[:, None, None]
    i, key = np.arange(max(ts))[None, :, None], np.arange(max(lengths))[None, None]
    position = keys - queries + i
    seen = (i < queries) & (key < keys)
    if shape.causal:
        seen &= key <= position
        if shape.window:
            seen &= key > position - shape.window
    return ~seen


class Attention:
    """The operation for one unit and one number of heads."""

    def __init__(self, unit: Integers, heads: int, kv_heads: int, shape: AttentionShape) -> None:
        self.unit, self.heads, self.shape = unit, Heads(kv_heads, heads // kv_heads), shape

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        for group in groups(self.shape, q.device):
            operands = self._queries(q, group), self._keys(k, group), self._keys(v, group)
            (found,) = self._in_parts(group, self._attend, operands)
            group.query_rows.put(self.heads.queries_back(found, group.sequences), out)
        return out

    def backward(self, g: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Back:
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for group in groups(self.shape, q.device):
            operands = self._queries(g, group), self._queries(q, group), self._keys(k, group), self._keys(v, group)
            of_queries, of_keys, of_values = self._in_parts(group, self._attend_back, operands)
            group.query_rows.put(self.heads.queries_back(of_queries, group.sequences), dq)
            group.key_rows.put(self.heads.keys_back(of_keys, group.sequences), dk)
            group.key_rows.put(self.heads.keys_back(of_values, group.sequences), dv)
        return dq, dk, dv

    def _queries(self, x: Tensor, group: Group) -> Cut:
        return cut(self.heads.queries(group.query_rows.take(x), group.sequences), clean=True)

    def _keys(self, x: Tensor, group: Group) -> Cut:
        return cut(self.heads.keys(group.key_rows.take(x), group.sequences), clean=True)

    def _in_parts(self, group: Group, function: _OfPairs, operands: Sequence[Cut]) -> list[Tensor]:
        """A function's results for all entries, from parts that have few enough pairs."""
        entries, device = group.sequences * self.heads.kv, operands[0].hi.device.type
        size = max(1, PAIRS_AT_ONCE[device] // (self.heads.group * group.t * group.length))
        found: list[tuple[Tensor, ...]] = []
        for start in range(0, entries, size):
            stop = min(entries, start + size)
            part = [Cut(each.hi[start:stop], each.lo[start:stop], each.scale[start:stop]) for each in operands]
            hidden = group.hidden
            if hidden is None:
                found.append(function(part, None))
                continue
            hidden = hidden.of_entries([entry // self.heads.kv for entry in range(start, stop)])
            fast = function(part, hidden.multiplied()) if device == "cpu" else ()
            finite = bool(fast) and all(bool(torch.isfinite(x).all()) for x in fast)
            found.append(fast if finite else function(part, hidden))
        return [torch.cat(parts) for parts in zip(*found, strict=True)]

    def _attend(self, operands: Sequence[Cut], hidden: Hidden | None) -> tuple[Tensor, ...]:
        q, k, v = operands
        s, _ = self._scores(q, k, keep=False)
        return (self._over_keys(_probabilities_(s, hidden), v, hidden),)

    def _attend_back(self, operands: Sequence[Cut], hidden: Hidden | None) -> tuple[Tensor, ...]:
        g, q, k, v = operands
        s, plain = self._scores(q, k, keep=True)
        p = _probabilities_(s, hidden)
        dp = _still_zero_(self._pairs(batch_times_rows(g, v, self.unit)), hidden)
        ds = dp.sub_(tree_(p * dp)).mul_(p)
        if plain is not None:
            ds.mul_(softcap_slope_(plain, self.shape.softcap))
        _still_zero_(ds.mul_(f32(self.shape.scale)), hidden)
        dv = self._over_queries(p, g, hidden)
        return self._over_keys(ds, k, hidden), self._over_queries(ds, q, hidden), dv

    def _pairs(self, x: Tensor) -> Tensor:
        """(entries, group * t, keys) as (entries, group, t, keys)."""
        return x.view(x.shape[0], self.heads.group, -1, x.shape[2])

    def _scores(self, q: Cut, k: Cut, *, keep: bool) -> tuple[Tensor, Tensor | None]:
        """(S, S before the softcap where there is one and it is kept)."""
        s = self._pairs(batch_times_rows(q, k, self.unit)).mul_(f32(self.shape.scale))
        if not self.shape.softcap:
            return s, None
        plain = s.clone() if keep else None
        return softcap_(s, self.shape.softcap), plain

    def _over_keys(self, pairs: Tensor, keys: Cut, hidden: Hidden | None) -> Tensor:
        """product_over_rows(pairs, keys): (entries, group * t, d)."""
        scaled = _still_zero_(pairs * keys.scale.transpose(1, 2).unsqueeze(1), hidden)
        return batch_over_rows_(scaled.flatten(1, 2), keys, self.unit)

    def _over_queries(self, pairs: Tensor, queries: Cut, hidden: Hidden | None) -> Tensor:
        """product_over_rows(transpose of pairs, queries), the heads of a group added in order: (entries, keys, d)."""
        entries, group, t, length = pairs.shape
        scaled = _still_zero_(pairs * queries.scale.view(entries, group, t, 1), hidden)
        d = queries.hi.shape[2]
        split = Cut(*(x.view(entries * group, t, -1) for x in (queries.hi, queries.lo, queries.scale)))
        heads = batch_over_rows_(scaled.flatten(0, 1), split, self.unit, transposed=True)
        heads = heads.view(entries, group, length, d)
        total = heads[:, 0]
        for number in range(1, group):
            total = total.add_(heads[:, number])
        return total


def _probabilities_(s: Tensor, hidden: Hidden | None) -> Tensor:
    """P; what s held is lost."""
    if hidden is None:
        e = exp_(s.sub_(s.amax(-1, keepdim=True)))
        return e.mul_(inverse_(tree(e)))
    m = hidden.exclude_(s).amax(-1, keepdim=True)
    e = hidden.zero_(exp_(s.sub_(m)))
    return hidden.still_zero_(e.mul_(inverse_(hidden.sum(e))))


def _still_zero_(pairs: Tensor, hidden: Hidden | None) -> Tensor:
    return pairs if hidden is None else hidden.still_zero_(pairs)

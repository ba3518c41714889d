"""The dimensions of tensors as terms, and the unification of two terms.

A dimension that may shrink is an expression over *atoms*: ``Atom`` (its leading entries are kept),
``View(of, outer, inner)`` (entries ``(o * size + k) * inner + i``: a flattened map, heads of some channels,
groups) and ``Sum(parts)`` (a concatenation). After `unify` two terms stand for the same entries at every size;
terms without a common form are fixed at their full size, with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


class Atom:
    """Entries of which the leading ones are kept.

    Attributes:
        size: how many entries there are.
        bound: the term that it was unified with; None: it is an axis.
        fixed: why it must stay whole; None if it need not.
    """

    def __init__(self, size: int, fixed: str | None = None) -> None:
        self.size = size
        self.bound: Term | None = None
        self.fixed = fixed

    def __repr__(self) -> str:
        return f"Atom({self.size}{', fixed' if self.fixed else ''})" if self.bound is None else repr(self.bound)


@dataclass(frozen=True, eq=False)
class View:
    """Each entry of a term, `inner` times in a row, and all of that `outer` times."""

    of: Term
    outer: int = 1
    inner: int = 1


@dataclass(frozen=True, eq=False)
class Sum:
    """Terms one after the other."""

    parts: tuple[Term, ...]


Term = Atom | View | Sum


def size_of(term: Term) -> int:
    """How many entries a term has."""
    if isinstance(term, Atom):
        return term.size
    if isinstance(term, View):
        return term.outer * size_of(term.of) * term.inner
    return sum(size_of(part) for part in term.parts)


def resolved(term: Term) -> Term:
    """The term in its simplest form: bindings followed, views of views joined, views of sums spread."""
    while isinstance(term, Atom) and term.bound is not None:
        term = term.bound
    if isinstance(term, Sum):
        parts = [resolved(part) for part in term.parts]
        return Sum(tuple(piece for part in parts for piece in (part.parts if isinstance(part, Sum) else (part,))))
    if isinstance(term, View):
        of = resolved(term.of)
        if isinstance(of, View):
            return View(of.of, term.outer * of.outer, of.inner * term.inner)
        if isinstance(of, Sum) and term.outer == 1:
            return resolved(Sum(tuple(View(part, 1, term.inner) for part in of.parts)))
        return of if term.outer == term.inner == 1 else View(of, term.outer, term.inner)
    return term


def atoms(term: Term) -> Iterator[Atom]:
    """The unbound atoms of a term."""
    term = resolved(term)
    if isinstance(term, Atom):
        yield term
    elif isinstance(term, View):
        yield from atoms(term.of)
    else:
        for part in term.parts:
            yield from atoms(part)


def fix(term: Term, reason: str) -> None:
    """Keeps a term at its full size; the first reason stays."""
    for atom in atoms(term):
        atom.fixed = atom.fixed or reason


def unify(one: Term, other: Term, reason: str) -> None:
    """Makes two terms stand for the same entries; where that is impossible, fixes both for `reason`."""
    one, other = resolved(one), resolved(other)
    if one is other:
        return
    if size_of(one) != size_of(other):
        fix(one, reason)
        fix(other, reason)
    elif isinstance(one, Atom):
        _bind(one, other)
    elif isinstance(other, Atom):
        _bind(other, one)
    elif isinstance(one, View) and isinstance(other, View):
        _unify_views(one, other, reason)
    elif isinstance(one, Sum) and isinstance(other, Sum) and _sizes(one.parts) == _sizes(other.parts):
        for a, b in zip(one.parts, other.parts, strict=True):
            unify(a, b, reason)
    elif not (_unify_repeated(one, other, reason) or _unify_repeated(other, one, reason)):
        fix(one, reason)
        fix(other, reason)


def _unify_repeated(parts: Term, repeated: Term, reason: str) -> bool:
    """Makes a concatenation the same as a term that comes several times; False where it has no such parts."""
    if not isinstance(parts, Sum) or not isinstance(repeated, View) or repeated.outer == 1:
        return False
    found = _cut(parts.parts, [size_of(parts) // repeated.outer] * repeated.outer)
    for part in found or ():
        unify(part, View(repeated.of, 1, repeated.inner), reason)
    return found is not None


def _bind(atom: Atom, term: Term) -> None:
    if atom.fixed:
        fix(term, atom.fixed)
    atom.bound = term


def _unify_views(one: View, other: View, reason: str) -> None:
    if (one.outer, one.inner) == (other.outer, other.inner):
        unify(one.of, other.of, reason)
        return
    common = math.lcm(one.inner, other.inner)
    if one.outer == other.outer and size_of(one) % (one.outer * common) == 0:
        unit = Atom(size_of(one) // (one.outer * common))
        unify(one.of, View(unit, 1, common // one.inner), reason)
        unify(other.of, View(unit, 1, common // other.inner), reason)
        return
    fix(one, reason)
    fix(other, reason)


def split_evenly(term: Term, count: int) -> list[Term] | None:
    """A term as `count` equal parts that shrink together; None where that is impossible."""
    term = resolved(term)
    size, rest = divmod(size_of(term), count)
    if rest:
        return None
    if isinstance(term, Atom):
        unit = Atom(size)
        _bind(term, View(unit, count))
        return [unit] * count
    if isinstance(term, View) and term.outer % count == 0:
        return [View(term.of, term.outer // count, term.inner)] * count
    if isinstance(term, View) and term.outer == 1:
        parts = split_evenly(term.of, count)
        return None if parts is None else [View(part, 1, term.inner) for part in parts]
    if isinstance(term, Sum):
        found = _cut(term.parts, [size] * count)
        if found is not None:
            for part in found[1:]:
                unify(found[0], part, "it is split into parts of one size")
        return found
    return None


def split_at(term: Term, sizes: Sequence[int]) -> list[Term] | None:
    """The parts of a term of these sizes; None where that is impossible. Equal parts shrink together, others alone."""
    even = split_evenly(term, len(sizes)) if len(set(sizes)) == 1 else None
    if even is not None:
        return even
    at = 0
    for size in sizes[:-1]:
        at += size
        if not _divide(term, at):
            return None
    term = resolved(term)
    return _cut(term.parts if isinstance(term, Sum) else [term], sizes)


def _divide(term: Term, at: int) -> bool:
    """Makes a term a concatenation of which one part ends before entry `at`; False where it cannot be."""
    term = resolved(term)
    if at in (0, size_of(term)):
        return True
    if isinstance(term, Atom):
        if term.fixed:
            return False
        _bind(term, Sum((Atom(at), Atom(term.size - at))))
        return True
    if isinstance(term, View):
        return term.outer == 1 and at % term.inner == 0 and _divide(term.of, at // term.inner)
    for part in term.parts:
        if at <= size_of(part):
            return _divide(part, at)
        at -= size_of(part)
    return False


def contributions(term: Term) -> list[tuple[Atom, tuple[int, ...], int]]:
    """Where the entries of each atom are: ``(atom, starts, entries per step of the atom)``."""
    term = resolved(term)
    if isinstance(term, Atom):
        return [(term, (0,), 1)]
    if isinstance(term, View):
        span = size_of(term.of)
        return [
            (
                atom,
                tuple((o * span + start) * term.inner for o in range(term.outer) for start in starts),
                unit * term.inner,
            )
            for atom, starts, unit in contributions(term.of)
        ]
    found, offset = [], 0
    for part in term.parts:
        found += [(atom, tuple(offset + s for s in starts), unit) for atom, starts, unit in contributions(part)]
        offset += size_of(part)
    return found


def _sizes(terms: Sequence[Term]) -> list[int]:
    return [size_of(term) for term in terms]


def _cut(parts: Sequence[Term], sizes: Sequence[int]) -> list[Term] | None:
    found: list[Term] = []
    rest = list(parts)
    for size in sizes:
        piece: list[Term] = []
        while rest and sum(_sizes(piece)) < size:
            piece.append(rest.pop(0))
        if sum(_sizes(piece)) != size:
            return None
        found.append(piece[0] if len(piece) == 1 else Sum(tuple(piece)))
    return None if rest else found

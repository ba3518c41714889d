"""From a traced program to axes: which widths of a model must agree."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ofa_slim.supernet.axis import Axis, Fixed, Slot
from ofa_slim.supernet.coupling.calls import RULES, Call, Dims, NoRuleError, Value, constant, whole
from ofa_slim.supernet.coupling.program import Op, Program
from ofa_slim.supernet.coupling.terms import Atom, atoms, contributions, fix, unify
from ofa_slim.supernet.layers import is_parameter_role

CHANNEL_ROLES = ("out", "in", "group_out")
CONSTANTS = ("full", "full_int_array", "assign_value")
# Operations that layers apply to their weights alone or with constants: changes of form, and look-ups of rows that do
# not depend on the input (the kind of a task).
ALLOWED_ALONE = ("reshape", "cast", "embedding")
# Operations of which each result depends on several entries.
MIXING = (
    "mean", "sum", "max", "min", "amax", "amin", "prod", "p_norm", "frobenius_norm", "logsumexp", "softmax",
    "log_softmax", "matmul", "bmm", "einsum", "cumsum", "argsort", "topk",
)  # fmt: skip


@dataclass(frozen=True)
class Holder:
    """A parameter of a layer that can be cut.

    Attributes:
        layer: attribute path of the layer.
        roles: the role of each of the parameter's dimensions.
    """

    layer: str
    roles: tuple[str, ...]


def couple(
    programs: Sequence[Program],
    holders: Mapping[str, Sequence[Holder]],
    names: Mapping[str, str],
    grown: Mapping[str, Collection[str]] | None = None,
) -> tuple[list[Axis], list[Fixed]]:
    """The axes of a traced model, each at its full size, and the layers that stay whole.

    Args:
        programs: the model's operations in each of its modes; widths that agree in one of them agree.
        holders: per name of a parameter, the layers that can be cut and hold it, in definition order.
        names: how reasons call each parameter or buffer, by its name.
        grown: per layer, the roles that are larger than in the original model.
    """
    return _Coupling(programs, holders, names).result(grown or {})


class _Coupling:
    def __init__(
        self, programs: Sequence[Program], holders: Mapping[str, Sequence[Holder]], names: Mapping[str, str]
    ) -> None:
        self.holders = holders
        self.names = names
        self.roles: dict[tuple[str, str], Atom] = {}
        self.used = {name for program in programs for name in _used_parameters(program)}
        for program in programs:
            self._follow(program)

    def _follow(self, program: Program) -> None:
        """Works out which widths agree in one program; ids of values are those of this program alone."""
        self.program = program
        self.values: dict[str, Value | list[Value]] = {}
        self.weights: set[str] = set()  # values that depend only on parameters of layers that can be cut
        self.free: set[str] = set()  # and on those that a layer of the user's holds itself, whose part is read
        self.numbers: set[str] = set()  # constants, such as the shape that a bias is reshaped to
        for op in program.ops:
            self._apply(op)
        for output in program.outputs:
            for value in self._tensors(output):
                whole(value, range(len(value.shape)), "it is an output of the model")

    def _apply(self, op: Op) -> None:
        """Works out the outputs of an operation."""
        if op.name == "builtin.parameter":
            self.values[op.outputs[0]] = self._parameter(op.outputs[0])
            holders = self.holders.get(self.program.parameters[op.outputs[0]], ())
            if holders:
                (self.free if _is_free(holders) else self.weights).update(op.outputs)
            return
        if op.name == "builtin.combine":
            self.values[op.outputs[0]] = [value for id in op.inputs for value in self._tensors(id)]
            return
        if op.name in ("builtin.split", "builtin.slice"):
            self._unpack(op)
            return
        shapes = [self.program.shapes.get(output, ()) for output in op.outputs]
        inputs = [None if id is None else self.values.get(id) for id in op.inputs]
        made = self._made(op, inputs, shapes)
        origin = _origin(op)
        for output, shape, dims in zip(op.outputs, shapes, made, strict=True):
            if dims and isinstance(dims[0], Value):
                self.values[output] = dims
            else:
                self.values[output] = Value(shape, dims, origin, constant(op.attributes))

    def _unpack(self, op: Op) -> None:
        """Unpacks a list of tensors; a list that no rule made has no elastic dimension."""
        listed = self.values.get(op.inputs[0] or "")
        first = int(op.attributes.get("index", 0))
        for place, output in enumerate(op.outputs, first):
            shape = self.program.shapes.get(output, ())
            fixed = Value(shape, [None] * len(shape), "a list of tensors")
            self.values[output] = listed[place] if isinstance(listed, list) and place < len(listed) else fixed

    def _made(self, op: Op, inputs: list[Value | list[Value] | None], shapes: list[tuple[int, ...]]) -> list[Dims]:
        if op.name in CONSTANTS:
            self.numbers.update(op.outputs)
        taken = [id for id in op.inputs if id is not None and id not in self.numbers]
        alone = bool(taken) and (self.weights | self.free).issuperset(taken)
        whole_weights = alone and not self.weights.isdisjoint(taken)
        if alone:
            (self.weights if whole_weights else self.free).update(op.outputs)
        rule = RULES.get(op.name.removesuffix("_"))
        flowing = any(dim is not None for given in inputs for value in _flat(given) for dim in value.dims)
        if (whole_weights and op.name not in ALLOWED_ALONE) or (alone and op.name in MIXING):
            # At a smaller width these would still be the whole weights, or be mixed with those that are cut.
            self._keep_whole(op, "the forward computes with its weights outside the layer")
        elif op.name == "pylayer":
            self._keep_whole(op, "it passes through a function with a custom gradient (PyLayer)")
        elif op.inner:
            self._keep_whole(op, "it passes through control flow that depends on data")
        elif flowing or op.name.startswith(("split", "unbind", "unstack")):
            try:
                if rule is None:
                    raise NoRuleError
                made = rule(Call(op, inputs, shapes))
                if len(made) == len(shapes):
                    return made
            except (NoRuleError, IndexError, KeyError):
                pass
            self._keep_whole(op, f"it passes through operation {op.name!r}, for which there is no rule")
        return [[None] * len(shape) for shape in shapes]

    def _keep_whole(self, op: Op, reason: str) -> None:
        for id in _taken(op):
            for value in self._tensors(id):
                whole(value, range(len(value.shape)), reason)

    def _tensors(self, id: str | None) -> list[Value]:
        return [] if id is None else _flat(self.values.get(id))

    def _parameter(self, id: str) -> Value:
        """A parameter or buffer; the dimensions of a layer that can be cut are its roles."""
        name = self.program.parameters[id]
        shape = self.program.shapes[id]
        dims: Dims = [None] * len(shape)
        for holder in self.holders.get(name, ()):
            for axis, role in enumerate(holder.roles):
                if not _may_shrink(role) or shape[axis] == 1:
                    continue
                atom = self.roles.setdefault((holder.layer, role), Atom(shape[axis]))
                shared = dims[axis]
                if shared is not None:
                    unify(atom, shared, "a parameter is shared by layers that use it differently")
                dims[axis] = atom
                if name not in self.used:
                    fix(atom, "the traced forward does not use it")
        return Value(shape, dims, f"parameter {self.names.get(name, name)!r}")

    def result(self, grown: Mapping[str, Collection[str]]) -> tuple[list[Axis], list[Fixed]]:
        """The axes in definition order of their first layers, and the layers on no axis, with the reason."""
        slots: dict[Atom, list[Slot]] = {}
        for (layer, role), term in self.roles.items():
            places: dict[tuple[Atom, int], list[int]] = {}
            for atom, starts, unit in contributions(term):
                places.setdefault((atom, unit), []).extend(starts)
            for (atom, unit), found in places.items():
                slots.setdefault(atom, []).append(Slot(layer, role, unit, tuple(sorted(found))))
        layers = dict.fromkeys(holder.layer for holders in self.holders.values() for holder in holders)
        order = {layer: place for place, layer in enumerate(layers)}
        owners = {holder.layer for holders in self.holders.values() for holder in holders if _is_free([holder])}
        for atom, own in slots.items():
            own.sort(key=lambda slot: (not slot.is_output, order[slot.layer]))
            if atom.fixed is None and atom.size == 1:
                atom.fixed = "it has one channel"
            if atom.fixed is None and not own[0].is_output:
                atom.fixed = "it is not the output of a layer that can be cut"
        axes = []
        for atom in self._cut_atoms(slots, grown):
            first = slots[atom][0]
            axis = Axis(_name(first, atom), atom.size, (atom.size,), tuple(slots[atom]), fixed_reason=atom.fixed or "")
            axes.append((order[first.layer], axis))
        axes.sort(key=lambda pair: pair[0])
        elastic = {slot.layer for _, axis in axes for slot in axis.slots if slot.is_output and not axis.fixed_reason}
        fixed = []
        for layer in order:
            if layer in elastic or layer in owners:
                continue
            made = self.roles.get((layer, "out"))
            reasons = [atom.fixed for atom in atoms(made) if atom.fixed] if made is not None else []
            fixed.append(Fixed(layer, reasons[0] if reasons else "it has one output channel"))
        return _renamed([axis for _, axis in axes]), fixed

    def _cut_atoms(self, slots: Mapping[Atom, Sequence[Slot]], grown: Mapping[str, Collection[str]]) -> list[Atom]:
        """The atoms that are axes: those that are elastic, and fixed ones that some role needs to be complete.

        A role that has one axis is cut, so all its atoms are axes; and a layer that is larger than in the original
        model is cut to its size there.
        """
        cut = {
            atom
            for atom, found in slots.items()
            if atom.fixed is None or any(slot.role in grown.get(slot.layer, ()) for slot in found)
        }
        of_roles = [set(atoms(term)) for term in self.roles.values()]
        while added := {atom for own in of_roles if not cut.isdisjoint(own) for atom in own} - cut:
            cut |= added
        return [atom for atom in slots if atom in cut]


def _may_shrink(role: str) -> bool:
    return role in CHANNEL_ROLES or is_parameter_role(role)


def _is_free(holders: Sequence[Holder]) -> bool:
    return all(is_parameter_role(role) for holder in holders for role in holder.roles)


def _name(first: Slot, atom: Atom) -> str:
    return first.layer if first.is_output and atom.fixed is None else f"{first.layer}.{first.role}"


def _renamed(axes: list[Axis]) -> list[Axis]:
    """Numbers the axes of one layer (parts of a concatenation)."""
    seen: dict[str, int] = {}
    renamed = []
    for axis in axes:
        seen[axis.name] = seen.get(axis.name, 0) + 1
        renamed.append(axis if seen[axis.name] == 1 else replace(axis, name=f"{axis.name}.{seen[axis.name]}"))
    return renamed


def _used_parameters(program: Program) -> set[str]:
    """The names of the parameters that an operation of a program reads."""
    taken = {value for op in program.ops for value in _taken(op)}
    return {name for id, name in program.parameters.items() if id in taken}


def _taken(op: Op) -> list[str]:
    """The inputs of an operation and of those inside it."""
    return [id for id in op.inputs if id is not None] + [id for inner in op.inner for id in _taken(inner)]


def _flat(given: Value | list[Value] | None) -> list[Value]:
    if given is None:
        return []
    return given if isinstance(given, list) else [given]


def _origin(op: Op) -> str:
    if op.name == "data":
        return f"input {op.attributes.get('name', '')!r}"
    return "a constant" if op.name in CONSTANTS else f"the result of {op.name!r}"

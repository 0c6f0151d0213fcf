"""A model of OpenVINO in parts that are run one after the other, with the same result.

A model can be cut behind every operation: what later ones take of earlier ones is handed on. Behind
a block of a transformer that is little: the sum at its end, and the shapes that all blocks use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import openvino
from openvino import op as operations

_COST_OF_A_TENSOR = 0.01  # of the whole: so much worse may the place be that hands on one less
_PASSED_THROUGH = ("Convert", "Reshape", "Transpose")
"""What may lie between an operation and its weights."""


def split(model: Any, parts: int) -> list[Any]:
    """Cut a model into parts of about the same cost; it is not to be used afterwards.

    Args:
        model: With one input.
        parts: At most so many; fewer where there are not as many places.

    Returns:
        From first to last. Each takes what the one before returns, in that order.
    """
    in_order = _of_the_input(model)
    places = {operation.get_friendly_name(): place for place, operation in enumerate(in_order)}
    name, results = model.get_friendly_name(), model.outputs
    made, inputs = [], model.get_parameters()
    for place in _chosen(in_order, parts):
        outputs = _handed_on(in_order, places, place)
        next_inputs = []
        for output in outputs:
            took = operations.Parameter(output.get_element_type(), output.get_partial_shape())
            for target in output.get_target_inputs():
                if places.get(target.get_node().get_friendly_name(), -1) > place:
                    target.replace_source_output(took.output(0))
            in_order.append(took)
            places[took.get_friendly_name()] = place
            next_inputs.append(took)
        made.append(openvino.Model(outputs, inputs, name))
        inputs = next_inputs
    return [*made, openvino.Model(results, inputs, name)]


def _chosen(in_order: Sequence[Any], parts: int) -> list[int]:
    """Return the places behind which to cut, ascending."""
    done, costs = 0.0, []
    for operation in in_order:
        done += _cost(operation)
        costs.append(done)
    if not done:
        return []
    counts = _counts(in_order)
    inner = [place for place, cost in enumerate(costs) if 0 < cost < done]

    def badness(place: int, wanted: float) -> float:
        return abs(costs[place] / done - wanted) + _COST_OF_A_TENSOR * counts[place]

    wanted = [number / parts for number in range(1, parts)]
    return (
        sorted({min(inner, key=lambda place: badness(place, w)) for w in wanted}) if inner else []
    )


def _counts(in_order: Sequence[Any]) -> list[int]:
    """Return for each place how many tensors are handed on behind it."""
    places = {operation.get_friendly_name(): place for place, operation in enumerate(in_order)}
    counts = [0] * len(in_order)
    for place, operation in enumerate(in_order):
        for output in operation.outputs():
            used = [
                places.get(target.get_node().get_friendly_name(), place)
                for target in output.get_target_inputs()
            ]
            for between in range(place, max(used, default=place)):
                counts[between] += 1
    return counts


def _handed_on(in_order: Sequence[Any], places: dict[str, int], place: int) -> list[Any]:
    """Return the outputs of operations up to a place that later ones take."""
    return [
        output
        for operation in in_order
        if places[operation.get_friendly_name()] <= place
        for output in operation.outputs()
        if any(
            places.get(target.get_node().get_friendly_name(), -1) > place
            for target in output.get_target_inputs()
        )
    ]


def _of_the_input(model: Any) -> list[Any]:
    """Return the operations that depend on the input, each after those that it depends on."""
    found: dict[str, Any] = {}
    for operation in model.get_ordered_ops():
        sources = {i.get_source_output().get_node().get_friendly_name() for i in operation.inputs()}
        if operation.get_type_name() == "Parameter" or found.keys() & sources:
            found[operation.get_friendly_name()] = operation
    return list(found.values())


def _cost(operation: Any) -> float:
    """Return about how many products it takes: its weights, times the places it is applied to."""
    kind = operation.get_type_name()
    if kind not in ("MatMul", "Convolution", "GroupConvolution"):
        return 0.0
    shape = list(operation.get_output_partial_shape(0))
    applied_to = shape[1:-1] if kind == "MatMul" else shape[2:]
    applied = math.prod(size.get_length() for size in applied_to if size.is_static)
    return float(applied * sum(_weights(source) for source in operation.inputs()))


def _weights(source: Any) -> int:
    node = source.get_source_output().get_node()
    while node.get_type_name() in _PASSED_THROUGH:
        node = node.input(0).get_source_output().get_node()
    return math.prod(node.get_output_shape(0)) if node.get_type_name() == "Constant" else 0

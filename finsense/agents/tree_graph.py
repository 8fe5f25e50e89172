"""Boosted trees as an ONNX graph that gives the booster's own margins, to the bit where one thread sums them."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import xgboost
from numpy.typing import NDArray
from onnx import helper, numpy_helper

# Of ai.onnx.ml: TreeEnsemble is there since this opset. The split is `value < threshold`, as XGBoost's.
_ML_OPSET, _BELOW, _SUM, _NO_TRANSFORM = 5, 1, 1, 0
_NO_CHILD = -1


class TreeGraphError(ValueError):
    """A booster whose trees this conversion does not know."""


@dataclass(frozen=True)
class _Tree:
    """One tree: its splits, root first, and its leaves, which are counted apart.

    Attributes:
        column: (splits,) int64, the value of the state that is looked at.
        threshold: (splits,) float32.
        missing_below: (splits,) int64, 1 where NaN counts as below the threshold.
        below: (splits,) int64, where it goes on below the threshold: number of a split or of a leaf.
        below_is_leaf: (splits,) int64, of which.
        above: (splits,) int64, where it goes on otherwise.
        above_is_leaf: (splits,) int64.
        weight: (leaves,) float32, what is added to the target's margin.
        target: of this tree.
    """

    column: NDArray[Any]
    threshold: NDArray[Any]
    missing_below: NDArray[Any]
    below: NDArray[Any]
    below_is_leaf: NDArray[Any]
    above: NDArray[Any]
    above_is_leaf: NDArray[Any]
    weight: NDArray[Any]
    target: int


def with_trees(head: bytes, booster: xgboost.Booster, places: NDArray[np.int64], unit: float = 1.0) -> bytes:
    """Put a booster's trees before a graph that takes their margins.

    Args:
        head: a graph with the inputs `outputs` (N, K) float32, `state` (N, F) float32 and maybe others.
        booster: as `tree_node` takes it.
        places: likewise.
        unit: likewise.

    Returns:
        The same graph without the input `outputs`.

    Raises:
        TreeGraphError: the booster is not one of plain trees.
    """
    model = onnx.load_from_string(head)
    kept = [value for value in model.graph.input if value.name != "outputs"]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.node.insert(0, tree_node(booster, places, unit))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", _ML_OPSET))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def tree_node(booster: xgboost.Booster, places: NDArray[np.int64], unit: float = 1.0) -> onnx.NodeProto:
    """The trees as one node: `state` (N, F) float32 in, `outputs` (N, K) float32 out.

    XGBoost starts from the base score and adds one tree after the other, in float32. So does this: the base score is
    a tree of a single leaf and the first. The trees read the state itself, so that a value is compared as it is.

    Args:
        booster: its trees split numbers, not categories.
        places: (columns of the booster,) int64, where each lies in the state.
        unit: a power of two by which the margins are multiplied, which rounds nothing.

    Raises:
        TreeGraphError: the booster is not one of plain trees.
    """
    learner = json.loads(booster.save_raw("json"))["learner"]
    boosted = learner["gradient_booster"]
    if boosted["name"] != "gbtree":
        raise TreeGraphError(f"expected a booster of trees (gbtree), found {boosted['name']}")
    parameters = learner["learner_model_param"]
    margins = np.atleast_1d(json.loads(parameters["base_score"]))
    targets = max(int(parameters["num_class"]), 1)
    if len(margins) != targets:
        raise TreeGraphError(f"expected a base score for each of {targets} targets, as of XGBoost 3.1, found {margins}")
    trees = [_leaf_alone(margin, target) for target, margin in enumerate(margins)]
    grown = zip(boosted["model"]["trees"], boosted["model"]["tree_info"], strict=True)
    return _node([*trees, *(_tree(tree, target, places) for tree, target in grown)], targets, unit)


def _leaf_alone(weight: float, target: int) -> _Tree:
    """A tree that answers the same to everything. The operator wants a split: both ways lead to its leaf."""
    nothing, leaf = np.zeros(1, np.int64), np.ones(1, np.int64)
    return _Tree(nothing, nothing, nothing, nothing, leaf, nothing, leaf, np.array([weight]), target)


def _tree(tree: dict[str, Any], target: int, places: NDArray[np.int64]) -> _Tree:
    """A tree of XGBoost's JSON model (doc/model.schema of its repository)."""
    if any(tree["split_type"]) or int(tree["tree_param"]["size_leaf_vector"]) > 1:
        raise TreeGraphError("expected trees that split numbers and have one value in a leaf, found others")
    below, above = np.array(tree["left_children"]), np.array(tree["right_children"])
    # Of a split its threshold, of a leaf its weight.
    value = np.array(tree["split_conditions"])
    leaf = below == _NO_CHILD
    if leaf[0]:
        return _leaf_alone(value[0], target)
    number = np.where(leaf, leaf.cumsum(), (~leaf).cumsum()) - 1
    below, above = below[~leaf], above[~leaf]
    return _Tree(
        column=places[np.array(tree["split_indices"])[~leaf]],
        threshold=value[~leaf],
        missing_below=np.array(tree["default_left"])[~leaf],
        below=number[below],
        below_is_leaf=leaf[below],
        above=number[above],
        above_is_leaf=leaf[above],
        weight=value[leaf],
        target=target,
    )


def _node(trees: list[_Tree], targets: int, unit: float) -> onnx.NodeProto:
    splits = [len(tree.threshold) for tree in trees]
    leaves = [len(tree.weight) for tree in trees]
    first_split, first_leaf = np.cumsum([0, *splits[:-1]]), np.cumsum([0, *leaves[:-1]])

    def joined(name: str) -> NDArray[np.int64]:
        return np.concatenate([getattr(tree, name) for tree in trees]).astype(np.int64)

    def child(name: str) -> NDArray[np.int64]:
        offset = np.where(joined(f"{name}_is_leaf"), np.repeat(first_leaf, splits), np.repeat(first_split, splits))
        return joined(name) + offset

    def numbers(name: str, factor: float = 1.0) -> onnx.TensorProto:
        values = np.concatenate([getattr(tree, name) for tree in trees]).astype(np.float32)
        return numpy_helper.from_array(values * np.float32(factor), name)

    return helper.make_node(
        "TreeEnsemble",
        ["state"],
        ["outputs"],
        domain="ai.onnx.ml",
        n_targets=targets,
        aggregate_function=_SUM,
        post_transform=_NO_TRANSFORM,
        tree_roots=first_split,
        nodes_featureids=joined("column"),
        nodes_splits=numbers("threshold"),
        nodes_modes=numpy_helper.from_array(np.full(sum(splits), _BELOW, np.uint8), "modes"),
        nodes_missing_value_tracks_true=joined("missing_below"),
        nodes_truenodeids=child("below"),
        nodes_trueleafs=joined("below_is_leaf"),
        nodes_falsenodeids=child("above"),
        nodes_falseleafs=joined("above_is_leaf"),
        leaf_targetids=np.repeat([tree.target for tree in trees], leaves),
        leaf_weights=numbers("weight", unit),
    )

"""Steering against float64, and its laws."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import ARCHITECTURES, CAST, Oracle, close, widen

import libsae
from libsae import Edit, Plan


def steered(o: Oracle, x: np.ndarray, op: str, value: float, f: int) -> np.ndarray:
    z = o.codes(x)[:, f]
    after = {
        "add": z + value,
        "set": np.full_like(z, value),
        "scale": value * z,
        "min": np.maximum(z, value),
        "max": np.minimum(z, value),
        "ablate": np.zeros_like(z),
    }[op]
    return x + (after - z)[:, None] * widen(o.W_dec)[f].astype(np.float64)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("op", ["add", "set", "scale", "min", "max", "ablate"])
def test_features(arch: str, op: str) -> None:
    o = Oracle(arch)
    sae = o.open()
    x = o.x(40)
    f = int(np.argmax((o.codes(x) != 0).sum(0)))
    value = 0.0 if op == "ablate" else 0.3
    want = steered(o, x, op, value, f)
    edit = Edit(op, value, sae=sae, feature=f)
    got = Plan([edit]).apply(x.copy())
    close(got, want)
    if op != "set":  # a row that no edit changes keeps its bits
        still = (want == x).all(1)
        np.testing.assert_array_equal(got[still], x[still])
    as_dict = {"op": op, "value": value, "feature": f}
    np.testing.assert_array_equal(Plan([as_dict], sae=sae).apply(x.copy()), got)
    made = Edit.ablate(sae=sae, feature=f) if op == "ablate" else getattr(Edit, op)(value, sae=sae, feature=f)
    np.testing.assert_array_equal(Plan([made]).apply(x.copy()), got)


def test_units() -> None:
    o = Oracle("standard")
    sae = o.open()
    x = o.x(6)
    length = np.linalg.norm(o.W_dec[4].astype(np.float64))
    close(Plan([Edit.add(1.5, sae=sae, feature=4, unit="unit")]).apply(x.copy()), x + 1.5 / length * o.W_dec[4])
    close(Plan([Edit.add(2.0, sae=sae, feature=4, unit="max_act", max_act=3.5)]).apply(x.copy()), x + 7.0 * o.W_dec[4])


def test_vectors() -> None:
    o = Oracle("standard")
    x = o.x(6)
    v = o.x(1)[0]
    unit = v / np.linalg.norm(v.astype(np.float64))
    close(Plan([Edit.add(2.0, vector=v)]).apply(x.copy()), x + 2 * v)
    close(Plan([Edit.add(2.0, vector=v, unit="unit")]).apply(x.copy()), x + 2 * unit)
    close(Plan([Edit.ablate(vector=v)]).apply(x.copy()), x - (x @ unit)[:, None] * unit)
    close(Plan([Edit.set(1.0, vector=v.astype(np.float16))]).apply(x.copy()) @ unit, np.ones(6), 2e-3)


def test_edits_of_a_row_all_read_the_original() -> None:
    o = Oracle("standard")
    sae = o.open()
    x = o.x(30)
    edits = [Edit.set(0.7, sae=sae, feature=1), Edit.scale(3.0, sae=sae, feature=2), Edit.add(0.2, vector=o.W_dec[3])]
    deltas = [Plan([e]).apply(x.copy()).astype(np.float64) - x for e in edits]
    close(Plan(edits).apply(x.copy()), x + sum(deltas))


def test_slots() -> None:
    o = Oracle("standard")
    x = o.x(5)
    v = np.ones(o.d_in, np.float32)
    plan = Plan([Edit.add(1.0, vector=v), Edit.add(10.0, vector=v, slot=1)], n_slots=2)
    assert (plan.d, plan.n_slots) == (o.d_in, 2)
    for slots in ([0, 1, -1, 1, 0], np.array([0, 1, -1, 1, 0], np.int32), np.array([0, 1, -1, 1, 0], np.int64)):
        got = plan.apply(x.copy(), slots)
        close(got, x + np.array([1, 10, 0, 10, 1])[:, None])
        np.testing.assert_array_equal(got[2], x[2])
    close(plan.apply(x.copy()), x + 1)
    y = x.copy()
    with pytest.raises(libsae.ArgError, match="slot"):
        plan.apply(y, slots=[0, 1, 2, 0, 0])
    np.testing.assert_array_equal(y, x)
    with pytest.raises(libsae.ShapeError, match="slots has 3 elements, x has 5 rows"):
        plan.apply(y, slots=[0, 1, 1])


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_narrow_rows_are_rounded_once(dtype: str) -> None:
    o = Oracle("jumprelu")
    sae = o.open()
    x = CAST[dtype](o.x(20))
    plan = Plan([Edit.set(1.0, sae=sae, feature=1), Edit.set(0.5, sae=sae, feature=8)])
    want = CAST[dtype](plan.apply(widen(x)))
    np.testing.assert_array_equal(plan.apply(x), want)


def test_an_empty_plan_changes_nothing() -> None:
    x = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    np.testing.assert_array_equal(Plan([], d=16).apply(x.copy()), x)
    with pytest.raises(libsae.ArgError, match="without edits needs d"):
        Plan([])


def test_refusals_name_the_edit() -> None:
    o = Oracle("standard")
    sae = o.open()
    good = Edit.set(1.0, sae=sae, feature=1)
    v = np.ones(o.d_in, np.float32)
    for bad, error, words in (
        (Edit("boost", 1.0, sae=sae, feature=1), libsae.ArgError, r"edits\[1\].op = 'boost' is not one of 'add', 'set'"),
        (Edit.set(1.0, sae=sae, feature=1, unit="mm"), libsae.ArgError, r"edits\[1\].unit = 'mm'"),
        (Edit.set(1.0, sae=sae, feature=100), libsae.ArgError, r"edits\[1\].*feature"),
        (Edit.set(1.0, feature=1), libsae.ArgError, r"edits\[1\] names feature 1, but no sae"),
        (Edit.set(1.0, sae=sae), libsae.ArgError, r"edits\[1\] has neither a feature nor|edits\[1\] has neither"),
        (Edit.set(1.0, sae=sae, feature=1, vector=v), libsae.ArgError, r"edits\[1\] has both"),
        (Edit.set(1.0, sae=sae, vector=v), libsae.ArgError, r"edits\[1\] has a vector, which belongs to no sae"),
        (Edit.set(np.nan, sae=sae, feature=1), libsae.ArgError, r"edits\[1\]"),
        (Edit.set(1.0, sae=sae, feature=1, unit="max_act"), libsae.ArgError, r"edits\[1\].*max_act"),
        (Edit.set(1.0, sae=sae, feature=1, slot=1), libsae.ArgError, r"edits\[1\].*slot"),
        (Edit.add(1.0, vector=v * 0), libsae.ArgError, r"edits\[1\].*length 0"),
        (Edit.add(1.0, vector=v[1:]), libsae.ShapeError, r"edits\[1\].vector has shape \(23,\)"),
        (Edit.add(1.0, vector=v.astype(np.float64)), TypeError, r"edits\[1\].vector is float64"),
        (Edit.set(1.0, sae=Oracle("standard", d_in=10).open(), feature=1), libsae.ShapeError, r"edits\[1\].*10"),
        ({"op": "set", "value": 1, "feature": 1, "strength": 2}, TypeError, "strength"),
    ):
        with pytest.raises(error, match=words):
            Plan([good, bad])

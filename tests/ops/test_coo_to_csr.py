"""``coo_to_csr``: whole numbers, so every backend must agree with the definition bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_suite import PLACES, running_on

from advkern.ops import coo_to_csr
from advkern.testing import SIZES, standard_graph

IDS = (torch.int32, torch.int64)


def by_definition(row, col, num_nodes):
    """Sort (row, place) pairs; no tensor code."""
    order = sorted(range(len(row)), key=lambda e: (row[e], e))
    counts = [sum(r < i for r in row) for i in range(num_nodes + 1)]
    return counts, [col[e] for e in order], order


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("narrow", [False, True])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_is_the_stable_sort_by_row(place, narrow, data):
    num_nodes = data.draw(st.integers(1, 9))
    pairs = data.draw(st.lists(st.tuples(st.integers(0, num_nodes - 1), st.integers(0, num_nodes - 1)), max_size=30))
    dtype = data.draw(st.sampled_from(IDS))
    row, col = ([p[k] for p in pairs] for k in (0, 1))
    with running_on(place):
        actual = coo_to_csr(torch.tensor(row, dtype=dtype), torch.tensor(col, dtype=dtype), num_nodes, narrow=narrow)
    for got, expected in zip(actual, by_definition(row, col, num_nodes), strict=True):
        assert got.tolist() == expected
    assert [t.dtype for t in actual] == [torch.int64, torch.int32 if narrow else dtype, torch.int64]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_same_on_any_number_of_threads(place, threads):
    edge_index = standard_graph("arxiv", "power-law").edge_index
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with running_on(place):
            rowptr, col, perm = coo_to_csr(edge_index[1], edge_index[0], SIZES["arxiv"][0])
    finally:
        torch.set_num_threads(before)
    order = torch.argsort(edge_index[1], stable=True)
    assert torch.equal(perm, order)
    assert torch.equal(col, edge_index[0][order])
    assert torch.equal(torch.diff(rowptr), torch.bincount(edge_index[1], minlength=SIZES["arxiv"][0]))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("num_nodes", [0, 3])
def test_no_edges(place, num_nodes):
    empty = torch.empty(0, dtype=torch.int64)
    with running_on(place):
        rowptr, col, perm = coo_to_csr(empty, empty, num_nodes)
    assert rowptr.tolist() == [0] * (num_nodes + 1)
    assert col.numel() == perm.numel() == 0


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("bad", [-1, 4, 2**32 + 1])
@pytest.mark.parametrize("argument", ["row", "col"])
def test_id_out_of_range_is_named(place, bad, argument):
    ids = {"row": torch.tensor([0, 1, 2]), "col": torch.tensor([0, 1, 2])}
    ids[argument][1] = bad
    with running_on(place), pytest.raises(ValueError, match=rf"{argument}: expected ids in \[0, 4\), got {bad}"):
        coo_to_csr(ids["row"], ids["col"], 4, narrow=True)


WRONG = {
    "matrix": (torch.zeros(2, 2).long(), torch.zeros(2, 2).long(), 3, r"row: expected a vector.*\(2, 2\)"),
    "floats": (torch.zeros(2), torch.zeros(2), 3, r"row: expected a vector of int32 or int64.*float32"),
    "lengths": (torch.zeros(2).long(), torch.zeros(3).long(), 3, r"col: expected row's length.*2.*got \(3"),
    "types": (torch.zeros(2).long(), torch.zeros(2).int(), 3, r"col: expected row's.*int64.*int32"),
    "negative_count": (torch.zeros(0).long(), torch.zeros(0).long(), -1, r"num_nodes: expected.*-1"),
}


@pytest.mark.parametrize("scenario", WRONG)
def test_wrong_input_is_named(scenario):
    row, col, num_nodes, pattern = WRONG[scenario]
    with pytest.raises(ValueError, match=pattern):
        coo_to_csr(row, col, num_nodes)


def test_narrow_refuses_more_nodes_than_int32_counts():
    empty = torch.empty(0, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"narrow: .*4294967296"):
        coo_to_csr(empty, empty, 2**32, narrow=True)


@pytest.mark.parametrize("place", PLACES)
def test_ids_with_strides(place):
    row, col = torch.tensor([[2, 5], [0, 4], [1, 3]]).t()
    with running_on(place):
        assert [t.tolist() for t in coo_to_csr(row, col, 6)] == [[0, 1, 2, 3, 3, 3, 3], [4, 3, 5], [1, 2, 0]]


@pytest.mark.parametrize("place", PLACES)
def test_opcheck(place):
    row = torch.tensor([2, 0, 1, 0])
    op = torch.ops.advkern.coo_to_csr
    with running_on(place):
        for overload in (op.default, op.torch):
            torch.library.opcheck(overload, (row, row.flip(0), 3, True))

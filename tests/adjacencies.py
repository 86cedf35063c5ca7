"""One matrix as every kind of tensor, and the assertion that a Graph holds it. Shared by the tests of ``Graph``."""

import pytest
import torch

from advkern.ops import gcn_aggregate


def coo(dense):
    return dense.to_sparse()


def shuffled_entries(dense):
    index = dense.nonzero()[torch.randperm(int(dense.count_nonzero()))].t()
    return index, dense[index[0], index[1]]


def uncoalesced(dense):
    return torch.sparse_coo_tensor(*shuffled_entries(dense), dense.shape)


def uncoalesced_with_duplicates(dense):
    index, values = shuffled_entries(dense)
    return torch.sparse_coo_tensor(index.repeat(1, 2), (values / 2).repeat(2), dense.shape)


def csr(dense):
    return dense.to_sparse_csr()


def csr_of_int32(dense):
    wide = dense.to_sparse_csr()
    ids = wide.crow_indices().int(), wide.col_indices().int()
    return torch.sparse_csr_tensor(*ids, wide.values(), dense.shape)


def csc(dense):
    return dense.to_sparse_csc()


TENSORS = {
    "dense": torch.clone,
    "coo": coo,
    "uncoalesced": uncoalesced,
    "uncoalesced with duplicates": uncoalesced_with_duplicates,
    "csr": csr,
    "csr of int32": csr_of_int32,
    "csc": csc,
}
of_every_tensor = pytest.mark.parametrize("make", TENSORS.values(), ids=TENSORS)

# torch's notices that its sparse tensors are in beta and that their invariants go unchecked
quiet = pytest.mark.filterwarnings("ignore:Sparse")


def stored(sparse):
    """The values that a sparse tensor stores, duplicates apart."""
    return sparse._values() if sparse.layout == torch.sparse_coo else sparse.values()


def assert_holds(graph, dense):
    """Assert that ``graph`` is the float64 matrix ``dense``, read in two ways."""
    assert graph.num_nodes == len(dense)
    assert torch.equal(graph.to_dense(torch.float64), dense)
    x = torch.randint(-8, 9, (len(dense), 3)).double()  # small integers: every sum is exact
    assert torch.equal(gcn_aggregate(graph, x), dense @ x)

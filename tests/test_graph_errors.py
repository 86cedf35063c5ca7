"""What is no graph is refused with the argument, what was expected and what came."""

import re

import networkx as nx
import pytest
import scipy.sparse
import torch
from adjacencies import coo, csc, csr, quiet

from advkern import Graph, nn
from advkern.adjacency import as_graph
from advkern.ops import gcn_aggregate

pytestmark = quiet

ROWPTR, COL, WEIGHT = torch.tensor([0, 1, 2, 2]), torch.tensor([1, 2]), torch.ones(2)
IDS = torch.tensor([[1, 0, 3], [0, 2, 1]])  # an edge_index
EYE, WIDE, CUBE = torch.eye(3), torch.ones(2, 3), torch.ones(2, 2, 2)
FOUR = torch.ones(4, 3)
GRAPH = Graph(ROWPTR, COL)


def elsewhere(tensor):
    return tensor.to("meta")  # another device on any machine


def conv(*args):
    return nn.GCNConv(3, 2)(*args)


def weighted(first, second):
    return GRAPH.with_weight(torch.tensor([first, second]))


# message, with "..." for what is of no matter here -> the call that must raise it
VALUE_ERRORS = {
    # the CSR itself
    "rowptr: expected a vector of int32 or int64, got torch.float32...": lambda: Graph(ROWPTR.float(), COL),
    "rowptr: expected a vector of ..., got ...(1, 4)": lambda: Graph(ROWPTR[None], COL),
    "rowptr: expected ...from 0 to len(col) = 0, got no entries": lambda: Graph(ROWPTR[:0], COL[:0]),
    "rowptr: expected ...from 0 to len(col) = 2, got (1, 3)": lambda: Graph(ROWPTR + 1, COL),
    "rowptr: expected ...from 0 to len(col) = 1, got (0, 2)": lambda: Graph(ROWPTR, COL[:1]),
    "rowptr: expected ascending offsets, got a fall after row 1": lambda: Graph(torch.tensor([0, 2, 1, 2]), COL),
    "col: expected a vector of int32 or int64, got torch.int16...": lambda: Graph(ROWPTR, COL.short()),
    "col: expected ids in [0, 3), got 3": lambda: Graph(ROWPTR, COL + 1),
    "col: expected ids in [0, 3), got -1": lambda: Graph(ROWPTR, COL - 2),
    "col: expected ids in [0, 3), got 4294967297": lambda: Graph(ROWPTR, COL + 2**32),  # 1 as an int32
    "col: expected a tensor on cpu, as rowptr, got one on meta": lambda: Graph(ROWPTR, elsewhere(COL)),
    # weights
    "weight: expected floats of shape (2,), ...got ...(3,)": lambda: Graph(ROWPTR, COL, torch.ones(3)),
    "weight: expected floats of shape (2,), ...got ...(2, 1)": lambda: Graph(ROWPTR, COL, WEIGHT[:, None]),
    "weight: expected floats of shape (2,), ...got ...int64...": lambda: Graph(ROWPTR, COL, COL),
    "weight: expected a tensor on cpu, as col, got one on meta": lambda: Graph(ROWPTR, COL, elsewhere(WEIGHT)),
    "weight: expected floats of shape (2,), ...got ...(1,)": lambda: GRAPH.with_weight(WEIGHT[:1]),
    "edge_weight: expected floats of shape (3,), ...got ...(2,)": lambda: Graph.from_edge_index(IDS, WEIGHT),
    "edge_weight: expected floats of shape (3,), ...got ...(1,)": lambda: conv(FOUR, IDS, WEIGHT[:1]),
    # edge_index
    "edge_index: expected ...[2, num_edges], got torch.float32...": lambda: Graph.from_edge_index(IDS.float()),
    "edge_index: expected ...[2, num_edges], got ...(3, 2)": lambda: Graph.from_edge_index(IDS.t()),
    "edge_index: ...expected ids in [0, 3), got 3": lambda: Graph.from_edge_index(IDS, None, 3),
    "edge_index: ...expected ids in [0, 4), got -1": lambda: Graph.from_edge_index(IDS - 1, None, 4),
    "edge_index: ...expected ids in [0, 0), got -...": lambda: Graph.from_edge_index(IDS - 9),
    "edge_index: ...expected ids in [0, 4), got 429496729...": lambda: Graph.from_edge_index(IDS + 2**32, None, 4),
    "num_nodes: expected a count of at least 0, got -1": lambda: Graph.from_edge_index(IDS, None, -1),
    "index_dtype: expected torch.int32 or torch.int64, got torch.int16": (
        lambda: Graph.from_edge_index(IDS, index_dtype=torch.int16)
    ),
    "index_dtype: expected torch.int64 for 2147483648 nodes, got torch.int32": (
        lambda: Graph.from_edge_index(IDS, None, 2**31, index_dtype=torch.int32)
    ),
    "edge_index: expected ids of shape [2, num_edges] or an adjacency; adj: ...(2, 3)": lambda: conv(EYE, IDS.float()),
    # matrices
    "adj: expected a square matrix, got shape (2, 3)": lambda: as_graph(WIDE),
    "adj: ...square matrix, got shape (2, 3)": lambda: as_graph(scipy.sparse.csr_matrix(WIDE.numpy())),
    "adj: expected a square matrix, got shape (2, 2, 2)": lambda: as_graph(CUBE),
    "adj: expected a square ..., got shape (2, 2, 2)": lambda: as_graph(CUBE.to_sparse(2)),  # vectors as entries
    "adj: expected two sparse dimensions, got 1": lambda: as_graph(EYE.to_sparse(1)),
    "adj: ...dense, COO, CSR or CSC..., got torch.sparse_bsr": lambda: as_graph(EYE.to_sparse_bsr((3, 3))),
    "adj: expected real numbers, got torch.complex64": lambda: as_graph(EYE.cfloat()),
    "adj: expected layout torch.strided, got torch.sparse_coo": lambda: Graph.from_dense(coo(EYE)),
    "adj: expected layout torch.sparse_coo, got torch.strided": lambda: Graph.from_coo(EYE),
    "adj: expected layout torch.sparse_csr, got torch.sparse_csc": lambda: Graph.from_csr(csc(EYE)),
    "adj: expected layout torch.sparse_csc, got torch.sparse_csr": lambda: Graph.from_csc(csr(EYE)),
    "direction: expected one of ('source_to_target', ..., got 'down'": (
        lambda: Graph.from_networkx(nx.Graph(), direction="down")
    ),
    # batches
    "graphs: expected at least one graph, got none": lambda: Graph.batch([]),
    "graphs: expected all or none to have weights, got 1 of 2 with": (
        lambda: Graph.batch([GRAPH, GRAPH.with_weight(WEIGHT)])
    ),
    "graphs: expected all on cpu, ...got one on meta": lambda: Graph.batch([GRAPH, GRAPH.to("meta")]),
    # features
    "x: expected shape [num_nodes = 3, 3], got (2, 3)": lambda: nn.GraphConvolutionLayer(3, 2)(EYE[:2], GRAPH),
    "x: expected shape [num_nodes, 3], got (3, 2)": lambda: conv(EYE[:, :2], IDS),
    "x: expected shape [num_nodes = 3, 3], got (4, 3)": lambda: conv(FOUR, GRAPH),
    # normalisation
    "dtype: expected torch.float32 or torch.float64, got torch.float16": lambda: GRAPH.degree(torch.float16),
    "normalize: expected one of ...'sym', 'row'..., got 'mean'": lambda: GRAPH.normalization("mean"),
    "weight: ...at least 0 for a normalisation, got -2.0 at node 1": lambda: weighted(1.0, -2.0).normalization("sym"),
    "weight: ...at least 0 for a normalisation, got nan at node 0": (
        lambda: weighted(float("nan"), 1.0).normalization("row")
    ),
    "weight: ...at least 0 for a normalisation, got -1.0 at node 0": (
        lambda: gcn_aggregate(weighted(-1.0, 1.0), EYE, normalize="row")
    ),
}
TYPE_ERRORS = {
    "rowptr: expected a tensor, got list": lambda: Graph([0, 1], COL),
    "col: expected a tensor, got list": lambda: Graph(ROWPTR, [1, 2]),
    "weight: expected a tensor, got list": lambda: Graph(ROWPTR, COL, [1.0, 1.0]),
    "edge_index: expected a tensor, got list": lambda: Graph.from_edge_index([[0], [1]]),
    "num_nodes: expected an integer, got 4.5": lambda: Graph.from_edge_index(IDS, None, 4.5),
    "adj: expected an advkern.Graph, ..., got list": lambda: as_graph([[0, 1], [1, 0]]),
    "adj: expected a tensor, got ndarray": lambda: Graph.from_dense(EYE.numpy()),
    "adj: expected a scipy sparse matrix or array, got Tensor": lambda: Graph.from_scipy(EYE),
    "graph: expected a networkx graph, got Tensor": lambda: Graph.from_networkx(EYE),
    "graphs: expected advkern.Graph objects, got Tensor": lambda: Graph.batch([EYE]),
    "edge_index: expected ids ...got list": lambda: conv(EYE, [[0, 1], [1, 0]]),
    "edge_weight: expected a tensor, got list": lambda: conv(FOUR, IDS, [1.0, 1.0, 1.0]),
    "in_features: expected an integer, got 2.5": lambda: nn.GraphConvolutionLayer(2.5, 2),
    "out_channels: expected an integer, got None": lambda: nn.GCNConv(2, None),
    "dropout: expected a number, got None": lambda: nn.GCN(2, 2, 2, dropout=None),
    "num_layers: expected an integer, got '2'": lambda: nn.GCN(2, 2, 2, "2"),
    "device: expected a device, got torch.float64": lambda: GRAPH.to(torch.float64),
}


def pattern(message):
    return "^" + ".*".join(re.escape(part) for part in message.split("...")) + "$"


@pytest.mark.parametrize(("message", "call"), VALUE_ERRORS.items(), ids=VALUE_ERRORS)
def test_wrong_value(message, call):
    with pytest.raises(ValueError, match=pattern(message)):
        call()


@pytest.mark.parametrize(("message", "call"), TYPE_ERRORS.items(), ids=TYPE_ERRORS)
def test_wrong_type(message, call):
    with pytest.raises(TypeError, match=pattern(message)):
        call()

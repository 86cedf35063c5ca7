"""Drop-in modules: the tutorial's classes, and PyTorch Geometric's where those are what people have."""

from advkern.nn.gcn import GCN, GCNConv, GraphConvolutionLayer

__all__ = ["GCN", "GCNConv", "GraphConvolutionLayer"]

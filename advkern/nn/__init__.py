"""Drop-in modules: the tutorial's classes, and PyTorch Geometric's where those are what people have."""

from advkern.nn.gat import GAT, GATConv, GraphAttentionLayer
from advkern.nn.gcn import GCN, GCNConv, GraphConvolutionLayer
from advkern.nn.multimodal import MultimodalTransformer
from advkern.nn.ode import NeuralODE, ODEFunc
from advkern.nn.vit import MultiHeadSelfAttention, PatchEmbedding, TransformerBlock, VisionTransformer

__all__ = [
    "GAT",
    "GCN",
    "GATConv",
    "GCNConv",
    "GraphAttentionLayer",
    "GraphConvolutionLayer",
    "MultiHeadSelfAttention",
    "MultimodalTransformer",
    "NeuralODE",
    "ODEFunc",
    "PatchEmbedding",
    "TransformerBlock",
    "VisionTransformer",
]

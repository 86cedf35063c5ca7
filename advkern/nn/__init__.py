"""Drop-in modules: the tutorial's classes, and PyTorch Geometric's where those are what people have."""

from advkern.nn.gcn import GCN, GCNConv, GraphConvolutionLayer
from advkern.nn.multimodal import MultimodalTransformer
from advkern.nn.vit import MultiHeadSelfAttention, PatchEmbedding, TransformerBlock, VisionTransformer

__all__ = [
    "GCN",
    "GCNConv",
    "GraphConvolutionLayer",
    "MultiHeadSelfAttention",
    "MultimodalTransformer",
    "PatchEmbedding",
    "TransformerBlock",
    "VisionTransformer",
]

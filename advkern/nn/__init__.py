"""Drop-in modules: the tutorial's classes, and PyTorch Geometric's where those are what people have."""

from advkern.nn._compound_scaling import calculate_scaled_params, compound_scaling, efficientnet_configs
from advkern.nn.efficientnet import (
    EfficientNet,
    MBConvBlock,
    SqueezeExcite,
    efficientnet_b0,
    efficientnet_b1,
    efficientnet_b2,
    efficientnet_b3,
    efficientnet_b4,
    efficientnet_b5,
    efficientnet_b6,
    efficientnet_b7,
)
from advkern.nn.gat import GAT, GATConv, GraphAttentionLayer
from advkern.nn.gcn import GCN, GCNConv, GraphConvolutionLayer
from advkern.nn.multimodal import MultimodalTransformer
from advkern.nn.ode import NeuralODE, ODEFunc
from advkern.nn.vit import MultiHeadSelfAttention, PatchEmbedding, TransformerBlock, VisionTransformer

__all__ = [
    "GAT",
    "GCN",
    "EfficientNet",
    "GATConv",
    "GCNConv",
    "GraphAttentionLayer",
    "GraphConvolutionLayer",
    "MBConvBlock",
    "MultiHeadSelfAttention",
    "MultimodalTransformer",
    "NeuralODE",
    "ODEFunc",
    "PatchEmbedding",
    "SqueezeExcite",
    "TransformerBlock",
    "VisionTransformer",
    "calculate_scaled_params",
    "compound_scaling",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_configs",
]

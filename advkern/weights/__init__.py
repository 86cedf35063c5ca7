"""Weights of timm, torchvision and PyTorch Geometric into our models and back, and safe loading of checkpoints."""

from advkern.weights._read import WeightsError
from advkern.weights.load import LoadReport, Mismatch, export_state_dict, import_state_dict, load_pretrained

__all__ = [
    "LoadReport",
    "Mismatch",
    "WeightsError",
    "export_state_dict",
    "import_state_dict",
    "load_pretrained",
]

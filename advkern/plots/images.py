"""Images, cut into patches and attended to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from advkern.plots._common import COLORS, current_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def patch_grid(
    image: Any,  # [H, W] or [H, W, channels]
    patch_size: int,
    ax: Axes | None = None,
    *,
    cmap: str = "gray",
) -> Axes:
    """Draw an image and the grid that cuts it into square patches.

    Args:
        image: an array or a tensor on the CPU, grey or in colours.
        patch_size: pixels along a patch.
        ax: where to draw; None takes matplotlib's current axes.
        cmap: the colour map of a grey image.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: another shape, or patches that do not tile the image.
    """
    image = _image(image)
    height, width = image.shape[:2]
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ValueError(f"patch_size: expected one that tiles an image of {height} x {width}, got {patch_size}")
    ax = current_axes(ax)
    ax.imshow(image, cmap=cmap, interpolation="nearest")
    for draw, size, across in ((ax.hlines, height, width), (ax.vlines, width, height)):
        cuts = [k - 0.5 for k in range(0, size + 1, patch_size)]  # pixel k reaches from k - 0.5 to k + 0.5
        draw(
            cuts, -0.5, across - 0.5, color=COLORS[1], linewidth=1.2, clip_on=False
        )  # the outer lines are half outside
    ax.set_axis_off()
    return ax


def class_token_attention(
    image: Any,  # [H, W] or [H, W, channels]
    attention: Any,  # [num_patches + 1]
    ax: Axes | None = None,
    *,
    cmap: str = "gray",
) -> Axes:
    """Tint the patches of an image by the attention that a vision transformer's class token pays them.

    The strongest tint is the greatest attention to a patch. ``ax.images[-1]`` is the tint, for a colour bar.

    Args:
        image: an array or a tensor on the CPU, grey or in colours.
        attention: one head's, or a mean, the class token's own first: ``maps[layer].cls()[batch, head]``. Patches are
            square and stand row by row.
        ax: where to draw; None takes matplotlib's current axes.
        cmap: the colour map of a grey image.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: another shape, or a number of patches that cannot tile the image.
    """
    import numpy as np

    image, attention = _image(image), np.asarray(attention)
    height, width = image.shape[:2]
    count = attention.size - 1
    side = math.isqrt(height * width // max(count, 1))
    if attention.ndim != 1 or side == 0 or height % side or width % side or height * width != count * side**2:
        raise ValueError(
            f"attention: expected [num_patches + 1] with square patches that tile an image of {height} x {width}, "
            f"got shape {attention.shape}"
        )
    ax = current_axes(ax)
    ax.imshow(image, cmap=cmap, interpolation="nearest")
    paid = attention[1:].reshape(height // side, width // side)
    most = paid.max()
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    tint = 0.75 * paid / most if most > 0 else np.zeros_like(paid)
    ax.imshow(paid, cmap=_one_hue(COLORS[1]), vmin=0, vmax=most, alpha=tint, extent=extent, interpolation="nearest")
    ax.set_axis_off()
    return ax


def _image(image: Any) -> Any:  # numpy [H, W] or [H, W, channels]
    import numpy as np

    image = np.asarray(image)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise ValueError(f"image: expected [H, W], or [H, W, 3 or 4], got shape {image.shape}")
    return image


def _one_hue(color: str) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("one_hue", ["white", color])

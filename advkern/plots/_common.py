"""What every picture needs: colours, axes, and a word where a library is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Ten colours that stay apart for colour-blind eyes too: Petroff 2021, arXiv:2107.02270
COLORS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)


class MissingExtraError(ImportError):
    """A library that only pictures and the demo need is not installed; the message has the command."""


@contextmanager
def demo_extra() -> Iterator[None]:
    """Turn a failed import inside the block into the command that mends it."""
    try:
        yield
    except ModuleNotFoundError as error:
        mend = f"needs {str(error.name).partition('.')[0]}: pip install '.[demo]'"
        raise MissingExtraError(mend, name=error.name) from error


def current_axes(ax: Axes | None) -> Axes:
    """``ax``, or matplotlib's current axes."""
    if ax is not None:
        return ax
    with demo_extra():
        import matplotlib.pyplot as plt
    return plt.gca()


def ink() -> str:
    """What is written with: black, unless the style says otherwise."""
    import matplotlib

    return matplotlib.rcParams["text.color"]


def paper() -> str:
    """What is written on: white, unless the style says otherwise."""
    import matplotlib

    return matplotlib.rcParams["figure.facecolor"]

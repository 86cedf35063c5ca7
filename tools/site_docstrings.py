"""For the site: what griffe does not know of the house's docstrings.

A role, as in ``:class:`Graph```, becomes a link where the API pages have such a name, and of ``a, b: sizes`` each
argument gets its line, with its own type and default.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod):`~?([\w.]+)`")
SEVERAL = re.compile(r"^(?P<indent> +)(?P<names>\w+(?:, \w+)+): (?P<text>.*(?:\n(?P=indent) +.*)*)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrite every docstring before its sections are parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            text = SEVERAL.sub(_one_each, obj.docstring.value)
            obj.docstring.value = ROLE.sub(lambda match: _link(obj, match[1]), text)


def _one_each(match: re.Match[str]) -> str:
    return "\n".join(f"{match['indent']}{name}: {match['text']}" for name in match["names"].split(", "))


def _link(obj: griffe.Object, name: str) -> str:
    try:
        target = name if name.startswith("advkern.") else obj.resolve(name)
    except griffe.NameResolutionError:
        target = f"{obj.path}.{name}"
    return f'<autoref optional identifier="{target}"><code>{name}</code></autoref>'

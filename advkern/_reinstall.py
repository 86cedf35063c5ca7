"""The command that builds advkern anew. ``setup.py`` runs this file too, so it imports nothing."""


def reinstall(mode: str = "") -> str:
    """Return the command that installs again, with ``ADVKERN_BUILD`` as ``mode`` if it is given."""
    command = "pip install --no-build-isolation --force-reinstall --no-deps ."
    return f"ADVKERN_BUILD={mode} {command}" if mode else command

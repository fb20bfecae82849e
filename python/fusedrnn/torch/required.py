"""Holds that there is a PyTorch, and that it is new enough."""

from __future__ import annotations

LEAST = (2, 4)

try:
    import torch
except ImportError as e:
    raise ImportError("fusedrnn.torch needs PyTorch: pip install 'fusedrnn[torch]'") from e


def refuse(version: str) -> None:
    """Raises ImportError for a PyTorch that is too old."""
    if tuple(int(part) for part in version.split(".")[:2]) < LEAST:
        raise ImportError(f"fusedrnn.torch needs PyTorch {'.'.join(map(str, LEAST))} or later, got {version}")


refuse(torch.__version__)

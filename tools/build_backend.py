"""The build backend: scikit-build-core's, and NVRTC's wheels where those are to compile the CUDA kernels."""

from __future__ import annotations

from typing import Any

from scikit_build_core import build as base
from scikit_build_core.build import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

NVRTC = ["nvidia-cuda-nvrtc-cu12>=12.4,<13", "nvidia-cuda-runtime-cu12>=12.4,<13", "nvidia-nvfatbin-cu12"]


def _cuda(settings: dict[str, Any] | None) -> list[str]:
    return NVRTC if (settings or {}).get("cmake.define.FUSEDRNN_CUDA") == "NVRTC" else []


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    return [*base.get_requires_for_build_wheel(config_settings), *_cuda(config_settings)]


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    return [*base.get_requires_for_build_editable(config_settings), *_cuda(config_settings)]

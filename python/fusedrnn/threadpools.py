"""The threads of this package for threadpoolctl, which sees and limits the pools of all libraries. Importing this
module registers them; `fusedrnn` does so itself if threadpoolctl has been imported before it."""

from __future__ import annotations

import threadpoolctl

from ._version import __version__
from .config import get_thread_source


class FusedRNNController(threadpoolctl.LibController):  # type: ignore[misc, unused-ignore]
    user_api = "fusedrnn"
    internal_api = "fusedrnn"
    filename_prefixes = ("_core.",)
    check_symbols = ("fusedrnn_get_num_threads", "fusedrnn_set_num_threads")

    def get_num_threads(self) -> int:
        return int(self.dynlib.fusedrnn_get_num_threads())

    def set_num_threads(self, num_threads: int) -> None:
        self.dynlib.fusedrnn_set_num_threads(int(num_threads))

    def get_version(self) -> str:
        return __version__

    def set_additional_attributes(self) -> None:
        self.thread_source = get_thread_source()


threadpoolctl.register(FusedRNNController)

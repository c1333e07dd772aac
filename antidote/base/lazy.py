"""Heavy packages, imported at first use.

Settings classes are defined in the modules of their methods, and the Snakefile reads all of them; importing torch and
open_clip would add five seconds to every `snakemake` call. Inside a job, the first attribute access imports the
package.

The garbage collector is off during such an import. It would walk over the packages' objects again and again, a fifth
of the whole time, and find nothing: they stay until the process ends.
"""

import gc
import importlib
import sys
import types


class _LazyModule(types.ModuleType):
    def __getattr__(self, name: str):
        if self.__name__ not in sys.modules:
            _import(self.__name__)
        return getattr(importlib.import_module(self.__name__), name)


def _import(name: str) -> None:
    """Import a package without collecting garbage meanwhile."""
    collects = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module(name)
    finally:
        if collects:
            gc.enable()


torch = _LazyModule("torch")
functional = _LazyModule("torch.nn.functional")
transforms = _LazyModule("torchvision.transforms.v2")
open_clip = _LazyModule("open_clip")
safetensors_torch = _LazyModule("safetensors.torch")

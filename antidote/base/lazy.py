"""Heavy packages, imported at first use.

Settings classes are defined in the modules of their methods, and the Snakefile reads all of them; importing torch and
open_clip would add five seconds to every `snakemake` call. Inside a job, the first attribute access imports the
package.
"""

import importlib
import types


class _LazyModule(types.ModuleType):
    def __getattr__(self, name: str):
        return getattr(importlib.import_module(self.__name__), name)


torch = _LazyModule("torch")
functional = _LazyModule("torch.nn.functional")
transforms = _LazyModule("torchvision.transforms.v2")
open_clip = _LazyModule("open_clip")
safetensors_torch = _LazyModule("safetensors.torch")

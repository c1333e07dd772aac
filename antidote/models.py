"""open_clip models: created by name, kept as open_clip folders, and ready for zero-shot use."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from antidote import devices, weights
from antidote.data.names import DATA
from antidote.errors import UserError, nearest
from antidote.files import read_json, whole_folder, write_json
from antidote.lazy import functional as F
from antidote.lazy import open_clip, safetensors_torch, torch
from antidote.registry import ADAPTERS, method
from antidote.settings import Settings
from antidote.weights import Weights

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS, CARD = "open_clip_config.json", "open_clip_model.safetensors", "card.json"
FILES = (CONFIG, WEIGHTS, CARD)
ADAPTER, ADAPTER_WEIGHTS = "adapter.json", "adapter.safetensors"
TEXTS = 1 << 16  # whose tokens are kept: some 70 MB


class ModelSettings(Settings):
    """Which CLIP the study is about."""

    name: str = Field("tiny-rn", description="open_clip model name, or a file in data/models")
    pretrained: str | None = Field(
        None,
        description="weights to start from: a tag of open_clip, the path of a checkpoint file (safetensors, torch's, "
        "OpenAI's), or of an open_clip model folder; empty: random weights",
    )
    quick_gelu: bool = Field(False, description="QuickGELU activations, which OpenAI's weights need")


class Clip:
    """A CLIP model with what its use needs: tokenizer, picture size, normalisation.

    Attributes:
        network: the open_clip module; its parameters are what training changes.
        config: the content of `open_clip_config.json`.
        size: side of the square pictures it reads, in pixels.
        device: where the parameters are.
    """

    def __init__(self, network: Any, config: dict) -> None:
        self.network = network
        self.config = config
        self.size = int(config["model_cfg"]["vision_cfg"]["image_size"])
        self._tokens: OrderedDict[str, Tensor] = OrderedDict()  # of which the first is found at once
        self._table: Tensor | None = None

    @property
    def device(self) -> torch.device:
        return self.network.logit_scale.device

    @cached_property
    def tokenizer(self) -> Any:
        """What turns texts into token ids (N, context_length)."""
        return open_clip.SimpleTokenizer(context_length=self.network.context_length)

    @cached_property
    def _normalisation(self) -> tuple[Tensor, Tensor]:
        values = (self.config["preprocess_cfg"][key] for key in ("mean", "std"))
        return tuple(torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in values)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return token ids (N, context_length); a text is mostly split once, since open_clip's tokenizer is Python."""
        new = [text for text in dict.fromkeys(texts) if text not in self._tokens]
        known = {text: self._tokens[text] for text in texts if text in self._tokens}
        if new:
            tokens = self.tokenizer(new)
            known.update(zip(new, tokens, strict=True))
            self.remember(new, tokens)
        return torch.stack([known[text] for text in texts])

    def remember(self, texts: Sequence[str], tokens: Tensor) -> None:
        """Keep the token ids (N, context_length) of texts; of more than TEXTS, the oldest are forgotten."""
        self._tokens.update(zip(texts, tokens, strict=True))
        while len(self._tokens) > TEXTS:
            self._tokens.popitem(last=False)

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode pictures (N, 3, size, size), uint8 or float in [0, 1]; return normalised features (N, D)."""
        return F.normalize(self.network.encode_image(self.normalise(images)).float(), dim=-1)

    def autocast(self, precision: str) -> torch.autocast:
        """Return a context in which the network computes in `fp32`, `bf16` or `fp16` where autocast allows it."""
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.bfloat16)
        return torch.autocast(self.device.type, dtype=kind, enabled=precision != "fp32")

    def normalise(self, images: Tensor) -> Tensor:
        """Return pictures, uint8 or float in [0, 1], as the network reads them: mean and deviation of its training."""
        mean, std = self._normalisation
        images = images.to(self.device)
        images = images.float().div(255) if images.dtype == torch.uint8 else images
        return (images - mean) / std

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Encode texts; return normalised features (N, D)."""
        return self.encode_tokens(self.tokenize(texts))

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Encode token ids (N, context_length) as `tokenize` returns them; return normalised features (N, D).

        open_clip computes every position up to the context length. Under a causal mask nothing after the end token
        reaches the pooled feature, so the batch is cut after its longest text: the same features for less work.
        """
        network = self.network
        if self._table is not None:
            tokens = self._table[tokens.cpu()]
            if tokens.min() < 0:
                raise KeyError("a text holds words that the objective did not announce")
        if not self.causal:
            return F.normalize(network.encode_text(tokens.to(self.device)).float(), dim=-1)
        ends = tokens.argmax(dim=-1)
        length = int(ends.max()) + 1
        return self.encode_embedded(network.token_embedding(tokens[:, :length].to(self.device)), ends)

    @property
    def causal(self) -> bool:
        """Tell whether the text encoder is CLIP's own: a causal mask, and the feature of the end token."""
        network = self.network
        own = isinstance(network, open_clip.CLIP) and network.attn_mask is not None
        return own and network.text_pool_type == "argmax"

    def added(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Return description and tensors of what a defense added to the network; None for a plain CLIP."""
        return None

    def encode_embedded(self, words: Tensor, ends: Tensor) -> Tensor:
        """Encode word embeddings (N, length, width) of texts with the end token at `ends` (N,), causal models only."""
        network, length = self.network, words.shape[1]
        kind = network.transformer.get_cast_dtype()
        x = words.to(kind) + network.positional_embedding[:length].to(kind)
        x = network.ln_final(network.transformer(x, attn_mask=network.attn_mask[:length, :length]))
        x = x[torch.arange(len(x), device=x.device), ends]
        projection = network.text_projection
        if projection is not None:
            x = projection(x) if isinstance(projection, torch.nn.Linear) else x @ projection
        return F.normalize(x.float(), dim=-1)

    def class_embeddings(self, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Return zero-shot class weights (D, C): normalised mean over templates of normalised text features."""
        return open_clip.build_zero_shot_classifier(
            _TextEncoder(self), self.tokenize, list(classes), list(templates), device=self.device
        )


NEEDS_CAUSAL_TEXT = "need CLIP's own text encoder, which reads them as word embeddings"


def causal_text(model: Mapping[str, Any]) -> bool:
    """Tell of a model configuration of open_clip what `Clip.causal` tells of the model."""
    text = model.get("text_cfg", {})
    other = model.get("custom_text") or "multimodal_cfg" in model or text.get("hf_model_name")
    return not other and not text.get("no_causal_mask") and text.get("pool_type", "argmax") == "argmax"


class _TextEncoder:
    """What open_clip's zero-shot builder asks of a model."""

    def __init__(self, clip: Clip) -> None:
        self._clip = clip

    def encode_text(self, tokens: Tensor, normalize: bool = True) -> Tensor:
        return self._clip.encode_tokens(tokens)


def device() -> torch.device:
    """Return the GPU that this job may use, else the CPU.

    Raises:
        UserError: the GPU that it was given cannot be used; training on the CPU unnoticed would take weeks.
    """
    claimed = devices.claim()
    if claimed and not torch.cuda.is_available():
        raise UserError(
            f"GPU {', '.join(claimed)}: torch cannot use it; see `nvidia-smi -L`, or name this machine's GPUs in "
            f"{devices.NAMED}, as 0,1"
        )
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def create(settings: ModelSettings, seed: int) -> Clip:
    """Create the study's CLIP: from its pretrained weights, or random weights from `seed`.

    Raises:
        UserError: unknown name or tag; weights that do not fit, cannot be had, or would run code.
    """
    _add_own_models()
    config = open_clip.get_model_config(settings.name)
    if config is None:
        raise UserError(f"model.name: unknown model {settings.name!r}{nearest(settings.name, open_clip.list_models())}")
    check_tokenizer(config, f"model.name: {settings.name}")
    start = Weights()
    if settings.pretrained is not None:
        start = weights.find(settings.name, settings.pretrained, settings.quick_gelu, config)
    where = f"model.pretrained: {settings.pretrained}"
    torch.manual_seed(seed)
    network = _create(settings.name, where, pretrained=start.pretrained, force_quick_gelu=settings.quick_gelu)
    if start.state is not None:
        _fill(network, start.state, f"{where}: cannot be loaded into model {settings.name!r}")
    if settings.quick_gelu:
        config["quick_gelu"] = True
    visual, own = network.visual, start.preprocess or {}
    preprocess = {"mean": list(own.get("mean") or visual.image_mean), "std": list(own.get("std") or visual.image_std),
                  "interpolation": "bicubic", "resize_mode": "shortest"}  # fmt: skip
    return Clip(network, {"model_cfg": config, "preprocess_cfg": preprocess})


def load(folder: str | Path) -> Clip:
    """Load a model folder written by `save`, or any open_clip model folder; with the adapter that a defense left there.

    Raises:
        UserError: the folder is not one, is damaged, or holds the weights of another model.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or not {"model_cfg", "preprocess_cfg"} <= set(config):
        raise UserError(f"{folder / CONFIG}: should hold model_cfg and preprocess_cfg, as open_clip writes them")
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder / WEIGHTS}: no such file; a model folder holds {CONFIG} and {WEIGHTS}")
    check_tokenizer(config["model_cfg"], str(folder / CONFIG))
    clip = Clip(_create(f"local-dir:{folder}", str(folder / WEIGHTS)), config)
    return _adapted(clip, folder) if (folder / ADAPTER).is_file() else clip


def _adapted(clip: Clip, folder: Path) -> Clip:
    description = read_json(folder / ADAPTER)
    kind = description.get("adapter") if isinstance(description, dict) else None
    if kind not in ADAPTERS:
        raise UserError(f"{folder / ADAPTER}: unknown adapter {kind!r}{nearest(str(kind), ADAPTERS)}")
    try:
        tensors = safetensors_torch.load_file(folder / ADAPTER_WEIGHTS)
        return method("adapter", kind)(clip.network, clip.config, tensors, description)
    except Exception as error:  # safetensors' own errors, missing files, missing keys
        raise UserError(f"{folder / ADAPTER_WEIGHTS}: cannot be read ({' '.join(str(error).split())})") from None


def check_tokenizer(config: Mapping[str, Any], where: str) -> None:
    """Raise UserError, which begins with `where`, where a model configuration needs another tokenizer than CLIP's."""
    text = config.get("text_cfg", {})
    if "hf_tokenizer_name" in text or "tokenizer_kwargs" in text:
        raise UserError(f"{where}: needs another tokenizer than OpenAI CLIP's, the only one that is supported")


def _create(name: str, source: str, **more: Any) -> Any:
    try:
        return open_clip.create_model(name, device=device(), **more)
    except Exception as error:  # whatever a damaged file or a wrong configuration leads to
        if type(error).__name__ in ("SafetensorError", "UnpicklingError", "EOFError"):
            raise UserError(f"{source}: damaged, or not plain weights, which alone are loaded") from None
        reason = next(line.strip() for line in f"{error}\n{type(error).__name__}".splitlines() if line.strip())
        raise UserError(f"{source}: cannot be loaded into model {name!r} ({_short(reason)})") from None


def _fill(network: Any, state: dict[str, Tensor], where: str) -> None:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{where} ({_short(' '.join(str(error).split()))})") from None


def _short(reason: str, limit: int = 200) -> str:
    return reason if len(reason) <= limit else f"{reason[:limit]} ..."


def save(folder: str | Path, clip: Clip, card: dict[str, Any], extra: Sequence[Path] = ()) -> list[str]:
    """Write an open_clip model folder, its card and copies of `extra` files, each whole; return the files' names."""
    with whole_folder(folder) as temporary:
        state = {name: tensor.contiguous().cpu() for name, tensor in clip.network.state_dict().items()}
        safetensors_torch.save_file(state, temporary / WEIGHTS)
        (temporary / CONFIG).write_text(json.dumps(clip.config, indent=2) + "\n")
        write_json(temporary / CARD, {**card, "made_with": _versions()})
        _save_adapter(temporary, Path(folder), clip)
        for file in extra:
            shutil.copyfile(file, temporary / file.name)
        return sorted(path.name for path in temporary.iterdir())


def _save_adapter(temporary: Path, folder: Path, clip: Clip) -> None:
    added = clip.added()
    if added is None:
        remove_adapter(folder)
        return
    description, tensors = added
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    safetensors_torch.save_file(tensors, temporary / ADAPTER_WEIGHTS)
    write_json(temporary / ADAPTER, description)


def model_files(folder: Path) -> list[Path]:
    """Return the files that a model is read from."""
    return [folder / name for name in (CONFIG, WEIGHTS, ADAPTER, ADAPTER_WEIGHTS) if (folder / name).is_file()]


def remove_adapter(folder: Path, except_for: Sequence[str] = ()) -> None:
    """Take away what an earlier model in this folder has left there."""
    for name in {ADAPTER, ADAPTER_WEIGHTS} - set(except_for):
        (folder / name).unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("torch", "open_clip_torch")}


@cache
def _add_own_models() -> None:
    open_clip.add_model_config(DATA / "models")

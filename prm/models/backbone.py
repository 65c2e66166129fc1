"""What both model families share: a decoder of transformers under packed attention; a packed row in, hidden states out."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.integrations import deepspeed as zero_integration

from prm.attention import PACKED, SharedKeys, check_packable, document_kwargs
from prm.models.files import CONFIG_FILE, is_path
from prm.models.inference import LastLayer
from prm.models.packing import Batch
from prm.steps import read_prm_config


class PackedModel(PreTrainedModel):
    """A decoder without lm_head under `.model`; a subclass adds what reads its hidden states.

    Saved keys and `config.architectures` are those of the published family, so that other tools load the folder as it is.
    """

    auto_class: ClassVar[Any]
    """Class of transformers that loads the pretrained parts: AutoModel, or AutoModelForCausalLM."""
    config_class = PreTrainedConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_attention_backend = True
    accepts_loss_kwargs = False
    batch_keys: ClassVar[tuple[str, ...]] = ("input_ids", "position_ids", "cu_seqlens", "max_seqlen")
    """Entries of a packed batch that `forward` takes, beside `shared`, which only some batches have."""

    def hidden_states(
        self,
        input_ids: Int[Tensor, "1 tokens"],
        position_ids: Int[Tensor, "1 tokens"],
        cu_seqlens: Int[Tensor, " documents_plus_1"],
        max_seqlen: int,
        shared: SharedKeys | None,
        reads: Int[Tensor, " reads"],
    ) -> Float[Tensor, "reads hidden"]:
        """The decoder's last hidden states at `reads` of a packed row, whose documents may continue one another."""
        boundaries = document_kwargs(cu_seqlens, max_seqlen, shared)
        if self.reads_early:
            boundaries["reads"] = reads
        hidden = self.model(input_ids=input_ids, position_ids=position_ids, use_cache=False, **boundaries).last_hidden_state[0]
        return hidden if self.reads_early else hidden[reads]

    @property
    def reads_early(self) -> bool:
        """Whether the last layer returns only the states that are read, as `prepare_for_inference` makes it do."""
        return isinstance(self.model.layers[-1], LastLayer)

    def inputs(self, batch: Batch) -> Batch:
        """The entries of `batch` that `forward` takes."""
        return {name: batch[name] for name in self.batch_keys} | {"shared": batch.get("shared")}

    @property
    @abstractmethod
    def architecture(self) -> str:
        """Name under which other tools know this model, written to config.json."""

    @classmethod
    @abstractmethod
    def check_contract(cls, prm_config: dict[str, Any], directory: str | Path) -> None:
        """Raise ValueError when `directory` holds a model of the other family."""

    @classmethod
    def load_decoder(cls, name_or_path: str | Path, dtype: str | torch.dtype) -> PreTrainedModel:
        """The pretrained decoder under packed attention: safetensors only, no remote code, no weight left random."""
        options = {"use_safetensors": True, "trust_remote_code": False, "attn_implementation": PACKED, "output_loading_info": True}
        config = load_config(name_or_path)
        with named_weights(name_or_path):
            decoder, report = cls.auto_class.from_pretrained(str(name_or_path), config=config, dtype=dtype, **options)
        check_complete(report["missing_keys"], name_or_path)
        if not decoder._supports_attention_backend:
            raise ValueError(
                f"{name_or_path}: {type(decoder).__name__} bypasses transformers' attention interface, so it cannot be packed; "
                "use another backbone"
            )
        return decoder

    @classmethod
    def from_parts(cls, decoder: PreTrainedModel, *parts: nn.Module) -> "PackedModel":
        """The model made of a pretrained decoder and the parts that read it (a head); no weight of them is drawn anew."""
        for part in (decoder, *parts):
            keep_weights(part)
        return cls(decoder.config, decoder, *parts)

    @classmethod
    def from_pretrained(cls, directory: str | Path, dtype: str | torch.dtype = "auto", **kwargs: Any) -> "PackedModel":
        """Load a checkpoint of ours, safetensors only.

        Raises FileNotFoundError without `prm_config.json`, ValueError for the other family of models or for missing weights.
        """
        cls.check_contract(read_prm_config(directory), directory)
        config = load_config(directory)
        kwargs |= {"use_safetensors": True, "attn_implementation": PACKED, "output_loading_info": True}
        with named_weights(directory):
            model, report = super().from_pretrained(str(directory), config=config, dtype=dtype, **kwargs)
        check_complete(report["missing_keys"], directory)
        return model

    def save_pretrained(self, save_directory: str | Path, is_main_process: bool = True, **kwargs: Any) -> None:
        """Write safetensors and config.json with the published architecture's name instead of this class's."""
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        if is_main_process:
            self.config.architectures = [self.architecture]
            self.config.save_pretrained(save_directory)


def load_config(name_or_path: str | Path) -> PreTrainedConfig:
    """Config of a backbone. Raises FileNotFoundError for a path without one, ValueError for one that cannot be read, and for layers
    that would mix the responses of a packed row.
    """
    name = str(name_or_path)
    if is_path(name) and not (Path(name) / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"{name}: no {CONFIG_FILE}; give a folder that save_pretrained wrote, or a model name of the hub")
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: its {CONFIG_FILE} cannot be read ({str(error).splitlines()[0]})") from error
    check_packable(config)
    return config


@contextmanager
def named_weights(source: str | Path) -> Iterator[None]:
    """While weights are loaded within: raise what is wrong with them as a ValueError that names `source`.

    Raises FileNotFoundError for a folder without any.
    """
    if Path(source).is_dir() and not any(Path(source).glob("*.safetensors")):
        raise FileNotFoundError(f"{source}: holds no weights, that is, no .safetensors file; copy the checkpoint again")
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"{source}: a .safetensors file is damaged or cut off ({error}); copy the checkpoint again") from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ValueError(f"{source}: the weights have other shapes than {CONFIG_FILE} says; copy the checkpoint again") from error


@contextmanager
def whole_on_every_rank() -> Iterator[None]:
    """Within, models are loaded whole even under ZeRO-3: without a DeepSpeed engine around it, none can gather its weights."""
    active = zero_integration._hf_deepspeed_config_weak_ref
    zero_integration.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        zero_integration._hf_deepspeed_config_weak_ref = active


def keep_weights(module: nn.Module) -> None:
    """Tell `post_init` that these weights are not to be drawn anew."""
    for part in module.modules():
        part._is_hf_initialized = True


def check_complete(missing_keys: set[str] | list[str], source: str | Path) -> None:
    """Raise ValueError when a checkpoint lacks weights, which transformers would draw at random."""
    if missing_keys:
        names = sorted(missing_keys)
        raise ValueError(f"{source}: {len(names)} weights are missing ({', '.join(names[:3])}, ...); copy the checkpoint again")

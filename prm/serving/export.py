"""A PRM with a head in; a folder out that vLLM serves without any code of this project.

| head                                | written as                          | a served row is                     |
|-------------------------------------|-------------------------------------|-------------------------------------|
| two layers, 1 or 2 outputs, Qwen2   | Qwen2For(Process)RewardModel        | the score; P(bad), P(good)          |
| one linear layer, any decoder       | {family}ForTokenClassification      | the score; one probability a class  |
| any other two layers                | {family}Model and its Dense modules | one logit an output                 |

The third is the format of sentence-transformers for layers behind a decoder, with which vLLM serves late-interaction embeddings:
three outputs need no plugin there, nor do heads on Qwen3, Llama or Mistral, for which vLLM has no reward model.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from safetensors.torch import save_file
from torch import nn
from transformers import AutoTokenizer

from prm.files import write_json, write_text, written_aside
from prm.models.checkpoint import EXAMPLE, load_model, read_contract, save_model
from prm.models.files import CONFIG_FILE
from prm.models.reward_model import ARCHITECTURE_SUFFIXES, RewardModel
from prm.records import Response
from prm.scoring.exported import CLASSIFIERS, MODULES, pooling_task, read_config, served_length
from prm.serving.parity import Parity, check_parity
from prm.steps import StepEncoder
from prm.tracking import check_output

SERVE_OPTIONS = "vllm.yaml"
"""Options of `vllm serve`, read with its --config."""
MAX_RESPONSES = 64
"""Responses of --input that are compared, at most."""
TEMPERATURES = (1e-3, 1e3)
"""Range of --temperature: divided by it, weights stay within half precision. Calibration finds 0.3 to 5."""
LIBRARY = "sentence_transformers.models"


@dataclass
class ExportConfig:
    """Write a PRM for vLLM, and check that vLLM scores as this project does."""

    model: str
    """Checkpoint folder written by scripts/train.py, or a published PRM with a head, by folder or hub name."""
    output: str
    """Folder to write; it must not exist yet."""
    recipe: str | None = None
    """How to read a published PRM, where neither its files nor its name tell: a key of RECIPES in prm/models/published, or a YAML
    file that names one (`like`) and the fields of the contract in which the model differs."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the written weights, and of serving; auto is the checkpoint's own."""
    temperature: float = 1.0
    """Divides the head's outputs, so that served scores are calibrated: the temperature of scripts/calibration_report.py."""
    parity: bool = True
    """Score with torch and with vLLM and compare. False writes the folder unchecked, on a machine without vLLM."""
    input: str | None = None
    """Responses for the comparison beside the built-in ones: rollouts, responses or candidate pools; the first 64 are taken."""

    def check(self) -> None:
        """Raise ValueError for what no export can do, and as `read_contract` does for a model that cannot be read."""
        low, high = TEMPERATURES
        if not low <= self.temperature <= high:
            raise ValueError(f"--temperature is {self.temperature}; it must be positive, from {low:g} to {high:g}")
        if self.input is not None and not self.parity:
            raise ValueError(f"--input {self.input}: nothing is compared with --parity False; leave one of the two out")
        check_output("--output", self.output)
        self.check_new()
        if self.parity and importlib.util.find_spec("vllm") is None:
            raise ValueError("vLLM is not installed: pip install -e '.[gpu]' (or '.[cpu]'), or write unchecked with --parity False")
        if read_contract(self.model, self.recipe)["num_labels"] == 0:
            raise ValueError(
                f"--model {self.model}: an implicit PRM is an ordinary causal LM without a head, so there is nothing to export. "
                "Score it with scripts/score.py; to serve it, run `vllm serve` on it and on its reference and take beta times the "
                "difference of their prompt log-probs, summed over each step"
            )

    def check_new(self) -> None:
        """Raise ValueError where the output is there already."""
        if Path(self.output).exists():
            raise ValueError(f"--output {self.output}: is there already; name a new folder or delete it")


def head_layers(head: nn.Module) -> list[nn.Linear]:
    """The one linear layer, or the two with a ReLU between. Raises ValueError for another head."""
    layers = list(head) if isinstance(head, nn.Sequential) else [head]
    if [type(layer) for layer in layers] not in ([nn.Linear], [nn.Linear, nn.ReLU, nn.Linear]):
        raise ValueError(f"vLLM serves heads of one linear layer, or two with a ReLU between; this one is {head}")
    return layers[::2]


def served_architecture(model: RewardModel) -> str:
    """Name of the class by which vLLM loads the exported folder."""
    family = type(model.model).__name__.removesuffix("Model")
    has_class = len(head_layers(model.score)) == 1 or (family == "Qwen2" and model.num_labels in ARCHITECTURE_SUFFIXES)
    return model.architecture if has_class else f"{family}Model"


@torch.no_grad()
def divide_outputs(model: RewardModel, encoder: StepEncoder, temperature: float) -> None:
    """Divide the head's logits by `temperature`, in its last layer. Raises ValueError where scores are no probabilities."""
    if temperature == 1.0:
        return
    if encoder.activation in ("identity", "difference"):
        raise ValueError(f"--temperature {temperature}: calibrates probabilities, and {encoder.loss} scores are none; leave it out")
    if encoder.activation == "softmax" and encoder.num_labels > 2:
        # It was fitted on the log-odds of the good class, which are no multiple of three logits.
        raise ValueError(
            f"--temperature {temperature}: a head of {encoder.num_labels} classes cannot be divided by it; leave it out and "
            "divide the log-odds of the good class where the scores are read"
        )
    last = head_layers(model.score)[-1]
    for weight in last.parameters():
        weight.copy_(weight.float() / temperature)


def write_served(model: RewardModel, encoder: StepEncoder, directory: str | Path) -> None:
    """Write weights, tokenizer, contract and the options of `vllm serve`."""
    folder, architecture = Path(directory), served_architecture(model)
    is_classifier = architecture.endswith(CLASSIFIERS)
    state = {name: weight for name, weight in model.state_dict().items() if is_classifier or not name.startswith("score.")}
    save_model(model, encoder, folder, state_dict=state)
    config = {**read_config(folder), "architectures": [architecture]}
    write_json(folder / CONFIG_FILE, config)
    if not is_classifier:
        write_dense_layers(head_layers(model.score), folder)
    write_text(folder / SERVE_OPTIONS, yaml.safe_dump(serve_options(config, encoder, folder), sort_keys=False))


def write_dense_layers(layers: list[nn.Linear], folder: Path) -> None:
    """The head's two layers as modules of sentence-transformers behind the decoder: each a folder with weights and activation."""
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    write_json(folder / "1_Pooling" / CONFIG_FILE, {"word_embedding_dimension": layers[0].in_features, "pooling_mode": "all"})
    for layer, activation in zip(layers, ("activation.ReLU", "linear.Identity"), strict=True):
        place = f"{len(modules)}_Dense"
        modules.append((place, "Dense"))
        shape = {"in_features": layer.in_features, "out_features": layer.out_features, "bias": layer.bias is not None}
        write_json(folder / place / CONFIG_FILE, {**shape, "activation_function": f"torch.nn.modules.{activation}"})
        state = {f"linear.{name}": weight.detach().contiguous() for name, weight in layer.named_parameters()}
        save_file(state, folder / place / "model.safetensors", metadata={"format": "pt"})
    listing = [{"idx": i, "name": str(i), "path": path, "type": f"{LIBRARY}.{kind}"} for i, (path, kind) in enumerate(modules)]
    write_json(folder / MODULES, listing)


def serve_options(config: dict[str, Any], encoder: StepEncoder, folder: Path) -> dict[str, Any]:
    """What `vllm serve FOLDER --config FOLDER/vllm.yaml` has to know.

    The server answers with one row per separator, in order. Where text may hold the separator, too, it answers with one row per
    token, of which those at `step_ends` are the scores.
    """
    task = pooling_task(config, folder)
    # For token_classify vLLM applies sigmoid or softmax, by the number of outputs; for token_embed it normalizes to length 1.
    use_activation = task == "token_classify" and encoder.activation != "identity"
    pooler = {"task": task, "use_activation": use_activation, "tok_pooling_type": "ALL"}
    if marks_steps_alone(encoder):
        pooler |= {"tok_pooling_type": "STEP", "step_tag_id": encoder.separator_id}
    return {
        "runner": "pooling",
        "dtype": config["dtype"],
        "max-model-len": served_length(config, encoder),
        "pooler-config": pooler,
    }


def marks_steps_alone(encoder: StepEncoder) -> bool:
    """Whether the separator is a token of its own, which no text holds (the contract refuses one that does)."""
    return encoder.layout == "separator" and encoder.separator in encoder.tokenizer.get_added_vocab()


def export_checkpoint(config: ExportConfig, responses: Sequence[Response] = ()) -> Parity | None:
    """Write `config.output` and compare; nothing is left when the comparison fails.

    Raises ValueError for a model or an option that cannot be exported, ParityError, and EngineError when vLLM cannot load it.
    """
    config.check()
    model, encoder = load_model(config.model, config.dtype, recipe=config.recipe)
    divide_outputs(model, encoder, config.temperature)
    with written_aside(config.output) as aside:
        write_served(model, encoder, aside)
        parity = check_parity(model, encoder, aside, responses) if config.parity else None
        config.check_new()  # another export may have been quicker
    return parity


def chat_messages(encoder: StepEncoder, response: Response) -> list[dict[str, str]]:
    """A response as messages of a request with `continue_final_message`."""
    text = "".join(step + encoder.separator for step in response.steps)
    return [*encoder.messages(response.question), {"role": "assistant", "content": text}]


def is_chat_alike(directory: str | Path, encoder: StepEncoder) -> bool:
    """Whether a server encodes a chat to the tokens of the contract; it may load the tokenizer as another class."""
    tokenizer = AutoTokenizer.from_pretrained(str(directory))
    if not (marks_steps_alone(encoder) and tokenizer.chat_template):
        return False
    options = {"continue_final_message": True, "tokenize": True, "return_dict": False}
    ids = tokenizer.apply_chat_template(chat_messages(encoder, EXAMPLE), **options)
    return ids == encoder.encode(EXAMPLE.question, EXAMPLE.steps, EXAMPLE.question_id).input_ids

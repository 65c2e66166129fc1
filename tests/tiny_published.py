"""Tiny random checkpoints in the format of published PRMs: config.json, tokenizer and weights as they lie on the hub."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
WORDS = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
"""As Qwen's and Llama's: line ends belong to the punctuation before them."""
MERGES = [("Ċ", "Ċ"), (".", "ĊĊ"), (".", "Ċ"), ("Ġ", "+"), ("Ġ", "-"), ("Ð", "º"), ("Ð", "¸"), ("Ġ", "Ðº"), ("ĠÐº", "Ð¸")]
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,
}
"""Weights large enough for scores that differ from step to step."""


def byte_level_tokenizer(
    special: list[str],
    template: str | None,
    bos: str | None = None,
    eos: str = "<|endoftext|>",
    merges: list = MERGES,
    words: str = WORDS,
):
    """As Qwen2.5's and Llama 3's; `.\\n`, `.\\n\\n`, ` +`, ` -` and ` ки` are one token each."""
    special = [*dict.fromkeys([*special, eos])]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = [*alphabet, *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, merges))
    split = pre_tokenizers.Split(Regex(words), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = template
    return tokenizer


def qwen_tokenizer(*more: str, **options):
    return byte_level_tokenizer(["<|im_start|>", "<|im_end|>", *more], CHATML, **options)


def llama_tokenizer(**options):
    headers = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return byte_level_tokenizer(headers, LLAMA, bos="<|begin_of_text|>", eos="<|eot_id|>", **options)


def mistral_tokenizer(merges: tuple = (("▁", "к"), ("▁к", "и"), ("▁", "+"), ("▁", "-"))):
    """As sentencepiece's: no words, every space a `▁`, one more before the text."""
    characters = ["<unk>", "<s>", "</s>", "▁", "\n", "к", "и", *(chr(code) for code in range(33, 127))]
    vocabulary = [*characters, *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, list(merges), unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


FAMILIES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
}


def random_lm(family: str, tokenizer, seed: int = 0, **options) -> torch.nn.Module:
    config_class, model_class = FAMILIES[family]
    torch.manual_seed(seed)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    config = config_class(vocab_size=len(tokenizer), **ids, **{**SIZES, **options})
    return model_class._from_config(config, attn_implementation="eager").eval()


def write(
    folder: Path, lm: torch.nn.Module, tokenizer, architecture: str, head: dict | None = None, pickled: bool = False, **config
) -> Path:
    """The files of a published PRM. `head`: weights of its own; the lm_head goes with causal LMs and value heads only."""
    folder.mkdir(parents=True)
    tokenizer.save_pretrained(folder)
    values = {**lm.config.to_dict(), **config, "architectures": [architecture]}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if k != "dtype"}))
    keeps_lm_head = head is None or any(name.startswith("v_head") for name in head)
    state = {name: value for name, value in lm.state_dict().items() if keeps_lm_head or name != "lm_head.weight"}
    state = {name: value.detach().clone() for name, value in {**state, **(head or {})}.items()}
    if pickled:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def linear_head(prefix: str, num_labels: int, hidden_size: int = SIZES["hidden_size"], seed: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {f"{prefix}.weight": 0.2 * torch.randn(num_labels, hidden_size), f"{prefix}.bias": 0.2 * torch.randn(num_labels)}


def two_layer_head(seed=1):
    first, last = linear_head("score.0", 128, seed=seed), linear_head("score.2", 2, seed=seed + 1)
    return {**first, **last}


def write_qwen(folder):
    tokenizer = qwen_tokenizer("<extra_0>")
    lm = random_lm("qwen2", tokenizer)
    remote = {"AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel", "AutoConfig": "configuration_qwen2_rm.Qwen2RMConfig"}
    head = two_layer_head()
    return lm, head, write(folder, lm, tokenizer, "Qwen2ForProcessRewardModel", head, auto_map=remote)


def write_skywork(folder):
    tokenizer = qwen_tokenizer(bos="<|endoftext|>")
    lm = random_lm("qwen2", tokenizer)
    head = linear_head("v_head.summary", 1)
    return tokenizer, lm, head, write(folder, lm, tokenizer, "Qwen2ForPrmModel", head, pickled=True)


def write_eurus(folder):
    tokenizer = qwen_tokenizer()
    lm, reference = (random_lm("qwen2", tokenizer, seed) for seed in (0, 1))
    write(folder / "reference", reference, tokenizer, "Qwen2ForCausalLM")
    return tokenizer, lm, reference, write(folder / "EurusPRM-Stage2", lm, tokenizer, "Qwen2ForCausalLM")


def write_pqm(folder, with_token=True, wrapper="pretrained_model."):
    """The backbone's tokenizer and config, and weights with one embedding more, as resized by training."""
    backbone = byte_level_tokenizer(["<|endoftext|>"], None)
    whole = byte_level_tokenizer(["<|endoftext|>", "[PRM]"], None, eos="<|endoftext|>")
    lm, head = random_lm("llama", whole), linear_head("v_head.summary", 1)
    path = write(folder, lm, whole if with_token else backbone, "LlamaForCausalLM", head, vocab_size=len(backbone))
    weights = load_file(path / "model.safetensors")
    weights = {name if name.startswith("v_head") else wrapper + name: value for name, value in weights.items()}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return whole, lm, head, path


def write_lm(folder, family="llama", tokenizer=None):
    tokenizer = tokenizer or llama_tokenizer()
    return write(folder, random_lm(family, tokenizer), tokenizer, f"{family.capitalize()}ForCausalLM")


def write_pure(folder):
    tokenizer = qwen_tokenizer()
    return write(folder, random_lm("qwen2", tokenizer), tokenizer, "Qwen2ForTokenClassification", linear_head("score", 2))


TRL_CARD = "---\nlibrary_name: transformers\ntags:\n- generated_from_trainer\n- trl\n- prm\n---\n# Model Card\n"


def write_trl(folder, family="qwen2", tokenizer=None):
    """As `PRMTrainer` leaves it, its card included; Qwen2's tokenizer names no BOS token, Llama's does."""
    tokenizer = tokenizer or {"qwen2": qwen_tokenizer, "llama": llama_tokenizer, "mistral": mistral_tokenizer}[family]()
    lm, head = random_lm(family, tokenizer), linear_head("score", 2)
    write(folder, lm, tokenizer, f"{family.capitalize()}ForTokenClassification", head)
    (folder / "README.md").write_text(TRL_CARD)
    return folder


WRITERS = {
    "qwen": lambda folder: write_qwen(folder / "renamed")[-1],
    "reasonflux": lambda folder: write_qwen(folder / "ReasonFlux-PRM-7B")[-1],
    "skywork": lambda folder: write_skywork(folder / "renamed")[-1],
    "pqm": lambda folder: write_pqm(folder / "renamed")[-1],
    "trl": lambda folder: write_trl(folder / "renamed"),
    "pure": lambda folder: write_pure(folder / "renamed"),
    "math_shepherd": lambda folder: write_lm(folder / "math-shepherd-mistral-7b-prm", "mistral", mistral_tokenizer()),
    "er_prm": lambda folder: write_lm(folder / "Llama3.1-Math-PRM"),
    "rlhflow": lambda folder: write_lm(folder / "Llama3.1-8B-PRM-Mistral-Data"),
    "eurus": lambda folder: write_eurus(folder)[-1],
}

"""Shared fixtures: a tiny tokenizer and checkpoint, training on them, a report page, a GPU, real data. Every test checks shapes."""

import json
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "offline")
if not os.environ.get("PRM_TEST_GPU"):
    # Results to the last digit are the CPU's; `make test-gpu` compares a GPU's with them.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

from jaxtyping import install_import_hook

install_import_hook("prm", "type_checks.check")

import pytest  # noqa: E402

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer():
    """A byte-level BPE tokenizer with ChatML as in Qwen2.5, and without `<extra_0>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = ["Please reason step by step, and put your final answer within \\boxed{}.", "Step 1: 3 + 4 = 7.\n\nSo 7 * 2 = 14.\n\n"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus * 5, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    fast.chat_template = CHAT_TEMPLATE
    return fast


@pytest.fixture
def tiny_tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory) -> Path:
    """Folder of a random two-layer Qwen2ForCausalLM (hidden 128, two heads of 64) with its tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=352,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    path = tmp_path_factory.mktemp("backbone")
    Qwen2ForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def make_prm(tiny_backbone, tmp_path_factory):
    """Folder, named `asym`, of a PRM with an untrained head on the tiny backbone."""
    from transformers import AutoTokenizer

    from prm.models import RewardModel, save_model
    from prm.steps import StepEncoder

    def make(max_length: int) -> str:
        folder = tmp_path_factory.mktemp("checkpoints") / "asym"
        encoder = StepEncoder.for_loss("asym", AutoTokenizer.from_pretrained(tiny_backbone), max_length=max_length)
        save_model(RewardModel.from_backbone(tiny_backbone, 1, vocab_size=len(encoder.tokenizer)), encoder, folder)
        return str(folder)

    return make


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of public data samples named by PRM_TEST_DATA; tests that need it skip without it."""
    folder = os.environ.get("PRM_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PRM_TEST_DATA names no folder")
    return Path(folder)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """A tiny training set, see tiny_training.py."""
    from tiny_training import write_dataset

    return write_dataset(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture
def train(dataset, tiny_backbone, tmp_path, no_launcher, monkeypatch):
    """Run scripts/train.py in this process on the tiny dataset; returns the output folder."""
    from tiny_training import STEPS
    from train import main

    monkeypatch.setattr("train.setup_logging", lambda: None)  # it would take pytest's log handler away

    def run(*flags: str, name: str = "out", status: int = 0) -> Path:
        output_dir = tmp_path / name
        common = ["--use_cpu", "True", "--dataset", str(dataset), "--model_name_or_path", str(tiny_backbone)]
        assert main([*common, "--output_dir", str(output_dir), *STEPS, *flags]) == status
        return output_dir

    return run


@pytest.fixture
def no_launcher(monkeypatch):
    """A process that no launcher started, and its signal handlers as they were."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")  # so that monkeypatch restores what a test adds
        monkeypatch.delenv(name)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def write_rows(tmp_path):
    """Write rows, broken ones too, to a JSONL file of their own."""

    def write(*rows: dict, name: str = "file.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def gpu():
    """The first CUDA device; tests that need it skip without one, and `make test` hides it."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device; with one, `make test-gpu`")
    return torch.device("cuda", 0)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """An evaluation's report.html."""
    from example_page import write_page

    return write_page(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="module")
def chromium():
    """A headless browser; tests that need one skip without."""
    from browser import Browser, find_browser

    program = find_browser()
    if program is None:
        pytest.skip("no browser: install chromium or Chrome, or name one in PRM_TEST_BROWSER")
    browser = Browser(program)
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium, page):
    """With the page open on a desktop; at the end, it loaded nothing, ran nothing of others and complained of nothing."""
    from example_page import TITLE

    chromium.open(page)
    chromium.wait(f"{TITLE} !== undefined")
    yield chromium
    assert chromium.run("window.hacked") is None
    assert chromium.requests() == [page.as_uri()]
    assert chromium.complaints() == []

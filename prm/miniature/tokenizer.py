"""A small tokenizer: sample text in, a byte-level BPE with single-token digits, ChatML and `<extra_0>` out.

Bytes stand behind every merge, so any text round-trips exactly; a blank line is one token and never merges with its neighbours.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from prm.steps import SEPARATOR, SYSTEM_PROMPT

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = [END_OF_TEXT, TURN_START, TURN_END, SEPARATOR]
PIECES = r"\n\n| ?\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]|\s"
"""A blank line, one digit, one word, one sign (the last three with the space before them), or one white space."""

CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' -%}"
    "{{- '<|im_start|>system\n" + SYSTEM_PROMPT.replace("\\", "\\\\") + "<|im_end|>\n' -}}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
"""ChatML as Qwen2.5 writes it, with the same default system prompt."""


def build_tokenizer(texts: Iterable[str], vocab_size: int = 512) -> PreTrainedTokenizerFast:
    """Train on `texts`; words seen at least five times become single tokens as far as `vocab_size` allows."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=5,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=SPECIAL_TOKENS,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN_START, TURN_END, SEPARATOR],
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def chat(question: str, response: str | None = None) -> str:
    """The conversation as text: up to where the response starts, or with it. Equals the chat template."""
    turns = [("system", SYSTEM_PROMPT), ("user", question)]
    prompt = "".join(f"{TURN_START}{role}\n{content}{TURN_END}\n" for role, content in turns) + f"{TURN_START}assistant\n"
    return prompt if response is None else f"{prompt}{response}{TURN_END}\n"

"""How each published PRM is recognised, what it is made of and how it is read: facts about its files in, its contract out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prm.models.files import ModelFiles
from prm.models.published.heads import Head, one_layer, token_pair, two_layers
from prm.steps import SYSTEM_PROMPT

INSTRUCTION = (
    "Below is an instruction that describes a task.\nWrite a response that appropriately completes the request.\n\n"
    "### Instruction:\n{question}\n\n### Response: Let's think step by step\n"
)
TAGGED: dict[str, Any] = dict(
    loss="step_ce",
    num_labels=2,
    activation="softmax",
    aggregation="min",
    layout="tags",
    separator=" ки",
    question_template="{question} ",
    starts_with_bos=True,
    step_prefix="Step {number}: ",
)
IMPLICIT: dict[str, Any] = dict(
    loss="implicit_prm",
    num_labels=0,
    activation="identity",
    aggregation="min",
    layout="plain",
    system_prompt=None,
    step_prefix="Step {number}: ",
    beta=0.001,
    is_cumulative=True,
)
REFERENCES = (("qwen2", "Qwen/Qwen2.5-Math-7B-Instruct"), ("llama", "meta-llama/Llama-3.1-8B-Instruct"))
"""Reference models by model_type."""


@dataclass(frozen=True)
class Recipe:
    """One family of published PRMs."""

    models: str
    """Names on the hub."""
    matches: Callable[[ModelFiles], bool]
    """Whether a folder holds a model of this family."""
    contract: dict[str, Any]
    """Fields of the StepEncoder."""
    head: Head | None = None
    """None: an implicit PRM, which has none."""
    adds_separator: bool = False
    """Whether training appended the separator to the backbone's vocabulary."""
    starts_as_tokenizer: bool = False
    """Whether the BOS token stands before a prompt where the tokenizer names one, unless the contract says `starts_with_bos`."""
    references: tuple[tuple[str, str], ...] = ()
    """model_type and reference model of an implicit PRM."""


def is_named(*parts: str, architecture: str = "ForCausalLM") -> Callable[[ModelFiles], bool]:
    """Causal LMs that nothing but their name tells from any other."""
    return lambda files: files.architecture.endswith(architecture) and any(part in files.known_as for part in parts)


def is_trl(files: ModelFiles) -> bool:
    """Token classification by a decoder; by Qwen2, which PURE has as well, only with a mark of TRL in card or training options."""
    is_decoder = files.architecture.endswith("ForTokenClassification") and "num_key_value_heads" in files.config
    is_marked = files.architecture != "Qwen2ForTokenClassification" or "trl" in files.tags or files.step_separator is not None
    return is_decoder and is_marked and "/pure-" not in files.known_as


def has_process_head(files: ModelFiles) -> bool:
    return files.architecture == "Qwen2ForProcessRewardModel"


RECIPES: dict[str, Recipe] = {}
"""Looked through in this order; the first that matches is taken. Its facts, and where they come from, stand under each."""

RECIPES["reasonflux"] = Recipe(
    models="Gen-Verse/ReasonFlux-PRM-7B",
    matches=lambda files: has_process_head(files) and "reasonflux" in files.known_as,
    contract=dict(loss="step_ce", num_labels=2, activation="softmax", aggregation="mean", system_prompt=None),
    head=two_layers,
)
"""Architecture and weights as `qwen`, so that only the name tells them apart. The chat has a user and an assistant
turn and no system turn (Qwen2.5-Math's chat template adds its own); each step is followed by `<extra_0>`. The 1.5B model of
the same name scores a whole response and is no PRM. Source: README of Gen-Verse/ReasonFlux, folder ReasonFlux_PRM (Zou et al.
2025).
"""

RECIPES["qwen"] = Recipe(
    models="Qwen/Qwen2.5-Math-PRM-7B, Qwen/Qwen2.5-Math-PRM-72B, Qwen/Qwen2.5-Math-7B-PRM800K",
    matches=has_process_head,
    contract=dict(loss="step_ce", num_labels=2, activation="softmax", aggregation="product", system_prompt=SYSTEM_PROMPT),
    head=two_layers,
)
"""ChatML with the system prompt, every step followed by `<extra_0>` (id 151651), the last included and nothing else
between them; P(class 1) at the token. The card's snippet renders the whole chat, but what stands behind the last `<extra_0>`
cannot reach it. config.json says `Qwen2ForProcessRewardModel`, model_type qwen2, and names remote code, which is not needed.
Best-of-N of the paper takes the product. Source: model cards, `modeling_qwen2_rm.py`; Zhang et al. 2025, "The Lessons of
Developing Process Reward Models".
"""

RECIPES["skywork"] = Recipe(
    models="Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B, Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B",
    matches=lambda files: files.architecture == "Qwen2ForPrmModel",
    contract=dict(
        loss="step_ce",
        num_labels=1,
        activation="sigmoid",
        aggregation="mean",
        separator="\n",
        question_template="{question}\n",
        starts_with_bos=True,
        reads_lines=True,
    ),
    head=one_layer("v_head.summary"),
)
"""BOS token, problem and a newline; then every line, tokenized alone, and a newline, at which a value head Linear(h, 1) is read,
sigmoid. Official scripts take each line for a step; here a step may have several: all are encoded as there, and the value of
its last one is the step's. Blank lines between steps are left out, as in the card's examples; the scripts give each a newline
of its own where a response has them. Searches that take paragraphs for steps pass a blank line as the scripts' step token:
separator "\\n\\n", reads_lines false. The weights are `pytorch_model*.bin`, of which only tensors are read. PRMBench's
wrapper calls a step good if its score falls by less than 0.05. Source: SkyworkAI/skywork-o1-prm-inference,
`model_utils/io_utils.py` and `prm_model.py`.
"""

RECIPES["trl"] = Recipe(
    models="models of TRL's PRMTrainer",
    matches=is_trl,
    contract=dict(
        loss="step_ce",
        num_labels=2,
        activation="softmax",
        aggregation="min",
        separator="\n",
        separator_is_text=True,
        question_template="{question}",
    ),
    head=one_layer("score"),
    starts_as_tokenizer=True,
)
"""The prompt as it is, behind the BOS token of a tokenizer that names one; then every step, tokenized alone, and the separator,
at the last token of which a linear head of two classes is read: P(good). The separator is the trainer's `step_separator`, which
`training_args.bin` names beside the weights, else its default; a recipe file overrules both. Steps stand as the data had them,
`Step 1: ` included where it had that. The trainer fixes no aggregation. Source: TRL 1.13 (the last release that has it),
`trl/experimental/prm/prm_trainer.py`, `tokenize_row`.
"""

RECIPES["pure"] = Recipe(
    models="jinachris/PURE-PRM-7B, earlier named jinachris/Qwen2.5-Math-7B-PRM800K",
    matches=lambda files: files.architecture == "Qwen2ForTokenClassification",
    contract=dict(
        loss="step_ce",
        num_labels=2,
        activation="difference",
        aggregation="softmin",
        tau=0.1,
        separator="\n",
        question_template="{question}",
    ),
    head=one_layer("score"),
)
"""The question as it is, then every step, tokenized alone, and a newline, at which a linear head of two classes is
read: P(good) - P(bad), in [-1, 1], good above 0. Encoded as `trl`, whose trainer it was trained with. PRMBench's wrapper puts a
blank line in the place of the newline, in which card and training differ from it. The card weights steps by softmax(-score /
0.1), for which softmin stands here. Source: card of jinachris/PURE-PRM-7B; CJReinforce/PURE, `experience_maker.py` and
`utils.py` (Cheng et al. 2025).
"""

RECIPES["math_shepherd"] = Recipe(
    models="peiyi9979/math-shepherd-mistral-7b-prm",
    matches=is_named("math-shepherd", architecture="MistralForCausalLM"),
    contract=dict(**TAGGED, step_joint="\n"),
    head=token_pair(bad=" -", good=" +"),
)
"""BOS token, question, then a line `Step 1: ... ки` per step; at the tag (id 12902) the softmax over the logits of
`+` (648) and `-` (387). Those are tokens that begin a word: in a sentencepiece vocabulary they hold the space before them, as
the tag does. Mistral v0.1 sees a window of 4,096 tokens. Source: model card (Wang et al. 2024).
"""

RECIPES["er_prm"] = Recipe(
    models="HanningZhang/Llama3.1-Math-PRM",
    matches=is_named("/llama3.1-math-prm", "/er-prm"),
    contract=TAGGED,
    head=token_pair(bad=" -", good=" +"),
)
"""As `math_shepherd`, but without the newline behind the tag, which training and evaluation remove, and with Llama
3.1's tokens ` +` (489) and ` -` (482). Source: hanningzhang/ER-PRM, `evaluation/evaluate_math_reward_model.py` and
`prm/kl_math_reward_ce.py` (Zhang et al. 2024).
"""

RECIPES["rlhflow"] = Recipe(
    models="RLHFlow/Llama3.1-8B-PRM-Mistral-Data, RLHFlow/Llama3.1-8B-PRM-Deepseek-Data",
    matches=is_named("prm-mistral-data", "prm-deepseek-data"),
    contract=dict(
        loss="step_ce",
        num_labels=2,
        activation="softmax",
        aggregation="mean",
        layout="turns",
        separator="+",
        system_prompt=None,
    ),
    head=token_pair(bad="-", good="+"),
)
"""A user turn per step, the question and a space before the first, each answered `+`; at the position before the answer (the
third from the end of the chat so far) the softmax over `+` (10) and `-` (12). The script averages the steps. PRMBench's
wrapper takes the softmax over the whole vocabulary, another number; ProcessBench's script puts a blank line between question
and first step (question_template "{question}\\n\\n"), and calls a step good if `+` is the likeliest token of all. Source:
RLHFlow/RLHF-Reward-Modeling, `math-rm/prm_evaluate.py` (Xiong et al. 2024).
"""

RECIPES["eurus"] = Recipe(
    models="PRIME-RL/EurusPRM-Stage1, PRIME-RL/EurusPRM-Stage2, implicit PRMs of the same scripts",
    matches=is_named("eurusprm", "implicitprm", "implicit-prm"),
    contract=IMPLICIT,
    references=REFERENCES,
)
"""A user turn, and an assistant turn of paragraphs `Step 1: ...`; the score of a step is coef * log(pi / pi_ref) summed over all
response tokens up to its end, the token that closes the turn included in the last. coef is 0.001 in the card and 0.005 in
`process_eval.sh`, where the reference is Qwen2.5-7B-Instruct (--reference takes it). Scores are not probabilities: the script
for ProcessBench passes them through a sigmoid, which keeps their order. The card's snippet counts a token more, the line end
before the response, which adds the same to all responses to a question; the script does not. Source: PRIME-RL/ImplicitPRM,
`eval/processbench.py`; card of PRIME-RL/EurusPRM-Stage2 (Yuan et al. 2024, Cui et al. 2025).
"""

RECIPES["pqm"] = Recipe(
    models="Windy0822/PQM",
    matches=lambda files: "v_head.summary.weight" in files.weights,
    adds_separator=True,
    contract=dict(
        loss="pqm",
        num_labels=1,
        activation="identity",
        aggregation="min",
        layout="tags",
        separator=" [PRM]",
        question_template=INSTRUCTION,
        step_prefix="Step {number}: ",
        step_joint="\n",
    ),
    head=one_layer("v_head.summary"),
)
"""Instruction prompt without BOS token, then a line `Step 1: ... [PRM]` per step; TRL's value head at the added token `[PRM]`,
raw value, minimum. The hub holds only `zeta-2/` and `zeta-4/model.safetensors`: put config and tokenizer of the backbone
beside one of them, the new token gets the last id. Weights are named `pretrained_model.*` and `v_head.summary.*`. Training
wrapped the question in `[INST]`; the prompt here is that of the evaluation. Steps count from 1 as in training; the evaluation
counts from 2 where a response begins with `Step 1:`. Source: WindyLee0822/Process_Q_Model, `bon_eval_hf.py` and
`value_model.py` (Li & Li 2024).
"""

RECIPES["eurus_late"] = Recipe(
    models="the same models, on request",
    matches=lambda files: False,
    contract=dict(**IMPLICIT, boundary="published"),
    references=REFERENCES,
)
"""`eurus` with the step ends of the published script, for parity with published numbers: it measures the chat cut off behind
a step, in which ChatML's closing token and a blank line follow, and so counts tokens of the next step.
"""

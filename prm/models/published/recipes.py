"""How each published PRM is recognised, what it is made of and how it is read: facts about its files in, its contract out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prm.models.files import ModelFiles
from prm.models.published.heads import Head, one_layer, token_pair, two_layers
from prm.steps import SYSTEM_PROMPT

TAG = " ки"
ALPACA_PROMPT = (
    "Below is an instruction that describes a task.\nWrite a response that appropriately completes the request.\n\n"
    "### Instruction:\n{question}\n\n### Response: Let's think step by step\n"
)


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
    references: tuple[tuple[str, str], ...] = ()
    """model_type and reference model of an implicit PRM."""


def is_named(*parts: str) -> Callable[[ModelFiles], bool]:
    """Causal LMs that nothing but their name tells from any other."""
    return lambda files: files.architecture.endswith("ForCausalLM") and any(part in files.known_as for part in parts)


def has_process_head(files: ModelFiles) -> bool:
    return files.architecture == "Qwen2ForProcessRewardModel"


def has_value_head(files: ModelFiles) -> bool:
    return "v_head.summary.weight" in files.weights


RECIPES: dict[str, Recipe] = {}
"""Looked through in this order; the first that matches is taken."""

RECIPES["reasonflux"] = Recipe(
    models="Gen-Verse/ReasonFlux-PRM-7B",
    matches=lambda files: has_process_head(files) and "reasonflux" in files.known_as,
    contract={"loss": "step_ce", "num_labels": 2, "activation": "softmax", "system_prompt": None, "aggregation": "mean"},
    head=two_layers,
)
"""Recipe 9. Architecture and weights as `qwen`, so that only the name tells them apart; the chat has a user and an assistant turn
and no system turn (the chat template of Qwen2.5-Math adds its own), each step is followed by `<extra_0>`. The 1.5B model of the same
name scores a whole response and is no PRM. Source: README of Gen-Verse/ReasonFlux, folder ReasonFlux_PRM (Zou et al. 2025)."""

RECIPES["qwen"] = Recipe(
    models="Qwen/Qwen2.5-Math-PRM-7B, Qwen/Qwen2.5-Math-PRM-72B, Qwen/Qwen2.5-Math-7B-PRM800K",
    matches=has_process_head,
    contract={
        "loss": "step_ce",
        "num_labels": 2,
        "activation": "softmax",
        "system_prompt": SYSTEM_PROMPT,
        "aggregation": "product",
    },
    head=two_layers,
)
"""Recipe 1. ChatML with the system prompt, every step followed by `<extra_0>` (id 151651), the last included and nothing between
them; P(class 1) at the token. The card's snippet renders the whole chat; what stands behind the last `<extra_0>` cannot reach it.
config.json names `Qwen2ForProcessRewardModel`, model_type qwen2 and remote code, which is not needed. Best-of-N of the paper takes
the product. Source: model cards and `modeling_qwen2_rm.py`; Zhang et al. 2025, "The Lessons of Developing Process Reward Models"."""

RECIPES["skywork"] = Recipe(
    models="Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B, Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B",
    matches=lambda files: files.architecture == "Qwen2ForPrmModel",
    contract={
        **{"loss": "step_ce", "num_labels": 1, "activation": "sigmoid", "separator": "\n", "aggregation": "mean"},
        **{"question_template": "{question}\n", "starts_with_bos": True, "reads_lines": True},
    },
    head=one_layer("v_head.summary"),
)
"""Recipe 4. BOS token, problem and a newline; then every line, tokenized alone, and a newline, at which a value head Linear(h, 1) is
read, sigmoid. Official scripts take each line for a step; here a step may have several, all lines are encoded as there, and the last
one's value is the step's. Weights are `pytorch_model*.bin`, read with `weights_only`. PRMBench calls a step good if its score
exceeds the one before it less 0.05. Source: SkyworkAI/skywork-o1-prm-inference, `model_utils/io_utils.py` and `prm_model.py`."""

RECIPES["pqm"] = Recipe(
    models="Windy0822/PQM",
    matches=lambda files: has_value_head(files),
    contract={
        **{"loss": "pqm", "num_labels": 1, "activation": "identity", "layout": "tags", "separator": " [PRM]", "aggregation": "min"},
        **{"question_template": ALPACA_PROMPT, "step_prefix": "Step {number}: ", "step_joint": "\n"},
    },
    head=one_layer("v_head.summary"),
)
"""Recipe 6. Instruction prompt, then `Step 1: ... [PRM]` a line, no BOS token; TRL's value head at the added token `[PRM]`, raw
value, minimum. The hub holds only `zeta-2/` and `zeta-4/model.safetensors`: put config and tokenizer of the backbone (their vocabulary
plus one, `[PRM]` last) beside one of them. Weights are named `pretrained_model.*` and `v_head.summary.*`. Training prompts were
`[INST] ... [/INST]`; this is the prompt of the evaluation. Source: WindyLee0822/Process_Q_Model, `bon_eval_hf.py` and
`value_model.py` (Li & Li 2024)."""

RECIPES["pure"] = Recipe(
    models="jinachris/PURE-PRM-7B (earlier jinachris/Qwen2.5-Math-7B-PRM800K)",
    matches=lambda files: files.architecture == "Qwen2ForTokenClassification" and "score.weight" in files.weights,
    contract={
        **{"loss": "step_ce", "num_labels": 2, "activation": "difference", "separator": "\n", "aggregation": "softmin"},
        **{"question_template": "{question}", "tau": 0.1},
    },
    head=one_layer("score"),
)
"""Recipe 8. The question as it is, then every step, tokenized alone, and a newline, at which a linear head of two classes is read:
P(good) - P(bad), in [-1, 1], good above 0. It is what TRL's PRMTrainer trains and encodes. PRMBench's wrapper puts a blank line in
the place of the newline; the card and the trainer agree on the newline. The card recommends a softmin-weighted sum, temperature 0.1.
Source: card of jinachris/PURE-PRM-7B; CJReinforce/PURE, `experience_maker.py` and `utils.py` (Cheng et al. 2025)."""

RECIPES["math_shepherd"] = Recipe(
    models="peiyi9979/math-shepherd-mistral-7b-prm",
    matches=is_named("math-shepherd"),
    contract={
        **{"loss": "step_ce", "num_labels": 2, "activation": "softmax", "layout": "tags", "separator": TAG, "aggregation": "min"},
        **{"question_template": "{question} ", "starts_with_bos": True, "step_prefix": "Step {number}: ", "step_joint": "\n"},
    },
    head=token_pair(" -", " +"),
)
"""Recipe 2. BOS token, question, `Step 1: ... ки` a line; at the tag (id 12902) the softmax over the logits of `+` (648) and `-`
(387). Those are tokens that begin a word: in a sentencepiece vocabulary they hold the space before them, as the tag does. Mistral v0.1
sees a window of 4,096 tokens. Source: model card (Wang et al. 2024)."""

RECIPES["er_prm"] = Recipe(
    models="HanningZhang/Llama3.1-Math-PRM",
    matches=is_named("llama3.1-math-prm", "er-prm"),
    contract={
        **{"loss": "step_ce", "num_labels": 2, "activation": "softmax", "layout": "tags", "separator": TAG, "aggregation": "min"},
        **{"question_template": "{question} ", "starts_with_bos": True, "step_prefix": "Step {number}: "},
    },
    head=token_pair(" -", " +"),
)
"""Recipe 7. As `math_shepherd`, but no newline behind the tag (training and evaluation replace it), and the tokens ` +` (489) and
` -` (482) of Llama 3.1 with their space. Source: hanningzhang/ER-PRM, `evaluation/` and `prm/kl_math_reward_ce.py` (Zhang et al. 2024)."""

RECIPES["rlhflow"] = Recipe(
    models="RLHFlow/Llama3.1-8B-PRM-Mistral-Data, RLHFlow/Llama3.1-8B-PRM-Deepseek-Data",
    matches=is_named("prm-mistral-data", "prm-deepseek-data"),
    contract={
        **{"loss": "step_ce", "num_labels": 2, "activation": "softmax", "layout": "turns", "separator": "+", "aggregation": "mean"},
        **{"system_prompt": None},
    },
    head=token_pair("-", "+"),
)
"""Recipe 3. A user turn per step, the question and a space before the first step, each answered `+`; at the position before the
answer (the third from the end of the chat so far) the softmax over `+` (10) and `-` (12). The script averages the steps. PRMBench's
wrapper takes the softmax over the whole vocabulary, which is another number. Source: RLHFlow/RLHF-Reward-Modeling,
`math-rm/prm_evaluate.py` (Xiong et al. 2024)."""

EURUS_CONTRACT: dict[str, Any] = {
    **{"loss": "implicit_prm", "layout": "plain", "num_labels": 0, "activation": "identity", "aggregation": "min"},
    **{"system_prompt": None, "step_prefix": "Step {number}: ", "beta": 0.001, "is_cumulative": True},
}
EURUS_REFERENCES = (("qwen2", "Qwen/Qwen2.5-Math-7B-Instruct"), ("llama", "meta-llama/Llama-3.1-8B-Instruct"))

RECIPES["eurus"] = Recipe(
    models="PRIME-RL/EurusPRM-Stage1, PRIME-RL/EurusPRM-Stage2, implicit PRMs of the same scripts",
    matches=is_named("eurusprm", "implicitprm", "implicit-prm"),
    contract=EURUS_CONTRACT,
    references=EURUS_REFERENCES,
)
"""Recipe 5. One user turn and an assistant turn of `Step 1: ...` paragraphs; the score of a step is coef * log(pi / pi_ref) summed
over all tokens up to its end, the closing token of the turn included in the last. coef is 0.001 in the card, 0.005 in
`process_eval.sh`; a reference other than the card's is named by --reference (that script takes Qwen2.5-7B-Instruct). Scores are not
probabilities: ProcessBench's script passes them through a sigmoid, which keeps their order. Source: PRIME-RL/ImplicitPRM,
`eval/processbench.py`; card of PRIME-RL/EurusPRM-Stage2 (Yuan et al. 2024, Cui et al. 2025)."""

RECIPES["eurus_late"] = Recipe(
    models="the same models, on request",
    matches=lambda files: False,
    contract={**EURUS_CONTRACT, "boundary": "published"},
    references=EURUS_REFERENCES,
)
"""Recipe 5 with the step boundaries of the published script, for parity with published numbers: it measures the length of the chat
cut off behind a step, in which ChatML's closing token and a blank line follow, and so counts tokens of the next step."""

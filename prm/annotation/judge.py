"""Step labels by an LLM judge: responses in, Great / Okay / Bad for each step out as 1 / 0 / -1.

Source: App. B.1 of the paper (methods of PRM800K's raters, written as a prompt). An answer that cannot be read is drawn again under
another seed; a response whose answers stay unreadable is dropped and counted by reason.
"""

import dataclasses
import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from tqdm import tqdm

from prm.annotation.base import LabelConfig, Labelling
from prm.annotation.verdicts import Fault, load_template, majority, parse_verdict, render_prompt
from prm.records import Key, Response
from prm.sampling.base import Engine, EngineConfig, SampleRequest, SampleResult, SamplingConfig, make_engine
from prm.sampling.prompts import context_length, model_identity, read_model, sample_seed
from prm.tracking import progress

CHUNK = 1024
"""Responses whose requests an engine gets at once, with the retries of the chunk before."""
CONTROL_TOKEN = re.compile(r"<\|[\w.-]{1,40}\|>|<extra_\d+>")
"""Marks that chat models read as control tokens, for servers, whose tokenizer is not at hand."""


@dataclass
class JudgeConfig(LabelConfig, EngineConfig, SamplingConfig):
    """Grade every step with an LLM judge: Great 1, Okay 0, Bad -1."""

    model: str = "Qwen/Qwen2.5-72B-Instruct"
    """Folder or hub name of the judge, a chat model; of a server, the name it serves the model under."""
    temperature: float = 0.6
    """Softmax temperature; 0 takes the likeliest token, and goes with one vote and no retry."""
    prompt: str | None = None
    """File with a prompt of your own; {question} and {steps} must stand in it, {num_steps}, {reference} and {code} may."""
    show_answer: bool = False
    """Show the judge the reference answer, where a response has one."""
    num_votes: int = 1
    """Readable verdicts per response; each step takes the commonest label, among equally common ones the lowest."""
    max_retries: int = 3
    """How often a verdict that cannot be read is drawn again; then the response is dropped."""
    max_prompt_characters: int = 40_000
    """Longest prompt; a response that needs more is dropped as too_long, as is one that does not fit into a local model's context.
    A server that refuses a prompt as too long ends the run: lower this, and resume."""
    seed: int = 0
    """Seed of the run; each answer's own seed derives from it, the response's key, the vote and the attempt."""

    def check(self) -> None:
        LabelConfig.check(self)
        EngineConfig.check(self)
        SamplingConfig.check(self)
        if self.num_votes < 1:
            raise ValueError(f"--num_votes is {self.num_votes}; it must be at least 1")
        if self.max_retries < 0:
            raise ValueError(f"--max_retries is {self.max_retries}; it must be 0 or more")
        if self.max_prompt_characters < 1:
            raise ValueError(f"--max_prompt_characters is {self.max_prompt_characters}; it must be at least 1")
        if self.temperature == 0 and (self.num_votes > 1 or self.max_retries > 0):
            raise ValueError("--temperature 0 draws the same answer again: raise it, or take --num_votes 1 --max_retries 0")


@dataclass
class Panel:
    """The votes on one response as they come in; a vote is open (None), labels, or why its last attempt gave none."""

    response: Response
    request: SampleRequest
    votes: list[list[int] | Fault | None]
    costs: dict[str, int] = field(default_factory=lambda: {"num_label_requests": 0, "num_label_tokens": 0})

    def draw(self, vote: int, attempt: int, run_seed: int) -> SampleRequest:
        key = self.response.key
        return dataclasses.replace(self.request, key=(key, vote, attempt), seed=sample_seed(run_seed, *key, vote, attempt))

    def take(self, result: SampleResult, is_last_attempt: bool) -> bool:
        """Count an answer; False if its vote must be drawn again."""
        self.costs["num_label_requests"] += 1
        self.costs["num_label_tokens"] += result.num_tokens
        verdict = parse_verdict(result.text, result.finish_reason == "length", len(self.response.steps))
        if isinstance(verdict, list) or is_last_attempt:
            self.votes[result.key[1]] = verdict
            return True
        return False


def judge_responses(config: JudgeConfig) -> dict[str, int]:
    """Label what is missing in `config.output`; returns the counts of all its runs, which the manifest holds too.

    Raises ValueError or FileNotFoundError for anything wrong with flags, input, model or output before an engine starts, and
    EngineError when the engine fails for good; what is finished then is on disk.
    """
    config.check()
    prompts = JudgePrompts(config)
    with Labelling(config, prompts.run_identity()) as labelling:
        # All of the input is read once before an engine starts.
        if num_todo := sum(1 for _ in labelling.todo()):
            with progress(total=num_todo, desc="judging", unit="response") as bar, closing(make_engine(config)) as engine:
                judge_all(config, prompts, labelling, engine, bar)
    return labelling.counts


def judge_all(config: JudgeConfig, prompts: "JudgePrompts", labelling: Labelling, engine: Engine, bar: tqdm) -> None:
    """Chunk by chunk; a retry waits for the next chunk, so that the engine never idles for a few stragglers."""
    todo, panels, retries = labelling.todo(), {}, []
    num_tokens, start = 0, time.monotonic()
    while (chunk := list(islice(todo, CHUNK))) or retries:
        requests, retries = [*retries, *open_panels(config, prompts, labelling, chunk, panels, bar)], []
        for result in engine.generate(requests, config):
            key, vote, attempt = result.key
            panel = panels[key]
            if not panel.take(result, is_last_attempt=attempt == config.max_retries):
                retries.append(panel.draw(vote, attempt + 1, config.seed))
            elif None not in panel.votes:
                finish(panels.pop(key), labelling)
                bar.update()
            num_tokens += result.num_tokens
            bar.set_postfix_str(f"{num_tokens / (time.monotonic() - start):.0f} tokens/s", refresh=False)


def open_panels(
    config: JudgeConfig,
    prompts: "JudgePrompts",
    labelling: Labelling,
    responses: list[Response],
    panels: dict[Key, Panel],
    bar: tqdm,
) -> Iterator[SampleRequest]:
    """The first request of every vote; a response that no prompt can hold is dropped here."""
    for response in responses:
        request = prompts.request(response)
        if isinstance(request, str):
            labelling.drop(response, request)
            bar.update()
        else:
            panels[response.key] = panel = Panel(response, request, [None] * config.num_votes)
            yield from (panel.draw(vote, 0, config.seed) for vote in range(config.num_votes))


def finish(panel: Panel, labelling: Labelling) -> None:
    """Write the labels, or drop the response for the fault of its first vote that has one."""
    fault = next((vote for vote in panel.votes if isinstance(vote, str)), None)
    if fault is not None:
        labelling.drop(panel.response, fault, **panel.costs)
    else:
        labels = {"step_labels": majority(panel.votes), "label_source": "judge", "completions": None}
        labelling.write(dataclasses.replace(panel.response, **labels), **panel.costs)


class JudgePrompts:
    """Turns responses into requests: chat turns for a server, token ids for an engine on this machine."""

    def __init__(self, config: JudgeConfig):
        self.config = config
        self.template = load_template(config.prompt, config.show_answer)
        self.tokenizer, self.special_tokens, self.model = None, [], config.model
        if config.engine != "server":
            model_config, self.tokenizer = read_model(config.model)
            self.context, self.model = context_length(config, model_config), model_identity(config.model, model_config)
            if not self.tokenizer.chat_template:
                raise ValueError(f"--model {config.model}: its tokenizer has no chat template; take a chat model as the judge")
            self.special_tokens = list(self.tokenizer.all_special_tokens)

    def run_identity(self) -> dict[str, Any]:
        """What must agree for two runs to share an output; limits, which decide what is dropped and not its labels, may differ."""
        names = ("show_answer", "num_votes", "seed", "max_tokens", "temperature", "top_p")
        settings = {name: getattr(self.config, name) for name in (*names, "dtype", "max_model_len")}
        prompt = hashlib.sha256(self.template.encode()).hexdigest()
        return {"method": "judge", "model": self.model, "engine": self.config.resolved_engine(), "prompt": prompt, **settings}

    def request(self, response: Response) -> SampleRequest | str:
        """A request without key and seed, or why there is none: `no_steps`, `special_token`, `too_long`."""
        if not response.steps:
            return "no_steps"
        code = f"{sample_seed(self.config.seed, *response.key):014x}"[:8]
        prompt = render_prompt(self.template, response, code, response.answer if self.config.show_answer else None)
        if len(prompt) > self.config.max_prompt_characters:
            return "too_long"
        if self._holds_special_token(response):
            return "special_token"
        messages = [{"role": "user", "content": prompt}]
        if self.tokenizer is None:
            return SampleRequest(None, [], 0, messages)
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return "too_long" if len(ids) >= self.context else SampleRequest(None, ids, 0)

    def _holds_special_token(self, response: Response) -> bool:
        """The judge's tokenizer would read these as control tokens, and the text could end its turn and take the judge's."""
        texts = (response.question, *response.steps)
        return any(CONTROL_TOKEN.search(text) or any(token in text for token in self.special_tokens) for text in texts)

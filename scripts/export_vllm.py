"""Write a PRM so that vLLM serves it without any code of this project, and check that its scores are those of torch."""

import json
import shlex
from itertools import islice

from prm.config import parse_args, run
from prm.data.sources import iter_responses
from prm.models.checkpoint import EXAMPLE
from prm.scoring.exported import read_config, served_length
from prm.serving.export import MAX_RESPONSES, SERVE_OPTIONS, ExportConfig, chat_messages, export_checkpoint, is_chat_alike
from prm.steps import StepEncoder
from prm.tracking import setup_logging


def main(argv: list[str] | None = None) -> None:
    setup_logging()
    config = parse_args(ExportConfig, argv, __doc__)
    config.check()
    responses = list(islice(iter_responses(config.input), MAX_RESPONSES)) if config.input else []
    parity = export_checkpoint(config, responses)
    if parity is not None:
        print(
            f"parity   {parity.num_steps} steps of {parity.num_responses} responses of up to {parity.num_tokens} tokens, "
            f"scores {parity.lowest:.3f} to {parity.highest:.3f}: vLLM and torch differ by at most {parity.difference:.1e} "
            f"(limit {parity.limit:.0e})"
        )
    print(f"serve    vllm serve {config.output} --config {config.output}/{SERVE_OPTIONS}")
    encoder = StepEncoder.load(config.output)
    longest = served_length(read_config(config.output), encoder)
    cut = f", not of the contract's {encoder.max_length}: the model has no more positions" if longest < encoder.max_length else ""
    print(f"limit    responses of up to {longest} tokens with their question{cut}")
    if is_chat_alike(config.output, encoder):
        body = {"messages": chat_messages(encoder, EXAMPLE), "continue_final_message": True}
        print(f"request  curl localhost:8000/pooling -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}")
    else:
        ids = f"[response.input_ids for response in StepEncoder.load({config.output!r}).encode_batch(responses)]"
        print(f'request  POST /pooling {{"input": {ids}}}: the server would encode a chat of messages otherwise')


if __name__ == "__main__":
    run(main)

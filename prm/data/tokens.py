"""The tokens of a split: a file of responses and a step contract in, a table on disk that is mapped into memory out.

The table holds every response, whatever its labels and length, so that objectives of one layout share it. It lies beside the file
under a name made of what it depends on: a later run finds it, and another tokenizer makes another.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import datasets
import pyarrow

from prm.files import read_records, written_aside
from prm.records import Response
from prm.steps import StepEncoder
from prm.tracking import hash_path, progress

BATCH = 512
"""Responses that are encoded in one call of the tokenizer."""
VERSION = 1
SCHEMA = pyarrow.schema(
    {
        "question_id": pyarrow.string(),
        "sample_index": pyarrow.int64(),
        "correct": pyarrow.bool_(),
        "step_labels": pyarrow.list_(pyarrow.float64()),
        "input_ids": pyarrow.list_(pyarrow.int32()),
        "step_ends": pyarrow.list_(pyarrow.int32()),
        "response_start": pyarrow.int32(),
    }
)


def encode_file(path: Path, encoder: StepEncoder, folder: Path) -> datasets.Dataset:
    """The table of a file of responses, made in `folder` unless it is there. Rows are in the file's order; none is cut.

    Raises ValueError, naming the response, for steps that the contract cannot hold.
    """
    file = folder / f".tokens-{path.stem}-{fingerprint(path, encoder)}.arrow"
    if not file.exists():
        with written_aside(file) as aside, pyarrow.ipc.new_stream(str(aside), SCHEMA) as stream:
            for batch in batches(path, encoder):
                stream.write_batch(batch)
    return datasets.Dataset.from_file(str(file))


def batches(path: Path, encoder: StepEncoder) -> Iterator[pyarrow.RecordBatch]:
    encoder = dataclasses.replace(encoder, max_length=sys.maxsize)
    responses = progress(read_records(path, Response), desc=f"encoding {path.name}", unit="response")
    responses = iter(responses)
    while chunk := list(islice(responses, BATCH)):
        encoded = encoder.encode_batch(chunk)
        columns = [[getattr(response, name) for response in chunk] for name in SCHEMA.names[:4]]
        columns += zip(*((e.input_ids, e.step_ends, e.response_start) for e in encoded), strict=True)
        arrays = [pyarrow.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        yield pyarrow.record_batch(arrays, schema=SCHEMA)


def fingerprint(path: Path, encoder: StepEncoder) -> str:
    """What the tokens depend on: the responses, and all of the contract and the tokenizer that has a say in their encoding."""
    tokenizer = encoder.tokenizer
    parts = [VERSION, hash_path(path), encoder.encoding()]
    parts += [tokenizer.chat_template, tokenizer.eos_token_id, tokenizer.backend_tokenizer.to_str()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]

"""The reference's log-probs of a training set, computed once by all ranks and kept beside the run."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from prm.files import written_aside
from prm.models import ImplicitPRM
from prm.models.backbone import whole_on_every_rank
from prm.models.files import hash_model
from prm.models.implicit import compute_ref_logps
from prm.steps import EncodedResponse
from prm.tracking import is_main_process


def cached_ref_logps(
    name_or_path: str,
    encoded: Sequence[EncodedResponse],
    cache_dir: str | Path,
    token_budget: int = 16384,
    dtype: str | torch.dtype = "auto",
    device: torch.device | str = "cpu",
) -> list[Float[Tensor, " targets"]]:
    """`compute_ref_logps`, read from `cache_dir` when the same reference has seen the same tokens before.

    Under torch.distributed every rank computes its share and all return the whole.
    """
    file = Path(cache_dir) / f"ref_logps-{_cache_key(name_or_path, encoded, dtype)}.safetensors"
    is_cached = [file.exists()]
    if torch.distributed.is_initialized():
        # Rank 0 decides for all: a file system may show the file to one rank later than to another.
        torch.distributed.broadcast_object_list(is_cached, src=0)
    if is_cached[0]:
        flat = load_file(file)["logps"]
        return list(flat.split([len(response.input_ids) - response.response_start for response in encoded]))
    with whole_on_every_rank():
        reference = ImplicitPRM.from_backbone(name_or_path, dtype=dtype).to(device)
    logps = _over_ranks(reference, encoded, token_budget)
    if is_main_process():
        with written_aside(file) as aside:
            save_file({"logps": torch.cat(logps)}, aside)
    return logps


def _cache_key(name_or_path: str, encoded: Sequence[EncodedResponse], dtype: str | torch.dtype) -> str:
    digest = hashlib.sha256(f"{hash_model(name_or_path)} {dtype}".encode())
    for response in encoded:
        digest.update(np.asarray([len(response.input_ids), response.response_start, *response.input_ids], np.int64).tobytes())
    return digest.hexdigest()[:24]


def _over_ranks(reference: ImplicitPRM, encoded: Sequence[EncodedResponse], token_budget: int) -> list[Tensor]:
    if not torch.distributed.is_initialized():
        return compute_ref_logps(reference, encoded, token_budget)
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    shares: list[Any] = [None] * world
    torch.distributed.all_gather_object(shares, compute_ref_logps(reference, encoded[rank::world], token_budget))
    return [shares[index % world][index // world] for index in range(len(encoded))]

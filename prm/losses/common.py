"""What all objectives share: the shapes in their signatures, and functions of a logit whose gradient survives float32."""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

Logits = Float[Tensor, "batch steps"]
Mask = Bool[Tensor, "batch steps"]
PerResponse = Float[Tensor, "batch"]


def probability(z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """sigmoid(z). The derivative of torch's own, r (1 - r), is 0 from z = 17 on; this one's is exact."""
    return logsigmoid(z).exp()


def bce_with_logits(z: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Cross-entropy against targets in [0, 1], 0 where the target is NaN.

    torch's own computes `(1-t) z - logsigmoid(z)`, which is exactly 0 for t = 0 and z < -17.
    """
    t = target.float().nan_to_num()
    return -(t * logsigmoid(z) + (1 - t) * logsigmoid(-z)).masked_fill(target.isnan(), 0)


def squared_error(
    z: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"], complement: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """`(sigmoid(z) - target)^2` from the target and 1 - target: the difference as r (1-t) - (1-r) t keeps both ends exact."""
    return (probability(z) * complement - probability(-z) * target).square()

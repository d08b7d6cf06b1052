"""The common mean of rows is subtracted before they are rounded to half precision.

Features after a ReLU have a common mean far larger than their differences. At a mutual cosine of 0.6 to 0.8 its
rounding error is up to a hundred times that of the differences. Anchors f become f - a: every logit of key q changes by
-<a, q>, which is added again as a bias in full precision; this also keeps the rounding of q out of <a, q>. The gradient
with respect to keys, sum over anchors of (p_s - p_t) f, depends on a: it uses the anchors without the shift.

Every a is correct. For the pixels or channels of an image it is their mean; for a bank it is the mean of the existing
keys, for anchors too: they are features of the same kind, and a mean of anchors would depend on which of them this
process has. Pairs in both orders share one matrix of logits, in which keys are anchors as well; a shift of the anchors
is correct for both orders. A shift of the keys, to which the softmax over keys is invariant, would gain nothing: the
rows p_s - p_t that multiply them sum to 0. Symbols: D embedding, K keys.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 1024
"""Keys that are masked and summed at a time: copies of them stay small."""


@dataclass(frozen=True)
class Centering:
    """Of the anchors of one network.

    Attributes:
        centre: (D,) float32, to be subtracted from the anchors.
        bias: (K,) float32, to be added to every row of scaled logits.
    """

    centre: Tensor
    bias: Tensor

    @classmethod
    def to_keys(cls, centre: Tensor, keys: Tensor, inverse_temperature: float) -> "Centering":
        """For ``keys`` (K, D) before they are rounded. Call it outside ``products.scope()``, which rounds products."""
        with torch.autocast(keys.device.type, enabled=False):
            return cls(centre, torch.mv(keys.to(centre.dtype), centre * inverse_temperature))

    def bias_with(self, bias: Tensor | None) -> Tensor:
        """The sum of its bias and another of the keys."""
        return self.bias if bias is None else self.bias + bias


def mean_row(rows: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean in float32 over the K rows (..., K, D); 0 if there are none.

    ``mask`` (K,) bool, only with two dimensions: False = the row does not exist.
    """
    if mask is None:
        return rows.sum(dim=-2, dtype=torch.float32) / max(rows.shape[-2], 1)
    total = torch.zeros(rows.shape[1], dtype=torch.float32, device=rows.device)
    for block, exists in zip(rows.split(_BLOCK), mask.split(_BLOCK), strict=True):
        total += block.where(exists[:, None], 0).sum(dim=0, dtype=torch.float32)
    return total / mask.sum().clamp(min=1)

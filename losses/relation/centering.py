"""What all rows share is taken out before they are rounded to half precision.

Features after a ReLU have a common mean far larger than what tells one from another. Rounded with the rest, the mean
leaves an error of its own size, which at a mutual cosine of 0.6 to 0.8 is up to a hundred times that of the rest.
Anchors f become f - a: every logit of key q changes by -<a, q>, which is given back as a bias in full precision. That
bias also takes the rounding of q out of <a, q>. The gradient with respect to keys, sum over anchors of (p_s - p_t) f,
is not free of a: it takes the anchors as they are.

Any a is right. Of an image's pixels or channels it is their own mean, of a bank's keys the mean of those that exist,
for anchors too: they are features of the same kind, and a mean of anchors would depend on which of them this process
has. Pairs in both orders share one matrix of logits, in which keys are anchors as well; a shift of the anchors is right
for both orders as it is. A shift of the keys, to which the softmax over keys is blind, would gain nothing: p_s - p_t,
which they are multiplied with, sums to 0 and is blind to what they share. Symbols: D embedding, K keys.
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
        """Its bias and another of the keys."""
        return self.bias if bias is None else self.bias + bias


def mean_row(rows: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean in float32 over the last dimension but one, of rows (K, D) those that exist; 0 where there are none.

    Args:
        rows: (..., K, D).
        mask: (K,) bool, False = the row does not exist; only with two dimensions. None = all exist.
    """
    if mask is None:
        return rows.sum(dim=-2, dtype=torch.float32) / max(rows.shape[-2], 1)
    total = torch.zeros(rows.shape[1], dtype=torch.float32, device=rows.device)
    for block, exists in zip(rows.split(_BLOCK), mask.split(_BLOCK), strict=True):
        total += block.where(exists[:, None], 0).sum(dim=0, dtype=torch.float32)
    return total / mask.sum().clamp(min=1)

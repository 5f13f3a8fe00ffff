"""What a CRF (Lafferty et al. 2001, "Conditional Random Fields") makes of logits: likelihoods and probabilities."""

from typing import Final

import torch
from torch import Tensor

from worker.ner.tags import TagTable
from worker.training.labels import UNLABELLED

_NEVER: Final = -1e4  # in logits, of a tag that isn't the label
_LEAST: Final = -16.0  # logarithm of a probability


class Lattice:
    """All legal paths through the tags of a batch, each with the sum of its logits and transitions."""

    def __init__(self, logits: Tensor, real: Tensor, moves: Tensor, stays: Tensor, tags: TagTable) -> None:
        """`logits` is [B, C, K], `real` [B, C] false in padding; `moves` and `stays` are as in `Transitions`."""
        self.logits, self.real, self.moves, self.stays, self.tags = logits, real, moves, stays, tags
        device = logits.device
        insides = torch.from_numpy(tags.insides).to(device)
        entered = torch.cat([torch.from_numpy(tags.begins).to(device), insides.new_tensor([tags.outside])])
        self._columns = torch.cat([entered, insides]).argsort()
        self._entering = logits[..., entered].unbind(-2)  # each [B, L + 1]
        self._staying = (logits[..., insides] + stays).unbind(-2)  # each [B, L]
        self._reached = [moves[-1].expand_as(self._entering[0])]  # logarithms of sums over the paths so far
        self._sums = [self._entering[0] + moves[-1]]
        weights = moves.exp()
        for place in range(1, len(self._entering)):
            before = self._sums[-1]
            self._reached.append(_log_product(before, weights))
            now = self._reached[-1] + self._entering[place]
            inside = torch.logaddexp(before[..., :-1] + self._staying[place], now[..., :-1])
            now = torch.cat([inside, now[..., -1:]], -1)
            self._sums.append(torch.where(real[:, place, None], now, before))

    def total(self) -> Tensor:
        """[B] the logarithm of the sum over all paths of each text."""
        return (self._sums[-1] + self.moves[:, -1]).logsumexp(-1)

    def log_probabilities(self) -> Tensor:
        """[B, C, K] of each tag at each place, whatever the others are; what stands in padding means nothing."""
        ends = self.moves[:, -1].expand_as(self._sums[-1])
        after = [ends]  # logarithms of sums over the rest of the paths, the last place first
        weights = self.moves.exp().T
        for place in range(len(self._sums) - 1, 0, -1):
            entered = self._entering[place] + after[-1]
            now = _log_product(entered, weights)
            inside = torch.logaddexp(self._staying[place] + after[-1][..., :-1], now[..., :-1])
            now = torch.cat([inside, now[..., -1:]], -1)
            after.append(torch.where(self.real[:, place, None], now, ends))
        rest = torch.stack(after[::-1], -2)
        entered = torch.stack(self._reached, -2) + torch.stack(self._entering, -2) + rest
        before = torch.stack([torch.full_like(self._sums[0], _NEVER), *self._sums[:-1]], -2)[..., :-1]
        inside = before + torch.stack(self._staying, -2) + rest[..., :-1]
        found = torch.cat([entered, inside], -1)[..., self._columns] - self.total()[..., None, None]
        return found.clamp(_LEAST, 0)


def negative_log_likelihood(every: Lattice, targets: Tensor) -> Tensor:
    """The negative log-likelihood of the labels, in nats for each labelled character.

    `targets` is [B, C], tag indices or UNLABELLED, where any tag will do: the likelihood is that of all legal paths
    together that agree with the labels. At least one character must be labelled.
    """
    rows = (targets != UNLABELLED).any(1)
    wanted = targets[rows].unsqueeze(-1)
    agrees = (wanted == UNLABELLED) | (wanted == torch.arange(every.logits.shape[-1], device=wanted.device))
    logits = every.logits[rows].masked_fill(~agrees, _NEVER)
    agreeing = Lattice(logits, every.real[rows], every.moves, every.stays, every.tags)
    mean: Tensor = (every.total()[rows] - agreeing.total()).sum() / (wanted != UNLABELLED).sum()
    return mean


def _log_product(logarithms: Tensor, weights: Tensor) -> Tensor:
    """The logarithm of the exponentials [B, S] times `weights` [S, S]."""
    largest = logarithms.detach().amax(-1, keepdim=True)
    found: Tensor = ((logarithms - largest).exp() @ weights).log() + largest
    return found

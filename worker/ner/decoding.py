"""Logits to spans: the best legal tag sequence of every text of a batch at once.

Found by Viterbi's algorithm (https://doi.org/10.1109/TIT.1967.1054010), with the transitions that the model has. Where
it has none, and the best tags of all places make a legal sequence, that is the best legal one already.
"""

import numpy as np
from numpy.typing import NDArray

from worker.ner.tags import TagTable
from worker.records import Span

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

_FURTHEST = -200.0  # logits behind the best at a place; further ones would leave a path no weight at all


def decode(logits: Float32, lengths: Int64, tags: TagTable, spaces: Bool | None = None) -> list[list[Span]]:
    """Spans of each text, in order, in places of the axis that is tagged.

    `logits` is [B, C, K] over the K tags, `lengths` [B] the real places of each row (the rest is padding, ignored),
    `spaces` [B, C] true where a place is a space: spans never begin or end on one, and a span of spaces is none.
    A span's score is the mean, over its places, of the probability of the tag that was chosen there, whatever the tags
    of other places are.
    Raises ValueError for logits that are not finite.
    """
    rows, width, _ = logits.shape
    if rows == 0 or width == 0:
        return [[] for _ in range(rows)]
    real = np.arange(width) < lengths[:, None]
    if not np.isfinite(logits[real].sum(dtype=np.float64)):
        raise ValueError("the model gave numbers that are not finite")
    chosen = best_tags(logits, real, tags)
    labels = tags.label_of[chosen]
    labels[~real] = -1
    starts, ends = _edges(chosen, labels, tags)
    if spaces is not None:
        starts, ends = _trim(starts, ends, spaces.reshape(-1))
    scores = _scores(logits, real, chosen, tags, starts, ends)
    found: list[list[Span]] = [[] for _ in range(rows)]
    row_of, start_in_row = np.divmod(starts, width)
    names = labels.reshape(-1)[starts]
    for row, start, length, label, score in zip(
        row_of.tolist(), start_in_row.tolist(), (ends - starts).tolist(), names.tolist(), scores.tolist(), strict=True
    ):
        found[row].append(Span(start, start + length, tags.labels[label], score))
    return found


def best_tags(logits: Float32, real: Bool, tags: TagTable) -> Int64:
    """The tags [B, C] of the likeliest legal sequence of each row; what stands in padding means nothing."""
    if tags.strict and tags.transitions.any:
        return _viterbi(logits, real, tags)
    chosen: Int64 = logits.argmax(axis=-1)
    if not tags.strict:
        return chosen
    labels = tags.label_of[chosen]
    inside = (labels >= 0) & ~tags.opens[chosen] & real
    before = np.concatenate([np.full((len(labels), 1), -1, labels.dtype), labels[:, :-1]], axis=1)
    rows = np.flatnonzero((inside & (before != labels)).any(axis=1))
    if len(rows):
        chosen[rows] = _viterbi(logits[rows], real[rows], tags)
    return chosen


def _viterbi(logits: Float32, real: Bool, tags: TagTable) -> Int64:
    """The best legal path [B, C]: a state for each label, entered by its begin tag only, and one for outside, the last.

    Sums of logits rank paths as products of probabilities do: the two differ by a constant at each place.
    """
    rows, width, _ = logits.shape
    moves, stays = tags.transitions.moves.astype(np.float64), tags.transitions.stays.astype(np.float64)
    begin_tags, inside_tags = np.append(tags.begins, tags.outside), np.append(tags.insides, tags.outside)
    entering = logits.transpose(1, 0, 2)[:, :, begin_tags].astype(np.float64)
    staying = logits.transpose(1, 0, 2)[:, :, tags.insides] + stays
    entering[~real.T] = staying[~real.T] = -np.inf  # padding is outside, at no cost
    entering[~real.T, -1] = 0

    best = np.empty((width, rows, len(begin_tags)))  # sum of the best path to each state
    stayed = np.zeros((width, rows, len(begin_tags)), bool)  # whether that comes from the same label, by its inside tag
    best[0] = entering[0] + moves[-1]
    for place in range(1, width):
        before, now = best[place - 1], best[place]
        np.max(before.T[:, :, None] + moves[:, None, :], axis=0, out=now)
        now += entering[place]
        continued = staying[place] + before[:, :-1]
        np.greater_equal(continued, now[:, :-1], out=stayed[place, :, :-1])
        np.maximum(continued, now[:, :-1], out=now[:, :-1])

    path = np.empty((rows, width), np.int64)
    every, into = np.arange(rows), np.ascontiguousarray(moves.T)
    state = (best[-1] + moves[:, -1]).argmax(axis=1)
    for place in range(width - 1, -1, -1):
        stays_here = stayed[place, every, state]
        path[:, place] = np.where(stays_here, inside_tags[state], begin_tags[state])
        if place:
            state = np.where(stays_here, state, (best[place - 1] + into[state]).argmax(axis=1))
    return path


def _likely(logits: Float32, real: Bool, chosen: Int64, tags: TagTable) -> NDArray[np.float64]:
    """The probability [B, C] of the tag that was chosen, by the sums over all legal paths before and after the place.

    That is the forward-backward algorithm, the sums scaled to 1 at each place (Rabiner 1989, "A Tutorial on Hidden
    Markov Models").
    """
    width = logits.shape[1]
    begin_tags, labels = np.append(tags.begins, tags.outside), len(tags.labels)
    moves, stays = np.exp(tags.transitions.moves.astype(np.float64)), np.exp(tags.transitions.stays.astype(np.float64))
    behind = (logits - logits.max(axis=-1, keepdims=True)).transpose(1, 0, 2).astype(np.float64)
    weights = np.exp(np.maximum(behind, _FURTHEST))
    entering, staying = weights[:, :, begin_tags], weights[:, :, tags.insides] * stays
    entering[~real.T] = staying[~real.T] = 0  # padding is outside
    entering[~real.T, -1] = 1

    entered, stayed = np.zeros_like(entering), np.zeros_like(staying)  # sums to each state, by either kind of tag
    entered[0] = entering[0] * moves[-1]
    for place in range(1, width):
        before = entered[place - 1].copy()
        before[:, :-1] += stayed[place - 1]
        before /= before.sum(axis=1, keepdims=True)
        # Not as a matrix product, whose last digits depend on how many rows there are.
        entered[place] = (before[:, :, None] * moves).sum(axis=1) * entering[place]
        np.multiply(before[:, :labels], staying[place], out=stayed[place])
    after = np.empty_like(entering)
    after[-1] = moves[:, -1]
    for place in range(width - 1, 0, -1):
        here = after[place] / after[place].sum(axis=1, keepdims=True)
        after[place - 1] = ((entering[place] * here)[:, :, None] * moves.T).sum(axis=1)
        after[place - 1, :, :-1] += staying[place] * here[:, :labels]
        after[place - 1, ~real[:, place]] = moves[:, -1]

    entered *= after
    stayed *= after[:, :, :-1]
    state = tags.label_of[chosen].T[:, :, None]  # outside is the last, which is -1
    begun = np.take_along_axis(entered, state, axis=2)[:, :, 0]
    gone_on = np.take_along_axis(stayed, np.maximum(state, 0), axis=2)[:, :, 0]
    found = np.where(np.isin(chosen.T, begin_tags), begun, gone_on)
    return np.asarray((found / (entered.sum(axis=2) + stayed.sum(axis=2))).T)


def _edges(chosen: Int64, labels: Int64, tags: TagTable) -> tuple[Int64, Int64]:
    """Starts and ends of spans, in places of the flattened batch; a span never runs from one row into the next."""
    inside = labels >= 0
    goes_on = np.zeros_like(inside)
    goes_on[:, 1:] = (
        inside[:, 1:] & (labels[:, 1:] == labels[:, :-1]) & ~tags.opens[chosen[:, 1:]] & ~tags.closes[chosen[:, :-1]]
    )
    stops = inside.copy()
    stops[:, :-1] &= ~goes_on[:, 1:]
    return np.flatnonzero(inside & ~goes_on), np.flatnonzero(stops) + 1


def _trim(starts: Int64, ends: Int64, spaces: Bool) -> tuple[Int64, Int64]:
    here = np.arange(len(spaces))
    last_letter = np.maximum.accumulate(np.where(spaces, -1, here))
    next_letter = np.minimum.accumulate(np.where(spaces, len(spaces), here)[::-1])[::-1]
    starts, ends = next_letter[starts], last_letter[ends - 1] + 1
    kept = starts < ends
    return starts[kept], ends[kept]


def _scores(
    logits: Float32, real: Bool, chosen: Int64, tags: TagTable, starts: Int64, ends: Int64
) -> NDArray[np.float64]:
    lengths = ends - starts
    if len(lengths) == 0:
        return np.zeros(0)
    first = np.cumsum(lengths) - lengths
    places = np.arange(int(lengths.sum())) + np.repeat(starts - first, lengths)
    if tags.strict and tags.transitions.any:
        rows, of_place = np.unique(places // logits.shape[1], return_inverse=True)
        likely = _likely(logits[rows], real[rows], chosen[rows], tags)[of_place, places % logits.shape[1]]
    else:
        seen = logits.reshape(-1, logits.shape[2])[places].astype(np.float64)
        weights = np.exp(seen - seen.max(axis=1, keepdims=True))
        likely = weights[np.arange(len(places)), chosen.reshape(-1)[places]] / weights.sum(axis=1)
    means: NDArray[np.float64] = np.add.reduceat(likely, first) / lengths
    return np.clip(means, 0.0, 1.0)

"""Logits to spans: the best legal tag sequence of every text of a batch at once.

Where the best tags of all places make a legal sequence, it is the best legal one too. Only the other texts go through
Viterbi's algorithm (https://doi.org/10.1109/TIT.1967.1054010), with transitions that are either legal or not.
"""

import numpy as np
from numpy.typing import NDArray

from worker.ner.tags import TagTable
from worker.records import Span

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


def decode(logits: Float32, lengths: Int64, tags: TagTable, spaces: Bool | None = None) -> list[list[Span]]:
    """Spans of each text, in order, in places of the axis that is tagged.

    `logits` is [B, C, K] over the K tags, `lengths` [B] the real places of each row (the rest is padding, ignored),
    `spaces` [B, C] true where a place is a space: spans never begin or end on one, and a span of spaces is none.
    A span's score is the mean, over its places, of the probability of the tag that was chosen there.
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
    scores = _scores(logits.reshape(rows * width, -1), chosen.reshape(-1), starts, ends)
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
    chosen: Int64 = logits.argmax(axis=-1)
    if not tags.strict:
        return chosen
    labels = tags.label_of[chosen]
    inside = (labels >= 0) & ~tags.opens[chosen] & real
    before = np.concatenate([np.full((len(labels), 1), -1, labels.dtype), labels[:, :-1]], axis=1)
    illegal = np.flatnonzero((inside & (before != labels)).any(axis=1))
    if len(illegal):
        chosen[illegal] = _viterbi(logits[illegal], real[illegal], tags)
    return chosen


def _viterbi(logits: Float32, real: Bool, tags: TagTable) -> Int64:
    """Sums of logits rank sequences as products of probabilities do: the two differ by a constant at each place."""
    rows, width, count = logits.shape
    inside = np.flatnonzero((tags.label_of >= 0) & ~tags.opens)
    begin_of = {int(tags.label_of[tag]): int(tag) for tag in np.flatnonzero(tags.opens)}
    begin = np.array([begin_of[int(tags.label_of[tag])] for tag in inside], np.int64)
    emissions = np.where(real[:, :, None], logits, 0).astype(np.float64).transpose(1, 0, 2)
    came_from = np.empty((width, rows, count), np.int16)
    every_row = np.arange(rows)
    score = emissions[0].copy()
    score[:, inside] = -np.inf
    for place in range(1, width):
        best = score.argmax(axis=1)
        came_from[place] = best[:, None]
        reached = np.repeat(score[every_row, best][:, None], count, axis=1)
        stays = score[:, inside] >= score[:, begin]
        came_from[place][:, inside] = np.where(stays, inside, begin)
        reached[:, inside] = np.where(stays, score[:, inside], score[:, begin])
        # Padding passes the score on as it is: nothing there may change the path before it.
        here = real[:, place, None]
        score = np.where(here, reached + emissions[place], score)
        came_from[place] = np.where(here, came_from[place], np.arange(count))
    path = np.empty((rows, width), np.int64)
    path[:, -1] = score.argmax(axis=1)
    for place in range(width - 1, 0, -1):
        path[:, place - 1] = came_from[place][every_row, path[:, place]]
    return path


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


def _scores(logits: Float32, chosen: Int64, starts: Int64, ends: Int64) -> NDArray[np.float64]:
    lengths = ends - starts
    if len(lengths) == 0:
        return np.zeros(0)
    first = np.cumsum(lengths) - lengths
    places = np.arange(int(lengths.sum())) + np.repeat(starts - first, lengths)
    seen = logits[places].astype(np.float64)
    seen -= seen.max(axis=1, keepdims=True)
    likely = np.exp(seen)
    probability = likely[np.arange(len(places)), chosen[places]] / likely.sum(axis=1)
    means: NDArray[np.float64] = np.add.reduceat(probability, first) / lengths
    return np.clip(means, 0.0, 1.0)

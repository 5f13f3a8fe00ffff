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
    illegal = inside & (before != labels)
    rows = np.flatnonzero(illegal.any(axis=1))
    if len(rows):
        # Behind the last illegal run every best tag is legal whatever stands before.
        last = int(np.flatnonzero(illegal.any(axis=0))[-1])
        after = np.flatnonzero(~inside[rows, last + 1 :].any(axis=0))
        width = last + 1 + int(after[0]) if len(after) else chosen.shape[1]
        chosen[rows, :width] = _viterbi(logits[rows, :width], real[rows, :width], tags)
    return chosen


def _viterbi(logits: Float32, real: Bool, tags: TagTable) -> Int64:
    """The best legal path [B, C]: a state for outside and one for each label, entered by its begin tag only.

    Sums of logits rank paths as products of probabilities do: the two differ by a constant at each place.
    """
    rows, width, _ = logits.shape
    outside = int(np.flatnonzero(tags.label_of < 0)[0])
    begins = np.flatnonzero(tags.opens)
    begins = begins[np.argsort(tags.label_of[begins])]
    insides = np.flatnonzero((tags.label_of >= 0) & ~tags.opens)
    insides = insides[np.argsort(tags.label_of[insides])]
    emissions = logits.astype(np.float64).transpose(1, 0, 2)
    emissions[~real.T] = -np.inf  # padding is outside, at no cost
    emissions[~real.T, outside] = 0
    begin, inside = emissions[:, :, begins], emissions[:, :, insides]
    score_outside = emissions[:, :, outside]

    states = np.empty((rows, len(begins) + 1))  # outside last
    states[:, -1], states[:, :-1] = score_outside[0], begin[0]
    came_from = np.empty((width, rows), np.int64)  # the best state before
    stayed = np.zeros((width, rows, len(begins) + 1), bool)  # whether a label's state is entered from itself
    every = np.arange(rows)
    for place in range(1, width):
        came_from[place] = best = states.argmax(axis=1)
        reached = states[every, best]
        entered = begin[place] + reached[:, None]
        continued = inside[place] + states[:, :-1]
        np.greater_equal(continued, entered, out=stayed[place, :, :-1])
        np.maximum(continued, entered, out=states[:, :-1])
        np.add(reached, score_outside[place], out=states[:, -1])

    path = np.empty((rows, width), np.int64)
    begin_tags, inside_tags = np.append(begins, outside), np.append(insides, outside)
    state = states.argmax(axis=1)
    for place in range(width - 1, -1, -1):
        stays = stayed[place, every, state]
        path[:, place] = np.where(stays, inside_tags[state], begin_tags[state])
        state = np.where(stays, state, came_from[place])
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

"""Fine labels for KLUE train: the surface forms they were counted from, laid back onto the sentences."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.training.corpora import Sentence, canonical
from worker.training.labels import LabelledSpan, fold

NOTHING: Final = ""  # a form whose fine label folds into none of the eleven; it still hides the forms inside it
_FEWEST: Final = 0.4  # of its occurrences that a form must have been labelled in
_FEWEST_ALONE: Final = 0.6  # where KLUE's annotators marked nothing, though they mark such types
_FEWEST_AGREEING: Final = 0.02  # where KLUE's own annotators marked the very same characters
_SAME: Final = {"PS": {"PER"}, "LC": {"LOC"}, "OG": {"ORG"}, "DT": {"DATE"}, "TI": {"TIME"}}
_SAME_QUANTITY: Final = {"QUANTITY", "MONEY", "PERCENT"}
_MARKED_BY_KLUE: Final = {"PER", "LOC", "ORG", "DATE", "TIME", "QUANTITY", "MONEY", "PERCENT"}


@dataclass(frozen=True, slots=True)
class Forms:
    """What each surface form is labelled as, and how often."""

    counts: Mapping[str, Mapping[str, int]]  # form -> folded label (NOTHING for none) -> count
    occurrences: Mapping[str, int]
    longest: int

    def share(self, form: str, label: str) -> float:
        """In what part of its occurrences the form carries the label."""
        return self.counts[form].get(label, 0) / max(self.occurrences[form], 1)


def read_forms(path: Path) -> dict[str, dict[str, int]]:
    """`fine_forms_*.tsv` (form, fine label, count), labels folded."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for line in path.read_text("utf-8").splitlines():
        form, fine_label, count = line.split("\t")
        counts[canonical(form)][fold(fine_label) or NOTHING] += int(count)
    return {form: dict(labels) for form, labels in counts.items()}


def count_occurrences(counts: Mapping[str, Mapping[str, int]], texts: Iterable[str]) -> Forms:
    """Count, longest match first, how often each form begins at a word's start in the texts it was counted from."""
    longest = max(map(len, counts), default=0)
    occurrences: Counter[str] = Counter()
    for text in texts:
        at = 0
        while at < len(text):
            form = _longest_at(text, at, counts, longest) if begins_word(text, at) else None
            if form is not None:
                occurrences[form] += 1
            at += len(form) if form else 1
    return Forms(counts, occurrences, longest)


def project(text: str, forms: Forms, klue: Sequence[LabelledSpan] = ()) -> list[LabelledSpan]:
    """The spans of known forms in `text`, longest match first.

    Where a KLUE span covers the same characters, its type picks among the form's labels and little evidence is enough;
    a form never begins inside a word unless a KLUE span begins there too.
    """
    begins = {span.start for span in klue}
    spans = []
    at = 0
    while at < len(text):
        step = 1
        if begins_word(text, at) or at in begins:
            for length in range(min(forms.longest, len(text) - at), 0, -1):
                form = text[at : at + length]
                if form not in forms.counts:
                    continue
                label = _label(text, at, form, forms, klue)
                if label is not None:
                    if label != NOTHING:
                        spans.append(LabelledSpan(at, at + length, label))
                    step = length
                    break
        at += step
    return spans


def project_all(sentences: Sequence[Sentence], forms: Forms) -> list[Sentence]:
    """KLUE sentences with the projected fine spans beside KLUE's own."""
    return [Sentence(s.text, tuple(project(s.text, forms, s.klue or ())), s.klue) for s in sentences]


def begins_word(text: str, at: int) -> bool:
    """Whether what stands before isn't of the same word: a space, the start, or punctuation."""
    return at == 0 or not text[at - 1].isalnum()


def _label(text: str, at: int, form: str, forms: Forms, klue: Sequence[LabelledSpan]) -> str | None:
    end = at + len(form)
    if form[-1].isdigit() and text[end : end + 1].isdigit():
        return None
    labels = forms.counts[form]
    beside = [span for span in klue if span.start < end and at < span.end]
    for span in beside:
        same = _SAME.get(span.label, _SAME_QUANTITY)
        fitting = [label for label in labels if label in same]
        if (span.start, span.end) == (at, end) and fitting:
            best = max(fitting, key=lambda label: labels[label])
            if forms.share(form, best) >= _FEWEST_AGREEING:
                return best
    best = max(labels, key=lambda label: labels[label])
    fewest = _FEWEST
    if best in _MARKED_BY_KLUE and klue and not beside:
        fewest = _FEWEST_ALONE
    if len(form) == 1:
        fewest = 0.7 if text[end : end + 1].isalnum() else 0.5
    return best if forms.share(form, best) >= fewest else None


def _longest_at(text: str, at: int, counts: Mapping[str, Mapping[str, int]], longest: int) -> str | None:
    for length in range(min(longest, len(text) - at), 0, -1):
        if text[at : at + length] in counts:
            return text[at : at + length]
    return None

"""Whether a use is allowed, as a part of the report: what stands against it, what it must do, each with its clause."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from freehold.inspection.findings import Row, Section, Status
from freehold.inspection.licence import Answer, LicenceReport, Reason, answer
from freehold.inspection.licence.judge import CONTRADICTED


@dataclass(frozen=True)
class AnsweredUse:
    use: str
    answer: Answer

    def section(self) -> Section:
        return Section(f"For “{self.use}”", str(self.answer.verdict), tuple(self._rows()), self._notes())

    def _rows(self) -> Iterator[Row]:
        for reasons, label, status in (
            (self.answer.refusals, "Against it", Status.BAD),
            (self.answer.conditions, "If", Status.PARTIAL),
            (self.answer.also, "Also", Status.NEUTRAL),
        ):
            for reason in reasons:
                yield Row(label, reason.plain, status, _evidence(reason))

    def _notes(self) -> tuple[str, ...]:
        under = f"Judged by: {self.answer.under}."
        return (under, CONTRADICTED) if self.answer.conflicts else (under,)

    def summary(self) -> tuple[Row, ...]:
        return (Row(f"For “{self.use}”", f"{self.answer.verdict}: {self.answer.summary}"),)

    def to_dict(self) -> dict[str, Any]:
        return self.answer.to_dict()


def answered(licences: LicenceReport, use: str) -> AnsweredUse:
    """Raises RequestError for words that are not understood."""
    return AnsweredUse(use, answer(licences, use))


def _evidence(reason: Reason) -> tuple[Any, ...]:
    return (reason.clause.evidence,) if reason.clause else ()

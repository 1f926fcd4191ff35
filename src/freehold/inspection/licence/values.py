"""What is read out of a clause: thresholds and what follows from them, names to show, regions, the law."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from freehold.inspection.licence.amounts import Amount, amounts

_SHOW = (
    r"display|show|feature|include|state|add|credit|carry|indicate|label|mention|mark|words?|name|phrase|text(?! file)"
)
_SHOW += "|显示|展示|标注"
_SHOWN = re.compile(
    rf'\b(?:{_SHOW})\w*\b[^"]{{0,60}}"([^"]{{2,80}}?)[.,]?"(?:,? (?:or|and|and/or) "([^"]{{2,80}}?)[.,]?")?'
    r'|"([^"]{2,80}?)[.,]?"[^"]{0,60}\b(?:displayed|shown|placed|appear|visible)\b',
    re.IGNORECASE,
)
_URL = re.compile(
    r"https?://[^\s)\]\"']{4,200}|\b[a-z0-9.-]+\.(?:com|ai|org|dev|cn|io)/[^\s)\]\"',;]{2,120}", re.IGNORECASE
)
_LAND = r"[A-Z][\w.'-]*"
_LAWS = (
    re.compile(
        r"laws? of (?:the )?(?:(?:State|Commonwealth|Province) of )?(?:the )?"
        rf"(?P<law>{_LAND}(?:(?: (?:of|and|the))*,? {_LAND}){{0,9}})"
    ),
    re.compile(rf"(?P<law>{_LAND}(?: {_LAND}){{0,3}}) laws? (?:shall )?(?:appl|govern)"),
    re.compile(rf"(?:under|by|with|follow) (?:the )?(?P<law>{_LAND}(?: {_LAND}){{0,3}}) laws?\b"),
    re.compile(r"受(?P<law>[\u4e00-\u9fff]{2,12}?)法律"),
)
_PREFIX = re.compile(r'"([^"]{2,60}?)[.,]?"')
_WHERE = (
    ("on the product's user interface", r"user interface|\bUI\b|screen"),
    ("on its website or in its documentation", r"website|about page|blog ?post|documentation|readme|model card"),
)


def shown(value: float) -> str:
    """1e8 as "100 million"."""
    for scale, word in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if value >= scale and (scale > 1e3 or (value % 1000 == 0 and value < 1e6)):
            return f"{value / scale:g} {word}" if scale > 1e3 else f"{value:,.0f}"
    return f"{value:,.0f}"


def users_shown(amount: Mapping[str, Any]) -> str:
    period = {"month": "monthly active ", "day": "daily active ", "year": "yearly ", "": ""}.get(
        amount["users_period"], ""
    )
    return f"{shown(amount['users'])} {period}users"


def money_shown(values: Mapping[str, Any]) -> str:
    sign = {"USD": "$", "EUR": "€", "GBP": "£", "CNY": "CN¥"}.get(values["currency"], values["currency"] + " ")
    period = {"month": " a month", "year": " a year", "quarter": " a quarter", "day": " a day"}.get(
        values["revenue_period"], ""
    )
    return f"{sign}{shown(values['revenue'])}{period}"


def threshold_of(found: list[Amount], kind: str) -> dict[str, Any]:
    """The first amount of this kind as values; empty when the sentence states none."""
    for amount in found:
        if amount.kind == kind == "users":
            return {"users": amount.value, "users_period": amount.period}
        if amount.kind == kind == "money":
            per_month = round(amount.usd_per_month, 2)
            return {
                "revenue": amount.value,
                "currency": amount.currency,
                "revenue_period": amount.period,
                "revenue_usd_per_month": per_month,
            }
        if amount.kind == kind == "percent":
            return {"percent": amount.value}
    return {}


def names(sentence: str) -> dict[str, Any]:
    """Quoted names that stand after a word for showing, or before one."""
    found = [name for match in _SHOWN.finditer(sentence) for name in match.groups() if name]
    found = [
        name.strip()
        for name in found
        if not re.fullmatch(r"(?i)notices?|as is|the mark|software|mark|model|agreement", name)
    ]
    return {"names": list(dict.fromkeys(found))[:4]} if found else {}


def prefix(sentence: str) -> dict[str, Any]:
    """The name that stands nearest to the words about the beginning."""
    place = re.search(r"(?i)beginning|start|begin|prefix|commence|front", sentence)
    candidates = (
        [(abs(match.start() - place.start()), match[1]) for match in _PREFIX.finditer(sentence)] if place else []
    )
    return {"prefix": min(candidates)[1]} if candidates else {}


def url(sentence: str) -> dict[str, Any]:
    match = _URL.search(sentence)
    return {"url": match[0].rstrip(".,;")} if match else {}


def law(sentence: str) -> dict[str, Any]:
    for pattern in _LAWS:
        match = pattern.search(sentence)
        if match and match["law"].lower() not in ("the", "this", "agreement"):
            return {"law": re.sub(r"^(?:the )?(?:State of |laws? )", "", match["law"]).rstrip(".,")}
    return {}


def notice_text(sentence: str) -> dict[str, Any]:
    """What the notice must say: the longest quotation, up to the last quotation mark."""
    start = sentence.lower().find('"notice"')
    begin = sentence.find('"', start + len('"notice"')) if start >= 0 else -1
    text = re.split(r'"[,;]? (?:and )?\(', sentence[begin + 1 :])[0]
    text = text if text != sentence[begin + 1 :] else text.rpartition('"')[0] or text
    return {"notice_text": text.strip(' .;"')} if begin >= 0 and len(text) > 12 else {}


def percent(sentence: str) -> dict[str, Any]:
    return threshold_of(amounts(sentence), "percent")


def revenue(sentence: str) -> dict[str, Any]:
    return threshold_of(amounts(sentence), "money")


def where(sentence: str) -> dict[str, Any]:
    places = [plain for plain, pattern in _WHERE if re.search(pattern, sentence, re.IGNORECASE)]
    return {"where": places} if places else {}


def threshold(sentence: str) -> dict[str, Any]:
    """Thresholds of users and revenue that a duty depends on."""
    found = amounts(sentence)
    return threshold_of(found, "users") | threshold_of(found, "money")


def _flag(name: str, pattern: str) -> Callable[[str], dict[str, Any]]:
    compiled = re.compile(pattern, re.IGNORECASE)
    return lambda sentence: {name: True} if compiled.search(sentence) else {}


# What a rule may name under `values`, beside those that need the word lists (effects, regions, permission).
READERS: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "names": names,
    "prefix": prefix,
    "url": url,
    "law": law,
    "notice_text": notice_text,
    "percent": percent,
    "revenue": revenue,
    "where": where,
    "threshold": threshold,
    "only_multimodal": _flag("only_multimodal", r"\bmulti-?modal\b"),
    "end_users_exempt": _flag("end_users_exempt", r"\bnot apply to end users\b"),
    "commercial_only": _flag(
        "commercial_only",
        r"\bcommercially using\b|\bcommercial(?:ly)? (?:use|purposes?|products?|services?)\b|\bfor commercial\b"
        r"|商业|商用",
    ),
    "only_on_training": _flag("only_on_training", r"\bif you use\b.{0,120}\bto (?:create|train|fine|improve|build)"),
}

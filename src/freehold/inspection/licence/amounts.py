"""Amounts in running text: numbers with their unit, in figures, in words and in Chinese.

"100 million monthly active users", "more than 20 million US dollars (or equivalent in other currencies) in monthly
revenue", "USD $1,000,000 in annual revenue", "one hundred million", "1 亿月活跃用户".
"""

import re
from dataclasses import dataclass

_SCALES = {"k": 1e3, "thousand": 1e3, "m": 1e6, "mn": 1e6, "mio": 1e6, "million": 1e6, "millions": 1e6}
_SCALES |= {"b": 1e9, "bn": 1e9, "billion": 1e9, "billions": 1e9, "crore": 1e7, "lakh": 1e5}
_CHINESE_SCALES = {"万": 1e4, "百万": 1e6, "千万": 1e7, "亿": 1e8, "十亿": 1e9}
_TEENS = ("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", *_TEENS)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_VALUES = {word: value for value, word in enumerate(_ONES)} | {"a": 1}
_VALUES |= {word: 10 * value for value, word in enumerate(_TENS, 2)}
_CHINESE_DIGITS = {"一": 1, "二": 2, "两": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7, "八": 8, "九": 9, "十": 10}

_NUMBER_WORD = "|".join([*_VALUES, "hundred"])
_AMOUNT = re.compile(
    r"(?P<before>(?:US|USD|EUR|GBP|CNY|RMB|CHF|CAD|AUD)?\s?[$€£¥]|\b(?:USD|EUR|GBP|CNY|RMB|US\$))?\s?"
    r"(?:(?<![\w.])(?P<figure>\d[\d,' ]{0,20}(?:\.\d{1,4})?)"
    r"(?:\s?(?P<scale>thousand|millions?|billions?|mio|mn|bn|crore|lakh|[kmb])(?![a-z]))?"
    rf"|\b(?P<words>(?:{_NUMBER_WORD})(?:[\s-](?:and\s)?(?:{_NUMBER_WORD})){{0,5}})"
    r"[\s-](?P<word_scale>thousand|million|billion)\b"
    r"|(?P<chinese>\d[\d,]{0,15}(?:\.\d{1,3})?|[一二两三四五六七八九十])\s?(?P<chinese_scale>百万|千万|十亿|万|亿))",
    re.IGNORECASE,
)
_PERCENT_IN_WORDS = re.compile(rf"\b({_NUMBER_WORD})(?:[\s-]({_NUMBER_WORD}))? per ?cent", re.IGNORECASE)
_CURRENCY_AFTER = re.compile(
    r"\s*(?:\([\d,. ]{1,20}\)\s*)?(?P<name>(?:US |U\.S\. |United States )?dollars?|USD|EUR|euros?|GBP|pounds?"
    r"|CNY|RMB|yuan|renminbi|美元|人民币|元|欧元)",
    re.IGNORECASE,
)
_USERS = r"(?:users?|subscribers?|customers|accounts|visitors|people|individuals|MAUs?|DAUs?|用户|月活)"
_USERS_AFTER = re.compile(rf"[^.;。]{{0,60}}?\b{_USERS}|\s*(?:个|名)?(?:月|日|活跃|注册)*用户", re.IGNORECASE)
_USERS_BEFORE = re.compile(rf"(?:\b{_USERS}\b|用户|月活)[^.;。]{{0,90}}$", re.IGNORECASE)
_A_MONTH = r"monthly|(?:per|a|each) month|(?:any|calendar|every|preceding|one) (?:\w+ )?month|MAUs?|/ ?mo(?:nth)?"
_A_YEAR = (
    r"annual(?:ly|ized|ised)?|yearly|per (?:year|annum)|(?:a|each) year|(?:fiscal|financial|calendar) year"
    r"|(?:12|twelve)[- ]months?|p\.a\.|ARR|/ ?y(?:ea)?r"
)
_PERIODS = (
    ("month", re.compile(rf"\b(?:{_A_MONTH})\b|每月|月", re.IGNORECASE)),
    ("year", re.compile(rf"\b(?:{_A_YEAR})\b|年", re.IGNORECASE)),
    ("quarter", re.compile(r"\b(?:quarterly|per quarter|fiscal quarter)\b", re.IGNORECASE)),
    ("day", re.compile(r"\b(?:daily|per day|a day|each day|DAUs?)\b|每日|日活", re.IGNORECASE)),
)
_PER_YEAR = {"month": 12.0, "quarter": 4.0, "year": 1.0, "day": 365.0}
# Round figures to compare a threshold in another currency with; the report quotes the clause itself.
USD_PER = {"USD": 1.0, "EUR": 1.1, "GBP": 1.3, "CNY": 0.14, "CHF": 1.15, "CAD": 0.73, "AUD": 0.66}
_NAMES = {
    "€": "EUR",
    "eur": "EUR",
    "欧": "EUR",
    "£": "GBP",
    "gbp": "GBP",
    "pound": "GBP",
    "¥": "CNY",
    "cny": "CNY",
    "rmb": "CNY",
}
_NAMES |= {"yuan": "CNY", "renminbi": "CNY", "人民币": "CNY", "chf": "CHF", "cad": "CAD", "aud": "AUD"}


@dataclass(frozen=True, slots=True)
class Amount:
    """`kind`: users, money or percent; `period`: month, year, quarter, day or empty when the text names none."""

    kind: str
    value: float
    period: str = ""
    currency: str = ""

    @property
    def usd_per_month(self) -> float:
        """Money as US dollars per month; without a period it is read as a year's."""
        return self.value * USD_PER[self.currency] * _PER_YEAR[self.period or "year"] / 12


def amounts(text: str) -> list[Amount]:
    """Amounts of users, money and per cent in one sentence; bare numbers are none."""
    in_words = _PERCENT_IN_WORDS.finditer(text)
    found = [Amount("percent", float(_words_value(match[0].lower()))) for match in in_words]
    for match in _AMOUNT.finditer(text):
        value = _value(match)
        before, after = text[max(0, match.start() - 120) : match.start()], text[match.end() : match.end() + 120]
        currency = _currency(match, after)
        if value is None:
            continue
        if re.match(r"\s?(?:%|per ?cent\b|percent\b)", after):
            found.append(Amount("percent", value))
        elif currency:
            found.append(Amount("money", value, _period(before, after), currency))
        elif value >= 1000 and (_USERS_AFTER.match(after) or _USERS_BEFORE.search(before)):
            found.append(Amount("users", value, _period(before, after)))
    return found


def _value(match: re.Match[str]) -> float | None:
    if match["chinese_scale"]:
        figure = match["chinese"]
        return float(_CHINESE_DIGITS.get(figure) or figure.replace(",", "")) * _CHINESE_SCALES[match["chinese_scale"]]
    if match["words"]:
        return _words_value(match["words"].lower()) * _SCALES[match["word_scale"].lower()]
    figure = re.sub(r"[,' ]", "", match["figure"]).rstrip(".")
    return float(figure) * _SCALES.get((match["scale"] or "").lower(), 1.0) if figure else None


def _words_value(text: str) -> int:
    total = 0
    for word in re.findall(r"[a-z]+", text):
        if word == "hundred":
            total = max(total, 1) * 100
        elif word != "and":
            total += _VALUES.get(word, 0)
    return total


def _currency(match: re.Match[str], after: str) -> str:
    following = _CURRENCY_AFTER.match(after)
    name = ((match["before"] or "") or (following["name"] if following else "")).strip().lower()
    if not name:
        return ""
    return next((code for sign, code in _NAMES.items() if sign in name), "USD")


def _period(before: str, after: str) -> str:
    """The period named nearest after the amount, within its clause, else nearest before it."""
    nearest = min(((m.start(), name) for name, pattern in _PERIODS if (m := pattern.search(after))), default=None)
    if nearest:
        return nearest[1]
    lasts = [(m.start(), name) for name, pattern in _PERIODS for m in pattern.finditer(before)]
    return max(lasts)[1] if lasts else ""

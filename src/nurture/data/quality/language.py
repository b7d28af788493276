"""Which language a text is in, told from its script and its commonest words. Small, and honest about it.

A script that one language mostly writes names that language; Latin and Cyrillic text is told apart by function words.
What cannot be told is `und` (undetermined), as in ISO 639. Text of mixed scripts goes by the one with most letters.
"""

from __future__ import annotations

import re
from collections import Counter

from .words import HAN, HANGUL, KANA, words

UNKNOWN = "und"

_SCRIPTS = {
    "han": HAN,
    "kana": KANA,
    "ko": HANGUL,
    "latin": "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff",
    "cyrillic": "\u0400-\u052f",
    "ar": "\u0600-\u06ff\u0750-\u077f",
    "he": "\u0590-\u05ff",
    "el": "\u0370-\u03ff",
    "hi": "\u0900-\u097f",
    "bn": "\u0980-\u09ff",
    "ta": "\u0b80-\u0bff",
    "th": "\u0e00-\u0e7f",
    "ka": "\u10a0-\u10ff",
    "hy": "\u0530-\u058f",
}
"""(Arabic script also writes Persian and Urdu, Devanagari also Marathi and Nepali: `ar` and `hi` stand for the
script.)"""
_LETTERS = {name: re.compile(f"[{letters}]") for name, letters in _SCRIPTS.items()}

_COMMON = {
    "en": "the of and to in is that it was for you with as are this have be not what how which from your an by "
    "i do me my we he she they has had but or at so if there all can will would one who when where why does did",
    "de": "der die und das ist nicht ein eine zu den mit sich auf dem von für wie was ich sie es auch wird sind",
    "fr": "le la les des est et une dans que pour qui sur pas vous avec ce il par au je du plus sont quel être",
    "es": "el los las una que en por con para es del se como más pero su qué al lo son está cómo muy también",
    "it": "il che di è per una un sono con non della gli come nel più dei alla le questo anche cosa quale da",
    "pt": "o os uma que não com para em por é do da no na dos as se mais como um são você ao seu também qual",
    "nl": "de het een van en is dat niet zijn op te met voor aan er ook wat hoe als bij naar worden deze ik",
    "pl": "nie się jest na że jak czy dla tym od jego przez są być ale oraz lub które tylko może jego",
    "sv": "och att det som en är på för av med den till inte om ett har jag de var hur vad från eller kan",
    "tr": "bir ve bu için ile da de ne mi çok gibi daha olan olarak var değil nasıl ben kadar en",
    "vi": "là và của có không được một cho trong những này với người các khi để đã như bạn tôi",
    "ru": "и в не на что с по это как а к у из за но от для о же вы так был только его",
    "uk": "і в не на що з як це та до у за але від для про є й був щоб він його або чи",
}
_CYRILLIC = ("ru", "uk")
_LANGUAGES: dict[str, list[str]] = {}
for _language, _words in _COMMON.items():
    for _word in _words.split():
        _LANGUAGES.setdefault(_word, []).append(_language)

READ = 2000
"""Characters that are looked at."""


def language_of(text: str) -> str:
    """The ISO 639-1 code of the language, or `und`."""
    text = text[:READ]
    if text.isascii():
        return _by_words(text, latin=True)
    letters = {name: len(pattern.findall(text)) for name, pattern in _LETTERS.items()}
    asian = letters["han"] + letters["kana"]
    script = max(letters, key=lambda name: letters[name])
    # A Chinese character says about as much as three letters, so few of them outweigh the Latin names between them.
    if asian and 3 * asian >= max(n for name, n in letters.items() if name not in ("han", "kana")):
        return "ja" if letters["kana"] * 20 > asian else "zh"
    if not letters[script]:
        return UNKNOWN
    return _by_words(text, latin=script == "latin") if script in ("latin", "cyrillic") else script


def _by_words(text: str, latin: bool) -> str:
    """The language with most function words in the text, a word that several have counting for each the less; a tie, or
    none, is undetermined."""
    votes = Counter[str]()
    for word in words(text):
        languages = [lang for lang in _LANGUAGES.get(word, ()) if (lang not in _CYRILLIC) == latin]
        for language in languages:
            votes[language] += 60 // len(languages)
    ranked = votes.most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return UNKNOWN
    return ranked[0][0]

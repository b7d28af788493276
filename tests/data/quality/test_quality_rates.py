"""What wording and form tell."""

import pytest

from nurture.data.quality.language import language_of
from nurture.data.quality.rates import FAULTS, faults, form_of, refuses, toxic_words

Q, A = ("user", "Why?"), ("assistant", "So.")


@pytest.mark.parametrize(
    "turns, expected",
    [
        ([Q, A], []),
        ([("system", "Be kind."), Q, A, Q, A], []),
        ([Q, Q, A], ["does not alternate"]),
        ([A, Q, A], ["does not alternate"]),
        ([Q, A, Q], ["ends on the user"]),
        ([Q], []),
        ([Q, ("assistant", " So. ")], ["edge white space"]),
        ([Q, ("assistant", " ")], ["empty turn"]),
        ([Q, ("assistant", "```py\nx = 1")], ["open code block"]),
        ([Q, ("assistant", "<div>So</div>")], ["HTML tags"]),
        ([Q, ("assistant", "```html\n<div>So</div>\n```")], []),
        ([Q, ("assistant", "if a<b and c>d")], []),
        ([Q, ("assistant", "So.<|im_end|>")], ["control tokens"]),
        ([Q, ("assistant", "cafÃ©")], ["broken letters"]),
        ([Q, ("assistant", "The same words again. " * 8 + "End.")], ["repeats a stretch"]),
        ([("text", "A story.")], []),
    ],
)
def test_faults(turns, expected):
    assert faults(turns) == expected
    assert set(expected) <= set(FAULTS)


@pytest.mark.parametrize(
    "answer, form",
    [
        ("42", "number"),
        ("$1,000", "number"),
        ("Paris", "one word"),
        ("It is Paris.", "sentence"),
        ("One.\n\nTwo.", "paragraphs"),
        ("- a\n- b", "list"),
        ("1. a\n2. b", "list"),
        ("```py\nx\n```", "code"),
        ('{"a": 1}', "JSON"),
        ("{not json}", "sentence"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "table"),
        ("<think>1+1=2.</think><answer>2</answer>", "tagged"),
        (" ", "empty"),
    ],
)
def test_form_of_answers(answer, form):
    assert form_of(answer) == form


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "As an AI language model, I have no home.",
        "I cannot assist with this request.",
        "I’m unable to do that.",
    ],
)
def test_refusals(answer):
    assert refuses(answer)


@pytest.mark.parametrize("answer", ["I can help.", "Sorry to hear that! Let us begin.", "A" * 400 + " I cannot help"])
def test_no_refusals(answer):
    assert not refuses(answer)


def test_rude_words_are_whole_words():
    assert toxic_words("You idiot! Scunthorpe, assess, Dumbarton, shut up") == ["idiot", "shut up"]


@pytest.mark.parametrize(
    "text, code",
    [
        ("What is the capital of France, and how do I get there?", "en"),
        ("Was ist die Hauptstadt von Frankreich und wie komme ich dahin?", "de"),
        ("Quelle est la capitale de la France et comment y aller ?", "fr"),
        ("¿Cuál es la capital de Francia y cómo puedo llegar?", "es"),
        ("Qual è la capitale della Francia e come ci arrivo?", "it"),
        ("Qual é a capital da França e como eu chego lá? Não sei.", "pt"),
        ("Wat is de hoofdstad van Frankrijk en hoe kom ik daar?", "nl"),
        ("Какая столица Франции и как туда попасть?", "ru"),
        ("Яка столиця Франції і як туди дістатися? Що це за місто?", "uk"),
        ("法国的首都是哪里？请用 Python 回答。", "zh"),
        ("フランスの首都はどこですか。", "ja"),
        ("프랑스의 수도는 어디입니까?", "ko"),
        ("ما هي عاصمة فرنسا؟", "ar"),
        ("फ्रांस की राजधानी क्या है?", "hi"),
        ("Ποια είναι η πρωτεύουσα της Γαλλίας;", "el"),
        ("12 + 30", "und"),
        ("", "und"),
        ("xyzzy", "und"),
        ("Spell the word pink.", "en"),
    ],
)
def test_languages(text, code):
    assert language_of(text) == code

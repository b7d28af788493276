import re

import pytest

from nurture.lab.corpus import corpus
from nurture.lab.datasets import open_dataset
from nurture.lab.tokenizer import CONTROL, TAGS, VOCABULARY, build_tokenizer
from nurture.lab.world import build_world
from nurture.records import Conversation


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(0)


def test_building_again_gives_the_same_file(tokenizer):
    again = build_tokenizer.__wrapped__(0)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert len(tokenizer) == VOCABULARY


def test_every_text_comes_back(tokenizer):
    for text in [*(d.text for d in corpus(5, 300)), "Zölo's 12−3 = ½ …\t\n\n 漢字 🙂", "", "a  b", "x" * 50]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_digits_are_single_tokens_wherever_they_stand(tokenizer):
    for text in ("7", "42", "a 1024", "12+7=19.", "(3)"):
        pieces = [tokenizer.decode([i]) for i in tokenizer(text)["input_ids"]]
        assert [p for p in pieces if re.search(r"\d", p)] == re.findall(r"\d", text)


def test_control_tokens_are_special_and_tags_are_not(tokenizer):
    ids = tokenizer("".join(CONTROL) + "".join(TAGS))["input_ids"]
    assert len(ids) == len(set(ids)) == len(CONTROL) + len(TAGS)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "".join(TAGS)
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token == "<|pad|>"


def test_names_of_the_world_are_few_pieces(tokenizer):
    pieces = [len(tokenizer(f" {e.name}")["input_ids"]) for e in build_world(0).entities]
    assert sum(pieces) / len(pieces) < 1.5


def test_the_generation_block_is_the_answer_and_its_end(tokenizer):
    for row in open_dataset("lab/demonstrations", 0, 140):
        assert isinstance(row, Conversation)
        messages = [{"role": m.role, "content": m.content} for m in row.messages]
        found = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        own = [i for i, mine in zip(found["input_ids"], found["assistant_masks"], strict=True) if mine]
        answers = "".join(m.content + "<|im_end|>" for m in row.messages if m.role == "assistant")
        assert tokenizer.decode(own) == answers
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
        assert found["input_ids"][: len(prompt)] == prompt

"""The lab's tokenizer: byte-level BPE trained on the corpus, with ChatML turns.

Digits are single tokens and so is the space before them, so that a sum looks the same wherever it stands. The tags
`<think>` and `<answer>` are added tokens but not special ones: one entry each keeps a short working short, and a
response decoded without control tokens still shows them to the grader.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

from .corpus import corpus

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY = 2048
TRAINING_DOCUMENTS = 6000
END, PAD, TURN, END_OF_TURN = CONTROL = ("<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>")
TAGS = ("<think>", "</think>", "<answer>", "</answer>")

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{{- '<|im_start|>assistant\\n' -}}
{%- generation -%}
{{- message.content + '<|im_end|>' -}}
{%- endgeneration -%}
{{- '\\n' -}}
{%- else -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
"""ChatML. What the assistant is to learn, its end of turn included, stands between the generation marks."""

_SPLIT = r" ?\p{L}+|'\p{L}+|\p{N}|\n| ?[^\s\p{L}\p{N}]+|\s+"
"""Words with their space, endings after an apostrophe, single digits, line ends, runs of signs, other spaces."""
_ROLE_NAMES = ["system\nuser\nassistant\n"] * 500
"""The corpus never says these words, and every turn of a conversation does."""


@lru_cache(maxsize=2)
def build_tokenizer(seed: int = 0) -> PreTrainedTokenizerFast:
    """The tokenizer of the world with this seed: the same entries in the same order every time."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(TAGS),
        special_tokens=list(CONTROL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    documents = (d.text for d in corpus(seed, TRAINING_DOCUMENTS, world=seed))
    tokenizer.train_from_iterator(chain(_ROLE_NAMES, documents), trainer)
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=PAD,
        additional_special_tokens=[END, TURN],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )

"""Small tokenizers, trained here, in the two styles models come in."""

from collections.abc import Callable

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nurture.data.bundled_grammar import chat, stories

CORPUS = [row["text"] for row in stories()[:80]] + [m["content"] for row in chat()[:80] for m in row["messages"]]
CORPUS += ["user\nHello\n\n", "assistant\n\nOne, two.\n", "system\n", "naïve 中文 🙂\n"] * 4


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., PreTrainedTokenizerBase]:
    def make(
        *special: str, plain: tuple[str, ...] = (), metaspace: bool = False, **roles: str
    ) -> PreTrainedTokenizerBase:
        """`special` and `plain` are added tokens of either sort; `roles` names bos, eos, pad tokens."""
        backend = Tokenizer(models.BPE(unk_token="<unk>" if metaspace else None))
        if metaspace:
            backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
            backend.decoder = decoders.Metaspace(prepend_scheme="first")
            alphabet, first = [], ["<unk>"]
        else:
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            backend.decoder = decoders.ByteLevel()
            alphabet, first = pre_tokenizers.ByteLevel.alphabet(), []
        trainer = trainers.BpeTrainer(
            vocab_size=700, special_tokens=first, initial_alphabet=alphabet, show_progress=False
        )
        backend.train_from_iterator(CORPUS, trainer)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **roles)
        if special:
            tokenizer.add_special_tokens({"additional_special_tokens": list(special)}, False)
        tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
        return tokenizer

    return make

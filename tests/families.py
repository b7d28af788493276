"""Tiny random models of the real classes, one for each family people use, with weights large enough that attention,
gates and softcaps matter (at the usual 0.02 a wrong mask passes for rounding)."""

import torch
import transformers as t

from nurture.models.layouts import scale_up

COMMON = {
    "vocab_size": 199, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": None, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
NO_GQA = {k: v for k, v in COMMON.items() if k != "num_key_value_heads"}

TREE = {
    "llama": lambda: t.LlamaConfig(**COMMON),
    "qwen2": lambda: t.Qwen2Config(**COMMON, tie_word_embeddings=True),
    "qwen3": lambda: t.Qwen3Config(**COMMON, head_dim=16),
    "mistral": lambda: t.MistralConfig(**COMMON, sliding_window=None),
    "gemma2": lambda: t.Gemma2Config(**COMMON, head_dim=16, query_pre_attn_scalar=16, sliding_window=256,
                                     attn_logit_softcapping=4.0, final_logit_softcapping=6.0),
    "gemma3": lambda: t.Gemma3TextConfig(**COMMON, head_dim=16, query_pre_attn_scalar=16, sliding_window=256),
    "gpt2": lambda: t.GPT2Config(vocab_size=199, n_embd=48, n_layer=3, n_head=4, n_positions=256, resid_pdrop=0.0,
                                 attn_pdrop=0.0, embd_pdrop=0.0, bos_token_id=1, eos_token_id=2),
    "gpt_neox": lambda: t.GPTNeoXConfig(**NO_GQA),
    "phi3": lambda: t.Phi3Config(**COMMON),
    "olmo2": lambda: t.Olmo2Config(**COMMON),
    "smollm3": lambda: t.SmolLM3Config(**COMMON),
}  # fmt: skip

ROWS = {
    "falcon": lambda: t.FalconConfig(vocab_size=199, hidden_size=48, num_hidden_layers=3, num_attention_heads=4,
                                     bos_token_id=1, eos_token_id=2),
    "bloom": lambda: t.BloomConfig(vocab_size=199, hidden_size=48, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2),
    "mamba": lambda: t.MambaConfig(vocab_size=199, hidden_size=48, num_hidden_layers=3, bos_token_id=1, eos_token_id=2),
    "mistral-window": lambda: t.MistralConfig(**COMMON, sliding_window=16),
    "gemma2-window": lambda: t.Gemma2Config(**COMMON, head_dim=16, sliding_window=16),
    "llama-dynamic-rope": lambda: t.LlamaConfig(
        **COMMON, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}),
    "phi3-longrope": lambda: t.Phi3Config(
        **COMMON, original_max_position_embeddings=64,
        rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 6,
                         "long_factor": [2.0] * 6}),
}  # fmt: skip


def tiny(name: str, seed: int = 0, factor: float = 4.0) -> t.PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = t.AutoModelForCausalLM.from_config({**TREE, **ROWS}[name]()).float().eval()
    scale_up(model, factor)
    return model

"""Names that people give to the parts of a model, as patterns.

Patterns match a whole name, without regard to case. What they match is the given name of a
parameter: the name of the module for a `weight`, the parameter's own name otherwise.
"""

from __future__ import annotations

# Output heads, wherever they stand outside of attention; a container of this name ends in one.
HEAD = (
    r"(?!(?:q|k|v|qkv|multi|box|mask|keypoint|conv)_)(?:\w+_)?heads?|head_dist"
    r"|(?!pre_)(?:\w+_)?(?:classifier|logits?)"
    r"|aux\d|auxlogits|scorer?|qa_outputs|embed_out|un_?embed(?:ding)?|vocab_proj\w*"
    r"|class_embed|cls_score|bbox_(?:embed|pred|predictor|reg|ctrness)|seq_relationship"
    r"|actor|critic|policy|action_net|conv_out|outc"
)
HEAD_PATH = r"(?:^|\.)(?:predictions\.decoder|generator\.proj|final_layer\.linear)$"
# Output heads where nothing comes after them.
OUTPUT = (
    r"(?:fc|lin|linear|l|layer)_?\d*|dense\d+|outputs?|out|(?:out|output)_(?:layer|linear)"
    r"|(?:final|last)(?:_layer|_linear|_conv)?|(?:lin|linear|fc)_out|output_proj(?:ection)?|proj_out"
    r"|decoder|generator|predictor|prediction|readout|\w+2(?:tag|out|label|output|logits)"
)
# What a container of layers may call its output, wherever it was registered, and what it does not.
END = r"proj_out|out_proj|outputs?|out|decoder"
NO_END = r"dense"
# Last in their block and yet never an output head.
HIDDEN = r"(?:c|o|out|down|up|gate)_proj|c_fc|w?o|w[123]|to_out|dense_4h_to_h|pooler"
ATTENTION = r"(?:\w+_)?(?:attn|attention|sa|mha|msa)\d*(?:_\w+)?|(?:\w+_)?attn\w*"


def _projection(words: str) -> str:
    """Pattern of the names under which a query, key or value projection is known."""
    return rf"(?:c_|to_|w_?)?(?:{words})(?:s|_?(?:proj|lin|linear|projection|attn|layer))?"


QUERY, KEY, VALUE = (_projection(words) for words in ("q|query", "k|key", "v|value"))
KEY_VALUE = _projection("kv|key_value")
FUSED = r"\w*qkv\w*|c_attn|in_proj"
# Stored head by head: GPT-NeoX, BLOOM, Falcon; Megatron. And the same in StarCoder's `c_attn`.
HEAD_BY_HEAD = r"query_key_value|linear_qkv"
HEAD_BY_HEAD_CONTAINER = r"^GPTBigCode"
GATED = r"gate_up(?:_proj)?|gate_and_up(?:_proj)?|w12|w13|(?-i:Wi)"
GATES = r"weight_[ih]h(?:_l\d+)?(?:_reverse)?"
ROUTER = r"(?:Router|Gate|Gating)$"
LORA = r"lora_[ab]\d*"

BIAS = r"(?:\w+_)?bias(?:es)?(?:_\w+)?"
ADDED = (
    r"(?:\w+_)?pos(?:ition(?:al|s)?)?(?:_?emb\w*)?(?:_\w+)?|rel(?:ative)?_\w+"
    r"|\w+_tokens?|(?:cls|class|mask|pad|null)(?:_emb\w*)?|latents?|quer(?:y|ies)|probe"
    r"|(?:soft_)?prompts?(?:_\w+)?|prefix(?:_\w+)?"
)
SCALES = (
    r"gamma|beta|alpha|gains?|(?:\w+_)?scales?|layer_?scale\w*|scale_shift_table|lambda\w*"
    r"|temperature|a_log|time_(?:mix|decay|first|maa|faaaa)\w*"
)
EMBED = r"(?:\w+_)?(?:emb|embed|embeddings?|wte|wpe|codebooks?)(?:_\w+)?"

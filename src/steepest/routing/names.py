"""Names that people give to the parts of a model, as patterns.

Patterns match a whole name, without regard to case. What they match is the given name of a
parameter: the name of the module for a `weight`, the parameter's own name otherwise.
"""

from __future__ import annotations

# Output heads, wherever they stand outside of attention; a container of this name ends in one.
HEAD = (
    r"(?!(?:q|k|v|qkv|multi|box|mask|keypoint|conv|query_pos|ref_point)_)(?:\w+_)?heads?|head_dist"
    r"|(?!pre_)(?:\w+_)?(?:classifier|logits?(?:_dense|_proj\w*)?)"
    r"|aux\d|auxlogits|scorer?|qa_outputs|embed_out|un_?embed(?:ding)?|vocab_proj\w*"
    r"|class_embed|cls_score|bbox_(?:embed|pred|predictor|reg|ctrness)|seq_relationship"
    r"|actor|critic|policy|action_net|outc|classif|clf|ctc_lo|mel_linear|mel_out|feat_out|prob_out"
    r"|(?:cls|class|reg|obj|box|kpt|mask|iou|ctr|score|conf|loc)_?pred(?:s|ict\w*)?"
    r"|(?:conv|fc|rpn|retina|atss|gfl|fcos|vfnet|paa)_(?:cls|reg|obj|centerness|iou)"
)
# Output heads of a model that has another one: only for training.
AUXILIARY = r"aux\w*"
HEAD_PATH = (
    r"(?:^|\.)(?:predictions\.decoder|generator\.proj"
    r"|(?:\w+_)?final_layer(?:\.[\w-]+)?\.(?:linear|lin|proj|fc|out(?:_proj)?))$"
)
# Containers that end in the output of the model, if they stand outside of its blocks.
OUTPUT_BLOCK = r"output_(?:proj|patch|quantile|head)\w*|horizon_\w+"
# Output heads where nothing comes after them.
OUTPUT = (
    r"(?:fc|lin|linear|l|layer)_?\d*|dense\d+|outputs?|out|(?:out|output)_(?:layer|linear)"
    r"|(?:final|last)(?:_layer|_linear|_conv)?|(?:lin|linear|fc)_out|output_proj(?:ection)?|proj_out"
    r"|decoder|generator|predictor|prediction|readout|\w+2(?:tag|out|label|output|logits)"
    r"|conv_out|residual_layer"
)
# The same, of those that say it without regard to what comes after them.
FINAL = (
    r"proj_out|(?:final|last)_(?:layer|linear|conv|proj\w*)|(?:out|output)_(?:layer|linear)"
    r"|output_proj(?:ection)?|outputs?|readout|final"
)
# What a container of layers may call its output, wherever it was registered, and what it does not.
END = r"proj_out|out_proj|outputs?|out|decoder|output_layer|residual_layer"
NO_END = r"dense"
# Last in their block and yet never an output head.
HIDDEN = (
    r"(?:c|o|out|down|up|gate)_proj|c_fc|w?o|w[123]|to_out|dense_4h_to_h|pooler"
    r"|(?:text|visual|vision|image|audio|video|query|protein)_proj(?:ection)?"
)
# Containers between two parts of a model, which end in a hidden layer.
BETWEEN = (
    r"(?:\w+_)?(?:projector|connector|merger|neck|pooler|quantizer)s?|(?:\w+_)?caption_proj\w*"
)
FEED_FORWARD = r"(?:\w+_)?(?:mlps?|ffn|feed_?forward)"
ATTENTION = r"(?:\w+_)?(?:attn|attention|sa|mha|msa)\d*(?:_\w+)?|(?:\w+_)?attn\w*"
ATTENTION_CLASS = r"Attention|Attn|MHA|MSA|SelfAtt"
LINEAR_ATTENTION = r"(?:\w+_)?linear_?att\w*"
DETECTION = r"^(?:\w*Detect|Segment|Pose|OBB)\d*$"


def _projection(words: str) -> str:
    """Pattern of the names under which a query, key or value projection is known."""
    return rf"(?:c_|to_|w_?)?(?:{words})(?:s|_?(?:proj|lin|linear|projection|attn|layer))?"


QUERY, KEY, VALUE = (_projection(words) for words in ("q|query", "k|key", "v|value"))
KEY_VALUE = _projection("kv|key_value")
FUSED = r"\w*qkv\w*|c_attn|in_proj"
# Multi-head latent attention: from a shared latent up to all heads.
QUERY_UP = r"q_b_proj|w_?q_b|q_b|(?:linear_)?q_up_proj"
KEY_VALUE_UP = r"kv_b_proj|w_?kv_b|kv_b|(?:linear_)?kv_up_proj"
# The projection out of an attention block, a state-space block or a gated layer.
OUT = r"(?:o|out|c|output)_?proj(?:ection)?|proj(?:_out)?|to_out|w?o|dense|out|linear_proj"
# Axes for heads: XLNet, Funnel; flax and its translations.
HEAD_AXIS_IN = rf"{QUERY}|{KEY}|{VALUE}|r|r_kernel"
HEAD_AXIS_OUT = r"o|out|output|o_proj|out_proj"
# Stored head by head: GPT-NeoX, BLOOM, Falcon; Megatron. And the same under usual names in
# StarCoder's `c_attn`, DeBERTa's `in_proj`, MiniMax's `qkv_proj`.
HEAD_BY_HEAD = r"query_key_value|linear_qkv"
HEAD_BY_HEAD_CONTAINER = r"^GPTBigCode|^DisentangledSelfAttention|^MiniMaxLightning"
# Query, value and key in each of four parts, one for each core of a TPU.
FOUR_PARTS_CONTAINER = r"^CodeGen"
# Rows of the parts alternate, in a way that the module does not tell.
ALTERNATING_CONTAINER = r"^ZambaMamba|^LiteMLA"
GATED = r"gate_up(?:_proj)?|gate_and_up(?:_proj)?|w12|w13|(?-i:Wi)"
# The two layers of a block of two, by which the first is seen to be twice as wide.
UP = (
    r"(?:linear_|c_)?fc_?1?|w1|wi|in_proj|proj_in|dense_h_to_4h|linear_?1|lin_?1|up_proj"
    r"|input_linear"
)
DOWN = (
    r"(?:linear_|c_)?fc_?2|w2|wo|(?:out|c)_proj|proj_out|dense_4h_to_h|linear_?2|lin_?2|down_proj"
    r"|output_linear"
)
GATES = r"weight_[ih]h(?:_l\d+)?(?:_reverse)?"
ROUTER = r"(?:Router|Gate|Gating)$"
ROUTER_NAME = r"(?:\w+_)?(?:router|gate|gating|wg|switch)s?"
EXPERTS = r"(?:\w+_)?experts?"
LORA = r"lora_(?:[ab]|down|up)\d*"
# Layers that are inside of another that only adds a normalisation or limits to them.
SHELL = r"linear|conv|convolution"

BIAS = r"(?:\w+_)?bias(?:es)?(?:_\w+)?"
POSITION = r"(?:\w+_)?pos(?:ition(?:al|s)?)?(?:_?emb\w*)?(?:_\w+)?|wpe"
POSITION_CLASS = r"Pos(?:ition\w*)?_?Emb"
RELATIVE_BIAS = r"rel(?:ative)?_(?:pos(?:ition)?|att\w+)(?:_\w+)?_bias"
ADDED = (
    rf"{POSITION}|rel(?:ative)?_\w+|(?:height|width|time)_rel"
    r"|\w+_tokens?|(?:cls|class|mask|pad|null)(?:_emb\w*)?|latents?|quer(?:y|ies)|probe"
    r"|(?:latent|learn\w*|object|pool\w*)_quer(?:y|ies)"
    r"|(?:soft_)?prompts?(?:_\w+)?|prefix(?:_\w+)?"
)
SCALES = (
    r"gamma|beta|alpha|gains?|(?:\w+_)?scales?|layer_?scale\w*|scale_shift_table|lambda\w*"
    r"|temperature|a_log|(?-i:D)|time_(?:mix|decay|first|maa|faaaa)\w*"
)
EMBED = r"(?:\w+_)?(?:emb|embed|embeddings?|wte|wpe|codebooks?)(?:_\w+)?|trainable_tokens_\w+"

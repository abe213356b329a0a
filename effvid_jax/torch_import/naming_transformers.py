"""Tables of `naming.py` for transformers: UniFormer, VideoMAE and V-JEPA2."""

from __future__ import annotations

_HF_LAYER = r"videomae\.encoder\.layer\.(\d+)"
_VJEPA2_LAYER = r"vjepa2\.encoder\.layer\.(\d+)"
_POOLER_LAYER = r"pooler\.self_attention_layers\.(\d+)"
_CROSS_LAYER = r"pooler\.cross_attention_layer"
_PROJECTIONS = {"q": "query", "k": "key", "v": "value"}

NAMING = {
    "UniFormer": [
        (r"patch_embed(\d)\.(norm|proj)", r"patch_embed\1/\2"),
        (r"blocks(\d)\.(\d+)\.(\w+)", r"blocks\1_\2/\3"),
        (r"blocks(\d)\.(\d+)\.(attn|mlp)\.(\w+)", r"blocks\1_\2/\3/\4"),
        ("norm", "norm"), ("head", "fc"),
    ],
    "transformers VideoMAE": [  # of any version: `q_bias` (see LEAVES) or `query.bias`
        (r"videomae\.embeddings\.patch_embeddings\.projection", "patch_embed"),
        (_HF_LAYER + r"\.attention\.attention", r"blocks_\1/attn"),
        (_HF_LAYER + r"\.attention\.attention\.(query|key|value)", r"blocks_\1/attn/\2"),
        (_HF_LAYER + r"\.attention\.output\.dense", r"blocks_\1/attn/proj"),
        (_HF_LAYER + r"\.layernorm_before", r"blocks_\1/norm1"),
        (_HF_LAYER + r"\.layernorm_after", r"blocks_\1/norm2"),
        (_HF_LAYER + r"\.intermediate\.dense", r"blocks_\1/mlp/fc1"),
        (_HF_LAYER + r"\.output\.dense", r"blocks_\1/mlp/fc2"),
        ("fc_norm", "fc_norm"), ("classifier", "fc"),
    ],
    "transformers V-JEPA2": [
        (r"vjepa2\.encoder\.embeddings\.patch_embeddings\.proj", "patch_embed"),
        (r"vjepa2\.encoder\.layernorm", "layernorm"),
        (_VJEPA2_LAYER + r"\.(norm\d)", r"blocks_\1/\2"),
        (_VJEPA2_LAYER + r"\.attention\.(\w+)", r"blocks_\1/attn/\2"),
        (_VJEPA2_LAYER + r"\.mlp\.(fc\d)", r"blocks_\1/mlp/\2"),
        (_POOLER_LAYER + r"\.layer_norm(\d)", r"pooler_\1/norm\2"),
        (_POOLER_LAYER + r"\.mlp\.(fc\d)", r"pooler_\1/mlp/\2"),
        (_POOLER_LAYER + r"\.self_attn\.out_proj", r"pooler_\1/attn/proj"),
        *((_POOLER_LAYER + rf"\.self_attn\.{theirs}_proj", rf"pooler_\1/attn/{ours}")
          for theirs, ours in _PROJECTIONS.items()),
        ("pooler", "cross"),  # its query_tokens
        (_CROSS_LAYER + r"\.layer_norm(\d)", r"cross/norm\1"),
        (_CROSS_LAYER + r"\.mlp\.(fc\d)", r"cross/mlp/\1"),
        *((_CROSS_LAYER + rf"\.cross_attn\.{theirs}_proj", f"cross/{ours}")
          for theirs, ours in _PROJECTIONS.items()),
        ("classifier", "fc"),
    ],
}

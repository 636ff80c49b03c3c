"""Types of torch's modules that are treated alike, and the names that wrappers put into a path."""

from __future__ import annotations

from torch import nn

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
NORMALIZATIONS = (
    *(nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.SyncBatchNorm),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)

# A module around another that computes the same: torch.compile, activation checkpointing, FSDP 1.
SAME_MODULE = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
# Names that say nothing about the parameter: those, data parallel and PEFT.
WRAPPERS = SAME_MODULE | {
    *("module", "base_layer", "modules_to_save", "original_module", "default")
}

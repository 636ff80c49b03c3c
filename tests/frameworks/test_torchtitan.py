"""torchtitan: its container of optimizers, over two parts of a model under FSDP2."""

import pytest

pytest.importorskip("torchtitan.components.optimizer")

from tests.frameworks import processes
from tests.frameworks.checks import check_falls

ROUTED = ["layers.0.ffn_norm.weight", "layers.1.ffn_norm.weight", "lm_head.weight"]


@pytest.mark.parametrize("kind", ["parts", "groups"])
def test_a_container_trains_and_its_flat_state_goes_on(kind):
    for rank in processes.run("torchtitan_run", kind):
        assert rank["whole"]["adamw"] == [*ROUTED, "tok_embeddings.weight"]
        check_falls(rank["whole"]["losses"], by=0.02)
        assert rank["rest"]["losses"] == rank["whole"]["losses"][5:]

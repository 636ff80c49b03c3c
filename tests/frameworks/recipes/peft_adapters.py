"""PEFT: the optimizer is made when the adapters are there."""

from peft import LoraConfig, get_peft_model

import steepest


def with_adapters(model):
    config = LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"]
    )
    model = get_peft_model(model, config)
    return model, steepest.Muon(model, lr=1e-3, adjust_lr_fn="match_rms_adamw")

"""TRL with a PEFT configuration: the factory sees the model that has the adapters."""

from trl import SFTTrainer

import steepest


def trainer(model, args, data, tokenizer, peft_config):
    return SFTTrainer(
        model,
        args=args,
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=peft_config,
        optimizer_cls_and_kwargs=(
            lambda: steepest.Muon,
            {"lr": 1e-3, "adjust_lr_fn": "match_rms_adamw"},
        ),
    )

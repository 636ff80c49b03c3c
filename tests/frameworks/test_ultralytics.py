"""ultralytics: a trainer of images with an optimizer of the model."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ultralytics")

from PIL import Image
from ultralytics.models.yolo.classify import ClassificationTrainer
from ultralytics.nn.tasks import ClassificationModel, DetectionModel

import steepest
from tests.frameworks.checks import check_routed
from tests.frameworks.recipes import yolo_attention
from tests.frameworks.recipes.yolo_trainer import MuonClassificationTrainer


def images(folder):
    """Squares of two brightnesses, in the folders of their classes."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 8)):
        for label, level in (("dark", 60), ("light", 180)):
            place = folder / part / label
            place.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(draw.normal(level, 30, (32, 32, 3)), 0, 255).astype("uint8")
                Image.fromarray(pixels).save(place / f"{i}.png")


def settings(**changes):
    images(Path("pictures"))
    return {
        "model": "yolo11n-cls.yaml",
        "data": str(Path("pictures").resolve()),
        "epochs": 2,
        "imgsz": 32,
        "batch": 16,
        "device": "cpu",
        "workers": 0,
        "plots": False,
        "project": str(Path.cwd()),
        "name": "run",
        "amp": False,
        "pretrained": False,
        "verbose": False,
        **changes,
    }


@pytest.mark.row("ultralytics")
def test_a_trainer_that_makes_the_optimizer_of_the_model():
    trainer = MuonClassificationTrainer(overrides=settings())
    trainer.train()
    check_routed(trainer.model, trainer.optimizer)
    # Queries, keys and values of different width, head by head: the override is in its own test.
    assert all(".attn.qkv." in a.name for a in trainer.optimizer.routing.uncertain)
    moved = [s for s in trainer.optimizer.state.values() if "momentum_buffer" in s]
    assert len(moved) > 20
    assert all(s["momentum_buffer"].isfinite().all() for s in moved)


@pytest.mark.row("ultralytics-name")
def test_a_name_is_taken_from_a_closed_list():
    trainer = ClassificationTrainer(overrides=settings(optimizer="steepest.Muon"))
    with pytest.raises(NotImplementedError, match=r"steepest\.Muon"):
        trainer.train()


@pytest.mark.row("ultralytics-detection")
def test_the_outputs_of_a_detector_are_known():
    made = steepest.Muon(DetectionModel("yolo11n.yaml", verbose=False), lr=0.02)
    outputs = [a for a in made.routing if re.search(r"\.cv[23]\.\d\.2\.weight", a.name)]
    assert len(outputs) == 6
    for a in outputs:
        assert a.destination.startswith("AdamW"), a.name
    assert sum(a.target == "matrix" for a in made.routing) > 60


@pytest.mark.row("ultralytics-attention")
def test_the_attention_is_cut_by_hand():
    model = ClassificationModel("yolo11n-cls.yaml", nc=2, verbose=False)
    routing = yolo_attention.optimizer(model).routing
    assert not routing.uncertain
    (fused,) = [a for a in routing if ".attn.qkv." in a.name and a.target == "matrix"]
    assert fused.view is not None
    shapes = fused.view.shapes(fused.shape)
    assert sum(count * rows for count, rows, _ in shapes) == 256
    assert {(rows, columns) for _, rows, columns in shapes} == {(32, 128), (64, 128)}

"""fastai: a learner around the wrapped optimizer."""

from pathlib import Path

import pytest

pytest.importorskip("fastai")

from fastai.callback import schedule
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from torch.nn import functional as F

from tests.frameworks.checks import check_falls, check_routed, rates
from tests.frameworks.recipes.fastai_learner import learner
from tests.frameworks.small import classes, classifier


def made(seed=0):
    loaders = [DataLoader(classes(), bs=64, shuffle=False, num_workers=0) for _ in range(2)]
    model = classifier(seed)
    return model, learner(DataLoaders(*loaders, device="cpu"), model, F.cross_entropy)


@pytest.mark.row("fastai")
def test_it_is_routed_and_learns():
    model, learn = made()
    assert hasattr(schedule, "ParamScheduler")
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(3, 0.01)
    check_routed(model, learn.opt.opt)
    check_falls([float(x) for x in learn.recorder.losses], by=0.03)


@pytest.mark.row("fastai-rate")
def test_fit_writes_one_rate_into_all_groups():
    _, learn = made()
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 0.005)
    assert rates(learn.opt.opt) == [0.005] * 3


@pytest.mark.row("fastai-resume")
def test_a_saved_optimizer_goes_on():
    _, learn = made()
    _, again = made(1)
    for one in (learn, again):
        one.path = one.model_dir = Path.cwd()
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 0.005)
        learn.save("last", with_opt=True)
        again.create_opt()
        again.load("last", with_opt=True)
    saved, loaded = (x.opt.opt.state_dict()["state"] for x in (learn, again))
    assert saved.keys() == loaded.keys() != set()
    assert all(saved[i][k].equal(loaded[i][k]) for i in saved for k in saved[i])

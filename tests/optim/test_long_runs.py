"""What stays as it is over many steps, threads, processes and optimizers in one process."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from steepest import EMANesterov, Lion, Muon, NorMuon, Scion, SOAPMuon, SteepestDescent, norms
from steepest.optim.muon import KEPT_METHODS
from steepest.optim.objects import SPARE
from steepest.polar import Auto, Svd
from tests.optim.runs import parameter
from tests.optim.suite import assert_equal, every_optimizer, model, parameters, train
from tools import long_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def one_thread():
    """Each of torch's own threads keeps memory; others are the subject here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def quick_switches():
    """Python's threads take turns so often that no operator waits long for its next turn."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(autouse=True, scope="module")
def few_objects():
    """What was there before is out of sight: hundreds of collections walk over the rest."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.slow
@pytest.mark.parametrize("name", long_run.MAKE)
def test_nothing_grows_in_a_long_run(name, one_thread):
    result = long_run.long_run(name, 4000)
    assert result.flat, f"{long_run.HEAD}\n{result.row}"


@pytest.mark.parametrize("name", ["Muon", "Muon, int8", "EMANesterov of Muon"])
def test_nothing_grows_in_a_short_run(name, one_thread):
    result = long_run.long_run(name, 300)
    assert result.expected == 6
    assert result.skipped == result.expected
    assert result.growth.tensors == result.growth.state_bytes == result.growth.files == 0
    assert result.growth.objects <= long_run.LIMITS.objects, result.row


def test_a_run_that_keeps_something_is_told():
    kept = []

    class Leaking(Muon):
        def step(self, closure=None):
            kept.append([object()])
            return super().step(closure)

    makes = {**long_run.MAKE, "Leaking": lambda m: Leaking(m, lr=1e-3)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_run, "MAKE", makes)
        result = long_run.long_run("Leaking", 400)
    assert not result.flat
    assert result.growth.objects >= 300


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", [["--ranks", "2", "--steps", "600"], ["--ranks", "2", "--worlds", "12"]]
)
def test_nothing_grows_in_two_processes(what):
    command = [sys.executable, "tools/long_run.py", *what]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    run = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=900
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_schedule_of_methods_is_forgotten():
    p = parameter(4, 3)
    optimizer = Muon([p], lr=0.1)
    first = optimizer.param_groups[0]["polar"]
    for step in range(200):
        optimizer.param_groups[0]["polar"] = Auto(error=0.05 + step / 1000)
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert len(optimizer._objects._by_text) <= SPARE + 1
    assert optimizer.param_groups[0]["polar"] == repr(Auto(error=0.249))
    # A text of not long ago is known, the first is not any more.
    optimizer.param_groups[0]["polar"] = repr(Auto(error=0.24))
    optimizer.step()
    optimizer.param_groups[0]["polar"] = first
    with pytest.raises(ValueError, match=r"polar=.*give a method object"):
        optimizer.step()


def test_the_objects_of_many_groups_are_kept():
    params = [parameter(4, 3, seed=i) for i in range(SPARE + 10)]
    groups = [{"params": [p], "polar": Auto(error=0.01 + i / 1e4)} for i, p in enumerate(params)]
    optimizer = Muon(groups, lr=0.1)
    for step in range(SPARE + 10):
        optimizer.param_groups[0]["polar"] = Auto(error=0.1 + step / 1e3)
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    optimizer.param_groups[-1]["lr"] = 0.01
    copy.deepcopy(optimizer).step()


def test_a_schedule_of_coefficients_is_forgotten():
    p = parameter(4, 3)
    optimizer = Muon([p], lr=0.1, ns_steps=5)
    for step in range(100):
        optimizer.param_groups[0]["ns_coefficients"] = (3.4445, -4.775, 2.0 + step / 1e4)
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert len(optimizer._methods) <= KEPT_METHODS


@every_optimizer
def test_an_optimizer_that_is_dropped_is_gone(make):
    gc.collect()
    m = model()
    optimizer = make(m)
    train(m, optimizer, 1)
    refs = [weakref.ref(optimizer), *(weakref.ref(p) for p in m.parameters())]
    del m, optimizer
    gc.collect()
    assert [ref() for ref in refs] == [None] * len(refs)


MANY = {
    "muon": lambda m: Muon(m, lr=0.01),
    "soapmuon": lambda m: SOAPMuon(m, lr=0.01),
    "ema": lambda m: EMANesterov(Scion(m, lr=0.01), start=0, stop=None),
}


@pytest.mark.parametrize("name", MANY)
def test_many_optimizers_in_one_process_leave_nothing_behind(name, one_thread):
    def one():
        m = model()
        optimizer = MANY[name](m)
        for t in range(2):
            if name == "ema":
                optimizer.train()
            optimizer.zero_grad()
            long_run.loss(m, t).backward()
            optimizer.step()
        return optimizer

    for _ in range(5):
        last = one()
    before = long_run.counts(last)
    for _ in range(40):
        last = one()
    after = long_run.counts(last)
    assert after.objects - before.objects < 40  # one for each
    assert after.threads == before.threads and after.files == before.files


@pytest.mark.parametrize("through", ["deepcopy", "pickle", "load"])
def test_copies_and_loads_do_not_pile_up(through, one_thread):
    m = model()
    optimizer = NorMuon(m, lr=0.01)
    train(m, optimizer, 2)

    def once():
        nonlocal m, optimizer
        if through == "load":
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        elif through == "deepcopy":
            m, optimizer = copy.deepcopy((m, optimizer))
        else:
            m, optimizer = pickle.loads(pickle.dumps((m, optimizer)))
        train(m, optimizer, 1)

    def size():
        gc.collect()
        return len(gc.get_objects()), len(pickle.dumps(optimizer))

    for _ in range(5):
        once()
    before = size()
    for _ in range(40):
        once()
    after = size()
    assert after[0] - before[0] < 40  # one for each
    assert after[1] - before[1] <= 64


def trained(seed, m):
    """A model after some steps of its own optimizer."""
    optimizer = (Muon, Lion, SOAPMuon, Scion)[seed % 4](m, lr=0.01)
    train(m, optimizer, 8, start=10 * seed)
    return parameters(m)


def test_threads_with_an_optimizer_each_do_not_disturb_each_other(one_thread):
    # Made here: threads share the generator that fills a model.
    expected = [trained(seed, model()) for seed in range(8)]
    models = [model() for _ in range(8)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(trained, range(8), models))
    for a, b in zip(expected, found, strict=True):
        assert_equal(a, b)


def test_a_state_can_be_taken_while_another_thread_steps(one_thread, quick_switches):
    m = model()
    optimizer = SteepestDescent(m, norms.Schatten(4), lr=0.01, momentum=0.9)
    train(m, optimizer, 1)
    keys = {k: set(v) for k, v in optimizer.state_dict()["state"].items()}
    done, seen = threading.Event(), []

    def save():
        while not done.is_set():
            state = optimizer.state_dict()
            seen.append({k: set(v) for k, v in state["state"].items()} == keys)
            pickle.dumps(state)

    with ThreadPoolExecutor(1) as threads:
        saving = threads.submit(save)
        train(m, optimizer, 60)
        done.set()
        saving.result(timeout=60)
    assert seen and all(seen)


FORK = """
import os, sys, pickle, torch
torch.set_num_threads(1)
from tests.optim.suite import OPTIMIZERS, model, parameters, train
for name in ("muon", "SOAPMuon", "lion"):
    m = model()
    optimizer = OPTIMIZERS[name](m)
    train(m, optimizer, 3)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        train(m, optimizer, 3, start=3)
        os.write(write, pickle.dumps([p.tolist() for p in parameters(m)]))
        os._exit(0)
    os.close(write)
    train(m, optimizer, 3, start=3)
    with os.fdopen(read, "rb") as file:
        theirs = pickle.load(file)
    assert os.waitpid(child, 0)[1] == 0
    assert theirs == [p.tolist() for p in parameters(m)], name
print("alike")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_that_is_forked_after_use_goes_on_alike():
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    run = subprocess.run(
        [sys.executable, "-c", FORK],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.stdout.strip() == "alike", run.stdout + run.stderr


class Rows(Dataset):
    """Inputs that a worker makes, each with the number of the process that has made it."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return torch.full((6,), float(index)), os.getpid()


def test_workers_of_a_loader_leave_the_optimizer_alone(one_thread):
    """Workers are forked in the middle of training, which goes on as without them."""
    results = []
    for workers in (0, 2):
        torch.manual_seed(0)
        m = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        optimizer = Muon(m, lr=0.02, polar=Svd())
        seen = set()
        for _ in range(2):
            loader = DataLoader(
                Rows(),
                batch_size=4,
                num_workers=workers,
                multiprocessing_context="fork" if workers else None,
            )
            for x, pids in loader:
                seen |= set(pids.tolist())
                optimizer.zero_grad()
                m(x).square().mean().backward()
                optimizer.step()
        assert len(seen - {os.getpid()}) == 2 * workers
        results.append(parameters(m))
    assert_equal(*results)

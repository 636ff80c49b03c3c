"""stable-baselines3: agents whose policies make their optimizer."""

import pytest

pytest.importorskip("stable_baselines3")

from stable_baselines3 import DQN, PPO, SAC

import steepest
from tests.frameworks.checks import check_routed, rates
from tests.frameworks.recipes.sb3_policy import MuonPolicy

SMALL = {"n_steps": 64, "batch_size": 32, "device": "cpu", "seed": 0}


@pytest.mark.row("sb3-policy")
def test_a_policy_with_its_own_optimizer():
    agent = PPO(MuonPolicy, "CartPole-v1", learning_rate=1e-3, **SMALL)
    before = [p.detach().clone() for p in agent.policy.parameters()]
    agent.learn(128)
    check_routed(agent.policy, agent.policy.optimizer)
    # The value network shares nothing here, so all parameters have moved.
    after = list(agent.policy.parameters())
    assert all(not a.equal(b) for a, b in zip(before, after, strict=True))
    agent.save("agent")
    again = PPO.load("agent", device="cpu")
    assert type(again.policy.optimizer) is steepest.Muon
    saved, loaded = (a.policy.optimizer.state_dict()["state"] for a in (agent, again))
    assert all(saved[i][k].equal(loaded[i][k]) for i in saved for k in saved[i])


@pytest.mark.row("sb3-rate")
def test_the_agent_writes_one_rate_into_all_groups():
    agent = PPO("MlpPolicy", "CartPole-v1", learning_rate=3e-4, **SMALL)
    agent.policy.optimizer = steepest.Muon(agent.policy, lr=0.02, adamw_lr=1e-3)
    with pytest.warns(UserWarning, match="written one learning rate into all of them"):
        agent.learn(64)
    assert rates(agent.policy.optimizer) == [3e-4] * len(agent.policy.optimizer.param_groups)


AGENTS = {PPO: ("CartPole-v1", SMALL), DQN: ("CartPole-v1", {}), SAC: ("Pendulum-v1", {})}


@pytest.mark.row("sb3-class")
@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.__name__)
def test_a_class_gets_parameters_and_is_refused(agent):
    place, settings = AGENTS[agent]
    with pytest.raises(ValueError, match="under stable_baselines3 write optimizer_kwargs="):
        agent(
            "MlpPolicy",
            place,
            policy_kwargs={"optimizer_class": steepest.Muon},
            **settings | {"device": "cpu"},
        )


@pytest.mark.row("sb3-unrouted")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.__name__)
def test_a_class_takes_vectors_to_adamw_when_it_is_asked_for(agent):
    place, settings = AGENTS[agent]
    options = {"unrouted": "adamw", "adjust_lr_fn": "match_rms_adamw"}
    warm = {} if agent is PPO else {"learning_starts": 10}
    made = agent(
        "MlpPolicy",
        place,
        policy_kwargs={"optimizer_class": steepest.Muon, "optimizer_kwargs": options},
        **settings | {"device": "cpu"} | warm,
    )
    made.learn(64 if agent is PPO else 30)
    holder = {PPO: made.policy, DQN: made.policy, SAC: getattr(made, "actor", None)}[agent]
    groups = holder.optimizer.param_groups
    assert {(g["adamw"], min(p.shape) > 1 and p.ndim > 1) for g in groups for p in g["params"]} == {
        (False, True),
        (True, False),
    }

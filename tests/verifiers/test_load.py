"""The one opener: every kind of verifier comes with `kind`, `gives` and `score`, and gives what was asked for."""

import pytest

from rlstep.runtime.errors import UserError
from rlstep.stages.orm import ORMConfig, orm
from rlstep.verifiers.load import load_verifier
from rlstep.verifiers.scoring.implicit import ImplicitRewardModel
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.serving.client import RemoteRewardModel


@pytest.fixture
def implicit_path(tiny_lm, solutions, arguments, tmp_path) -> str:
    from rlstep.steps.records import write_solutions

    write_solutions(tmp_path / "rows.jsonl", solutions)
    args = arguments(max_steps=2, save_strategy="no", learning_rate=1e-2)
    orm(ORMConfig(tiny_lm, str(tmp_path / "rows.jsonl"), loss="implicit", beta=0.5), args)
    return args.output_dir


def test_an_implicit_prm_gives_probabilities_or_rewards(implicit_path, solutions):
    texts = [s.prompt for s in solutions], [s.completion for s in solutions]
    probabilities = load_verifier(implicit_path)
    rewards = load_verifier(implicit_path, gives="reward")
    assert (probabilities.kind, probabilities.gives, rewards.gives) == ("orm", "probability", "reward")
    assert rewards.score(*texts) == probabilities.step_log_ratios(*texts)
    assert min(sum(rewards.score(*texts), [])) < 0  # of either sign, so no probabilities
    assert rewards.score(*texts) != probabilities.score(*texts)
    for load in (RewardModel.from_pretrained, ImplicitRewardModel.from_pretrained):
        assert load(implicit_path, gives="reward").score(*texts) == rewards.score(*texts)
    with pytest.raises(UserError, match="gives is 'score'; choose probability or reward"):
        load_verifier(implicit_path, gives="score")


@pytest.mark.parametrize("kind", ["prm", "orm"])
def test_other_verifiers_give_probabilities_alone(verifier_paths, kind):
    verifier = load_verifier(verifier_paths[kind])
    assert isinstance(verifier, RewardModel)
    assert (verifier.kind, verifier.gives) == (kind, "probability")
    for load in (load_verifier, RewardModel.from_pretrained):
        with pytest.raises(UserError, match=r"gives probabilities, and gives: reward is for an implicit PRM"):
            load(verifier_paths[kind], gives="reward")
        with pytest.raises(UserError, match="gives is 'score'; choose probability or reward"):
            load(verifier_paths[kind], gives="score")


def test_a_server_is_not_asked_for_rewards():
    assert RemoteRewardModel.gives == "probability"
    with pytest.raises(UserError, match="http://localhost:1 gives probabilities"):
        load_verifier("http://localhost:1", gives="reward")


def test_options_of_the_other_way_of_loading_are_refused(verifier_paths):
    with pytest.raises(UserError, match="timeout is 5, but .* is for a server's address"):
        load_verifier(verifier_paths["prm"], timeout=5)
    with pytest.raises(TypeError, match="unexpected keyword argument 'tiemout'"):
        load_verifier(verifier_paths["prm"], tiemout=5)
    assert load_verifier(verifier_paths["prm"], timeout=600.0, batch_tokens=77).batch_tokens == 77

"""Training and scoring use the same token of each step, and it is the step's last one."""

import pytest
import torch

from rlstep.steps.boundaries import line_steps
from rlstep.verifiers import features as collate
from rlstep.verifiers.pretrained import auto_class_of, load_config, load_weights
from rlstep.verifiers.scoring.reward_model import RewardModel

PROMPT = "Left to right, mod 20: 7 + 3 * 7\n"
COMPLETION = "7 + 3 = 10\n10 * 7 = 10\nAnswer: 10"


@pytest.fixture
def token_reader(verifier_paths, tokenizer):
    """A verifier whose value at a position is a function of the token there alone, another for each token."""
    model = load_weights(
        auto_class_of("classification"), verifier_paths["prm"], load_config(verifier_paths["prm"]), "float32", False
    )
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.score.weight.normal_(generator=torch.Generator().manual_seed(0))
    return RewardModel(model, tokenizer, "prm")


def check_agreement(reader: RewardModel) -> None:
    from rlstep.steps.records import Solution

    steps = line_steps(COMPLETION)
    # The oracle knows nothing of offsets: it decodes ever longer prefixes until the step's text is complete.
    ids = reader.tokenizer(PROMPT)["input_ids"] + reader.tokenizer(COMPLETION)["input_ids"]
    prefixes = [reader.tokenizer.decode(ids[: index + 1]) for index in range(len(ids))]
    ends = [prefixes.index(PROMPT + COMPLETION[:end]) for _, end in steps]
    with torch.no_grad():
        values_T = reader.model(torch.tensor([ids])).logits.softmax(-1)[0, :, 1]
    wanted = values_T[ends].tolist()

    labelled = Solution("p", PROMPT, COMPLETION, "10", steps=steps, labels=[1] * len(steps), correct=True)
    (feature,), _ = collate.train_features("prm", [labelled], reader.tokenizer, None)
    assert feature.positions.tolist() == ends, "training"
    assert reader.score([PROMPT], [COMPLETION])[0] == pytest.approx(wanted, abs=1e-6), "scoring"


def test_training_and_scoring_agree(token_reader):
    check_agreement(token_reader)


@pytest.mark.parametrize("shift", [-1, 1])
@pytest.mark.parametrize(("function", "message"), [("train_positions", "training"), ("score_positions", "scoring")])
def test_a_shift_by_one_token_on_either_side_is_seen(token_reader, monkeypatch, function, message, shift):
    original = getattr(collate, function)

    def moved(positions: list[int], length: int) -> list[int]:
        return [min(position + shift, length - 1) for position in positions]

    def shifted_train(kind, encoded, solution, policy):
        positions, targets = original(kind, encoded, solution, policy)
        return moved(positions, len(encoded.ids)), targets

    def shifted_score(kind, encoded):
        return moved(original(kind, encoded), len(encoded.ids))

    if function == "train_positions":
        monkeypatch.setattr(collate, function, shifted_train)
    else:
        # training stays where it was: the positions that it takes from the shared function are frozen first
        train, plain = collate.train_positions, original

        def unmoved_train(kind, encoded, solution, policy):
            monkeypatch.setattr(collate, "score_positions", plain)
            found = train(kind, encoded, solution, policy)
            monkeypatch.setattr(collate, "score_positions", shifted_score)
            return found

        monkeypatch.setattr(collate, "train_positions", unmoved_train)
        monkeypatch.setattr(collate, "score_positions", shifted_score)
    with pytest.raises(AssertionError, match=message):
        check_agreement(token_reader)

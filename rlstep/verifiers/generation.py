"""How a published model's generation configuration outlives training, whatever combination of settings it has."""

from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel


class GivenGenerationConfig(GenerationConfig):
    """A generation configuration that is saved as it was given.

    transformers refuses to save one that was changed and holds a setting without effect, such as a temperature without
    `do_sample`. Many published models have these, and every training changes end or padding tokens: the error would
    come when the trained weights are to be saved.
    """

    def validate(self, strict: bool = False, **options) -> None:
        super().validate(strict=False, **options)


def keep_generation_config(model: PreTrainedModel | PeftModel) -> None:
    """Makes a model's generation configuration one that can be saved after a change; a model without one has none."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    given = getattr(base, "generation_config", None)
    if given is not None:
        base.generation_config = GivenGenerationConfig.from_dict(given.to_dict())

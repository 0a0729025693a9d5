"""The adversarial game of the autoencoder stage: when it starts, how much it weighs, what each side minimises."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gaekit.errors import GaekitError
from gaekit.nn.adversary import Reduce, adaptive_weight, augment, critic_loss, generator_loss
from gaekit.recipe.schema import Adversary, Train, steps_of
from gaekit.train.step import Step
from gaekit.values import Loss, Losses

RECONSTRUCTION = ("l1", "l2", "perceptual")


def reconstruction(losses: Losses) -> Tensor:
    """The reconstruction loss that adaptive weights compare with: the weighted pixel and perceptual terms, divided by
    the learned variance where there is one. Raises GaekitError if there is none."""
    terms = [losses[name].weighted for name in RECONSTRUCTION if name in losses]
    if not terms:
        raise GaekitError(
            "autoencoder.weights: an adaptive weight compares with the reconstruction, and every term of it is 0; "
            "give l1, l2 or perceptual a weight"
        )
    return torch.stack(terms).sum()


class AdversarialLoss:
    """Generator and critic losses by the settings of `autoencoder.adversary`; `reduce` is for `adaptive_weight`."""

    def __init__(self, settings: Adversary, train: Train, reduce: Reduce | None = None):
        self.settings, self.reduce = settings, reduce
        self.start = steps_of(settings.start, train.steps)
        self.warmup = steps_of(settings.warmup, train.steps)

    def started(self, step: Step) -> bool:
        """Whether the adversary takes part in this step."""
        return step.index >= self.start

    def generator_losses(
        self, critic: nn.Module, fake: Tensor, others: Losses, last_layer: nn.Parameter, step: Step
    ) -> Losses:
        """The generator's term; {} before the start. `critic` is the bare network; no gradient reaches its weights."""
        if not self.started(step):
            return {}
        # The critic's weights are constants here, whatever the critic's own step makes of them.
        constants = {name: parameter.detach() for name, parameter in critic.named_parameters()}
        logits = functional_call(critic, constants, (self._seen(fake, step, "fake for the generator"),))
        value = generator_loss(logits.float())
        weight: float | Tensor = self.settings.weight * self._ramp(step)
        if self.settings.adaptive:
            weight = weight * adaptive_weight(reconstruction(others), value, last_layer, reduce=self.reduce)
        return {"adversary": Loss(value, weight)}

    def critic_losses(self, critic: nn.Module, real: Tensor, fake: Tensor, step: Step) -> tuple[Losses, Tensor]:
        """-> (the critic's term, its accuracy: how often patches fall on their own side of zero)."""
        real_logits = critic(self._seen(real, step, "real")).float()
        fake_logits = critic(self._seen(fake, step, "fake")).float()
        accuracy = 0.5 * ((real_logits > 0).float().mean() + (fake_logits < 0).float().mean())
        return {self.settings.loss: Loss(critic_loss(self.settings.loss, real_logits, fake_logits))}, accuracy

    def _ramp(self, step: Step) -> float:
        return min(1.0, (step.index - self.start + 1) / self.warmup) if self.warmup else 1.0

    def _seen(self, image: Tensor, step: Step, name: str) -> Tensor:
        return augment(image, step.draws(f"augment {name}")) if self.settings.diffaug else image

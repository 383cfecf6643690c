"""Rate of an information bottleneck, as a module of `evaluate`."""

import evaluate
import torch
from datasets import Features, Sequence, Value

from hf_vub.model.information import gaussian_rate

Rows = list[list[float]]


class Rate(evaluate.Metric):
    """Mean KL divergence of the posterior from the prior."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Mean over rows of KL(N(mean, scale^2) || N(0, I)) in nats: the bound on I(Z;X).",
            citation="Alemi et al., Deep Variational Information Bottleneck, ICLR 2017",
            inputs_description="mean, scale: of the posterior, from head(features), both (rows, latent_size).",
            features=Features({name: Sequence(Value("float64")) for name in ("mean", "scale")}),
        )

    def _compute(self, *, mean: Rows, scale: Rows, **others: object) -> dict[str, float]:
        rates = gaussian_rate(*(torch.as_tensor(values, dtype=torch.float64) for values in (mean, scale)))
        return {"rate": float(rates.mean())}

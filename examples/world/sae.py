"""The world's sparse autoencoder: trained and saved with SAELens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer, SAETrainerConfig


@dataclass
class Training:
    layer: int = 2
    d_sae: int = 512
    k: int = 4
    samples: int = 3_000_000
    batch: int = 1024
    lr: float = 3e-3
    seed: int = 0


def train(x: np.ndarray, t: Training, model_name: str, out: Path) -> None:
    """A BatchTopK SAE on rows [n][d_in], saved for inference as JumpReLU."""
    torch.manual_seed(t.seed)
    rows = torch.from_numpy(x)
    config = BatchTopKTrainingSAEConfig(d_in=x.shape[1], d_sae=t.d_sae, k=t.k, normalize_activations="expected_average_only_in")
    config.metadata.hook_name = f"blocks.{t.layer}.hook_resid_post"
    config.metadata.model_name = model_name
    generator = torch.Generator().manual_seed(t.seed)

    def shuffled() -> Iterator[torch.Tensor]:
        while True:
            order = torch.randperm(len(rows), generator=generator)
            for start in range(0, len(rows) - t.batch + 1, t.batch):
                yield rows[order[start : start + t.batch]]

    trainer = SAETrainerConfig(
        total_training_samples=t.samples,
        train_batch_size_samples=t.batch,
        lr=t.lr,
        lr_end=t.lr / 10,
        lr_warm_up_steps=100,
        lr_decay_steps=t.samples // t.batch // 3,
        dead_feature_window=500,
        n_batches_for_norm_estimate=50,
        device="cpu",
    )
    sae = SAETrainer(cfg=trainer, sae=BatchTopKTrainingSAE(config), data_provider=shuffled()).fit()
    sae.save_inference_model(str(out))

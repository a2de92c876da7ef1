"""Convert, correct and evaluate a network in several processes: ``torchrun --nproc-per-node 2 processes.py``."""

import torch
import torch.distributed as dist
from torch import nn

from snnpipe import calibrate, checkpoint, correct_bias, evaluate, fuse, pipe, replace, save, to_snn, trace


def work(rank, size, group):
    torch.manual_seed(0)  # the same model and data in every process
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    images = torch.randn(2000, 16)
    labels = model(images).argmax(1)

    mine = slice(rank, None, size)  # or a DistributedSampler, which repeats some samples
    shard = images[mine].split(64)
    keep = checkpoint(f"calibration.{rank}.safetensors", every=10)
    state = pipe(model, trace, fuse, calibrate(shard, checkpoint=keep, group=group), replace)
    snn = pipe(state, correct_bias(shard, T=8, group=group), to_snn)
    found = evaluate(snn, [(images[mine], labels[mine])], T=8, ann=model, group=group)

    if rank == 0:  # all have the same
        save(snn, "snn.safetensors")
        print(found)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    work(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)
    dist.destroy_process_group()

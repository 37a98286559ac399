"""Does a transformer say the same, bit for bit, of rows alone and among others? ``python kernels.py FOLDER CLASS``.

Exit code 0: it does for the 8 rows of a rank that are kept of 16 (two branches of 8 rows each); 1: this machine's
matrix kernels depend on the number of rows, so no run with fewer rows can be that of all rows bit for bit.
"""

import sys

import diffusers
import torch


def main(folder, name):
    model = getattr(diffusers, name).from_pretrained(folder, subfolder="transformer").eval()
    torch.manual_seed(0)
    config = model.config
    size = config.sample_size
    call = {
        "hidden_states": torch.randn(16, config.in_channels, size, size), "timestep": torch.full((16,), 700.0),
        "encoder_hidden_states": torch.randn(16, 205, config.joint_attention_dim),
        "pooled_projections": torch.randn(16, config.pooled_projection_dim),
    }
    rows = torch.tensor([0, 2, 3, 6, 8, 10, 11, 14])
    with torch.no_grad():
        every = model(**call, return_dict=False)[0]
        alone = model(**{key: value[rows] for key, value in call.items()}, return_dict=False)[0]
    print("largest difference", float((every[rows] - alone).abs().max()))
    return int(not torch.equal(every[rows], alone))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""What some of flow-grpo's scripts ask of a machine and this one lacks, by name, for tests on the CPU.

`wandb`: a run that is open; train_sd3_GRPO_Guard.py logs to one that it never opens.
`cuda`: calls that choose or count GPUs do nothing, the group speaks gloo instead of nccl and FSDP shards on the CPU.
`checkpoints`: none are saved; torch 2.13 crashes where FSDP collects weights on the CPU.
`references`: pictures to edit are brought to 28 x 28 and not to 1024 x 1024, and their processor has no part for
videos, which would want torchvision.
"""

import functools


def open_wandb(module):
    module.init(mode="disabled")


def without_cuda(module):
    """Of torch.distributed.fsdp, which imports all of torch that the scripts choose devices with."""
    import torch
    import torch.distributed as distributed

    torch.cuda.set_device = lambda device: None
    torch.cuda.device_count = lambda: 1
    begin = distributed.init_process_group

    @functools.wraps(begin)
    def on_gloo(backend=None, **arguments):
        return begin("gloo" if backend == "nccl" else backend, **arguments)

    distributed.init_process_group = on_gloo
    build = module.FullyShardedDataParallel.__init__

    @functools.wraps(build)
    def on_cpu(self, *args, **arguments):
        build(self, *args, **{**arguments, "device_id": torch.device("cpu")})

    module.FullyShardedDataParallel.__init__ = on_cpu


def save_nothing(module):
    module.save_fsdp_checkpoint = lambda *args: None


def leave_out_videos(processor):
    processor.attributes = ["image_processor", "tokenizer"]


def small_references(module):
    leave_out_videos(module.Qwen2VLProcessor)
    module.calculate_dimensions = lambda area, ratio: (28, 28, None)


STAND_INS = {
    "wandb": ("wandb", open_wandb),
    "cuda": ("torch.distributed.fsdp", without_cuda),
    "checkpoints": ("flow_grpo.fsdp_utils", save_nothing),
    "references": ("diffusers.pipelines.qwenimage.pipeline_qwenimage_edit", small_references),
}


def wanted(names):
    """[(module, function that is called with it once it is imported)] of these stand-ins."""
    return [STAND_INS[name] for name in names]

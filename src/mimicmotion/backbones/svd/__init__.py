"""Stable Video Diffusion with a pose input: networks, conditioning, decoding, execution, checkpoints."""

import logging

# torchao (extra `fast`), which diffusers imports if it is installed, warns at every import about kernels and classes
# that are not used here.
for _name in ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer"):
    logging.getLogger(_name).setLevel(logging.ERROR)

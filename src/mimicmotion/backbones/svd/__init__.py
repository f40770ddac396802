"""Stable Video Diffusion with a pose input: networks, conditioning, decoding, execution, checkpoints."""

import logging

# Where torchao is installed (extra `fast`), diffusers imports it at once, and both log about kernels and classes of
# other versions that nothing here uses. Said at every start it would bury what users should see.
for _name in ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer"):
    logging.getLogger(_name).setLevel(logging.ERROR)

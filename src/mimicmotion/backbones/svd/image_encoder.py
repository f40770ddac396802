"""CLIP's vision tower, with the preprocessing of Stable Video Diffusion, without torchvision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mimicmotion.backbones.svd.config import Config, read_config
from mimicmotion.backbones.svd.layers import Linear, linear_add
from mimicmotion.errors import ConfigError

# Statistics of CLIP's training pictures (RGB, values in [0, 1]).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

FIELDS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "initializer_factor": 1.0,
}
WITHOUT_EFFECT = (
    "architectures", "transformers_version", "dropout", "torchscript", "use_bfloat16", "tf_legacy_loss",
    "pruned_heads", "chunk_size_feed_forward", "tie_word_embeddings", "tie_encoder_decoder", "is_encoder_decoder",
    "is_decoder", "add_cross_attention", "cross_attention_hidden_size", "output_attentions", "output_hidden_states",
    "return_dict", "id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params",
    "tokenizer_class", "prefix", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id",
    "decoder_start_token_id", "max_length", "min_length", "do_sample", "early_stopping", "num_beams",
    "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty",
    "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids",
    "num_return_sequences", "output_scores", "return_dict_in_generate", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
    "begin_suppress_tokens",
)  # fmt: skip
"""Fields that transformers writes to every config, but that do not affect the vision tower."""
ACTIVATIONS = {"gelu": F.gelu, "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x)}


class ImageEncoder(nn.Module):
    """CLIP's vision tower with projection (arXiv 2103.00020), which returns one embedding per picture.

    Config and parameter names match transformers' `CLIPVisionModelWithProjection`.

    Args:
        config: contents of config.json; missing fields have the defaults in `FIELDS`.

    Raises:
        ConfigError: a field or the activation is unknown, or the hidden size is not a multiple of the number of heads.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        # the weights determine the dtype, not the config
        plain = {k: v for k, v in config.items() if k not in ("dtype", "torch_dtype")}
        kind = {"model_type": "clip_vision_model"}
        c = self.config = read_config("image encoder", plain, FIELDS, only=kind, without_effect=WITHOUT_EFFECT)
        c["architectures"] = ["CLIPVisionModelWithProjection"]
        if c.hidden_act not in ACTIVATIONS:
            raise ConfigError(f"hidden_act={c.hidden_act!r}", "gelu or quick_gelu", "use another image encoder")
        if c.hidden_size % c.num_attention_heads:
            got = f"hidden_size={c.hidden_size}, num_attention_heads={c.num_attention_heads}"
            raise ConfigError(got, "a multiple of the number of heads", "correct image_encoder/config.json")
        # names are spelled as in the weights files
        self.vision_model: Any = nn.ModuleDict({"embeddings": Embeddings(c)})
        self.vision_model["pre_layrnorm"] = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        layers = nn.ModuleList(VisionLayer(c) for _ in range(c.num_hidden_layers))
        self.vision_model["encoder"] = nn.ModuleDict({"layers": layers})
        self.vision_model["post_layernorm"] = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        self.visual_projection = Linear(c.hidden_size, c.projection_dim, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise the weights randomly, with CLIP's standard deviations."""
        c, width = self.config, self.config.hidden_size**-0.5
        narrow = width * (2 * c.num_hidden_layers) ** -0.5
        spread = {"class_embedding": width, "patch_embedding": c.initializer_range, "visual_projection": width}
        spread |= {"position_embedding": c.initializer_range, "out_proj": width, "fc1": width / 2**0.5}
        spread |= dict.fromkeys(("q_proj", "k_proj", "v_proj", "fc2"), narrow)
        for name, p in self.named_parameters():
            owner = name.removesuffix(".weight").rpartition(".")[2]
            if owner in spread:
                nn.init.normal_(p, std=spread[owner] * c.initializer_factor)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, pixels: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch dim"]:
        """Embed pictures.

        Args:
            pixels: preprocessed pictures (`clip_pixels`) of size `config.image_size`, in the dtype of the parameters.
        """
        model = self.vision_model
        x = model["pre_layrnorm"](model["embeddings"](pixels))
        for layer in model["encoder"]["layers"]:
            x = layer(x)
        return self.visual_projection(model["post_layernorm"](x[:, 0]))  # the class token


class Embeddings(nn.Module):
    """Embeds the class token and the patches, with position embeddings."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        side = c.patch_size
        self.class_embedding = nn.Parameter(torch.empty(c.hidden_size))
        self.patch_embedding = nn.Conv2d(c.num_channels, c.hidden_size, side, stride=side, bias=False)
        self.position_embedding = nn.Embedding((c.image_size // side) ** 2 + 1, c.hidden_size)

    def forward(self, pixels: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch tokens channels"]:
        """Split pictures into patches and embed them."""
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)  # B C H W -> B (H W) C
        first = self.class_embedding.expand(len(pixels), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class VisionLayer(nn.Module):
    """Pre-norm transformer layer: self-attention and feed-forward with residuals."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        width, inner, eps = c.hidden_size, c.intermediate_size, c.layer_norm_eps
        self.heads, self.dropout, self.act = c.num_attention_heads, c.attention_dropout, ACTIVATIONS[c.hidden_act]
        self.self_attn = nn.ModuleDict({f"{k}_proj": Linear(width, width) for k in ("k", "v", "q", "out")})
        self.layer_norm1 = nn.LayerNorm(width, eps=eps)
        self.mlp = nn.ModuleDict({"fc1": Linear(width, inner), "fc2": Linear(inner, width)})
        self.layer_norm2 = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Float[Tensor, "batch tokens channels"]) -> Float[Tensor, "batch tokens channels"]:
        """Apply the layer."""
        normed = self.layer_norm1(x)
        # B N C -> B heads N dim
        q, k, v = (
            self.self_attn[f"{name}_proj"](normed).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in "qkv"
        )
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        mixed = mixed.transpose(1, 2).flatten(2)  # B heads N dim -> B N C
        x = linear_add(self.self_attn["out_proj"], mixed, x)
        return linear_add(self.mlp["fc2"], self.act(self.mlp["fc1"](self.layer_norm2(x))), x)


@torch.inference_mode()
def image_embedding(
    encoder: ImageEncoder, image: Float[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch 1 dim"]:
    """Embed pictures for the U-Net's cross-attention.

    Args:
        encoder: the vision tower.
        image: RGB in [-1, 1], any size and device.

    Returns:
        One context token per picture, float32, on the encoder's device. The unconditional pass uses zeros instead.
    """
    param = next(encoder.parameters())
    pixels = clip_pixels(image, encoder.config.image_size)
    return encoder(pixels.to(param.device, param.dtype)).unsqueeze(1).float()


def clip_pixels(image: Float[Tensor, "batch 3 height width"], size: int) -> Float[Tensor, "batch 3 {size} {size}"]:
    """Resize pictures to a square, ignoring the aspect ratio, and normalise them as CLIP expects, in float32."""
    small = (resize_antialiased(image.float(), (size, size)) + 1) / 2
    mean, std = (torch.tensor(v, device=small.device).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return (small - mean) / std


def resize_antialiased(image: Float[Tensor, "batch c h w"], size: tuple[int, int]) -> Float[Tensor, "batch c h2 w2"]:
    """Resize pictures with a Gaussian blur and bicubic sampling with aligned corners, as in the training of SVD.

    With f = old / new size along an axis, the blur has sigma = max((f - 1) / 2, 0.001) pixels, and its window is the
    first odd number >= int(max(4 sigma, 3)). Borders are reflected.
    """
    for axis, new in ((-1, size[1]), (-2, size[0])):
        image = _blur(image.transpose(axis, -1), max((image.shape[axis] / new - 1) / 2, 0.001)).transpose(axis, -1)
    return F.interpolate(image, size=size, mode="bicubic", align_corners=True)


def _blur(image: Float[Tensor, "batch c rows length"], sigma: float) -> Float[Tensor, "batch c rows length"]:
    """Apply a Gaussian blur along the last axis."""
    half = math.floor(max(4 * sigma, 3)) // 2
    offsets = torch.arange(-half, half + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    # reflection needs more pixels than it adds; for tiny pictures (sides up to `half`), repeat the border instead
    mode = "reflect" if image.shape[-1] > half else "replicate"
    padded = F.pad(image.flatten(0, 2)[:, None], (half, half), mode=mode)
    return F.conv1d(padded, (kernel / kernel.sum())[None, None])[:, 0].view(image.shape)

"""Folders of the real models' shapes in sparse files: every tensor by name and size, all of it a hole in the file system.

For what depends on sizes alone: `mutoscope plan` and `inspect`, and runs that measure memory (their weights are zeros).
Shapes are those of diffusers' and transformers' own classes, made without memory. Some kilobytes each on disk. Weights are
bf16; with `-q4_k` behind a model's name, its transformers are GGUF and the matrices of their blocks Q4_K.
"""

import json
import shutil
import sys
from pathlib import Path

import gguf
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

GOLDENS = Path(__file__).resolve().parents[3] / "kernels-tests" / "goldens"

WAN = {
    "patch_size": (1, 2, 2), "attention_head_dim": 128, "text_dim": 4096, "freq_dim": 256, "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads", "eps": 1e-6, "rope_max_seq_len": 1024,
}
TRANSFORMERS = {
    "t2v-1.3b": {"num_attention_heads": 12, "in_channels": 16, "out_channels": 16, "ffn_dim": 8960, "num_layers": 30},
    "ti2v-5b": {"num_attention_heads": 24, "in_channels": 48, "out_channels": 48, "ffn_dim": 14336, "num_layers": 30},
    "t2v-a14b": {"num_attention_heads": 40, "in_channels": 16, "out_channels": 16, "ffn_dim": 13824, "num_layers": 40},
}
UMT5_XXL = {
    "vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu", "layer_norm_epsilon": 1e-6, "tie_word_embeddings": False,
}
VAE_22 = {
    "base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "is_residual": True, "patch_size": 2, "in_channels": 12,
    "out_channels": 12, "scale_factor_spatial": 16, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48,
}
SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler", "flow_shift": 5.0, "prediction_type": "flow_prediction",
    "use_flow_sigmas": True, "num_train_timesteps": 1000,
}


def hole(path, tensors, dtype, size):
    """A safetensors file of these tensors, whose elements are a hole."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * size
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return end


def hole_in_gguf(path, tensors):
    """The same as GGUF: the matrices of blocks in Q4_K, what has one dimension in F32, the rest in BF16."""
    types = gguf.GGMLQuantizationType
    writer = gguf.GGUFWriter(path, "wan")
    end = 0
    for name, tensor in tensors.items():
        matrix = tensor.dim() == 2 and name.startswith("blocks.")
        kind = types.Q4_K if matrix else types.F32 if tensor.dim() < 2 else types.BF16
        block, size = gguf.GGML_QUANT_SIZES[kind]
        count = tensor.numel() // block * size
        writer.add_tensor_info(name, tensor.shape, torch.zeros(1).numpy().dtype, count, raw_dtype=kind)
        end += -(-count // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with open(path, "r+b") as file:
        file.truncate(-(-path.stat().st_size // 32) * 32 + end)


def settings(model, path):
    values = {k: v for k, v in dict(model.config).items() if not k.startswith("_")}
    path.write_text(json.dumps({"_class_name": type(model).__name__, **values}, default=list))


def make(folder, wanted):
    root = folder / wanted
    name = wanted.removesuffix("-q4_k")
    for part in ("transformer", "text_encoder", "vae", "scheduler"):
        (root / part).mkdir(parents=True, exist_ok=True)
    shutil.copytree(GOLDENS / "pipelines" / "a" / "tokenizer", root / "tokenizer", dirs_exist_ok=True)
    with torch.device("meta"):
        transformer = WanTransformer3DModel(**WAN, **TRANSFORMERS[name])
        encoder = UMT5EncoderModel(UMT5Config(**UMT5_XXL))
        vae = AutoencoderKLWan(**VAE_22) if name == "ti2v-5b" else AutoencoderKLWan()
    settings(transformer, root / "transformer" / "config.json")
    settings(vae, root / "vae" / "config.json")
    (root / "text_encoder" / "config.json").write_text(
        json.dumps({**UMT5_XXL, "architectures": ["UMT5EncoderModel"], "model_type": "umt5"})
    )
    words = {k: v for k, v in encoder.state_dict().items() if k != "encoder.embed_tokens.weight"}
    def weights(part):
        if wanted != name:
            return hole_in_gguf(root / part / f"{part}-q4_k.gguf", transformer.state_dict())
        return hole(root / part / "diffusion_pytorch_model.safetensors", transformer.state_dict(), "BF16", 2)

    weights("transformer")
    hole(root / "text_encoder" / "model.safetensors", words, "BF16", 2)
    hole(root / "vae" / "diffusion_pytorch_model.safetensors", vae.state_dict(), "F32", 4)
    index = {"_class_name": "WanPipeline", "expand_timesteps": name == "ti2v-5b"}
    if name == "t2v-a14b":
        (root / "transformer_2").mkdir(exist_ok=True)
        settings(transformer, root / "transformer_2" / "config.json")
        weights("transformer_2")
        index["boundary_ratio"] = 0.875
    (root / "model_index.json").write_text(json.dumps(index))
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    print(f"{root}: a transformer of {sum(tensor.numel() for tensor in transformer.state_dict().values()):,} parameters")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"which folder? (and which of {', '.join(TRANSFORMERS)}; all if none)")
    for wanted in sys.argv[2:] or TRANSFORMERS:
        make(Path(sys.argv[1]), wanted)

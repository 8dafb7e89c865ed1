"""Pipeline i in the containers that other people's programs write: GGUF by the gguf package, .pth by torch.save.

Checked with diffusers' own converters of names, as far as it has them; the engine must make the same latents of all."""

import collections

import gguf
import numpy as np
import torch
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers
from transformers import T5Tokenizer

from . import pipelines
from .configs import CONFIGS
from .prompts import PROMPTS
from .store import Store
from .tokenizer import unigram_pieces

# Parts of names: ours, the authors'; in this order (wan/modules/model.py).
TRANSFORMER = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0", "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0", "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1", "attn1": "self_attn", "attn2": "cross_attn", ".to_out.0.": ".o.", ".to_q.": ".q.",
    ".to_k.": ".k.", ".to_v.": ".v.", "ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2", ".norm2.": ".norm3.", "proj_out": "head.head",
    ".scale_shift_table": ".modulation", "scale_shift_table": "head.modulation",
}  # fmt: skip
# wan/modules/t5.py
UMT5 = {
    "encoder.block.": "blocks.", "layer.0.layer_norm": "norm1", "layer.1.layer_norm": "norm2", "layer.0.SelfAttention.relative_attention_bias":
    "pos_embedding.embedding", "layer.0.SelfAttention": "attn", "layer.1.DenseReluDense.wi_0": "ffn.gate.0", "layer.1.DenseReluDense.wi_1": "ffn.fc1",
    "layer.1.DenseReluDense.wo": "ffn.fc2", "encoder.final_layer_norm": "norm", "shared": "token_embedding",
}  # fmt: skip


def renamed(state: dict, parts: dict) -> dict:
    found = {}
    for name, tensor in state.items():
        for ours, theirs in parts.items():
            name = name.replace(ours, theirs)
        assert name not in found, name
        found[name] = tensor
    return found


def transformer(module) -> dict:
    """A transformer in its authors' names."""
    theirs = renamed(module.state_dict(), TRANSFORMER)
    assert same(convert_wan_transformer_to_diffusers(dict(theirs)), module.state_dict())
    return theirs


def umt5(module) -> dict:
    """A text encoder in the names of Wan's authors."""
    return renamed({name: tensor for name, tensor in module.state_dict().items() if name != "encoder.embed_tokens.weight"}, UMT5)


def vae(module) -> dict:
    """A VAE in its authors' names: those that the converter makes ours of. It knows the real widths alone, of which one level does without the
    shortcut that this one has."""
    levels, ends = range(16), ("weight", "bias", "gamma")
    inside = [f"residual.{layer}" for layer in (0, 2, 3, 6)] + ["shortcut", "resample.1", "time_conv", "norm", "to_qkv", "proj"]
    places = [f"{half}.{at}" for half, list_ in (("encoder", "downsamples"), ("decoder", "upsamples")) for at in (f"{list_}.{n}" for n in levels)]
    places += [f"{half}.middle.{n}" for half in ("encoder", "decoder") for n in range(3)]
    stems = [f"{place}.{layer}" for place in places for layer in inside]
    stems += [f"{half}.{layer}" for half in ("encoder", "decoder") for layer in ("conv1", "head.0", "head.2")] + ["conv1", "conv2"]
    ours = module.state_dict()
    theirs, found = {}, set()
    for name in (f"{stem}.{end}" for stem in stems for end in ends):
        [converted] = convert_wan_vae_to_diffusers({name: None})
        converted = converted.replace("up_blocks.8.conv_shortcut", "up_blocks.2.resnets.0.conv_shortcut")
        if converted in ours:
            assert name not in theirs
            theirs[name] = ours[converted]
            found.add(converted)
    assert found == ours.keys()
    return theirs


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def save_torch(path, module, state: dict) -> None:
    """As `torch.save(model.state_dict(), path)`: an OrderedDict that has the modules' versions with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = collections.OrderedDict(state)
    state._metadata = module.state_dict()._metadata
    torch.save(state, path)
    assert same(torch.load(path, weights_only=True), state)
    path.chmod(0o644)


def save_gguf(path, writer, state: dict, five: bool) -> None:
    """Matrices in f16, what has one dimension in f32. GGML has four dimensions: the convolution's fifth is written as it is (`five`), as tools
    that repair such files do, or the first two dimensions are one, and the shape is in the metadata."""
    for name, tensor in state.items():
        array = tensor.float().numpy() if tensor.dim() < 2 or name.endswith("modulation") else tensor.half().numpy()
        if array.ndim > 4 and not five:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(array.shape))
            array = array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])
        writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.chmod(0o644)


def gguf_umt5(path, module, pieces: list) -> None:
    """A text encoder as llama.cpp's convert_hf_to_gguf.py writes UMT5EncoderModel, its vocabulary within."""
    config = module.config
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.T5ENCODER])
    writer.add_context_length(512)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_block_count(config.num_layers)
    writer.add_head_count(config.num_heads)
    writer.add_key_length(config.d_kv)
    writer.add_value_length(config.d_kv)
    writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)
    writer.add_relative_attn_buckets_count(config.relative_attention_num_buckets)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    kinds = {"<pad>": gguf.TokenType.CONTROL, "</s>": gguf.TokenType.CONTROL, "<unk>": gguf.TokenType.UNKNOWN}
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([text.encode() for text, _ in pieces])
    writer.add_token_scores([score for _, score in pieces])
    writer.add_token_types([kinds.get(text, gguf.TokenType.NORMAL) for text, _ in pieces])
    writer.add_add_space_prefix(True)
    writer.add_remove_extra_whitespaces(True)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(True)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, config.num_layers)
    state = {name: tensor for name, tensor in module.state_dict().items() if name != "encoder.embed_tokens.weight"}
    state = {names.get_name(name, try_suffixes=(".weight",)): tensor for name, tensor in state.items()}
    assert None not in state
    save_gguf(path, writer, state, five=False)


def make(store: Store) -> None:
    pipe = pipelines.load(store.root, "i", torch.float16)
    root = store.root / "containers"
    (root / "gguf").mkdir(parents=True, exist_ok=True)
    for number, (side, module) in enumerate((("high", pipe.transformer), ("low", pipe.transformer_2))):
        theirs = transformer(module)
        save_torch(root / "pth" / f"{side}_noise_model" / "diffusion_pytorch_model.pth", module, theirs)
        path = root / "gguf" / f"Wan2.2-T2V-A14B-{side.capitalize()}Noise-F16.gguf"
        save_gguf(path, gguf.GGUFWriter(path, "wan"), theirs, five=number == 0)
    save_torch(root / "pth" / "models_t5_umt5-xxl-enc-bf16.pth", pipe.text_encoder, umt5(pipe.text_encoder))
    save_torch(root / "pth" / "Wan2.1_VAE.pth", pipe.vae, vae(pipe.vae))
    # The vocabulary in GGUF's metadata has no rules for characters: it is pipeline i's for texts that need none.
    pieces = unigram_pieces(CONFIGS["i"].vocab)
    t5 = T5Tokenizer(vocab=pieces, extra_ids=0)
    assert all(t5(PROMPTS[prompt]).input_ids == pipe.tokenizer(PROMPTS[prompt]).input_ids for prompt in ("plain", "empty"))
    gguf_umt5(root / "gguf" / "umt5-xxl-encoder-F16.gguf", pipe.text_encoder, pieces)
    for path in sorted(root.rglob("*")):
        if path.is_file():
            print(f"{path.relative_to(store.root)}: {path.stat().st_size / 1024:.0f} KiB", flush=True)

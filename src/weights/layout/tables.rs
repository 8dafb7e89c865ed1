//! What others call the tensors of Wan's networks.
//!
//! "Ours" are the names of diffusers (`WanTransformer3DModel`, `WanVACETransformer3DModel`, `AutoencoderKLWan`) and of
//! transformers (`UMT5EncoderModel`, `CLIPVisionModel`). Facts: `scripts/convert_wan_to_diffusers.py` and
//! `loaders/single_file_utils.py` of diffusers, `wan/modules` of <https://github.com/Wan-Video/Wan2.1>,
//! `gguf-py/gguf/tensor_mapping.py` of <https://github.com/ggml-org/llama.cpp>.

use super::rule::Rule;

/// The transformers of Wan 2.1 and 2.2, as their authors and ComfyUI's files have them (`wan/modules/model.py`,
/// `vace_model.py`). What the authors call norm3 comes second here.
pub(super) const TRANSFORMER: &[Rule] = &[
    ("patch_embedding.*", "patch_embedding.*"),
    ("time_embedding.0.*", "condition_embedder.time_embedder.linear_1.*"),
    ("time_embedding.2.*", "condition_embedder.time_embedder.linear_2.*"),
    ("time_projection.1.*", "condition_embedder.time_proj.*"),
    ("text_embedding.0.*", "condition_embedder.text_embedder.linear_1.*"),
    ("text_embedding.2.*", "condition_embedder.text_embedder.linear_2.*"),
    ("img_emb.proj.0.*", "condition_embedder.image_embedder.norm1.*"),
    ("img_emb.proj.1.*", "condition_embedder.image_embedder.ff.net.0.proj.*"),
    ("img_emb.proj.3.*", "condition_embedder.image_embedder.ff.net.2.*"),
    ("img_emb.proj.4.*", "condition_embedder.image_embedder.norm2.*"),
    ("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"),
    ("head.modulation", "scale_shift_table"),
    ("head.head.*", "proj_out.*"),
    ("blocks.#.modulation", "blocks.#.scale_shift_table"),
    ("blocks.#.self_attn.q.*", "blocks.#.attn1.to_q.*"),
    ("blocks.#.self_attn.k.*", "blocks.#.attn1.to_k.*"),
    ("blocks.#.self_attn.v.*", "blocks.#.attn1.to_v.*"),
    ("blocks.#.self_attn.o.*", "blocks.#.attn1.to_out.0.*"),
    ("blocks.#.self_attn.norm_q.*", "blocks.#.attn1.norm_q.*"),
    ("blocks.#.self_attn.norm_k.*", "blocks.#.attn1.norm_k.*"),
    ("blocks.#.cross_attn.q.*", "blocks.#.attn2.to_q.*"),
    ("blocks.#.cross_attn.k.*", "blocks.#.attn2.to_k.*"),
    ("blocks.#.cross_attn.v.*", "blocks.#.attn2.to_v.*"),
    ("blocks.#.cross_attn.o.*", "blocks.#.attn2.to_out.0.*"),
    ("blocks.#.cross_attn.norm_q.*", "blocks.#.attn2.norm_q.*"),
    ("blocks.#.cross_attn.norm_k.*", "blocks.#.attn2.norm_k.*"),
    ("blocks.#.cross_attn.k_img.*", "blocks.#.attn2.add_k_proj.*"),
    ("blocks.#.cross_attn.v_img.*", "blocks.#.attn2.add_v_proj.*"),
    ("blocks.#.cross_attn.norm_k_img.*", "blocks.#.attn2.norm_added_k.*"),
    ("blocks.#.norm3.*", "blocks.#.norm2.*"),
    ("blocks.#.ffn.0.*", "blocks.#.ffn.net.0.proj.*"),
    ("blocks.#.ffn.2.*", "blocks.#.ffn.net.2.*"),
    ("vace_patch_embedding.*", "vace_patch_embedding.*"),
    ("vace_blocks.#.before_proj.*", "vace_blocks.#.proj_in.*"),
    ("vace_blocks.#.after_proj.*", "vace_blocks.#.proj_out.*"),
    ("vace_blocks.#.modulation", "vace_blocks.#.scale_shift_table"),
    ("vace_blocks.#.self_attn.q.*", "vace_blocks.#.attn1.to_q.*"),
    ("vace_blocks.#.self_attn.k.*", "vace_blocks.#.attn1.to_k.*"),
    ("vace_blocks.#.self_attn.v.*", "vace_blocks.#.attn1.to_v.*"),
    ("vace_blocks.#.self_attn.o.*", "vace_blocks.#.attn1.to_out.0.*"),
    ("vace_blocks.#.self_attn.norm_q.*", "vace_blocks.#.attn1.norm_q.*"),
    ("vace_blocks.#.self_attn.norm_k.*", "vace_blocks.#.attn1.norm_k.*"),
    ("vace_blocks.#.cross_attn.q.*", "vace_blocks.#.attn2.to_q.*"),
    ("vace_blocks.#.cross_attn.k.*", "vace_blocks.#.attn2.to_k.*"),
    ("vace_blocks.#.cross_attn.v.*", "vace_blocks.#.attn2.to_v.*"),
    ("vace_blocks.#.cross_attn.o.*", "vace_blocks.#.attn2.to_out.0.*"),
    ("vace_blocks.#.cross_attn.norm_q.*", "vace_blocks.#.attn2.norm_q.*"),
    ("vace_blocks.#.cross_attn.norm_k.*", "vace_blocks.#.attn2.norm_k.*"),
    ("vace_blocks.#.norm3.*", "vace_blocks.#.norm2.*"),
    ("vace_blocks.#.ffn.0.*", "vace_blocks.#.ffn.net.0.proj.*"),
    ("vace_blocks.#.ffn.2.*", "vace_blocks.#.ffn.net.2.*"),
];

/// Our own names.
pub(super) const SAME: &[Rule] = &[("*", "*")];

/// UMT5 in transformers' names, with what a whole model, or a file of ComfyUI, has beyond the encoder.
pub(super) const UMT5: &[Rule] =
    &[("decoder.*", ""), ("lm_head.*", ""), ("spiece_model", ""), ("shared.*", "shared.*"), ("encoder.*", "encoder.*")];

/// UMT5 as the authors of Wan save it (`wan/modules/t5.py`).
pub(super) const UMT5_WAN: &[Rule] = &[
    ("token_embedding.*", "shared.*"),
    ("blocks.#.norm1.*", "encoder.block.#.layer.0.layer_norm.*"),
    ("blocks.#.attn.q.*", "encoder.block.#.layer.0.SelfAttention.q.*"),
    ("blocks.#.attn.k.*", "encoder.block.#.layer.0.SelfAttention.k.*"),
    ("blocks.#.attn.v.*", "encoder.block.#.layer.0.SelfAttention.v.*"),
    ("blocks.#.attn.o.*", "encoder.block.#.layer.0.SelfAttention.o.*"),
    ("blocks.#.pos_embedding.embedding.*", "encoder.block.#.layer.0.SelfAttention.relative_attention_bias.*"),
    ("blocks.#.norm2.*", "encoder.block.#.layer.1.layer_norm.*"),
    ("blocks.#.ffn.gate.0.*", "encoder.block.#.layer.1.DenseReluDense.wi_0.*"),
    ("blocks.#.ffn.fc1.*", "encoder.block.#.layer.1.DenseReluDense.wi_1.*"),
    ("blocks.#.ffn.fc2.*", "encoder.block.#.layer.1.DenseReluDense.wo.*"),
    ("norm.*", "encoder.final_layer_norm.*"),
];

/// UMT5 as llama.cpp names T5's encoder in GGUF.
pub(super) const UMT5_GGUF: &[Rule] = &[
    ("token_embd.*", "shared.*"),
    ("token_embd.*", "encoder.embed_tokens.*"),
    ("enc.blk.#.attn_norm.*", "encoder.block.#.layer.0.layer_norm.*"),
    ("enc.blk.#.attn_q.*", "encoder.block.#.layer.0.SelfAttention.q.*"),
    ("enc.blk.#.attn_k.*", "encoder.block.#.layer.0.SelfAttention.k.*"),
    ("enc.blk.#.attn_v.*", "encoder.block.#.layer.0.SelfAttention.v.*"),
    ("enc.blk.#.attn_o.*", "encoder.block.#.layer.0.SelfAttention.o.*"),
    ("enc.blk.#.attn_rel_b.*", "encoder.block.#.layer.0.SelfAttention.relative_attention_bias.*"),
    ("enc.blk.#.ffn_norm.*", "encoder.block.#.layer.1.layer_norm.*"),
    ("enc.blk.#.ffn_gate.*", "encoder.block.#.layer.1.DenseReluDense.wi_0.*"),
    ("enc.blk.#.ffn_up.*", "encoder.block.#.layer.1.DenseReluDense.wi_1.*"),
    ("enc.blk.#.ffn_down.*", "encoder.block.#.layer.1.DenseReluDense.wo.*"),
    ("enc.output_norm.*", "encoder.final_layer_norm.*"),
    ("dec.*", ""),
    ("output.*", ""),
];

/// The VAE of Wan 2.1 as its authors have it (`wan/modules/vae.py`), once the flat list of its decoder's layers has been
/// nested as that of Wan 2.2 (`super::vae::nest`).
pub(super) const VAE_21: &[Rule] = &[
    ("encoder.downsamples.#.residual.0.*", "encoder.down_blocks.#.norm1.*"),
    ("encoder.downsamples.#.residual.2.*", "encoder.down_blocks.#.conv1.*"),
    ("encoder.downsamples.#.residual.3.*", "encoder.down_blocks.#.norm2.*"),
    ("encoder.downsamples.#.residual.6.*", "encoder.down_blocks.#.conv2.*"),
    ("encoder.downsamples.#.shortcut.*", "encoder.down_blocks.#.conv_shortcut.*"),
    ("encoder.downsamples.#.*", "encoder.down_blocks.#.*"),
    ("decoder.upsamples.#.upsamples.$d.resample.*", "decoder.up_blocks.#.upsamplers.0.resample.*"),
    ("decoder.upsamples.#.upsamples.$d.time_conv.*", "decoder.up_blocks.#.upsamplers.0.time_conv.*"),
];

/// The VAE of Wan 2.2 as its authors have it (`wan/modules/vae2_2.py`).
pub(super) const VAE_22: &[Rule] = &[
    ("encoder.downsamples.#.downsamples.#.residual.0.*", "encoder.down_blocks.#.resnets.#.norm1.*"),
    ("encoder.downsamples.#.downsamples.#.residual.2.*", "encoder.down_blocks.#.resnets.#.conv1.*"),
    ("encoder.downsamples.#.downsamples.#.residual.3.*", "encoder.down_blocks.#.resnets.#.norm2.*"),
    ("encoder.downsamples.#.downsamples.#.residual.6.*", "encoder.down_blocks.#.resnets.#.conv2.*"),
    ("encoder.downsamples.#.downsamples.#.shortcut.*", "encoder.down_blocks.#.resnets.#.conv_shortcut.*"),
    ("encoder.downsamples.#.downsamples.$e.resample.*", "encoder.down_blocks.#.downsampler.resample.*"),
    ("encoder.downsamples.#.downsamples.$e.time_conv.*", "encoder.down_blocks.#.downsampler.time_conv.*"),
    ("decoder.upsamples.#.upsamples.$d.resample.*", "decoder.up_blocks.#.upsampler.resample.*"),
    ("decoder.upsamples.#.upsamples.$d.time_conv.*", "decoder.up_blocks.#.upsampler.time_conv.*"),
];

/// What the authors' VAEs of Wan 2.1 and 2.2 have in common.
pub(super) const VAE: &[Rule] = &[
    ("conv1.*", "quant_conv.*"),
    ("conv2.*", "post_quant_conv.*"),
    ("encoder.conv1.*", "encoder.conv_in.*"),
    ("encoder.middle.0.residual.0.*", "encoder.mid_block.resnets.0.norm1.*"),
    ("encoder.middle.0.residual.2.*", "encoder.mid_block.resnets.0.conv1.*"),
    ("encoder.middle.0.residual.3.*", "encoder.mid_block.resnets.0.norm2.*"),
    ("encoder.middle.0.residual.6.*", "encoder.mid_block.resnets.0.conv2.*"),
    ("encoder.middle.1.*", "encoder.mid_block.attentions.0.*"),
    ("encoder.middle.2.residual.0.*", "encoder.mid_block.resnets.1.norm1.*"),
    ("encoder.middle.2.residual.2.*", "encoder.mid_block.resnets.1.conv1.*"),
    ("encoder.middle.2.residual.3.*", "encoder.mid_block.resnets.1.norm2.*"),
    ("encoder.middle.2.residual.6.*", "encoder.mid_block.resnets.1.conv2.*"),
    ("encoder.head.0.*", "encoder.norm_out.*"),
    ("encoder.head.2.*", "encoder.conv_out.*"),
    ("decoder.conv1.*", "decoder.conv_in.*"),
    ("decoder.middle.0.residual.0.*", "decoder.mid_block.resnets.0.norm1.*"),
    ("decoder.middle.0.residual.2.*", "decoder.mid_block.resnets.0.conv1.*"),
    ("decoder.middle.0.residual.3.*", "decoder.mid_block.resnets.0.norm2.*"),
    ("decoder.middle.0.residual.6.*", "decoder.mid_block.resnets.0.conv2.*"),
    ("decoder.middle.1.*", "decoder.mid_block.attentions.0.*"),
    ("decoder.middle.2.residual.0.*", "decoder.mid_block.resnets.1.norm1.*"),
    ("decoder.middle.2.residual.2.*", "decoder.mid_block.resnets.1.conv1.*"),
    ("decoder.middle.2.residual.3.*", "decoder.mid_block.resnets.1.norm2.*"),
    ("decoder.middle.2.residual.6.*", "decoder.mid_block.resnets.1.conv2.*"),
    ("decoder.head.0.*", "decoder.norm_out.*"),
    ("decoder.head.2.*", "decoder.conv_out.*"),
    ("decoder.upsamples.#.upsamples.#.residual.0.*", "decoder.up_blocks.#.resnets.#.norm1.*"),
    ("decoder.upsamples.#.upsamples.#.residual.2.*", "decoder.up_blocks.#.resnets.#.conv1.*"),
    ("decoder.upsamples.#.upsamples.#.residual.3.*", "decoder.up_blocks.#.resnets.#.norm2.*"),
    ("decoder.upsamples.#.upsamples.#.residual.6.*", "decoder.up_blocks.#.resnets.#.conv2.*"),
    ("decoder.upsamples.#.upsamples.#.shortcut.*", "decoder.up_blocks.#.resnets.#.conv_shortcut.*"),
];

/// CLIP's vision half in transformers' names, which have `vision_model` before them or not.
pub(super) const CLIP: &[Rule] = &[("embeddings.position_ids", ""), ("*", "*")];

/// CLIP's vision half as the authors of Wan save it (`wan/modules/clip.py`), below `visual`.
pub(super) const CLIP_WAN: &[Rule] = &[
    ("cls_embedding", "~embeddings.class_embedding"),
    ("pos_embedding", "~embeddings.position_embedding.weight"),
    ("patch_embedding.*", "embeddings.patch_embedding.*"),
    ("pre_norm.*", "pre_layrnorm.*"),
    ("transformer.#.norm1.*", "encoder.layers.#.layer_norm1.*"),
    (
        "transformer.#.attn.to_qkv.*",
        "encoder.layers.#.self_attn.q_proj.*|encoder.layers.#.self_attn.k_proj.*|\
         encoder.layers.#.self_attn.v_proj.*",
    ),
    ("transformer.#.attn.proj.*", "encoder.layers.#.self_attn.out_proj.*"),
    ("transformer.#.norm2.*", "encoder.layers.#.layer_norm2.*"),
    ("transformer.#.mlp.0.*", "encoder.layers.#.mlp.fc1.*"),
    ("transformer.#.mlp.2.*", "encoder.layers.#.mlp.fc2.*"),
    ("post_norm.*", "post_layernorm.*"),
    ("head", ""),
    ("head.*", ""),
];

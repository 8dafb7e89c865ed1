//! Every layout against the names of the golden pipelines.

use super::*;
use crate::weights::Archive;

/// The names of a golden pipeline's network.
fn ours(pipeline: &str, network: Network) -> Vec<String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/pipelines");
    let stem = if matches!(network, Network::TextEncoder | Network::ImageEncoder) {
        "model"
    } else {
        "diffusion_pytorch_model"
    };
    let archive = Archive::open(folder.join(pipeline).join(network.folder()), stem).expect("a golden pipeline");
    archive.names().map(str::to_owned).collect()
}

#[test]
fn every_layout_names_every_tensor_and_is_recognised() {
    let layouts = [
        (Network::Transformer, Layout::Wan),
        (Network::Transformer, Layout::Diffusers),
        (Network::TextEncoder, Layout::Diffusers),
        (Network::TextEncoder, Layout::Wan),
        (Network::TextEncoder, Layout::Gguf),
        (Network::Vae, Layout::Diffusers),
        (Network::Vae, Layout::Wan),
        (Network::ImageEncoder, Layout::Diffusers),
        (Network::ImageEncoder, Layout::Wan),
    ];
    for (network, layout) in layouts {
        // d has the residual VAE, a and b VAEs of two residual blocks and of one.
        // f sees a picture by CLIP, g a first and a last one.
        let pipelines: &[&str] =
            if network == Network::ImageEncoder { &["f", "g"] } else { &["a", "b", "d", "f", "g"] };
        for pipeline in pipelines {
            let ours = ours(pipeline, network);
            let theirs = layout.theirs(network, ours.iter().map(String::as_str)).expect("a layout");
            let tied = |name: &str| name == "encoder.embed_tokens.weight";
            let missing: Vec<_> =
                ours.iter().filter(|name| !theirs.contains_key(name.as_str()) && !tied(name)).collect();
            assert!(missing.is_empty(), "{pipeline} {network} {layout:?}: {missing:?}");
            for prefix in ["", "model.diffusion_model."] {
                // The pieces of one that is fused have one name.
                let named = |(_, theirs): &(&&str, &Theirs)| theirs.part.is_none_or(|(i, _)| i == 0);
                let names: Vec<String> =
                    theirs.iter().filter(named).map(|(_, theirs)| format!("{prefix}{}", theirs.name)).collect();
                let mut unique = names.clone();
                unique.sort();
                unique.dedup();
                assert_eq!(unique.len(), names.len(), "{pipeline} {network} {layout:?}");
                let found = recognise(names.iter().map(String::as_str));
                let [found] = &found[..] else { panic!("{pipeline} {network} {layout:?}: {}", found.len()) };
                assert_eq!((found.network, found.layout), (network, layout));
                assert!(found.prefix.starts_with(prefix));
                assert_eq!(found.tensors.len(), theirs.len());
                for (ours, theirs) in &theirs {
                    let origin = found.tensors.get(*ours).unwrap_or_else(|| panic!("{ours} is not recognised"));
                    assert_eq!((&origin.name, origin.part), (&format!("{prefix}{}", theirs.name), theirs.part));
                }
            }
        }
    }
}

#[test]
fn names_are_those_of_the_authors() {
    for (pipeline, network, ours, theirs) in [
        ("a", Network::Transformer, "blocks.1.norm2.weight", "blocks.1.norm3.weight"),
        ("a", Network::Transformer, "blocks.1.attn2.to_out.0.bias", "blocks.1.cross_attn.o.bias"),
        ("a", Network::Transformer, "scale_shift_table", "head.modulation"),
        ("a", Network::Transformer, "blocks.0.ffn.net.0.proj.weight", "blocks.0.ffn.0.weight"),
        ("a", Network::TextEncoder, "encoder.block.1.layer.1.DenseReluDense.wi_0.weight", "blocks.1.ffn.gate.0.weight"),
        // Two residual blocks in the encoder, three in the decoder, then the resampling: levels of four layers.
        (
            "a",
            Network::Vae,
            "decoder.up_blocks.1.resnets.0.conv_shortcut.weight",
            "decoder.upsamples.4.shortcut.weight",
        ),
        ("a", Network::Vae, "decoder.up_blocks.2.upsamplers.0.resample.1.bias", "decoder.upsamples.11.resample.1.bias"),
        ("a", Network::Vae, "decoder.up_blocks.3.resnets.2.norm2.gamma", "decoder.upsamples.14.residual.3.gamma"),
        ("a", Network::Vae, "encoder.down_blocks.2.resample.1.bias", "encoder.downsamples.2.resample.1.bias"),
        ("b", Network::Vae, "decoder.up_blocks.1.resnets.0.conv1.weight", "decoder.upsamples.3.residual.2.weight"),
        (
            "d",
            Network::Vae,
            "encoder.down_blocks.1.downsampler.time_conv.bias",
            "encoder.downsamples.1.downsamples.1.time_conv.bias",
        ),
        (
            "d",
            Network::Vae,
            "decoder.up_blocks.1.upsampler.resample.1.bias",
            "decoder.upsamples.1.upsamples.2.resample.1.bias",
        ),
        ("d", Network::Vae, "quant_conv.weight", "conv1.weight"),
    ] {
        let names = self::ours(pipeline, network);
        let named = Layout::Wan.theirs(network, names.iter().map(String::as_str)).expect("a layout");
        assert_eq!(named.get(ours).map(|theirs| theirs.name.as_str()), Some(theirs), "{pipeline}: {ours}");
    }
}

#[test]
fn pictures_by_clip_and_control_by_vace_have_names_too() {
    let ours = [
        "condition_embedder.image_embedder.ff.net.0.proj.weight",
        "condition_embedder.image_embedder.pos_embed",
        "blocks.3.attn2.add_k_proj.weight",
        "blocks.3.attn2.norm_added_k.weight",
        "vace_blocks.2.proj_out.bias",
    ];
    let theirs = Layout::Wan.theirs(Network::Transformer, ours).expect("a layout");
    let names: Vec<&str> = ours.iter().map(|name| theirs[name].name.as_str()).collect();
    let expected = [
        "img_emb.proj.1.weight",
        "img_emb.emb_pos",
        "blocks.3.cross_attn.k_img.weight",
        "blocks.3.cross_attn.norm_k_img.weight",
        "vace_blocks.2.after_proj.bias",
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_checkpoint_may_hold_several_networks_and_clip_fuses_what_is_three() {
    let names = [
        "model.diffusion_model.blocks.0.self_attn.q.weight",
        "model.diffusion_model.blocks.0.self_attn.q.scale_weight",
        "text_encoders.umt5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight",
        "text_encoders.umt5xxl.spiece_model",
        "vae.decoder.upsamples.0.residual.0.gamma",
        "visual.cls_embedding",
        "visual.transformer.7.attn.to_qkv.weight",
        "visual.head",
        "textual.token_embedding.weight",
    ];
    let found = recognise(names);
    assert_eq!(found.iter().map(|f| f.network).collect::<std::collections::BTreeSet<_>>().len(), 4);
    let of = |network: Network| found.iter().find(|f| f.network == network).expect("found");
    let transformer = &of(Network::Transformer).tensors;
    let scale = &transformer["blocks.0.attn1.to_q.scale_weight"];
    assert_eq!(scale.name, "model.diffusion_model.blocks.0.self_attn.q.scale_weight");
    let clip = &of(Network::ImageEncoder).tensors;
    assert_eq!(clip.len(), 4, "{clip:?}");
    assert!(clip["embeddings.class_embedding"].squeeze);
    let values = &clip["encoder.layers.7.self_attn.v_proj.weight"];
    assert_eq!((values.name.as_str(), values.part), ("visual.transformer.7.attn.to_qkv.weight", Some((2, 3))));
}

#[test]
fn other_models_are_not_taken_for_ours() {
    let others = ["model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "xblocks.0.self_attn.q.weight", ""];
    assert!(recognise(others).is_empty());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_names_are_sorted_out(
        names in proptest::collection::vec(
            "(decoder.upsamples.|decoder.up_blocks.|encoder.downsamples.|blocks.|visual.|)([0-9]{1,22}.|upsamples.|resnets.|)\
             ([0-9]{1,22}.|)(residual.|resample.|attn.|)[0-9a-z.]{0,6}",
            0..12,
        ),
    ) {
        let markers = DIALECTS.iter().map(|dialect| dialect.marker);
        let names: Vec<&str> = names.iter().map(String::as_str).chain(markers).collect();
        for found in recognise(names.iter().copied()) {
            proptest::prop_assert!(found.tensors.values().all(|origin| names.contains(&origin.name.as_str())));
        }
        for (network, layout) in DIALECTS.iter().map(|dialect| (dialect.network, dialect.layout)) {
            layout.theirs(network, names.iter().copied());
        }
    }
}

//! The handwritten kernels: one file each with descriptor, [`Var`](crate::graph::Var) method and cases; the shader of
//! the same name under `shaders/`, the plain-loop twin under [`twins`].
//!
//! Letters in shapes: B batch, L query tokens, S key tokens, N heads, D head dim, C channels, T/H/W frames, rows and
//! columns, K taps or the summed dimension, R rows of a table that serve the rows of a tensor ([`table::Repeat`]).

pub mod attention;
mod case;
pub mod combine;
pub mod conv3d;
pub mod embed;
pub mod layout;
pub mod matmul;
pub mod norm;
pub mod patch_embed;
pub mod pointwise;
pub mod rope;
pub mod shortcut;
pub mod table;
pub mod to_rgb8;
pub mod twins;
pub mod unpatchify;
mod window;

pub use case::{Case, CaseInput, Fill, Op, Tolerance};

/// Every kernel with its cases: tests, benches, `ops list` and the profile follow from it.
pub const ALL: &[Op] = &[
    matmul::MATMUL,
    pointwise::ADD,
    pointwise::MUL,
    pointwise::ACTIVATE,
    attention::ATTENTION,
    rope::ROPE,
    conv3d::CONV3D,
    shortcut::AVERAGE_DOWN,
    shortcut::DUPLICATE_UP,
    patch_embed::PATCH_EMBED,
    unpatchify::UNPATCHIFY,
    to_rgb8::TO_RGB8,
    combine::LINEAR_COMBINATION,
    embed::EMBEDDING,
    embed::SINUSOID,
    layout::CONCAT,
    layout::PERMUTE,
    norm::LAYER_NORM,
    norm::RMS_NORM,
    norm::L2_NORM,
];

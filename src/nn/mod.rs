//! Layers: a kernel or a few with their weights, named as PyTorch names them.

mod attention;
mod conv;
mod feed_forward;
mod linear;
mod norm;
mod rope;

pub use attention::{Attention, Context, KeyValue};
pub use conv::{CausalConv3d, ResampleConv2d, Stream};
pub use feed_forward::FeedForward;
pub use linear::Linear;
pub use norm::{ChannelNorm, LayerNorm, RmsNorm};
pub use rope::{Rope, rope_tables};

//! Convolutions over video, frame by frame with the frames that came before.

use std::cell::RefCell;

use crate::graph::{Graph, TensorType, Var};
use crate::kernels::conv3d::{ConvOptions, Front};
use crate::tensor::{DType, Weight};
use crate::weights::Scope;

/// A video that arrives in chunks: each causal layer finds here the frames it saw last.
///
/// A layer's frames are an input of the graph, named after the layer, that the graph itself overwrites; they begin as
/// zeros, which is what padding in front of the first frame is.
pub struct Stream<'g> {
    graph: &'g Graph,
    states: RefCell<Vec<(String, TensorType)>>,
}

impl<'g> Stream<'g> {
    /// A stream through a graph.
    pub fn new(graph: &'g Graph) -> Self {
        Self { graph, states: RefCell::default() }
    }

    /// The layers' frames, by the names of the graph's inputs.
    pub fn into_states(self) -> Vec<(String, TensorType)> {
        self.states.into_inner()
    }

    /// The `keep` frames that `layer` saw before `x` \[T, H, W, C\].
    fn before(&self, layer: &str, keep: usize, x: Var<'g>) -> Var<'g> {
        let shape = x.shape();
        let ty = TensorType::f32([keep, shape[1], shape[2], shape[3]]);
        let name = format!("frames.{layer}");
        let frames = self.graph.input(&name, ty.shape, DType::F32);
        self.states.borrow_mut().push((name, ty));
        frames
    }

    /// Once the layer has read them: the frames before the next chunk.
    fn advance(&self, frames: Var<'g>, x: Var<'g>) {
        let (keep, arrived) = (frames.shape()[0], x.shape()[0]);
        let last =
            if arrived >= keep { x.slice(arrived - keep..arrived) } else { frames.slice(arrived..keep).concat(&[x]) };
        self.graph.assign(frames, last);
    }
}

/// A 3-D convolution that sees only frames up to its own; rows and columns are padded to keep their number.
#[derive(Clone, Debug)]
pub struct CausalConv3d {
    weight: Weight,
    bias: Weight,
}

impl CausalConv3d {
    /// Reads `weight` \[O, inputs, kt, kh, kw\] and `bias` \[O\]; O and the kernel are the file's.
    pub fn load(scope: &Scope, inputs: usize) -> Self {
        let [o, _, kt, kh, kw] = scope.dims("weight");
        Self { weight: scope.conv("weight", [o, inputs, kt, kh, kw]), bias: scope.vector("bias", [o]) }
    }

    /// How many channels it gives.
    pub fn outputs(&self) -> usize {
        self.weight.shape()[0]
    }

    /// x \[T, H, W, I\] -> \[T, H, W, O\], plus `residual` if there is one.
    #[track_caller]
    pub fn apply<'g>(&self, x: Var<'g>, residual: Option<Var<'g>>, stream: &Stream<'g>) -> Var<'g> {
        let [kt, kh, kw] = [1, 2, 3].map(|axis| self.weight.shape()[axis]);
        let options = ConvOptions { pad: [[kh / 2; 2], [kw / 2; 2]], residual, ..ConvOptions::default() };
        if kt == 1 {
            return self.convolve(x, options);
        }
        let frames = stream.before(self.weight.name(), kt - 1, x);
        let y = self.convolve(x, ConvOptions { front: Front::Frames(frames), ..options });
        stream.advance(frames, x);
        y
    }

    /// Every other frame: x \[T, H, W, I\] -> \[T/2, H, W, O\], but the first chunk of a video is left as it is
    /// (`downsample3d` of `WanResample`, whose kernel is three frames and one row and column).
    #[track_caller]
    pub fn halve_frames<'g>(&self, x: Var<'g>, first: bool, stream: &Stream<'g>) -> Var<'g> {
        // The window of three begins with the last frame of the chunk before.
        let frames = stream.before(self.weight.name(), 1, x);
        let options = ConvOptions { front: Front::Frames(frames), stride: [2, 1, 1], ..ConvOptions::default() };
        let y = if first { x } else { self.convolve(x, options) };
        stream.advance(frames, x);
        y
    }

    #[track_caller]
    fn convolve<'g>(&self, x: Var<'g>, options: ConvOptions<'g>) -> Var<'g> {
        let graph = x.graph();
        let bias = graph.weight(&self.bias);
        x.conv3d(graph.weight(&self.weight), ConvOptions { bias: Some(bias), ..options })
    }
}

/// A convolution of each frame by itself, which makes frames larger or smaller: `resample` of `WanResample`.
#[derive(Clone, Debug)]
pub struct ResampleConv2d {
    weight: Weight,
    bias: Weight,
}

impl ResampleConv2d {
    /// Reads `weight` \[O, inputs, kh, kw\] and `bias` \[O\]; O and the kernel are the file's.
    pub fn load(scope: &Scope, inputs: usize) -> Self {
        let [o, _, kh, kw] = scope.dims("weight");
        Self { weight: scope.conv("weight", [o, inputs, 1, kh, kw]), bias: scope.vector("bias", [o]) }
    }

    /// How many channels it gives.
    pub fn outputs(&self) -> usize {
        self.weight.shape()[0]
    }

    /// After doubling rows and columns (nearest): x \[T, H, W, I\] -> \[T, 2 H, 2 W, O\].
    #[track_caller]
    pub fn upsample<'g>(&self, x: Var<'g>) -> Var<'g> {
        let [kh, kw] = [2, 3].map(|axis| self.weight.shape()[axis]);
        self.convolve(x, ConvOptions { pad: [[kh / 2; 2], [kw / 2; 2]], upsample: 2, ..ConvOptions::default() })
    }

    /// Every other row and column, with zeros below and to the right: x \[T, H, W, I\] -> \[T, H/2, W/2, O\] for
    /// even H and W.
    #[track_caller]
    pub fn downsample<'g>(&self, x: Var<'g>) -> Var<'g> {
        self.convolve(x, ConvOptions { pad: [[0, 1]; 2], stride: [1, 2, 2], ..ConvOptions::default() })
    }

    #[track_caller]
    fn convolve<'g>(&self, x: Var<'g>, options: ConvOptions<'g>) -> Var<'g> {
        let graph = x.graph();
        let bias = graph.weight(&self.bias);
        x.conv3d(graph.weight(&self.weight), ConvOptions { bias: Some(bias), ..options })
    }
}

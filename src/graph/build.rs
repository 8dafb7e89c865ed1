//! Building graphs: [`Graph`], [`Var`], and what comes out of them, [`Recording`].

use std::cell::RefCell;
use std::ops::Range;
use std::panic::Location;
use std::sync::Arc;

use super::{Kernel, TensorType};
use crate::error::{Error, Result};
use crate::tensor::{DType, HostTensor, Shape, Weight};

/// Index of a node in its graph; operands always have smaller ones than their users.
pub type NodeId = usize;

/// Where a leaf's elements come from.
#[derive(Clone, Debug)]
pub enum Leaf {
    /// Bound by name when the graph is compiled, or written before a run; graphs may assign to it.
    Input(Arc<str>),
    /// A tensor of a model, uploaded once per device.
    Weight(Weight),
    /// A small tensor known when the graph is built.
    Constant(HostTensor),
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum NodeKind {
    /// A tensor from outside.
    Leaf(Leaf),
    /// A kernel's output.
    Op {
        /// The kernel.
        kernel: Arc<dyn Kernel>,
        /// Its inputs.
        inputs: Vec<NodeId>,
    },
    /// Another node's elements from `offset` on, copied: by the device itself, without a kernel.
    Copy {
        /// The node whose elements are copied.
        source: NodeId,
        /// First element.
        offset: usize,
        /// The input leaf that is overwritten, if the copy has no buffer of its own.
        into: Option<NodeId>,
    },
    /// Another node's elements from `offset` on, under another shape.
    View {
        /// The node whose elements these are; never itself a view.
        base: NodeId,
        /// First element.
        offset: usize,
    },
}

/// One tensor of a graph and how it comes about.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Shape and element type.
    pub ty: TensorType,
    /// Dotted path of the layer that made it.
    pub scope: Arc<str>,
}

/// A finished graph: nodes in execution order and the names of its outputs.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// All nodes; operands come before their users.
    pub nodes: Vec<Node>,
    /// Output names with their nodes.
    pub outputs: Vec<(Arc<str>, NodeId)>,
}

impl Recording {
    /// The node whose storage holds this node's elements, and the first element there.
    pub fn storage(&self, id: NodeId) -> (NodeId, usize) {
        match self.nodes[id].kind {
            NodeKind::View { base, offset } => {
                let (base, inner) = self.storage(base);
                (base, inner + offset)
            }
            NodeKind::Copy { into: Some(leaf), .. } => (leaf, 0),
            _ => (id, 0),
        }
    }

    /// Types of a node's inputs (empty for leaves and views).
    pub fn input_types(&self, id: NodeId) -> Vec<TensorType> {
        match &self.nodes[id].kind {
            NodeKind::Op { inputs, .. } => inputs.iter().map(|&i| self.nodes[i].ty).collect(),
            _ => Vec::new(),
        }
    }

    /// The leaves that are inputs, by name.
    pub fn inputs(&self) -> impl Iterator<Item = (&Arc<str>, NodeId)> {
        self.nodes.iter().enumerate().filter_map(|(id, node)| match &node.kind {
            NodeKind::Leaf(Leaf::Input(name)) => Some((name, id)),
            _ => None,
        })
    }
}

#[derive(Default)]
struct Inner {
    recording: Recording,
    scopes: Vec<String>,
    error: Option<Error>,
}

/// A graph under construction.
///
/// Operations never fail where they are written: the first one that does not fit is kept, with its operation, layer and
/// caller, what follows from it is inert, and [`Graph::finish`] returns it.
#[derive(Default)]
pub struct Graph {
    inner: RefCell<Inner>,
}

/// A tensor of a graph: a small handle with methods for every operation (see `kernels`).
#[derive(Clone, Copy)]
pub struct Var<'g> {
    graph: &'g Graph,
    /// `None` once something went wrong upstream.
    id: Option<NodeId>,
    ty: TensorType,
}

/// Leaves its layer's name in the graph's scope until dropped.
pub struct Scope<'g> {
    graph: &'g Graph,
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        self.graph.inner.borrow_mut().scopes.pop();
    }
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the layer that the following operations belong to, until the guard is dropped.
    #[must_use = "the scope ends when the guard is dropped"]
    pub fn scope(&self, name: impl std::fmt::Display) -> Scope<'_> {
        self.inner.borrow_mut().scopes.push(name.to_string());
        Scope { graph: self }
    }

    /// An input, by a name unique in the graph.
    #[track_caller]
    pub fn input(&self, name: &str, shape: impl Into<Shape>, dtype: DType) -> Var<'_> {
        let ty = TensorType::new(shape, dtype);
        if self.inner.borrow().recording.inputs().any(|(other, _)| &**other == name) {
            return self.poison("input", format!("two inputs are named `{name}`"), ty, Location::caller());
        }
        self.push(NodeKind::Leaf(Leaf::Input(name.into())), ty)
    }

    /// A tensor of a model.
    pub fn weight(&self, weight: &Weight) -> Var<'_> {
        let known =
            self.inner.borrow().recording.nodes.iter().position(
                |node| matches!(&node.kind, NodeKind::Leaf(Leaf::Weight(other)) if other.id() == weight.id()),
            );
        let ty = TensorType::new(weight.shape(), weight.dtype());
        match known {
            Some(id) => Var { graph: self, id: Some(id), ty },
            None => self.push(NodeKind::Leaf(Leaf::Weight(weight.clone())), ty),
        }
    }

    /// A small tensor known now.
    pub fn constant(&self, tensor: HostTensor) -> Var<'_> {
        let ty = TensorType::new(tensor.shape(), tensor.dtype());
        self.push(NodeKind::Leaf(Leaf::Constant(tensor)), ty)
    }

    /// Applies a kernel. Its methods on [`Var`] are nicer to read.
    #[track_caller]
    pub fn apply(&self, kernel: impl Kernel + 'static, inputs: &[Var<'_>]) -> Var<'_> {
        self.apply_at(Arc::new(kernel), inputs, Location::caller())
    }

    /// [`Graph::apply`] for a shared kernel and an explicit caller.
    pub fn apply_at(&self, kernel: Arc<dyn Kernel>, inputs: &[Var<'_>], caller: &Location<'_>) -> Var<'_> {
        let types: Vec<TensorType> = inputs.iter().map(|v| v.ty).collect();
        let Some(ids) = inputs.iter().map(|v| v.id).collect::<Option<Vec<_>>>() else {
            // Poisoned upstream: the first error is already kept; the type is a guess nobody will use.
            let ty = kernel.infer(&types).unwrap_or(TensorType::f32([0]));
            return Var { graph: self, id: None, ty };
        };
        let inferred = match types.iter().find(|ty| ty.shape.count() == 0) {
            Some(empty) => Err(format!("{empty} has no elements")),
            None => kernel.infer(&types),
        };
        match inferred {
            Ok(ty) => self.push(NodeKind::Op { kernel, inputs: ids }, ty),
            Err(reason) => {
                let types: Vec<String> = types.iter().map(ToString::to_string).collect();
                let reason = format!("{reason} (arguments: {})", types.join(", "));
                self.poison(kernel.name(), reason, TensorType::f32([0]), caller)
            }
        }
    }

    /// Overwrites an input with `value` once everything recorded so far has read it: state that outlives a run.
    #[track_caller]
    pub fn assign(&self, input: Var<'_>, value: Var<'_>) {
        let (Some(target), Some(source)) = (input.id, value.id) else { return };
        let caller = Location::caller();
        if input.ty != value.ty {
            let reason = format!("{} cannot hold {}", input.ty, value.ty);
            self.poison("assign", reason, input.ty, caller);
            return;
        }
        let is_input = matches!(self.inner.borrow().recording.nodes[target].kind, NodeKind::Leaf(Leaf::Input(_)));
        if !is_input {
            self.poison("assign", "only inputs can be assigned to".into(), input.ty, caller);
            return;
        }
        // What is there already, perhaps under other shapes in between, stays where it is.
        if self.inner.borrow().recording.storage(source).0 != target {
            self.push(NodeKind::Copy { source, offset: 0, into: Some(target) }, input.ty);
        }
    }

    /// Names a result of the graph.
    pub fn output(&self, name: &str, value: Var<'_>) {
        let Some(source) = value.id else { return };
        // A leaf or a view has no buffer of its own that could be handed out.
        let own = matches!(self.inner.borrow().recording.nodes[source].kind, NodeKind::Op { .. });
        let value = if own { value } else { self.push(NodeKind::Copy { source, offset: 0, into: None }, value.ty) };
        if let Some(id) = value.id {
            self.inner.borrow_mut().recording.outputs.push((name.into(), id));
        }
    }

    /// The finished graph, or the first operation that did not fit.
    ///
    /// # Errors
    /// [`Error::Graph`].
    pub fn finish(self) -> Result<Recording> {
        let inner = self.inner.into_inner();
        match inner.error {
            Some(error) => Err(error),
            None => Ok(inner.recording),
        }
    }

    fn push(&self, kind: NodeKind, ty: TensorType) -> Var<'_> {
        let mut inner = self.inner.borrow_mut();
        let scope: Arc<str> = inner.scopes.join(".").into();
        inner.recording.nodes.push(Node { kind, ty, scope });
        Var { graph: self, id: Some(inner.recording.nodes.len() - 1), ty }
    }

    fn poison(&self, op: &str, reason: String, ty: TensorType, caller: &Location<'_>) -> Var<'_> {
        let mut inner = self.inner.borrow_mut();
        let scope = if inner.scopes.is_empty() { "the graph".into() } else { inner.scopes.join(".") };
        if inner.error.is_none() {
            let caller = format!("{}:{}", caller.file(), caller.line());
            inner.error = Some(Error::Graph { op: op.into(), scope, reason, caller });
        }
        Var { graph: self, id: None, ty }
    }
}

impl<'g> Var<'g> {
    /// The graph it belongs to.
    pub fn graph(self) -> &'g Graph {
        self.graph
    }

    /// Its shape.
    pub fn shape(self) -> Shape {
        self.ty.shape
    }

    /// Its element type.
    pub fn dtype(self) -> DType {
        self.ty.dtype
    }

    /// What its stored elements are multiplied by to give its values ([`HostTensor::scale`]): that of the weight or the
    /// constant that it is, or is a part of; 1 for everything computed.
    pub fn scale(self) -> f32 {
        let Some(mut id) = self.id else { return 1.0 };
        let inner = self.graph.inner.borrow();
        loop {
            match &inner.recording.nodes[id].kind {
                NodeKind::Leaf(Leaf::Weight(weight)) => return weight.scale(),
                NodeKind::Leaf(Leaf::Constant(tensor)) => return tensor.scale(),
                NodeKind::Leaf(Leaf::Input(_)) | NodeKind::Op { .. } => return 1.0,
                NodeKind::Copy { source: base, .. } | NodeKind::View { base, .. } => id = *base,
            }
        }
    }

    /// The same elements under another shape; costs nothing.
    #[track_caller]
    pub fn reshape(self, shape: impl Into<Shape>) -> Var<'g> {
        let shape = shape.into();
        let ty = TensorType::new(shape, self.ty.dtype);
        let Some(base) = self.id else { return Var { ty, ..self } };
        if shape.count() != self.ty.shape.count() || self.ty.dtype.bytes_of(shape.last()).is_none() {
            let reason = format!("{} does not have the elements, or not the blocks, of {shape}", self.ty);
            return self.graph.poison("reshape", reason, ty, Location::caller());
        }
        self.graph.push(NodeKind::View { base, offset: 0 }, ty)
    }

    /// Indices `range` of the outermost dimension: a view where devices can bind one there, else a copy.
    #[track_caller]
    pub fn slice(self, range: Range<usize>) -> Var<'g> {
        self.slice_at(range, Location::caller())
    }

    fn slice_at(self, range: Range<usize>, caller: &Location<'_>) -> Var<'g> {
        let shape = self.ty.shape;
        let Some(base) = self.id else { return self };
        if shape.rank() == 0 || range.start >= range.end || range.end > shape[0] {
            let reason = format!("{} has no indices {range:?}", self.ty);
            return self.graph.poison("slice", reason, self.ty, caller);
        }
        if range == (0..shape[0]) {
            return self;
        }
        let inner = shape.count() / shape[0];
        let mut dims = shape.dims().to_vec();
        dims[0] = range.len();
        let ty = TensorType::new(dims.as_slice(), self.ty.dtype);
        let offset = range.start * inner;
        let Some(start) = self.ty.dtype.bytes_of(offset).filter(|_| self.ty.dtype.bytes_of(ty.shape.count()).is_some())
        else {
            let reason = format!("indices {range:?} of {} cut a block", self.ty);
            return self.graph.poison("slice", reason, ty, caller);
        };
        if start.is_multiple_of(VIEW_ALIGNMENT) {
            return self.graph.push(NodeKind::View { base, offset }, ty);
        }
        if !start.is_multiple_of(COPY_ALIGNMENT) {
            let reason = format!("indices {range:?} of {} start in the middle of a 32-bit word", self.ty);
            return self.graph.poison("slice", reason, ty, caller);
        }
        self.graph.push(NodeKind::Copy { source: base, offset, into: None }, ty)
    }

    /// The tensors along the outermost dimension, each without it.
    #[track_caller]
    pub fn unstack<const N: usize>(self) -> [Var<'g>; N] {
        let caller = Location::caller();
        let shape = self.ty.shape;
        if self.id.is_some() && (shape.rank() == 0 || shape[0] != N) {
            let reason = format!("{} is not a stack of {N}", self.ty);
            let poison = self.graph.poison("unstack", reason, self.ty, caller);
            return [poison; N];
        }
        let inner: Vec<usize> = shape.dims().iter().skip(1).copied().collect();
        std::array::from_fn(|i| self.slice_at(i..i + 1, caller).reshape(inner.as_slice()))
    }
}

/// The largest alignment that any device asks of a binding's offset, in bytes (WebGPU's default limit).
const VIEW_ALIGNMENT: usize = 256;
/// Devices copy whole 32-bit words.
const COPY_ALIGNMENT: usize = 4;

impl std::fmt::Debug for Var<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.id {
            Some(id) => write!(f, "%{id}: {}", self.ty),
            None => write!(f, "poisoned: {}", self.ty),
        }
    }
}

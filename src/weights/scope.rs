//! The cursor that a model's constructor reads its weights from.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashSet};
use std::fmt::Display;
use std::path::Path;
use std::rc::Rc;

use super::{Archive, list};
use crate::error::{Error, Result};
use crate::tensor::{DType, HostTensor, Shape, Weight};

/// A place in an [`Archive`]'s dotted names, from which a model's constructor asks for its weights by name and shape.
///
/// Constructors need no `?`: the first thing that is missing or does not fit is kept, every weight asked for from then
/// on is a [placeholder](Weight::placeholder) of the shape that was asked for, and [`Scope::finish`] returns the error.
///
/// ```
/// # use mutoscope::{tensor::HostTensor, weights::{Archive, Scope, save_safetensors}};
/// # let folder = std::env::temp_dir().join(format!("mutoscope-scope-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let path = folder.join("model.safetensors");
/// # let (w, b) = (HostTensor::from_f32([3, 2], &[0.0; 6]), HostTensor::from_f32([3], &[0.0; 3]));
/// # save_safetensors(&path, &[("blocks.0.to_q.weight", w), ("blocks.0.to_q.bias", b)], &[])?;
/// # let archive = Archive::open(&folder, "model")?;
/// let scope = Scope::new(&archive);
/// for block in 0..scope.count("blocks") {
///     let to_q = scope.at("blocks").at(block).at("to_q");
///     let [n, k] = to_q.dims("weight"); // dimensions come from the files
///     let weight = to_q.matrix("weight", [n, k]); // in the type it is stored in
///     let bias = to_q.vector("bias", [n]); // small, so always in f32
/// #   assert_eq!((weight.shape().dims(), bias.shape().dims()), (&[3, 2][..], &[3][..]));
/// }
/// scope.finish()?; // what was missing, did not fit, or is there and was not asked for
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Scope {
    state: Rc<State>,
    path: String,
}

struct State {
    archive: Archive,
    asked: RefCell<HashSet<String>>,
    /// Those of which the products beside them were asked for.
    multiplied: RefCell<HashSet<String>>,
    ignored: RefCell<Vec<String>>,
    error: RefCell<Option<Error>>,
    failed: Cell<bool>,
}

impl Scope {
    /// The outermost scope of an archive.
    pub fn new(archive: &Archive) -> Self {
        let state = State {
            archive: archive.clone(),
            asked: RefCell::default(),
            multiplied: RefCell::default(),
            ignored: RefCell::default(),
            error: RefCell::default(),
            failed: Cell::new(false),
        };
        Self { state: Rc::new(state), path: String::new() }
    }

    /// The scope of a child: a name, several with dots between them, or a number.
    pub fn at(&self, child: impl Display) -> Self {
        Self { state: self.state.clone(), path: self.full(child) }
    }

    /// The dotted path of this scope, empty for the outermost.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A weight of any number of dimensions, in the type it is stored in, quantised ones too: of a linear layer, `[n, k]`
    /// (outputs, inputs), or of a table that stays on the host. What other kernels read is asked for as a vector or as a
    /// convolution.
    pub fn matrix(&self, name: &str, shape: impl Into<Shape>) -> Weight {
        let shape = shape.into();
        self.load(name, shape, |tensor| match tensor.shape() == shape {
            true => Ok(tensor),
            false => Err(mismatch(tensor.shape(), shape)),
        })
    }

    /// A weight stored as `[n, ...]` and used as `[n, k]`, in the type it is stored in: a convolution whose window is
    /// its stride (a patch embedding), or one of a single tap, is a linear layer over `k` = channels x taps inputs in
    /// the order in which they are stored. Quantised ones are [expanded](HostTensor::expand).
    pub fn flattened(&self, name: &str, stored: impl Into<Shape>) -> Weight {
        let stored = stored.into();
        let n = stored.dims().first().copied().unwrap_or(1);
        let k = stored.dims().iter().skip(1).fold(1, |k: usize, &d| k.saturating_mul(d));
        let flat = Shape::from([n, k]);
        self.load(name, flat, |tensor| match tensor.shape() == stored {
            true => tensor.expand().reshape(flat).ok_or_else(|| mismatch(stored, flat)),
            false => Err(mismatch(tensor.shape(), stored)),
        })
    }

    /// A small weight (a bias, a norm's gain, a modulation table), expanded to f32. Dimensions of one may be stored
    /// that are not asked for, and the other way round, as with the `[n, 1, 1, 1]` of a video VAE's norms.
    pub fn vector(&self, name: &str, shape: impl Into<Shape>) -> Weight {
        let shape = shape.into();
        self.load(name, shape, |tensor| {
            let bare = |shape: Shape| shape.dims().iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
            let fits = bare(tensor.shape()) == bare(shape);
            let fitting = fits.then(|| tensor.cast(DType::F32).reshape(shape)).flatten();
            fitting.ok_or_else(|| mismatch(tensor.shape(), shape))
        })
    }

    /// A convolution's weight, asked for as PyTorch stores it, `[o, i, kt, kh, kw]`, and returned channels-last, as the
    /// kernels read it: `[o, kt, kh, kw, i]`, in the type it is stored in; quantised ones are
    /// [expanded](HostTensor::expand), since convolutions are small beside linear layers and only those have kernels for
    /// such weights. Where `kt` is 1 it may be stored as the
    /// `[o, i, kh, kw]` of a 2-D convolution.
    pub fn conv(&self, name: &str, [o, i, kt, kh, kw]: [usize; 5]) -> Weight {
        let (flat, full) = (Shape::from([o, i, kh, kw]), Shape::from([o, i, kt, kh, kw]));
        self.load_as(name, Shape::from([o, kt, kh, kw, i]), |full_name, tensor| {
            let shape = tensor.shape();
            let fits = shape == full || (kt == 1 && shape == flat);
            let weight = fits.then(|| Weight::channels_last(full_name, tensor, full)).flatten();
            weight.ok_or_else(|| mismatch(shape, full))
        })
    }

    /// Products that LoRA files add to a [matrix](Scope::matrix) where it is used: y = x W^T + sum of x down^T up^T, with
    /// factors down \[R, K\] and up \[N, R\], in the types that they are stored in. Whoever asks for a matrix that
    /// such files may change asks for these as well, or [`Scope::finish`] refuses them.
    pub fn low_rank(&self, name: &str) -> Vec<[Weight; 2]> {
        let full = self.full(name);
        let products = self.state.archive.low_rank(&full).into_iter().enumerate().map(|(i, [down, up])| {
            [Weight::new(format!("{full}.lora_A.{i}"), down), Weight::new(format!("{full}.lora_B.{i}"), up)]
        });
        self.state.multiplied.borrow_mut().insert(full.clone());
        products.collect()
    }

    /// Whether there is a tensor of this name, or any below it.
    pub fn has(&self, name: impl Display) -> bool {
        let full = self.full(name);
        self.state.archive.contains(&full) || self.state.archive.names_from(&format!("{full}.")).next().is_some()
    }

    /// The dimensions of a tensor, if it is there.
    pub fn shape_of(&self, name: &str) -> Option<Shape> {
        self.state.archive.shape_of(&self.full(name))
    }

    /// The dimensions of a tensor that must be there, be `N`-dimensional and not be empty; ones when it is not, which
    /// [`Scope::finish`] then reports.
    pub fn dims<const N: usize>(&self, name: &str) -> [usize; N] {
        let Some(shape) = self.shape_of(name) else {
            let full = self.full(name);
            self.fail(self.error(&full, "it is missing"));
            return [1; N];
        };
        match <[usize; N]>::try_from(shape.dims()) {
            Ok(dims) if !dims.contains(&0) => dims,
            _ => {
                self.fail(
                    self.error(&self.full(name), format!("its shape is {shape}, which should have {N} dimensions")),
                );
                [1; N]
            }
        }
    }

    /// The names directly below this scope, in alphabetical order, be they tensors or scopes.
    pub fn children(&self) -> Vec<String> {
        let prefix = self.full("");
        let names = self.state.archive.names_from(&prefix);
        let children: BTreeSet<&str> = names.filter_map(|name| name.get(prefix.len()..)?.split('.').next()).collect();
        children.into_iter().map(str::to_owned).collect()
    }

    /// How many children of a child are numbered, from 0 without a hole: the length of a list of layers. A hole is kept
    /// as an error.
    pub fn count(&self, list: &str) -> usize {
        let list = self.at(list);
        let number = |child: &String| child.parse().ok().filter(|n: &usize| n.to_string() == *child);
        let mut numbers: Vec<usize> = list.children().iter().filter_map(number).collect();
        numbers.sort_unstable();
        for (expected, &number) in numbers.iter().enumerate() {
            if number != expected {
                self.fail(self.error(&list.full(expected), format!("it is missing, though there is {number}")));
                return expected;
            }
        }
        numbers.len()
    }

    /// Lets everything at or below a name be there without being asked for.
    pub fn ignore(&self, name: &str) {
        self.state.ignored.borrow_mut().push(self.full(name));
    }

    /// Keeps an error that the constructor itself has found, unless there is one already.
    pub fn fail(&self, error: Error) {
        if !self.state.failed.replace(true) {
            *self.state.error.borrow_mut() = Some(error);
        }
    }

    /// Whether something has been missing or did not fit, so that weights are placeholders from here on.
    pub fn failed(&self) -> bool {
        self.state.failed.get()
    }

    /// The files, as errors name them.
    pub fn source(&self) -> &Path {
        self.state.archive.path()
    }

    /// Ends the construction of a model.
    ///
    /// # Errors
    /// The first error that was met anywhere in the archive, else [`Error::Tensor`] when there is something in this
    /// scope that nobody asked for and that was not [ignored](Scope::ignore): then the files are of another model than
    /// the one that was built, or have more in them than it knows how to use.
    pub fn finish(self) -> Result<()> {
        if self.failed() {
            let again = || Error::model(self.source(), "it could not be loaded, as reported before");
            return Err(self.state.error.take().unwrap_or_else(again));
        }
        let (asked, ignored) = (self.state.asked.borrow(), self.state.ignored.borrow());
        let below = |name: &str, scope: &String| {
            name.strip_prefix(scope.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let prefix = self.full("");
        let mut extra = (self.state.archive.names_from(&prefix))
            .filter(|&name| !asked.contains(name) && !ignored.iter().any(|scope| below(name, scope)));
        let multiplied = self.state.multiplied.borrow();
        let mut beside =
            asked.iter().filter(|name| self.state.archive.has_low_rank(name) && !multiplied.contains(*name));
        if let Some(name) = beside.next() {
            return Err(self.error(name, "no product can be added to it, as a LoRA asks for"));
        }
        let Some(first) = extra.next() else { return Ok(()) };
        let others: Vec<&str> = extra.collect();
        let reason = match others.len() {
            0 => "the model has no use for it".to_owned(),
            n => format!("the model has no use for it, nor for {n} others: {}", list(others)),
        };
        Err(self.error(first, reason))
    }

    /// Loads a tensor and makes it fit, or keeps why not and returns a placeholder.
    fn load(&self, name: &str, shape: Shape, fit: impl FnOnce(HostTensor) -> Result<HostTensor, String>) -> Weight {
        self.load_as(name, shape, |full, tensor| fit(tensor).map(|tensor| Weight::new(full, tensor)))
    }

    /// A weight that `fit` makes of the full name and the tensor, or a placeholder of this shape.
    fn load_as(
        &self,
        name: &str,
        shape: Shape,
        fit: impl FnOnce(&str, HostTensor) -> Result<Weight, String>,
    ) -> Weight {
        let full = self.full(name);
        if !self.failed() {
            let loaded = self.state.archive.tensor(&full).and_then(|tensor| match tensor.dtype() != DType::U32 {
                true => fit(&full, tensor).map_err(|reason| self.error(&full, reason)),
                false => Err(self.error(&full, format!("its type is {}, which is no weight's", tensor.dtype()))),
            });
            match loaded {
                Ok(weight) => {
                    self.state.asked.borrow_mut().insert(full);
                    return weight;
                }
                Err(error) => self.fail(error),
            }
        }
        Weight::placeholder(full, shape, DType::F32)
    }

    fn error(&self, tensor: &str, reason: impl Into<String>) -> Error {
        self.state.archive.error(tensor, reason)
    }

    fn full(&self, name: impl Display) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }
}

fn mismatch(stored: Shape, wanted: Shape) -> String {
    format!("its shape is {stored}, where the model needs {wanted}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Bytes;

    fn ramp(shape: impl Into<Shape>) -> HostTensor {
        let shape = shape.into();
        HostTensor::from_f32(shape, &(0..shape.count()).map(|v| v as f32).collect::<Vec<_>>())
    }

    fn archive(tensors: &[(&str, HostTensor)]) -> Archive {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        crate::weights::save_safetensors(&path, tensors, &[]).expect("saved");
        let bytes = Bytes::from(std::fs::read(path).expect("read"));
        Archive::from_parts("model", [("model.safetensors", bytes)]).expect("opened")
    }

    fn sample() -> Archive {
        archive(&[
            ("blocks.0.to_q.weight", ramp([3, 2]).cast(DType::BF16)),
            ("blocks.0.to_q.bias", ramp([3]).cast(DType::BF16)),
            ("blocks.1.to_q.weight", ramp([3, 2]).cast(DType::F16)),
            ("blocks.1.norm.gamma", ramp([4, 1, 1, 1])),
            ("conv.weight", ramp([2, 3, 1, 2, 2])),
            ("patch.weight", ramp([2, 3, 2, 2])),
        ])
    }

    #[test]
    fn weights_come_in_the_shape_and_type_that_was_asked_for() {
        let archive = sample();
        let scope = Scope::new(&archive);
        assert_eq!(scope.count("blocks"), 2);
        let to_q = scope.at("blocks").at(0).at("to_q");
        let weight = to_q.matrix("weight", [3, 2]);
        assert_eq!((weight.name(), weight.dtype()), ("blocks.0.to_q.weight", DType::BF16));
        assert_eq!(weight.value().to_f32(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let bias = to_q.vector("bias", [3]);
        assert_eq!((bias.dtype(), bias.value().to_f32()), (DType::F32, vec![0.0, 1.0, 2.0]));
        let one = scope.at("blocks.1");
        assert_eq!(one.at("to_q").matrix("weight", [3, 2]).dtype(), DType::F16);
        assert_eq!(one.vector("norm.gamma", [4]).shape().dims(), [4]);
        assert_eq!(scope.at("conv").conv("weight", [2, 3, 1, 2, 2]).shape().dims(), [2, 1, 2, 2, 3]);
        assert_eq!(scope.at("patch").dims::<4>("weight"), [2, 3, 2, 2]);
        assert_eq!(scope.flattened("patch.weight", [2, 3, 2, 2]).shape().dims(), [2, 12]);
        scope.finish().expect("all was asked for");
    }

    #[test]
    fn convolutions_of_pictures_are_those_of_one_frame() {
        let archive = sample();
        let scope = Scope::new(&archive);
        let conv = scope.conv("patch.weight", [2, 3, 1, 2, 2]);
        assert_eq!(conv.shape().dims(), [2, 1, 2, 2, 3]);
        assert_eq!(conv.value().to_f32()[..6], [0.0, 4.0, 8.0, 1.0, 5.0, 9.0]);
        scope.conv("patch.weight", [2, 3, 2, 2, 1]);
        let error = scope.finish().expect_err("another order").to_string();
        assert!(error.contains("[2, 3, 2, 2]") && error.contains("[2, 3, 2, 2, 1]"), "{error}");
    }

    #[test]
    fn the_first_error_is_kept_and_what_follows_is_poisoned() {
        let archive = sample();
        let scope = Scope::new(&archive);
        assert!(!scope.at("blocks.0.to_q").matrix("weight", [3, 2]).is_placeholder());
        let wrong = scope.at("blocks").at(1).at("to_q").matrix("weight", [2, 3]);
        assert!(wrong.is_placeholder() && scope.failed());
        assert_eq!(wrong.shape().dims(), [2, 3]);
        let missing = scope.conv("gone.weight", [5, 4, 3, 2, 1]);
        assert_eq!(missing.shape().dims(), [5, 3, 2, 1, 4]);
        assert!(scope.at("blocks.0.to_q").vector("bias", [3]).is_placeholder(), "right, but too late");
        let again = scope.clone();
        let error = scope.finish().expect_err("refused").to_string();
        assert_eq!(
            error,
            "model/model.safetensors: tensor `blocks.1.to_q.weight`: its shape is [3, 2], where the model needs [2, 3]"
        );
        again.finish().expect_err("still refused");
    }

    #[test]
    fn missing_tensors_and_dimensions_are_named() {
        let archive = sample();
        for ask in [
            |scope: &Scope| drop(scope.matrix("q.weight", [1])),
            |scope: &Scope| drop(scope.vector("q.weight", [1])),
            |scope: &Scope| assert_eq!(scope.dims("q.weight"), [1, 1]),
        ] {
            let scope = Scope::new(&archive);
            ask(&scope);
            let error = scope.finish().expect_err("refused").to_string();
            assert_eq!(error, "model: tensor `q.weight`: it is missing");
        }
        let scope = Scope::new(&archive);
        assert_eq!(scope.dims("conv.weight"), [1, 1]);
        assert!(scope.finish().expect_err("refused").to_string().contains("2 dimensions"));
    }

    #[test]
    fn what_nobody_asked_for_is_an_error_unless_ignored() {
        let archive = sample();
        let scope = Scope::new(&archive);
        scope.conv("conv.weight", [2, 3, 1, 2, 2]);
        scope.ignore("patch");
        let error = scope.clone().finish().expect_err("more").to_string();
        assert!(error.contains("`blocks.0.to_q.bias`") && error.contains("3 others"), "{error}");
        scope.at("conv").finish().expect("this part is complete");
        scope.ignore("blocks.0");
        scope.at("blocks").ignore("1.norm");
        let error = scope.clone().finish().expect_err("more").to_string();
        assert_eq!(error, "model/model.safetensors: tensor `blocks.1.to_q.weight`: the model has no use for it");
        scope.ignore("blocks.1.to_q.weight");
        scope.finish().expect("all is accounted for");
    }

    #[test]
    fn an_ignored_name_is_no_prefix_of_longer_ones() {
        let archive = archive(&[("head.w", ramp([1])), ("header.w", ramp([1]))]);
        let scope = Scope::new(&archive);
        scope.ignore("head");
        assert!(scope.finish().expect_err("header").to_string().contains("`header.w`"));
    }

    #[test]
    fn children_are_listed_and_holes_in_lists_are_errors() {
        let archive = archive(&[
            ("layers.0.w", ramp([1])),
            ("layers.10.w", ramp([1])),
            ("layers.norm", ramp([1])),
            ("layers2.0.w", ramp([1])),
        ]);
        let scope = Scope::new(&archive);
        assert_eq!(scope.children(), ["layers", "layers2"]);
        assert_eq!(scope.at("layers").children(), ["0", "10", "norm"]);
        assert_eq!((scope.count("layers2"), scope.count("nothing")), (1, 0));
        assert!(scope.has("layers.0") && scope.has("layers.norm") && !scope.has("layer") && !scope.failed());
        assert_eq!(scope.count("layers"), 1);
        let error = scope.finish().expect_err("a hole").to_string();
        assert!(error.contains("`layers.1`"), "{error}");
    }

    #[test]
    fn integers_are_no_weights() {
        let archive = archive(&[("ids", HostTensor::from_u32([2], &[1, 2]))]);
        let scope = Scope::new(&archive);
        assert!(scope.matrix("ids", [2]).is_placeholder());
        assert!(scope.finish().expect_err("integers").to_string().contains("u32"));
    }
}

//! Tensors in host memory: owned, or a window of a mapped file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};

use super::{DType, Shape, quant};
use crate::error::{Error, Result};

/// Shared bytes: a window of anything that can lend a slice (a `Vec<u8>`, a mapped file, the binary itself).
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
    /// What the owner has mapped, if it is a file.
    file: Option<Arc<Mapped>>,
}

/// A file that is mapped from its first byte on.
struct Mapped {
    file: File,
    path: PathBuf,
}

impl Bytes {
    /// All bytes of `owner`.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Self {
        let range = 0..(*owner).as_ref().len();
        Self { owner, range, file: None }
    }

    /// All bytes of a file that `owner` has mapped, from its first on; `path` is what errors call it.
    pub fn mapped(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, file: File, path: &Path) -> Self {
        Self { file: Some(Arc::new(Mapped { file, path: path.to_path_buf() })), ..Self::new(owner) }
    }

    /// Copies the bytes from `at` on.
    ///
    /// A page of a mapped file that has been cut short cannot be read: it ends the process (SIGBUS). So what is read late,
    /// hours after the file was opened, comes through here, by the file and not by its pages.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Model`] when the file no longer has them; [`Error::Internal`] past the end.
    pub fn read(&self, at: usize, into: &mut [u8]) -> Result<()> {
        let end = at.checked_add(into.len()).filter(|&end| end <= self.len());
        let Some(end) = end else { return Err(Error::Internal(format!("{} bytes have no byte {at}", self.len()))) };
        match &self.file {
            None => into.copy_from_slice(&self[at..end]),
            Some(mapped) => match read_exact_at(&mapped.file, into, (self.range.start + at) as u64) {
                Ok(true) => {}
                Ok(false) => into.copy_from_slice(&self[at..end]),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    let reason = "it was cut short while it was in use; copy or download it again";
                    return Err(Error::model(&mapped.path, reason));
                }
                Err(error) => return Err(Error::io(&mapped.path, error)),
            },
        }
        Ok(())
    }

    /// A window of these bytes, relative to their own start; `None` when it reaches past the end.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        let (start, end) = (self.range.start.checked_add(range.start)?, self.range.start.checked_add(range.end)?);
        (start <= end && end <= self.range.end).then(|| Self {
            owner: self.owner.clone(),
            range: start..end,
            file: self.file.clone(),
        })
    }
}

impl Bytes {
    /// Some of these bytes: where they are, or read into `buffer` when they are those of a mapped file, which may have been
    /// cut short (see [`Bytes::read`]).
    ///
    /// # Errors
    /// As [`Bytes::read`].
    pub fn window<'b>(&'b self, range: Range<usize>, buffer: &'b mut Vec<u8>) -> Result<&'b [u8]> {
        if self.file.is_none()
            && let Some(bytes) = self.get(range.clone())
        {
            return Ok(bytes);
        }
        buffer.resize(range.len(), 0);
        self.read(range.start, buffer)?;
        Ok(buffer)
    }
}

/// Reads at a place of a file; `false` where the system cannot.
#[cfg(unix)]
fn read_exact_at(file: &File, into: &mut [u8], at: u64) -> io::Result<bool> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, at).map(|()| true)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut into: &mut [u8], mut at: u64) -> io::Result<bool> {
    while !into.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, into, at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                into = &mut into[count..];
                at += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(not(any(unix, windows)))]
fn read_exact_at(_: &File, _: &mut [u8], _: u64) -> io::Result<bool> {
    Ok(false)
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(Arc::new(bytes))
    }
}

/// A tensor in host memory, row-major; its bytes need not be aligned.
#[derive(Clone)]
pub struct HostTensor {
    shape: Shape,
    dtype: DType,
    bytes: Bytes,
    /// What stored values are multiplied by; 1 for all but fp8.
    scale: f32,
}

impl HostTensor {
    /// A tensor over existing bytes (little-endian); `None` unless they are exactly as many as shape and type need, and
    /// the innermost dimension is made of whole blocks.
    pub fn from_bytes(shape: impl Into<Shape>, dtype: DType, bytes: Bytes) -> Option<Self> {
        let shape = shape.into();
        let fits = whole_blocks(shape, dtype) && dtype.bytes_of(shape.count())? == bytes.len();
        fits.then_some(Self { shape, dtype, bytes, scale: 1.0 })
    }

    /// The same with values of `scale` times the stored ones (scaled fp8); `None` for other types than fp8, unless the
    /// scale is 1, and for scales that are not finite.
    pub fn with_scale(self, scale: f32) -> Option<Self> {
        let fits = scale.is_finite() && (self.dtype.is_fp8() || scale == 1.0);
        fits.then_some(Self { scale, ..self })
    }

    /// A tensor of `f32` values.
    ///
    /// # Panics
    /// When their number is not the shape's.
    #[track_caller]
    pub fn from_f32(shape: impl Into<Shape>, values: &[f32]) -> Self {
        let shape = shape.into();
        assert_eq!(shape.count(), values.len(), "{shape} holds {} values", shape.count());
        Self { shape, dtype: DType::F32, bytes: bytemuck::cast_slice::<f32, u8>(values).to_vec().into(), scale: 1.0 }
    }

    /// A tensor of `u32` values.
    ///
    /// # Panics
    /// When their number is not the shape's.
    #[track_caller]
    pub fn from_u32(shape: impl Into<Shape>, values: &[u32]) -> Self {
        let shape = shape.into();
        assert_eq!(shape.count(), values.len(), "{shape} holds {} values", shape.count());
        Self { shape, dtype: DType::U32, bytes: bytemuck::cast_slice::<u32, u8>(values).to_vec().into(), scale: 1.0 }
    }

    /// Its dimensions.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Its element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// What its stored values are multiplied by: 1 unless [set](Self::with_scale).
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Its elements, as they are stored, as little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Some of its bytes, as [`Bytes::window`] has them.
    ///
    /// # Errors
    /// As [`Bytes::read`].
    pub fn window<'b>(&'b self, range: Range<usize>, buffer: &'b mut Vec<u8>) -> Result<&'b [u8]> {
        self.bytes.window(range, buffer)
    }

    /// The same with its bytes in memory, if they are those of a mapped file.
    ///
    /// # Errors
    /// As [`Bytes::read`].
    pub fn load(&self) -> Result<Self> {
        let mut bytes = vec![0; self.bytes.len()];
        self.bytes.read(0, &mut bytes)?;
        Ok(Self { bytes: bytes.into(), ..self.clone() })
    }

    /// The same bytes under another shape; `None` when the number of elements differs, or its innermost dimension is not
    /// made of whole blocks.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Option<Self> {
        let shape = shape.into();
        let fits = shape.count() == self.shape.count() && whole_blocks(shape, self.dtype);
        fits.then(|| Self { shape, ..self.clone() })
    }

    /// Indices `range` of the outermost dimension, over the same bytes; `None` when there are none such, or they would cut
    /// a block.
    pub fn rows(&self, range: Range<usize>) -> Option<Self> {
        let mut dims = self.shape.dims().to_vec();
        let first = dims.first_mut()?;
        if range.start > range.end || range.end > *first {
            return None;
        }
        let row = self.shape.count() / (*first).max(1);
        *first = range.len();
        let [start, end] = [range.start, range.end].map(|index| self.dtype.bytes_of(index.checked_mul(row)?));
        let rows = Self::from_bytes(dims.as_slice(), self.dtype, self.bytes.slice(start?..end?)?)?;
        Some(Self { scale: self.scale, ..rows })
    }

    /// Elements as `f32` (integers are converted by value), scaled.
    pub fn to_f32(&self) -> Vec<f32> {
        self.map(|v| v * self.scale, |v| v as f32)
    }

    /// Elements as `f64` (integers are converted by value), scaled.
    pub fn to_f64(&self) -> Vec<f64> {
        self.map(|v| f64::from(v) * f64::from(self.scale), f64::from)
    }

    /// Elements as `u32`: the bits of 32-bit types, `None` for others.
    pub fn to_u32(&self) -> Option<Vec<u32>> {
        matches!(self.dtype, DType::F32 | DType::U32)
            .then(|| self.bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// The same values in another [plain floating-point](DType::is_float) type, rounded to nearest even: quantised ones are
    /// expanded. `U32` tensors stay as they are, and everything does where `dtype` is no such type.
    pub fn cast(&self, dtype: DType) -> Self {
        if dtype == self.dtype || !dtype.is_float() || self.dtype == DType::U32 {
            return self.clone();
        }
        let values = self.to_f32();
        let bytes: Vec<u8> = match dtype {
            DType::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
            DType::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        Self { shape: self.shape, dtype, bytes: bytes.into(), scale: 1.0 }
    }

    /// The same values in a type that every kernel with weights reads: quantised tensors are expanded, to f16 where that
    /// holds them exactly (fp8 without a scale), else to f32; others stay as they are.
    pub fn expand(&self) -> Self {
        self.cast(self.expanded_dtype())
    }

    /// The type that [`HostTensor::expand`] gives.
    pub fn expanded_dtype(&self) -> DType {
        match self.dtype {
            dtype if !dtype.is_quantised() => dtype,
            dtype if dtype.is_fp8() && self.scale == 1.0 => DType::F16,
            _ => DType::F32,
        }
    }

    /// The same values as fp8 or GGUF blocks, for files: Q8_0, Q4_0 and fp8 rounded as the `gguf` package and PyTorch do
    /// it (fp8 with a scale of 1, and what is too large becomes the largest number), Q4_K fitted by least squares.
    ///
    /// # Errors
    /// A sentence that says why not: the type is not one of these, this tensor holds integers or a value that is not
    /// finite, or its rows are no whole blocks.
    pub fn quantise(&self, dtype: DType) -> Result<Self, String> {
        if self.dtype == DType::U32 || !dtype.is_quantised() {
            return Err(format!("{} cannot be quantised to {dtype}", self.dtype));
        }
        if !whole_blocks(self.shape, dtype) {
            let (row, block) = (self.shape.last(), dtype.block_elements());
            return Err(format!("rows of {row} elements are no whole blocks of {block}, as {dtype} needs"));
        }
        let values = self.to_f32();
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(format!("element {at} is {} and not a number that can be quantised", values[at]));
        }
        let bytes = quant::quantise(dtype, &values).ok_or_else(|| format!("{dtype} can be read and not written"))?;
        Self::from_bytes(self.shape, dtype, bytes.into())
            .ok_or_else(|| format!("{dtype}{} has another number of bytes", self.shape))
    }

    fn map<T>(&self, float: impl Fn(f32) -> T, integer: impl Fn(u32) -> T) -> Vec<T> {
        let four = |b: &[u8]| [b[0], b[1], b[2], b[3]];
        match self.dtype {
            DType::F32 => self.bytes.chunks_exact(4).map(|b| float(f32::from_le_bytes(four(b)))).collect(),
            DType::F16 => {
                self.bytes.chunks_exact(2).map(|b| float(f16::from_le_bytes([b[0], b[1]]).to_f32())).collect()
            }
            DType::BF16 => {
                self.bytes.chunks_exact(2).map(|b| float(bf16::from_le_bytes([b[0], b[1]]).to_f32())).collect()
            }
            DType::U32 => self.bytes.chunks_exact(4).map(|b| integer(u32::from_le_bytes(four(b)))).collect(),
            quantised => quant::expand(quantised, &self.bytes).into_iter().map(float).collect(),
        }
    }
}

/// Whether every row is made of whole blocks.
fn whole_blocks(shape: Shape, dtype: DType) -> bool {
    shape.last().is_multiple_of(dtype.block_elements())
}

impl std::fmt::Debug for HostTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)?;
        if self.scale == 1.0 { Ok(()) } else { write!(f, " x {}", self.scale) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_file_that_is_cut_short_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        std::fs::write(&path, (0..=255u8).cycle().take(1 << 16).collect::<Vec<_>>()).expect("written");
        let file = File::options().read(true).write(true).open(&path).expect("opened");
        // SAFETY: only this test changes the file, and no page of it is read after that.
        let map = unsafe { memmap2::Mmap::map(&file) }.expect("mapped");
        let whole = Bytes::mapped(Arc::new(map), file, &path);
        let tensor = HostTensor::from_bytes([1 << 14], DType::U32, whole.clone()).expect("whole");
        let part = whole.slice(3..(1 << 16) - 5).expect("inside");
        let mut four = [0; 4];
        part.read(300, &mut four).expect("there");
        assert_eq!(four, [47, 48, 49, 50]);
        assert_eq!(tensor.load().expect("there").bytes(), &*whole);
        assert!(part.read(usize::MAX, &mut four).is_err() && part.read((1 << 16) - 11, &mut four).is_err());
        File::options().write(true).open(&path).and_then(|file| file.set_len(100)).expect("cut");
        let error = part.read(300, &mut four).expect_err("cut").to_string();
        assert!(error.contains("cut short") && error.contains(&path.display().to_string()), "{error}");
        assert!(tensor.load().is_err() && tensor.window(0..400, &mut Vec::new()).is_err());
        assert_eq!(tensor.window(0..2, &mut Vec::new()).expect("still there"), [0, 1]);
    }

    #[test]
    fn casts_round_to_nearest_even_and_keep_shape() {
        let t = HostTensor::from_f32([2, 2], &[1.0, -0.1, 65504.0, 1.0e-8]);
        let half = t.cast(DType::F16);
        assert_eq!(half.shape(), t.shape());
        assert_eq!(half.to_f32(), [1.0, f16::from_f32(-0.1).to_f32(), 65504.0, 0.0]);
        assert_eq!(t.cast(DType::BF16).to_f64()[1], f64::from(bf16::from_f32(-0.1).to_f32()));
    }

    #[test]
    fn windows_of_bytes_stay_inside() {
        let bytes = Bytes::from(vec![0u8; 10]);
        let inner = bytes.slice(2..6).expect("inside");
        assert_eq!(inner.len(), 4);
        assert!(inner.slice(0..5).is_none(), "past the end of the window, though inside the owner");
        assert!(HostTensor::from_bytes([2], DType::F32, inner).is_none());
    }

    #[test]
    fn blocks_are_never_cut() {
        let bytes = Bytes::from(vec![0u8; 6 * 34]);
        assert!(HostTensor::from_bytes([12, 16], DType::Q8_0, bytes.clone()).is_none(), "half a block to a row");
        let tensor = HostTensor::from_bytes([3, 64], DType::Q8_0, bytes).expect("two blocks to a row");
        assert!(tensor.reshape([12, 16]).is_none());
        assert_eq!(tensor.reshape([6, 32]).map(|t| t.to_f32().len()), Some(192));
        assert_eq!(tensor.rows(1..3).map(|t| (t.bytes().len(), t.shape().dims().to_vec())), Some((136, vec![2, 64])));
        let row = tensor.reshape([192]).expect("one row");
        assert!(row.rows(0..16).is_none() && row.rows(32..96).is_some());
    }

    #[test]
    fn scales_are_those_of_fp8_and_stay_with_the_values() {
        let bytes = Bytes::from(vec![0x38, 0x3c, 0xb8, 0x01]);
        let tensor = HostTensor::from_bytes([2, 2], DType::F8E4M3, bytes).expect("four bytes");
        assert_eq!(tensor.expand().dtype(), DType::F16);
        assert!(tensor.clone().with_scale(f32::NAN).is_none());
        let scaled = tensor.with_scale(3.0).expect("a scale");
        assert_eq!(scaled.to_f32(), [3.0, 4.5, -3.0, 3.0 / 512.0]);
        let row = scaled.rows(1..2).and_then(|row| row.reshape([2])).expect("a row");
        assert_eq!((row.scale(), row.to_f64()), (3.0, vec![-3.0, 3.0 / 512.0]));
        assert_eq!((row.expand().scale(), row.expand().dtype()), (1.0, DType::F32));
        assert!(HostTensor::from_f32([1], &[1.0]).with_scale(2.0).is_none());
    }
}

//! Files that lie: each kind of damage by hand, then many at random, none of which may panic or allocate more than a
//! file of that size justifies.

mod gguf;
mod safetensors;
mod torch;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::Location;

use super::TensorFile;
use crate::error::{Error, Result};
use crate::tensor::Bytes;

/// The system's allocator, remembering the largest single request of each thread.
struct Watched;

thread_local!(static LARGEST: Cell<usize> = const { Cell::new(0) });

// SAFETY: every call is passed on to the system's allocator as it came; the bookkeeping touches a `Cell` that needs
// neither allocation nor a destructor.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.set(LARGEST.get().max(layout.size()));
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.set(LARGEST.get().max(size));
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

fn read(bytes: &[u8]) -> Result<TensorFile> {
    TensorFile::from_bytes("x.safetensors", bytes.to_vec().into())
}

/// Reads a file and everything in it, however broken, holding the reader to its promises.
fn survive(bytes: &[u8]) -> Option<TensorFile> {
    let copy = Bytes::from(bytes.to_vec());
    LARGEST.set(0);
    let outcome = TensorFile::from_bytes("x.safetensors", copy);
    let largest = LARGEST.get();
    assert!(largest <= 4096 + 64 * bytes.len(), "{largest} bytes allocated for a file of {}", bytes.len());
    match outcome {
        Ok(file) => {
            for name in file.names() {
                LARGEST.set(0);
                let raw = file.raw(name).expect("a listed tensor");
                match file.tensor(name) {
                    Ok(tensor) => assert_eq!(tensor.bytes(), &raw.bytes[..]),
                    Err(error) => assert!(matches!(error, Error::Tensor { .. }), "{error}"),
                }
                let largest = LARGEST.get();
                assert!(largest <= 4096 + bytes.len(), "{largest} bytes allocated for a tensor of {}", bytes.len());
            }
            Some(file)
        }
        Err(error) => {
            assert!(matches!(error, Error::Model { .. } | Error::Tensor { .. }), "{error}");
            let message = error.to_string();
            assert!(message.starts_with("x.safetensors: ") && message.len() < 1200, "{message}");
            assert!(!message.contains(char::is_control), "{message:?}");
            None
        }
    }
}

#[track_caller]
fn refused(bytes: &[u8], says: &[&str]) {
    assert!(survive(bytes).is_none(), "read at {}", Location::caller());
    let message = read(bytes).expect_err("refused").to_string();
    for part in says {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn the_watch_on_allocations_sees_them() {
    LARGEST.set(0);
    drop(std::hint::black_box(vec![0u8; 1 << 20]));
    assert!(LARGEST.get() >= 1 << 20);
}

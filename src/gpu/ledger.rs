//! What a device was asked to hold and to do, for plans and for comparing runs with them.

use std::collections::BTreeMap;

use super::Gpu;
use super::device::lock;
use crate::graph::Cost;

/// What a device was asked for since the last [`Gpu::open_ledger`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    /// The most bytes that were held at once, those included that were held before.
    pub peak: u64,
    /// Bytes of weights that passed through the device without staying.
    pub streamed: u64,
    /// The most bytes of weights that waited on the host at once to be moved.
    pub staged: u64,
    /// Least work and traffic by kernel, and how often it was used.
    pub kernels: BTreeMap<&'static str, Tally>,
}

/// The uses of one kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// How many.
    pub uses: u64,
    /// Their least work and traffic together.
    pub cost: Cost,
}

impl Ledger {
    /// Floating-point operations of all kernels.
    pub fn flops(&self) -> f64 {
        self.kernels.values().map(|tally| tally.cost.flops).sum()
    }

    /// Adds one use of a kernel.
    pub(super) fn enter(&mut self, kernel: &'static str, cost: Cost) {
        let tally = self.kernels.entry(kernel).or_default();
        tally.uses += 1;
        tally.cost.flops += cost.flops;
        tally.cost.bytes += cost.bytes;
    }

    /// Adds what one run of a program did.
    pub(super) fn add(&mut self, run: &Self) {
        self.streamed += run.streamed;
        self.staged = self.staged.max(run.staged);
        for (kernel, other) in &run.kernels {
            let tally = self.kernels.entry(kernel).or_default();
            tally.uses += other.uses;
            tally.cost.flops += other.cost.flops;
            tally.cost.bytes += other.cost.bytes;
        }
    }
}

impl Gpu {
    /// Begins a new ledger, with the peak at what is held now.
    pub fn open_ledger(&self) {
        self.shared.meter.restart();
        *lock(&self.shared.ledger) = Ledger::default();
    }

    /// The ledger so far. All users of the device write the same one.
    pub fn ledger(&self) -> Ledger {
        Ledger { peak: self.shared.meter.peak(), ..lock(&self.shared.ledger).clone() }
    }

    /// Bytes of all buffers that it holds for us.
    pub fn held_bytes(&self) -> u64 {
        self.shared.meter.live()
    }
}

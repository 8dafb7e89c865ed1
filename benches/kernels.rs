//! Benches of every kernel on its cases.

fn main() {}

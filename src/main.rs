//! The `mutoscope` command.

fn main() {}

//! Twins of `embedding` and `sinusoid`.

use crate::graph::Twin;

/// y\[l\] = table\[ids\[l\]\], zeros where an id is not below V.
pub fn embedding(ids: &Twin, table: &Twin) -> Vec<f64> {
    let c = table.shape.last();
    let row = |&id: &f64| match table.values.get(id as usize * c..(id as usize + 1) * c) {
        Some(row) => row.to_vec(),
        None => vec![0.0; c],
    };
    ids.values.iter().flat_map(row).collect()
}

/// y\[r\] = \[cos(t\[r\] w), sin(t\[r\] w)\], the product rounded to f32 as PyTorch rounds it.
pub fn sinusoid(t: &Twin, frequencies: &Twin) -> Vec<f64> {
    let row = |&t: &f64| {
        let angles = frequencies.values.iter().map(move |&w| f64::from(t as f32 * w as f32));
        angles.clone().map(f64::cos).chain(angles.map(f64::sin))
    };
    t.values.iter().flat_map(row).collect()
}

//! Shaders as data, and how their text is made: WGSL templates with constants.
//!
//! Templates are WGSL with three additions, rendered by minijinja in strict mode: `${expression}`, statements on lines
//! that begin with `//#` (`//# if BIAS`, `//# for i in range(ROWS)`, `//# include "lib/grid.wgsl"`,
//! `//# from "lib/storage.wgsl" import storage4, load4`), and `next()`, which counts 0, 1, 2...: binding numbers.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior};

/// The template of a kernel, compiled into the binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// Path under `shaders/`, without the extension.
    pub path: &'static str,
    /// The template's text.
    pub text: &'static str,
}

/// A constant of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// A switch.
    Bool(bool),
    /// A size.
    Int(u32),
    /// A name (an element type, an activation).
    Name(&'static str),
}

impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Self::Bool(v)
    }
}
impl From<u32> for Value {
    fn from(v: u32) -> Self {
        Self::Int(v)
    }
}
impl From<&'static str> for Value {
    fn from(v: &'static str) -> Self {
        Self::Name(v)
    }
}

/// Abilities of the device that a shader's text uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Needs {
    /// `enable f16;`
    pub f16: bool,
    /// Subgroup operations.
    pub subgroups: bool,
    /// Cooperative matrices.
    pub coop: bool,
}

/// A shader of a dispatch: template, constants, needs and the label that profiles show.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shader {
    /// The template.
    pub source: Source,
    /// The kernel's name, with a suffix for what differs in this variant (`matmul_coop`).
    pub label: &'static str,
    /// Constants by name, upper case. One list for all dispatches of a launch, of which a long video's have a million.
    pub constants: Arc<[(&'static str, Value)]>,
    /// Abilities it uses.
    pub needs: Needs,
}

/// Pieces that templates include or import, by path under `shaders/`.
const LIBRARY: &[(&str, &str)] = &[
    ("attention/operands.wgsl", include_str!("../../shaders/attention/operands.wgsl")),
    ("conv/operands.wgsl", include_str!("../../shaders/conv/operands.wgsl")),
    ("lib/activation.wgsl", include_str!("../../shaders/lib/activation.wgsl")),
    ("lib/grid.wgsl", include_str!("../../shaders/lib/grid.wgsl")),
    ("lib/quant.wgsl", include_str!("../../shaders/lib/quant.wgsl")),
    ("lib/rows.wgsl", include_str!("../../shaders/lib/rows.wgsl")),
    ("lib/storage.wgsl", include_str!("../../shaders/lib/storage.wgsl")),
    ("matmul/operands.wgsl", include_str!("../../shaders/matmul/operands.wgsl")),
    ("norm/operands.wgsl", include_str!("../../shaders/norm/operands.wgsl")),
];

fn environment() -> Result<&'static Environment<'static>, String> {
    static ENVIRONMENT: OnceLock<Result<Environment<'static>, String>> = OnceLock::new();
    ENVIRONMENT
        .get_or_init(|| {
            let syntax = SyntaxConfig::builder()
                .block_delimiters("/*%", "%*/")
                .variable_delimiters("${", "}")
                .comment_delimiters("/*#", "#*/")
                .line_statement_prefix("//#")
                .build()
                .map_err(|e| e.to_string())?;
            let mut environment = Environment::new();
            environment.set_syntax(syntax);
            environment.set_undefined_behavior(UndefinedBehavior::Strict);
            environment.set_trim_blocks(true);
            environment.set_lstrip_blocks(true);
            environment.set_keep_trailing_newline(true);
            for (path, text) in LIBRARY {
                environment.add_template(path, text).map_err(|e| format!("{e:#}"))?;
            }
            Ok(environment)
        })
        .as_ref()
        .map_err(Clone::clone)
}

/// The WGSL text of a shader.
///
/// # Errors
/// When the template is broken or lacks a constant.
pub fn render(shader: &Shader) -> Result<String, String> {
    let mut environment = environment()?.clone();
    let counter = AtomicU32::new(0);
    environment.add_function("next", move || counter.fetch_add(1, Ordering::Relaxed));
    let context: std::collections::BTreeMap<&str, minijinja::Value> = shader
        .constants
        .iter()
        .map(|&(name, value)| {
            (
                name,
                match value {
                    Value::Bool(v) => v.into(),
                    Value::Int(v) => v.into(),
                    Value::Name(v) => v.into(),
                },
            )
        })
        .collect();
    let body = environment
        .render_named_str(shader.source.path, shader.source.text, context)
        .map_err(|e| format!("template {}: {e:#}", shader.source.path))?;
    let mut text = String::new();
    if shader.needs.f16 {
        text.push_str("enable f16;\n");
    }
    if shader.needs.coop {
        text.push_str("enable wgpu_cooperative_matrix;\n");
    }
    text.push_str(&body);
    Ok(text)
}

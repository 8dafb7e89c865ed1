//! PyTorch's files, sound and lying.

use proptest::prelude::*;

use super::{refused, survive};
use crate::weights::Container;

/// A zip archive that compresses nothing, as PyTorch's writer makes it.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let (offset, size, length) = (out.len() as u32, data.len() as u32, name.len() as u16);
        let sizes = [&[0; 4][..], &size.to_le_bytes(), &size.to_le_bytes(), &length.to_le_bytes()].concat();
        out.extend([&b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0"[..], &sizes, &[0, 0], name.as_bytes(), data].concat());
        let fixed = [&b"PK\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0"[..], &sizes, &[0; 12], &offset.to_le_bytes()].concat();
        directory.extend([&fixed[..], name.as_bytes()].concat());
    }
    let (start, count) = (out.len() as u32, entries.len() as u16);
    out.extend(&directory);
    let size = (directory.len() as u32).to_le_bytes();
    let count = count.to_le_bytes();
    out.extend([&b"PK\x05\x06\0\0\0\0"[..], &count, &count, &size, &start.to_le_bytes(), &[0, 0]].concat());
    out
}

/// Writes pickles by hand.
#[derive(Clone, Default)]
struct Draft(Vec<u8>);

impl Draft {
    fn new() -> Self {
        Self(b"\x80\x02".to_vec())
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    fn int(self, value: i32) -> Self {
        self.raw(b"J").raw(&value.to_le_bytes())
    }

    fn ints(self, values: &[i32]) -> Self {
        values.iter().fold(self.raw(b"("), |draft, &value| draft.int(value)).raw(b"t")
    }

    fn global(self, module: &str, name: &str) -> Self {
        self.raw(format!("c{module}\n{name}\n").as_bytes())
    }

    /// `torch._utils._rebuild_tensor_v2(storage, offset, dims, strides, False, OrderedDict())`
    fn tensor(self, kind: &str, key: &str, count: i32, offset: i32, dims: &[i32], strides: &[i32]) -> Self {
        self.view(kind, key, count, b"", (offset, dims, strides))
    }

    /// The same of a storage that more is said of.
    fn view(self, kind: &str, key: &str, count: i32, more: &[u8], shape: (i32, &[i32], &[i32])) -> Self {
        let (offset, dims, strides) = shape;
        let storage =
            self.global("torch._utils", "_rebuild_tensor_v2").raw(b"((").text("storage").global("torch", kind);
        let view = storage.text(key).text("cpu").int(count).raw(more).raw(b"tQ").int(offset).ints(dims).ints(strides);
        view.raw(b"\x89").global("collections", "OrderedDict").raw(b")RtR")
    }

    fn end(self) -> Vec<u8> {
        self.raw(b".").0
    }
}

fn archive(pickle: Draft) -> Vec<u8> {
    let data: Vec<u8> = (0..24).collect();
    zip(&[("m/data.pkl", &pickle.end()), ("m/byteorder", b"little"), ("m/data/0", &data), ("m/version", b"3\n")])
}

fn one(kind: &str, count: i32, offset: i32, dims: &[i32], strides: &[i32]) -> Vec<u8> {
    archive(Draft::new().raw(b"}").text("a").tensor(kind, "0", count, offset, dims, strides).raw(b"s"))
}

/// Two tensors in a dictionary inside another, beside what is of no interest.
fn good() -> Vec<u8> {
    let inner = Draft::new().raw(b"}(").text("epoch").int(7).text("state_dict").global("collections", "OrderedDict");
    let inner = inner.raw(b")Rq\x01(").text("b.weight").tensor("HalfStorage", "0", 12, 0, &[3, 4], &[4, 1]);
    let inner = inner.text("a").tensor("HalfStorage", "0", 12, 1, &[2, 2], &[1, 4]).raw(b"u");
    // Its attributes, as `nn.Module.state_dict` has them.
    archive(inner.raw(b"}").text("_metadata").raw(b"}sb").text("lr").raw(b"G\0\0\0\0\0\0\0\0u"))
}

#[test]
fn a_good_file_is_read() {
    let file = survive(&good()).expect("good");
    assert_eq!(file.container(), Container::Torch);
    assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b.weight"]);
    let (whole, turned) = (file.raw("b.weight").expect("there"), file.raw("a").expect("there"));
    assert_eq!((&*whole.dtype, &whole.dims[..]), ("F16", &[3, 4][..]));
    assert_eq!(whole.bytes[..], (0..24).collect::<Vec<u8>>());
    assert_eq!((&turned.dims[..], &turned.bytes[..]), (&[2, 2][..], &[2, 3, 10, 11, 4, 5, 12, 13][..]));
}

#[test]
fn dictionaries_are_unwrapped_and_joined() {
    let tensor = |draft: Draft, name: &str| draft.text(name).tensor("ByteStorage", "0", 24, 3, &[2], &[1]);
    let names = |draft: Draft| survive(&archive(draft)).expect("sound").names().map(str::to_owned).collect::<Vec<_>>();
    let two = Draft::new().raw(b"}(").text("generator").raw(b"}");
    let two = tensor(two, "w").raw(b"s").text("generator_ema").raw(b"}");
    assert_eq!(names(tensor(two, "w").raw(b"su")), ["generator.w", "generator_ema.w"]);
    let wrapped = Draft::new().raw(b"}").text("anything").raw(b"}").text("model").raw(b"}");
    assert_eq!(names(tensor(wrapped, "w").raw(b"sss")), ["w"]);
    let both = tensor(Draft::new().raw(b"}("), "w").text("more").raw(b"}");
    assert_eq!(names(tensor(both, "v").raw(b"su")), ["more.v", "w"]);
    let preferred = Draft::new().raw(b"}(").text("optimizer").raw(b"}");
    let preferred = tensor(preferred, "w").raw(b"s").text("model").raw(b"}");
    assert_eq!(names(tensor(preferred, "v").raw(b"su")), ["v"]);
}

#[test]
fn code_is_refused_by_name() {
    let call = |module, name| archive(Draft::new().global(module, name).raw(b"(").text("echo").raw(b"tR"));
    refused(&call("os", "system"), &["`os.system`", "has been executed"]);
    refused(&call("builtins", "eval"), &["`builtins.eval`"]);
    refused(&call("torch._utils", "_rebuild_tensor"), &["`torch._utils._rebuild_tensor`"]);
    let stacked = Draft::new().text("os").text("system").raw(b"\x93");
    refused(&archive(stacked), &["`os.system`"]);
    refused(&archive(Draft::new().raw(b"(ios\nsystem\n")), &["opcode 0x69"]);
    refused(&archive(Draft::new().raw(b"(cos\n")), &[]);
    refused(&archive(Draft::new().raw(b"}\x81")), &["opcode 0x81"]);
    refused(&archive(Draft::new().raw(b"]}b")), &["no dictionary"]);
    refused(&archive(Draft::new().raw(b"}}R")), &["no function"]);
    refused(&archive(Draft::new().global("torch", "FloatStorage").raw(b")R")), &["is not known"]);
}

#[test]
fn stacks_that_lie_are_refused() {
    for pickle in [
        &b"."[..],
        b"t.",
        b"s.",
        b"}s.",
        b"(s.",
        b"0.",
        b"h\x01.",
        b"q\x01.",
        b"}u.",
        b"}(Nu.",
        b"]a.",
        b"Q.",
        b"R.",
        b"\x85.",
    ] {
        refused(&archive(Draft::new().raw(pickle)), &["pickle"]);
    }
    refused(&archive(Draft::new().raw(b"N")), &["no dictionary of tensors"]);
    refused(&archive(Draft::new().raw(b"\x80\x09N")), &["protocol 9"]);
    // Dictionaries that hold themselves, and ones nested without end.
    survive(&archive(Draft::new().raw(b"}q\x01").text("a").raw(b"h\x01s"))).expect("empty, but sound");
    let deep = (0..5000).fold(Draft::new(), |draft, _| draft.raw(b"}").text("a"));
    survive(&archive(deep.raw(b"N").raw(&[b's'; 5000]))).expect("empty, but sound");
}

#[test]
fn tensors_that_lie_are_refused() {
    survive(&one("FloatStorage", 6, 0, &[2, 3], &[3, 1])).expect("sound");
    survive(&one("FloatStorage", 6, 5, &[], &[])).expect("a scalar");
    survive(&one("FloatStorage", 6, 6, &[0], &[1])).expect("nothing");
    refused(&one("FloatStorage", 7, 0, &[2], &[1]), &["tensor `a`", "7 F32", "24 bytes"]);
    refused(&one("FloatStorage", 6, 0, &[7], &[1]), &["tensor `a`", "more elements than its storage"]);
    refused(&one("FloatStorage", 6, 0, &[1000, 1000], &[0, 0]), &["tensor `a`", "more elements"]);
    refused(&one("FloatStorage", 6, 1, &[6], &[1]), &["tensor `a`", "reaches past"]);
    refused(&one("FloatStorage", 6, 0, &[2], &[6]), &["tensor `a`", "reaches past"]);
    refused(&one("FloatStorage", 6, 0, &[2, 2], &[1]), &["tensor `a`"]);
    refused(&one("FloatStorage", 6, 0, &[-2], &[1]), &["a size of -2"]);
    refused(&one("FloatStorage", 6, 0, &[i32::MAX; 5], &[i32::MAX; 5]), &["more than can exist"]);
    refused(&one("FloatStorage", 6, 0, &[2, 1, 2], &[i32::MAX, i32::MAX, i32::MAX]), &["reaches past"]);
    let gone = Draft::new().raw(b"}").text("a").tensor("FloatStorage", "1", 6, 0, &[2], &[1]).raw(b"s");
    refused(&archive(gone), &["tensor `a`", "`data/1` is missing"]);
}

#[test]
fn archives_that_lie_are_refused() {
    let whole = good();
    for length in 0..whole.len() {
        refused(&whole[..length], &[]);
    }
    refused(&zip(&[("a.txt", b"hello")]), &["one `data.pkl`"]);
    refused(&zip(&[("a/data.pkl", b"N."), ("b/data.pkl", b"N.")]), &["one `data.pkl`"]);
    refused(&zip(&[("a/data.pkl", b"N."), ("a/data.pkl", b"N.")]), &["twice"]);
    refused(&zip(&[("a/data.pkl", b"N."), ("a/byteorder", b"big")]), &["big-endian"]);
    let with = |find: &[u8], add: usize, byte: u8| {
        let mut bytes = zip(&[("m/data.pkl", b"}.")]);
        let at = bytes.windows(4).rposition(|window| window == find).expect("there");
        bytes[at + add] = byte;
        bytes
    };
    refused(&with(b"PK\x01\x02", 10, 8), &["`m/data.pkl`", "compressed"]);
    refused(&with(b"PK\x01\x02", 8, 1), &["encrypted"]);
    refused(&with(b"PK\x01\x02", 42, 9), &["does not lie where"]);
    refused(&with(b"PK\x05\x06", 10, 200), &["cannot list 200 entries"]);
    refused(&with(b"PK\x05\x06", 19, 200), &["outside"]);
    refused(b"<!DOCTYPE html><html>", &["web page"]);
}

/// A file from before version 1.6, of six numbers.
fn legacy(version: i32, little: &[u8], more: &[u8], keys: &[&str], counts: &[u64]) -> Vec<u8> {
    let system = Draft::new().raw(b"}(").text("protocol_version").int(version).text("little_endian").raw(little);
    let tensor = Draft::new().raw(b"}").text("a").view("FloatStorage", "7", 6, more, (0, &[2, 3], &[3, 1]));
    let keys = keys.iter().fold(Draft::new().raw(b"]("), |draft, key| draft.text(key)).raw(b"e");
    let pickles = [Draft::new().int(version), system.raw(b"u"), tensor.raw(b"s"), keys].map(Draft::end);
    let storages = counts.iter().flat_map(|count| [&count.to_le_bytes()[..], &[1; 24]].concat());
    [&b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."[..], &pickles.concat()].concat().into_iter().chain(storages).collect()
}

/// What torch wrote in that format.
fn legacy_golden() -> Vec<u8> {
    let goldens = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens");
    std::fs::read(goldens.join("files/legacy.pth")).expect("a golden")
}

#[test]
fn files_from_before_zip_archives_are_read() {
    let one = survive(&legacy(1001, b"\x88", b"N", &["7"], &[6])).expect("sound");
    assert_eq!(one.container(), Container::Torch);
    assert_eq!(one.raw("a").expect("there").bytes[..], [1; 24]);
    survive(&legacy(1001, b"\x88", b"", &["7"], &[6])).expect("it need not say that it is no part of another");
    let golden = survive(&legacy_golden()).expect("sound");
    assert_eq!(golden.names().count(), 13);
    // With the frames of later protocols.
    let framed = [&b"\x80\x04\x95\x0d\0\0\0\0\0\0\0"[..], &legacy_golden()[2..]].concat();
    survive(&framed).expect("sound");
}

#[test]
fn files_from_before_zip_archives_that_lie_are_refused() {
    let six = |version, little, more| legacy(version, little, more, &["7"], &[6]);
    refused(&six(1002, b"\x88", b"N"), &["version"]);
    refused(&six(1001, b"\x89", b"N"), &["big-endian"]);
    refused(&six(1001, b"N", b"N"), &["order"]);
    refused(&six(1001, b"\x88", b"(K\x00K\x01t"), &["part of another"]);
    refused(&six(1001, b"\x88", b"NN"), &["5 things, not 7"]);
    let listed = |keys: &[&str], counts: &[u64]| legacy(1001, b"\x88", b"N", keys, counts);
    refused(&listed(&[], &[]), &["tensor `a`", "`data/7` is missing"]);
    refused(&listed(&["8"], &[6]), &["storage `8`"]);
    refused(&listed(&["7", "7"], &[6, 6]), &["`7` is listed twice"]);
    refused(&listed(&["7"], &[5]), &["4 bytes stand behind"]);
    refused(&listed(&["7"], &[7]), &["truncated"]);
    for count in [1 << 40, 1 << 62, u64::MAX] {
        refused(&listed(&["7"], &[count]), &[]);
    }
    // Another count than the dictionary has.
    let mut short = listed(&["7"], &[5]);
    short.truncate(short.len() - 4);
    refused(&short, &["tensor `a`", "6 F32 and has 20 bytes"]);
    let whole = legacy_golden();
    for length in 0..whole.len() {
        refused(&whole[..length], &[]);
    }
}

#[test]
fn pickles_of_other_things_are_told_from_tensors() {
    for pickle in [
        &b"\x80\x04\x95R\0\0\0\0\0\0\0}\x94(\x8c\x01a"[..],
        b"\x80\x02}q\0(X\x01\0\0\0a",
        b"\x80\x05}\x94\x8c\x01aK\x01s.",
    ] {
        refused(pickle, &["this is a pickle", "executed"]);
    }
    // The size of a header that begins as pickles do.
    let mut header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#.to_vec();
    header.resize(0x280, b' ');
    let file = [&0x280u64.to_le_bytes()[..], &header, &[0; 4]].concat();
    assert_eq!(survive(&file).expect("sound").container(), Container::Safetensors);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_damage_is_survived(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = good();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        survive(&bytes);
    }

    #[test]
    fn random_damage_before_zip_archives_is_survived(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = legacy_golden();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        survive(&bytes);
    }

    #[test]
    fn random_pickles_are_survived(
        opcodes in prop::collection::vec(prop::sample::select(&b"}])(tsuaebNRQ\x85\x86\x87\x88q\x01h\x01K\x05\x94."[..]), 0..80),
    ) {
        survive(&archive(Draft::new().raw(&opcodes)));
    }
}

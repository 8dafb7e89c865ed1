"""Files of tensors as other programs write them: torch.save and the gguf package, with what they read back."""

import collections
import io
import pickle

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type

from .configs import SEED
from .store import Store

QUANTS = (Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.BF16)
# The package expands these and cannot make them, so their blocks are random bytes with small scales.
K_QUANTS = {Type.Q2_K: (80, 82), Type.Q3_K: (108,), Type.Q4_K: (0, 2), Type.Q5_K: (0, 2), Type.Q6_K: (208,)}


def torch_file(path, generator) -> dict[str, torch.Tensor]:
    randn = lambda *shape: torch.randn(shape, generator=generator)
    whole = randn(6, 8)
    tensors = collections.OrderedDict(
        {
            "f32": randn(3, 5),
            "f16": randn(2, 2, 2).half(),
            "bf16": randn(7).bfloat16(),
            "transposed": whole.t(),
            "column": whole[:, 3],
            "rows": whole[2:5],
            "permuted": randn(2, 3, 4, 5).permute(3, 1, 0, 2),
            "scalar": torch.tensor(1.5),
            "none": torch.zeros(0, 4),
            "parameter": torch.nn.Parameter(randn(4)),
        }
    )
    others = {"ids": torch.arange(5), "flags": torch.tensor([True, False]), "f64": randn(3).double()}
    module = {"state_dict": collections.OrderedDict(tensors | others), "epoch": 3, "lr": 1e-4, "name": "naïve", "betas": (0.9, None)}
    torch.save(module, path)
    return tensors


def legacy_file(path, of) -> None:
    """What a file holds, in PyTorch's format from before version 1.6. Its storages' names are addresses, and these their
    order, which would differ each time: here they are numbers."""
    buffer, storages = io.BytesIO(), {}
    torch.save(torch.load(of), buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    buffer.seek(0)

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, name):
            _, kind, key, _, count, _ = name
            storage = torch.UntypedStorage(count * torch._utils._element_size(kind.dtype))
            storages.setdefault(key, storage.nbytes())
            return torch.storage.TypedStorage(wrap_storage=storage, dtype=kind.dtype, _internal=True)

    for _ in range(3):
        pickle.load(buffer)
    Unpickler(buffer).load()
    pickles = data[: buffer.tell()]
    places = {}
    for key in pickle.load(buffer):
        start = buffer.tell()
        buffer.seek(8 + storages[key], io.SEEK_CUR)
        places[key] = data[start : buffer.tell()]
    text = lambda key: b"X" + len(key).to_bytes(4, "little") + key.encode()
    for i, key in enumerate(storages):
        pickles = pickles.replace(text(key), text(str(i)))
    names = pickle.dumps([str(i) for i in range(len(storages))], protocol=2)
    path.write_bytes(pickles + names + b"".join(places[key] for key in storages))
    before, after = (torch.load(file)["state_dict"] for file in (of, path))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def gguf_file(path, generator) -> dict[str, torch.Tensor]:
    writer = gguf.GGUFWriter(path, "wan")
    writer.add_file_type(2)
    writer.add_array("tokenizer.ggml.tokens", ["<pad>", "▁a", "b"])
    writer.add_array("tokenizer.ggml.scores", [0.0, -1.5, -2.25])
    writer.add_array("comfy.gguf.orig_shape.patch", [4, 2, 1, 3, 2])
    values = {}
    randn = lambda *shape: torch.randn(shape, generator=generator).numpy()
    for name, array in (("f32", randn(3, 5)), ("f16", randn(4, 6).astype(np.float16)), ("patch", randn(4, 12))):
        writer.add_tensor(name, array)
        values[name] = torch.tensor(array.astype(np.float32))
    values["patch"] = values["patch"].reshape(4, 2, 1, 3, 2)
    for kind in QUANTS:
        data = gguf.quants.quantize(randn(3, 64), kind)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        values[kind.name] = torch.tensor(gguf.quants.dequantize(data, kind))
    for kind, scales in K_QUANTS.items():
        size = gguf.GGML_QUANT_SIZES[kind][1]
        data = torch.randint(256, (2, 2 * size), generator=generator, dtype=torch.uint8).numpy()
        for block in data.reshape(-1, size):
            for at in scales:
                block[at : at + 2] = np.frombuffer(np.float16(abs(randn(1)[0]) / 64 + 1e-3).tobytes(), np.uint8)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        values[kind.name] = torch.tensor(gguf.quants.dequantize(data, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


def make(store: Store) -> None:
    generator = torch.Generator("cpu").manual_seed(SEED)
    folder = store.root / "files"
    folder.mkdir(exist_ok=True)
    values = {f"torch.{name}": tensor.float() for name, tensor in torch_file(folder / "torch.pth", generator).items()}
    legacy_file(folder / "legacy.pth", folder / "torch.pth")
    values |= {f"gguf.{name}": tensor for name, tensor in gguf_file(folder / "types.gguf", generator).items()}
    store.save("files", {"about": "What is in files/, read back by torch and the gguf package, as f32."}, values)
